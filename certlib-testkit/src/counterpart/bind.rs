use std::{net::SocketAddr, path::Path, process::Command};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tempfile::TempDir;

use super::{Hidden, temporary_folder, write};
use crate::{
    Result,
    locate::locate,
    ports,
    process::{Child, START_LIMIT, poll_until, run},
};

/// The name of the TSIG key that may change the zone.
const KEY_NAME: &str = "certlib-update";

/// BIND, authoritative for one zone that a TSIG key (hmac-sha256) may change by dynamic update (RFC 2136).
///
/// The zone has one name server, and a wildcard address record that points every other name to 127.0.0.1. Updates
/// without the key are refused.
#[derive(Debug)]
pub struct Bind {
    process: Child,
    addr: SocketAddr,
    zone: String,
    secret: Hidden,
    folder: TempDir,
}

impl Bind {
    /// Starts it for `zone`, for instance `example.test`.
    ///
    /// # Errors
    ///
    /// As [`locate`]; [`Error::Start`](crate::Error::Start) with its log when it does not come up.
    pub async fn start(zone: &str) -> Result<Bind> {
        let program = locate("named").await?;
        let folder = temporary_folder("bind")?;
        let addr = ports::free_addr()?;
        let zone = zone.trim_end_matches('.').to_owned();
        let secret = Hidden(STANDARD.encode(rand::random::<[u8; 32]>()));
        let config = folder.path().join("named.conf");
        write(&config, configuration(folder.path(), addr, &zone, &secret.0)?)?;
        write(&folder.path().join("zone.db"), zone_file(&zone))?;

        let mut command = Command::new(program);
        command.arg("-g").arg("-n").arg("1").arg("-c").arg(config);
        let process = Child::spawn("named", command, folder.path())?;
        let mut bind = Bind { process, addr, zone, secret, folder };
        bind.process.wait_for_port(addr).await?;
        poll_until("an answer from named", START_LIMIT, async || {
            bind.dig(&bind.zone, "SOA").await.ok().filter(|lines| !lines.is_empty())
        })
        .await?;
        Ok(bind)
    }

    /// Where it answers, over UDP and TCP.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The zone, without a trailing dot.
    pub fn zone(&self) -> &str {
        &self.zone
    }

    /// The name of the TSIG key, which is of type hmac-sha256.
    pub fn key_name(&self) -> &'static str {
        KEY_NAME
    }

    /// The secret of the TSIG key, base64.
    pub fn key_secret(&self) -> &str {
        &self.secret.0
    }

    /// The directory with its configuration and zone.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The TXT records at `name` now, as `dig` sees them.
    ///
    /// # Errors
    ///
    /// As [`locate`]; [`Error::Command`](crate::Error::Command) when there is no answer.
    pub async fn txt(&self, name: &str) -> Result<Vec<String>> {
        let lines = self.dig(name, "TXT").await?;
        Ok(lines.into_iter().map(|line| line.replace("\" \"", "").trim_matches('"').to_owned()).collect())
    }

    /// The records of a type at `name` now, as `dig +short` prints them.
    ///
    /// # Errors
    ///
    /// As [`locate`]; [`Error::Command`](crate::Error::Command) when there is no answer.
    pub async fn dig(&self, name: &str, kind: &str) -> Result<Vec<String>> {
        let mut command = Command::new(locate("dig").await?);
        command.args([
            "@127.0.0.1",
            "-p",
            &self.addr.port().to_string(),
            "+short",
            "+time=2",
            "+tries=3",
            "+norecurse",
        ]);
        command.args(["-q", name, "-t", kind]);
        let output = run(command, b"").await?;
        Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
    }

    /// Changes the zone with `nsupdate`, signed with the key: one instruction a line, such as
    /// `update add name.example.test 60 TXT "value"`.
    ///
    /// # Errors
    ///
    /// As [`locate`]; [`Error::Command`](crate::Error::Command) when the update is refused.
    pub async fn update(&self, instructions: &str) -> Result<()> {
        let mut command = Command::new(locate("nsupdate").await?);
        // The key goes through a file: arguments are visible to everybody.
        command.arg("-k").arg(self.folder.path().join("update.key"));
        let script = format!("server 127.0.0.1 {}\nzone {}\n{instructions}\nsend\n", self.addr.port(), self.zone);
        run(command, script.as_bytes()).await.map(drop)
    }

    /// What it logged.
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

fn configuration(folder: &Path, addr: SocketAddr, zone: &str, secret: &str) -> Result<String> {
    let key_file = folder.join("update.key");
    write(&key_file, format!("key \"{KEY_NAME}\" {{ algorithm hmac-sha256; secret \"{secret}\"; }};\n"))?;
    let (key_file, folder, port) = (key_file.display(), folder.display(), addr.port());
    Ok(format!(
        "include \"{key_file}\";
options {{
    directory \"{folder}\";
    listen-on port {port} {{ 127.0.0.1; }};
    listen-on-v6 {{ none; }};
    pid-file \"{folder}/named.pid\";
    session-keyfile \"{folder}/session.key\";
    managed-keys-directory \"{folder}\";
    recursion no;
    notify no;
    dnssec-validation no;
}};
controls {{ }};
zone \"{zone}\" {{
    type master;
    file \"{folder}/zone.db\";
    update-policy {{ grant {KEY_NAME} zonesub ANY; }};
}};
"
    ))
}

fn zone_file(zone: &str) -> String {
    format!(
        "$ORIGIN {zone}.
$TTL 60
@ IN SOA ns.{zone}. hostmaster.{zone}. 1 3600 600 86400 1
@ IN NS ns.{zone}.
@ IN A 127.0.0.1
ns IN A 127.0.0.1
* IN A 127.0.0.1
"
    )
}
