#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![cfg(feature = "conformance")]

use std::sync::Arc;

use certlib_core::clock::Clock;
use certlib_core::conformance::store::StoreHarness;
use certlib_core::memory::MemoryStore;
use certlib_core::store::SharedStore;

struct Memory;

#[async_trait::async_trait]
impl StoreHarness for Memory {
    async fn open(&self, clock: Arc<dyn Clock>) -> SharedStore {
        Arc::new(MemoryStore::new(clock))
    }
}

certlib_core::store_conformance!(Memory);
