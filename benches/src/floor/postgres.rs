use async_trait::async_trait;
use sqlx::postgres::{PgListener, PgPoolOptions};
use sqlx::{PgPool, Row as _};

use super::{Bell, Floor, LANE, LEASE, RawClaim, RawJob};
use crate::Result;

const SCHEMA: &str = "
    CREATE TABLE raw_jobs (
        id text COLLATE \"C\" PRIMARY KEY, kind text NOT NULL, lane text COLLATE \"C\" NOT NULL, natural_key text,
        project text NOT NULL, parent text NOT NULL, payload text NOT NULL, priority smallint NOT NULL,
        state text COLLATE \"C\" NOT NULL DEFAULT 'pending', attempt integer NOT NULL DEFAULT 0,
        claim_epoch bigint NOT NULL DEFAULT 0, crash_count integer NOT NULL DEFAULT 0, run_at bigint NOT NULL,
        lease_until bigint, worker text, cancel_requested boolean NOT NULL DEFAULT false,
        rerun_requested boolean NOT NULL DEFAULT false, attempts text NOT NULL DEFAULT '[]',
        created_at bigint NOT NULL, finished_at bigint);
    CREATE INDEX raw_jobs_waiting ON raw_jobs (lane, priority DESC, run_at, id) WHERE state = 'pending';
    CREATE TABLE raw_leases (
        name text PRIMARY KEY, holder text NOT NULL, epoch bigint NOT NULL, expires_at bigint NOT NULL,
        released boolean NOT NULL);";

/// The time, by the database.
macro_rules! now {
    () => {
        "(SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint)"
    };
}

const INSERT: &str = concat!(
    "INSERT INTO raw_jobs (id, kind, lane, project, parent, payload, priority, run_at, created_at)
     SELECT n.id, n.kind, n.lane, n.project, n.parent, n.payload, n.priority, t.now + n.delay, t.now
     FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::smallint[], $8::bigint[])
         AS n (id, kind, lane, project, parent, payload, priority, delay), ",
    now!(),
    " AS t (now)"
);

const CLAIM: &str = concat!(
    "UPDATE raw_jobs j SET state = 'in_progress', attempt = attempt + 1, claim_epoch = claim_epoch + 1, worker = $1,
         lease_until = $2 + ",
    now!(),
    " FROM (SELECT id FROM raw_jobs WHERE state = 'pending' AND lane = $3 AND run_at <= ",
    now!(),
    "       ORDER BY priority DESC, run_at, id LIMIT $4 FOR UPDATE SKIP LOCKED) n
     WHERE j.id = n.id RETURNING j.id, j.claim_epoch, j.payload, j.kind, j.attempt"
);

const SETTLE: &str = concat!(
    "UPDATE raw_jobs j SET state = 'succeeded', crash_count = 0, lease_until = NULL, finished_at = ",
    now!(),
    " FROM unnest($1::text[], $2::bigint[]) AS n (id, epoch)
     WHERE j.id = n.id AND j.claim_epoch = n.epoch AND j.state = 'in_progress' AND NOT j.rerun_requested"
);

const RING: &str = concat!(
    "WITH added AS (
         INSERT INTO raw_jobs (id, kind, lane, project, parent, payload, priority, run_at, created_at)
         SELECT $1, 'no_op', $2, '', '', $3, 0, t.now, t.now FROM ",
    now!(),
    " AS t (now) RETURNING 1)
     SELECT pg_notify('raw_jobs', '') FROM added"
);

const ACQUIRE: &str = concat!(
    "INSERT INTO raw_leases AS l VALUES ('scheduler', $1, 1, 3000 + ",
    now!(),
    ", false)
     ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, epoch = l.epoch + 1, expires_at = excluded.expires_at,
         released = false
     WHERE l.released OR l.expires_at <= ",
    now!(),
    " RETURNING epoch"
);

const RENEW: &str = concat!(
    "UPDATE raw_leases SET expires_at = 3000 + ",
    now!(),
    " WHERE name = 'scheduler' AND holder = $1 AND epoch = $2 AND NOT released"
);

const RELEASE: &str =
    "UPDATE raw_leases SET released = true WHERE name = 'scheduler' AND holder = $1 AND epoch = $2 AND NOT released";

/// PostgreSQL by hand: `unnest`, `FOR UPDATE SKIP LOCKED`, `UPDATE .. RETURNING`, `LISTEN`.
#[derive(Debug)]
pub struct PostgresFloor {
    pool: PgPool,
}

impl PostgresFloor {
    /// Makes its tables in an empty database.
    ///
    /// # Errors
    /// As the database.
    pub async fn open(url: &str) -> Result<Self> {
        let pool = PgPoolOptions::new().max_connections(4).test_before_acquire(false).connect(url).await?;
        sqlx::raw_sql(SCHEMA).execute(&pool).await?;
        Ok(Self { pool })
    }
}

#[async_trait]
impl Floor for PostgresFloor {
    async fn insert(&self, jobs: &[RawJob]) -> Result<()> {
        let column = |text: fn(&RawJob) -> &str| jobs.iter().map(text).collect::<Vec<_>>();
        sqlx::query(INSERT)
            .bind(column(|job| &job.id))
            .bind(column(|_| "no_op"))
            .bind(column(|_| LANE))
            .bind(column(|_| ""))
            .bind(column(|_| ""))
            .bind(column(|job| &job.payload))
            .bind(vec![0_i16; jobs.len()])
            .bind(vec![0_i64; jobs.len()])
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    async fn claim(&self, limit: usize) -> Result<Vec<RawClaim>> {
        let rows = sqlx::query(CLAIM)
            .bind("worker")
            .bind(LEASE)
            .bind(LANE)
            .bind(i64::try_from(limit)?)
            .fetch_all(&self.pool)
            .await?;
        let claim = |row: &sqlx::postgres::PgRow| {
            Ok(RawClaim { id: row.try_get(0)?, epoch: row.try_get(1)?, payload: row.try_get(2)? })
        };
        rows.iter().map(claim).collect()
    }

    async fn settle(&self, claims: &[RawClaim]) -> Result<u64> {
        let ids: Vec<&str> = claims.iter().map(|claim| &*claim.id).collect();
        let epochs: Vec<i64> = claims.iter().map(|claim| claim.epoch).collect();
        Ok(sqlx::query(SETTLE).bind(ids).bind(epochs).execute(&self.pool).await?.rows_affected())
    }

    async fn ring(&self, job: &RawJob) -> Result<()> {
        sqlx::query(RING).bind(&job.id).bind(LANE).bind(&job.payload).execute(&self.pool).await?;
        Ok(())
    }

    async fn bell(&self) -> Result<Box<dyn Bell>> {
        let mut listener = PgListener::connect_with(&self.pool).await?;
        listener.listen("raw_jobs").await?;
        Ok(Box::new(PostgresBell(listener)))
    }

    async fn acquire(&self, holder: &str) -> Result<Option<i64>> {
        let row = sqlx::query(ACQUIRE).bind(holder).fetch_optional(&self.pool).await?;
        Ok(row.map(|row| row.try_get(0)).transpose()?)
    }

    async fn renew(&self, holder: &str, epoch: i64) -> Result<bool> {
        Ok(sqlx::query(RENEW).bind(holder).bind(epoch).execute(&self.pool).await?.rows_affected() == 1)
    }

    async fn release(&self, holder: &str, epoch: i64) -> Result<bool> {
        Ok(sqlx::query(RELEASE).bind(holder).bind(epoch).execute(&self.pool).await?.rows_affected() == 1)
    }
}

#[derive(Debug)]
struct PostgresBell(PgListener);

#[async_trait]
impl Bell for PostgresBell {
    async fn heard(&mut self) -> Result<()> {
        self.0.recv().await?;
        Ok(())
    }
}
