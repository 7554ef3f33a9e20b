#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "postgres_support/mod.rs"]
mod support;

use certlib_core::error::ErrorClass;
use certlib_core::store::StoreExt;
use certlib_store_sql::PostgresStore;
use futures::future::join_all;

use self::support::{Item, assert_intact, database, execute, number, open, options, raw, secret};

const TABLES: &str = "SELECT count(*) FROM pg_tables WHERE tablename LIKE 'certlib%'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_schema_is_left_alone() {
    if support::left_out().await {
        return;
    }
    let url = database().await;
    open(&url).await.close().await;
    let mut connection = raw(&url).await;
    execute(&mut connection, "INSERT INTO certlib_schema VALUES (99, now())").await;
    let error = PostgresStore::connect(&secret(&url), options()).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("schema_version", ErrorClass::IoPermanent));
    assert_eq!(error.context().collect::<Vec<_>>(), [("have", "99"), ("need", "1")]);
    execute(&mut connection, "DELETE FROM certlib_schema WHERE version = 99").await;
    open(&url).await.insert(Item::new("a", 1)).await.unwrap();
}

/// The session of the migrator is killed after its first statement that changes the schema, then after its second, and
/// so on to the last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migrator_may_be_killed_at_every_statement() {
    if support::left_out().await {
        return;
    }
    let url = database().await;
    let mut connection = raw(&url).await;
    execute(
        &mut connection,
        "CREATE SEQUENCE done; CREATE TABLE target (n bigint); INSERT INTO target VALUES (0);
         CREATE FUNCTION strike() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN
             IF nextval('done') = (SELECT n FROM target) THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
         END$$;
         CREATE EVENT TRIGGER strike ON ddl_command_end EXECUTE FUNCTION strike()",
    )
    .await;
    let mut statements = 0;
    loop {
        statements += 1;
        let next = format!(
            "SET session_replication_role = replica; UPDATE target SET n = {statements}; SELECT setval('done', 1, false)"
        );
        execute(&mut connection, &next).await;
        match PostgresStore::connect(&secret(&url), options()).await {
            Ok(store) => {
                store.insert(Item::new("a", 1)).await.unwrap();
                store.close().await;
                break;
            }
            Err(error) => assert_eq!(error.class(), ErrorClass::Network, "{error:?}"),
        }
        assert_eq!(number(&mut connection, TABLES).await, 0, "killed at statement {statements}, it left nothing");
    }
    assert!(statements > 10, "{statements}");
    assert_intact(&url).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrators_may_race() {
    if support::left_out().await {
        return;
    }
    for _ in 0..3 {
        let url = database().await;
        let stores = join_all((0..8).map(|_| open(&url))).await;
        for (at, store) in stores.iter().enumerate() {
            store.insert(Item::new(at.to_string(), 1)).await.unwrap();
        }
        let versions = number(&mut raw(&url).await, "SELECT count(*) FROM certlib_schema").await;
        assert_eq!(versions, 1, "one did the work");
        join_all(stores.iter().map(PostgresStore::close)).await;
    }
}

/// Whoever runs the service need not be able to change its tables.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_only_reads_and_writes_is_enough() {
    if support::left_out().await {
        return;
    }
    let url = database().await;
    let name = url.rsplit('/').next().unwrap().to_owned();
    let mut connection = raw(&url).await;
    execute(&mut connection, &format!("CREATE ROLE service_{name} LOGIN; REVOKE CREATE ON SCHEMA public FROM public"))
        .await;
    let service = url.replace("postgres@", &format!("service_{name}@"));
    let error = PostgresStore::connect(&secret(&service), options()).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("permission_denied", ErrorClass::IoPermanent), "{error:?}");
    open(&url).await.close().await;
    let grant = format!("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO service_{name}");
    execute(&mut connection, &grant).await;
    let store = open(&service).await;
    store.insert(Item::new("a", 1)).await.unwrap();
    let request = certlib_core::lock::LeaseRequest::new("leader", "node", "", std::time::Duration::from_secs(60));
    let lease = certlib_core::lock::LeaderLock::acquire(&store, &request).await.unwrap().unwrap();
    assert!(certlib_core::lock::LeaderLock::release(&store, &lease).await.unwrap());
}
