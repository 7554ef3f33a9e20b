//! Where the database is, and as whom to speak to it. Holds a password, so it never shows itself.

use std::fmt;
use std::str::FromStr as _;
use std::time::Duration;

use certlib_core::error::{Error, Result};
use certlib_core::secret::SecretString;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};

use super::error::{no_answer, store_error};
use super::options::PostgresOptions;

/// A connection that was idle for so long is asked whether it still lives before it is used.
const TRUSTED_IDLE: Duration = Duration::from_millis(250);

/// How to open a session.
#[derive(Clone)]
pub(super) struct Address {
    options: PgConnectOptions,
    settings: String,
    connect_timeout: Duration,
}

impl Address {
    pub(super) fn new(options: PgConnectOptions, store: &PostgresOptions) -> Self {
        let named = options.get_application_name().is_some();
        let options = if named { options } else { options.application_name("certlib") };
        let options = options.statement_cache_capacity(256).disable_statement_logging();
        Self { options, settings: settings(store), connect_timeout: store.connect_timeout }
    }

    /// Understands a URL. Its errors do not quote it.
    pub(super) fn parse(url: &SecretString) -> Result<PgConnectOptions> {
        let invalid = |message: &str| Error::validation("store.open", "url_invalid", message);
        let url = url.expose();
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(invalid("the URL does not begin with postgres://"));
        }
        // The cause may quote parts of the URL.
        let options = PgConnectOptions::from_str(url).map_err(|_| invalid("the URL cannot be understood"))?;
        let parameters = url.split_once('?').map_or("", |(_, parameters)| parameters);
        let names: Vec<&str> =
            parameters.split('&').map(|pair| pair.split_once('=').map_or(pair, |(name, _)| name)).collect();
        let given = |wanted: &[&str]| wanted.iter().any(|name| names.contains(name));
        // Who gives a root wants it used.
        let trusts_root = given(&["sslrootcert", "ssl-root-cert", "ssl-ca"]) && !given(&["sslmode", "ssl-mode"]);
        Ok(if trusts_root { options.ssl_mode(PgSslMode::VerifyFull) } else { options })
    }

    /// A session as it comes, for looking at the server.
    pub(super) async fn connect_plain(&self) -> Result<PgConnection> {
        match tokio::time::timeout(self.connect_timeout, self.options.connect()).await {
            Ok(connected) => connected.map_err(|error| store_error("store.connect", error)),
            Err(_) => Err(no_answer("store.connect")),
        }
    }

    /// A session with our settings.
    pub(super) async fn connect(&self) -> Result<PgConnection> {
        let mut connection = self.connect_plain().await?;
        prepare(&mut connection, self.settings.clone()).await.map_err(|error| store_error("store.connect", error))?;
        Ok(connection)
    }

    /// At most `size` sessions with our settings, opened when they are needed.
    pub(super) fn pool(&self, size: u32) -> PgPool {
        let settings = self.settings.clone();
        PgPoolOptions::new()
            .max_connections(size)
            .acquire_timeout(self.connect_timeout)
            // A busy connection proves itself; asking each time would cost a round trip.
            .test_before_acquire(false)
            .before_acquire(|connection, state| {
                Box::pin(async move {
                    if state.idle_for < TRUSTED_IDLE {
                        return Ok(true);
                    }
                    Ok(matches!(tokio::time::timeout(Duration::from_secs(5), connection.ping()).await, Ok(Ok(()))))
                })
            })
            .after_connect(move |connection, _| {
                let settings = settings.clone();
                Box::pin(async move { prepare(connection, settings).await })
            })
            .connect_lazy_with(self.options.clone())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Address")
            .field("host", &self.options.get_host())
            .field("port", &self.options.get_port())
            .field("database", &self.options.get_database())
            .field("user", &self.options.get_username())
            .finish_non_exhaustive()
    }
}

async fn prepare(connection: &mut PgConnection, settings: String) -> sqlx::Result<()> {
    // Numbers and the constants of `settings`.
    sqlx::raw_sql(AssertSqlSafe(settings)).execute(connection).await.map(drop)
}

/// What every session of ours begins with.
fn settings(options: &PostgresOptions) -> String {
    let millis = |wait: Duration| wait.as_millis().max(1);
    let seconds = |wait: Duration| wait.as_secs().max(1);
    let dead = options.tcp_user_timeout;
    [
        format!("SET statement_timeout = {}", millis(options.statement_timeout)),
        format!("SET lock_timeout = {}", millis(options.lock_timeout)),
        format!("SET idle_in_transaction_session_timeout = {}", millis(options.idle_in_transaction_timeout)),
        format!("SET tcp_user_timeout = {}", millis(dead)),
        format!("SET tcp_keepalives_idle = {}", seconds(dead / 2)),
        format!("SET tcp_keepalives_interval = {}", seconds(dead / 6)),
        "SET tcp_keepalives_count = 3".to_owned(),
        "SET default_transaction_isolation = 'read committed'".to_owned(),
        // Nobody may weaken it behind our back after the store was opened.
        "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
            .to_owned(),
        // The listener and the leader are idle by design.
        "SELECT set_config('idle_session_timeout', '0', false) \
         WHERE current_setting('server_version_num')::integer >= 140000"
            .to_owned(),
        // Every statement is written to walk an index. What the planner may guess about young tables must not talk it
        // into anything else, and a plan must not outlive the size of the tables it was made for.
        "SET enable_seqscan = off".to_owned(),
        "SET enable_bitmapscan = off".to_owned(),
        "SET enable_hashjoin = off".to_owned(),
        "SET enable_mergejoin = off".to_owned(),
        "SET plan_cache_mode = force_custom_plan".to_owned(),
        "SET jit = off".to_owned(),
    ]
    .join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<PgConnectOptions> {
        Address::parse(&url.to_owned().into())
    }

    #[test]
    fn a_root_means_verify_full_unless_said_otherwise() {
        for (parameters, mode) in [
            ("?sslrootcert=/r.pem", "VerifyFull"),
            ("?application_name=x&ssl-ca=/r.pem", "VerifyFull"),
            ("?sslrootcert=/r.pem&sslmode=verify-ca", "VerifyCa"),
            ("?sslmode=require", "Require"),
        ] {
            let options = parse(&format!("postgres://u@h/db{parameters}")).unwrap();
            assert_eq!(format!("{:?}", options.get_ssl_mode()), mode, "{parameters}");
        }
    }

    #[test]
    fn a_password_shows_nowhere() {
        let options = parse("postgres://user:canary@127.0.0.1:1/db").unwrap();
        let address = Address::new(options, &PostgresOptions::new());
        assert!(!format!("{address:?}").contains("canary"));
        for url in ["canary", "mysql://u:canary@h/db", "postgres://u:canary@h:x/", "postgres://h/db?sslmode=canary"] {
            let error = parse(url).unwrap_err();
            assert_eq!(error.code(), "url_invalid");
            assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
        }
    }
}
