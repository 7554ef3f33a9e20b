//! Asks CAs when they want certificates renewed.

use std::time::Duration;

use async_trait::async_trait;

use super::due::enqueue_due;
use super::{Sweep, SweepContext};
use crate::error::Result;
use crate::issuance;
use crate::model::Certificate;

/// Enqueues `refresh_renewal_hint` for each certificate whose `hint_check_at` has come.
#[derive(Debug, Clone, Copy)]
pub struct HintSweep;

/// When to look again at a certificate whose refresh was enqueued; the job itself sets the real time.
const LOOK_AGAIN: Duration = Duration::from_secs(6 * 3600);

#[async_trait]
impl Sweep for HintSweep {
    fn name(&self) -> &'static str {
        "renewal_hint"
    }

    async fn run(&self, cx: &SweepContext) -> Result<usize> {
        let take = |certificate: &mut Certificate, now| {
            certificate.hint_check_at = Some(now + LOOK_AGAIN);
            issuance::hint_job(certificate)
        };
        enqueue_due(cx, "hint_check_at", take).await
    }
}
