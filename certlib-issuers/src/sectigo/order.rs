//! Orders: placing them, asking how they stand, finding them again.

use std::collections::BTreeSet;

use certlib_core::issuer::{IssueRequest, OrderHandle, OrderState};
use certlib_core::{Context, Error, ErrorClass, Result};
use certlib_net::Answer;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use super::Sectigo;
use super::client::{self, Listed, OPERATION, Order, Profile, refused};
use super::config::CertificateType;
use crate::{chain, keys, triage};

/// How many orders for the same names are looked at, at most: the newest.
const LOOKED_AT: usize = 100;

/// What is kept of an order.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Handle {
    ssl_id: u64,
    #[serde(with = "time::serde::rfc3339")]
    submitted: OffsetDateTime,
}

/// What an order is answered with.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Placed {
    ssl_id: u64,
}

/// Whether an order is the one that is searched.
enum Match {
    Yes,
    No,
    /// It shows too little of itself.
    Unknown,
}

impl Sectigo {
    /// Places an order.
    pub(super) async fn place(&self, cx: &Context, request: &IssueRequest) -> Result<OrderHandle> {
        let (profile, term) = self.profile(cx, request).await?;
        let answer = self.client.post(cx, &["ssl", "v1", "enroll"], &self.order_body(request, profile, term)).await?;
        if !answer.is_success() {
            return Err(refused(&answer));
        }
        let placed: Placed = triage::read(&answer)?;
        OrderHandle::encode(&Handle { ssl_id: placed.ssl_id, submitted: cx.clock.now() })
    }

    /// Asks how an order stands, and collects the certificate when it is there.
    pub(super) async fn look(&self, cx: &Context, handle: &OrderHandle) -> Result<OrderState> {
        let handle: Handle = handle.decode()?;
        let id = handle.ssl_id.to_string();
        let answer = self.client.get(cx, &["ssl", "v1", &id], &[]).await.map_err(triage::unanswered)?;
        if !answer.is_success() {
            return unsuccessful(&answer, &handle, cx.clock.now());
        }
        let order: Order = triage::read(&answer)?;
        let Some(status) = order.status.as_deref() else {
            let why = "the order has no status";
            return Err(triage::unreadable(Error::transient(OPERATION, "answer_invalid", why)));
        };
        match word(status).as_str() {
            "issued" | "enrolledpendingdownload" | "downloaded" => self.collect(cx, &handle, &id).await,
            word @ ("declined" | "rejected" | "invalid" | "revoked" | "expired" | "replaced") => Ok(rejected(word)),
            "requested" | "awaitingapproval" if self.config.approve => self.approve(cx, &id).await,
            word => {
                tracing::debug!(order = handle.ssl_id, status = word, "pending");
                Ok(pending())
            }
        }
    }

    /// Downloads a certificate that is issued, which may take a while longer.
    async fn collect(&self, cx: &Context, handle: &Handle, id: &str) -> Result<OrderState> {
        let path = ["ssl", "v1", "collect", id, "x509"];
        let answer = self.client.get(cx, &path, &[]).await.map_err(triage::unanswered)?;
        if answer.is_success() {
            // The order of the certificates depends on the account.
            let chain_pem = chain::leaf_first(answer.body()).map_err(triage::unreadable)?;
            return Ok(OrderState::Issued { chain_pem });
        }
        match client::code(&answer) {
            Some(-110) => Ok(rejected("revoked")),
            _ => unsuccessful(&answer, handle, cx.clock.now()),
        }
    }

    /// Approves an order; whether that did something is seen by the next poll.
    async fn approve(&self, cx: &Context, id: &str) -> Result<OrderState> {
        let body = json!({ "message": "approved by certlib" });
        let answer = self.client.post(cx, &["ssl", "v1", "approve", id], &body).await.map_err(triage::unanswered)?;
        if answer.is_success() {
            return Ok(pending());
        }
        match refused(&answer) {
            // Somebody else was faster, or has to do it: the order is not over by that.
            error if error.class() == ErrorClass::Validation => {
                tracing::warn!(%error, order = id, "the order could not be approved; it stays pending");
                Ok(pending())
            }
            error => Err(error),
        }
    }

    /// The order that was placed by `request`, if there is one.
    pub(super) async fn search(
        &self,
        cx: &Context,
        request: &IssueRequest,
        since: OffsetDateTime,
    ) -> Result<Option<OrderHandle>> {
        let Some(name) = request.names.first() else { return Ok(None) };
        let organization = self.config.organization_id.to_string();
        let filters = [("orgId", organization.as_str()), ("subjectAlternativeName", name.as_str())];
        let mut listed = self.client.list(cx, &filters).await?;
        listed.retain(|order| has_names(order, &request.names));
        listed.sort_by_key(|order| std::cmp::Reverse(order.ssl_id));
        let (mut found, mut unknown) = (Vec::new(), 0_usize);
        for order in listed.iter().take(LOOKED_AT) {
            match self.recognize(cx, request, order.ssl_id, since).await? {
                Match::Yes => found.push(order.ssl_id),
                Match::Unknown => unknown += 1,
                Match::No => {}
            }
        }
        match (found.as_slice(), unknown) {
            ([], 0) => Ok(None),
            ([ssl_id], _) => OrderHandle::encode(&Handle { ssl_id: *ssl_id, submitted: cx.clock.now() }).map(Some),
            (found, unknown) => {
                let why = "more than one order at the CA may be this one; decline all but one there";
                let error = Error::validation(OPERATION, "order_ambiguous", why);
                Err(error.with("orders", found.len() + unknown))
            }
        }
    }

    /// Whether `request` placed the order with this id: by the comment, or else by the key of its certificate.
    async fn recognize(
        &self,
        cx: &Context,
        request: &IssueRequest,
        ssl_id: u64,
        since: OffsetDateTime,
    ) -> Result<Match> {
        let id = ssl_id.to_string();
        let answer = self.client.get(cx, &["ssl", "v1", &id], &[]).await?;
        if client::is_unknown(&answer) {
            return Ok(Match::No);
        }
        if !answer.is_success() {
            return Err(refused(&answer));
        }
        let order: Order = triage::read(&answer)?;
        match order.comments.as_deref().filter(|_| !request.reference.is_empty()) {
            Some(comment) if comment.contains(&request.reference) => return Ok(Match::Yes),
            // All that certlib places has one.
            Some(comment) if !comment.is_empty() => return Ok(Match::No),
            _ => {}
        }
        // A day anywhere on earth.
        let first = (since - Duration::DAY).date();
        if order.requested.as_deref().and_then(client::day).is_some_and(|day| day < first) {
            return Ok(Match::No);
        }
        match order.status.as_deref().map(word).unwrap_or_default().as_str() {
            "declined" | "rejected" | "invalid" | "revoked" | "expired" => return Ok(Match::No),
            _ => {}
        }
        let answer = self.client.get(cx, &["ssl", "v1", "collect", &id, "x509"], &[]).await?;
        if client::is_not_ready(&answer) {
            return Ok(Match::Unknown);
        }
        if !answer.is_success() {
            return Err(refused(&answer));
        }
        let chain = chain::leaf_first(answer.body()).map_err(triage::unreadable)?;
        let is_ours = keys::of_certificate_pem(&chain).as_ref() == Some(&keys::of_request(&request.csr)?);
        Ok(if is_ours { Match::Yes } else { Match::No })
    }

    /// The profile's id and the term in days. The profiles are asked for only if they have to be known.
    async fn profile(&self, cx: &Context, request: &IssueRequest) -> Result<(u64, u32)> {
        let named = request.profile.as_deref().map(CertificateType::parse);
        let wanted = named.as_ref().unwrap_or(&self.config.certificate_type);
        if let (CertificateType::Id(id), None) = (wanted, request.validity) {
            return Ok((*id, self.config.term_days));
        }
        let organization = self.config.organization_id.to_string();
        let answer = self.client.get(cx, &["ssl", "v1", "types"], &[("organizationId", &organization)]).await?;
        if !answer.is_success() {
            return Err(refused(&answer));
        }
        let profiles: Vec<Profile> = triage::read(&answer)?;
        let is_wanted = |profile: &&Profile| match wanted {
            CertificateType::Id(id) => profile.id == *id,
            CertificateType::Name(name) => profile.name.eq_ignore_ascii_case(name),
        };
        let profile = profiles.iter().find(is_wanted).ok_or_else(|| {
            let why = "the organization has no such certificate profile";
            Error::validation(OPERATION, "profile_unknown", why)
        })?;
        let term = match request.validity.map(keys::days) {
            None => Some(self.config.term_days),
            // What covers the validity that is asked for, or else as long as can be.
            Some(days) => {
                let enough = profile.terms.iter().filter(|term| **term >= days).min();
                enough.or(profile.terms.iter().max()).copied()
            }
        };
        Ok((profile.id, term.unwrap_or(self.config.term_days)))
    }

    fn order_body(&self, request: &IssueRequest, profile: u64, term: u32) -> Value {
        let config = &self.config;
        let fields: Vec<_> =
            config.custom_fields.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
        let mut body = json!({
            "orgId": config.organization_id,
            "csr": keys::request_pem(&request.csr),
            "subjAltNames": request.names.join(","),
            "certType": profile,
            "term": term,
            "comments": format!("{} {}", config.comment, request.reference).trim(),
            "numberServers": 1,
            "serverType": -1,
        });
        if !fields.is_empty() {
            body["customFields"] = json!(fields);
        }
        if let Some(addresses) = &config.external_requester {
            body["externalRequester"] = json!(addresses);
        }
        body
    }
}

/// What an answer without success says about an order.
fn unsuccessful(answer: &Answer, handle: &Handle, now: OffsetDateTime) -> Result<OrderState> {
    if client::is_not_ready(answer) {
        return Ok(pending());
    }
    match client::code(answer) {
        Some(_) if client::is_unknown(answer) && triage::is_new(handle.submitted, now) => Ok(pending()),
        None if answer.status() == 404 => Err(triage::astray(answer)),
        _ => Err(refused(answer)),
    }
}

fn pending() -> OrderState {
    OrderState::Pending { retry_after: None }
}

fn rejected(status: &str) -> OrderState {
    let reason = Error::validation(OPERATION, "order_rejected", "the order is over at Sectigo, without a certificate");
    OrderState::Rejected { reason: reason.with("status", status) }
}

/// A status as one word in small letters: Sectigo's documents and its answers differ in blanks and case.
fn word(status: &str) -> String {
    status.chars().filter(char::is_ascii_alphanumeric).take(64).map(|letter| letter.to_ascii_lowercase()).collect()
}

fn has_names(order: &Listed, names: &[String]) -> bool {
    let listed = order.subject_alternative_names.iter().flatten().chain(&order.common_name);
    let listed: BTreeSet<String> = listed.map(|name| name.to_ascii_lowercase()).collect();
    names.iter().all(|name| listed.contains(&name.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_words() {
        assert_eq!(word("Enrolled - Pending Download"), "enrolledpendingdownload");
        assert_eq!(word("SAApproved"), "saapproved");
    }
}
