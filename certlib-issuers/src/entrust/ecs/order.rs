//! Orders: placing them, asking how they stand, finding them again.

use certlib_core::error::codes;
use certlib_core::issuer::{IssueRequest, OrderHandle, OrderState};
use certlib_core::{Context, Error, Result};
use certlib_net::Answer;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::Ecs;
use super::client::{self, Certificate, Listed, OPERATION, refused};
use crate::entrust::config::{Usage, is_certificate_type};
use crate::entrust::{common_name, pending, rejected};
use crate::{chain, keys, triage};

/// How many orders with the same common name are looked at, at most: the newest.
const LOOKED_AT: usize = 100;

/// What is kept of an order.
#[derive(Debug, Serialize, Deserialize)]
struct Handle {
    tracking_id: u64,
    #[serde(with = "time::serde::rfc3339")]
    submitted: OffsetDateTime,
}

/// What an order is answered with.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Placed {
    tracking_id: u64,
}

impl Ecs {
    /// Places an order.
    pub(super) async fn place(&self, cx: &Context, request: &IssueRequest) -> Result<OrderHandle> {
        let answer = self.client.post(cx, &["certificates"], &self.order_body(request)?).await?;
        if !answer.is_success() {
            return Err(refused(&answer));
        }
        let placed: Placed = triage::read(&answer)?;
        OrderHandle::encode(&Handle { tracking_id: placed.tracking_id, submitted: cx.clock.now() })
    }

    /// Asks how an order stands: the answer has the certificate when it is there.
    pub(super) async fn look(&self, cx: &Context, handle: &OrderHandle) -> Result<OrderState> {
        let handle: Handle = handle.decode()?;
        let id = handle.tracking_id.to_string();
        let answer = self.client.get(cx, &["certificates", &id], &[]).await.map_err(triage::unanswered)?;
        if !answer.is_success() {
            return unsuccessful(&answer, &handle, cx.clock.now());
        }
        let certificate: Certificate = triage::read(&answer)?;
        match certificate.status.as_str() {
            "ACTIVE" | "READY" | "REISSUED" | "RENEWED" => match issued_chain(&certificate)? {
                Some(chain_pem) => Ok(OrderState::Issued { chain_pem }),
                None => Ok(pending()),
            },
            status @ ("DECLINED" | "DEACTIVATED" | "SUSPENDED" | "REVOKED" | "EXPIRED") => {
                Ok(rejected(OPERATION, status))
            }
            // `PENDING`, and what waits for approval, however it is called.
            status => {
                tracing::debug!(order = handle.tracking_id, status = status.escape_debug().to_string(), "pending");
                Ok(pending())
            }
        }
    }

    /// The order that was placed by `request`, if there is one.
    pub(super) async fn search(
        &self,
        cx: &Context,
        request: &IssueRequest,
        since: OffsetDateTime,
    ) -> Result<Option<OrderHandle>> {
        let name = common_name(OPERATION, &request.names)?;
        let public_key = keys::of_request(&request.csr)?;
        let mut listed = self.client.list(cx, &[]).await?;
        listed.retain(|order| may_be(order, &name, since));
        listed.sort_by_key(|order| std::cmp::Reverse(order.tracking_id));
        let mut found = Vec::new();
        for order in listed.iter().take(LOOKED_AT) {
            let certificate = self.client.certificate(cx, order.tracking_id).await?;
            if is_ours(&certificate, request, &public_key) {
                found.push(order.tracking_id);
            }
        }
        match found.as_slice() {
            [] if listed.len() > LOOKED_AT => {
                // What was not looked at must not be taken for absent.
                let why = "too many orders at the CA may be this one to look at each; look for it there";
                Err(Error::permanent(OPERATION, "search_too_wide", why).with("most", LOOKED_AT))
            }
            [] => Ok(None),
            [id] => OrderHandle::encode(&Handle { tracking_id: *id, submitted: cx.clock.now() }).map(Some),
            found => {
                let why = "more than one order at the CA is this one; decline all but one there";
                Err(Error::validation(OPERATION, codes::ORDER_AMBIGUOUS, why).with("orders", found.len()))
            }
        }
    }

    fn order_body(&self, request: &IssueRequest) -> Result<Value> {
        let config = &self.config;
        let kind = request.profile.as_deref().unwrap_or(&config.certificate_type);
        if !is_certificate_type(kind) {
            let why = "the profile is a type of certificate at Entrust, such as STANDARD_SSL";
            return Err(Error::validation(OPERATION, "profile_unknown", why));
        }
        let days = request.validity.map_or(config.validity_days, keys::days);
        let mut body = json!({
            "csr": keys::request_pem(&request.csr),
            "cn": common_name(OPERATION, &request.names)?,
            "subjectAltName": request.names,
            "certType": kind,
            "certLifetime": format!("P{days}D"),
            "signingAlg": "SHA-2",
            "eku": match config.usage {
                Usage::ServerAuth => "SERVER_AUTH",
                Usage::ServerAndClientAuth => "SERVER_AND_CLIENT_AUTH",
            },
            "tracking": {
                "trackingInfo": format!("certlib {}", request.reference).trim_end(),
                "requesterName": config.requester.name,
                "requesterEmail": config.requester.email,
                "requesterPhone": config.requester.phone,
            },
            "queueForApproval": config.queue_for_approval,
        });
        // Browsers want public certificates in the logs; private ones have no place there.
        if kind != "PRIVATE_SSL" {
            body["ctLog"] = json!(true);
        }
        if let Some(id) = config.client_id {
            body["clientId"] = json!(id);
        }
        if let Some(name) = &config.organization {
            body["org"] = json!(name);
        }
        Ok(body)
    }
}

/// What an answer without success says about an order.
fn unsuccessful(answer: &Answer, handle: &Handle, now: OffsetDateTime) -> Result<OrderState> {
    if answer.status() == 404 && !client::is_own(answer) {
        return Err(triage::astray(answer));
    }
    triage::refused(answer, handle.submitted, now).map_err(|_| refused(answer))
}

/// The chain of a certificate, once it is there.
fn issued_chain(certificate: &Certificate) -> Result<Option<String>> {
    let Some(leaf) = &certificate.end_entity_cert else { return Ok(None) };
    let mut pem = leaf.clone();
    for issuer in certificate.chain_certs.iter().flatten() {
        pem.push('\n');
        pem.push_str(issuer);
    }
    chain::leaf_first(pem.as_bytes()).map(Some).map_err(triage::unreadable)
}

/// Whether a listed order can be one for this common name that was placed since then.
fn may_be(order: &Listed, name: &str, since: OffsetDateTime) -> bool {
    let is_older = order.issue_date_time.as_deref().and_then(client::moment).is_some_and(|issued| issued < since);
    // One that was declined is found, so that its rejection is told: it must not be placed again.
    let is_over = order.status.as_deref() == Some("EXPIRED");
    // What shows no name is looked at.
    let has_name = order.dn.as_deref().is_none_or(|dn| {
        let parts = dn.split(',').filter_map(|part| part.trim().split_once('='));
        let mut names = parts.filter(|(kind, _)| kind.trim().eq_ignore_ascii_case("cn")).map(|(_, name)| name.trim());
        names.any(|found| found.eq_ignore_ascii_case(name))
    });
    !is_older && !is_over && has_name
}

fn is_ours(certificate: &Certificate, request: &IssueRequest, public_key: &[u8]) -> bool {
    let text = certificate.tracking.as_ref().and_then(|tracking| tracking.tracking_info.as_deref());
    let is_marked = !request.reference.is_empty() && text.is_some_and(|text| text.contains(&request.reference));
    let by_request = certificate.csr.as_deref().and_then(keys::of_request_pem);
    let by_certificate = certificate.end_entity_cert.as_deref().and_then(keys::of_certificate_pem);
    is_marked || [by_request, by_certificate].iter().flatten().any(|key| key == public_key)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn what_may_be_searched() {
        let since = datetime!(2026-01-31 12:00 UTC);
        let listed = |dn: Option<&str>, status: &str, issued: Option<&str>| Listed {
            tracking_id: 1,
            status: Some(status.to_owned()),
            dn: dn.map(str::to_owned),
            serial_number: None,
            issue_date_time: issued.map(str::to_owned),
        };
        for (order, expected) in [
            (listed(Some("cn=A.example, o=Example"), "PENDING", None), true),
            (listed(Some("o=Example,CN=a.example"), "ACTIVE", Some("2026-01-31T12:00:01Z")), true),
            (listed(None, "PENDING", None), true),
            (listed(Some("cn=b.example"), "PENDING", None), false),
            (listed(Some("cn=a.example"), "ACTIVE", Some("2026-01-31T11:00:00Z")), false),
            (listed(Some("cn=a.example"), "DECLINED", None), true),
            (listed(Some("cn=a.example"), "EXPIRED", None), false),
        ] {
            assert_eq!(may_be(&order, "a.example", since), expected, "{order:?}");
        }
    }
}
