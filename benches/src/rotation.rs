//! Many secrets under one key, moved to another: by a leader, and as bare updates of the same rows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use certlib_core::model::{Credential, Event, KeyringState, Rotation, RotationPhase, new_id};
use certlib_core::runtime::{Role, Runtime};
use certlib_core::secret::{Aad, KEK_LEN, Keyring, KeyringEnvelope, SecretEnvelope, Suite};
use certlib_core::store::{Record, SharedStore, StoreExt as _, TypedQuery, WriteBatch};
use certlib_core::{Client, Secret};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{Connection as _, PgConnection, SqliteConnection};
use tempfile::TempDir;
use time::OffsetDateTime;

use crate::{LIMIT, Result};

const PROJECT: &str = "bench";
/// How many records are written in one commit while loading.
const BATCH: usize = 1000;
/// How many secrets a rotation moves in one commit.
pub const PAGE: usize = 200;
/// How often the rotation is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// How long the parts of a rotation took.
#[derive(Debug, Clone, Copy)]
pub struct Took {
    /// To wrap every secret anew.
    pub rewrap: Duration,
    /// To verify every secret.
    pub verify: Duration,
    /// Both, and the waits for the nodes of the fleet.
    pub whole: Duration,
}

/// Seals `count` secrets of `size` bytes and moves them to another key; also returns what their rows hold.
///
/// # Errors
/// As the client; when the rotation does not finish.
pub async fn rotate(store: &SharedStore, count: usize, size: usize) -> Result<(Took, Vec<Row>)> {
    let key = |first: u8| Secret::new(std::array::from_fn::<u8, KEK_LEN, _>(|n| first.wrapping_add(n as u8)));
    let mut ring = Keyring::new(key(1))?;
    // The store is told that the first key seals, before there is another.
    let alone = Runtime::builder(store.clone(), Arc::new(KeyringEnvelope::new(ring.clone()))).build()?.client();
    alone.create_project(PROJECT).await?;
    let rows = load(&alone, count, size).await?;
    ring.add(2, key(2))?;
    let running = Runtime::builder(store.clone(), Arc::new(KeyringEnvelope::new(ring)))
        .settings(|settings| {
            settings.roles = vec![Role::Scheduler];
            settings.sweep_interval = Duration::from_millis(50);
            settings.leader_poll = Duration::from_millis(50);
            settings.node_heartbeat = Duration::from_millis(500);
        })
        .build()?
        .start();
    let began = running.client().rotate_kek(2).await?;
    let took = follow(store, began).await?;
    running.shutdown().await;
    Ok((took, rows))
}

async fn load(client: &Client, count: usize, size: usize) -> Result<Vec<Row>> {
    let plain = vec![b's'; size];
    let mut rows = Vec::with_capacity(count);
    while rows.len() < count {
        let mut batch = WriteBatch::new();
        for number in rows.len()..count.min(rows.len() + BATCH) {
            let id = new_id();
            let sealed = client.seal(&plain, &Aad::new(PROJECT, Credential::KIND, &id, "secret")).await?;
            let name = format!("secret-{number:06}");
            let created_at = OffsetDateTime::now_utc();
            let credential = Credential { id, project: PROJECT.to_owned(), name, sealed, created_at };
            rows.push(Row { id: credential.id.clone(), body: serde_json::to_string(&credential)? });
            batch = batch.insert(&credential)?;
        }
        client.store().commit(batch).await?;
    }
    Ok(rows)
}

async fn follow(store: &SharedStore, began: Rotation) -> Result<Took> {
    let deadline = Instant::now() + LIMIT;
    // When the waiting for the fleet began, if it was seen: it may be over between two looks.
    let mut settle = None;
    loop {
        let state = store.load::<KeyringState>(KeyringState::ID).await?;
        match &state.rotation {
            None => break,
            Some(rotation) if Instant::now() > deadline => {
                return Err(format!("the rotation does not finish: {rotation:?}").into());
            }
            Some(rotation) if rotation.phase == RotationPhase::Settle => settle = Some(rotation.phase_since),
            Some(_) => {}
        }
        tokio::time::sleep(LOOK).await;
    }
    // The rest the leader wrote down.
    let (promoted, finished) =
        (event(store, "kek.promoted", &began).await?, event(store, "kek.rotation_finished", &began).await?);
    let verify = finished.data["verifying_milliseconds"].as_u64().ok_or("the verification was not timed")?;
    let verify = Duration::from_millis(verify);
    let took = |from: OffsetDateTime, to: OffsetDateTime| Duration::try_from(to - from);
    Ok(Took {
        rewrap: took(promoted.at, settle.unwrap_or(finished.at - verify))?,
        verify,
        whole: took(began.started_at, finished.at)?,
    })
}

async fn event(store: &SharedStore, kind: &str, rotation: &Rotation) -> Result<Event> {
    let query = TypedQuery::<Event>::new().equal("kind", kind).equal("subject", &*rotation.id);
    let mut found = store.list_all(query).await?;
    Ok(found.pop().ok_or_else(|| format!("no {kind}"))?.record)
}

/// A row as bare statements write it.
#[derive(Debug, Clone)]
pub struct Row {
    id: String,
    body: String,
}

/// The same rows in a table of their own, with an index on their key, updated page by page, each page one statement and
/// one transaction.
#[derive(Debug)]
pub enum Bare {
    /// In PostgreSQL.
    Postgres(PgConnection),
    /// In a file of its own.
    Sqlite(SqliteConnection, TempDir),
}

const POSTGRES_SCHEMA: &str = "
    CREATE TABLE raw_secrets (
        id text COLLATE \"C\" PRIMARY KEY, revision bigint NOT NULL, kek text COLLATE \"C\" NOT NULL, body text NOT NULL)
        WITH (fillfactor = 80);
    CREATE INDEX raw_secrets_kek ON raw_secrets (kek, id);";
const POSTGRES_INSERT: &str = "
    INSERT INTO raw_secrets SELECT n.id, 1, $3, n.body FROM unnest($1::text[], $2::text[]) AS n (id, body)";
const POSTGRES_UPDATE: &str = "
    UPDATE raw_secrets SET body = n.body, kek = $3, revision = 2
    FROM unnest($1::text[], $2::text[]) AS n (id, body) WHERE raw_secrets.id = n.id AND revision = 1";

const SQLITE_SCHEMA: &str = "
    CREATE TABLE raw_secrets (
        id TEXT NOT NULL PRIMARY KEY, revision INTEGER NOT NULL, kek TEXT NOT NULL, body TEXT NOT NULL);
    CREATE INDEX raw_secrets_kek ON raw_secrets (kek, id);";
const SQLITE_INSERT: &str = "
    INSERT INTO raw_secrets SELECT value ->> 0, 1, ?2, value ->> 1 FROM json_each(?1)";
const SQLITE_UPDATE: &str = "
    UPDATE raw_secrets SET body = n.value ->> 1, kek = ?2, revision = 2
    FROM json_each(?1) AS n WHERE raw_secrets.id = n.value ->> 0 AND revision = 1";

impl Bare {
    /// Makes its table in an empty database: in that of `url`, or else in a new file.
    ///
    /// # Errors
    /// As the database.
    pub async fn open(url: Option<&str>) -> Result<Self> {
        if let Some(url) = url {
            let mut connection = PgConnection::connect(url).await?;
            sqlx::raw_sql(POSTGRES_SCHEMA).execute(&mut connection).await?;
            return Ok(Self::Postgres(connection));
        }
        let folder = tempfile::tempdir()?;
        let options = SqliteConnectOptions::new()
            .filename(folder.path().join("raw.db"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full);
        let mut connection = SqliteConnection::connect_with(&options).await?;
        sqlx::raw_sql(SQLITE_SCHEMA).execute(&mut connection).await?;
        Ok(Self::Sqlite(connection, folder))
    }

    /// Adds `rows` under one key, and moves them to another; returns how long that took.
    ///
    /// # Errors
    /// As the database; when a row is missing.
    pub async fn rotate(&mut self, rows: &[Row]) -> Result<Duration> {
        let keys = ["0".repeat(64), "1".repeat(64)];
        for page in rows.chunks(BATCH) {
            self.write(page, &keys[0], [POSTGRES_INSERT, SQLITE_INSERT]).await?;
        }
        let began = Instant::now();
        for page in rows.chunks(PAGE) {
            self.write(page, &keys[1], [POSTGRES_UPDATE, SQLITE_UPDATE]).await?;
        }
        Ok(began.elapsed())
    }

    async fn write(&mut self, page: &[Row], key: &str, statements: [&'static str; 2]) -> Result<()> {
        let written = match self {
            Self::Postgres(connection) => {
                let ids: Vec<&str> = page.iter().map(|row| &*row.id).collect();
                let bodies: Vec<&str> = page.iter().map(|row| &*row.body).collect();
                let statement = sqlx::query(statements[0]).bind(ids).bind(bodies).bind(key);
                statement.execute(connection).await?.rows_affected()
            }
            Self::Sqlite(connection, _) => {
                let rows: Vec<[&str; 2]> = page.iter().map(|row| [&*row.id, &*row.body]).collect();
                let statement = sqlx::query(statements[1]).bind(serde_json::to_string(&rows)?).bind(key);
                statement.execute(connection).await?.rows_affected()
            }
        };
        if written == page.len() as u64 { Ok(()) } else { Err("a row is missing".into()) }
    }
}

/// How long it takes to wrap `count` data keys anew, without any store: the work of the processor in a rotation.
///
/// # Errors
/// As the envelope.
pub async fn rewrap_alone(count: usize, size: usize) -> Result<Duration> {
    let envelope = KeyringEnvelope::new(Keyring::generate()?).suite(Suite::default());
    let aad = Aad::new(PROJECT, Credential::KIND, "0199f9a6-7c1e-7d7c-a5c8-0f6a4c6ad5c1", "secret");
    let sealed = envelope.seal(&vec![b's'; size], &aad).await?;
    let began = Instant::now();
    for _ in 0..count {
        std::hint::black_box(envelope.rewrap(&sealed, &aad).await?);
    }
    Ok(began.elapsed())
}

#[cfg(test)]
mod tests {
    use certlib_core::clock::SystemClock;
    use certlib_core::memory::MemoryStore;

    use super::*;

    #[tokio::test]
    async fn all_secrets_are_moved_on_both_sides() {
        let store: SharedStore = Arc::new(MemoryStore::new(SystemClock::shared()));
        let (took, rows) = rotate(&store, 450, 250).await.unwrap();
        assert!(took.whole >= took.rewrap + took.verify && rows.len() == 450);
        let mut bare = Bare::open(None).await.unwrap();
        assert!(bare.rotate(&rows).await.unwrap() > Duration::ZERO);
        assert!(bare.rotate(&rows).await.is_err(), "the rows are there already");
        assert!(rewrap_alone(3, 250).await.unwrap() > Duration::ZERO);
    }
}
