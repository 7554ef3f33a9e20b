use std::{fmt, net::SocketAddr, path::Path, process::Command, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::Client;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Hidden, temporary_folder, write};
use crate::{Error, Result, locate::locate, pki::TestCa, ports, process::Child, tls};

/// Pebble writes this once for every order it accepts.
const ORDER_LINE: &str = "Added order ";

/// Pebble, the small ACME certificate authority of Let's Encrypt, with its companion `pebble-challtestsrv`.
///
/// The companion answers DNS for every name (with 127.0.0.1 unless told otherwise) and holds the TXT records and
/// HTTP-01 answers that tests give it. This version of Pebble knows neither renewal information (RFC 9773) nor
/// profiles; [`Acme2Certifier`](super::Acme2Certifier) does.
#[derive(Debug)]
pub struct Pebble {
    pebble: Child,
    challtestsrv: Child,
    api: SocketAddr,
    management: SocketAddr,
    http_01: SocketAddr,
    tls_alpn_01: SocketAddr,
    dns: SocketAddr,
    challenges: SocketAddr,
    api_root: String,
    client: Client,
    folder: TempDir,
}

/// Options of a [`Pebble`]. `Debug` does not show MAC keys.
#[derive(Debug, Clone)]
pub struct PebbleBuilder {
    nonce_reject_percent: u8,
    authz_reuse_percent: u8,
    external_accounts: Vec<(String, Hidden)>,
    validity: Duration,
    always_valid: bool,
    validation_delay: Option<Duration>,
    chain_length: Option<u8>,
    dns_server: Option<SocketAddr>,
    http_01_port: Option<u16>,
    serve_http_01: bool,
}

impl Default for PebbleBuilder {
    fn default() -> Self {
        PebbleBuilder {
            nonce_reject_percent: 5,
            authz_reuse_percent: 50,
            external_accounts: Vec::new(),
            validity: Duration::from_secs(90 * 24 * 3600),
            always_valid: false,
            validation_delay: None,
            chain_length: None,
            dns_server: None,
            http_01_port: None,
            serve_http_01: false,
        }
    }
}

impl PebbleBuilder {
    /// How many good nonces of a hundred are refused with `badNonce`. Default 5.
    #[must_use]
    pub fn nonce_reject_percent(mut self, percent: u8) -> Self {
        self.nonce_reject_percent = percent;
        self
    }

    /// How many authorizations of a hundred are reused when there is a valid one for the name. Default 50.
    #[must_use]
    pub fn authz_reuse_percent(mut self, percent: u8) -> Self {
        self.authz_reuse_percent = percent;
        self
    }

    /// Requires an external account binding, and accepts this key id with this MAC key (unpadded base64url).
    #[must_use]
    pub fn external_account(mut self, key_id: &str, mac_key: &str) -> Self {
        self.external_accounts.push((key_id.to_owned(), Hidden(mac_key.to_owned())));
        self
    }

    /// How long certificates are valid, in whole seconds. Default 90 days.
    #[must_use]
    pub fn validity(mut self, validity: Duration) -> Self {
        self.validity = validity;
        self
    }

    /// Takes every challenge as fulfilled without looking.
    #[must_use]
    pub fn always_valid(mut self) -> Self {
        self.always_valid = true;
        self
    }

    /// Waits a random time of up to this, in whole seconds, before it validates. Default: no wait.
    #[must_use]
    pub fn validation_delay(mut self, limit: Duration) -> Self {
        self.validation_delay = Some(limit);
        self
    }

    /// How many intermediates there are between the root and a leaf. Default 1.
    #[must_use]
    pub fn chain_length(mut self, intermediates: u8) -> Self {
        self.chain_length = Some(intermediates);
        self
    }

    /// Resolves names at this server, for instance [`Bind`](super::Bind), instead of the companion.
    #[must_use]
    pub fn dns_server(mut self, addr: SocketAddr) -> Self {
        self.dns_server = Some(addr);
        self
    }

    /// Validates HTTP-01 at this port. Default: a free port, which a responder under test can bind; see
    /// [`Pebble::http_01_addr`].
    #[must_use]
    pub fn http_01_port(mut self, port: u16) -> Self {
        self.http_01_port = Some(port);
        self
    }

    /// Lets the companion answer HTTP-01 validations with what [`Pebble::add_http_01`] gave it.
    #[must_use]
    pub fn serve_http_01(mut self) -> Self {
        self.serve_http_01 = true;
        self
    }

    /// Starts both programs.
    ///
    /// # Errors
    ///
    /// As [`locate`]; [`Error::Start`] with the log when one does not come up.
    pub async fn start(self) -> Result<Pebble> {
        let program = locate("pebble").await?;
        let companion = locate("pebble-challtestsrv").await?;
        let folder = temporary_folder("pebble")?;
        let path = folder.path();
        let (api, management) = (ports::free_addr()?, ports::free_addr()?);
        let (dns, challenges, tls_alpn_01) = (ports::free_addr()?, ports::free_addr()?, ports::free_addr()?);
        let http_01 = match self.http_01_port {
            Some(port) => SocketAddr::from(([127, 0, 0, 1], port)),
            None => ports::free_addr()?,
        };

        let ca = TestCa::new("pebble API root")?;
        let certificate = ca.issue(&["localhost", "127.0.0.1"])?;
        write(&path.join("api.pem"), certificate.full_chain())?;
        write(&path.join("api.key"), &certificate.key_pem)?;
        let config = self.configuration(path, api, management, http_01.port(), tls_alpn_01.port());
        write(&path.join("pebble.json"), config.to_string())?;

        let mut command = Command::new(companion);
        command
            .args(["-dns01", &dns.to_string(), "-management", &challenges.to_string()])
            .args(["-http01", &if self.serve_http_01 { http_01.to_string() } else { String::new() }])
            .args(["-https01", "", "-tlsalpn01", "", "-defaultIPv4", "127.0.0.1", "-defaultIPv6", ""]);
        let mut challtestsrv = Child::spawn("pebble-challtestsrv", command, path)?;
        challtestsrv.wait_for_port(challenges).await?;
        challtestsrv.wait_for_port(dns).await?;

        let mut command = Command::new(program);
        let resolver = self.dns_server.unwrap_or(dns);
        command.arg("-config").arg(path.join("pebble.json")).args(["-dnsserver", &resolver.to_string()]);
        command.envs(self.environment());
        let mut pebble = Child::spawn("pebble", command, path)?;
        pebble.wait_for_port(management).await?;
        pebble.wait_for_port(api).await?;

        let client = tls::http_client(ca.certificate_pem())?;
        let api_root = ca.certificate_pem().to_owned();
        Ok(Pebble {
            pebble,
            challtestsrv,
            api,
            management,
            http_01,
            tls_alpn_01,
            dns,
            challenges,
            api_root,
            client,
            folder,
        })
    }

    fn configuration(
        &self,
        folder: &Path,
        api: SocketAddr,
        management: SocketAddr,
        http_port: u16,
        tls_port: u16,
    ) -> Value {
        let keys: serde_json::Map<String, Value> =
            self.external_accounts.iter().map(|(id, key)| (id.clone(), json!(key.0))).collect();
        json!({ "pebble": {
            "listenAddress": api.to_string(),
            "managementListenAddress": management.to_string(),
            "certificate": folder.join("api.pem"),
            "privateKey": folder.join("api.key"),
            "httpPort": http_port,
            "tlsPort": tls_port,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": !keys.is_empty(),
            "externalAccountMACKeys": keys,
            "certificateValidityPeriod": self.validity.as_secs(),
        }})
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        let mut variables = vec![
            ("PEBBLE_WFE_NONCEREJECT", self.nonce_reject_percent.to_string()),
            ("PEBBLE_AUTHZREUSE", self.authz_reuse_percent.to_string()),
        ];
        match self.validation_delay {
            Some(limit) => variables.push(("PEBBLE_VA_SLEEPTIME", limit.as_secs().to_string())),
            None => variables.push(("PEBBLE_VA_NOSLEEP", "1".to_owned())),
        }
        if self.always_valid {
            variables.push(("PEBBLE_VA_ALWAYS_VALID", "1".to_owned()));
        }
        if let Some(length) = self.chain_length {
            variables.push(("PEBBLE_CHAIN_LENGTH", length.to_string()));
        }
        variables
    }
}

impl Pebble {
    /// Starts one with the default options.
    ///
    /// # Errors
    ///
    /// As [`PebbleBuilder::start`].
    pub async fn start() -> Result<Pebble> {
        PebbleBuilder::default().start().await
    }

    /// Options first, then [`PebbleBuilder::start`].
    pub fn builder() -> PebbleBuilder {
        PebbleBuilder::default()
    }

    /// The URL of the ACME directory.
    pub fn directory_url(&self) -> String {
        format!("https://{}/dir", self.api)
    }

    /// Where the ACME API listens.
    pub fn addr(&self) -> SocketAddr {
        self.api
    }

    /// The certificate to trust for the API itself, PEM. It says nothing about the certificates that are issued.
    pub fn api_root_pem(&self) -> &str {
        &self.api_root
    }

    /// The root above the issued certificates, PEM. New with every start.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] when it cannot be fetched.
    pub async fn root_pem(&self) -> Result<String> {
        self.management("roots/0").await
    }

    /// What Pebble holds about an issued certificate, by the hexadecimal serial number: `{"Status": "Valid", …}` or
    /// `{"Status": "Revoked", "RevokedAt": …}`.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] when there is no such certificate.
    pub async fn certificate_status(&self, serial: &str) -> Result<Value> {
        let text = self.management(&format!("cert-status-by-serial/{serial}")).await?;
        serde_json::from_str(&text).map_err(|error| Error::protocol("pebble", error))
    }

    /// How many orders it has accepted so far.
    pub fn order_count(&self) -> usize {
        self.pebble.log().matches(ORDER_LINE).count()
    }

    /// Where HTTP-01 challenges are looked for, whatever the name resolves to. Free for a responder under test unless
    /// the companion serves it.
    pub fn http_01_addr(&self) -> SocketAddr {
        self.http_01
    }

    /// Where TLS-ALPN-01 challenges are looked for. Free for a responder under test.
    pub fn tls_alpn_01_addr(&self) -> SocketAddr {
        self.tls_alpn_01
    }

    /// The companion's DNS server, over UDP and TCP.
    pub fn dns_addr(&self) -> SocketAddr {
        self.dns
    }

    /// Adds a TXT record to the companion's DNS, for instance at `_acme-challenge.www.example.test`.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] when it is refused.
    pub async fn set_txt(&self, name: &str, value: &str) -> Result<()> {
        self.challenge("set-txt", json!({ "host": absolute(name), "value": value })).await
    }

    /// Removes the TXT records at `name`.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] when it is refused.
    pub async fn clear_txt(&self, name: &str) -> Result<()> {
        self.challenge("clear-txt", json!({ "host": absolute(name) })).await
    }

    /// Makes the companion's DNS answer address queries for `name` with these IPv4 addresses.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] when it is refused.
    pub async fn add_a(&self, name: &str, addresses: &[&str]) -> Result<()> {
        self.challenge("add-a", json!({ "host": absolute(name), "addresses": addresses })).await
    }

    /// Makes the companion's DNS answer every query for `name` with SERVFAIL.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] when it is refused.
    pub async fn set_servfail(&self, name: &str) -> Result<()> {
        self.challenge("set-servfail", json!({ "host": absolute(name) })).await
    }

    /// Takes [`set_servfail`](Self::set_servfail) back.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] when it is refused.
    pub async fn clear_servfail(&self, name: &str) -> Result<()> {
        self.challenge("clear-servfail", json!({ "host": absolute(name) })).await
    }

    /// Gives the companion an HTTP-01 answer; see [`PebbleBuilder::serve_http_01`].
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] when it is refused.
    pub async fn add_http_01(&self, token: &str, key_authorization: &str) -> Result<()> {
        self.challenge("add-http01", json!({ "token": token, "content": key_authorization })).await
    }

    /// Removes an HTTP-01 answer.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] when it is refused.
    pub async fn remove_http_01(&self, token: &str) -> Result<()> {
        self.challenge("del-http01", json!({ "token": token })).await
    }

    /// The directory with its configuration and logs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What Pebble logged: every request and every decision.
    pub fn log(&self) -> String {
        self.pebble.log()
    }

    /// Ends both programs. Everything Pebble knew is gone.
    ///
    /// # Errors
    ///
    /// As [`Child::stop`].
    pub async fn stop(self) -> Result<()> {
        self.pebble.stop().await?;
        self.challtestsrv.stop().await.map(drop)
    }

    async fn management(&self, path: &str) -> Result<String> {
        let request = self.client.get(format!("https://{}/{path}", self.management));
        let response = request.send().await.and_then(reqwest::Response::error_for_status);
        response.map_err(failed)?.text().await.map_err(failed)
    }

    async fn challenge(&self, path: &str, body: Value) -> Result<()> {
        let request = self.client.post(format!("http://{}/{path}", self.challenges)).json(&body);
        request.send().await.and_then(reqwest::Response::error_for_status).map(drop).map_err(failed)
    }
}

/// A new random MAC key for [`PebbleBuilder::external_account`], unpadded base64url.
pub fn random_mac_key() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}

fn absolute(name: &str) -> String {
    format!("{}.", name.trim_end_matches('.'))
}

fn failed(error: impl fmt::Display) -> Error {
    Error::protocol("pebble", error)
}
