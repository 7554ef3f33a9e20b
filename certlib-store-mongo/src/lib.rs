//! The certlib store on MongoDB: any number of processes on any number of hosts share one replica set.
//!
//! - Every write is acknowledged when it is on the disks of a majority of the members, and every condition is checked
//!   by the write itself: losing the primary loses nothing that was acknowledged, and a process that was left behind
//!   changes nothing.
//! - Settings that would break that are refused when the store is opened.
//! - Times are those of the primary's clock. When another member takes over, leases are cut short or prolonged by as
//!   much as its clock differs: keep them in step. No promise depends on it, only punctuality.
//! - A change stream wakes the workers of other processes; without it they poll.
//! - Right after an election a read may, for a moment, not see the last writes that the former primary acknowledged.
//!   What is written on the strength of such a read is refused.
//!
//! ```no_run
//! use certlib_core::queue::{JobQueue, Lane, NewJob};
//! use certlib_store_mongo::{MongoOptions, MongoStore};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> certlib_core::Result<()> {
//! let url = "mongodb://db-1.internal,db-2.internal,db-3.internal/?replicaSet=rs0".to_owned().into();
//! let store = MongoStore::connect(&url, MongoOptions::new().with_database("certlib")).await?;
//! store.enqueue(vec![NewJob::new("greet", Lane::Notification, serde_json::json!({"name": "Ada"}))]).await?;
//! # Ok(())
//! # }
//! ```

mod commit;
mod database;
mod enqueue;
mod error;
mod gate;
mod job;
mod lease;
mod open;
mod options;
#[cfg(test)]
mod plans;
mod query;
mod queue;
mod record;
mod schema;
mod store;
mod transaction;
mod transition;
mod watch;

pub use self::options::MongoOptions;
pub use self::store::MongoStore;
