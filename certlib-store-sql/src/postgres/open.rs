//! Looking at the server before anything is entrusted to it, and saying why not.

use std::fmt::Display;
use std::time::Duration;

use certlib_core::error::{Error, Result};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection, Row};

use super::address::Address;
use super::error::{no_answer, store_error};
use super::options::PostgresOptions;

/// PostgreSQL 12, which first had every setting and every kind of plan that the store relies on.
const VERSION_NEEDED: i64 = 120_000;
/// How far the database's clock may be from ours.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(10);
/// How often the sessions are compared. Behind a pooler of transactions every comparison has a fair chance to tell.
const POOLER_ROUNDS: usize = 3;
/// How long a server that hands out one session at a time is waited for.
const POOLER_PATIENCE: Duration = Duration::from_secs(3);

/// What the server says about itself.
const LOOK: &str = "SELECT current_setting('server_version_num')::bigint,
    current_setting('server_encoding'),
    current_setting('synchronous_commit'),
    current_setting('fsync'),
    current_setting('full_page_writes'),
    current_setting('default_transaction_read_only'),
    pg_is_in_recovery(),
    coalesce(current_schema(), ''),
    floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint";

/// Looks at the server, and returns the schema that will hold the tables.
///
/// # Errors
/// `IoPermanent` with setting, found and needed when the server is not fit; as for any connection.
pub(super) async fn check(address: &Address, options: &PostgresOptions) -> Result<String> {
    let mut first = address.connect_plain().await?;
    let mut second = address.connect_plain().await?;
    let outcome = async {
        same_sessions(&mut first, &mut second).await?;
        look(&mut first, options).await
    }
    .await;
    // What a failed goodbye could tell is of no use.
    let _ = first.close().await;
    let _ = second.close().await;
    outcome
}

async fn look(connection: &mut PgConnection, options: &PostgresOptions) -> Result<String> {
    let before = options.local_clock.now();
    let row = one(connection, LOOK).await?;
    let after = options.local_clock.now();
    let server = Server::read(&row).map_err(|error| store_error("store.open", error))?;
    server.check(options.unsafe_durability)?;
    if options.clock.is_none() {
        server.check_clock(before, after)?;
    }
    Ok(server.schema)
}

struct Server {
    version: i64,
    encoding: String,
    synchronous_commit: String,
    fsync: String,
    full_page_writes: String,
    read_only: String,
    in_recovery: bool,
    schema: String,
    now: i64,
}

impl Server {
    fn read(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            version: row.try_get(0)?,
            encoding: row.try_get(1)?,
            synchronous_commit: row.try_get(2)?,
            fsync: row.try_get(3)?,
            full_page_writes: row.try_get(4)?,
            read_only: row.try_get(5)?,
            in_recovery: row.try_get(6)?,
            schema: row.try_get(7)?,
            now: row.try_get(8)?,
        })
    }

    fn check(&self, unsafe_durability: bool) -> Result<()> {
        if self.version < VERSION_NEEDED {
            let message = "this version of PostgreSQL is too old";
            return refuse("postgres_version", message, "server_version_num", self.version, VERSION_NEEDED);
        }
        if self.encoding != "UTF8" {
            let message = "the database cannot keep every text";
            return refuse("encoding_unfit", message, "server_encoding", &self.encoding, "UTF8");
        }
        if self.in_recovery {
            let message = "the server is a standby: it takes no writes, and its reads lag behind";
            return refuse("hot_standby", message, "pg_is_in_recovery", "true", "false");
        }
        if self.read_only != "off" {
            let message = "the server takes no writes from this role or for this database";
            return refuse("read_only", message, "default_transaction_read_only", &self.read_only, "off");
        }
        if self.synchronous_commit == "off" {
            let message = "the server acknowledges commits that a crash can undo";
            return refuse("synchronous_commit_off", message, "synchronous_commit", "off", "on");
        }
        for (setting, value) in [("fsync", &self.fsync), ("full_page_writes", &self.full_page_writes)] {
            if value != "on" && !unsafe_durability {
                let message = "a power cut can make the server lose or damage what it acknowledged";
                return refuse("durability_off", message, setting, value, "on");
            }
        }
        if self.schema.is_empty() {
            let message = "no schema of the search path exists";
            return refuse("schema_missing", message, "search_path", "none", "an existing schema");
        }
        Ok(())
    }

    fn check_clock(&self, before: time::OffsetDateTime, after: time::OffsetDateTime) -> Result<()> {
        let found = time::Duration::milliseconds(self.now);
        let (before, after) = (before - time::OffsetDateTime::UNIX_EPOCH, after - time::OffsetDateTime::UNIX_EPOCH);
        let ahead = (found - after).max(time::Duration::ZERO);
        let behind = (before - found).max(time::Duration::ZERO);
        if ahead.max(behind) <= CLOCK_TOLERANCE {
            return Ok(());
        }
        let seconds = if ahead > behind { ahead.whole_seconds() } else { -behind.whole_seconds() };
        let message = "the clocks of this host and of the database disagree";
        let needed = format!("at most {} s apart", CLOCK_TOLERANCE.as_secs());
        refuse("clock_skew", message, "clock", format_args!("{seconds} s from ours"), needed)
    }
}

fn refuse<T>(
    code: &'static str,
    message: &'static str,
    setting: &'static str,
    found: impl Display,
    needed: impl Display,
) -> Result<T> {
    let error = Error::permanent("store.open", code, message);
    Err(error.with("setting", setting).with("found", found).with("needed", needed))
}

/// Fails unless each of two connections has a server session of its own, and keeps it.
///
/// A pooler of transactions hands a session from client to client: what a `SET`, a `LISTEN` or a prepared statement
/// left in it is then somebody else's, and the leader's session says nothing about the leader.
async fn same_sessions(first: &mut PgConnection, second: &mut PgConnection) -> Result<()> {
    let pooled = || {
        let message = "a pooler that hands sessions from client to client is in between";
        refuse("transaction_pooler", message, "pool_mode", "transaction", "session, or no pooler")
    };
    let compare = async {
        for _ in 0..POOLER_ROUNDS {
            let before = session(first).await?;
            run(second, "BEGIN").await?;
            let other = session(second).await?;
            let after = session(first).await;
            run(second, "ROLLBACK").await?;
            if before == other || after? != before {
                return pooled();
            }
        }
        Ok(())
    };
    match tokio::time::timeout(POOLER_PATIENCE, compare).await {
        Ok(compared) => compared,
        // One session for two clients: the second transaction waits for the first.
        Err(_) => pooled(),
    }
}

async fn session(connection: &mut PgConnection) -> Result<i32> {
    let row = one(connection, "SELECT pg_backend_pid()").await?;
    row.try_get(0).map_err(|error| store_error("store.open", error))
}

/// By the simple protocol: a pooler may not know statements that were prepared.
async fn one(connection: &mut PgConnection, sql: &'static str) -> Result<PgRow> {
    use sqlx::Executor as _;
    match tokio::time::timeout(CLOCK_TOLERANCE, connection.fetch_one(sqlx::raw_sql(sql))).await {
        Ok(row) => row.map_err(|error| store_error("store.open", error)),
        Err(_) => Err(no_answer("store.open")),
    }
}

async fn run(connection: &mut PgConnection, sql: &'static str) -> Result<()> {
    sqlx::raw_sql(sql).execute(connection).await.map(drop).map_err(|error| store_error("store.open", error))
}

#[cfg(test)]
mod tests {
    use certlib_core::error::ErrorClass;
    use time::OffsetDateTime;

    use super::*;

    fn fit() -> Server {
        let on = || "on".to_owned();
        Server {
            version: 150_018,
            encoding: "UTF8".to_owned(),
            synchronous_commit: on(),
            fsync: on(),
            full_page_writes: on(),
            read_only: "off".to_owned(),
            in_recovery: false,
            schema: "public".to_owned(),
            now: 0,
        }
    }

    #[test]
    fn each_unfit_setting_is_named() {
        fit().check(false).unwrap();
        let off = || "off".to_owned();
        for (server, code) in [
            (Server { version: 110_022, ..fit() }, "postgres_version"),
            (Server { encoding: "SQL_ASCII".to_owned(), ..fit() }, "encoding_unfit"),
            (Server { in_recovery: true, ..fit() }, "hot_standby"),
            (Server { read_only: "on".to_owned(), ..fit() }, "read_only"),
            (Server { synchronous_commit: off(), ..fit() }, "synchronous_commit_off"),
            (Server { fsync: off(), ..fit() }, "durability_off"),
            (Server { full_page_writes: off(), ..fit() }, "durability_off"),
            (Server { schema: String::new(), ..fit() }, "schema_missing"),
        ] {
            let error = server.check(false).unwrap_err();
            assert_eq!((error.code(), error.class()), (code, ErrorClass::IoPermanent));
            let keys: Vec<_> = error.context().map(|(key, _)| key).collect();
            assert_eq!(keys, ["setting", "found", "needed"]);
        }
        Server { fsync: off(), full_page_writes: off(), ..fit() }.check(true).unwrap();
        let weak = Server { synchronous_commit: off(), ..fit() };
        assert_eq!(weak.check(true).unwrap_err().code(), "synchronous_commit_off", "no test needs that");
    }

    #[test]
    fn clocks_may_be_ten_seconds_apart() {
        let at = |seconds: i64| OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(seconds);
        let server = |seconds: i64| Server { now: seconds * 1000, ..fit() };
        for fine in [90, 95, 100, 110, 112] {
            server(fine).check_clock(at(100), at(102)).unwrap();
        }
        for (off, found) in [(89, "-11 s from ours"), (113, "11 s from ours")] {
            let error = server(off).check_clock(at(100), at(102)).unwrap_err();
            assert_eq!(error.code(), "clock_skew");
            assert!(error.to_string().contains(found), "{error}");
        }
    }
}
