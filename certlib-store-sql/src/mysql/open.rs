//! Connecting, or saying why not.

use std::net::IpAddr;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use certlib_core::error::{Error, Result};
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions, MySqlSslMode};
use sqlx::{ConnectOptions, Connection, MySqlConnection, MySqlPool};

use super::check::{self, Server};
use super::error::{connect_error, store_error};
use super::options::{MysqlOptions, MysqlTls};
use super::schema;

/// A connection that was not used for this long is asked whether it is alive before it is trusted.
const FRESH: Duration = Duration::from_secs(1);
/// How much longer than a statement an attempt may take, for the way there and back.
const SLACK: Duration = Duration::from_secs(10);

/// How to make connections that are ready for use.
#[derive(Clone)]
pub(super) struct Connector {
    base: MySqlConnectOptions,
    setup: Arc<str>,
    pub(super) packet: usize,
    acquire_timeout: Duration,
    pub(super) patience: Duration,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The options hold the password.
        f.debug_struct("Connector")
            .field("host", &self.base.get_host())
            .field("port", &self.base.get_port())
            .field("database", &self.base.get_database())
            .finish_non_exhaustive()
    }
}

impl Connector {
    /// A pool of up to `connections`, which are made when they are needed.
    pub(super) fn pool(&self, connections: u32) -> MySqlPool {
        let setup = self.setup.clone();
        MySqlPoolOptions::new()
            .max_connections(connections.max(1))
            .acquire_timeout(self.acquire_timeout)
            .idle_timeout(Duration::from_secs(600))
            .max_lifetime(None)
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move {
                    if meta.idle_for >= FRESH {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .after_connect(move |connection, _| {
                let setup = setup.clone();
                Box::pin(async move { set_up(connection, &setup).await })
            })
            .connect_lazy_with(self.base.clone())
    }

    /// A connection outside any pool.
    pub(super) async fn connect(&self) -> sqlx::Result<MySqlConnection> {
        let connect = async {
            let mut connection = self.base.connect().await?;
            set_up(&mut connection, &self.setup).await?;
            Ok(connection)
        };
        tokio::time::timeout(self.acquire_timeout, connect).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }
}

async fn set_up(connection: &mut MySqlConnection, setup: &Arc<str>) -> sqlx::Result<()> {
    // Put together from constants and numbers.
    sqlx::raw_sql(sqlx::AssertSqlSafe(setup.to_string())).execute(connection).await.map(drop)
}

/// Checks the server, brings the schema up to date, and returns how to connect.
pub(super) async fn open(url: &str, options: &MysqlOptions) -> Result<Connector> {
    let base = connect_options(url, options)?;
    let located = |error: Error| error.with("host", base.get_host()).with("port", base.get_port());
    let mut connection = tokio::time::timeout(options.acquire_timeout, base.connect())
        .await
        .unwrap_or(Err(sqlx::Error::PoolTimedOut))
        .map_err(|error| located(open_error(error)))?;
    let patience = options.statement_timeout + SLACK;
    let prepared = prepare(&mut connection, options).await;
    // A failure to close adds nothing.
    let _ = tokio::time::timeout(SLACK, connection.close()).await;
    let server = prepared.map_err(located)?;
    let setup = setup(&server, options).into();
    Ok(Connector { setup, packet: server.packet, acquire_timeout: options.acquire_timeout, patience, base })
}

async fn prepare(connection: &mut MySqlConnection, options: &MysqlOptions) -> Result<Server> {
    let server = check::server(connection, options).await?;
    let common = "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', time_zone = '+00:00'";
    sqlx::raw_sql(common).execute(&mut *connection).await.map_err(|error| store_error("store.open", error))?;
    schema::migrate(connection).await?;
    check::tables(connection).await?;
    Ok(server)
}

/// What every session begins with.
fn setup(server: &Server, options: &MysqlOptions) -> String {
    let (lock, statement) = (options.lock_timeout.as_secs().max(1), options.statement_timeout.as_secs().max(1));
    let limits = if server.mariadb {
        // A holder that stops in the middle of a transaction keeps its successor waiting no longer than this.
        format!("max_statement_time = {statement}, idle_transaction_timeout = {statement}")
    } else {
        format!("max_execution_time = {}", statement * 1000)
    };
    format!(
        "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', time_zone = '+00:00', autocommit = 1, \
         lock_wait_timeout = {lock}, innodb_lock_wait_timeout = {lock}, {limits}; \
         SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"
    )
}

fn connect_options(url: &str, options: &MysqlOptions) -> Result<MySqlConnectOptions> {
    let invalid = |why: &'static str| Error::validation("store.open", "url_invalid", why);
    // The parser's error is left out: it may quote the password.
    if !["mysql://", "mariadb://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err(invalid("this is not a URL of a MySQL database"));
    }
    let parsed = MySqlConnectOptions::from_str(url).map_err(|_| invalid("this is not a URL of a MySQL database"))?;
    if parsed.get_database().is_none_or(str::is_empty) {
        return Err(invalid("the URL names no database"));
    }
    let mode = match options.tls {
        Some(tls) => ssl_mode(tls),
        None if names_ssl_mode(url) => parsed.get_ssl_mode(),
        None if stays_here(&parsed) => MySqlSslMode::Preferred,
        None => MySqlSslMode::VerifyIdentity,
    };
    let parsed = match &options.tls_roots {
        Some(pem) => parsed.ssl_ca_from_pem(pem.clone()),
        None => parsed,
    };
    Ok(parsed
        .ssl_mode(mode)
        .charset("utf8mb4")
        .pipes_as_concat(false)
        .no_engine_substitution(false)
        .timezone(None)
        .statement_cache_capacity(256)
        .disable_statement_logging())
}

fn names_ssl_mode(url: &str) -> bool {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    query.split('&').any(|pair| pair.starts_with("ssl-mode=") || pair.starts_with("sslmode="))
}

fn stays_here(options: &MySqlConnectOptions) -> bool {
    let host = options.get_host().trim_matches(['[', ']']);
    let loopback = host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    options.get_socket().is_some() || loopback || host == "localhost"
}

fn ssl_mode(tls: MysqlTls) -> MySqlSslMode {
    match tls {
        MysqlTls::Disabled => MySqlSslMode::Disabled,
        MysqlTls::Preferred => MySqlSslMode::Preferred,
        MysqlTls::Required => MySqlSslMode::Required,
        MysqlTls::VerifyCa => MySqlSslMode::VerifyCa,
        MysqlTls::VerifyIdentity => MySqlSslMode::VerifyIdentity,
    }
}

fn open_error(error: sqlx::Error) -> Error {
    match error {
        sqlx::Error::PoolTimedOut => Error::network("store.open", "unreachable", "the server did not answer in time"),
        other => connect_error("store.open", other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(url: &str, options: &MysqlOptions) -> MySqlSslMode {
        connect_options(url, options).unwrap().get_ssl_mode()
    }

    #[test]
    fn connections_that_leave_the_host_are_verified_unless_told_otherwise() {
        let options = MysqlOptions::new();
        for here in ["mysql://u:p@127.0.0.1/d", "mysql://u:p@localhost/d", "mysql://u:p@[::1]/d"] {
            assert!(matches!(mode(here, &options), MySqlSslMode::Preferred), "{here}");
        }
        assert!(matches!(mode("mysql://u:p@db.example/d", &options), MySqlSslMode::VerifyIdentity));
        assert!(matches!(mode("mysql://u:p@db.example/d?ssl-mode=REQUIRED", &options), MySqlSslMode::Required));
        let told = MysqlOptions::new().with_tls(MysqlTls::VerifyCa);
        assert!(matches!(mode("mysql://u:p@127.0.0.1/d?ssl-mode=DISABLED", &told), MySqlSslMode::VerifyCa));
    }

    #[test]
    fn a_bad_url_is_refused_without_showing_its_password() {
        for url in ["mysql://u:canary@127.0.0.1:x/d", "mysql://u:canary@127.0.0.1", "canary", "", "mysql://u:canary@/"]
        {
            let error = connect_options(url, &MysqlOptions::new()).unwrap_err();
            assert_eq!(error.code(), "url_invalid", "{url}");
            assert!(!format!("{error:?}").contains("canary"), "{error:?}");
        }
    }
}
