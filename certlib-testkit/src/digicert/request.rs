//! Requests: what a person has to approve, or what was approved without one.

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{
    account::KeyRole,
    answer::{Answer, Outcome, Refusal, moment},
    course::Approvals,
    state::{State, object},
};
use crate::api::Call;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    New,
    Reissue,
    Duplicate,
    Revoke,
}

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Pending,
    Approved,
    Rejected,
}

/// A request for something.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) kind: Kind,
    pub(super) order: u64,
    /// The certificate that it is about; all of the order without one.
    pub(super) certificate: Option<u64>,
    pub(super) verdict: Verdict,
    date: OffsetDateTime,
    comments: String,
    processor_comment: String,
}

impl Kind {
    pub(super) fn text(self) -> &'static str {
        match self {
            Kind::New => "new_request",
            Kind::Reissue => "reissue",
            Kind::Duplicate => "duplicate",
            Kind::Revoke => "revoke",
        }
    }
}

impl Verdict {
    pub(super) fn text(self) -> &'static str {
        match self {
            Verdict::Pending => "pending",
            Verdict::Approved => "approved",
            Verdict::Rejected => "rejected",
        }
    }
}

impl State {
    /// Files a request, which is approved at once if the account wants no approval, or it is skipped rightly.
    pub(super) fn ask(&mut self, kind: Kind, order: u64, certificate: Option<u64>, body: &Value, role: KeyRole) -> u64 {
        let skipped = body["skip_approval"].as_bool().unwrap_or_default() && role.is_administrator();
        let approved = match self.settings.approvals {
            Approvals::Off => kind != Kind::Revoke || skipped,
            Approvals::Skippable => skipped,
            Approvals::Always => false,
        };
        let comments = body["comments"].as_str().or(body["comment"].as_str()).unwrap_or_default().to_owned();
        let (id, date) = (self.next(), self.clock.now());
        let verdict = if approved { Verdict::Approved } else { Verdict::Pending };
        let request = Request { kind, order, certificate, verdict, date, comments, processor_comment: String::new() };
        self.requests.insert(id, request);
        if let Some(order) = self.orders.get_mut(&order) {
            order.requests.push(id);
        }
        id
    }

    pub(super) fn verdict(&self, request: u64) -> Verdict {
        self.requests.get(&request).map_or(Verdict::Pending, |request| request.verdict)
    }

    /// What was decided about the wish for a certificate.
    pub(super) fn verdict_on(&self, certificate: u64) -> Verdict {
        let wish = |request: &&Request| request.certificate == Some(certificate) && request.kind != Kind::Revoke;
        self.requests.values().find(wish).map_or(Verdict::Pending, |request| request.verdict)
    }

    pub(super) fn request_action(&mut self, method: &str, rest: &[&str], call: &Call, role: KeyRole) -> Outcome {
        let number = |id: &str| id.parse::<u64>().map_err(|_| Refusal::absent("request"));
        match (method, rest) {
            ("GET", []) => {
                let wanted = call.param("filters[status]");
                let all =
                    self.requests.iter().filter(|(_, found)| wanted.is_none_or(|text| text == found.verdict.text()));
                let all: Vec<Value> = all.map(|(id, found)| found.shown(*id)).collect();
                let page = json!({ "total": all.len(), "limit": 1000, "offset": 0 });
                Ok(Answer::Json(200, json!({ "requests": all, "page": page })))
            }
            ("GET", [id]) => {
                let id = number(id)?;
                let found = self.requests.get(&id).ok_or_else(|| Refusal::absent("request"))?;
                Ok(Answer::Json(200, found.shown(id)))
            }
            ("PUT", [id, "status"]) if role.is_administrator() => {
                let body = object(call)?;
                let approved = match body["status"].as_str() {
                    Some("approved") => true,
                    Some("rejected") => false,
                    _ => return Err(Refusal::bad("invalid_status", "A request is approved or rejected.")),
                };
                self.decide(number(id)?, approved, body["processor_comment"].as_str().unwrap_or_default())?;
                Ok(Answer::Nothing)
            }
            ("PUT", [_, "status"]) => Err(Refusal::denied()),
            _ => Err(Refusal::absent("route")),
        }
    }

    /// Approves or rejects a request, and carries out what follows.
    pub(super) fn decide(&mut self, id: u64, approved: bool, comment: &str) -> Result<(), Refusal> {
        let now = self.clock.now();
        let request = self.requests.get_mut(&id).ok_or_else(|| Refusal::absent("request"))?;
        if request.verdict != Verdict::Pending {
            return Err(Refusal::bad("request_already_processed", "The request has been processed."));
        }
        request.verdict = if approved { Verdict::Approved } else { Verdict::Rejected };
        comment.clone_into(&mut request.processor_comment);
        let (kind, order, certificate) = (request.kind, request.order, request.certificate);
        if let Some(order) = self.orders.get_mut(&order) {
            order.changed = now;
        }
        match (kind, certificate) {
            (Kind::Revoke, _) if !approved => Ok(()),
            (Kind::Revoke, Some(certificate)) => self.revoke(certificate),
            (Kind::Revoke, None) => self.revoke_all(order),
            (_, Some(certificate)) => self.settle(certificate, false),
            (_, None) => Ok(()),
        }
    }
}

impl Request {
    /// As it is shown with an order.
    pub(super) fn brief(&self, id: u64) -> Value {
        json!({
            "id": id,
            "date": moment(self.date),
            "type": self.kind.text(),
            "status": self.verdict.text(),
            "comments": self.comments,
        })
    }

    /// As it is shown alone.
    pub(super) fn shown(&self, id: u64) -> Value {
        let mut shown = self.brief(id);
        let person =
            json!({ "id": 153_208, "first_name": "Simulated", "last_name": "User", "email": "user@example.com" });
        shown["requester"] = person;
        shown["order"] = json!({ "id": self.order });
        shown["processor_comment"] = json!(self.processor_comment);
        shown
    }
}
