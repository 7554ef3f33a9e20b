//! What the sweeps over certificates have in common: a field says when, a job does it.

use time::OffsetDateTime;

use super::SweepContext;
use crate::error::{Result, codes};
use crate::model::Certificate;
use crate::queue::NewJob;
use crate::store::{RawRecord, TypedQuery, Versioned};

/// Enqueues a job for each certificate whose `field` has come, oldest first. `take` moves the field on, so that the
/// certificate is not found again at once, and says which job.
pub(super) async fn enqueue_due(
    cx: &SweepContext,
    field: &'static str,
    take: impl Fn(&mut Certificate, OffsetDateTime) -> NewJob + Send + Sync,
) -> Result<usize> {
    const PAGE: usize = 200;
    let now = cx.clock.now();
    let mut due = 0;
    let mut query = TypedQuery::<Certificate>::new().at_most(field, now).order_by(field).limit(PAGE).into_raw()?;
    loop {
        let page = cx.store.query(&query).await?;
        for raw in &page.records {
            if cx.cancel.is_cancelled() {
                return Ok(due);
            }
            match enqueue_one(cx, raw, &take, now).await {
                Ok(()) => due += 1,
                // Somebody changed it meanwhile: the next sweep sees it as it is then.
                Err(error) if error.is_conflict() => {}
                Err(error) if error.class().is_retryable() || error.code() == codes::LEASE_LOST => return Err(error),
                // One bad record must not keep the others from being renewed.
                Err(error) => tracing::error!(certificate = %raw.id, %error, "cannot be swept"),
            }
        }
        match page.next {
            Some(next) => query.after = Some(next),
            None => return Ok(due),
        }
    }
}

async fn enqueue_one(
    cx: &SweepContext,
    raw: &RawRecord,
    take: &(impl Fn(&mut Certificate, OffsetDateTime) -> NewJob + Send + Sync),
    now: OffsetDateTime,
) -> Result<()> {
    let mut certificate = Versioned::<Certificate>::decode(raw)?;
    let job = take(&mut certificate, now);
    cx.store.commit(cx.batch().update(&certificate)?.enqueue(job)).await.map(drop)
}
