//! What all connections to one host share.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, AtomicUsize},
    },
    time::Duration,
};

use russh::{
    MethodKind, MethodSet,
    keys::{Algorithm, PrivateKey, PublicKey},
    server,
};
use tokio_util::sync::CancellationToken;

use super::{
    Action, Entry, Error, Fault, Operation,
    fault::ActiveFault,
    filesystem::{Filesystem, Owner},
    lock,
    service::LiveService,
};

/// Someone who may log in.
#[derive(Clone)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) owner: Owner,
    pub(super) home: String,
    pub(super) keys: Vec<PublicKey>,
    pub(super) password: Option<String>,
}

/// The state of one host.
pub(super) struct Host {
    pub(super) name: String,
    pub(super) users: Vec<User>,
    pub(super) hidden_extensions: Vec<String>,
    pub(super) offers_sftp: bool,
    pub(super) host_key: PrivateKey,
    pub(super) config: Arc<server::Config>,
    pub(super) impostor: OnceLock<Arc<server::Config>>,
    pub(super) fault: Mutex<ActiveFault>,
    pub(super) files: Mutex<Filesystem>,
    pub(super) service: LiveService,
    pub(super) commands: Mutex<HashMap<Vec<String>, VecDeque<Action>>>,
    pub(super) history: Mutex<Vec<Entry>>,
    pub(super) stop: CancellationToken,
    pub(super) connections: AtomicU64,
    pub(super) open_connections: AtomicUsize,
    pub(super) tls_connections: AtomicU64,
}

impl Host {
    pub(super) fn fault(&self) -> Option<Fault> {
        lock(&self.fault).fault.clone()
    }

    pub(super) fn record(&self, connection: u64, operation: Operation) {
        lock(&self.history).push(Entry { connection, operation });
    }

    /// Waits as long as [`Fault::Slow`] asks for.
    pub(super) async fn pace(&self) {
        if let Some(Fault::Slow(delay)) = self.fault() {
            tokio::time::sleep(delay).await;
        }
    }

    /// The SSH configuration to greet the next client with.
    pub(super) fn greeting(&self) -> Result<Arc<server::Config>, Error> {
        if self.fault() != Some(Fault::WrongHostKey) {
            return Ok(Arc::clone(&self.config));
        }
        if let Some(made) = self.impostor.get() {
            return Ok(Arc::clone(made));
        }
        let made = Arc::new(ssh_config(new_host_key()?));
        Ok(Arc::clone(self.impostor.get_or_init(|| made)))
    }

    /// What a programmed command does this time; the last action of a sequence repeats.
    pub(super) fn next_action(&self, words: &[String]) -> Option<Action> {
        let mut commands = lock(&self.commands);
        let actions = commands.get_mut(words)?;
        if actions.len() > 1 { actions.pop_front() } else { actions.front().cloned() }
    }

    /// Whether some programmed command starts with this program name.
    pub(super) fn has_program(&self, name: &str) -> bool {
        let commands = lock(&self.commands);
        commands.keys().any(|words| words.first().is_some_and(|first| first == name))
    }
}

pub(super) fn new_host_key() -> Result<PrivateKey, Error> {
    PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).map_err(|error| Error::Key(error.to_string()))
}

/// How the SSH server of every host is tuned: no penalty for refused logins, small buffers.
pub(super) fn ssh_config(host_key: PrivateKey) -> server::Config {
    let methods = [MethodKind::PublicKey, MethodKind::Password, MethodKind::KeyboardInteractive];
    server::Config {
        keys: vec![host_key],
        methods: MethodSet::from(&methods[..]),
        auth_rejection_time: Duration::ZERO,
        nodelay: true,
        ..server::Config::default()
    }
}
