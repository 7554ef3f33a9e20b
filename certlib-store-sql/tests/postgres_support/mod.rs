//! One PostgreSQL for all tests of a process, and a database of its own for each.
#![allow(dead_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use certlib_core::clock::Clock;
use certlib_core::secret::SecretString;
use certlib_store_sql::{PostgresOptions, PostgresStore};
use certlib_testkit::counterpart::Postgres;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Row};
use tokio::sync::OnceCell;

static SERVER: OnceCell<Option<Postgres>> = OnceCell::const_new();
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// Statics are not dropped: the guardian of the server ends it when this process is gone.
pub(crate) async fn server() -> &'static Postgres {
    start().await.as_ref().expect("it was not left out")
}

/// Whether PostgreSQL is left out on purpose; says so.
pub(crate) async fn left_out() -> bool {
    start().await.is_none()
}

async fn start() -> &'static Option<Postgres> {
    SERVER
        .get_or_init(async || match Postgres::builder().setting("max_connections", "900").start().await {
            Ok(server) => Some(server),
            Err(certlib_testkit::Error::LeftOut { name }) => {
                eprintln!("left out: {name}");
                None
            }
            Err(error) => panic!("{error}"),
        })
        .await
}

/// The URL of a fresh database.
pub(crate) async fn database() -> String {
    let server = server().await;
    let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
    let mut connection = raw(&server.url()).await;
    execute(&mut connection, &format!("CREATE DATABASE {name}")).await;
    connection.close().await.unwrap();
    server.url_for(&name)
}

pub(crate) fn options() -> PostgresOptions {
    PostgresOptions::new().allow_unsafe_durability_for_tests()
}

pub(crate) fn secret(url: &str) -> SecretString {
    url.to_owned().into()
}

pub(crate) async fn open(url: &str) -> PostgresStore {
    PostgresStore::connect(&secret(url), options()).await.unwrap()
}

pub(crate) async fn open_with_clock(url: &str, clock: Arc<dyn Clock>) -> PostgresStore {
    PostgresStore::connect(&secret(url), options().with_clock(clock)).await.unwrap()
}

pub(crate) async fn raw(url: &str) -> PgConnection {
    PgConnection::connect(url).await.unwrap()
}

pub(crate) async fn execute(connection: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await.unwrap();
}

pub(crate) async fn number(connection: &mut PgConnection, sql: &str) -> i64 {
    sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_one(connection).await.unwrap().get(0)
}

/// Every index entry has its record, every job its place in the list, and the other way round.
pub(crate) async fn assert_intact(url: &str) {
    let mut connection = raw(url).await;
    for (what, sql) in [
        (
            "index entries without their record",
            "SELECT count(*) FROM certlib_record_index AS i
             LEFT JOIN certlib_records AS r ON r.kind = i.kind AND r.id = i.id
             AND convert_to(i.field, 'UTF8') || '\\x00'::bytea || i.value = ANY (r.fields) WHERE r.id IS NULL",
        ),
        (
            "fields without their index entry",
            "SELECT count(*) FROM certlib_records AS r, unnest(r.fields) AS f(field)
             WHERE NOT EXISTS (SELECT 1 FROM certlib_record_index AS i WHERE i.kind = r.kind AND i.id = r.id
             AND convert_to(i.field, 'UTF8') || '\\x00'::bytea || i.value = f.field)",
        ),
        (
            "jobs and their places in the list",
            "SELECT count(*) FROM certlib_jobs AS j FULL JOIN certlib_job_list AS l
             ON l.id = j.id AND l.created_at = j.created_at WHERE j.id IS NULL OR l.id IS NULL",
        ),
        ("places kept for a moment", "SELECT count(*) FROM certlib_records WHERE revision < 1"),
    ] {
        assert_eq!(number(&mut connection, sql).await, 0, "{what}");
    }
    connection.close().await.unwrap();
}

/// A record with one field.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Item {
    pub(crate) id: String,
    pub(crate) number: i64,
}

impl Item {
    pub(crate) fn new(id: impl Into<String>, number: i64) -> Self {
        Self { id: id.into(), number }
    }
}

impl certlib_core::store::Record for Item {
    const KIND: &'static str = "item";
    const FIELDS: &'static [&'static str] = &["number"];

    fn id(&self) -> &str {
        &self.id
    }

    fn index(&self) -> certlib_core::store::Index {
        certlib_core::store::Index::new().field("number", self.number)
    }
}

pub(crate) fn job() -> certlib_core::queue::NewJob {
    certlib_core::queue::NewJob::new("test_job", certlib_core::queue::Lane::Issuance, serde_json::json!({"n": 1}))
}

/// Asks again and again until `probe` gives a value.
pub(crate) async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(std::time::Instant::now() < deadline, "{what} did not happen");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}
