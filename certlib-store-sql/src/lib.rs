//! certlib's store on SQL databases.
//!
//! - [`sqlite`]: one file, one host, no server: the embedded default.
//! - [`mysql`]: MySQL and MariaDB, shared by any number of processes and hosts.
//! - [`postgres`]: PostgreSQL, shared by any number of processes and hosts.
//!
//! ```
//! use certlib_core::queue::{JobQueue, Lane, NewJob};
//! use certlib_store_sql::{SqliteOptions, SqliteStore};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> certlib_core::Result<()> {
//! # let directory = std::env::temp_dir().join(format!("certlib-doc-{}", std::process::id()));
//! # std::fs::create_dir_all(&directory).unwrap();
//! let store = SqliteStore::open(directory.join("certlib.db"), SqliteOptions::new()).await?;
//! store.enqueue(vec![NewJob::new("greet", Lane::Notification, serde_json::json!({"name": "Ada"}))]).await?;
//! store.close().await;
//! # std::fs::remove_dir_all(&directory).unwrap();
//! # Ok(())
//! # }
//! ```

mod error;
mod ordered;
mod plan;

pub mod mysql;
pub mod postgres;
pub mod sqlite;

pub use crate::mysql::{MysqlOptions, MysqlStore, MysqlTls};
pub use crate::postgres::{PostgresOptions, PostgresStore};
pub use crate::sqlite::{SqliteOptions, SqliteStore};
