use std::{net::SocketAddr, path::Path, process::Command, time::Duration};

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::{Hidden, read, temporary_folder, write};
use crate::{Error, Result, locate::locate, pki::TestCa, ports, process::Child};

/// Serves the program: it comes as a WSGI application without a server for other ports than 80.
const RUNNER: &str = include_str!("acme2certifier.py");

/// acme2certifier's own name for "yes, this is a test": needed to skip the validation of challenges.
const ACKNOWLEDGE: &str = "ACME2CERTIFIER_I_KNOW_THE_RISK";

/// acme2certifier, an ACME certificate authority written in Python, with an intermediate made for this instance.
///
/// It is the second, independent authority next to [`Pebble`](super::Pebble), and the one that offers profiles and
/// renewal information (RFC 9773).
///
/// Revoking a certificate does not change the renewal window it suggests for it: the window depends on the lifetime
/// and on [`RenewalWindow`] only. An order with `replaces` is accepted, but the answer does not repeat the field, which
/// RFC 9773 demands. An order stays pending when one of its authorizations has become invalid.
#[derive(Debug)]
pub struct Acme2Certifier {
    process: Child,
    addr: SocketAddr,
    settings: Acme2CertifierBuilder,
    api_root: String,
    root: String,
    folder: TempDir,
}

/// Options of an [`Acme2Certifier`]. `Debug` does not show MAC keys.
#[derive(Debug, Clone)]
pub struct Acme2CertifierBuilder {
    profiles: Vec<(String, String)>,
    external_accounts: Vec<(String, Hidden)>,
    validity_days: u32,
    renewal: RenewalWindow,
    dns_server: Option<SocketAddr>,
    http_01_port: Option<u16>,
}

/// What the authority answers when it is asked when to renew.
#[derive(Debug, Clone, PartialEq)]
pub struct RenewalWindow {
    start_percent: f64,
    length: Option<Duration>,
    retry_after: Duration,
    forced: bool,
    disabled: bool,
}

impl Default for RenewalWindow {
    fn default() -> Self {
        RenewalWindow {
            start_percent: 85.0,
            length: None,
            retry_after: Duration::from_secs(600),
            forced: false,
            disabled: false,
        }
    }
}

impl RenewalWindow {
    /// The window begins when this much of the lifetime has passed. Below 0 it begins before the certificate was
    /// issued. Default 85.
    #[must_use]
    pub fn start_percent(mut self, percent: f64) -> Self {
        self.start_percent = percent;
        self
    }

    /// The window ends this long after its start, in whole seconds, but not after the certificate expires. Default: it
    /// ends when the certificate expires.
    #[must_use]
    pub fn length(mut self, length: Duration) -> Self {
        self.length = Some(length);
        self
    }

    /// How long a client is told to wait before it asks again, in whole seconds. Default 10 minutes.
    #[must_use]
    pub fn retry_after(mut self, interval: Duration) -> Self {
        self.retry_after = interval;
        self
    }

    /// The window began 364 days ago and ends tomorrow, for every certificate.
    #[must_use]
    pub fn forced(mut self) -> Self {
        self.forced = true;
        self
    }

    /// There is no renewal information: the directory does not offer it, and asking gives 404.
    #[must_use]
    pub fn disabled(mut self) -> Self {
        self.disabled = true;
        self
    }
}

impl Default for Acme2CertifierBuilder {
    fn default() -> Self {
        Acme2CertifierBuilder {
            profiles: Vec::new(),
            external_accounts: Vec::new(),
            validity_days: 90,
            renewal: RenewalWindow::default(),
            dns_server: None,
            http_01_port: None,
        }
    }
}

impl Acme2CertifierBuilder {
    /// Offers a profile, with a text that describes it. Orders for other profiles are refused once there are two or
    /// more; a single profile silently replaces whatever an order asks for.
    #[must_use]
    pub fn profile(mut self, name: &str, description: &str) -> Self {
        self.profiles.push((name.to_owned(), description.to_owned()));
        self
    }

    /// Requires an external account binding, and accepts this key id with this MAC key (unpadded base64url).
    #[must_use]
    pub fn external_account(mut self, key_id: &str, mac_key: &str) -> Self {
        self.external_accounts.push((key_id.to_owned(), Hidden(mac_key.to_owned())));
        self
    }

    /// How long certificates are valid. Default 90 days.
    #[must_use]
    pub fn validity_days(mut self, days: u32) -> Self {
        self.validity_days = days;
        self
    }

    /// The renewal information from the start on; see [`Acme2Certifier::set_renewal_window`].
    #[must_use]
    pub fn renewal_window(mut self, window: RenewalWindow) -> Self {
        self.renewal = window;
        self
    }

    /// Really validates challenges, resolving names at this server. Without it every challenge is taken as fulfilled.
    #[must_use]
    pub fn dns_server(mut self, addr: SocketAddr) -> Self {
        self.dns_server = Some(addr);
        self
    }

    /// Validates HTTP-01 at this port instead of 80. Of use with [`dns_server`](Self::dns_server) only.
    #[must_use]
    pub fn http_01_port(mut self, port: u16) -> Self {
        self.http_01_port = Some(port);
        self
    }

    /// Makes the authority's keys and starts it.
    ///
    /// # Errors
    ///
    /// As [`locate`]; [`Error::Start`] with the log when it does not come up.
    pub async fn start(self) -> Result<Acme2Certifier> {
        let python = locate("acme2certifier").await?;
        let folder = temporary_folder("acme2certifier")?;
        let path = folder.path();
        let addr = ports::free_addr()?;

        let api_ca = TestCa::new("acme2certifier API root")?;
        let certificate = api_ca.issue(&["localhost", "127.0.0.1"])?;
        write(&path.join("api.pem"), certificate.full_chain())?;
        write(&path.join("api.key"), &certificate.key_pem)?;
        let root = TestCa::new("acme2certifier root")?;
        let intermediate = root.intermediate("acme2certifier intermediate")?;
        write(&path.join("ca.pem"), intermediate.certificate_pem())?;
        write(&path.join("ca.key"), intermediate.key_pem())?;
        std::fs::create_dir(path.join("issued")).map_err(Error::file("creating", path))?;
        let keys: Map<String, Value> =
            self.external_accounts.iter().map(|(id, key)| (id.clone(), json!(key.0))).collect();
        write(&path.join("eab.json"), json!(keys).to_string())?;
        write(&path.join("acme_srv.cfg"), self.configuration(path))?;
        write(&path.join("runner.py"), RUNNER)?;

        let or_none = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        let mut command = Command::new(python);
        command
            .arg(path.join("runner.py"))
            .arg(addr.port().to_string())
            .args([path.join("api.pem"), path.join("api.key")])
            .arg(or_none(self.dns_server.map(|addr| addr.to_string())))
            .arg(or_none(self.http_01_port.map(|port| port.to_string())))
            .env("ACME2CERTIFIER_BASE_DIR", path)
            .env("ACME_SRV_CONFIGFILE", path.join("acme_srv.cfg"))
            .env(ACKNOWLEDGE, "1")
            .current_dir(path);
        let mut process = Child::spawn("acme2certifier", command, path)?;
        process.wait_for_port(addr).await?;
        Ok(Acme2Certifier {
            process,
            addr,
            settings: self,
            api_root: api_ca.certificate_pem().to_owned(),
            root: root.certificate_pem().to_owned(),
            folder,
        })
    }

    fn configuration(&self, folder: &Path) -> String {
        let folder = folder.display();
        let mut text = "[DEFAULT]\ndebug: False\n".to_owned();
        if let Some(server) = self.dns_server {
            text += &format!("dns_server_list: [\"{}\"]\n", server.ip());
        }
        let skip = if self.dns_server.is_none() { "True" } else { "False" };
        text += &format!(
            "[CAhandler]
handler_module: acme2certifier.cahandlers.openssl_ca_handler
issuing_ca_key: {folder}/ca.key
issuing_ca_cert: {folder}/ca.pem
issuing_ca_crl: {folder}/crl.pem
cert_save_path: {folder}/issued
cert_validity_days: {days}
[DBhandler]
handler_module: acme2certifier.dbhandlers.wsgi_handler
dbfile: {folder}/acme.db
[Account]
contact_check_disable: True
[Challenge]
challenge_validation_disable: {skip}
",
            days = self.validity_days,
        );
        if !self.external_accounts.is_empty() {
            text += "[EABhandler]\neab_handler_module: acme2certifier.eabhandlers.json_handler\n";
            text += &format!("key_file: {folder}/eab.json\n");
        }
        if !self.profiles.is_empty() {
            let profiles: Map<String, Value> =
                self.profiles.iter().map(|(name, about)| (name.clone(), json!(about))).collect();
            text += &format!("[Order]\nprofiles: {}\n", json!(profiles));
        }
        text + &self.renewal.configuration()
    }
}

impl RenewalWindow {
    fn configuration(&self) -> String {
        let boolean = |value: bool| if value { "True" } else { "False" };
        let length = self.length.map(|length| length.as_secs().to_string()).unwrap_or_default();
        format!(
            "[Renewalinfo]
renewalinfo_disable: {disabled}
renewal_force: {forced}
renewalthreshold_pctg: {percent}
renewal_window_duration: {length}
retry_after_timeout: {retry_after}
",
            disabled = boolean(self.disabled),
            forced = boolean(self.forced),
            percent = self.start_percent,
            retry_after = self.retry_after.as_secs(),
        )
    }
}

impl Acme2Certifier {
    /// Starts one with the default options: no profiles, challenges taken as fulfilled.
    ///
    /// # Errors
    ///
    /// As [`Acme2CertifierBuilder::start`].
    pub async fn start() -> Result<Acme2Certifier> {
        Acme2CertifierBuilder::default().start().await
    }

    /// Options first, then [`Acme2CertifierBuilder::start`].
    pub fn builder() -> Acme2CertifierBuilder {
        Acme2CertifierBuilder::default()
    }

    /// The URL of the ACME directory.
    pub fn directory_url(&self) -> String {
        format!("https://{}/directory", self.addr)
    }

    /// Where the ACME API listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The certificate to trust for the API itself, PEM. It says nothing about the certificates that are issued.
    pub fn api_root_pem(&self) -> &str {
        &self.api_root
    }

    /// The root above the issued certificates, PEM.
    pub fn root_pem(&self) -> &str {
        &self.root
    }

    /// Changes the renewal information for every certificate, already issued ones included, from the next request on.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the configuration cannot be written.
    pub fn set_renewal_window(&mut self, window: RenewalWindow) -> Result<()> {
        self.settings.renewal = window;
        let text = self.settings.configuration(self.folder());
        // Replaced as a whole: a request may come at any moment.
        let fresh = self.folder().join("acme_srv.cfg.new");
        write(&fresh, text)?;
        let path = self.folder().join("acme_srv.cfg");
        std::fs::rename(fresh, &path).map_err(Error::file("replacing", &path))
    }

    /// How many orders it has accepted so far.
    pub fn order_count(&self) -> usize {
        self.process.log().lines().filter(|line| *line == "request POST /acme/neworders 201").count()
    }

    /// The revocation list, PEM; `None` before the first revocation.
    pub fn crl_pem(&self) -> Option<String> {
        read(&self.folder().join("crl.pem")).ok()
    }

    /// The directory with its configuration, database and issued certificates.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What it logged, one line for every request among it.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Ends it.
    ///
    /// # Errors
    ///
    /// As [`Child::stop`].
    pub async fn stop(self) -> Result<()> {
        self.process.stop().await.map(drop)
    }
}
