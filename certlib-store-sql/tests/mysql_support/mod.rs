//! One server for the tests that run at the same time, and a database for each.
#![allow(dead_code)]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use certlib_core::secret::SecretString;
use certlib_store_sql::{MysqlOptions, MysqlStore};
use certlib_testkit::counterpart::Mariadb;
use certlib_testkit::{Error, Result};
use sqlx::{ConnectOptions, MySqlConnection};
use tokio::sync::Mutex;

static SHARED: Mutex<Weak<Mariadb>> = Mutex::const_new(Weak::new());
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A database on the server that all tests share, which ends with the last of them. Commits are not synced.
pub(crate) struct Database {
    pub(crate) server: Arc<Mariadb>,
    pub(crate) url: String,
    pub(crate) name: String,
}

impl Database {
    /// # Errors
    /// As the server's start.
    pub(crate) async fn fresh() -> Result<Self> {
        let server = {
            let mut shared = SHARED.lock().await;
            match shared.upgrade() {
                Some(server) => server,
                None => {
                    let builder = Mariadb::builder().option("innodb-flush-log-at-trx-commit", "2");
                    let server = Arc::new(builder.start().await?);
                    *shared = Arc::downgrade(&server);
                    server
                }
            }
        };
        let name = unique();
        let url = server.create_database(&name).await?;
        Ok(Self { server, url, name })
    }

    pub(crate) async fn open(&self) -> MysqlStore {
        MysqlStore::connect(&secret(&self.url), options()).await.unwrap()
    }

    /// Ends the connections of the user's sessions that hold a lock of the server.
    pub(crate) async fn kill(&self, wanted: &str) {
        let ids = format!("SELECT id FROM information_schema.processlist WHERE db = '{}' AND {wanted}", self.name);
        for id in self.server.sql(&ids).await.unwrap().split_whitespace() {
            // One that is gone already is no failure.
            let _ = self.server.sql(&format!("KILL {id}")).await;
        }
    }
}

pub(crate) fn unique() -> String {
    format!("certlib_{}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// Options for a server whose commits are not synced.
pub(crate) fn options() -> MysqlOptions {
    MysqlOptions::new().allow_unsafe_durability_for_tests()
}

/// A URL, which holds a password, as the store takes it.
pub(crate) fn secret(url: &str) -> SecretString {
    url.to_owned().into()
}

/// Whether tests with MariaDB were left out on purpose.
pub(crate) fn left_out<T>(result: &Result<T>) -> bool {
    matches!(result, Err(Error::LeftOut { .. }))
}

/// A connection that knows nothing of certlib.
pub(crate) async fn raw(url: &str) -> MySqlConnection {
    url.parse::<sqlx::mysql::MySqlConnectOptions>().unwrap().connect().await.unwrap()
}
