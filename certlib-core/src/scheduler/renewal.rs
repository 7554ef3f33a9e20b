//! Renews what is due.

use std::time::Duration;

use async_trait::async_trait;

use super::due::enqueue_due;
use super::{Sweep, SweepContext};
use crate::error::Result;
use crate::issuance::{self, IssueReason};
use crate::model::Certificate;

/// Enqueues `renew_certificate` for each certificate whose `renew_at` has come, oldest first.
#[derive(Debug, Clone, Copy)]
pub struct RenewalSweep;

/// When to look again at a certificate whose renewal was enqueued: a net under a job that was given up.
const LOOK_AGAIN: Duration = Duration::from_secs(24 * 3600);

#[async_trait]
impl Sweep for RenewalSweep {
    fn name(&self) -> &'static str {
        "renewal"
    }

    async fn run(&self, cx: &SweepContext) -> Result<usize> {
        let take = |certificate: &mut Certificate, now| {
            certificate.renew_at = Some(now + LOOK_AGAIN);
            issuance::job(certificate, IssueReason::Renewal)
        };
        enqueue_due(cx, "renew_at", take).await
    }
}
