//! Databases: started for one bench, each bench in a database of its own.

use std::path::PathBuf;
use std::sync::Arc;

use certlib_core::clock::SystemClock;
use certlib_core::memory::MemoryStore;
use certlib_core::secret::Secret;
use certlib_core::store::SharedStore;
use certlib_store_mongo::{MongoOptions, MongoStore};
use certlib_store_sql::{MysqlOptions, MysqlStore, PostgresOptions, PostgresStore, SqliteOptions, SqliteStore};
use certlib_testkit::Error as TestkitError;
use certlib_testkit::counterpart::{Mariadb, MongoReplicaSet, Postgres};
use tempfile::TempDir;

use crate::Result;
use crate::floor::{Floor, MariadbFloor, MongodbFloor, PostgresFloor, SqliteFloor};

/// A kind of store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// In this process, and gone with it.
    Memory,
    /// A file.
    Sqlite,
    /// PostgreSQL as it comes: `fsync` and `synchronous_commit` on.
    Postgres,
    /// MariaDB as it comes: each commit on the disk.
    Mariadb,
    /// A replica set of one MongoDB, writes acknowledged by the majority with journal.
    Mongodb,
}

impl Backend {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Memory, Self::Sqlite, Self::Postgres, Self::Mariadb, Self::Mongodb];

    /// Its name in reports, on the command line and in `CERTLIB_WITHOUT`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
            Self::Mariadb => "mariadb",
            Self::Mongodb => "mongodb",
        }
    }

    /// Those of `candidates` that the command line names; all if it names none.
    pub fn wanted(candidates: &[Self]) -> Vec<Self> {
        let named = |backend: &Self| std::env::args().skip(1).any(|argument| argument == backend.name());
        if Self::ALL.iter().any(named) {
            candidates.iter().copied().filter(named).collect()
        } else {
            candidates.to_vec()
        }
    }
}

/// A database server at work. It ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    backend: Backend,
    process: Process,
}

#[derive(Debug)]
enum Process {
    None,
    Files(TempDir),
    Postgres(Postgres),
    Mariadb(Mariadb),
    Mongodb(MongoReplicaSet),
}

impl Server {
    /// Starts it. `None`, with a line about it, when `CERTLIB_WITHOUT` names it.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start(backend: Backend) -> Result<Option<Self>> {
        let process = match backend {
            Backend::Memory => Ok(Process::None),
            Backend::Sqlite => Ok(Process::Files(tempfile::tempdir()?)),
            // The sizes of a server as it comes, which the testkit makes smaller.
            Backend::Postgres => {
                let builder = Postgres::builder().durable().setting("shared_buffers", "128MB");
                builder.start().await.map(Process::Postgres)
            }
            Backend::Mariadb => {
                let builder = Mariadb::builder().option("innodb-buffer-pool-size", "128M");
                builder.option("innodb-log-file-size", "96M").start().await.map(Process::Mariadb)
            }
            Backend::Mongodb => MongoReplicaSet::start(1).await.map(Process::Mongodb),
        };
        match process {
            Ok(process) => Ok(Some(Self { backend, process })),
            Err(TestkitError::LeftOut { name }) => {
                eprintln!("left out: {name}");
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What it is.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// A new, empty database.
    ///
    /// # Errors
    /// As the server.
    pub async fn database(&self, name: &str) -> Result<Database> {
        let place = match &self.process {
            Process::None => Place::Memory(Arc::new(MemoryStore::new(SystemClock::shared()))),
            Process::Files(folder) => Place::Sqlite(folder.path().join(format!("{name}.db"))),
            Process::Postgres(server) => Place::Postgres(server.create_database(name).await?),
            Process::Mariadb(server) => Place::Mariadb(server.create_database(name).await?),
            Process::Mongodb(server) => Place::Mongodb { url: server.url(), name: name.to_owned() },
        };
        Ok(Database(place))
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn stop(self) -> Result<()> {
        match self.process {
            Process::None => {}
            Process::Files(folder) => folder.close()?,
            Process::Postgres(server) => server.stop().await?,
            Process::Mariadb(server) => server.stop().await?,
            Process::Mongodb(server) => server.stop().await?,
        }
        Ok(())
    }
}

/// An empty database.
#[derive(Debug, Clone)]
pub struct Database(Place);

#[derive(Debug, Clone)]
enum Place {
    Memory(SharedStore),
    Sqlite(PathBuf),
    Postgres(String),
    Mariadb(String),
    Mongodb { url: String, name: String },
}

impl Database {
    /// A store on it, as another process would open it. In memory it is always the same one.
    ///
    /// # Errors
    /// As the store.
    pub async fn open(&self) -> Result<SharedStore> {
        Ok(match &self.0 {
            Place::Memory(store) => store.clone(),
            Place::Sqlite(path) => Arc::new(SqliteStore::open(path, SqliteOptions::new()).await?),
            Place::Postgres(url) => {
                Arc::new(PostgresStore::connect(&Secret::new(url.clone()), PostgresOptions::new()).await?)
            }
            Place::Mariadb(url) => Arc::new(MysqlStore::connect(&Secret::new(url.clone()), MysqlOptions::new()).await?),
            Place::Mongodb { url, name } => {
                let options = MongoOptions::new().with_database(name);
                Arc::new(MongoStore::connect(&Secret::new(url.clone()), options).await?)
            }
        })
    }

    /// The same database without certlib; there is none in memory.
    ///
    /// # Errors
    /// As the database.
    pub async fn floor(&self) -> Result<Option<Arc<dyn Floor>>> {
        Ok(match &self.0 {
            Place::Memory(_) => None,
            Place::Sqlite(path) => Some(Arc::new(SqliteFloor::open(path).await?)),
            Place::Postgres(url) => Some(Arc::new(PostgresFloor::open(url).await?)),
            Place::Mariadb(url) => Some(Arc::new(MariadbFloor::open(url).await?)),
            Place::Mongodb { url, name } => Some(Arc::new(MongodbFloor::open(url, name).await?)),
        })
    }

    /// Its address, for statements of a bench's own; only where there is one.
    pub fn url(&self) -> Option<&str> {
        match &self.0 {
            Place::Memory(_) | Place::Sqlite(_) => None,
            Place::Postgres(url) | Place::Mariadb(url) | Place::Mongodb { url, .. } => Some(url),
        }
    }
}
