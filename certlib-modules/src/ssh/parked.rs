//! Connections kept for a moment: a dry run is usually followed by the delivery that it planned.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use aws_lc_rs::digest::{Context as Hasher, SHA256};
use tokio::time::sleep;

use super::config::{SshConfig, SshCredentials, SshLocation};
use super::sftp::RemoteFileSystem;

/// How long a connection is kept.
const KEPT: Duration = Duration::from_secs(10);

/// How many connections are kept at most.
const CAPACITY: usize = 64;

/// How long a kept connection has to show that it still works.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);

/// Connections without work, by whom they lead to and as whom.
#[derive(Clone, Default)]
pub(super) struct Parked {
    lot: Arc<Mutex<Lot>>,
}

#[derive(Default)]
struct Lot {
    connections: HashMap<Key, (u64, RemoteFileSystem)>,
    tickets: u64,
}

/// A digest of everything that decides where a connection leads, as whom, and how sure that is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key([u8; 32]);

impl Key {
    pub(super) fn of(location: &SshLocation, config: &SshConfig, credentials: &SshCredentials) -> Self {
        let mut hasher = Hasher::new(&SHA256);
        let mut add = |part: Option<&[u8]>| {
            // Length first: no two lists of parts look alike.
            let length = part.map_or(u64::MAX, |part| part.len() as u64);
            hasher.update(&length.to_be_bytes());
            hasher.update(part.unwrap_or_default());
        };
        let SshCredentials { user, private_key, passphrase, certificate, agent, password, pfx_password: _ } =
            credentials;
        add(Some(location.host.as_bytes()));
        add(Some(&location.port.to_be_bytes()));
        add(Some(format!("{:?}", config.host_key).as_bytes()));
        add(Some(format!("{:?}", config.addresses).as_bytes()));
        add(Some(format!("{:?}", config.request_timeout).as_bytes()));
        add(Some(user.as_bytes()));
        add(certificate.as_ref().map(String::as_bytes));
        add(Some(&[u8::from(*agent)]));
        for secret in [private_key, passphrase, password] {
            add(secret.as_ref().map(|secret| secret.expose().as_bytes()));
        }
        let mut key = [0; 32];
        key.copy_from_slice(hasher.finish().as_ref());
        Self(key)
    }
}

impl Parked {
    /// A kept connection that still works.
    pub(super) async fn take(&self, key: Key) -> Option<RemoteFileSystem> {
        let (_, connection) = lock(&self.lot).connections.remove(&key)?;
        if connection.is_alive(SIGN_OF_LIFE).await {
            return Some(connection);
        }
        connection.close().await;
        None
    }

    /// Keeps a connection for a while, if there is room.
    pub(super) async fn park(&self, key: Key, connection: RemoteFileSystem) {
        let surplus = {
            let mut lot = lock(&self.lot);
            if lot.connections.len() >= CAPACITY {
                Some(connection)
            } else {
                lot.tickets += 1;
                let ticket = lot.tickets;
                tokio::spawn(expire(Arc::downgrade(&self.lot), key, ticket));
                lot.connections.insert(key, (ticket, connection)).map(|(_, former)| former)
            }
        };
        if let Some(surplus) = surplus {
            surplus.close().await;
        }
    }
}

async fn expire(lot: Weak<Mutex<Lot>>, key: Key, ticket: u64) {
    sleep(KEPT).await;
    let Some(lot) = lot.upgrade() else { return };
    let expired = {
        let mut lot = lock(&lot);
        // A later guest on the same place has its own time.
        let is_ours = lot.connections.get(&key).is_some_and(|(holder, _)| *holder == ticket);
        if is_ours { lot.connections.remove(&key) } else { None }
    };
    if let Some((_, connection)) = expired {
        connection.close().await;
    }
}

fn lock(lot: &Mutex<Lot>) -> MutexGuard<'_, Lot> {
    lot.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Parked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parked").field("connections", &lock(&self.lot).connections.len()).finish()
    }
}
