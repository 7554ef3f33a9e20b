//! Opens the store that a URL names.

#![allow(dead_code)]

use std::sync::Arc;
use std::time::Duration;

use certlib_core::Secret;
use certlib_core::store::SharedStore;
use certlib_store_mongo::{MongoOptions, MongoStore};
use certlib_store_sql::{MysqlOptions, MysqlStore, PostgresOptions, PostgresStore};

/// The store behind `url`: `postgres://`, `mysql://` or `mongodb://`.
pub(crate) async fn open(url: &str) -> certlib_core::Result<SharedStore> {
    let secret = Secret::new(url.to_owned());
    Ok(match url.split(':').next() {
        Some("mongodb") => Arc::new(MongoStore::connect(&secret, MongoOptions::new()).await?),
        Some("mysql") => Arc::new(MysqlStore::connect(&secret, MysqlOptions::new()).await?),
        _ => {
            // A process that is stopped within a transaction keeps its locks so long, the leader's lease among them.
            let options = PostgresOptions::new().with_idle_in_transaction_timeout(Duration::from_millis(500));
            Arc::new(PostgresStore::connect(&secret, options).await?)
        }
    })
}
