//! A simulated F5 BIG-IP, inside the test's own process.
//!
//! An [`F5Sim`] speaks iControl REST over HTTPS: logins with tokens that expire, uploads in chunks, certificate and key
//! files, client-ssl and server-ssl profiles, virtual servers, transactions that are carried out as a whole or not at
//! all, partitions and folders, saving, and a second unit to synchronize with. Each virtual server listens on 127.0.0.1
//! and serves the certificate that its client-ssl profiles select, so that delivery can be proven by a handshake. A
//! [`Fault`] makes it misbehave in one precise way; [`F5Sim::advance`] moves its clock. It is checked against `f5-sdk`,
//! F5's own Python client, and against `f5_modules`, its collection for Ansible.
//!
//! What it refuses, it refuses as the real thing does, with the same codes: a key that does not belong to its
//! certificate (`01070317:3`), `certKeyChain` together with `cert` (`01b4002a:3`), deleting what is in use
//! (`01070265:3`), what exists (`01020066:3`) or does not (`01020036:3`), references into other partitions
//! (`01070726:3`).
//!
//! What it does not have: traffic behind virtual servers (a handshake is all there is), encrypted private keys, PKCS#12,
//! asynchronous tasks, and any part of the configuration that has nothing to do with certificates: settings of profiles
//! and virtual servers are kept, inherited and shown, and that is all.
//!
//! ```
//! use certlib_testkit::{f5::F5Sim, pki::TestCa, tls};
//!
//! # async fn example() -> certlib_testkit::Result<()> {
//! let bigip = F5Sim::start().await?;
//! let issued = TestCa::new("root")?.issue(&["shop.example"])?;
//! bigip.install("/Common/shop", &issued)?;
//! bigip.add_client_ssl("/Common/shop", &["/Common/shop"])?;
//! let address = bigip.add_virtual("/Common/vs_shop", &["/Common/shop"])?;
//! // Give bigip.url(), bigip.ca_pem(), F5Sim::USER and F5Sim::PASSWORD to what is to be tested.
//! assert_eq!(tls::leaf_fingerprint(address, "shop.example").await?, issued.fingerprint);
//! # Ok(())
//! # }
//! # tokio::runtime::Runtime::new().unwrap().block_on(example()).unwrap();
//! ```

mod answer;
mod auth;
mod builder;
mod call;
mod config;
mod fault;
mod files;
mod history;
mod listener;
mod name;
mod others;
mod page;
mod profile;
mod server;
mod settings;
mod state;
mod system;
mod transaction;
mod virtuals;

use std::{
    fmt,
    fmt::Write as _,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use time::OffsetDateTime;

use self::{
    answer::Refusal,
    auth::Session,
    call::Call,
    config::Config,
    files::{CertFile, KeyFile},
    profile::Side,
    server::Shared,
    virtuals::Virtual,
};
pub use self::{
    auth::Role,
    builder::F5SimBuilder,
    fault::{Fault, Injection},
    history::Record,
};
use crate::{Error, Result, http_server::HttpServer, pki::Issued};

/// A running simulated BIG-IP. It stops when dropped.
pub struct F5Sim {
    shared: Arc<Shared>,
    server: HttpServer,
    ca_pem: String,
}

impl F5Sim {
    /// The user who may do everything.
    pub const USER: &'static str = "admin";
    /// The password of [`F5Sim::USER`].
    pub const PASSWORD: &'static str = "simulated-bigip-password";

    /// Describes one; nothing happens until [`F5SimBuilder::start`].
    pub fn builder() -> F5SimBuilder {
        F5SimBuilder::default()
    }

    /// Starts one with the default options: one unit, the partition `Common`, the user [`F5Sim::USER`].
    ///
    /// # Errors
    /// As [`F5SimBuilder::start`].
    pub async fn start() -> Result<Self> {
        Self::builder().start().await
    }

    /// Its URL, such as `https://127.0.0.1:41235`.
    #[must_use]
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// Where the management address listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.server.address()
    }

    /// The root to trust, PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Does something as its operator, without HTTP: `path` goes after `/mgmt/`. Returns the body of the answer.
    ///
    /// # Errors
    /// [`Error::Protocol`] with status and message when it is refused.
    pub fn operate(&self, method: &str, path: &str, body: Value) -> Result<Value> {
        let call = Call::operated(method, path, &body);
        let answer = lock(&self.shared.state).dispatch(&call, &Session::operator(), None);
        listener::open_missing(&self.shared);
        answer.map_err(refused)
    }

    /// Puts certificate, key and issuer in place as `STEM.crt`, `STEM.key` and `STEM_chain.crt`. Replaces what was there.
    ///
    /// # Errors
    /// [`Error::Protocol`] when one of them cannot be read.
    pub fn install(&self, stem: &str, issued: &Issued) -> Result<()> {
        let (now, source) = (OffsetDateTime::now_utc(), "file:/var/tmp/operator");
        let cert = CertFile::read(issued.certificate_pem.as_bytes(), source, now, None).map_err(refused)?;
        let chain = CertFile::read(issued.issuer_pem.as_bytes(), source, now, None).map_err(refused)?;
        let key = KeyFile::read(issued.key_pem.as_bytes(), source, now, None).map_err(refused)?;
        self.edit(|config| {
            config.certs.insert(format!("{stem}.crt"), cert);
            config.certs.insert(format!("{stem}_chain.crt"), chain);
            config.keys.insert(format!("{stem}.key"), key);
            Ok(())
        })
    }

    /// Makes a client-ssl profile with what was [installed](F5Sim::install) under each of `stems`.
    ///
    /// # Errors
    /// As [`F5Sim::operate`].
    pub fn add_client_ssl(&self, profile: &str, stems: &[&str]) -> Result<()> {
        let entries = stems.iter().map(|stem| {
            let name = stem.rsplit('/').next().unwrap_or_default();
            let (cert, key, chain) = (format!("{stem}.crt"), format!("{stem}.key"), format!("{stem}_chain.crt"));
            json!({ "name": name, "cert": cert, "key": key, "chain": chain })
        });
        let entries: Vec<Value> = entries.collect();
        let body = json!({ "name": profile, "certKeyChain": entries });
        self.operate("POST", "tm/ltm/profile/client-ssl", body).map(drop)
    }

    /// Makes a server-ssl profile with what was [installed](F5Sim::install) under `stem`.
    ///
    /// # Errors
    /// As [`F5Sim::operate`].
    pub fn add_server_ssl(&self, profile: &str, stem: &str) -> Result<()> {
        let (cert, key, chain) = (format!("{stem}.crt"), format!("{stem}.key"), format!("{stem}_chain.crt"));
        let body = json!({ "name": profile, "cert": cert, "key": key, "chain": chain });
        self.operate("POST", "tm/ltm/profile/server-ssl", body).map(drop)
    }

    /// Makes a virtual server with these client-ssl profiles, and says where it listens.
    ///
    /// # Errors
    /// [`Error::Protocol`] when a profile does not exist, [`Error::Io`] when no port can be bound.
    pub fn add_virtual(&self, name: &str, client_ssl: &[&str]) -> Result<SocketAddr> {
        self.edit(|config| {
            let own = Virtual::with_client_ssl(client_ssl);
            own.check(name, config)?;
            config.virtuals.insert(name.to_owned(), own);
            Ok(())
        })?;
        listener::open_missing(&self.shared);
        let address = self.virtual_address(name);
        address.ok_or_else(|| Error::io("listening")(std::io::ErrorKind::AddrNotAvailable.into()))
    }

    /// Where a virtual server listens.
    #[must_use]
    pub fn virtual_address(&self, name: &str) -> Option<SocketAddr> {
        lock(&self.shared.state).listeners.get(name).copied()
    }

    /// The [fingerprints](crate::tls::fingerprint) of the certificates that a client-ssl profile has or inherits, in
    /// order.
    #[must_use]
    pub fn certificates_of(&self, client_ssl: &str) -> Vec<String> {
        fingerprints(&lock(&self.shared.state).config, client_ssl)
    }

    /// The same on the other unit of the device group.
    #[must_use]
    pub fn peer_certificates_of(&self, client_ssl: &str) -> Vec<String> {
        fingerprints(&lock(&self.shared.state).peer, client_ssl)
    }

    /// The full paths of all certificate and key files, sorted.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        let state = lock(&self.shared.state);
        let mut names: Vec<String> = state.config.certs.keys().chain(state.config.keys.keys()).cloned().collect();
        names.sort();
        names
    }

    /// Uploads that still lie on the disk, with their content.
    #[must_use]
    pub fn uploads(&self) -> Vec<(String, Vec<u8>)> {
        lock(&self.shared.state).uploads.clone().into_iter().collect()
    }

    /// Everything in the configuration that has to do with certificates, as text: names, fingerprints and checksums, no
    /// keys.
    #[must_use]
    pub fn describe(&self) -> String {
        let state = lock(&self.shared.state);
        let mut text = String::new();
        for (name, file) in &state.config.certs {
            let _ = writeln!(text, "cert {name} {}", file.file.checksum);
        }
        for (name, file) in &state.config.keys {
            let _ = writeln!(text, "key {name} {}", file.file.checksum);
        }
        for side in Side::BOTH {
            for (name, own) in state.config.profiles(side) {
                let _ = writeln!(text, "{} {name} {:?} {}", side.segment(), own.parent, own.inherits);
                for profile::Entry { name, cert, key, chain, .. } in &own.entries {
                    let _ = writeln!(text, "  {name} {cert} {key} {chain:?}");
                }
            }
        }
        text
    }

    /// Whether there are changes that a reboot would lose.
    #[must_use]
    pub fn is_saved(&self) -> bool {
        let state = lock(&self.shared.state);
        state.revision == state.saved_revision
    }

    /// Starts anew with what was saved: tokens and transactions are gone, uploads are not.
    pub fn reboot(&self) {
        let mut state = lock(&self.shared.state);
        state.config = state.saved.clone();
        state.revision += 1;
        state.saved_revision = state.revision;
        state.transactions.known.clear();
        state.logins.end_all();
    }

    /// Makes it the standby unit, or the active one again.
    pub fn set_standby(&self, standby: bool) {
        lock(&self.shared.state).standby = standby;
    }

    /// How many looks at the status see a synchronization under way, before it is done.
    pub fn set_sync_takes(&self, looks: u32) {
        lock(&self.shared.state).sync_takes = looks;
    }

    /// Cuts the connection to the other unit, or mends it.
    pub fn set_sync_broken(&self, broken: bool) {
        lock(&self.shared.state).sync_broken = broken;
    }

    /// How long the tokens that can be used were made to live, in seconds, one each.
    #[must_use]
    pub fn token_timeouts(&self) -> Vec<u64> {
        let state = lock(&self.shared.state);
        state.logins.timeouts(state.now())
    }

    /// How many tokens can be used.
    #[must_use]
    pub fn live_tokens(&self) -> usize {
        let state = lock(&self.shared.state);
        state.logins.live(state.now())
    }

    /// Ends all tokens.
    pub fn expire_tokens(&self) {
        lock(&self.shared.state).logins.end_all();
    }

    /// How many transactions wait for their commit.
    #[must_use]
    pub fn open_transactions(&self) -> usize {
        let mut state = lock(&self.shared.state);
        let now = state.now();
        state.transactions.expire(now);
        state.transactions.open()
    }

    /// Moves its clock.
    pub fn advance(&self, by: Duration) {
        lock(&self.shared.state).ahead += by;
    }

    /// Makes it misbehave. Of several faults that a request could meet, the one that was injected first does.
    pub fn inject(&self, injection: Injection) {
        lock(&self.shared.state).faults.push(injection);
    }

    /// Makes it behave.
    pub fn clear_faults(&self) {
        lock(&self.shared.state).faults.clear();
    }

    /// Every HTTP request so far, oldest first.
    #[must_use]
    pub fn history(&self) -> Vec<Record> {
        lock(&self.shared.state).history.clone()
    }

    /// How many HTTP requests so far had this method and a path, after `/mgmt/`, that begins like this.
    #[must_use]
    pub fn count(&self, method: &str, prefix: &str) -> usize {
        let state = lock(&self.shared.state);
        state.history.iter().filter(|record| record.method == method && record.path.starts_with(prefix)).count()
    }

    /// Stops listening and ends all connections.
    pub fn stop(self) {}

    /// Changes the configuration, unless it would not fit together afterwards.
    fn edit(&self, change: impl FnOnce(&mut Config) -> std::result::Result<(), Refusal>) -> Result<()> {
        let mut state = lock(&self.shared.state);
        let mut next = state.config.clone();
        change(&mut next).and_then(|()| next.check()).map_err(refused)?;
        state.config = next;
        state.revision += 1;
        Ok(())
    }
}

impl Drop for F5Sim {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

impl fmt::Debug for F5Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("F5Sim").field("url", &self.url()).finish_non_exhaustive()
    }
}

fn fingerprints(config: &Config, client_ssl: &str) -> Vec<String> {
    let entries = profile::effective(&config.client_ssl, client_ssl).iter();
    entries.filter_map(|entry| config.certs.get(&entry.cert)).map(CertFile::fingerprint).collect()
}

fn refused(refusal: Refusal) -> Error {
    Error::protocol("the simulated BIG-IP", format!("{} {}", refusal.status, refusal.message))
}

/// Locks a mutex; a test that panicked elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
