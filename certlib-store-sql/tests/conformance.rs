#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::sync::Arc;

use certlib_core::clock::Clock;
use certlib_core::conformance::store::StoreHarness;
use certlib_core::store::SharedStore;
use certlib_store_sql::{SqliteOptions, SqliteStore};
use tempfile::TempDir;

struct Sqlite {
    directory: TempDir,
}

impl Sqlite {
    fn new() -> Self {
        Self { directory: TempDir::new().unwrap() }
    }
}

#[async_trait::async_trait]
impl StoreHarness for Sqlite {
    async fn open(&self, clock: Arc<dyn Clock>) -> SharedStore {
        let path = self.directory.path().join("certlib.db");
        Arc::new(SqliteStore::open(path, SqliteOptions::new().with_clock(clock)).await.unwrap())
    }
}

certlib_core::store_conformance!(Sqlite::new());
