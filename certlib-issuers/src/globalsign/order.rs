//! Certificates: asking for them, asking whether they are there, finding them again.

use std::sync::Arc;
use std::time::Duration;

use certlib_core::bundle::MAX_CLOCK_SKEW;
use certlib_core::issuer::{IssueRequest, OrderHandle, OrderState};
use certlib_core::{CertificateBundle, Context, Error, ErrorClass, Result};
use certlib_net::Answer;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::GlobalSign;
use super::client::{Call, OPERATION, unanswered};
use super::policy::Policy;
use crate::paging::{self, Pages};
use crate::{keys, triage};

/// How long a policy is used before it is read again.
const POLICY_LIFE: Duration = Duration::from_secs(3600);

/// How much time one list may look at.
const WINDOW: time::Duration = time::Duration::days(29);

/// How many certificates are on one page of a list.
const PAGE: usize = 100;

/// How many certificates are looked at in one search, at most.
const SEARCHED: usize = 5000;

/// What is kept of an order.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Handle {
    /// The certificate's serial number, upper-case hexadecimal.
    serial: String,
    #[serde(with = "time::serde::rfc3339")]
    submitted: OffsetDateTime,
}

/// A certificate, as it is read.
#[derive(Deserialize)]
struct Shown {
    certificate: String,
    status: String,
}

/// A certificate in a list.
#[derive(Deserialize)]
struct Listed {
    serial_number: String,
}

/// A policy, and until when it is used, in monotonic time.
#[derive(Debug)]
pub(super) struct Kept {
    policy: Arc<Policy>,
    until: Duration,
}

impl GlobalSign {
    /// Asks for a certificate.
    pub(super) async fn place(&self, cx: &Context, request: &IssueRequest) -> Result<OrderHandle> {
        let submitted = cx.clock.now();
        let body = self.policy(cx).await?.request(&self.config, request, submitted)?;
        let answer = self.client.send(cx, &Call::with_body(Method::POST, &["certificates"], &body)).await?;
        if answer.status() == 422 {
            // Against the policy, although it was kept to: it may have been changed.
            *self.policy.lock().await = None;
        }
        if !answer.is_success() {
            return Err(answer.refused());
        }
        let serial = answer.header("location").and_then(serial_in).ok_or_else(|| {
            let why = "the CA does not say which certificate it accepted";
            triage::unreadable(answer.error(ErrorClass::IoTransient, "answer_invalid", why))
        })?;
        OrderHandle::encode(&Handle { serial, submitted })
    }

    /// The account's policy, not older than an hour. Who comes while it is read waits for it.
    async fn policy(&self, cx: &Context) -> Result<Arc<Policy>> {
        let mut kept = self.policy.lock().await;
        let now = cx.clock.monotonic();
        if let Some(kept) = &*kept
            && kept.until > now
        {
            return Ok(Arc::clone(&kept.policy));
        }
        let answer = self.client.send(cx, &Call::get(&["validationpolicy"])).await?.success()?;
        let policy: Arc<Policy> = Arc::new(triage::read(&answer)?);
        *kept = Some(Kept { policy: Arc::clone(&policy), until: now + POLICY_LIFE });
        Ok(policy)
    }

    /// Asks whether a certificate is there, and collects it with its issuers.
    pub(super) async fn look(&self, cx: &Context, handle: &OrderHandle) -> Result<OrderState> {
        let handle: Handle = handle.decode()?;
        let answer = self.read(cx, &handle.serial).await.map_err(unanswered)?;
        match answer.status() {
            202 => return Ok(OrderState::Pending { retry_after: None }),
            _ if answer.is_success() => {}
            _ => return triage::refused(&answer, handle.submitted, cx.clock.now()),
        }
        let shown: Shown = triage::read(&answer)?;
        match shown.status.as_str() {
            "ISSUED" => {}
            "REVOKED" => {
                let why = "the certificate was revoked before it was collected";
                return Ok(OrderState::Rejected { reason: Error::validation(OPERATION, "order_rejected", why) });
            }
            _ => return Ok(OrderState::Pending { retry_after: None }),
        }
        let leaf = CertificateBundle::from_pem(shown.certificate.as_bytes()).map_err(triage::unreadable)?;
        let issuers = self.trust_chain(cx).await?;
        Ok(OrderState::Issued { chain_pem: leaf.leaf_pem() + &issuers })
    }

    /// The certificates of the issuing CA and those above it, without the root, which whoever verifies has.
    async fn trust_chain(&self, cx: &Context) -> Result<String> {
        let answer = self.client.send(cx, &Call::get(&["trustchain"])).await.map_err(unanswered)?;
        if !answer.is_success() {
            let error = answer.refused();
            // That the chain cannot be had says nothing about the certificate.
            let is_about_order = error.class() == ErrorClass::Validation;
            let why = "the CA does not give the certificates of its own";
            return Err(if is_about_order {
                answer.error(ErrorClass::IoTransient, "chain_unavailable", why)
            } else {
                error
            });
        }
        let mut issuers = String::new();
        for pem in triage::read::<Vec<String>>(&answer)? {
            let bundle = CertificateBundle::from_pem(pem.as_bytes()).map_err(triage::unreadable)?;
            if !is_self_issued(&bundle) {
                issuers.push_str(&bundle.leaf_pem());
            }
        }
        Ok(issuers)
    }

    pub(super) async fn read(&self, cx: &Context, serial: &str) -> Result<Answer> {
        self.client.send(cx, &Call::get(&["certificates", serial])).await
    }

    /// Whether the CA says that a certificate is revoked.
    pub(super) async fn is_revoked(&self, cx: &Context, serial: &str) -> Result<bool> {
        let answer = self.read(cx, serial).await?;
        if answer.status() != 200 {
            return Ok(false);
        }
        Ok(triage::read::<Shown>(&answer)?.status == "REVOKED")
    }

    /// The certificate with the key of `request` that was issued at `since` or later, if there is one.
    pub(super) async fn search(
        &self,
        cx: &Context,
        request: &IssueRequest,
        since: OffsetDateTime,
    ) -> Result<Option<OrderHandle>> {
        let public_key = keys::of_request(&request.csr)?;
        let now = cx.clock.now();
        let (mut found, mut unseen) = (Vec::new(), 0_usize);
        // The CA's clock may be ahead of ours.
        for serial in self.issued(cx, since, now + MAX_CLOCK_SKEW).await? {
            let answer = self.read(cx, &serial).await?;
            match answer.status() {
                // Listed, but not to be seen yet.
                202 => unseen += 1,
                404 => {}
                _ if answer.is_success() => {
                    let shown: Shown = triage::read(&answer)?;
                    if keys::of_certificate_pem(&shown.certificate).as_ref() == Some(&public_key) {
                        found.push(serial);
                    }
                }
                _ => return Err(answer.refused()),
            }
        }
        match found.as_slice() {
            [serial] => OrderHandle::encode(&Handle { serial: serial.clone(), submitted: now }).map(Some),
            [] if unseen == 0 => Ok(None),
            [] => {
                let why =
                    "certificates that may be the one are pending, and cannot be told apart until they are issued";
                Err(Error::transient(OPERATION, "search_incomplete", why).with("pending", unseen))
            }
            _ => {
                let why = "more than one certificate at the CA is for this key";
                Err(Error::validation(OPERATION, "order_ambiguous", why).with("certificates", found.len()))
            }
        }
    }

    /// The serial numbers of what was issued in this time.
    async fn issued(&self, cx: &Context, since: OffsetDateTime, till: OffsetDateTime) -> Result<Vec<String>> {
        let too_wide = || {
            let why = "too many certificates were issued since the order to look at each; look for it at the CA";
            Error::permanent(OPERATION, "search_too_wide", why).with("most", SEARCHED)
        };
        let mut serials = Vec::new();
        let mut from = since;
        while from <= till {
            let to = till.min(from + WINDOW);
            let mut pages = Pages::new(OPERATION, PAGE);
            for page in 1.. {
                let (listed, total) = self.listed(cx, from, to, page).await?;
                let goes_on = pages.goes_on(listed.iter().map(|listed| listed.serial_number.clone()), total)?;
                serials.extend(listed.into_iter().filter_map(|listed| serial_in(&listed.serial_number)));
                if serials.len() > SEARCHED || page > SEARCHED / 10 {
                    return Err(too_wide());
                }
                if !goes_on {
                    break;
                }
            }
            from = to + time::Duration::SECOND;
        }
        serials.sort();
        serials.dedup();
        Ok(serials)
    }

    /// A page, and how many there are in all.
    async fn listed(
        &self,
        cx: &Context,
        from: OffsetDateTime,
        to: OffsetDateTime,
        page: usize,
    ) -> Result<(Vec<Listed>, Option<usize>)> {
        let (from, to) = (from.unix_timestamp().to_string(), to.unix_timestamp().to_string());
        let (page, per_page) = (page.to_string(), PAGE.to_string());
        let query = [("page", &*page), ("per_page", &*per_page), ("from", &*from), ("to", &*to)];
        let call = Call::get(&["stats", "issued"]).query(&query);
        let answer = self.client.send(cx, &call).await?.success()?;
        Ok((triage::read(&answer)?, paging::total(&answer, "total-count")))
    }
}

/// The serial number that a place ends with, or that stands alone.
fn serial_in(place: &str) -> Option<String> {
    let last = place.trim_end_matches('/').rsplit('/').next()?;
    // At most 20 bytes (RFC 5280 section 4.1.2.2), and a zero in front of them.
    let fits = (1..=42).contains(&last.len()) && last.bytes().all(|byte| byte.is_ascii_hexdigit());
    fits.then(|| last.to_ascii_uppercase())
}

fn is_self_issued(bundle: &CertificateBundle) -> bool {
    X509Certificate::from_der(bundle.leaf_der()).is_ok_and(|(_, one)| one.subject() == one.issuer())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_numbers_are_hexadecimal() {
        for (place, expected) in [
            ("https://ca.example:8443/v2/certificates/01ab", Some("01AB")),
            ("/v2/certificates/01AB/", Some("01AB")),
            ("01AB", Some("01AB")),
            ("https://ca.example/v2/certificates/a%2Fb", None),
            ("https://ca.example/v2/certificates/", None),
            ("", None),
        ] {
            assert_eq!(serial_in(place).as_deref(), expected, "{place}");
        }
    }
}
