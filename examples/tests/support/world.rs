//! What the crash test and the node it kills have in common: a store in a directory, and a runtime on it.

#![allow(dead_code)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use certlib_core::Secret;
use certlib_core::backoff::Ladder;
use certlib_core::module::ModuleRegistry;
use certlib_core::queue::RetryPolicy;
use certlib_core::runtime::{IssuerRegistry, Role, Runtime};
use certlib_core::secret::{Keyring, KeyringEnvelope};
use certlib_core::store::SharedStore;
use certlib_issuers::local_ca::LocalCaFactory;
use certlib_modules::file::FileModule;
use certlib_modules::ssh::SshModule;
use certlib_store_sql::{SqliteOptions, SqliteStore};

/// The store in `folder`.
pub(crate) async fn open_store(folder: &Path) -> Arc<SqliteStore> {
    Arc::new(SqliteStore::open(folder.join("certlib.db"), SqliteOptions::new()).await.expect("the store opens"))
}

/// A worker on `store`, with short waits.
pub(crate) fn runtime(store: SharedStore) -> Runtime {
    let envelope =
        KeyringEnvelope::new(Keyring::new(Secret::new(*b"a key for tests, nothing besides")).expect("a key"));
    let quick = RetryPolicy::with_ladder(Ladder::new(vec![Duration::from_millis(100); 20], 0.1));
    Runtime::builder(store, Arc::new(envelope))
        .modules(
            ModuleRegistry::new()
                .register(FileModule::new())
                .and_then(|all| all.register(SshModule::new()))
                .expect("modules"),
        )
        .issuers(IssuerRegistry::new().register(LocalCaFactory::new()).expect("issuers"))
        .settings(|settings| {
            settings.roles = vec![Role::Worker];
            settings.job_lease = Duration::from_secs(2);
            settings.poll_interval = Duration::from_millis(50);
            settings.retry = quick.clone();
            settings.renewal_retry = quick;
        })
        .build()
        .expect("a runtime")
}
