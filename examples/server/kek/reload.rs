//! New keys for a server that runs, and old ones taken from it.

use std::sync::Arc;
use std::time::Duration;

use certlib_core::model::KeyringState;
use certlib_core::secret::{Kek, KeyringEnvelope, SecretEnvelope as _};
use certlib_core::store::{SharedStore, StoreExt as _};
use certlib_core::{Error, Result};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{OPERATION, Sources};

/// Reads the keys again, every so often and whenever it is told to, and lets the envelope have them.
#[derive(Debug)]
pub(crate) struct Reload {
    pub(crate) sources: Sources,
    pub(crate) envelope: Arc<KeyringEnvelope>,
    pub(crate) store: SharedStore,
}

impl Reload {
    /// Runs until `stop`. What goes wrong is logged, and the keys stay as they are.
    pub(crate) async fn run(self, every: Duration, now: Arc<Notify>, stop: CancellationToken) {
        loop {
            let told = tokio::select! {
                () = stop.cancelled() => return,
                () = now.notified() => true,
                () = tokio::time::sleep(every) => false,
            };
            match self.once().await {
                Ok(false) if told => tracing::info!("read the keys again: they are the same"),
                Ok(_) => {}
                Err(error) => tracing::error!(%error, "the keys cannot be read again; the former ones stay"),
            }
        }
    }

    /// Reads the keys again; says whether they are others now.
    ///
    /// # Errors
    /// As [`Sources::keyring`]; `kek_needed` when one is gone that is still in use: nothing changes then.
    pub(crate) async fn once(&self) -> Result<bool> {
        let ring = self.sources.keyring().await?;
        let (before, after) = (self.envelope.keks(), ring.keks());
        let missing_in = |keks: &[Kek], others: &[Kek]| -> Vec<Kek> {
            keks.iter().filter(|kek| !others.contains(kek)).cloned().collect()
        };
        let (added, removed) = (missing_in(&after, &before), missing_in(&before, &after));
        if added.is_empty() && removed.is_empty() {
            return Ok(false);
        }
        self.refuse_if_needed(&removed).await?;
        let former = self.envelope.keyring();
        self.envelope.replace(ring)?;
        // A rotation may have begun meanwhile, for which this node was thought to have its keys.
        if let Err(error) = self.refuse_if_needed(&removed).await {
            self.envelope.replace(former)?;
            return Err(error);
        }
        for kek in &added {
            tracing::info!(
                version = kek.version,
                fingerprint = kek.id.short(),
                provider = kek.provider,
                "a key was added"
            );
        }
        for kek in &removed {
            tracing::info!(
                version = kek.version,
                fingerprint = kek.id.short(),
                provider = kek.provider,
                "a key was removed"
            );
        }
        Ok(true)
    }
}

impl Reload {
    /// `kek_needed` when the database may need one of these keys.
    async fn refuse_if_needed(&self, removed: &[Kek]) -> Result<()> {
        if !removed.is_empty()
            && let Some(state) = self.store.find::<KeyringState>(KeyringState::ID).await?
            && let Some(kek) = removed.iter().find(|kek| is_needed(&state, kek))
        {
            let why =
                "a key is gone that secrets may still need; put it back, and take it away only after `kek remove`";
            return Err(Error::validation(OPERATION, "kek_needed", why)
                .with("version", kek.version)
                .with("fingerprint", kek.id.short()));
        }
        Ok(())
    }
}

fn is_needed(state: &KeyringState, kek: &Kek) -> bool {
    let rotating = state.rotation.iter().flat_map(|rotation| [&rotation.from, &rotation.to]);
    let mut needed = state.retired.iter().chain([&state.primary]).chain(rotating);
    needed.any(|needed| needed.id == kek.id)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use certlib_core::Secret;
    use certlib_core::clock::SystemClock;
    use certlib_core::memory::MemoryStore;
    use time::OffsetDateTime;

    use super::*;
    use crate::config::Config;
    use crate::kek::KekSecrets;

    fn key(n: u32) -> String {
        format!("{n:064x}")
    }

    fn write(folder: &Path, versions: &[u32]) {
        use std::os::unix::fs::PermissionsExt as _;
        let text: String = versions.iter().map(|n| format!("v{n} {}\n", key(*n))).collect();
        std::fs::write(folder.join("kek"), text).unwrap();
        std::fs::set_permissions(folder.join("kek"), std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn versions(reload: &Reload) -> Vec<u32> {
        reload.envelope.keks().iter().map(|kek| kek.version).collect()
    }

    #[tokio::test]
    async fn keys_come_and_go_but_none_that_is_needed() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &[2]);
        let config = Config { data_dir: folder.path().to_owned(), ..Config::default() };
        let variables = vec![(1, Secret::new(key(1)))];
        let sources = Sources::new(&config, KekSecrets { variables, ..KekSecrets::default() });
        let envelope = Arc::new(KeyringEnvelope::new(sources.keyring().await.unwrap()));
        let keks = envelope.keks();
        let store: SharedStore = Arc::new(MemoryStore::new(SystemClock::shared()));
        let state = KeyringState {
            id: KeyringState::ID.to_owned(),
            epoch: 3,
            primary: keks[1].clone(),
            retired: vec![keks[0].clone()],
            rotation: None,
            kinds: [].into(),
            updated_at: OffsetDateTime::UNIX_EPOCH,
        };
        let mut kept = store.insert(state).await.unwrap();
        let mut reload = Reload { sources, envelope, store: store.clone() };
        assert!(!reload.once().await.unwrap(), "nothing changed");
        write(folder.path(), &[2, 3]);
        assert!(reload.once().await.unwrap());
        assert_eq!(versions(&reload), [1, 2, 3]);

        // Retired, but not removed.
        reload.sources = Sources::new(&config, KekSecrets::default());
        assert_eq!(reload.once().await.unwrap_err().code(), "kek_needed");
        kept.record.retired.clear();
        store.update(&mut kept).await.unwrap();
        assert!(reload.once().await.unwrap());
        assert_eq!(versions(&reload), [2, 3]);

        // The one that seals; a file that is no key file; no file.
        write(folder.path(), &[3]);
        assert_eq!(reload.once().await.unwrap_err().code(), "kek_needed");
        std::fs::write(folder.path().join("kek"), "v2 oops").unwrap();
        assert_eq!(reload.once().await.unwrap_err().code(), "kek_invalid");
        std::fs::remove_file(folder.path().join("kek")).unwrap();
        assert_eq!(reload.once().await.unwrap_err().code(), "kek_needed");
        assert_eq!(versions(&reload), [2, 3]);
    }
}
