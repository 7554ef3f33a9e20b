//! Forgets challenges that nobody will ask for any more.

use async_trait::async_trait;

use super::{Sweep, SweepContext};
use crate::error::Result;
use crate::model::AcmeChallenge;
use crate::store::{StoreExt as _, TypedQuery};

/// Deletes expired HTTP-01 challenges.
#[derive(Debug, Clone, Copy)]
pub struct ChallengeSweep;

#[async_trait]
impl Sweep for ChallengeSweep {
    fn name(&self) -> &'static str {
        "challenge_cleanup"
    }

    async fn run(&self, cx: &SweepContext) -> Result<usize> {
        let now = cx.clock.now();
        let mut deleted = 0;
        loop {
            let query = TypedQuery::<AcmeChallenge>::new().at_most("expires_at", now).order_by("expires_at").limit(500);
            let page = cx.store.list(query).await?;
            if page.records.is_empty() || cx.cancel.is_cancelled() {
                return Ok(deleted);
            }
            deleted += page.records.len();
            let batch = page.records.iter().fold(cx.batch(), |batch, record| batch.delete::<AcmeChallenge>(&record.id));
            cx.store.commit(batch).await?;
        }
    }
}
