//! What sweeps over records have in common: a field says when, a page of records is moved on in one commit.

use async_trait::async_trait;
use time::OffsetDateTime;

use super::SweepContext;
use crate::error::{Error, Result, codes};
use crate::store::{Condition, RawRecord, Record, TypedQuery, Versioned, WriteBatch};

/// How many records one commit moves on.
const PAGE: usize = 100;

/// What moves on records whose time has come.
#[async_trait]
pub(super) trait Due: Send + Sync {
    /// The kind of record.
    type Record: Record;
    /// The field that holds the time.
    const FIELD: &'static str;

    /// Says what becomes of a record whose time has come by `now`. Unless it is deleted, its time must have moved
    /// behind `now`, or be gone.
    async fn advance(
        &self,
        cx: &SweepContext,
        record: &mut Versioned<Self::Record>,
        now: OffsetDateTime,
    ) -> Result<Advance>;
}

/// What becomes of a record.
pub(super) enum Advance {
    /// It is written back together with this.
    With(Box<WriteBatch>),
    /// It is deleted.
    Delete,
}

impl Advance {
    /// It is written back together with `besides`.
    pub(super) fn with(besides: WriteBatch) -> Self {
        Self::With(Box::new(besides))
    }

    /// It is written back, and nothing else happens.
    pub(super) fn alone() -> Self {
        Self::with(WriteBatch::new())
    }
}

/// Moves on every record whose time has come, oldest first; says how many were moved.
///
/// Each page is one commit. One that meets a conflict or a bad record is gone through one by one: what cannot be moved
/// on is left to the next sweep, and the others are not held up. No page is looked at twice.
pub(super) async fn sweep_due<D: Due>(cx: &SweepContext, due: &D) -> Result<usize> {
    let now = cx.clock.now();
    let mut moved = 0;
    let query = TypedQuery::<D::Record>::new().at_most(D::FIELD, now).order_by(D::FIELD).limit(PAGE);
    let mut query = query.into_raw()?;
    while !cx.is_over() {
        let page = cx.store.query(&query).await?;
        let mut moves = Vec::with_capacity(page.records.len());
        for raw in &page.records {
            match prepare(cx, due, raw, now).await {
                Ok(one) => moves.push(one),
                // Somebody changed it meanwhile: the next sweep sees it as it is then.
                Err(error) if error.is_conflict() => {}
                Err(error) if ends_sweep(&error) => return Err(error),
                Err(error) => report::<D>(&raw.id, &error),
            }
        }
        moved += commit::<D>(cx, moves).await?;
        match page.next {
            Some(next) => query.after = Some(next),
            None => break,
        }
    }
    Ok(moved)
}

/// Deletes the records whose `field` holds `until` or an earlier time, oldest first, about `most` of them; says how
/// many were deleted. Their bodies are not looked at.
pub(super) async fn delete_due<R: Record>(
    cx: &SweepContext,
    field: &'static str,
    until: OffsetDateTime,
    most: usize,
) -> Result<usize> {
    let query = TypedQuery::<R>::new().at_most(field, until).order_by(field).limit(500).into_raw()?;
    let mut deleted = 0;
    while deleted < most && !cx.is_over() {
        let page = cx.store.query(&query).await?;
        if page.records.is_empty() {
            break;
        }
        deleted += page.records.len();
        cx.commit(page.records.iter().fold(cx.batch(), |batch, raw| batch.delete::<R>(&raw.id))).await?;
        if page.next.is_none() {
            break;
        }
    }
    Ok(deleted)
}

/// One record's part of a commit.
struct Move {
    id: String,
    revision: u64,
    /// What happens to the record itself.
    own: WriteBatch,
    /// What happens besides.
    besides: WriteBatch,
}

async fn prepare<D: Due>(cx: &SweepContext, due: &D, raw: &RawRecord, now: OffsetDateTime) -> Result<Move> {
    let mut record = Versioned::<D::Record>::decode(raw)?;
    let (own, besides) = match due.advance(cx, &mut record, now).await? {
        Advance::With(besides) => (WriteBatch::new().update(&record)?, *besides),
        Advance::Delete => {
            let revision = Some(raw.revision);
            let as_read = Condition::Record { kind: D::Record::KIND, id: raw.id.clone(), revision };
            (WriteBatch::new().require(as_read).delete::<D::Record>(&raw.id), WriteBatch::new())
        }
    };
    Ok(Move { id: raw.id.clone(), revision: raw.revision, own, besides })
}

async fn commit<D: Due>(cx: &SweepContext, moves: Vec<Move>) -> Result<usize> {
    if moves.is_empty() {
        return Ok(0);
    }
    let all = moves.iter().fold(cx.batch(), |all, one| join(join(all, one.own.clone()), one.besides.clone()));
    match cx.commit(all).await {
        Ok(_) => return Ok(moves.len()),
        Err(error) if ends_sweep(&error) => return Err(error),
        Err(error) => tracing::debug!(%error, kind = D::Record::KIND, "a page is moved on one by one"),
    }
    let mut moved = 0;
    for one in moves {
        if cx.is_over() {
            break;
        }
        match commit_one::<D>(cx, &one).await {
            Ok(()) => moved += 1,
            Err(error) if error.is_conflict() => {}
            Err(error) if ends_sweep(&error) => return Err(error),
            Err(error) => report::<D>(&one.id, &error),
        }
    }
    Ok(moved)
}

async fn commit_one<D: Due>(cx: &SweepContext, one: &Move) -> Result<()> {
    let error = match cx.commit(join(join(cx.batch(), one.own.clone()), one.besides.clone())).await {
        Err(error) if error.is_conflict() => error,
        result => return result.map(drop),
    };
    // Not the record was written by somebody else, but what should go with it is there: it was told before. Then the
    // record has to be moved on all the same, or it would be met for ever.
    let unchanged = cx.store.get(D::Record::KIND, &one.id).await?.is_some_and(|raw| raw.revision == one.revision);
    // What should go with it may also have met another write. Then it is prepared afresh, by the next sweep: nothing that
    // changes another record may get lost.
    let news = |condition: &Condition| matches!(condition, Condition::Record { revision: None, .. });
    if !unchanged || !one.besides.conditions.iter().all(news) {
        return Err(error);
    }
    let mut again = join(cx.batch(), one.own.clone());
    again.jobs.extend(one.besides.jobs.iter().cloned());
    cx.commit(again).await.map(drop)
}

fn join(mut batch: WriteBatch, other: WriteBatch) -> WriteBatch {
    batch.conditions.extend(other.conditions);
    batch.writes.extend(other.writes);
    batch.jobs.extend(other.jobs);
    batch
}

/// Whether an error concerns the store or the lease, not a record.
fn ends_sweep(error: &Error) -> bool {
    error.class().is_retryable() || error.code() == codes::LEASE_LOST
}

fn report<D: Due>(id: &str, error: &Error) {
    tracing::error!(kind = D::Record::KIND, id, field = D::FIELD, %error, "cannot be swept");
}
