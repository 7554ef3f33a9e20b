use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};
use sqlx::mysql::{MySqlPoolOptions, MySqlRow};
use sqlx::{Executor as _, MySql, MySqlPool, QueryBuilder, Row as _};
use tokio::sync::Notify;

use super::sqlite::LocalBell;
use super::{Bell, Floor, LANE, RawClaim, RawJob};
use crate::Result;

const SCHEMA: [&str; 2] = [
    // `urgency` is the priority with its sign turned: an ascending index then gives the order of claims.
    "CREATE TABLE raw_jobs (
        id VARBINARY(255) NOT NULL PRIMARY KEY, kind VARBINARY(255) NOT NULL, lane VARBINARY(32) NOT NULL,
        natural_key VARBINARY(512), project VARBINARY(255) NOT NULL, parent VARBINARY(255) NOT NULL,
        payload MEDIUMBLOB NOT NULL, urgency INT NOT NULL, state VARBINARY(16) NOT NULL DEFAULT 'pending',
        attempt INT NOT NULL DEFAULT 0, claim_epoch BIGINT NOT NULL DEFAULT 0, crash_count INT NOT NULL DEFAULT 0,
        run_at BIGINT NOT NULL, lease_until BIGINT, worker VARBINARY(1024), cancel_requested TINYINT NOT NULL DEFAULT 0,
        rerun_requested TINYINT NOT NULL DEFAULT 0, attempts MEDIUMBLOB NOT NULL DEFAULT '[]',
        created_at BIGINT NOT NULL, finished_at BIGINT,
        KEY raw_jobs_waiting (state, lane, urgency, run_at, id)) ENGINE=InnoDB",
    "CREATE TABLE raw_leases (
        name VARBINARY(64) NOT NULL PRIMARY KEY, holder VARBINARY(255) NOT NULL, epoch BIGINT NOT NULL,
        expires_at BIGINT NOT NULL, released TINYINT NOT NULL) ENGINE=InnoDB",
];

/// The time, by the database.
macro_rules! now {
    () => {
        "CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)"
    };
}

/// Faster than as many rows of `VALUES`.
const INSERT: &str = concat!(
    "INSERT INTO raw_jobs (id, kind, lane, project, parent, payload, urgency, run_at, created_at)
     SELECT n.id, 'no_op', ?, '', '', n.payload, 0, t.now, t.now FROM (SELECT ",
    now!(),
    " AS now) AS t CROSS JOIN JSON_TABLE(?, '$[*]' COLUMNS (
         id VARBINARY(255) PATH '$[0]', payload LONGTEXT CHARACTER SET utf8mb4 PATH '$[1]')) AS n"
);

const CLAIMABLE: &str = concat!(
    "SELECT id, claim_epoch + 1, payload, kind, attempt FROM raw_jobs
     WHERE state = 'pending' AND lane = ? AND run_at <= ",
    now!(),
    " ORDER BY urgency, run_at, id LIMIT ? FOR UPDATE SKIP LOCKED"
);

const CLAIM: &str = concat!(
    "UPDATE raw_jobs SET state = 'in_progress', attempt = attempt + 1, claim_epoch = claim_epoch + 1,
     worker = 'worker', lease_until = 60000 + ",
    now!(),
    " WHERE id IN ("
);

const SETTLE: &str = concat!(
    "UPDATE raw_jobs SET state = 'succeeded', crash_count = 0, lease_until = NULL, finished_at = ",
    now!(),
    " WHERE state = 'in_progress' AND NOT rerun_requested AND id IN ("
);

const VACANT: &str =
    concat!("SELECT epoch, released OR expires_at <= ", now!(), " FROM raw_leases WHERE name = 'scheduler' FOR UPDATE");

const GRANT: &str = concat!(
    "INSERT INTO raw_leases VALUES ('scheduler', ?, ?, 3000 + ",
    now!(),
    ", 0) ON DUPLICATE KEY UPDATE holder = VALUE(holder), epoch = VALUE(epoch), expires_at = VALUE(expires_at),
         released = 0"
);

const RENEW: &str = concat!(
    "UPDATE raw_leases SET expires_at = 3000 + ",
    now!(),
    " WHERE name = 'scheduler' AND holder = ? AND epoch = ? AND NOT released"
);

const RELEASE: &str =
    "UPDATE raw_leases SET released = 1 WHERE name = 'scheduler' AND holder = ? AND epoch = ? AND NOT released";

/// MariaDB by hand: rows of one JSON text, `SELECT .. FOR UPDATE SKIP LOCKED` and `UPDATE` in one transaction.
#[derive(Debug)]
pub struct MariadbFloor {
    pool: MySqlPool,
    rung: Arc<Notify>,
}

impl MariadbFloor {
    /// Makes its tables in an empty database.
    ///
    /// # Errors
    /// As the database.
    pub async fn open(url: &str) -> Result<Self> {
        let options = MySqlPoolOptions::new().max_connections(4).test_before_acquire(false);
        let options = options.after_connect(|connection, _| {
            Box::pin(async move {
                connection.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await.map(drop)
            })
        });
        let pool = options.connect(url).await?;
        for statement in SCHEMA {
            sqlx::raw_sql(statement).execute(&pool).await?;
        }
        Ok(Self { pool, rung: Arc::default() })
    }
}

/// Adds a list of ids, and the parenthesis that ends it.
fn push_ids<'a>(query: &mut QueryBuilder<MySql>, ids: impl Iterator<Item = &'a [u8]>) {
    let mut list = query.separated(", ");
    for id in ids {
        list.push_bind(id.to_vec());
    }
    query.push(")");
}

#[async_trait]
impl Floor for MariadbFloor {
    async fn insert(&self, jobs: &[RawJob]) -> Result<()> {
        let rows = Value::Array(jobs.iter().map(|job| json!([job.id, job.payload])).collect()).to_string();
        sqlx::query(INSERT).bind(LANE.as_bytes()).bind(rows).execute(&self.pool).await?;
        Ok(())
    }

    async fn claim(&self, limit: usize) -> Result<Vec<RawClaim>> {
        let mut transaction = self.pool.begin().await?;
        let rows = sqlx::query(CLAIMABLE)
            .bind(LANE.as_bytes())
            .bind(i64::try_from(limit)?)
            .fetch_all(&mut *transaction)
            .await?;
        let claim = |row: &MySqlRow| -> Result<RawClaim> {
            let (id, payload) = (row.try_get::<Vec<u8>, _>(0)?, row.try_get::<Vec<u8>, _>(2)?);
            Ok(RawClaim { id: String::from_utf8(id)?, epoch: row.try_get(1)?, payload: String::from_utf8(payload)? })
        };
        let claims: Vec<RawClaim> = rows.iter().map(claim).collect::<Result<_>>()?;
        if !claims.is_empty() {
            let mut query = QueryBuilder::<MySql>::new(CLAIM);
            push_ids(&mut query, claims.iter().map(|claim| claim.id.as_bytes()));
            query.build().execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(claims)
    }

    async fn settle(&self, claims: &[RawClaim]) -> Result<u64> {
        let mut query = QueryBuilder::<MySql>::new(SETTLE);
        push_ids(&mut query, claims.iter().map(|claim| claim.id.as_bytes()));
        // The pairs alone would not use the index.
        query.push(" AND (id, claim_epoch) IN (");
        let mut list = query.separated(", ");
        for claim in claims {
            list.push("(").push_bind_unseparated(claim.id.as_bytes().to_vec());
            list.push_unseparated(", ").push_bind_unseparated(claim.epoch).push_unseparated(")");
        }
        query.push(")");
        Ok(query.build().execute(&self.pool).await?.rows_affected())
    }

    async fn ring(&self, job: &RawJob) -> Result<()> {
        self.insert(std::slice::from_ref(job)).await?;
        self.rung.notify_one();
        Ok(())
    }

    async fn bell(&self) -> Result<Box<dyn Bell>> {
        Ok(Box::new(LocalBell(self.rung.clone())))
    }

    async fn acquire(&self, holder: &str) -> Result<Option<i64>> {
        let mut transaction = self.pool.begin().await?;
        let row = sqlx::query(VACANT).fetch_optional(&mut *transaction).await?;
        let (former, vacant): (i64, bool) = match &row {
            Some(row) => (row.try_get(0)?, row.try_get::<i64, _>(1)? != 0),
            None => (0, true),
        };
        if !vacant {
            return Ok(None);
        }
        sqlx::query(GRANT).bind(holder.as_bytes()).bind(former + 1).execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(Some(former + 1))
    }

    async fn renew(&self, holder: &str, epoch: i64) -> Result<bool> {
        // Rows that were found, whether or not the time they hold is a new one.
        let found = sqlx::query(RENEW).bind(holder.as_bytes()).bind(epoch).execute(&self.pool).await?;
        Ok(found.rows_affected() == 1)
    }

    async fn release(&self, holder: &str, epoch: i64) -> Result<bool> {
        let found = sqlx::query(RELEASE).bind(holder.as_bytes()).bind(epoch).execute(&self.pool).await?;
        Ok(found.rows_affected() == 1)
    }
}
