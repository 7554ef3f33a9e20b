//! Leases: one row for each name, which only ever changes.

use std::time::Duration;

use async_trait::async_trait;
use certlib_core::error::Result;
use certlib_core::lock::{Lease, LeaseInfo, LeaseRequest};
use certlib_core::queue::later;
use sqlx::{Row, SqliteConnection, SqlitePool};

use super::error::store_error;
use super::timestamp::{self, remaining, to_millis};
use super::writer::{Operation, Transaction};

/// Grants a lease that is free, or the same grant again to the same request.
pub(super) struct Acquire {
    pub(super) request: LeaseRequest,
}

#[async_trait]
impl Operation for Acquire {
    type Output = Option<Lease>;

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<Option<Lease>> {
        let granted = sqlx::query(
            "INSERT INTO certlib_leases (name, holder, nonce, epoch, expires_at, released)
             VALUES (?1, ?2, ?3, 1, ?4, 0)
             ON CONFLICT (name) DO UPDATE SET
                 epoch = epoch + (released OR holder <> excluded.holder OR nonce <> excluded.nonce),
                 holder = excluded.holder, nonce = excluded.nonce, expires_at = excluded.expires_at, released = 0
             WHERE released OR expires_at <= ?5 OR (holder = excluded.holder AND nonce = excluded.nonce)
             RETURNING epoch",
        )
        .bind(&*self.request.name)
        .bind(&*self.request.holder)
        .bind(&*self.request.nonce)
        .bind(to_millis(later(tx.now, self.request.ttl)))
        .bind(to_millis(tx.now))
        .fetch_all(&mut *tx.connection)
        .await
        .map_err(|error| store_error("lock.acquire", error))?;
        let Some(row) = granted.first() else { return Ok(None) };
        let epoch: i64 = row.try_get(0).map_err(|error| store_error("lock.acquire", error))?;
        Ok(Some(self.request.granted(epoch.cast_unsigned())))
    }
}

/// Lifts the epoch.
pub(super) struct Raise {
    pub(super) name: String,
    pub(super) floor: u64,
}

#[async_trait]
impl Operation for Raise {
    type Output = u64;

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<u64> {
        let epoch: i64 = sqlx::query(
            "INSERT INTO certlib_leases (name, holder, nonce, epoch, expires_at, released) VALUES (?1, '', '', ?2, 0, 1)
             ON CONFLICT (name) DO UPDATE SET
                 released = released OR epoch <= excluded.epoch, epoch = max(epoch, excluded.epoch)
             RETURNING epoch",
        )
        .bind(&*self.name)
        .bind(i64::try_from(self.floor).unwrap_or(i64::MAX))
        .fetch_all(&mut *tx.connection)
        .await
        .and_then(|rows| rows.first().ok_or(sqlx::Error::RowNotFound)?.try_get(0))
        .map_err(|error| store_error("lock.raise", error))?;
        Ok(epoch.cast_unsigned())
    }
}

/// Moves the end of a lease that is still ours.
pub(super) struct Renew {
    pub(super) lease: Lease,
    pub(super) ttl: Duration,
}

#[async_trait]
impl Operation for Renew {
    type Output = bool;

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<bool> {
        let renewed = sqlx::query(
            "UPDATE certlib_leases SET expires_at = ?4
             WHERE name = ?1 AND holder = ?2 AND epoch = ?3 AND NOT released",
        )
        .bind(&*self.lease.name)
        .bind(&*self.lease.holder)
        .bind(self.lease.epoch.cast_signed())
        .bind(to_millis(later(tx.now, self.ttl)))
        .execute(&mut *tx.connection)
        .await
        .map_err(|error| store_error("lock.renew", error))?;
        Ok(renewed.rows_affected() > 0)
    }
}

/// Gives a lease back that is still ours.
pub(super) struct Release {
    pub(super) lease: Lease,
}

#[async_trait]
impl Operation for Release {
    type Output = bool;

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<bool> {
        let released = sqlx::query(
            "UPDATE certlib_leases SET released = 1
             WHERE name = ?1 AND holder = ?2 AND epoch = ?3 AND NOT released",
        )
        .bind(&*self.lease.name)
        .bind(&*self.lease.holder)
        .bind(self.lease.epoch.cast_signed())
        .execute(&mut *tx.connection)
        .await
        .map_err(|error| store_error("lock.release", error))?;
        Ok(released.rows_affected() > 0)
    }
}

/// `lease_lost` unless `lease` is the latest grant of its name and was not released.
pub(super) async fn require(connection: &mut SqliteConnection, lease: &Lease) -> Result<()> {
    let held =
        sqlx::query("SELECT 1 FROM certlib_leases WHERE name = ?1 AND holder = ?2 AND epoch = ?3 AND NOT released")
            .bind(&*lease.name)
            .bind(&*lease.holder)
            .bind(lease.epoch.cast_signed())
            .fetch_optional(connection)
            .await
            .map_err(|error| store_error("store.commit", error))?;
    held.map(drop).ok_or_else(|| lease.lost())
}

pub(super) async fn inspect(readers: &SqlitePool, name: &str, now: time::OffsetDateTime) -> Result<Option<LeaseInfo>> {
    let decode = |row: sqlx::sqlite::SqliteRow| -> sqlx::Result<LeaseInfo> {
        let released: bool = row.try_get(3)?;
        let left = remaining(to_millis(timestamp::floor(now)), row.try_get(2)?);
        Ok(LeaseInfo {
            name: name.to_owned(),
            holder: row.try_get(0)?,
            epoch: row.try_get::<i64, _>(1)?.cast_unsigned(),
            remaining: if released { Duration::ZERO } else { left },
            released,
        })
    };
    sqlx::query("SELECT holder, epoch, expires_at, released FROM certlib_leases WHERE name = ?1")
        .bind(name)
        .fetch_optional(readers)
        .await
        .and_then(|row| row.map(decode).transpose())
        .map_err(|error| store_error("lock.inspect", error))
}
