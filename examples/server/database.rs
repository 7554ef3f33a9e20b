//! Which database, and opening it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use certlib_core::clock::Clock;
use certlib_core::secret::SecretString;
use certlib_core::store::SharedStore;
use certlib_core::{Error, Result, Secret};
use certlib_store_mongo::{MongoOptions, MongoStore};
use certlib_store_sql::{MysqlOptions, MysqlStore, PostgresOptions, PostgresStore, SqliteOptions, SqliteStore};

use crate::config::Config;

const OPERATION: &str = "server.database";

/// Where a database is. The password in its URL makes it a secret.
#[derive(Debug)]
pub(crate) struct Location {
    kind: Kind,
    url: SecretString,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Sqlite(PathBuf),
    Postgres,
    Mysql,
    Mongo,
}

/// An open database.
#[derive(Debug)]
pub(crate) struct Database {
    pub(crate) store: SharedStore,
    handle: Handle,
}

#[derive(Debug)]
enum Handle {
    Sqlite(Arc<SqliteStore>),
    Postgres(Arc<PostgresStore>),
    Mysql(Arc<MysqlStore>),
    /// Closes its connections when it is dropped.
    Mongo,
}

impl Location {
    /// The database of `config`, or that of `url`, which wins.
    ///
    /// # Errors
    /// `database_invalid`, without quoting the URL.
    pub(crate) fn of(config: &Config, url: Option<SecretString>) -> Result<Self> {
        let configured = || config.database.clone().map(Secret::new);
        match url.or_else(configured) {
            Some(url) => Ok(Self { kind: Kind::of(url.expose())?, url }),
            None => Ok(Self::sqlite(config.data_dir.join("certlib.db"))),
        }
    }

    fn sqlite(file: PathBuf) -> Self {
        Self { kind: Kind::Sqlite(file), url: Secret::new(String::new()) }
    }

    /// Whether this may be a database that nobody used before. One that is shared never is: other nodes may use it.
    pub(crate) fn is_fresh(&self) -> bool {
        self.file().is_some_and(|file| !file.exists())
    }

    /// The file, if it is one.
    pub(crate) fn file(&self) -> Option<&Path> {
        match &self.kind {
            Kind::Sqlite(file) => Some(file),
            Kind::Postgres | Kind::Mysql | Kind::Mongo => None,
        }
    }

    /// Opens it; makes its tables, and its file if it is one, where they are missing.
    ///
    /// # Errors
    /// As the stores; none holds the password.
    pub(crate) async fn open(&self, clock: Arc<dyn Clock>) -> Result<Database> {
        match &self.kind {
            Kind::Sqlite(file) => {
                let store = Arc::new(SqliteStore::open(file, SqliteOptions::new().with_clock(clock)).await?);
                Ok(Database { store: store.clone(), handle: Handle::Sqlite(store) })
            }
            Kind::Postgres => {
                let options = PostgresOptions::new().with_clock(clock);
                let store = Arc::new(PostgresStore::connect(&self.url, options).await?);
                Ok(Database { store: store.clone(), handle: Handle::Postgres(store) })
            }
            Kind::Mysql => {
                let store = Arc::new(MysqlStore::connect(&self.url, MysqlOptions::new().with_clock(clock)).await?);
                Ok(Database { store: store.clone(), handle: Handle::Mysql(store) })
            }
            Kind::Mongo => {
                let store = MongoStore::connect(&self.url, MongoOptions::new().with_clock(clock)).await?;
                Ok(Database { store: Arc::new(store), handle: Handle::Mongo })
            }
        }
    }

    /// Opens it if it is there: a command that looks at a database makes none.
    ///
    /// # Errors
    /// `database_missing`; as [`Location::open`].
    pub(crate) async fn open_existing(&self, clock: Arc<dyn Clock>) -> Result<Database> {
        if let Some(file) = self.file()
            && !file.exists()
        {
            let why = "there is no database; name that of the server with --config, CERTLIB_DATA_DIR or CERTLIB_DATABASE_URL, and start the server once";
            return Err(Error::validation(OPERATION, "database_missing", why).with("file", file.display()));
        }
        self.open(clock).await
    }
}

impl fmt::Display for Location {
    /// For people, without login and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Sqlite(file) => write!(f, "SQLite in {}", file.display()),
            Kind::Postgres => f.write_str("PostgreSQL"),
            Kind::Mysql => f.write_str("MySQL"),
            Kind::Mongo => f.write_str("MongoDB"),
        }
    }
}

impl Kind {
    fn of(url: &str) -> Result<Self> {
        let invalid = |why: &'static str| Err(Error::validation(OPERATION, "database_invalid", why));
        let Some((scheme, rest)) = url.split_once(':') else {
            return invalid("a database is named like sqlite:FILE, postgres://…, mysql://… or mongodb://…");
        };
        match scheme {
            "sqlite" => match rest.strip_prefix("//").unwrap_or(rest) {
                "" => invalid("the database needs the name of a file: sqlite:FILE"),
                file if file.contains('?') => invalid("the name of a SQLite file takes no parameters"),
                file => Ok(Self::Sqlite(PathBuf::from(file))),
            },
            "postgres" | "postgresql" => Ok(Self::Postgres),
            "mysql" | "mariadb" => Ok(Self::Mysql),
            "mongodb" | "mongodb+srv" => Ok(Self::Mongo),
            _ => invalid("the database is of an unknown kind; known are sqlite, postgres, mysql and mongodb"),
        }
    }
}

/// Fails unless `url` may stand in a configuration file.
///
/// # Errors
/// Why it may not, without quoting it.
pub(crate) fn check(url: &str) -> Result<(), String> {
    Kind::of(url).map_err(|error| error.message().to_owned())?;
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    let (authority, query) = rest.split_once(['/', '?']).unwrap_or((rest, ""));
    let login = authority.rsplit_once('@').map_or("", |(login, _)| login);
    if login.contains(':') || query.to_ascii_lowercase().contains("password=") {
        return Err(
            "a password does not belong in a configuration file; give the URL in CERTLIB_DATABASE_URL".to_owned()
        );
    }
    Ok(())
}

impl Database {
    /// Ends what is under way and closes all connections.
    pub(crate) async fn close(&self) {
        match &self.handle {
            Handle::Sqlite(store) => store.close().await,
            Handle::Postgres(store) => store.close().await,
            Handle::Mysql(store) => store.close().await,
            Handle::Mongo => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_are_known_by_their_scheme() {
        let kinds = [
            ("sqlite:certlib.db", Kind::Sqlite("certlib.db".into())),
            ("sqlite:///var/lib/certlib.db", Kind::Sqlite("/var/lib/certlib.db".into())),
            ("postgres://db/certlib", Kind::Postgres),
            ("postgresql://db/certlib", Kind::Postgres),
            ("mysql://db/certlib", Kind::Mysql),
            ("mongodb+srv://db/certlib", Kind::Mongo),
        ];
        for (url, kind) in kinds {
            assert_eq!(Kind::of(url).unwrap(), kind, "{url}");
        }
        for url in ["", "certlib.db", "sqlite:", "sqlite://", "sqlite:a?mode=ro", "redis://db", "POSTGRES://db"] {
            assert_eq!(Kind::of(url).unwrap_err().code(), "database_invalid", "{url}");
        }
    }

    #[test]
    fn passwords_stay_out_of_configuration_files() {
        for url in ["postgres://certlib@db/certlib", "mongodb://one:27017,two:27017/certlib", "sqlite:a:b@c"] {
            check(url).unwrap();
        }
        for url in [
            "postgres://certlib:canary@db/certlib",
            "postgres://db/certlib?user=x&password=canary",
            "mysql://certlib:canary@db",
            "mongodb://certlib:ca@nary@one,two/?x=y",
        ] {
            let why = check(url).unwrap_err();
            assert!(why.contains("CERTLIB_DATABASE_URL") && !why.contains("canary"), "{why}");
        }
    }

    #[test]
    fn the_environment_wins_and_is_not_shown() {
        let config = Config { database: Some("sqlite:here.db".to_owned()), ..Config::default() };
        assert_eq!(Location::of(&config, None).unwrap().file(), Some(Path::new("here.db")));
        let url = Secret::new("postgres://certlib:canary@db/certlib".to_owned());
        let location = Location::of(&config, Some(url)).unwrap();
        assert_eq!(location.kind, Kind::Postgres);
        assert!(!location.is_fresh(), "others may use it");
        assert!(!format!("{location:?} {location}").contains("canary"));
    }
}
