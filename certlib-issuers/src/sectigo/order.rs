//! Orders: placing them, asking how they stand, finding them again.

use std::collections::BTreeSet;

use certlib_core::error::codes;
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

/// How many orders that may be the one are looked at, at most: the newest.
const LOOKED_AT: usize = 200;

/// After how many orders in a row that are too old nothing newer is expected: ids grow with time.
const OLD_ONES: usize = 10;

/// How long orders that cannot be told apart are waited for: they may show more of themselves by then.
const PATIENCE: Duration = Duration::HOUR;

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
    /// It was placed before.
    TooOld,
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
        // By nothing else: lists need not show names, nor need filters find those that certlib asks for.
        let organization = self.config.organization_id.to_string();
        let mut listed = self.client.list(cx, &[("orgId", organization.as_str())]).await?;
        listed.retain(|order| may_have_names(order, &request.names));
        listed.sort_by_key(|order| std::cmp::Reverse(order.ssl_id));
        let (mut found, mut unknown, mut old) = (Vec::new(), 0_usize, 0_usize);
        for (number, order) in listed.iter().enumerate() {
            if old == OLD_ONES {
                break;
            }
            if number == LOOKED_AT {
                // What was not looked at must not be taken for absent.
                let why = "too many orders at the CA may be this one to look at each; look for it there";
                return Err(Error::permanent(OPERATION, "search_too_wide", why).with("most", LOOKED_AT));
            }
            let verdict = self.recognize(cx, request, order.ssl_id, since).await?;
            old = if matches!(verdict, Match::TooOld) { old + 1 } else { 0 };
            match verdict {
                Match::Yes => found.push(order.ssl_id),
                Match::Unknown => unknown += 1,
                Match::No | Match::TooOld => {}
            }
        }
        match (found.as_slice(), unknown) {
            ([], 0) => Ok(None),
            ([ssl_id], _) => OrderHandle::encode(&Handle { ssl_id: *ssl_id, submitted: cx.clock.now() }).map(Some),
            ([], unknown) if cx.clock.now() < since + PATIENCE => {
                let why = "orders at the CA that may be this one show too little of themselves yet";
                Err(Error::transient(OPERATION, "search_incomplete", why).with("orders", unknown))
            }
            (found, unknown) => {
                let why = "more than one order at the CA may be this one; decline all but one there";
                let error = Error::validation(OPERATION, codes::ORDER_AMBIGUOUS, why);
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
            return unless_hidden(&answer);
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
            return Ok(Match::TooOld);
        }
        match order.status.as_deref().map(word).unwrap_or_default().as_str() {
            "declined" | "rejected" | "invalid" | "revoked" | "expired" => return Ok(Match::No),
            _ => {}
        }
        let answer = self.client.get(cx, &["ssl", "v1", "collect", &id, "x509"], &[]).await?;
        if !answer.is_success() {
            return unless_hidden(&answer);
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

/// A refusal to show one order, or its certificate, is no reason to end a search: entries that were discovered, or that
/// others manage, cannot be collected.
fn unless_hidden(answer: &Answer) -> Result<Match> {
    match answer.status() {
        400 | 404 | 409 | 410 if refused(answer).class() == ErrorClass::Validation || client::is_not_ready(answer) => {
            Ok(Match::Unknown)
        }
        _ => Err(refused(answer)),
    }
}

/// Whether an order can have all these names: unless it shows names, and lacks one. The common name alone is less than all.
fn may_have_names(order: &Listed, names: &[String]) -> bool {
    let lower = |name: &String| name.to_ascii_lowercase();
    let wanted: BTreeSet<String> = names.iter().map(lower).collect();
    let common = order.common_name.as_ref().filter(|name| !name.is_empty()).map(lower);
    let mut shown: BTreeSet<String> = order.subject_alternative_names.iter().flatten().map(lower).collect();
    if shown.is_empty() {
        return common.is_none_or(|name| wanted.contains(&name));
    }
    shown.extend(common);
    wanted.is_subset(&shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_shows_other_names_is_left_out() {
        let names = ["a.example".to_owned(), "b.example".to_owned()];
        for (entry, expected) in [
            (json!({ "sslId": 1 }), true),
            (json!({ "sslId": 1, "commonName": "", "subjectAlternativeNames": [] }), true),
            (json!({ "sslId": 1, "commonName": "A.example" }), true),
            (json!({ "sslId": 1, "commonName": "c.example" }), false),
            (json!({ "sslId": 1, "commonName": "b.example", "subjectAlternativeNames": ["a.example"] }), true),
            (json!({ "sslId": 1, "commonName": "a.example", "subjectAlternativeNames": ["c.example"] }), false),
        ] {
            let listed: Listed = serde_json::from_value(entry.clone()).unwrap();
            assert_eq!(may_have_names(&listed, &names), expected, "{entry}");
        }
    }

    #[test]
    fn statuses_are_words() {
        assert_eq!(word("Enrolled - Pending Download"), "enrolledpendingdownload");
        assert_eq!(word("SAApproved"), "saapproved");
    }
}
