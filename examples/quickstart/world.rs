//! The fleet: simulated hosts, what they serve at first, and what is wrong with some of them.

use std::fmt;

use certlib_core::client::NewTarget;
use certlib_core::secret::{Secret, SecretString};
use certlib_testkit::simhost::{Action, Fault, Service, SimFleet, SimHost, SimHostBuilder, TestCertificate, UserAuth};
use certlib_testkit::tls;
use futures::{StreamExt as _, stream};
use serde_json::json;

use super::Result;

/// The name that the certificate is for.
pub(super) const SERVER_NAME: &str = "www.example.test";

const USER: &str = "deploy";
const CERTIFICATE: &str = "/etc/nginx/tls/site.pem";
const KEY: &str = "/etc/nginx/tls/site.key";
const TEST: &str = "nginx -t";
const RELOAD: &str = "systemctl reload nginx";

/// How long a silent host is waited for, in milliseconds: short, so that the run ends in seconds.
const PATIENCE_MS: u64 = 4_000;

/// How many hosts are asked at the same time what they serve.
const ASKING: usize = 50;

/// What is wrong with a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    ServesTheOld,
    RefusesConnections,
    ReloadFails,
    DiskFull,
    WrongHostKey,
    NeverAnswers,
}

impl Trouble {
    /// In the order in which they befall hosts.
    const ALL: [Self; 6] = [
        Self::ServesTheOld,
        Self::RefusesConnections,
        Self::ReloadFails,
        Self::DiskFull,
        Self::WrongHostKey,
        Self::NeverAnswers,
    ];

    /// What is wrong with the host number `index`: every fourth has one trouble after the other.
    fn of(index: usize) -> Option<Self> {
        (index % 4 == 3).then(|| Self::ALL[index / 4 % Self::ALL.len()])
    }

    fn befall(self, host: SimHostBuilder) -> SimHostBuilder {
        match self {
            Self::ServesTheOld => host.fault(Fault::ServesOldCertificate),
            Self::RefusesConnections => host.fault(Fault::Refuse),
            Self::ReloadFails => {
                let stderr = "Job for nginx.service failed.\n".to_owned();
                let failure = Action::Reply { exit_code: 1, stdout: String::new(), stderr };
                // Only the new certificate is not to its taste.
                host.command(RELOAD, Action::Sequence(vec![failure, Action::Reload]))
            }
            Self::DiskFull => host.fault(Fault::DiskFull { after_bytes: 512 }),
            Self::WrongHostKey => host.fault(Fault::WrongHostKey),
            Self::NeverAnswers => host.fault(Fault::Hang),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::ServesTheOld => "serves the old",
            Self::RefusesConnections => "refuses connections",
            Self::ReloadFails => "reload fails",
            Self::DiskFull => "disk full",
            Self::WrongHostKey => "wrong host key",
            Self::NeverAnswers => "never answers",
        })
    }
}

/// All hosts, and the password that opens them.
pub(super) struct Fleet {
    hosts: SimFleet,
    machines: Vec<Machine>,
    password: SecretString,
}

/// What is known of one host.
pub(super) struct Machine {
    name: String,
    trouble: Option<Trouble>,
    /// The leaf that it served at first.
    former: String,
    /// What certlib is told of it.
    config: serde_json::Value,
    location: serde_json::Value,
}

/// Which certificate a host serves, by its own account and by a handshake of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Serves {
    New,
    Former,
    /// Another one, none, or not the one it says.
    Neither,
}

/// A host, its trouble, and what it serves in the end.
pub(super) struct Witness {
    pub(super) name: String,
    pub(super) trouble: Option<Trouble>,
    pub(super) serves: Serves,
}

impl Fleet {
    /// Starts `count` hosts, each with a self-signed certificate of its own, a quarter of them in trouble if `faults`.
    pub(super) async fn start(count: usize, faults: bool) -> Result<Self> {
        check_open_files(count)?;
        let password = Secret::new(uuid::Uuid::new_v4().to_string());
        let trouble = |index| Trouble::of(index).filter(|_| faults);
        let mut formers = Vec::new();
        for index in 0..count {
            formers.push(TestCertificate::self_signed([name(index)])?);
        }
        let hosts = SimFleet::start(count, |index| {
            let host = SimHost::builder()
                .name(name(index))
                .user(USER, UserAuth::password(password.expose()))
                .service(Service::new(CERTIFICATE, KEY).initial_certificate(formers[index].clone()))
                .command(TEST, Action::Test)
                .command(RELOAD, Action::Reload);
            trouble(index).into_iter().fold(host, |host, trouble| trouble.befall(host))
        });
        let hosts = hosts.await?;
        let machine = |(index, host): (usize, &SimHost)| Machine {
            name: host.name().to_owned(),
            trouble: trouble(index),
            former: formers[index].fingerprint().to_owned(),
            config: json!({
                "host_key": { "fingerprint": host.host_key_fingerprint() },
                "dial_timeout_ms": PATIENCE_MS,
                "handshake_timeout_ms": PATIENCE_MS,
                "test_command": TEST,
                "reload_command": RELOAD,
                "endpoints": [{
                    "host": host.tls_addr().ip(),
                    "port": host.tls_addr().port(),
                    "server_name": SERVER_NAME,
                    "dial_timeout_ms": PATIENCE_MS,
                    "tries": 2,
                    "delay_ms": 200,
                }],
            }),
            location: json!({
                "host": host.ssh_addr().ip(),
                "port": host.ssh_addr().port(),
                "paths": { "fullchain": CERTIFICATE, "key": KEY },
            }),
        };
        let machines = hosts.iter().enumerate().map(machine).collect();
        Ok(Self { hosts, machines, password })
    }

    pub(super) fn machines(&self) -> &[Machine] {
        &self.machines
    }

    /// How to log in to any of the hosts, as the ssh module wants it.
    pub(super) fn login(&self) -> SecretString {
        Secret::new(json!({ "user": USER, "password": self.password.expose() }).to_string())
    }

    /// Asks every host what it serves.
    pub(super) async fn served(&self, new: &str) -> Vec<Witness> {
        let witnesses = self.hosts.iter().zip(&self.machines).map(async |(host, machine)| Witness {
            name: machine.name.clone(),
            trouble: machine.trouble,
            serves: machine.serves(host, new).await,
        });
        stream::iter(witnesses).buffered(ASKING).collect().await
    }

    /// Stops all hosts.
    pub(super) async fn stop(self) {
        self.hosts.stop().await;
    }
}

impl Machine {
    /// The host as a target of certlib.
    pub(super) fn target(&self, credential_id: &str) -> NewTarget {
        NewTarget {
            name: self.name.clone(),
            module: "ssh".to_owned(),
            config: self.config.clone(),
            location: self.location.clone(),
            credential_id: Some(credential_id.to_owned()),
            ..NewTarget::default()
        }
    }

    async fn serves(&self, host: &SimHost, new: &str) -> Serves {
        let own_account = host.served_fingerprint();
        let seen = tls::leaf_fingerprint(host.tls_addr(), SERVER_NAME).await.ok();
        match seen {
            Some(_) if seen != own_account => Serves::Neither,
            Some(seen) if seen == new => Serves::New,
            Some(seen) if seen == self.former => Serves::Former,
            _ => Serves::Neither,
        }
    }
}

fn name(index: usize) -> String {
    format!("host-{index:04}")
}

/// Fails before the first host starts when the process may not open enough files.
fn check_open_files(hosts: usize) -> Result<()> {
    // Two listeners for each host; the rest is for connections and the store.
    let needed = 2 * hosts + 300;
    let Ok(limits) = std::fs::read_to_string("/proc/self/limits") else { return Ok(()) };
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let allowed = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    match allowed {
        Some(allowed) if allowed < needed => Err(format!(
            "{hosts} hosts need {needed} open files, this shell allows {allowed}: try `ulimit -n {needed}`"
        )
        .into()),
        _ => Ok(()),
    }
}
