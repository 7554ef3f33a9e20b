//! Simulated hosts in this process, and how to log in to them.

use std::net::SocketAddr;
use std::sync::Arc;

use certlib_testkit::simhost::{Service, SimFleet, SimHost, UserAuth};
use russh::keys::ssh_key::LineEnding;
use russh::keys::{Algorithm, PrivateKey};

use crate::Result;

/// Where hosts expect the certificate and its chain.
pub const CERTIFICATE: &str = "/etc/ssl/site.pem";
/// Where hosts expect the private key.
pub const KEY: &str = "/etc/ssl/site.key";
/// Checks the files.
pub const TEST_COMMAND: &str = "certlib-sim test";
/// Makes a host serve the files.
pub const RELOAD_COMMAND: &str = "certlib-sim reload";
/// Who logs in.
pub const USER: &str = "root";

/// Hosts that take deliveries, and the key that opens them.
#[derive(Debug)]
pub struct Hosts {
    fleet: SimFleet,
    login: Arc<PrivateKey>,
}

/// What a client needs to know of one host.
#[derive(Debug, Clone)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Where SSH listens.
    pub ssh: SocketAddr,
    /// Where TLS listens.
    pub tls: SocketAddr,
    /// `SHA256:…` of its host key.
    pub host_key: String,
}

impl Hosts {
    /// Starts `count` hosts.
    ///
    /// # Errors
    /// When a host cannot start: usually the limit of open files, of which each host needs two.
    pub async fn start(count: usize) -> Result<Self> {
        let login = Arc::new(PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519)?);
        let public = login.public_key().to_openssh()?;
        let fleet = SimFleet::start(count, |index| {
            SimHost::builder()
                .name(format!("host-{index:04}"))
                .user(USER, UserAuth::public_key(&*public))
                .service(Service::new(CERTIFICATE, KEY))
        });
        Ok(Self { fleet: fleet.await?, login })
    }

    /// What clients need to know of each.
    pub fn list(&self) -> Vec<Host> {
        let describe = |host: &SimHost| Host {
            name: host.name().to_owned(),
            ssh: host.ssh_addr(),
            tls: host.tls_addr(),
            host_key: host.host_key_fingerprint(),
        };
        self.fleet.iter().map(describe).collect()
    }

    /// The key that opens all of them.
    pub fn login(&self) -> Arc<PrivateKey> {
        self.login.clone()
    }

    /// The same key as OpenSSH keeps it.
    ///
    /// # Errors
    /// None that can happen: the key was made here.
    pub fn login_pem(&self) -> Result<String> {
        Ok(self.login.to_openssh(LineEnding::LF)?.to_string())
    }

    /// Fails unless every host serves the leaf with this SHA-256 (lower-case hexadecimal).
    ///
    /// # Errors
    /// Names the first host that does not.
    pub fn expect_served(&self, fingerprint: &str) -> Result<()> {
        let other = self.fleet.iter().find(|host| host.served_fingerprint().as_deref() != Some(fingerprint));
        other.map_or(Ok(()), |host| Err(format!("{} serves another certificate", host.name()).into()))
    }

    /// Stops all of them.
    pub async fn stop(self) {
        self.fleet.stop().await;
    }
}
