use std::{net::SocketAddr, path::Path, process::Command};

use tempfile::TempDir;

use super::{Hidden, read, temporary_folder, write};
use crate::{
    Result,
    locate::locate,
    ports,
    process::{Child, START_LIMIT, poll_until, run},
};

/// The tables of its database, where Debian's package puts them.
const SCHEMA: &str = "/usr/share/pdns-backend-sqlite3/schema/schema.sqlite3.sql";

/// PowerDNS, authoritative for zones in an SQLite database that its HTTP API may change.
///
/// Each zone has one name server, and a wildcard address record that points every other name to 127.0.0.1. Requests
/// to the API without the key are refused.
#[derive(Debug)]
pub struct PowerDns {
    process: Child,
    addr: SocketAddr,
    api: SocketAddr,
    zones: Vec<String>,
    key: Hidden,
    folder: TempDir,
}

impl PowerDns {
    /// Starts it with these zones, for instance `example.test`.
    ///
    /// # Errors
    ///
    /// As [`locate`]; [`Error::Start`](crate::Error::Start) with its log when it does not come up.
    pub async fn start(zones: &[&str]) -> Result<PowerDns> {
        let program = locate("pdns_server").await?;
        let folder = temporary_folder("powerdns")?;
        let zones: Vec<String> = zones.iter().map(|zone| zone.trim_end_matches('.').to_owned()).collect();
        let database = folder.path().join("pdns.db");
        let mut tables = Command::new(locate("sqlite3").await?);
        tables.arg(&database);
        let mut statements = read(Path::new(SCHEMA))?;
        for zone in &zones {
            statements.push_str(&zone_rows(zone));
        }
        run(tables, statements.as_bytes()).await?;

        let (addr, api) = (ports::free_addr()?, ports::free_addr()?);
        let key = Hidden(format!("{:032x}", rand::random::<u128>()));
        write(&folder.path().join("pdns.conf"), configuration(folder.path(), &database, addr, api, &key.0))?;
        let mut command = Command::new(program);
        command.arg(format!("--config-dir={}", folder.path().display()));
        let process = Child::spawn("pdns_server", command, folder.path())?;
        let mut server = PowerDns { process, addr, api, zones, key, folder };
        server.process.wait_for_port(addr).await?;
        server.process.wait_for_port(api).await?;
        if let Some(zone) = server.zones.first() {
            poll_until("an answer from pdns_server", START_LIMIT, async || {
                server.dig(zone, "SOA").await.ok().filter(|lines| !lines.is_empty())
            })
            .await?;
        }
        Ok(server)
    }

    /// Where it answers DNS, over UDP and TCP.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The URL of its HTTP API, down to the version.
    pub fn api_url(&self) -> String {
        format!("http://{}/api/v1", self.api)
    }

    /// The key of the API, for the header `X-API-Key`.
    pub fn api_key(&self) -> &str {
        &self.key.0
    }

    /// The zones, without trailing dots.
    pub fn zones(&self) -> &[String] {
        &self.zones
    }

    /// The directory with its configuration and database.
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
        let port = self.addr.port().to_string();
        command.args(["@127.0.0.1", "-p", &port, "+short", "+time=2", "+tries=3", "+norecurse"]);
        command.args(["-q", name, "-t", kind]);
        let output = run(command, b"").await?;
        Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
    }

    /// Puts a record beside those that are there, in the zone that ends `name`, behind the back of its API.
    ///
    /// # Errors
    ///
    /// As [`locate`]; [`Error::Command`](crate::Error::Command) when the database refuses.
    pub async fn insert(&self, name: &str, kind: &str, content: &str) -> Result<()> {
        let zones = self.zones.iter().filter(|zone| name == *zone || name.ends_with(&format!(".{zone}")));
        let zone = zones.max_by_key(|zone| zone.len()).map_or("", String::as_str);
        let mut command = Command::new(locate("sqlite3").await?);
        command.arg(self.folder.path().join("pdns.db"));
        let quoted = |text: &str| text.replace('\'', "''");
        let statement = format!(
            ".timeout 5000\nINSERT INTO records (domain_id, name, type, content, ttl, prio, auth) SELECT id, '{}', '{}', \
             '{}', 60, 0, 1 FROM domains WHERE name = '{}';\n",
            quoted(name),
            quoted(kind),
            quoted(content),
            quoted(zone),
        );
        run(command, statement.as_bytes()).await.map(drop)
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

/// Nothing is cached: what is in the database is what is answered.
fn configuration(folder: &Path, database: &Path, addr: SocketAddr, api: SocketAddr, key: &str) -> String {
    let (folder, database) = (folder.display(), database.display());
    let (dns_port, api_port) = (addr.port(), api.port());
    format!(
        "daemon=no
guardian=no
socket-dir={folder}
launch=gsqlite3
gsqlite3-database={database}
gsqlite3-dnssec=yes
local-address=127.0.0.1
local-port={dns_port}
api=yes
api-key={key}
webserver=yes
webserver-address=127.0.0.1
webserver-port={api_port}
webserver-allow-from=127.0.0.1
cache-ttl=0
query-cache-ttl=0
negquery-cache-ttl=0
zone-cache-refresh-interval=0
receiver-threads=1
distributor-threads=1
security-poll-suffix=
"
    )
}

fn zone_rows(zone: &str) -> String {
    let domain = format!("(SELECT id FROM domains WHERE name = '{zone}')");
    let record = |name: &str, kind: &str, content: &str| {
        format!(
            "INSERT INTO records (domain_id, name, type, content, ttl, prio, auth) \
             VALUES ({domain}, '{name}', '{kind}', '{content}', 60, 0, 1);\n"
        )
    };
    let soa = format!("ns.{zone} hostmaster.{zone} 1 3600 600 86400 1");
    [
        format!("INSERT INTO domains (name, type) VALUES ('{zone}', 'NATIVE');\n"),
        record(zone, "SOA", &soa),
        record(zone, "NS", &format!("ns.{zone}")),
        record(zone, "A", "127.0.0.1"),
        record(&format!("ns.{zone}"), "A", "127.0.0.1"),
        record(&format!("*.{zone}"), "A", "127.0.0.1"),
    ]
    .concat()
}
