//! New certificates: enrolment, renewal, replacement, and what humans and the authority decide.

use serde_json::json;
use time::Duration;

use super::{
    answer::{Answer, Outcome, Refusal},
    call::Call,
    order::{Entry, Status},
    profile::Profile,
    state::State,
};
use crate::pki::{CertificateRequest, Subject, Terms};

/// The longest request, in characters.
const REQUEST_LIMIT: usize = 32_767;
/// The longest comment, in characters.
const COMMENT_LIMIT: usize = 1_024;
/// The longest reason or message, in characters.
pub(super) const REASON_LIMIT: usize = 512;

impl State {
    pub(super) fn enroll(&mut self, call: &Call) -> Outcome {
        let organization = self.check_organization(call.number("orgId"))?;
        let profile = self.read_profile(call)?;
        let term = call.number("term").ok_or_else(|| Refusal::missing("term"))?;
        if !profile.terms.contains(&term) {
            let why = "The validity period (term) is invalid for this certificate profile.";
            return Err(Refusal::bad(-36, why));
        }
        let asked = read_request(call.text("csr"))?;
        let custom_fields = self.read_fields(call)?;
        if call.text("comments").len() > COMMENT_LIMIT {
            return Err(Refusal::invalid("comments"));
        }
        if !["", "CNAME", "EMAIL", "HTTP", "HTTPS", "TXT"].contains(&call.text("dcvMode")) {
            return Err(Refusal::invalid("dcvMode"));
        }
        let listed = call.text("subjAltNames").split(',').map(str::trim).filter(|name| !name.is_empty());
        let names = names(&asked, None, listed.map(str::to_owned).collect())?;
        self.check_domains(&names, call.now)?;
        let id = self.order(
            call,
            Draft {
                organization,
                profile,
                term,
                asked,
                names,
                comments: call.text("comments").to_owned(),
                external_requester: call.text("externalRequester").to_owned(),
                custom_fields,
            },
        );
        let renew_id = self.find(id).map(|entry| entry.renew_id.clone()).unwrap_or_default();
        Ok(Answer::ok(json!({ "renewId": renew_id, "sslId": id })))
    }

    /// A new order for the same request.
    pub(super) fn renew(&mut self, call: &Call, old: i64) -> Outcome {
        let entry = self.find_mut(old)?;
        if !matches!(entry.status(call.now), Status::Issued | Status::Expired) || !entry.profile.renewable {
            return Err(Refusal::bad(-180, "This SSL Certificate Profile doesn't allow renew"));
        }
        entry.renewed = true;
        let draft = Draft {
            organization: entry.organization,
            profile: entry.profile.clone(),
            term: entry.term,
            asked: entry.asked.clone(),
            names: entry.names.clone(),
            comments: entry.comments.clone(),
            external_requester: entry.external_requester.clone(),
            custom_fields: entry.custom_fields.clone(),
        };
        let id = self.order(call, draft);
        Ok(Answer::ok(json!({ "sslId": id })))
    }

    /// Another certificate under the same id. The old one stays in place until the new one is there.
    pub(super) fn replace(&mut self, call: &Call, id: i64) -> Outcome {
        let (now, polls, lag) = (call.now, self.polls, self.lag);
        let entry = self.find(id)?;
        if entry.status(now) != Status::Issued {
            let shown = entry.status(now).as_str();
            return Err(Refusal::bad(-130, format!("SSL state is not 'ISSUED': {shown}")));
        }
        let reason = call.body["reason"].as_str().ok_or_else(|| Refusal::missing("reason"))?;
        if reason.len() > REASON_LIMIT {
            return Err(Refusal::invalid("reason"));
        }
        let asked = read_request(call.text("csr"))?;
        Profile::check_key(&asked)?;
        let listed = call.body["subjectAlternativeNames"].as_array().into_iter().flatten();
        let listed: Vec<_> = listed.filter_map(|name| name.as_str()).map(str::to_owned).collect();
        let common_name = Some(call.text("commonName")).filter(|name| !name.is_empty());
        let names = names(&asked, common_name, listed)?;
        self.check_domains(&names, now)?;
        let entry = self.find_mut(id)?;
        (entry.asked, entry.names, entry.replaced) = (asked, names, Some(now));
        (entry.status, entry.polls, entry.lag) = (Status::Applied, polls, lag);
        if polls == 0 {
            self.issue(id);
        }
        Ok(Answer::empty(204))
    }

    /// What a human or the authority decides about an order that waits.
    pub(super) fn decide(&mut self, id: i64, verdict: Verdict) -> Result<(), Refusal> {
        let now = self.now();
        let entry = self.find_mut(id)?;
        let waits = match verdict {
            Verdict::Approve | Verdict::Decline => entry.status == Status::Requested,
            Verdict::Reject | Verdict::Finish => entry.status == Status::Applied,
        };
        if !waits {
            let why = format!("Certificate can't be approved cause it has state = {}", entry.status(now).as_str());
            return Err(Refusal::bad(-1112, why));
        }
        match verdict {
            Verdict::Approve => (entry.status, entry.approved) = (Status::Applied, Some(now)),
            Verdict::Decline => (entry.status, entry.declined) = (Status::Declined, Some(now)),
            Verdict::Reject => entry.status = Status::Rejected,
            Verdict::Finish => entry.polls = 0,
        }
        if entry.status == Status::Applied && entry.polls == 0 {
            self.issue(id);
        }
        Ok(())
    }

    /// Somebody looks at an order that the authority works on: that is what moves it.
    pub(super) fn poll(&mut self, id: i64) -> Result<(), Refusal> {
        let entry = self.find_mut(id)?;
        if entry.status == Status::Applied {
            if entry.polls == 0 {
                self.issue(id);
            } else {
                entry.polls -= 1;
            }
        }
        Ok(())
    }

    fn order(&mut self, call: &Call, draft: Draft) -> i64 {
        let Draft { organization, profile, term, asked, names, comments, external_requester, custom_fields } = draft;
        let id = self.next_id();
        let approval = self.approvals;
        let status = match (self.rejects, approval) {
            (true, _) => Status::Rejected,
            (_, true) => Status::Requested,
            _ => Status::Applied,
        };
        self.orders.push(Entry {
            id,
            renew_id: super::random_text(20),
            organization,
            profile,
            term,
            asked,
            names,
            comments,
            requester: call.login.clone(),
            external_requester,
            custom_fields,
            status,
            certificate: None,
            polls: self.polls,
            lag: self.lag,
            requested: call.now,
            approved: (!approval).then_some(call.now),
            declined: None,
            issued: None,
            expires: None,
            replaced: None,
            revoked: None,
            reason_code: None,
            renewed: false,
        });
        if status == Status::Applied && self.polls == 0 {
            self.issue(id);
        }
        id
    }

    /// Signs. What cannot be signed is rejected, as the authority would.
    fn issue(&mut self, id: i64) {
        let now = self.now();
        let flaw = self.flaws.pop_front();
        let Some(entry) = self.orders.iter_mut().find(|entry| entry.id == id) else { return };
        let expires = now + Duration::days(entry.term);
        let terms = Terms {
            common_name: entry.names.first().cloned(),
            names: Some(entry.names.clone()),
            not_before: Some(now - Duration::hours(1)),
            not_after: Some(expires),
            ..Terms::default()
        };
        match self.authority.issuing.sign_with(Subject::Request(&entry.asked.der), &terms, flaw) {
            Ok(signed) => {
                (entry.issued, entry.expires) = (Some(now), Some(expires));
                (entry.status, entry.certificate) = (Status::Issued, Some(signed));
            }
            Err(error) => {
                tracing::warn!(%error, id, "a simulated order cannot be signed");
                entry.status = Status::Rejected;
            }
        }
    }

    fn read_profile(&self, call: &Call) -> Result<Profile, Refusal> {
        let id = call.number("certType").ok_or_else(|| Refusal::missing("certType"))?;
        let known = self.profiles.iter().find(|profile| profile.id == id).cloned();
        let profile = known.ok_or_else(|| Refusal::bad(-111, format!("No certificate profile found by id {id}")))?;
        Profile::check_key(&read_request(call.text("csr"))?)?;
        Ok(profile)
    }
}

/// What is decided about an order.
#[derive(Clone, Copy, Debug)]
pub(super) enum Verdict {
    Approve,
    Decline,
    Reject,
    Finish,
}

/// What an order says, when it is made.
struct Draft {
    organization: i64,
    profile: Profile,
    term: i64,
    asked: CertificateRequest,
    names: Vec<String>,
    comments: String,
    external_requester: String,
    custom_fields: Vec<(String, String)>,
}

fn read_request(text: &str) -> Result<CertificateRequest, Refusal> {
    if text.is_empty() {
        return Err(Refusal::missing("csr"));
    }
    if text.len() > REQUEST_LIMIT {
        return Err(Refusal::invalid("csr"));
    }
    if !text.contains("-----BEGIN") {
        return Err(Refusal::bad(-9, "The CSR is not valid Base-64 data!"));
    }
    let request = CertificateRequest::read(text).ok().filter(|request| request.key.is_usual());
    request.ok_or_else(|| Refusal::bad(-10, "Error while decoding CSR."))
}

/// The names of a certificate, the common name first: those that are listed, or else those of the request.
fn names(asked: &CertificateRequest, common_name: Option<&str>, listed: Vec<String>) -> Result<Vec<String>, Refusal> {
    let more = if listed.is_empty() { asked.names.clone() } else { listed };
    let first = common_name.map(str::to_owned).or_else(|| asked.common_name.clone());
    let mut names: Vec<String> = Vec::new();
    for name in first.into_iter().chain(more) {
        if !names.iter().any(|known| known.eq_ignore_ascii_case(&name)) {
            names.push(name);
        }
    }
    if names.is_empty() { Err(Refusal::bad(-138, "Invalid CSR.")) } else { Ok(names) }
}
