//! Where everything durable lives: typed records, one write primitive, queries over declared fields.

mod batch;
mod kinds;
mod query;
mod record;
pub mod timestamp;

use std::sync::Arc;

use async_trait::async_trait;

pub use self::batch::{Commit, Condition, Write, WriteBatch};
pub use self::kinds::{AnyRecord, RecordKind, RecordKinds};
pub use self::query::{Cursor, Filter, PAGE_MAX, Page, Query, TypedPage, TypedQuery};
pub use self::record::{Index, IndexValue, KEK_FIELD, RawRecord, Record, SealedField, Versioned};
use crate::error::{Error, Result};
use crate::lock::LeaderLock;
use crate::queue::{JobQueue, Lane};

/// A database that certlib can live in.
///
/// For implementors; callers use the typed methods of [`StoreExt`].
///
/// # Contract
/// - **One write primitive.** [`Store::commit`] checks every condition and then applies every effect in one
///   transaction that is durable when it returns: all or nothing, also across a crash.
/// - A record's revision is 1 when inserted and grows by one with each put; it is never reused within a record's life.
/// - A read sees every commit that returned before the read began.
/// - Methods may be called concurrently from any number of tasks, processes or hosts that the store supports.
/// - Dropping the future of a write leaves it either applied or not; dropping a read changes nothing.
///
/// # Errors
/// `Network` and `IoTransient` when the database is away or busy (the effect of a write is then
/// [`Possible`](crate::Effect::Possible) unless it certainly did not happen); `Validation` `conflict` when a condition does not
/// hold, `lease_lost` when it is a claim or a lease; `IoPermanent` when the database refuses for good (disk full).
#[async_trait]
pub trait Store: JobQueue + LeaderLock {
    /// The record of `kind` with `id`.
    async fn get(&self, kind: &str, id: &str) -> Result<Option<RawRecord>>;

    /// Records that match `query`, in its order, at most its limit.
    async fn query(&self, query: &Query) -> Result<Page>;

    /// Applies `batch`, all or nothing.
    async fn commit(&self, batch: WriteBatch) -> Result<Commit>;

    /// The same database over connections that only `lane` uses, so that no lane can take another's. `None`, the
    /// default, for a store whose connections cannot run out.
    fn lane(&self, _lane: Lane) -> Option<SharedStore> {
        None
    }
}

/// Typed access to a [`Store`].
#[async_trait]
pub trait StoreExt: Store {
    /// The record of type `R` with `id`, if there is one.
    async fn find<R: Record>(&self, id: &str) -> Result<Option<Versioned<R>>> {
        self.get(R::KIND, id).await?.map(|raw| Versioned::decode(&raw)).transpose()
    }

    /// The record of type `R` with `id`; `not_found` if there is none.
    async fn load<R: Record>(&self, id: &str) -> Result<Versioned<R>> {
        self.find(id).await?.ok_or_else(|| Error::not_found("store.load", format_args!("{} {id}", R::KIND)))
    }

    /// One page of records.
    async fn list<R: Record>(&self, query: TypedQuery<R>) -> Result<TypedPage<R>> {
        TypedPage::decode(self.query(&query.into_raw()?).await?)
    }

    /// Every record that matches, page by page. For sets that are small by nature, such as the targets of a run.
    async fn list_all<R: Record>(&self, query: TypedQuery<R>) -> Result<Vec<Versioned<R>>> {
        let mut query = query.limit(1000).into_raw()?;
        let mut records = Vec::new();
        loop {
            let page = TypedPage::decode(self.query(&query).await?)?;
            records.extend(page.records);
            match page.next {
                Some(next) => query.after = Some(next),
                None => return Ok(records),
            }
        }
    }

    /// Inserts `record`, which must not exist.
    async fn insert<R: Record>(&self, record: R) -> Result<Versioned<R>> {
        self.commit(WriteBatch::new().insert(&record)?).await?;
        Ok(Versioned { record, revision: 1 })
    }

    /// Writes `record` back if nobody else wrote it since it was read, and advances its revision.
    async fn update<R: Record>(&self, record: &mut Versioned<R>) -> Result<()> {
        self.commit(WriteBatch::new().update(record)?).await?;
        record.revision += 1;
        Ok(())
    }
}

impl<S: Store + ?Sized> StoreExt for S {}

/// A store as the runtime holds it.
pub type SharedStore = Arc<dyn Store>;
