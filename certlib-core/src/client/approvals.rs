//! Approvals: ask, decide, look.

use std::time::Duration;

use serde_json::json;

use super::Client;
use crate::distribution;
use crate::error::{Error, Result};
use crate::model::{ApprovalDecision, ApprovalRequest, ApprovalState, Event, check_name, new_id};
use crate::queue::later;
use crate::store::{Cursor, StoreExt as _, TypedPage, TypedQuery, WriteBatch};

/// What is to be approved.
#[derive(Debug, Clone)]
pub struct NewApproval {
    /// What kind of thing it is about, such as `"run"`.
    pub subject_kind: String,
    /// Which one.
    pub subject_id: String,
    /// The digest of exactly what is approved.
    pub digest: String,
    /// Who asks.
    pub requested_by: String,
    /// How many must agree, at least 1.
    pub needed: u32,
    /// Who may decide; empty: anybody but who asks.
    pub approvers: Vec<String>,
    /// For how long, at most a year.
    pub ttl: Duration,
}

impl NewApproval {
    /// A request of `requested_by` that one other person has to approve within a day.
    pub fn new(
        subject_kind: impl Into<String>,
        subject_id: impl Into<String>,
        digest: impl Into<String>,
        requested_by: impl Into<String>,
    ) -> Self {
        Self {
            subject_kind: subject_kind.into(),
            subject_id: subject_id.into(),
            digest: digest.into(),
            requested_by: requested_by.into(),
            needed: 1,
            approvers: Vec::new(),
            ttl: Duration::from_secs(24 * 3600),
        }
    }
}

impl Client {
    /// Asks for approval.
    ///
    /// # Errors
    /// `not_found` for an unknown project; `name_invalid`; `approval_invalid` when nobody has to agree, more have to
    /// than may, or the time is none or more than a year.
    pub async fn request_approval(&self, project: &str, new: NewApproval) -> Result<ApprovalRequest> {
        const YEAR: Duration = Duration::from_secs(366 * 86_400);
        self.project(project).await?;
        check_name("the kind of what is approved", &new.subject_kind)?;
        check_name("the id of what is approved", &new.subject_id)?;
        check_name("the digest of what is approved", &new.digest)?;
        check_name("who asks", &new.requested_by)?;
        let mut approvers = new.approvers;
        approvers.iter().try_for_each(|name| check_name("an approver", name))?;
        approvers.sort_unstable();
        approvers.dedup();
        let others = approvers.iter().filter(|name| **name != new.requested_by).count();
        let enough = approvers.is_empty() || usize::try_from(new.needed).is_ok_and(|needed| needed <= others);
        if new.needed == 0 || !enough || new.ttl.is_zero() || new.ttl > YEAR {
            let rule = "at least one must agree, no more than may, within at most a year";
            return Err(Error::validation("approval.request", "approval_invalid", rule)
                .with("needed", new.needed)
                .with("may", others));
        }
        let now = self.engine.clock.now();
        let request = ApprovalRequest {
            id: new_id(),
            project: project.to_owned(),
            subject_kind: new.subject_kind,
            subject_id: new.subject_id,
            digest: new.digest,
            requested_by: new.requested_by,
            requested_at: now,
            needed: new.needed,
            approvers,
            decisions: Vec::new(),
            state: ApprovalState::Pending,
            expires_at: later(now, new.ttl),
        };
        let data = json!({
            "subject_kind": &request.subject_kind,
            "subject": &request.subject_id,
            "requested_by": &request.requested_by,
        });
        let event = Event::new(project, "approval.requested", &request.id, data, now);
        self.engine.store.commit(WriteBatch::new().insert(&request)?.insert(&event)?).await?;
        Ok(request)
    }

    /// Decides on a request, in the name of `by`: whether that is who they say is up to the caller.
    ///
    /// # Errors
    /// `not_found`; those of [`ApprovalRequest::decide`]; `conflict` when others keep deciding at the same moment.
    pub async fn decide_approval(
        &self,
        project: &str,
        id: &str,
        by: &str,
        approve: bool,
        comment: &str,
    ) -> Result<ApprovalRequest> {
        const TRIES: usize = 10;
        check_name("who decides", by)?;
        let comment: String = comment.chars().filter(|c| !c.is_control()).take(1000).collect();
        let mut tries = 0;
        loop {
            let mut request = self.owned::<ApprovalRequest>(project, id).await?;
            let now = self.engine.clock.now();
            request.decide(ApprovalDecision { by: by.to_owned(), approve, comment: comment.clone(), at: now })?;
            let kind = match request.state {
                ApprovalState::Approved => "approval.approved",
                ApprovalState::Rejected => "approval.rejected",
                _ => "approval.agreed",
            };
            let data = json!({ "by": by, "approvals": request.approvals(), "needed": request.needed });
            let event = Event::new(project, kind, id, data, now);
            // Whatever waited for it goes on, or ends, with it.
            let batch = distribution::decided(&self.engine.store, &request, now).await?;
            match self.engine.store.commit(batch.update(&request)?.insert(&event)?).await {
                Ok(_) => return Ok(request.record),
                // Somebody else decided at the same moment: their decision counts as well.
                Err(error) if error.is_conflict() && tries < TRIES => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// The request with `id`.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn approval(&self, project: &str, id: &str) -> Result<ApprovalRequest> {
        Ok(self.owned::<ApprovalRequest>(project, id).await?.record)
    }

    /// One page of the project's requests, oldest first; all, or those in one state.
    ///
    /// # Errors
    /// As [`Store`](crate::store::Store).
    pub async fn approvals(
        &self,
        project: &str,
        state: Option<ApprovalState>,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<TypedPage<ApprovalRequest>> {
        let mut query = TypedQuery::new().equal("project", project).after(after).limit(limit);
        if let Some(state) = state {
            query = query.equal("state", state.as_str());
        }
        self.engine.store.list(query).await
    }
}
