//! Asks CAs when they want certificates renewed.

use std::time::Duration;

use async_trait::async_trait;
use time::OffsetDateTime;

use super::due::{Advance, Due, sweep_due};
use super::{Sweep, SweepContext};
use crate::error::Result;
use crate::issuance;
use crate::model::Certificate;
use crate::store::{Versioned, WriteBatch};

/// Enqueues `refresh_renewal_hint` for each certificate whose `hint_check_at` has come.
#[derive(Debug, Clone, Copy)]
pub struct HintSweep;

/// When to look again at a certificate whose refresh was enqueued; the job itself sets the real time. Longer than a job
/// may take with all its retries, which must not be hurried.
const LOOK_AGAIN: Duration = Duration::from_secs(48 * 3600);

#[async_trait]
impl Sweep for HintSweep {
    fn name(&self) -> &'static str {
        "renewal_hint"
    }

    async fn run(&self, cx: &SweepContext) -> Result<usize> {
        sweep_due(cx, self).await
    }
}

#[async_trait]
impl Due for HintSweep {
    type Record = Certificate;
    const FIELD: &'static str = "hint_check_at";

    async fn advance(
        &self,
        _: &SweepContext,
        certificate: &mut Versioned<Certificate>,
        now: OffsetDateTime,
    ) -> Result<Advance> {
        certificate.hint_check_at = Some(now + LOOK_AGAIN);
        Ok(Advance::with(WriteBatch::new().enqueue(issuance::hint_job(certificate))))
    }
}
