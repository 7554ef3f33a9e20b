//! Forgets counts of orders that no longer count.

use std::time::Duration;

use async_trait::async_trait;
use time::OffsetDateTime;

use super::due::{Advance, Due, sweep_due};
use super::{Sweep, SweepContext};
use crate::error::Result;
use crate::issuance::rate;
use crate::model::IssuanceWindow;
use crate::store::Versioned;

/// Deletes the buckets of [`IssuanceWindow`]s that have left their window, and windows without buckets.
///
/// It only saves room: what no longer counts follows from the time alone, so nothing has to be counted down, and a
/// sweep that is late, runs twice or not at all changes no decision.
#[derive(Debug, Clone, Copy)]
pub struct RateWindowSweep;

#[async_trait]
impl Sweep for RateWindowSweep {
    fn name(&self) -> &'static str {
        "rate_windows"
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(3600)
    }

    async fn run(&self, cx: &SweepContext) -> Result<usize> {
        sweep_due(cx, self).await
    }
}

#[async_trait]
impl Due for RateWindowSweep {
    type Record = IssuanceWindow;
    const FIELD: &'static str = "trim_at";

    async fn advance(
        &self,
        _: &SweepContext,
        window: &mut Versioned<IssuanceWindow>,
        now: OffsetDateTime,
    ) -> Result<Advance> {
        rate::trim(window, now.unix_timestamp());
        Ok(if window.buckets.is_empty() { Advance::Delete } else { Advance::alone() })
    }
}
