//! Leases: one row for each name, which only ever changes; and beside each grant a connection of its holder.
//!
//! The connection of a grant holds a lock of the server (`GET_LOCK`) that is named after the lease and its epoch. When
//! the holder's process dies its connection breaks, the server frees the lock, and a candidate who misses it need not
//! wait for the end of the lease. Taking over early is as safe as taking over late: what keeps the former leader from
//! writing is the epoch, which every commit of a leader compares within its own transaction, and never the time. The
//! lock only tells sooner that nobody is there; that it is held proves nothing, and an expired lease is granted whether
//! or not its lock is held, because the lock of the next epoch is another one.
//!
//! That a lock is missing says nothing after a restart of the server, which frees them all, or on another server of a
//! cluster, which knows only its own. So it counts only on the server that the lease was renewed on last, and only if
//! that server has been up since.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use certlib_core::error::{Error, Result};
use certlib_core::lock::{Lease, LeaseInfo, LeaseRequest};
use sqlx::mysql::MySqlRow;
use sqlx::{Connection, MySqlConnection, Row};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio::time::timeout;

use super::database::{Database, Operation, Transaction, now};
use super::error::{closed, silent, store_error, uncertain};
use super::job::{number, text};
use super::open::Connector;
use super::queue::millis;
use certlib_core::store::timestamp::{floor, remaining, to_millis};

/// The lock that stands for the grant of a lease under an epoch, both bound here. At most 64 characters, as the server
/// wants; one for each database, because locks belong to the whole server.
macro_rules! lock_name {
    () => {
        "CONCAT('certlib.', LEFT(SHA2(CONCAT_WS('/', 'lease', DATABASE(), HEX(?), ?), 256), 48))"
    };
}

/// Which server of a cluster this is.
macro_rules! server {
    () => {
        "CONCAT_WS('/', @@hostname, @@port, @@server_id)"
    };
}

/// The server's own time, whatever clock measures leases.
macro_rules! server_now {
    () => {
        "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', UTC_TIMESTAMP(3)) DIV 1000)"
    };
}

const LOOK: &str = concat!(
    "SELECT holder, nonce, epoch, released, CAST(expires_at <= ",
    now!(),
    " AS SIGNED), CAST(server = ",
    server!(),
    " AS SIGNED), renewed_at, CAST(",
    server_now!(),
    " - renewed_at AS SIGNED) FROM certlib_leases WHERE name = ?"
);

const CREATE: &str = "INSERT INTO certlib_leases (name, holder, nonce, epoch, expires_at, released, server, renewed_at)
     VALUES (?, '', '', 0, 0, 1, '', 0) ON DUPLICATE KEY UPDATE name = VALUES(name)";

const LOCK: &str = concat!("SELECT GET_LOCK(", lock_name!(), ", 0)");

const LOCKED: &str = concat!("SELECT CAST(IS_USED_LOCK(", lock_name!(), ") AS SIGNED)");

/// Takes a lease that is still as it was looked at: free, expired, or without the lock of its epoch.
pub(super) const GRANT: &str = concat!(
    "UPDATE certlib_leases SET holder = ?, nonce = ?, epoch = epoch + 1, expires_at = LEAST(",
    now!(),
    " + ?, 253402300799999), released = 0, server = ",
    server!(),
    ", renewed_at = ",
    server_now!(),
    " WHERE name = ? AND epoch = ? AND (released = 1 OR expires_at <= ",
    now!(),
    " OR (? AND renewed_at = ? AND IS_USED_LOCK(",
    lock_name!(),
    ") IS NULL))"
);

/// Moves the end of a lease that is still ours.
pub(super) const RENEW: &str = concat!(
    "UPDATE certlib_leases SET expires_at = LEAST(",
    now!(),
    " + ?, 253402300799999), server = ",
    server!(),
    ", renewed_at = ",
    server_now!(),
    " WHERE name = ? AND holder = ? AND epoch = ? AND released = 0"
);

/// Gives a lease back that is still ours.
pub(super) const RELEASE: &str =
    "UPDATE certlib_leases SET released = 1 WHERE name = ? AND holder = ? AND epoch = ? AND released = 0";

const RAISE: &str = "UPDATE certlib_leases SET epoch = ?, released = 1 WHERE name = ? AND epoch <= ?";

/// Whether a lease holds; it does until the transaction ends.
pub(super) const REQUIRE: &str = "SELECT 1 FROM certlib_leases
     WHERE name = ? AND holder = ? AND epoch = ? AND released = 0 LOCK IN SHARE MODE";

/// A connection that holds the lock of a grant.
#[derive(Debug)]
struct Session {
    connection: MySqlConnection,
    epoch: i64,
    /// Whether the lock was got: not while the server keeps it for a connection of ours that it believes to be alive.
    locked: bool,
}

type Slot = Arc<AsyncMutex<Option<Session>>>;

/// The leases that this process holds, each with its connection.
#[derive(Debug)]
pub(super) struct Leases {
    connector: Connector,
    slots: Mutex<HashMap<String, Slot>>,
}

/// A lease as it is stored.
#[derive(Debug, Clone)]
struct Present {
    holder: String,
    nonce: String,
    epoch: i64,
    released: bool,
    expired: bool,
    /// Whether it was renewed last on the server that answers.
    here: bool,
    renewed_at: i64,
    /// How long ago that was, in milliseconds.
    age: i64,
}

/// What a candidate may do about a lease.
#[derive(Debug, PartialEq, Eq)]
enum Chance {
    /// It is the candidate's own, from the same request.
    Ours,
    /// It is to be had.
    Free,
    /// It is to be had if its lock is missing.
    PerhapsDead,
    /// It is somebody else's.
    Held,
}

impl Present {
    fn chance(&self, request: &LeaseRequest) -> Chance {
        if self.released {
            Chance::Free
        } else if self.holder == request.holder && self.nonce == request.nonce {
            Chance::Ours
        } else if self.expired {
            Chance::Free
        } else if self.here {
            Chance::PerhapsDead
        } else {
            Chance::Held
        }
    }
}

impl Leases {
    pub(super) fn new(connector: Connector) -> Self {
        Self { connector, slots: Mutex::default() }
    }

    pub(super) async fn acquire(&self, database: &Database, request: &LeaseRequest) -> Result<Option<Lease>> {
        let mut slot = self.slot(&request.name).await;
        let present = match database.read(&Look { name: &request.name }).await? {
            Some(present) => present,
            None => {
                database.statement(&Create { name: &request.name }).await?;
                match database.read(&Look { name: &request.name }).await? {
                    Some(present) => present,
                    None => return Ok(None),
                }
            }
        };
        let suspect = match present.chance(request) {
            Chance::Held => return Ok(None),
            Chance::Ours => {
                let lease = request.granted(present.epoch.cast_unsigned());
                let renewed = self.renew_in(&mut slot, database, &lease, request.ttl).await?;
                return Ok(renewed.then_some(lease));
            }
            Chance::Free => false,
            Chance::PerhapsDead => {
                if !database.read(&Abandoned { name: &request.name, present: &present }).await? {
                    return Ok(None);
                }
                true
            }
        };
        // The lock comes first, so that no grant is ever seen without it.
        let mut session = self.session(database, &request.name, present.epoch + 1).await?;
        if !session.locked {
            return Ok(None);
        }
        let grant = Grant { request, present: &present, suspect };
        if !on(&mut session.connection, database, &grant).await? {
            close(session.connection).await;
            return Ok(None);
        }
        let former = slot.replace(session);
        drop(slot);
        if let Some(former) = former {
            close(former.connection).await;
        }
        Ok(Some(request.granted(present.epoch.cast_unsigned() + 1)))
    }

    pub(super) async fn renew(&self, database: &Database, lease: &Lease, ttl: Duration) -> Result<bool> {
        let mut slot = self.slot(&lease.name).await;
        self.renew_in(&mut slot, database, lease, ttl).await
    }

    async fn renew_in(
        &self,
        slot: &mut Option<Session>,
        database: &Database,
        lease: &Lease,
        ttl: Duration,
    ) -> Result<bool> {
        let epoch = lease.epoch.cast_signed();
        let renew = Renew { lease, ttl };
        if slot.as_ref().is_some_and(|session| session.epoch == epoch && !session.locked) {
            *slot = None;
        }
        // Over the connection that holds the lock: that it answers is what shows that the lock is held.
        if let Some(session) = slot.as_mut().filter(|session| session.epoch == epoch) {
            match on(&mut session.connection, database, &renew).await {
                Ok(true) => return Ok(true),
                Ok(false) => {
                    if let Some(session) = slot.take() {
                        close(session.connection).await;
                    }
                    return Ok(false);
                }
                Err(error) => {
                    tracing::debug!(%error, lease = lease.name, "the connection of a lease broke");
                    *slot = None;
                }
            }
        }
        let mut session = self.session(database, &lease.name, epoch).await?;
        let renewed = on(&mut session.connection, database, &renew).await?;
        // The slot may hold the connection of a newer grant to somebody else in this process.
        if renewed {
            *slot = Some(session);
        } else {
            close(session.connection).await;
        }
        Ok(renewed)
    }

    pub(super) async fn release(&self, database: &Database, lease: &Lease) -> Result<bool> {
        let mut slot = self.slot(&lease.name).await;
        let released = database.statement(&Release { lease }).await?.output;
        if let Some(session) = slot.take_if(|session| session.epoch == lease.epoch.cast_signed()) {
            close(session.connection).await;
        }
        Ok(released)
    }

    /// Closes the connections of all leases: others may take them at once.
    pub(super) async fn close(&self) {
        let slots: Vec<Slot> = self.lock().drain().map(|(_, slot)| slot).collect();
        for slot in slots {
            if let Some(session) = slot.lock().await.take() {
                close(session.connection).await;
            }
        }
    }

    /// One at a time works on a lease.
    async fn slot(&self, name: &str) -> OwnedMutexGuard<Option<Session>> {
        let slot = self.lock().entry(name.to_owned()).or_default().clone();
        slot.lock_owned().await
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new connection that tried to get the lock of `name` under `epoch`.
    async fn session(&self, database: &Database, name: &str, epoch: i64) -> Result<Session> {
        let failed = |error| store_error("lock.acquire", error);
        if database.pool.is_closed() {
            return Err(closed("lock.acquire"));
        }
        let mut connection = self.connector.connect().await.map_err(failed)?;
        let locked = on(&mut connection, database, &Lock { name, epoch }).await?;
        Ok(Session { connection, epoch, locked })
    }
}

/// Runs `operation` over a connection of its own.
async fn on<O: Operation>(connection: &mut MySqlConnection, database: &Database, operation: &O) -> Result<O::Output> {
    let clock = database.clock.as_ref().map(|clock| to_millis(floor(clock.now())));
    let mut tx = Transaction { connection, clock, packet: database.packet, became_due: false };
    timeout(database.patience, operation.run(&mut tx)).await.unwrap_or_else(|_| Err(silent(O::NAME))).map_err(uncertain)
}

async fn close(connection: MySqlConnection) {
    // The server notices in any case.
    let _ = timeout(Duration::from_secs(1), connection.close()).await;
}

struct Look<'a> {
    name: &'a str,
}

#[async_trait]
impl Operation for Look<'_> {
    type Output = Option<Present>;

    const NAME: &'static str = "lock.acquire";

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<Option<Present>> {
        let row = sqlx::query(LOOK)
            .bind(tx.clock)
            .bind(self.name.as_bytes())
            .fetch_optional(&mut *tx.connection)
            .await
            .map_err(|error| store_error(Self::NAME, error))?;
        let decode = |row: MySqlRow| -> Result<Present> {
            Ok(Present {
                holder: text(&row, 0)?.to_owned(),
                nonce: text(&row, 1)?.to_owned(),
                epoch: number(&row, 2)?,
                released: number(&row, 3)? != 0,
                expired: number(&row, 4)? != 0,
                here: number(&row, 5)? != 0,
                renewed_at: number(&row, 6)?,
                age: number(&row, 7)?,
            })
        };
        row.map(decode).transpose()
    }
}

struct Create<'a> {
    name: &'a str,
}

#[async_trait]
impl Operation for Create<'_> {
    type Output = ();

    const NAME: &'static str = "lock.acquire";

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<()> {
        let query = sqlx::query(CREATE).bind(self.name.as_bytes());
        query.execute(&mut *tx.connection).await.map(drop).map_err(|error| store_error(Self::NAME, error))
    }
}

/// Whether the lock of a lease is missing, and that means that its holder is gone.
struct Abandoned<'a> {
    name: &'a str,
    present: &'a Present,
}

#[async_trait]
impl Operation for Abandoned<'_> {
    type Output = bool;

    const NAME: &'static str = "lock.acquire";

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<bool> {
        let failed = |error| store_error(Self::NAME, error);
        let used: Option<i64> = sqlx::query(LOCKED)
            .bind(self.name.as_bytes())
            .bind(self.present.epoch)
            .fetch_one(&mut *tx.connection)
            .await
            .and_then(|row| row.try_get(0))
            .map_err(failed)?;
        if used.is_some() {
            return Ok(false);
        }
        let row =
            sqlx::query("SHOW GLOBAL STATUS LIKE 'Uptime'").fetch_one(&mut *tx.connection).await.map_err(failed)?;
        Ok(text(&row, 1)?.parse::<i64>().is_ok_and(|seconds| outlived(seconds, self.present.age)))
    }
}

/// Whether a server that says it has been up for `seconds` was certainly up `age` milliseconds ago. It counts the
/// seconds of the calendar that have begun, one more at most than have passed. So a lease whose last renewal was in
/// the first moments of the server ends by its time only.
fn outlived(seconds: i64, age: i64) -> bool {
    (seconds - 1).saturating_mul(1000) >= age
}

struct Lock<'a> {
    name: &'a str,
    epoch: i64,
}

#[async_trait]
impl Operation for Lock<'_> {
    type Output = bool;

    const NAME: &'static str = "lock.acquire";

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<bool> {
        let locked: Option<i64> = sqlx::query(LOCK)
            .bind(self.name.as_bytes())
            .bind(self.epoch)
            .fetch_one(&mut *tx.connection)
            .await
            .and_then(|row| row.try_get(0))
            .map_err(|error| store_error(Self::NAME, error))?;
        Ok(locked == Some(1))
    }
}

struct Grant<'a> {
    request: &'a LeaseRequest,
    present: &'a Present,
    suspect: bool,
}

#[async_trait]
impl Operation for Grant<'_> {
    type Output = bool;

    const NAME: &'static str = "lock.acquire";

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<bool> {
        let LeaseRequest { name, holder, nonce, ttl, .. } = self.request;
        sqlx::query(GRANT)
            .bind(holder.as_bytes())
            .bind(nonce.as_bytes())
            .bind(tx.clock)
            .bind(millis(*ttl))
            .bind(name.as_bytes())
            .bind(self.present.epoch)
            .bind(tx.clock)
            .bind(self.suspect)
            .bind(self.present.renewed_at)
            .bind(name.as_bytes())
            .bind(self.present.epoch)
            .execute(&mut *tx.connection)
            .await
            .map(|done| done.rows_affected() > 0)
            .map_err(|error| store_error(Self::NAME, error))
    }
}

struct Renew<'a> {
    lease: &'a Lease,
    ttl: Duration,
}

#[async_trait]
impl Operation for Renew<'_> {
    type Output = bool;

    const NAME: &'static str = "lock.renew";

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<bool> {
        let query = sqlx::query(RENEW).bind(tx.clock).bind(millis(self.ttl));
        query
            .bind(self.lease.name.as_bytes())
            .bind(self.lease.holder.as_bytes())
            .bind(self.lease.epoch.cast_signed())
            .execute(&mut *tx.connection)
            .await
            .map(|done| done.rows_affected() > 0)
            .map_err(|error| store_error(Self::NAME, error))
    }
}

struct Release<'a> {
    lease: &'a Lease,
}

#[async_trait]
impl Operation for Release<'_> {
    type Output = bool;

    const NAME: &'static str = "lock.release";

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<bool> {
        sqlx::query(RELEASE)
            .bind(self.lease.name.as_bytes())
            .bind(self.lease.holder.as_bytes())
            .bind(self.lease.epoch.cast_signed())
            .execute(&mut *tx.connection)
            .await
            .map(|done| done.rows_affected() > 0)
            .map_err(|error| store_error(Self::NAME, error))
    }
}

/// Lifts an epoch.
pub(super) struct Raise<'a> {
    pub(super) name: &'a str,
    pub(super) floor: u64,
}

#[async_trait]
impl Operation for Raise<'_> {
    type Output = u64;

    const NAME: &'static str = "lock.raise";

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<u64> {
        let failed = |error| store_error(Self::NAME, error);
        let epoch = i64::try_from(self.floor)
            .map_err(|_| Error::validation(Self::NAME, "epoch_too_large", "no epoch can be this large"))?;
        let create = sqlx::query(CREATE).bind(self.name.as_bytes());
        create.execute(&mut *tx.connection).await.map_err(failed)?;
        let raise = sqlx::query(RAISE).bind(epoch).bind(self.name.as_bytes()).bind(epoch);
        raise.execute(&mut *tx.connection).await.map_err(failed)?;
        let row = sqlx::query("SELECT epoch FROM certlib_leases WHERE name = ?")
            .bind(self.name.as_bytes())
            .fetch_one(&mut *tx.connection)
            .await
            .map_err(failed)?;
        Ok(number(&row, 0)?.cast_unsigned())
    }
}

/// `lease_lost` unless `lease` is the latest grant of its name and was not released.
pub(super) async fn require(tx: &mut Transaction<'_>, lease: &Lease) -> Result<()> {
    let held = sqlx::query(REQUIRE)
        .bind(lease.name.as_bytes())
        .bind(lease.holder.as_bytes())
        .bind(lease.epoch.cast_signed())
        .fetch_optional(&mut *tx.connection)
        .await
        .map_err(|error| store_error("store.commit", error))?;
    held.map(drop).ok_or_else(|| lease.lost())
}

/// Who holds a lease.
pub(super) struct Inspect<'a> {
    pub(super) name: &'a str,
}

#[async_trait]
impl Operation for Inspect<'_> {
    type Output = Option<LeaseInfo>;

    const NAME: &'static str = "lock.inspect";

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<Option<LeaseInfo>> {
        const INSPECT: &str =
            concat!("SELECT holder, epoch, expires_at, released, ", now!(), " FROM certlib_leases WHERE name = ?");
        let query = sqlx::query(INSPECT).bind(tx.clock).bind(self.name.as_bytes());
        let row = query.fetch_optional(&mut *tx.connection).await.map_err(|error| store_error(Self::NAME, error))?;
        let Some(row) = row else { return Ok(None) };
        let released = number(&row, 3)? != 0;
        let left = remaining(number(&row, 4)?, number(&row, 2)?);
        Ok(Some(LeaseInfo {
            name: self.name.to_owned(),
            holder: text(&row, 0)?.to_owned(),
            epoch: number(&row, 1)?.cast_unsigned(),
            remaining: if released { Duration::ZERO } else { left },
            released,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn present() -> Present {
        Present {
            holder: "one".to_owned(),
            nonce: "first".to_owned(),
            epoch: 3,
            released: false,
            expired: false,
            here: true,
            renewed_at: 0,
            age: 5000,
        }
    }

    #[test]
    fn a_missing_lock_counts_only_where_it_was_held() {
        let request = |holder: &str, nonce: &str| LeaseRequest::new("leader", holder, nonce, Duration::from_secs(1));
        let other = request("two", "x");
        assert_eq!(present().chance(&other), Chance::PerhapsDead);
        assert_eq!(Present { here: false, ..present() }.chance(&other), Chance::Held);
        assert_eq!(Present { here: false, expired: true, ..present() }.chance(&other), Chance::Free);
        assert_eq!(Present { released: true, ..present() }.chance(&request("one", "first")), Chance::Free);
        assert_eq!(Present { expired: true, ..present() }.chance(&request("one", "first")), Chance::Ours);
        assert_eq!(present().chance(&request("one", "second")), Chance::PerhapsDead);
    }

    #[test]
    fn a_restart_of_the_server_kills_nobody() {
        assert!(outlived(6, 5000) && outlived(100, 0));
        assert!(!outlived(5, 5000) && !outlived(0, 0), "perhaps up for less time than the lease is old");
    }
}
