#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod mysql_support;

use std::sync::Arc;

use certlib_core::clock::Clock;
use certlib_core::conformance::store::StoreHarness;
use certlib_core::memory::MemoryStore;
use certlib_core::store::SharedStore;
use certlib_store_sql::MysqlStore;
use tokio::sync::Mutex;

use self::mysql_support::{Database, left_out, options, secret};

#[derive(Default)]
struct Mysql {
    databases: Mutex<Vec<Database>>,
}

#[async_trait::async_trait]
impl StoreHarness for Mysql {
    async fn open(&self, clock: Arc<dyn Clock>) -> SharedStore {
        let database = Database::fresh().await;
        if left_out(&database) {
            eprintln!("mariadb was left out on purpose: this case says nothing about it");
            return Arc::new(MemoryStore::new(clock));
        }
        let database = database.unwrap();
        let store = MysqlStore::connect(&secret(&database.url), options().with_clock(clock)).await.unwrap();
        self.databases.lock().await.push(database);
        Arc::new(store)
    }
}

certlib_core::store_conformance!(Mysql::default());
