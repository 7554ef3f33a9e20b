//! Leases: one row for each name, which only ever changes, and one session for each lease that is held.
//!
//! Who is granted a lease keeps a connection open for it, and the row names that connection's server session. When the
//! session is gone, the lease may be taken at once, without waiting for its end: a leader that was killed is replaced
//! as soon as a candidate looks.
//!
//! That is safe, although a session may also be gone because only the connection broke while the leader lives: every
//! leader's write is a commit that checks the epoch, and a successor has a larger one, so whoever was replaced can
//! change nothing any more. A leader whose connection broke registers a new one with its next renewal; until then, a
//! candidate that looks takes over. What this can cost is a change of leaders, never two of them that write.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use certlib_core::error::{Error, Result};
use certlib_core::lock::{Lease, LeaseInfo, LeaseRequest};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection, Row};

use super::address::Address;
use super::error::{CONNECTION_LOST, closed, in_doubt, no_answer, store_error};
use super::notify::{LEASES, Wakeups};
use super::queue::wait;
use super::session::{Mode, Operation, Sessions, Tx, now};
use certlib_core::store::timestamp::{LAST, remaining};

/// How long the leader's session is waited for. Leaders count their deadline from before the question.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether the session that holds lease `l` is gone for certain. Who may not see when a session began cannot tell.
macro_rules! gone {
    () => {
        "(l.backend_pid IS NOT NULL AND NOT EXISTS (
             SELECT 1 FROM pg_stat_activity AS a WHERE a.pid = l.backend_pid
             AND (a.backend_start IS NULL OR a.backend_start = l.backend_start)))"
    };
}

/// Whether a request would be granted.
const LOOK: &str = concat!(
    "SELECT released OR expires_at <= ",
    now!("$1"),
    " OR (holder = $3 AND nonce = $4) OR ",
    gone!(),
    " FROM certlib_leases AS l WHERE name = $2"
);

/// Grants a lease to this session.
const GRANT: &str = concat!(
    "INSERT INTO certlib_leases AS l (name, holder, nonce, epoch, expires_at, released, backend_pid, backend_start)
     SELECT $2, $3, $4, 1, least(t.now + $5, $6), false, s.pid, s.backend_start
     FROM (SELECT ",
    now!("$1"),
    " AS now) AS t, pg_stat_activity AS s WHERE s.pid = pg_backend_pid()
     ON CONFLICT (name) DO UPDATE SET
         epoch = CASE WHEN NOT l.released AND l.holder = excluded.holder AND l.nonce = excluded.nonce
             THEN l.epoch ELSE l.epoch + 1 END,
         holder = excluded.holder, nonce = excluded.nonce, expires_at = excluded.expires_at, released = false,
         backend_pid = excluded.backend_pid, backend_start = excluded.backend_start
     WHERE l.released OR l.expires_at <= ",
    now!("$1"),
    " OR (l.holder = excluded.holder AND l.nonce = excluded.nonce) OR ",
    gone!(),
    " RETURNING epoch"
);

/// Moves the end of a lease that is still ours, and names this session as its holder's.
const RENEW: &str = concat!(
    "UPDATE certlib_leases AS l SET expires_at = least(",
    now!("$1"),
    " + $5, $6), backend_pid = s.pid, backend_start = s.backend_start
     FROM pg_stat_activity AS s
     WHERE s.pid = pg_backend_pid() AND name = $2 AND holder = $3 AND epoch = $4 AND NOT released"
);

/// Gives a lease back that is still ours, and tells who waits for it.
const RELEASE: &str = "WITH given AS (
         UPDATE certlib_leases SET released = true
         WHERE name = $1 AND holder = $2 AND epoch = $3 AND NOT released RETURNING 1),
     told AS (SELECT pg_notify($4, $5) FROM given)
     SELECT count(*) FROM told";

/// Lets the next epoch be larger than a floor, and ends the present grant unless its epoch is larger already.
const RAISE: &str = "INSERT INTO certlib_leases AS l (name, holder, nonce, epoch, expires_at, released)
     VALUES ($1, '', '', $2, 0, true)
     ON CONFLICT (name) DO UPDATE SET
         released = l.released OR l.epoch <= excluded.epoch, epoch = greatest(l.epoch, excluded.epoch)
     RETURNING epoch";

/// Keeps a lease from being taken until the transaction ends.
pub(super) const HOLD: &str =
    "SELECT 1 FROM certlib_leases WHERE name = $1 AND holder = $2 AND epoch = $3 AND NOT released FOR SHARE";

const INSPECT: &str =
    concat!("SELECT holder, epoch, expires_at, released, ", now!("$1"), " FROM certlib_leases WHERE name = $2");

/// A session of the server that stands for one grant.
type Session = Arc<tokio::sync::Mutex<Option<PgConnection>>>;

/// The leases that this process holds, by name and epoch, with their sessions.
#[derive(Debug)]
pub(super) struct Leases {
    address: Address,
    control: Sessions,
    held: Mutex<HashMap<(String, u64), Session>>,
}

impl Leases {
    pub(super) fn new(address: Address, control: Sessions) -> Self {
        Self { address, control, held: Mutex::default() }
    }

    pub(super) async fn acquire(&self, request: &LeaseRequest) -> Result<Option<Lease>> {
        if !self.control.run("lock.acquire", &Look { request }).await? {
            return Ok(None);
        }
        let mut connection = self.address.connect().await?;
        let granted = answer("lock.acquire", grant(&mut connection, request, self.control.now())).await;
        match granted {
            Ok(Some(epoch)) => {
                self.keep(&request.name, epoch, connection);
                Ok(Some(request.granted(epoch)))
            }
            Ok(None) => {
                // Somebody else was quicker; what a failed goodbye could tell is of no use.
                let _ = connection.close().await;
                Ok(None)
            }
            Err(error) => Err(in_doubt(error)),
        }
    }

    pub(super) async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<bool> {
        if self.control.pool.is_closed() {
            return Err(closed("lock.renew"));
        }
        let session = self.session(lease);
        let mut slot = session.lock().await;
        for fresh in [false, true] {
            let mut connection = match slot.take() {
                Some(connection) => connection,
                None => self.address.connect().await?,
            };
            match answer("lock.renew", renew(&mut connection, lease, ttl, self.control.now())).await {
                Ok(true) => {
                    *slot = Some(connection);
                    return Ok(true);
                }
                Ok(false) => {
                    self.forget(lease);
                    let _ = connection.close().await;
                    return Ok(false);
                }
                // Moving the end of a lease twice does no harm.
                Err(error) if error.code() == CONNECTION_LOST && !fresh => {}
                Err(error) => return Err(in_doubt(error)),
            }
        }
        Err(no_answer("lock.renew"))
    }

    pub(super) async fn release(&self, lease: &Lease) -> Result<bool> {
        let released = self.control.run("lock.release", &Release { lease }).await?;
        // Only now: before, its end would have been taken for a death.
        self.forget(lease);
        if released {
            self.control.wakeups.vacate();
        }
        Ok(released)
    }

    pub(super) async fn raise(&self, name: &str, floor: u64) -> Result<u64> {
        self.control.run("lock.raise", &Raise { name, floor }).await
    }

    pub(super) async fn inspect(&self, name: &str) -> Result<Option<LeaseInfo>> {
        self.control.run("lock.inspect", &Inspect { name }).await
    }

    /// Closes every session. Leases that are still held can be taken from then on.
    pub(super) async fn close(&self) {
        let held: Vec<Session> = self.lock().drain().map(|(_, session)| session).collect();
        for session in held {
            let connection = session.lock().await.take();
            if let Some(connection) = connection {
                let _ = connection.close().await;
            }
        }
    }

    fn keep(&self, name: &str, epoch: u64, connection: PgConnection) {
        let session = Arc::new(tokio::sync::Mutex::new(Some(connection)));
        let mut held = self.lock();
        // An older grant of the same name has lost its meaning.
        held.retain(|(other, _), _| other != name);
        held.insert((name.to_owned(), epoch), session);
    }

    fn session(&self, lease: &Lease) -> Session {
        self.lock().entry((lease.name.clone(), lease.epoch)).or_default().clone()
    }

    fn forget(&self, lease: &Lease) {
        self.lock().remove(&(lease.name.clone(), lease.epoch));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, u64), Session>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn answer<T>(operation: &'static str, asked: impl Future<Output = sqlx::Result<T>>) -> Result<T> {
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(answered) => answered.map_err(|error| store_error(operation, error)),
        Err(_) => Err(no_answer(operation)),
    }
}

async fn grant(connection: &mut PgConnection, request: &LeaseRequest, now: Option<i64>) -> sqlx::Result<Option<u64>> {
    let row = sqlx::query(GRANT)
        .bind(now)
        .bind(&*request.name)
        .bind(&*request.holder)
        .bind(&*request.nonce)
        .bind(wait(request.ttl))
        .bind(LAST)
        .fetch_optional(connection)
        .await?;
    row.map(|row| row.try_get::<i64, _>(0).map(i64::cast_unsigned)).transpose()
}

async fn renew(connection: &mut PgConnection, lease: &Lease, ttl: Duration, now: Option<i64>) -> sqlx::Result<bool> {
    let renewed = sqlx::query(RENEW)
        .bind(now)
        .bind(&*lease.name)
        .bind(&*lease.holder)
        .bind(lease.epoch.cast_signed())
        .bind(wait(ttl))
        .bind(LAST)
        .execute(connection)
        .await?;
    Ok(renewed.rows_affected() > 0)
}

struct Look<'a> {
    request: &'a LeaseRequest,
}

#[async_trait]
impl Operation for Look<'_> {
    type Output = bool;
    const MODE: Mode = Mode::Read;

    async fn run(&self, tx: &mut Tx<'_>) -> Result<bool> {
        let request = self.request;
        let row = sqlx::query(LOOK)
            .bind(tx.now)
            .bind(&*request.name)
            .bind(&*request.holder)
            .bind(&*request.nonce)
            .fetch_optional(&mut *tx.connection)
            .await;
        row.and_then(|row| row.map_or(Ok(true), |row| row.try_get(0)))
            .map_err(|error| store_error("lock.acquire", error))
    }
}

struct Release<'a> {
    lease: &'a Lease,
}

#[async_trait]
impl Operation for Release<'_> {
    type Output = bool;
    const MODE: Mode = Mode::Statement;

    async fn run(&self, tx: &mut Tx<'_>) -> Result<bool> {
        let Wakeups { message, .. } = tx.wakeups;
        let row = sqlx::query(RELEASE)
            .bind(&*self.lease.name)
            .bind(&*self.lease.holder)
            .bind(self.lease.epoch.cast_signed())
            .bind(LEASES)
            .bind(&**message)
            .fetch_one(&mut *tx.connection)
            .await;
        let told: i64 = row.and_then(|row| row.try_get(0)).map_err(|error| store_error("lock.release", error))?;
        Ok(told > 0)
    }
}

struct Raise<'a> {
    name: &'a str,
    floor: u64,
}

#[async_trait]
impl Operation for Raise<'_> {
    type Output = u64;
    const MODE: Mode = Mode::Statement;

    async fn run(&self, tx: &mut Tx<'_>) -> Result<u64> {
        let row = sqlx::query(RAISE)
            .bind(self.name)
            .bind(i64::try_from(self.floor).unwrap_or(i64::MAX))
            .fetch_one(&mut *tx.connection)
            .await;
        let epoch: i64 = row.and_then(|row| row.try_get(0)).map_err(|error| store_error("lock.raise", error))?;
        Ok(epoch.cast_unsigned())
    }
}

struct Inspect<'a> {
    name: &'a str,
}

#[async_trait]
impl Operation for Inspect<'_> {
    type Output = Option<LeaseInfo>;
    const MODE: Mode = Mode::Read;

    async fn run(&self, tx: &mut Tx<'_>) -> Result<Option<LeaseInfo>> {
        let decode = |row: PgRow| -> sqlx::Result<LeaseInfo> {
            let released: bool = row.try_get(3)?;
            let left = remaining(row.try_get(4)?, row.try_get(2)?);
            Ok(LeaseInfo {
                name: self.name.to_owned(),
                holder: row.try_get(0)?,
                epoch: row.try_get::<i64, _>(1)?.cast_unsigned(),
                remaining: if released { Duration::ZERO } else { left },
                released,
            })
        };
        let row = sqlx::query(INSPECT).bind(tx.now).bind(self.name).fetch_optional(&mut *tx.connection).await;
        row.and_then(|row| row.map(decode).transpose()).map_err(|error| store_error("lock.inspect", error))
    }
}

/// `lease_lost` unless `lease` is the latest grant of its name and was not released, and goes on to be until the
/// transaction ends: a successor waits for that.
pub(super) async fn require(tx: &mut Tx<'_>, lease: &Lease) -> Result<()> {
    let held = sqlx::query(HOLD)
        .bind(&*lease.name)
        .bind(&*lease.holder)
        .bind(lease.epoch.cast_signed())
        .fetch_optional(&mut *tx.connection)
        .await
        .map_err(|error: sqlx::Error| -> Error { store_error("store.commit", error) })?;
    held.map(drop).ok_or_else(|| lease.lost())
}
