//! A node that can be told to die: runs workers on a SQLite store until nothing is left to do, or until the commit
//! with the given number, at which it kills itself with SIGKILL.
//!
//! `crash-node DIRECTORY [COMMIT before|after]`

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use certlib_core::conformance::dying::{Death, DyingStore};
use certlib_core::store::SharedStore;

#[path = "world.rs"]
mod world;

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1);
    let folder = PathBuf::from(args.next().expect("a directory"));
    let living: SharedStore = world::open_store(&folder).await;
    let mut store = living.clone();
    if let Some(nth) = args.next() {
        let nth = nth.parse().expect("the number of a commit");
        let death = if args.next().as_deref() == Some("after") { Death::After } else { Death::Before };
        store = DyingStore::with_last_words(store, nth, death, || {
            Command::new("kill").args(["-KILL", &std::process::id().to_string()]).status().unwrap();
            // The signal is on its way; nothing may happen meanwhile.
            loop {
                std::thread::park();
            }
        });
    }
    let running = world::runtime(store).start();
    loop {
        let stats = living.stats().await.expect("the store");
        if stats.by_kind.values().all(|depth| depth.pending + depth.in_progress == 0) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    running.shutdown().await;
}
