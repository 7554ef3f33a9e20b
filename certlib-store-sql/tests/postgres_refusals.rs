#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "postgres_support/mod.rs"]
mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::sync::Arc;
use std::time::Duration;

use certlib_core::clock::{Clock, ManualClock, SystemClock};
use certlib_core::error::{Error, ErrorClass};
use certlib_core::store::StoreExt;
use certlib_store_sql::{PostgresOptions, PostgresStore};
use certlib_testkit::counterpart::Postgres;
use certlib_testkit::locate::locate;
use certlib_testkit::pki::TestCa;
use certlib_testkit::{ports, require};
use sqlx::Connection;

use self::support::{Item, database, execute, open, options, raw, secret, server};

async fn refused(url: &str, options: PostgresOptions) -> Error {
    let error = PostgresStore::connect(&secret(url), options).await.expect_err("should have been refused");
    let mut connection = match sqlx::postgres::PgConnection::connect(url).await {
        Ok(connection) => connection,
        Err(_) => return error,
    };
    let tables = "SELECT count(*) FROM pg_tables WHERE tablename LIKE 'certlib%'";
    assert_eq!(support::number(&mut connection, tables).await, 0, "nothing is written to what is refused");
    error
}

#[track_caller]
fn assert_refusal(error: &Error, code: &str, setting: &str, found: &str, needed: &str) {
    assert_eq!((error.code(), error.class()), (code, ErrorClass::IoPermanent), "{error:?}");
    let context: Vec<_> = error.context().collect();
    assert_eq!(context, [("setting", setting), ("found", found), ("needed", needed)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_forgets_is_refused() {
    if support::left_out().await {
        return;
    }
    let url = database().await;
    let error = refused(&url, PostgresOptions::new()).await;
    assert_refusal(&error, "durability_off", "fsync", "off", "on");

    let durable = Postgres::builder().durable().start().await.unwrap();
    PostgresStore::connect(&secret(&durable.url()), PostgresOptions::new()).await.unwrap().close().await;
    let torn = Postgres::builder().durable().setting("full_page_writes", "off").start().await.unwrap();
    let error = refused(&torn.url(), PostgresOptions::new()).await;
    assert_refusal(&error, "durability_off", "full_page_writes", "off", "on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_must_be_synchronous() {
    if support::left_out().await {
        return;
    }
    for scope in ["DATABASE", "ROLE"] {
        let url = database().await;
        let name = url.rsplit('/').next().unwrap().to_owned();
        let mut connection = raw(&url).await;
        let role = format!("role_{name}");
        execute(&mut connection, &format!("CREATE ROLE {role} LOGIN SUPERUSER")).await;
        let whom = if scope == "ROLE" { &role } else { &name };
        execute(&mut connection, &format!("ALTER {scope} {whom} SET synchronous_commit = off")).await;
        let error = refused(&url.replace("postgres@", &format!("{role}@")), options()).await;
        assert_refusal(&error, "synchronous_commit_off", "synchronous_commit", "off", "on");
    }
}

/// Who weakens it after the store was opened weakens nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_stay_synchronous() {
    if support::left_out().await {
        return;
    }
    let url = database().await;
    let store = open(&url).await;
    let name = url.rsplit('/').next().unwrap().to_owned();
    let mut connection = raw(&url).await;
    execute(&mut connection, &format!("ALTER DATABASE {name} SET synchronous_commit = off")).await;
    // Says what a session of the store, opened only now, is set to.
    execute(
        &mut connection,
        "CREATE TABLE seen (value text);
         CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS
             $$BEGIN INSERT INTO seen VALUES (current_setting('synchronous_commit')); RETURN NULL; END$$;
         CREATE TRIGGER look AFTER INSERT ON certlib_records EXECUTE FUNCTION look()",
    )
    .await;
    let lane = certlib_core::store::Store::lane(&store, certlib_core::queue::Lane::Discovery).unwrap();
    lane.insert(Item::new("a", 1)).await.unwrap();
    let on = support::number(&mut connection, "SELECT count(*) FROM seen WHERE value = 'on'").await;
    assert_eq!(on, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_takes_no_writes_is_refused() {
    if support::left_out().await {
        return;
    }
    let url = database().await;
    let name = url.rsplit('/').next().unwrap().to_owned();
    execute(&mut raw(&url).await, &format!("ALTER DATABASE {name} SET default_transaction_read_only = on")).await;
    let error = refused(&url, options()).await;
    assert_refusal(&error, "read_only", "default_transaction_read_only", "on", "off");

    let standby = server().await.standby().await.unwrap();
    let error = refused(&standby.url(), options()).await;
    assert_refusal(&error, "hot_standby", "pg_is_in_recovery", "true", "false");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_text_must_fit() {
    if support::left_out().await {
        return;
    }
    let mut connection = raw(&server().await.url()).await;
    let create = "CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0";
    execute(&mut connection, create).await;
    let error = refused(&server().await.url_for("latin"), options()).await;
    assert_refusal(&error, "encoding_unfit", "server_encoding", "LATIN1", "UTF8");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_is_needed_and_may_be_chosen() {
    if support::left_out().await {
        return;
    }
    let url = database().await;
    let error = refused(&format!("{url}?options=-c%20search_path%3Dnowhere"), options()).await;
    assert_eq!(error.code(), "schema_missing", "{error:?}");
    let mut connection = raw(&url).await;
    execute(&mut connection, "CREATE SCHEMA one; CREATE SCHEMA two").await;
    let of = |schema: &str| format!("{url}?options=-c%20search_path%3D{schema}");
    let (one, two) = (open(&of("one")).await, open(&of("two")).await);
    one.insert(Item::new("a", 1)).await.unwrap();
    assert!(two.find::<Item>("a").await.unwrap().is_none());
    let count = "SELECT count(*) FROM one.certlib_records";
    assert_eq!(support::number(&mut connection, count).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_must_agree() {
    if support::left_out().await {
        return;
    }
    let url = database().await;
    let now = SystemClock::new().now();
    for (off, sign) in [(Duration::from_secs(600), ""), (Duration::from_secs(600), "-")] {
        let local = if sign.is_empty() { now - off } else { now + off };
        let error = refused(&url, options().with_local_clock(Arc::new(ManualClock::new(local)))).await;
        assert_eq!(error.code(), "clock_skew", "{error:?}");
        let found = error.context().find(|(key, _)| *key == "found").unwrap().1.to_owned();
        assert!(found.starts_with(&format!("{sign}6")) || found.starts_with(&format!("{sign}59")), "{found}");
    }
}

/// A pooler that lends sessions out by the transaction is recognised, whatever it does with its sessions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poolers_of_transactions_are_refused() {
    if support::left_out().await {
        return;
    }
    let program = require!(locate("pgbouncer").await);
    let backend = server().await.addr();
    for (mode, extra, refused_with) in [
        ("transaction", "", Some("transaction_pooler")),
        ("transaction", "default_pool_size = 1", Some("transaction_pooler")),
        ("transaction", "server_round_robin = 1", Some("transaction_pooler")),
        ("session", "", None),
    ] {
        let url = database().await;
        let name = url.rsplit('/').next().unwrap().to_owned();
        let folder = tempfile::TempDir::new().unwrap();
        let addr = ports::free_addr().unwrap();
        let config = folder.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n{name} = host=127.0.0.1 port={} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {}\nunix_socket_dir =\nauth_type = any\npool_mode = {mode}\n\
             ignore_startup_parameters = extra_float_digits\n{extra}\n",
            backend.port(),
            addr.port(),
        );
        fs::write(&config, text).unwrap();
        for path in [folder.path(), &config] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let mut command = std::process::Command::new(&program);
        // It refuses to be root, as the server does.
        if fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0) {
            command.args(["-u", "postgres"]);
        }
        command.arg(&config);
        let mut pooler = certlib_testkit::process::Child::spawn("pgbouncer", command, folder.path()).unwrap();
        pooler.wait_for_port(addr).await.unwrap();
        let pooled = format!("postgres://postgres@{addr}/{name}");
        match refused_with {
            Some(code) => {
                let error = PostgresStore::connect(&secret(&pooled), options()).await.unwrap_err();
                assert_refusal(&error, code, "pool_mode", "transaction", "session, or no pooler");
            }
            None => {
                let store = PostgresStore::connect(&secret(&pooled), options()).await.unwrap();
                store.insert(Item::new("a", 1)).await.unwrap();
                store.close().await;
            }
        }
        pooler.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_reached_is_named_and_no_password_shows() {
    if support::left_out().await {
        return;
    }
    let ca = TestCa::new("postgres root").unwrap();
    let builder = Postgres::builder().password().tls(&ca.issue(&["127.0.0.1"]).unwrap());
    let server = builder.start().await.unwrap();
    let folder = tempfile::TempDir::new().unwrap();
    let root = folder.path().join("root.pem");
    fs::write(&root, ca.certificate_pem()).unwrap();
    let foreign = folder.path().join("foreign.pem");
    fs::write(&foreign, TestCa::new("other root").unwrap().certificate_pem()).unwrap();
    let trusting = |root: &std::path::Path| format!("{}?sslrootcert={}", server.url(), root.display());
    let password = server.password().unwrap();

    let store = PostgresStore::connect(&secret(&trusting(&root)), options()).await.unwrap();
    store.insert(Item::new("a", 1)).await.unwrap();
    assert!(!format!("{store:?}").contains(password), "{store:?}");
    let plain = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                 WHERE application_name = 'certlib' AND NOT ssl";
    assert_eq!(server.psql("postgres", plain).await.unwrap(), "0", "every session is encrypted");
    store.close().await;

    let wrong = server.url().replace(password, "canary");
    let by_name = trusting(&root).replace("127.0.0.1", "localhost");
    for (url, code, class) in [
        (trusting(&foreign), "tls_failed", ErrorClass::Auth),
        (by_name, "tls_failed", ErrorClass::Auth),
        (format!("{}?sslmode=disable", server.url()), "login_refused", ErrorClass::Auth),
        (wrong, "login_refused", ErrorClass::Auth),
        (server.url_for("nowhere"), "database_missing", ErrorClass::IoPermanent),
        (format!("postgres://{}/x", ports::free_addr().unwrap()), "connection_lost", ErrorClass::Network),
    ] {
        let error = PostgresStore::connect(&secret(&url), options()).await.unwrap_err();
        assert_eq!((error.code(), error.class()), (code, class), "{error:?}");
        assert!(!format!("{error} {error:?}").contains(password) && !format!("{error:?}").contains("canary"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_text_can_hold_is_refused_or_not_there() {
    if support::left_out().await {
        return;
    }
    use certlib_core::lock::{LeaderLock, LeaseRequest};
    use certlib_core::queue::{Claim, ClaimRequest, JobQueue, Lane, Outcome, Settlement};
    use certlib_core::store::{Store, TypedQuery};
    let store = open(&database().await).await;
    assert!(store.get("item", "a\0").await.unwrap().is_none());
    assert!(store.job("a\0").await.unwrap().is_none());
    assert!(store.cancel("a\0").await.unwrap_err().is_not_found());
    let claim = Claim { job: "a\0".to_owned(), epoch: 1 };
    let done = Settlement { claim, outcome: Outcome::Succeeded, duration: Duration::ZERO };
    assert_eq!(store.settle(vec![done]).await.unwrap(), [false]);
    let beyond = TypedQuery::<Item>::new().at_least("number", "\0").order_by("number");
    assert!(store.list(beyond).await.unwrap().records.is_empty());
    let claim = ClaimRequest::new(Lane::Issuance, "work\0er", 1, Duration::from_secs(60));
    let lease = LeaseRequest::new("lead\0er", "node", "", Duration::from_secs(60));
    for error in [store.claim(&claim).await.unwrap_err(), store.acquire(&lease).await.unwrap_err()] {
        assert_eq!((error.code(), error.class()), ("value_invalid", ErrorClass::Validation), "{error:?}");
    }
}
