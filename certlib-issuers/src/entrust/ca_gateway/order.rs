//! Enrolments: asking for them, asking how they stand, finding them again.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certlib_core::bundle::MAX_CLOCK_SKEW;
use certlib_core::error::codes;
use certlib_core::issuer::{IssueRequest, OrderHandle, OrderState};
use certlib_core::{CertificateBundle, Context, Effect, Error, ErrorClass, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::CaGateway;
use super::client::{InEvent, Kept, OPERATION, decode, refused};
use crate::entrust::config::is_id;
use crate::entrust::{common_name, pending, rejected};
use crate::{chain, keys, triage};

/// How many pages of events are read at once, at most, and how many certificates which they do not show are asked for: by a
/// poll, which comes again, and by a search, which must see all.
const POLLED: usize = 100;
const SEARCHED: usize = 1000;

/// What is kept of an enrolment.
#[derive(Debug, Serialize, Deserialize)]
struct Handle {
    /// The enrolment's id, if it has one.
    enrollment: Option<String>,
    /// The certificate's serial number, if it is issued already.
    serial: Option<String>,
    /// The status that the gateway answered with, where it has said at once that the enrolment is over.
    #[serde(default)]
    over: Option<String>,
    /// The public key that was asked for.
    #[serde(with = "crate::base64_bytes")]
    public_key: Vec<u8>,
    #[serde(with = "time::serde::rfc3339")]
    submitted: OffsetDateTime,
}

/// What an enrolment, and the question for one, is answered with: in the shape of Entrust's own client, or, where that is
/// missing, in the other one that clients have.
#[derive(Deserialize)]
struct Answered {
    enrollment: Option<Enrollment>,
    #[serde(rename = "trackingId")]
    tracking_id: Option<Value>,
    status: Option<String>,
    certificate: Option<String>,
}

#[derive(Deserialize)]
struct Enrollment {
    id: Option<String>,
    status: Option<String>,
    /// DER in base64.
    body: Option<String>,
}

impl Answered {
    fn id(&self) -> Option<String> {
        let other = self.tracking_id.as_ref().map(|id| id.as_str().map_or_else(|| id.to_string(), str::to_owned));
        self.enrollment.as_ref().and_then(|enrollment| enrollment.id.clone()).or(other)
    }

    fn status(&self) -> &str {
        let inner = self.enrollment.as_ref().and_then(|enrollment| enrollment.status.as_deref());
        inner.or(self.status.as_deref()).unwrap_or_default()
    }

    /// The serial number of the certificate, if it is there.
    ///
    /// # Errors
    /// `IoPermanent` `answer_invalid`.
    fn serial(&self) -> Result<Option<String>> {
        let inner = self.enrollment.as_ref().and_then(|enrollment| enrollment.body.as_deref());
        match inner.or(self.certificate.as_deref()).filter(|text| !text.is_empty()) {
            None => Ok(None),
            Some(text) => read_certificate(text).map(|leaf| Some(keys::serial(&leaf))),
        }
    }
}

impl CaGateway {
    /// Asks for a certificate. It may be there at once; its chain is not yet.
    pub(super) async fn enroll(&self, cx: &Context, request: &IssueRequest) -> Result<OrderHandle> {
        let public_key = keys::of_request(&request.csr)?;
        let answer = self.client.post(cx, &["enrollments"], &self.enrolment_body(request)?).await?;
        if !answer.is_success() {
            return Err(refused(&answer));
        }
        let answered: Answered = triage::read(&answer)?;
        // A certificate that cannot be read here is asked for again by the polls.
        let (enrollment, serial) = (answered.id(), answered.serial().unwrap_or_default());
        let over = Some(answered.status().to_ascii_uppercase()).filter(|status| is_over(status));
        if enrollment.is_none() && serial.is_none() && over.is_none() {
            return Err(says_nothing("the gateway's answer has neither an id nor a certificate"));
        }
        OrderHandle::encode(&Handle { enrollment, serial, over, public_key, submitted: cx.clock.now() })
    }

    /// Asks how an enrolment stands.
    pub(super) async fn look(&self, cx: &Context, handle: &OrderHandle) -> Result<OrderState> {
        let handle: Handle = handle.decode()?;
        if let Some(status) = &handle.over {
            return Ok(rejected(OPERATION, status));
        }
        if let Some(serial) = &handle.serial {
            return self.collect(cx, &handle, serial).await;
        }
        let Some(id) = &handle.enrollment else { return self.by_events(cx, &handle).await };
        let answer = self.client.get(cx, &["enrollments", id], &[]).await?;
        if answer.status() == 404 {
            // There are gateways that show no enrolments: then the events tell, or else it is pending for as long as
            // anybody wants to wait.
            return self.by_events(cx, &handle).await;
        }
        if !answer.is_success() {
            return Err(refused(&answer));
        }
        let answered: Answered = triage::read(&answer)?;
        if let Some(serial) = answered.serial()? {
            return self.collect(cx, &handle, &serial).await;
        }
        let status = answered.status().to_ascii_uppercase();
        match status.as_str() {
            "" => Err(says_nothing("the enrolment has neither a status nor a certificate").with_effect(Effect::None)),
            status if is_over(status) => Ok(rejected(OPERATION, status)),
            // `ACCEPTED`, `PROCESSING`, `AWAITING_APPROVAL`.
            _ => {
                tracing::debug!(enrollment = id, status = status.escape_debug().to_string(), "pending");
                Ok(pending())
            }
        }
    }

    /// Fetches a certificate with its chain.
    async fn collect(&self, cx: &Context, handle: &Handle, serial: &str) -> Result<OrderState> {
        let kept = self.client.certificate(cx, serial).await?;
        match kept {
            Some(kept) => issued(&kept),
            None if triage::is_new(handle.submitted, cx.clock.now()) => Ok(pending()),
            None => {
                let why = "the gateway does not show the certificate that it issued yet";
                Err(Error::transient(OPERATION, "certificate_not_shown", why))
            }
        }
    }

    async fn by_events(&self, cx: &Context, handle: &Handle) -> Result<OrderState> {
        let since = handle.submitted - MAX_CLOCK_SKEW;
        let found = match self.with_key(cx, &handle.public_key, since, false).await {
            Err(error)
                if error.class() == ErrorClass::Validation && triage::is_new(handle.submitted, cx.clock.now()) =>
            {
                return Ok(pending());
            }
            result => result?,
        };
        match found.iter().next() {
            Some(serial) => self.collect(cx, handle, serial).await,
            None => Ok(pending()),
        }
    }

    /// The certificate that was issued for `request`, if there is one.
    pub(super) async fn search(
        &self,
        cx: &Context,
        request: &IssueRequest,
        since: OffsetDateTime,
    ) -> Result<Option<OrderHandle>> {
        let public_key = keys::of_request(&request.csr)?;
        let found = self.with_key(cx, &public_key, since, true).await?;
        let mut found = found.into_iter();
        match (found.next(), found.len()) {
            (None, _) => Ok(None),
            (serial, 0) => {
                let submitted = cx.clock.now();
                let handle = Handle { enrollment: None, serial, over: None, public_key, submitted };
                OrderHandle::encode(&handle).map(Some)
            }
            (_, more) => {
                let why = "the CA has issued more than one certificate for this key; revoke all but one";
                Err(Error::validation(OPERATION, codes::ORDER_AMBIGUOUS, why).with("orders", more + 1))
            }
        }
    }

    /// The serial numbers of the certificates with this key to which something happened since then: of all, or the first.
    ///
    /// # Errors
    /// As [`Client::events`](super::client::Client::events); `IoTransient` `search_incomplete` when there is more than one
    /// poll can look at.
    async fn with_key(
        &self,
        cx: &Context,
        public_key: &[u8],
        since: OffsetDateTime,
        all: bool,
    ) -> Result<BTreeSet<String>> {
        let (mut found, mut seen) = (BTreeSet::new(), BTreeSet::new());
        let (mut index, mut asked): (Option<String>, usize) = (None, 0);
        let most = if all { SEARCHED } else { POLLED };
        for _ in 0..most {
            let page = self.client.events(cx, since, index.as_deref()).await?;
            for event in page.events {
                let shown = event.certificate.as_ref().and_then(InEvent::data).map(str::to_owned);
                if event.serial_number.as_ref().or(shown.as_ref()).is_some_and(|text| !seen.insert(text.clone())) {
                    continue;
                }
                let data = match (shown, event.serial_number) {
                    (Some(data), _) => Some(data),
                    (None, Some(_)) if asked == most => return Err(too_much()),
                    (None, Some(serial)) => {
                        asked += 1;
                        let kept = self.client.certificate(cx, &serial).await?;
                        kept.and_then(|kept| kept.certificate.certificate_data)
                    }
                    (None, None) => None,
                };
                let Some(bundle) = data.and_then(|data| read_certificate(&data).ok()) else { continue };
                if keys::of_certificate_pem(&bundle.leaf_pem()).as_deref() == Some(public_key) {
                    found.insert(keys::serial(&bundle));
                    if !all {
                        return Ok(found);
                    }
                }
            }
            match page.next {
                Some(next) if index.as_ref() != Some(&next) => index = Some(next),
                _ => return Ok(found),
            }
        }
        Err(too_much())
    }

    fn enrolment_body(&self, request: &IssueRequest) -> Result<Value> {
        let profile = request.profile.as_deref().unwrap_or(&self.config.profile_id);
        if !is_id(profile) {
            let why = "the profile is the id of a certificate profile of the gateway";
            return Err(Error::validation(OPERATION, "profile_unknown", why));
        }
        let alternative = request.names.iter().map(|name| {
            let kind = if name.parse::<IpAddr>().is_ok() { "iPAddress" } else { "dNSName" };
            json!({ "type": kind, "value": name })
        });
        let mut body = json!({
            "profileId": profile,
            "requiredFormat": { "format": "X509", "protection": null },
            "csr": STANDARD.encode(&request.csr),
            "subjectVariables": [{ "type": "cn", "value": common_name(OPERATION, &request.names)? }],
            "subjectAltNames": alternative.collect::<Vec<_>>(),
            "includeCa": true,
        });
        if let Some(days) = request.validity.map(keys::days).or(self.config.validity_days) {
            let minutes = Duration::from_secs(u64::from(days) * 24 * 3600).as_secs() / 60;
            body["optionalCertificateRequestDetails"] = json!({ "validityPeriod": format!("PT{minutes}M") });
        }
        Ok(body)
    }
}

/// Whether a status, in capitals, says that there will be no certificate.
fn is_over(status: &str) -> bool {
    matches!(status, "REJECTED" | "DENIED" | "DECLINED" | "FAILED" | "CANCELLED")
}

fn too_much() -> Error {
    let why = "the gateway has more events than can be looked through at once; look for the certificate there";
    Error::transient(OPERATION, "search_incomplete", why)
}

/// The error for an answer that is JSON, and no more than that.
fn says_nothing(why: &str) -> Error {
    triage::unreadable(Error::transient(OPERATION, "answer_invalid", why).with_effect(Effect::Possible))
}

fn issued(kept: &Kept) -> Result<OrderState> {
    match kept.certificate.status.as_deref() {
        Some(status @ "revoked") => return Ok(rejected(OPERATION, status)),
        Some("held") => return Ok(pending()),
        _ => {}
    }
    let Some(leaf) = &kept.certificate.certificate_data else { return Ok(pending()) };
    let invalid = || {
        let why = "a certificate is not base64";
        triage::unreadable(Error::transient(OPERATION, "answer_invalid", why))
    };
    let texts = std::iter::once(leaf).chain(&kept.chain);
    let chain: Vec<_> = texts.map(|text| decode(text)).collect::<Option<_>>().ok_or_else(invalid)?;
    let chain_pem = chain::leaf_first_der(&chain).map_err(triage::unreadable)?;
    Ok(OrderState::Issued { chain_pem })
}

/// A certificate as DER in base64, or as PEM.
fn read_certificate(text: &str) -> Result<CertificateBundle> {
    let read = match decode(text) {
        Some(der) => CertificateBundle::new(vec![der], None),
        None => CertificateBundle::from_pem(text.as_bytes()),
    };
    read.map_err(triage::unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_shapes_of_answers_are_read() {
        let read = |text: &str| serde_json::from_str::<Answered>(text).unwrap();
        let own = read(r#"{"enrollment":{"id":"a","status":"ACCEPTED","properties":{}}}"#);
        assert_eq!((own.id().as_deref(), own.status()), (Some("a"), "ACCEPTED"));
        let other = read(r#"{"trackingId":17,"status":"PROCESSING","certificate":""}"#);
        assert_eq!((other.id().as_deref(), other.status()), (Some("17"), "PROCESSING"));
        assert!(other.serial().unwrap().is_none());
        let broken = read(r#"{"enrollment":{"id":"a","body":"<html>"}}"#);
        assert_eq!(broken.serial().unwrap_err().code(), "answer_invalid");
    }
}
