//! Forgets challenges that nobody will ask for any more.

use async_trait::async_trait;

use super::due::delete_due;
use super::{Sweep, SweepContext};
use crate::error::Result;
use crate::model::AcmeChallenge;

/// Deletes expired HTTP-01 challenges.
#[derive(Debug, Clone, Copy)]
pub struct ChallengeSweep;

#[async_trait]
impl Sweep for ChallengeSweep {
    fn name(&self) -> &'static str {
        "challenge_cleanup"
    }

    async fn run(&self, cx: &SweepContext) -> Result<usize> {
        delete_due::<AcmeChallenge>(cx, "expires_at", cx.clock.now(), usize::MAX).await
    }
}
