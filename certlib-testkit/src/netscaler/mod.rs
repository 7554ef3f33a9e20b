//! A simulated Citrix NetScaler ADC, inside the test's own process.
//!
//! A [`NetscalerSim`] speaks the part of the NITRO API that certificates need: sessions and logins by header, files
//! (`systemfile`), certificate-key pairs with their links (`sslcertkey`), bindings of virtual servers, services and
//! service groups, partitions, high availability, and saving. Its virtual servers **really serve TLS**, each on a port
//! of 127.0.0.1, with the certificate that is bound at the moment of the handshake, the chain that its links make, and
//! by SNI where one is bound so. Configuration that was not saved is lost by [`NetscalerSim::restart`], files are not.
//! A [`Fault`] makes it misbehave in one precise way. It is checked against Ansible's module for NITRO.
//!
//! What it does not have: the command line, roles beyond [`NetscalerSim::deny`], SSL profiles, `bundle` files, FIPS and
//! HSM keys, OCSP and CRLs, statistics, and clusters. What is written on a secondary node is answered as if it had been
//! done, and lost. Where the numbers of errors are not known, it has its own; they begin with 19.
//!
//! ```
//! use certlib_testkit::{netscaler::NetscalerSim, pki::TestCa, tls};
//!
//! # async fn example() -> certlib_testkit::Result<()> {
//! let appliance = NetscalerSim::builder().vserver("", "web").start().await?;
//! let issued = TestCa::new("root")?.issue(&["shop.example"])?;
//! appliance.put_pair("", "shop", &issued.certificate_pem, &issued.key_pem)?;
//! appliance.bind("", "web", "shop", false)?;
//! // Give appliance.url(), user() and password() to what is to be tested.
//! let served = tls::leaf_fingerprint(appliance.vserver("", "web").unwrap(), "shop.example").await?;
//! assert_eq!(served, issued.fingerprint);
//! # Ok(())
//! # }
//! # tokio::runtime::Runtime::new().unwrap().block_on(example()).unwrap();
//! ```

mod bindings;
mod builder;
mod certificate;
mod certkeys;
mod fault;
mod files;
mod history;
mod nitro;
mod serve;
mod server;
mod state;
mod system;

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use tokio_util::sync::DropGuard;

pub use self::{
    builder::NetscalerSimBuilder,
    fault::{AdminCall, Fault, Injection},
    history::Record,
};
use self::{
    nitro::{Answer, Call},
    state::{Caller, Kind, State, StoredFile, folder},
};
use crate::{Error, Result, http_server::HttpServer};

/// A running simulated NetScaler. It stops when dropped.
pub struct NetscalerSim {
    state: Arc<Mutex<State>>,
    urls: Vec<String>,
    nodes: Vec<HttpServer>,
    ca_pem: Option<String>,
    user: String,
    password: String,
    _stop: DropGuard,
}

impl NetscalerSim {
    /// Describes one; nothing happens until [`NetscalerSimBuilder::start`].
    pub fn builder() -> NetscalerSimBuilder {
        NetscalerSimBuilder::default()
    }

    /// The URL of its management address, such as `https://127.0.0.1:41235`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.urls[0]
    }

    /// The URL of the other node, if there are two.
    #[must_use]
    pub fn peer_url(&self) -> Option<&str> {
        self.urls.get(1).map(String::as_str)
    }

    /// Where it listens for management.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.nodes[0].address()
    }

    /// The roots to trust for the management addresses, PEM, unless it speaks plain HTTP.
    #[must_use]
    pub fn ca_pem(&self) -> Option<&str> {
        self.ca_pem.as_deref()
    }

    /// Who may log in.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// With which password.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }

    /// Where a virtual server listens.
    #[must_use]
    pub fn vserver(&self, partition: &str, name: &str) -> Option<SocketAddr> {
        let state = lock(&self.state);
        state.partition(partition).holders.get(&(Kind::Vserver, name.to_owned()))?.address
    }

    /// Asks for something as its administrator, without HTTP. Returns the body of the answer.
    ///
    /// # Errors
    /// [`Error::Protocol`] with status and text when it is refused.
    pub fn call(&self, partition: &str, call: &AdminCall) -> Result<Value> {
        let answer = operate(&mut lock(&self.state), partition, call);
        if answer.status < 300 {
            return Ok(answer.body);
        }
        let what = format!("{} {}: {} {}", call.method, call.path, answer.status, answer.body);
        Err(Error::protocol("the simulated NetScaler", what))
    }

    /// The fields of an object, such as `sslcertkey/shop`; of a list, those of the first one. `None` when there is none.
    #[must_use]
    pub fn read(&self, partition: &str, path: &str) -> Option<Value> {
        let mut body = self.call(partition, &AdminCall::get(path)).ok()?;
        let resource = path.split(['/', '?']).next().unwrap_or_default();
        Some(body[resource][0].take()).filter(|found| !found.is_null())
    }

    /// Puts a pair there: its files `NAME.cer` and `NAME.key`, and the pair of that name; saved.
    ///
    /// # Errors
    /// As [`NetscalerSim::call`].
    pub fn put_pair(&self, partition: &str, name: &str, certificate_pem: &str, key_pem: &str) -> Result<()> {
        let (cert, key) = (format!("{name}.cer"), format!("{name}.key"));
        self.put_file(partition, &cert, certificate_pem.as_bytes());
        self.put_file(partition, &key, key_pem.as_bytes());
        let fields = json!({ "certkey": name, "cert": cert, "key": key });
        self.call(partition, &AdminCall::post("sslcertkey", fields))?;
        self.save(partition)
    }

    /// Puts a certificate of an authority there: its file `NAME.cer`, and the pair without a key; saved.
    ///
    /// # Errors
    /// As [`NetscalerSim::call`].
    pub fn put_authority(&self, partition: &str, name: &str, certificate_pem: &str) -> Result<()> {
        let cert = format!("{name}.cer");
        self.put_file(partition, &cert, certificate_pem.as_bytes());
        self.call(partition, &AdminCall::post("sslcertkey", json!({ "certkey": name, "cert": cert })))?;
        self.save(partition)
    }

    /// Links one pair to the one that issued it; saved.
    ///
    /// # Errors
    /// As [`NetscalerSim::call`].
    pub fn link(&self, partition: &str, name: &str, issuer: &str) -> Result<()> {
        let fields = json!({ "certkey": name, "linkcertkeyname": issuer });
        self.call(partition, &AdminCall::post("sslcertkey?action=link", fields))?;
        self.save(partition)
    }

    /// Binds a pair to a virtual server; saved.
    ///
    /// # Errors
    /// As [`NetscalerSim::call`].
    pub fn bind(&self, partition: &str, vserver: &str, certkey: &str, sni: bool) -> Result<()> {
        let fields = json!({ "vservername": vserver, "certkeyname": certkey, "snicert": sni });
        self.call(partition, &AdminCall::put("sslvserver_sslcertkey_binding", fields))?;
        self.save(partition)
    }

    /// Saves the configuration of a partition.
    ///
    /// # Errors
    /// As [`NetscalerSim::call`].
    pub fn save(&self, partition: &str) -> Result<()> {
        self.call(partition, &AdminCall::post("nsconfig?action=save", json!({}))).map(drop)
    }

    /// Writes a file into the partition's folder of certificates.
    pub fn put_file(&self, partition: &str, name: &str, content: &[u8]) {
        let file = StoredFile { content: content.to_vec(), locked: None };
        lock(&self.state).files.insert(format!("{}/{name}", folder(partition)), file);
    }

    /// Writes a private key that is encrypted with a pass phrase.
    pub fn put_locked_key(&self, partition: &str, name: &str, key_pem: &str, passphrase: &str) {
        let shown = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMA==\n-----END ENCRYPTED PRIVATE KEY-----\n";
        let locked = Some((passphrase.to_owned(), key_pem.as_bytes().to_vec()));
        let file = StoredFile { content: shown.as_bytes().to_vec(), locked };
        lock(&self.state).files.insert(format!("{}/{name}", folder(partition)), file);
    }

    /// The content of a file in the partition's folder of certificates.
    #[must_use]
    pub fn file(&self, partition: &str, name: &str) -> Option<Vec<u8>> {
        lock(&self.state).files.get(&format!("{}/{name}", folder(partition))).map(|file| file.content.clone())
    }

    /// The files in the partition's folder of certificates, sorted.
    #[must_use]
    pub fn files(&self, partition: &str) -> Vec<String> {
        let prefix = format!("{}/", folder(partition));
        lock(&self.state).files.keys().filter_map(|path| path.strip_prefix(&prefix)).map(str::to_owned).collect()
    }

    /// The certificate-key pairs of a partition, sorted.
    #[must_use]
    pub fn certkeys(&self, partition: &str) -> Vec<String> {
        lock(&self.state).partition(partition).certkeys.keys().cloned().collect()
    }

    /// Everything about certificates in a partition, as text without keys: files by their SHA-256, and pairs, links and
    /// bindings as they are and as they are saved. Equal texts mean equal configurations.
    #[must_use]
    pub fn snapshot(&self, partition: &str) -> String {
        let state = lock(&self.state);
        let prefix = format!("{}/", folder(partition));
        let files = state.files.iter().filter(|(path, _)| path.starts_with(&prefix));
        let files = files.map(|(path, file)| format!("file {path} {}\n", crate::tls::fingerprint(&file.content)));
        let saved = state.saved.get(partition).map(state::Partition::describe).unwrap_or_default();
        format!("{}running\n{}saved\n{saved}", files.collect::<String>(), state.partition(partition).describe())
    }

    /// Whether the partition has changes that are not saved.
    #[must_use]
    pub fn has_unsaved_changes(&self, partition: &str) -> bool {
        lock(&self.state).partition(partition).changed
    }

    /// How often the configuration of a partition was saved.
    #[must_use]
    pub fn saves(&self, partition: &str) -> u32 {
        lock(&self.state).partition(partition).saves
    }

    /// How often somebody logged in.
    #[must_use]
    pub fn logins(&self) -> u32 {
        lock(&self.state).logins
    }

    /// How many sessions there are now.
    #[must_use]
    pub fn sessions(&self) -> usize {
        lock(&self.state).sessions.len()
    }

    /// Refuses a method (such as `GET`) on a resource to everybody, with 2138.
    pub fn deny(&self, method: &str, resource: &str) {
        lock(&self.state).denied.insert((method.to_owned(), resource.to_owned()));
    }

    /// Takes back every [`NetscalerSim::deny`].
    pub fn allow_everything(&self) {
        lock(&self.state).denied.clear();
    }

    /// Swaps the roles of the nodes. Sessions stay.
    pub fn fail_over(&self) {
        let mut state = lock(&self.state);
        if state.nodes > 1 {
            state.primary = 1 - state.primary;
        }
    }

    /// Starts it anew: sessions and unsaved configuration are gone, pairs are read from their files again.
    pub fn restart(&self) {
        lock(&self.state).restart();
    }

    /// Moves its clock, by which sessions expire.
    pub fn advance(&self, by: Duration) {
        lock(&self.state).now += by;
    }

    /// Makes it misbehave. Of several faults that a request could meet, the one that was injected first does.
    pub fn inject(&self, injection: Injection) {
        lock(&self.state).faults.push(injection);
    }

    /// Makes it behave.
    pub fn clear_faults(&self) {
        lock(&self.state).faults.clear();
    }

    /// Every HTTP request so far, oldest first.
    #[must_use]
    pub fn history(&self) -> Vec<Record> {
        lock(&self.state).history.clone()
    }

    /// Stops listening and ends all connections.
    pub fn stop(self) {}
}

impl fmt::Debug for NetscalerSim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetscalerSim").field("urls", &self.urls).finish_non_exhaustive()
    }
}

/// Does what an administrator asks for on the primary node.
fn operate(state: &mut State, partition: &str, call: &AdminCall) -> Answer {
    let caller = Caller { node: state.primary, partition: partition.to_owned(), session: None };
    let resource = call.path.split('/').next().unwrap_or_default();
    let body = if call.fields.is_null() { String::new() } else { json!({ resource: call.fields }).to_string() };
    match Call::new(call.method.clone(), &call.path, &call.query, &body) {
        Ok(call) => state.handle(&caller, &call),
        Err(refusal) => refusal.into(),
    }
}

/// Locks a mutex; a test that panicked elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
