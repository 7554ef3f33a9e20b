//! Which servers can be trusted with what certlib stores.

use std::fmt::Display;
use std::time::Duration;

use certlib_core::clock::{Clock as _, SystemClock};
use certlib_core::error::{Error, Result};
use sqlx::mysql::MySqlRow;
use sqlx::{MySqlConnection, Row};

use super::error::store_error;
use super::job::text;
use super::options::MysqlOptions;
use certlib_core::store::timestamp::{from_millis, to_millis};

/// `SKIP LOCKED` and `JSON_TABLE` came with these.
const MARIADB_NEEDED: &str = "10.6.0";
const MYSQL_NEEDED: &str = "8.0.11";
/// A payload, escaped twice, and what belongs to it.
const PACKET_NEEDED: i64 = 4 * 1024 * 1024;
/// How far the server's clock may be from ours.
const SKEW_ALLOWED: Duration = Duration::from_secs(10);

const SETTINGS: &str = "SELECT CAST(VERSION() AS BINARY), CAST(@@innodb_flush_log_at_trx_commit AS SIGNED),
     CAST(@@log_bin AS SIGNED), CAST(@@sync_binlog AS SIGNED), CAST(@@binlog_format AS BINARY),
     CAST(@@global.read_only AS SIGNED), CAST(@@default_storage_engine AS BINARY),
     CAST(@@max_allowed_packet AS SIGNED), CAST(COALESCE(@@innodb_flush_method, '') AS BINARY),
     TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', UTC_TIMESTAMP(3)) DIV 1000";

const FOREIGN_ENGINES: &str = "SELECT CAST(table_name AS BINARY), CAST(engine AS BINARY)
     FROM information_schema.tables
     WHERE table_schema = DATABASE() AND table_name LIKE 'certlib\\_%' AND engine <> 'InnoDB' LIMIT 1";

/// What is known about the server.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) mariadb: bool,
    pub(super) packet: usize,
}

/// Refuses a server that could lose or damage what it acknowledged.
pub(super) async fn server(connection: &mut MySqlConnection, options: &MysqlOptions) -> Result<Server> {
    // As text: a server that is too old may not know how to prepare it.
    let row = sqlx::query("SELECT CAST(VERSION() AS BINARY)").fetch_one(&mut *connection).await.map_err(failed)?;
    let mariadb = check_version(text(&row, 0)?)?;
    let sent = SystemClock::new().now();
    let row = sqlx::query(SETTINGS).fetch_one(connection).await.map_err(failed)?;
    let received = SystemClock::new().now();
    if !options.unsafe_durability_allowed {
        check_durability(&row)?;
    }
    if number(&row, 5)? != 0 {
        return Err(refuse("server_read_only", "the server takes no writes", "read_only", "ON", "OFF"));
    }
    let engine = text(&row, 6)?;
    if !engine.eq_ignore_ascii_case("InnoDB") {
        return Err(foreign_engine("default_storage_engine", engine));
    }
    let packet = number(&row, 7)?;
    if packet < PACKET_NEEDED {
        let message = "the server refuses what certlib allows to store";
        return Err(refuse("packet_too_small", message, "max_allowed_packet", packet, PACKET_NEEDED));
    }
    let theirs = number(&row, 9)?;
    let early = to_millis(sent) - theirs;
    let late = theirs - to_millis(received);
    let skew = Duration::from_millis(u64::try_from(early.max(late)).unwrap_or(0));
    if skew > SKEW_ALLOWED {
        let found = from_millis(theirs)?;
        let needed = format!("within {} s of {received}", SKEW_ALLOWED.as_secs());
        return Err(refuse("clock_skew", "the server's clock is far from ours", "server time", found, needed));
    }
    Ok(Server { mariadb, packet: usize::try_from(packet).unwrap_or(usize::MAX) })
}

/// Refuses tables that are kept by an engine without transactions.
pub(super) async fn tables(connection: &mut MySqlConnection) -> Result<()> {
    let foreign = sqlx::query(FOREIGN_ENGINES).fetch_optional(connection).await.map_err(failed)?;
    match foreign {
        Some(row) => Err(foreign_engine("engine", text(&row, 1)?).with("table", text(&row, 0)?)),
        None => Ok(()),
    }
}

fn check_durability(row: &MySqlRow) -> Result<()> {
    let lossy = |setting, found: &dyn Display, needed: &str| {
        let message = "the server may forget acknowledged commits in a crash";
        Err(refuse("durability_off", message, setting, found, needed))
    };
    let flush = number(row, 1)?;
    // 3 does what 1 does, in an older way.
    if !matches!(flush, 1 | 3) {
        return lossy("innodb_flush_log_at_trx_commit", &flush, "1");
    }
    let (log_bin, sync) = (number(row, 2)? != 0, number(row, 3)?);
    if log_bin && sync != 1 {
        return lossy("sync_binlog", &sync, "1");
    }
    let method = text(row, 8)?;
    if ["nosync", "littlesync"].iter().any(|unsafe_method| method.eq_ignore_ascii_case(unsafe_method)) {
        return lossy("innodb_flush_method", &method, "fsync or O_DIRECT");
    }
    let format = text(row, 4)?;
    if log_bin && format.eq_ignore_ascii_case("STATEMENT") {
        let message = "the binary log of this format takes no transactions at READ COMMITTED";
        return Err(refuse("binlog_format", message, "binlog_format", format, "ROW or MIXED"));
    }
    Ok(())
}

/// Whether the server is MariaDB; fails unless it is recent enough.
fn check_version(found: &str) -> Result<bool> {
    // A MariaDB behind a proxy or a replica's handshake may say `5.5.5-10.6.12-MariaDB`.
    let mariadb = found.contains("MariaDB");
    let plain = found.strip_prefix("5.5.5-").filter(|_| mariadb).unwrap_or(found);
    let needed = if mariadb { MARIADB_NEEDED } else { MYSQL_NEEDED };
    if version(plain) >= version(needed) {
        return Ok(mariadb);
    }
    Err(refuse("server_version", "this server is too old", "version", found, needed))
}

fn version(text: &str) -> [u32; 3] {
    let numbers = text.split(|c: char| !c.is_ascii_digit() && c != '.').next().unwrap_or_default();
    let mut parts = numbers.split('.').map(|part| part.parse().unwrap_or(0));
    [(); 3].map(|()| parts.next().unwrap_or(0))
}

fn foreign_engine(setting: &'static str, found: &str) -> Error {
    refuse("engine_unsuitable", "only InnoDB keeps the promises of a transaction", setting, found, "InnoDB")
}

fn refuse(
    code: &'static str,
    message: &'static str,
    setting: &'static str,
    found: impl Display,
    needed: impl Display,
) -> Error {
    Error::permanent("store.open", code, message).with("setting", setting).with("found", found).with("needed", needed)
}

fn number(row: &MySqlRow, column: usize) -> Result<i64> {
    row.try_get(column).map_err(failed)
}

fn failed(error: sqlx::Error) -> Error {
    store_error("store.open", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_cannot_skip_locked_rows_are_refused() {
        for old in ["5.7.44-log", "8.0.1", "8.0.4-rc-log", "10.5.29-MariaDB-1:10.5", "5.5.5-10.5.2-MariaDB", "", "x"] {
            let error = check_version(old).unwrap_err();
            assert_eq!(error.code(), "server_version");
            let context: Vec<_> = error.context().collect();
            let needed = if old.contains("MariaDB") { MARIADB_NEEDED } else { MYSQL_NEEDED };
            assert_eq!(context, [("setting", "version"), ("found", old), ("needed", needed)]);
        }
        for mariadb in ["10.6.0-MariaDB", "10.11.19-MariaDB-0+deb12u1", "11.4.2-MariaDB-log", "5.5.5-10.6.12-MariaDB"] {
            assert!(check_version(mariadb).unwrap(), "{mariadb}");
        }
        for mysql in ["8.0.11", "8.0.36-0ubuntu0.22.04.1", "8.4.0", "9.1.0-commercial"] {
            assert!(!check_version(mysql).unwrap(), "{mysql}");
        }
    }
}
