#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "postgres_support/mod.rs"]
mod support;

use std::sync::Arc;

use certlib_core::clock::Clock;
use certlib_core::conformance::store::StoreHarness;
use certlib_core::memory::MemoryStore;
use certlib_core::store::SharedStore;

struct Real;

#[async_trait::async_trait]
impl StoreHarness for Real {
    async fn open(&self, clock: Arc<dyn Clock>) -> SharedStore {
        if support::left_out().await {
            eprintln!("this case says nothing about postgres");
            return Arc::new(MemoryStore::new(clock));
        }
        Arc::new(support::open_with_clock(&support::database().await, clock).await)
    }
}

certlib_core::store_conformance!(Real);
