//! Certificates that fall due, a leader that sweeps when asked, and the same sweep in one statement.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use certlib_core::client::{NewCertificate, NewIssuer};
use certlib_core::clock::Clock as _;
use certlib_core::model::{Certificate, CertificateState, new_id};
use certlib_core::runtime::{IssuerRegistry, Role, RunningRuntime, Runtime};
use certlib_core::scheduler::{RenewalSweep, Sweep, SweepContext};
use certlib_core::secret::{Keyring, KeyringEnvelope};
use certlib_core::store::{SharedStore, StoreExt as _, WriteBatch};
use serde_json::json;
use sqlx::PgPool;
use tokio::sync::oneshot;

use crate::pending::{JumpingClock, PendingCa};
use crate::{LIMIT, Result};

const PROJECT: &str = "bench";

/// How many records are written in one commit while loading.
const BATCH: usize = 1000;

/// When every tenth certificate is due.
const MASS: Duration = Duration::from_secs(30 * 86_400);

/// When the others are.
const LATER: Duration = Duration::from_secs(60 * 86_400);

/// A node that leads, with a store full of certificates, and sweeps when it is told to.
pub struct Leader {
    running: RunningRuntime,
    cx: SweepContext,
    clock: Arc<JumpingClock>,
    template: Certificate,
    ids: Vec<String>,
}

impl Leader {
    /// Leads over an empty store. Nothing it enqueues is run.
    ///
    /// # Errors
    /// As the store.
    pub async fn start(store: &SharedStore) -> Result<Self> {
        let (sender, receiver) = oneshot::channel();
        let clock = Arc::new(JumpingClock::new());
        let envelope = Arc::new(KeyringEnvelope::new(Keyring::generate()?));
        let running = Runtime::builder(store.clone(), envelope)
            .clock(clock.clone())
            .issuers(IssuerRegistry::new().register(PendingCa::default())?)
            .sweep(HandOver(Mutex::new(Some(sender))))
            .settings(|settings| {
                settings.roles = vec![Role::Scheduler];
                settings.sweep_interval = 10 * LIMIT;
            })
            .build()?
            .start();
        let cx = tokio::time::timeout(LIMIT, receiver).await??;
        let client = running.client();
        client.create_project(PROJECT).await?;
        let issuer = NewIssuer { name: "ca".into(), kind: "pending".into(), config: json!({}), credential_id: None };
        let certificate = NewCertificate {
            names: vec!["www.example.test".to_owned()],
            issuer_id: client.create_issuer(PROJECT, issuer).await?.id,
            ..NewCertificate::default()
        };
        let template = client.create_certificate(PROJECT, certificate).await?;
        let template = store.load::<Certificate>(&template.id).await?.record;
        Ok(Self { running, cx, clock, template, ids: Vec::new() })
    }

    /// Adds certificates until there are `total`: live ones, every tenth due in 30 days, the others in 60.
    ///
    /// # Errors
    /// As the store.
    pub async fn load(&mut self, total: usize) -> Result<()> {
        let now = self.clock.now();
        while self.ids.len() < total {
            let mut batch = WriteBatch::new();
            for number in self.ids.len()..total.min(self.ids.len() + BATCH) {
                let mut certificate = self.template.clone();
                certificate.id = new_id();
                certificate.name = format!("host-{number:07}");
                certificate.names = vec![format!("host-{number:07}.example.test")];
                certificate.state = CertificateState::Active;
                certificate.active_version = Some(1);
                certificate.latest_version = 1;
                // Spread over an hour, as certificates that were issued by one roll-out are.
                let spread = Duration::from_millis(number as u64 * 3600 % 3_600_000);
                certificate.renew_at = Some(now + spread + if number.is_multiple_of(10) { MASS } else { LATER });
                certificate.hint_check_at = Some(now + LATER);
                batch = batch.put(&certificate)?;
                self.ids.push(certificate.id);
            }
            self.cx.store.commit(batch).await?;
        }
        Ok(())
    }

    /// Makes `count` of the certificates due, other ones in each `round`, spread over all of them.
    ///
    /// # Errors
    /// As the store.
    pub async fn make_due(&self, count: usize, round: usize) -> Result<()> {
        let stride = self.ids.len() / count;
        let past = self.clock.now() - Duration::from_secs(1);
        let mut batch = WriteBatch::new();
        // Those at multiples of ten are left for the mass event.
        for id in self.ids.iter().skip(1 + round % 9).step_by(stride - stride % 10).take(count) {
            let mut certificate = self.cx.store.load::<Certificate>(id).await?;
            certificate.renew_at = Some(past);
            batch = batch.update(&certificate)?;
        }
        self.cx.store.commit(batch).await?;
        Ok(())
    }

    /// Makes every tenth certificate due at once.
    pub fn make_a_tenth_due(&self) {
        self.clock.jump((MASS + Duration::from_secs(3600)).as_secs());
    }

    /// Sweeps for renewals once; returns how many it found and how long it took.
    ///
    /// # Errors
    /// As the store.
    pub async fn sweep(&self) -> Result<(usize, Duration)> {
        let began = Instant::now();
        let found = RenewalSweep.run(&self.cx).await?;
        Ok((found, began.elapsed()))
    }

    /// Stops leading.
    pub async fn stop(self) {
        self.running.shutdown().await;
    }
}

impl fmt::Debug for Leader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leader").field("certificates", &self.ids.len()).finish_non_exhaustive()
    }
}

/// Hands what sweeps are given to the bench, once.
struct HandOver(Mutex<Option<oneshot::Sender<SweepContext>>>);

impl fmt::Debug for HandOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HandOver")
    }
}

#[async_trait]
impl Sweep for HandOver {
    fn name(&self) -> &'static str {
        "hand_over"
    }

    async fn run(&self, cx: &SweepContext) -> certlib_core::Result<usize> {
        if let Some(sender) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // Nobody waits any more: the bench has failed already.
            let _ = sender.send(cx.clone());
        }
        Ok(0)
    }
}

/// The renewal sweep as one statement of PostgreSQL, over as many rows, and nothing else around it.
#[derive(Debug)]
pub struct OneStatement {
    pool: PgPool,
}

const SCHEMA: &str = "
    CREATE TABLE raw_certificates (
        id text COLLATE \"C\" PRIMARY KEY, state smallint NOT NULL, renew_at bigint NOT NULL, body text NOT NULL);
    CREATE INDEX raw_certificates_due ON raw_certificates (renew_at, id) WHERE state = 0;
    CREATE TABLE raw_renewals (
        id text COLLATE \"C\" PRIMARY KEY, kind text NOT NULL, lane text NOT NULL, natural_key text COLLATE \"C\",
        payload text NOT NULL, state text NOT NULL, attempt integer NOT NULL, claim_epoch bigint NOT NULL,
        run_at bigint NOT NULL, created_at bigint NOT NULL);
    CREATE UNIQUE INDEX raw_renewals_active ON raw_renewals (kind, natural_key)
        WHERE natural_key IS NOT NULL AND state IN ('pending', 'in_progress');
    CREATE INDEX raw_renewals_waiting ON raw_renewals (lane, run_at, id) WHERE state = 'pending'";

/// Every tenth row in 30, the others in 60 units, as [`Leader::load`].
const LOAD: &str = "
    INSERT INTO raw_certificates
    SELECT md5(n::text), 0, CASE WHEN n % 10 = 0 THEN 30000000 ELSE 60000000 END + n, repeat('x', 600)
    FROM generate_series($1::bigint, $2::bigint - 1) AS n";

const SWEEP: &str = "
    INSERT INTO raw_renewals (id, kind, lane, natural_key, payload, state, attempt, claim_epoch, run_at, created_at)
    SELECT gen_random_uuid()::text, 'renew_certificate', 'issuance', id, '{\"certificate\":\"' || id || '\"}', 'pending',
        0, 0, 0, 0
    FROM raw_certificates WHERE state = 0 AND renew_at <= $1 ORDER BY renew_at, id LIMIT $2
    ON CONFLICT DO NOTHING";

impl OneStatement {
    /// Makes its tables in an empty database.
    ///
    /// # Errors
    /// As the database.
    pub async fn open(url: &str) -> Result<Self> {
        let pool = PgPool::connect(url).await?;
        sqlx::raw_sql(SCHEMA).execute(&pool).await?;
        Ok(Self { pool })
    }

    /// Adds certificates `from..to`.
    ///
    /// # Errors
    /// As the database.
    pub async fn load(&self, from: usize, to: usize) -> Result<()> {
        sqlx::query(LOAD).bind(i64::try_from(from)?).bind(i64::try_from(to)?).execute(&self.pool).await?;
        sqlx::raw_sql("ANALYZE raw_certificates").execute(&self.pool).await?;
        Ok(())
    }

    /// Makes `count` of `total` certificates due, spread over all of them, and forgets the jobs of the last sweep.
    ///
    /// # Errors
    /// As the database.
    pub async fn make_due(&self, count: usize, total: usize) -> Result<()> {
        sqlx::raw_sql("TRUNCATE raw_renewals").execute(&self.pool).await?;
        sqlx::query("UPDATE raw_certificates SET renew_at = 60000000 WHERE renew_at <= 0").execute(&self.pool).await?;
        let update = "UPDATE raw_certificates SET renew_at = 0
                      WHERE id IN (SELECT md5((1 + n * $2)::text) FROM generate_series(0, $1::bigint - 1) AS n)";
        let stride = total / count;
        sqlx::query(update)
            .bind(i64::try_from(count)?)
            .bind(i64::try_from(stride - stride % 10)?)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Enqueues what is due, at most `limit`; returns how many that were and how long it took.
    ///
    /// # Errors
    /// As the database.
    pub async fn sweep(&self, mass: bool, limit: usize) -> Result<(usize, Duration)> {
        let now = if mass { 50_000_000_i64 } else { 0 };
        let began = Instant::now();
        let swept = sqlx::query(SWEEP).bind(now).bind(i64::try_from(limit)?).execute(&self.pool).await?;
        Ok((usize::try_from(swept.rows_affected())?, began.elapsed()))
    }
}
