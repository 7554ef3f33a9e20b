//! Ends requests for approval that nobody decided.

use async_trait::async_trait;
use serde_json::json;
use time::OffsetDateTime;

use super::due::{Advance, Due, sweep_due};
use super::{Sweep, SweepContext};
use crate::distribution;
use crate::error::Result;
use crate::model::{ApprovalRequest, ApprovalState, Event};
use crate::store::Versioned;

/// The kind of the event that says that a request ended without a decision.
pub const APPROVAL_EXPIRED_EVENT: &str = "approval.expired";

/// Marks pending requests for approval as expired once their time has passed, with an event. Nobody has to wait for it:
/// from then on no decision is accepted anyway.
#[derive(Debug, Clone, Copy)]
pub struct ApprovalSweep;

#[async_trait]
impl Sweep for ApprovalSweep {
    fn name(&self) -> &'static str {
        "approval_expiry"
    }

    async fn run(&self, cx: &SweepContext) -> Result<usize> {
        sweep_due(cx, self).await
    }
}

#[async_trait]
impl Due for ApprovalSweep {
    type Record = ApprovalRequest;
    const FIELD: &'static str = "pending_until";

    async fn advance(
        &self,
        cx: &SweepContext,
        request: &mut Versioned<ApprovalRequest>,
        now: OffsetDateTime,
    ) -> Result<Advance> {
        request.state = ApprovalState::Expired;
        let data = json!({
            "subject_kind": request.subject_kind,
            "subject": request.subject_id,
            "requested_by": request.requested_by,
            "approvals": request.approvals(),
            "needed": request.needed,
        });
        let event = Event::new(&request.project, APPROVAL_EXPIRED_EVENT, &request.id, data, now)
            .once("expired", request.expires_at);
        // Whatever waited for it ends with it.
        let batch = distribution::decided(&cx.store, request, now).await?;
        Ok(Advance::with(batch.insert(&event)?))
    }
}
