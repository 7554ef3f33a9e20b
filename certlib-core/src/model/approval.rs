//! Requests for approval: what somebody wants to do, and who agrees.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::error::{Error, Result};
use crate::store::{Index, Record};

/// A wish to do something that others have to approve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalRequest {
    /// Its id.
    pub id: String,
    /// The project that owns it.
    pub project: String,
    /// What kind of thing it is about, such as `"run"`.
    pub subject_kind: String,
    /// Which one.
    pub subject_id: String,
    /// The digest of exactly what is approved, such as that of a plan: anything else is not.
    pub digest: String,
    /// Who asks. Cannot approve it.
    pub requested_by: String,
    /// Since when.
    #[serde(with = "time::serde::rfc3339")]
    pub requested_at: OffsetDateTime,
    /// How many must agree.
    pub needed: u32,
    /// Who may decide; empty: anybody but who asks.
    pub approvers: Vec<String>,
    /// What was decided, in order; each decides once.
    pub decisions: Vec<ApprovalDecision>,
    /// Where it stands.
    pub state: ApprovalState,
    /// From here on no decision is accepted, and one that was reached no longer holds.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
}

/// What one person decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalDecision {
    /// Who.
    pub by: String,
    /// Whether they agree.
    pub approve: bool,
    /// Why, in their words; may be empty.
    pub comment: String,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
}

/// Where a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ApprovalState {
    /// Not enough have agreed yet.
    Pending,
    /// Enough have agreed.
    Approved,
    /// Somebody does not agree.
    Rejected,
    /// Its time passed before enough had agreed.
    Expired,
}

impl ApprovalState {
    /// The state as it appears in JSON and in the index.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
        }
    }
}

impl ApprovalRequest {
    /// How many agree.
    pub fn approvals(&self) -> usize {
        self.decisions.iter().filter(|decision| decision.approve).count()
    }

    /// Whether what has this `digest` may be done at `now`.
    pub fn allows(&self, digest: &str, now: OffsetDateTime) -> bool {
        self.state == ApprovalState::Approved && self.digest == digest && now < self.expires_at
    }

    /// Adds a decision. One rejection ends the request; as many approvals as are needed end it as well.
    ///
    /// # Errors
    /// `Validation`: `approval_over` when it is not pending any more; `approval_expired` when its time has passed;
    /// `approval_own` when who asks wants to decide; `approval_not_asked` when somebody was not asked;
    /// `approval_twice` when somebody decides again.
    pub fn decide(&mut self, decision: ApprovalDecision) -> Result<()> {
        let refuse = |code: &'static str, why: &'static str| {
            Err(Error::validation("approval.decide", code, why).with("request", &self.id))
        };
        if self.state != ApprovalState::Pending {
            return refuse("approval_over", "the request was decided already, or has expired");
        }
        if decision.at >= self.expires_at {
            return refuse("approval_expired", "the time to decide has passed");
        }
        if decision.by == self.requested_by {
            return refuse("approval_own", "nobody decides on their own request");
        }
        if !self.approvers.is_empty() && !self.approvers.contains(&decision.by) {
            return refuse("approval_not_asked", "only those who were asked decide");
        }
        if self.decisions.iter().any(|former| former.by == decision.by) {
            return refuse("approval_twice", "everybody decides once");
        }
        let approve = decision.approve;
        self.decisions.push(decision);
        if !approve {
            self.state = ApprovalState::Rejected;
        } else if u32::try_from(self.approvals()).unwrap_or(u32::MAX) >= self.needed {
            self.state = ApprovalState::Approved;
        }
        Ok(())
    }
}

impl Record for ApprovalRequest {
    const KIND: &'static str = "approval_request";
    const FIELDS: &'static [&'static str] = &["project", "state", "subject", "pending_until"];

    fn id(&self) -> &str {
        &self.id
    }

    fn index(&self) -> Index {
        let pending = self.state == ApprovalState::Pending;
        Index::new()
            .field("project", &*self.project)
            .field("state", self.state.as_str())
            .field("subject", &*self.subject_id)
            .maybe("pending_until", pending.then_some(self.expires_at))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::Duration;
    use time::macros::datetime;

    use super::*;

    const START: OffsetDateTime = datetime!(2027-01-01 00:00 UTC);

    fn request(needed: u32, approvers: &[&str]) -> ApprovalRequest {
        ApprovalRequest {
            id: "r".into(),
            project: "p".into(),
            subject_kind: "run".into(),
            subject_id: "s".into(),
            digest: "d".into(),
            requested_by: "ada".into(),
            requested_at: START,
            needed,
            approvers: approvers.iter().map(|name| (*name).to_owned()).collect(),
            decisions: Vec::new(),
            state: ApprovalState::Pending,
            expires_at: START + Duration::HOUR,
        }
    }

    fn by(name: &str, approve: bool) -> ApprovalDecision {
        ApprovalDecision { by: name.into(), approve, comment: String::new(), at: START }
    }

    #[test]
    fn two_of_three() {
        let mut request = request(2, &["ada", "bob", "eve", "joe"]);
        assert_eq!(request.decide(by("ada", true)).unwrap_err().code(), "approval_own");
        assert_eq!(request.decide(by("zoe", true)).unwrap_err().code(), "approval_not_asked");
        request.decide(by("bob", true)).unwrap();
        assert_eq!(request.decide(by("bob", true)).unwrap_err().code(), "approval_twice");
        assert!(!request.allows("d", START));
        request.decide(by("joe", true)).unwrap();
        assert!(request.allows("d", START) && !request.allows("e", START));
        assert!(!request.allows("d", START + Duration::HOUR), "it does not hold for ever");
        assert_eq!(request.decide(by("eve", false)).unwrap_err().code(), "approval_over");
    }

    #[test]
    fn one_rejection_is_enough_and_late_is_too_late() {
        let mut rejected = request(2, &[]);
        rejected.decide(by("bob", false)).unwrap();
        assert_eq!(rejected.state, ApprovalState::Rejected);
        let late = ApprovalDecision { at: START + Duration::HOUR, ..by("bob", true) };
        assert_eq!(request(1, &[]).decide(late).unwrap_err().code(), "approval_expired");
    }

    proptest! {
        #[test]
        fn approved_only_by_enough_others(needed in 1_u32..5, votes in proptest::collection::vec((0_usize..6, any::<bool>()), 0..20)) {
            let people = ["ada", "bob", "eve", "joe", "kim", "zoe"];
            let mut request = request(needed, &[]);
            for (person, approve) in votes {
                let _ = request.decide(by(people[person], approve));
            }
            let names: std::collections::BTreeSet<_> = request.decisions.iter().map(|one| &one.by).collect();
            prop_assert_eq!(names.len(), request.decisions.len());
            prop_assert!(!names.contains(&"ada".to_owned()));
            let rejected = request.decisions.iter().any(|one| !one.approve);
            let expected = match (rejected, request.approvals() >= needed as usize) {
                (true, _) => ApprovalState::Rejected,
                (false, true) => ApprovalState::Approved,
                (false, false) => ApprovalState::Pending,
            };
            prop_assert_eq!(request.state, expected);
        }
    }
}
