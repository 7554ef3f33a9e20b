use certlib_core::error::{Error, ErrorClass};
use certlib_core::store::StoreExt;
use certlib_store_sql::{MysqlOptions, MysqlStore, MysqlTls};
use certlib_testkit::counterpart::Mariadb;
use certlib_testkit::pki::TestCa;
use certlib_testkit::require;
use sqlx::Row;

use crate::mysql_support::{Database, raw, secret};
use crate::support::Item;

async fn refused(url: &str) -> Error {
    MysqlStore::connect(&secret(url), MysqlOptions::new()).await.map(drop).expect_err("should have been refused")
}

fn value<'a>(error: &'a Error, wanted: &str) -> &'a str {
    error.context().find(|(key, _)| *key == wanted).map_or("", |(_, value)| value)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_lose_what_they_acknowledged_are_refused() {
    let server = Mariadb::builder().option("log-bin", "log").option("sync-binlog", "1").option("server-id", "7");
    let server = require!(server.start().await);
    let url = server.create_database("certlib").await.unwrap();
    MysqlStore::connect(&secret(&url), MysqlOptions::new()).await.unwrap().close().await;
    for (bad, good, code, setting, found, needed) in [
        (
            "innodb_flush_log_at_trx_commit = 2",
            "innodb_flush_log_at_trx_commit = 1",
            "durability_off",
            "innodb_flush_log_at_trx_commit",
            "2",
            "1",
        ),
        (
            "innodb_flush_log_at_trx_commit = 0",
            "innodb_flush_log_at_trx_commit = 1",
            "durability_off",
            "innodb_flush_log_at_trx_commit",
            "0",
            "1",
        ),
        ("sync_binlog = 0", "sync_binlog = 1", "durability_off", "sync_binlog", "0", "1"),
        (
            "binlog_format = STATEMENT",
            "binlog_format = MIXED",
            "binlog_format",
            "binlog_format",
            "STATEMENT",
            "ROW or MIXED",
        ),
        ("read_only = 1", "read_only = 0", "server_read_only", "read_only", "ON", "OFF"),
        (
            "default_storage_engine = MyISAM",
            "default_storage_engine = InnoDB",
            "engine_unsuitable",
            "default_storage_engine",
            "MyISAM",
            "InnoDB",
        ),
        (
            "max_allowed_packet = 1048576",
            "max_allowed_packet = 16777216",
            "packet_too_small",
            "max_allowed_packet",
            "1048576",
            "4194304",
        ),
    ] {
        server.sql(&format!("SET GLOBAL {bad}")).await.unwrap();
        let error = refused(&url).await;
        server.sql(&format!("SET GLOBAL {good}")).await.unwrap();
        assert_eq!((error.code(), error.class()), (code, ErrorClass::IoPermanent), "{bad}: {error:?}");
        let said = (value(&error, "setting"), value(&error, "found"), value(&error, "needed"));
        assert_eq!(said, (setting, found, needed), "{error:?}");
    }
    server.sql("SET GLOBAL init_connect = 'SET SESSION timestamp = 1500000000'").await.unwrap();
    let error = refused(&url).await;
    assert_eq!((error.code(), value(&error, "setting")), ("clock_skew", "server time"), "{error:?}");
    assert!(value(&error, "found").starts_with("2017-07-14"), "{error:?}");
    server.sql("SET GLOBAL init_connect = ''").await.unwrap();

    server.sql("SET GLOBAL innodb_flush_log_at_trx_commit = 2").await.unwrap();
    let relaxed = MysqlOptions::new().allow_unsafe_durability_for_tests();
    MysqlStore::connect(&secret(&url), relaxed).await.unwrap().close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_without_transactions_are_refused() {
    let database = require!(Database::fresh().await);
    database.open().await.close().await;
    database.server.sql(&format!("ALTER TABLE {}.certlib_leases ENGINE = MyISAM", database.name)).await.unwrap();
    let options = MysqlOptions::new().allow_unsafe_durability_for_tests();
    let error = MysqlStore::connect(&secret(&database.url), options).await.unwrap_err();
    assert_eq!(error.code(), "engine_unsuitable");
    assert_eq!((value(&error, "table"), value(&error, "found")), ("certlib_leases", "MyISAM"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_schema_is_left_alone() {
    let database = require!(Database::fresh().await);
    database.open().await.close().await;
    let mut connection = raw(&database.url).await;
    for (complete, statements) in [(1, 9), (0, 1)] {
        let insert = "INSERT INTO certlib_schema VALUES (99, ?, ?, 0)";
        sqlx::query(insert).bind(statements).bind(complete).execute(&mut connection).await.unwrap();
        let options = MysqlOptions::new().allow_unsafe_durability_for_tests();
        let error = MysqlStore::connect(&secret(&database.url), options).await.unwrap_err();
        assert_eq!((error.code(), error.class()), ("schema_version", ErrorClass::IoPermanent));
        assert_eq!((value(&error, "have"), value(&error, "need")), ("99", "1"));
        sqlx::query("DELETE FROM certlib_schema WHERE version = 99").execute(&mut connection).await.unwrap();
    }
    database.open().await.insert(Item::new("a", 1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_get_in_is_told_why_and_shown_no_password() {
    let database = require!(Database::fresh().await);
    let nobody = certlib_testkit::ports::free_addr().unwrap();
    let url = &database.url;
    let password = database.server.password();
    let wrong = url.replace(password, "canary");
    for (url, code, class) in [
        (wrong, "access_denied", ErrorClass::Auth),
        (url.replace(&database.name, "mysql"), "access_denied", ErrorClass::Auth),
        (format!("mysql://certlib:canary@{nobody}/x"), "unreachable", ErrorClass::Network),
        (url.replace("mysql://", "postgres://"), "url_invalid", ErrorClass::Validation),
        (url.replace(&database.name, ""), "url_invalid", ErrorClass::Validation),
    ] {
        let error = refused(&url).await;
        assert_eq!((error.code(), error.class()), (code, class), "{error:?}");
        let said = format!("{error:?}");
        assert!(!said.contains("canary") && !said.contains(password), "{said}");
    }
    let store = database.open().await;
    assert!(!format!("{store:?}").contains(password));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_verified_as_asked() {
    let ca = TestCa::new("database root").unwrap();
    let certificate = ca.issue(&["127.0.0.1"]).unwrap();
    let server = require!(Mariadb::builder().tls(certificate).start().await);
    let url = server.create_database("certlib").await.unwrap();
    let verified = MysqlOptions::new().with_tls(MysqlTls::VerifyIdentity);
    let error = MysqlStore::connect(&secret(&url), verified.clone()).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("tls_failed", ErrorClass::Network), "{error:?}");
    let store = MysqlStore::connect(&secret(&url), verified.with_tls_roots(ca.certificate_pem())).await.unwrap();
    store.insert(Item::new("a", 1)).await.unwrap();
    let plain = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'certlib'";
    assert!(server.sql(plain).await.unwrap().trim() != "0");
    server.sql("ALTER USER certlib REQUIRE SSL").await.unwrap();
    let error = MysqlStore::connect(&secret(&url), MysqlOptions::new().with_tls(MysqlTls::Disabled)).await.unwrap_err();
    assert_eq!(error.code(), "access_denied");
    store.close().await;

    let bare = require!(Database::fresh().await);
    let options = MysqlOptions::new().with_tls(MysqlTls::Required);
    assert_eq!(MysqlStore::connect(&secret(&bare.url), options).await.unwrap_err().code(), "tls_failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_number_may_open_an_empty_database_together() {
    let database = require!(Database::fresh().await);
    let opening = (0..6_i64).map(|n| {
        let url = database.url.clone();
        tokio::spawn(async move {
            let options = MysqlOptions::new().allow_unsafe_durability_for_tests();
            let store = MysqlStore::connect(&secret(&url), options).await.unwrap();
            store.insert(Item::new(n.to_string(), n)).await.unwrap();
        })
    });
    for opened in futures::future::join_all(opening).await {
        opened.unwrap();
    }
    let mut connection = raw(&database.url).await;
    let row = sqlx::query("SELECT COUNT(*) FROM certlib_records").fetch_one(&mut connection).await.unwrap();
    assert_eq!(row.get::<i64, _>(0), 6);
}
