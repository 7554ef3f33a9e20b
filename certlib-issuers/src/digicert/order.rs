//! Orders: placing them, asking how they stand, collecting what was issued.

use std::collections::BTreeSet;

use certlib_core::issuer::{IssueRequest, OrderHandle, OrderState};
use certlib_core::{Context, Error, Result};
use certlib_net::Answer;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::macros::format_description;
use time::{Date, Duration, OffsetDateTime};

use super::DigiCert;
use super::client::{self, Certificate, OPERATION, Order, explain, refused};
use super::config::{Renew, is_product};
use crate::{keys, triage};

/// How long before its end an order may be renewed: what accounts have unless they are set up otherwise.
const RENEWAL_WINDOW: Duration = Duration::days(90);

/// What is kept of an order.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Handle {
    /// The order's id.
    pub(super) order: u64,
    /// The certificate's id, if it is known already.
    pub(super) certificate: Option<u64>,
    /// The request's id.
    pub(super) request: Option<u64>,
    /// Whether it is another certificate of an order that had one before.
    pub(super) reissue: bool,
    /// The public key that was asked for.
    #[serde(with = "crate::base64_bytes")]
    pub(super) public_key: Vec<u8>,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) submitted: OffsetDateTime,
}

/// What an order or reissue is answered with.
#[derive(Deserialize)]
struct Placed {
    id: u64,
    #[serde(default)]
    requests: Vec<Asked>,
    certificate_id: Option<u64>,
}

#[derive(Deserialize)]
struct Asked {
    id: u64,
}

#[derive(Deserialize)]
struct Reissues {
    #[serde(default)]
    certificates: Vec<Certificate>,
}

/// Which certificate of an order is the one that was asked for.
enum Ours {
    Certificate(u64),
    Rejected,
    NotYet,
}

impl DigiCert {
    /// Places an order, or reissues the former one.
    pub(super) async fn place(&self, cx: &Context, request: &IssueRequest) -> Result<OrderHandle> {
        let product = self.product(request)?;
        let common_name = common_name(request)?;
        let public_key = keys::of_request(&request.csr)?;
        let now = cx.clock.now();
        let former = match &request.replaces {
            Some(leaf) => self.order_of(cx, leaf).await?,
            None => None,
        };
        if former.as_ref().is_some_and(|former| self.waits_for_reissue(former)) {
            // Instead of one that has to be paid for: this one is reissued when that is done.
            return Err(reissue_pending());
        }
        let reissued = former.as_ref().filter(|former| self.can_reissue(former, product, request, now));
        let (id, body) = match (reissued, &former) {
            (Some(former), _) => (Some(former.id.to_string()), self.reissue_body(request, common_name)),
            (None, former) => {
                let renewed = former.as_ref().filter(|former| is_in_window(former, now));
                (None, self.order_body(request, common_name, renewed.map(|former| former.id)))
            }
        };
        let path = match &id {
            Some(id) => ["order", "certificate", id, "reissue"].to_vec(),
            None => ["order", "certificate", product].to_vec(),
        };
        let answer = self.client.send(cx, Method::POST, &path, &body).await?;
        if !answer.is_success() {
            return Err(refused(&answer));
        }
        let placed: Placed = triage::read(&answer)?;
        OrderHandle::encode(&Handle {
            order: placed.id,
            certificate: placed.certificate_id,
            request: placed.requests.first().map(|asked| asked.id),
            reissue: id.is_some(),
            public_key,
            submitted: now,
        })
    }

    /// Asks how an order stands, and collects the certificate when it is there.
    pub(super) async fn look(&self, cx: &Context, handle: &OrderHandle) -> Result<OrderState> {
        let handle: Handle = handle.decode()?;
        let answer = self.client.get(cx, &["order", "certificate", &handle.order.to_string()], &[]).await;
        let answer = answer.map_err(triage::unanswered)?;
        if !answer.is_success() {
            return unsuccessful(&answer, handle.submitted, cx.clock.now());
        }
        let order: Order = triage::read(&answer)?;
        match order.status.as_str() {
            "issued" => {}
            status @ ("rejected" | "canceled" | "revoked" | "expired") => return Ok(rejected(status)),
            // Whatever DigiCert calls it: `pending`, `needs_approval`, `processing`, `reissue_pending`.
            status => {
                tracing::debug!(order = handle.order, status = status.escape_debug().to_string(), "pending");
                return Ok(if request_is_rejected(&handle, &order) { rejected("rejected") } else { pending() });
            }
        }
        match self.ours(cx, &handle, &order).await? {
            Ours::Certificate(id) => self.collect(cx, &handle, id).await,
            Ours::Rejected => Ok(rejected("rejected")),
            Ours::NotYet => Ok(pending()),
        }
    }

    /// The certificate of an issued order that has the key which was asked for: an order may have been reissued since.
    async fn ours(&self, cx: &Context, handle: &Handle, order: &Order) -> Result<Ours> {
        if let Some(id) = handle.certificate {
            return Ok(Ours::Certificate(id));
        }
        let has_key = |certificate: &Certificate| {
            certificate.csr.as_deref().map(|csr| keys::of_request_pem(csr).as_ref() == Some(&handle.public_key))
        };
        let primary = order.certificate.id;
        if let (Some(id), Some(true)) = (primary, has_key(&order.certificate)) {
            return Ok(Ours::Certificate(id));
        }
        let reissues = self.reissues(cx, handle.order).await?;
        for certificate in &reissues {
            if let (Some(id), Some(true)) = (certificate.id, has_key(certificate)) {
                return Ok(match certificate.status.as_deref() {
                    Some("rejected" | "canceled") => Ours::Rejected,
                    Some("pending" | "needs_approval" | "submitted" | "processing") => Ours::NotYet,
                    _ => Ours::Certificate(id),
                });
            }
        }
        match primary {
            _ if request_is_rejected(handle, order) => Ok(Ours::Rejected),
            // The order shows its former certificate still, or no request to tell by.
            Some(id) if handle.reissue && has_key(&order.certificate).is_none() => {
                self.by_certificate(cx, handle, id).await
            }
            // Whether it is the right one is checked before it is used.
            Some(id) if !handle.reissue => Ok(Ours::Certificate(id)),
            _ => Ok(Ours::NotYet),
        }
    }

    async fn by_certificate(&self, cx: &Context, handle: &Handle, id: u64) -> Result<Ours> {
        let answer = self.client.download(cx, id).await.map_err(triage::unanswered)?;
        let key = std::str::from_utf8(answer.body()).ok().and_then(keys::of_certificate_pem);
        let same = answer.is_success() && key.as_ref() == Some(&handle.public_key);
        Ok(if same { Ours::Certificate(id) } else { Ours::NotYet })
    }

    async fn collect(&self, cx: &Context, handle: &Handle, id: u64) -> Result<OrderState> {
        let answer = self.client.download(cx, id).await.map_err(triage::unanswered)?;
        if answer.status() == 404 {
            // Issued, but not to be had yet.
            return Ok(pending());
        }
        if !answer.is_success() {
            return unsuccessful(&answer, handle.submitted, cx.clock.now());
        }
        match std::str::from_utf8(answer.body()) {
            Ok(pem) if pem.contains("-----BEGIN CERTIFICATE-----") && pem.contains("-----END CERTIFICATE-----") => {
                Ok(OrderState::Issued { chain_pem: pem.to_owned() })
            }
            _ => {
                let error = Error::transient(OPERATION, "answer_invalid", "the certificate is not PEM");
                Err(triage::unreadable(error))
            }
        }
    }

    /// The reissues of an order.
    pub(super) async fn reissues(&self, cx: &Context, order: u64) -> Result<Vec<Certificate>> {
        let answer = self.client.get(cx, &["order", "certificate", &order.to_string(), "reissue"], &[]).await?;
        match answer.status() {
            204 | 404 => Ok(Vec::new()),
            _ if answer.is_success() => triage::read::<Reissues>(&answer).map(|list| list.certificates),
            _ => Err(refused(&answer)),
        }
    }

    /// An order, by its id or by the serial number of its certificate. `None` if there is none.
    pub(super) async fn order(&self, cx: &Context, id: &str) -> Result<Option<Order>> {
        let answer = self.client.get(cx, &["order", "certificate", id], &[]).await?;
        match answer.status() {
            404 if client::is_own(&answer) => Ok(None),
            404 => Err(triage::astray(&answer)),
            _ if answer.is_success() => triage::read(&answer).map(Some),
            _ => Err(refused(&answer)),
        }
    }

    /// The order that a certificate (DER) belongs to, if it shows that certificate.
    pub(super) async fn order_of(&self, cx: &Context, leaf: &[u8]) -> Result<Option<Order>> {
        let bundle = certlib_core::CertificateBundle::new(vec![leaf.to_vec()], None)?;
        self.order(cx, &keys::serial(&bundle)).await
    }

    /// Whether an order that would be reissued is being reissued already.
    pub(super) fn waits_for_reissue(&self, former: &Order) -> bool {
        self.config.renew == Renew::Reissue && former.status == "reissue_pending"
    }

    /// Whether a reissue of `former` gives what `request` wants: DigiCert revokes what loses a name by it, so that none
    /// may be missing, and the order must live as long as the certificate is meant to.
    fn can_reissue(&self, former: &Order, product: &str, request: &IssueRequest, now: OffsetDateTime) -> bool {
        let names: BTreeSet<String> = request.names.iter().map(|name| name.to_ascii_lowercase()).collect();
        let certificate = &former.certificate;
        let common_name = certificate.common_name.as_deref().map(str::to_ascii_lowercase);
        let keeps = |name: &String| names.contains(&name.to_ascii_lowercase());
        let till = former.order_valid_till.as_deref().and_then(day);
        let wanted = now + Duration::days(i64::from(self.days(request)));
        self.config.renew == Renew::Reissue
            && former.status == "issued"
            && former.product.name_id.as_deref() == Some(product)
            && common_name.as_deref() == request_common_name(request).map(str::to_ascii_lowercase).as_deref()
            && certificate.dns_names.iter().all(keeps)
            && till.is_some_and(|till| till >= wanted.date())
    }

    fn product<'a>(&'a self, request: &'a IssueRequest) -> Result<&'a str> {
        let product = request.profile.as_deref().unwrap_or(&self.config.product);
        if is_product(product) {
            return Ok(product);
        }
        let why = "the profile is the name id of a product of DigiCert, such as ssl_basic";
        Err(Error::validation(OPERATION, "profile_unknown", why))
    }

    fn days(&self, request: &IssueRequest) -> u32 {
        request.validity.map_or(self.config.validity_days, keys::days)
    }

    fn certificate_body(&self, request: &IssueRequest, common_name: &str) -> Value {
        let mut body = json!({
            "common_name": common_name,
            "dns_names": request.names,
            "csr": keys::request_pem(&request.csr),
            "signature_hash": self.config.signature_hash,
            "server_platform": { "id": -1 },
            "cert_validity": { "days": self.days(request) },
        });
        if let Some(id) = &self.config.ca_cert_id {
            body["ca_cert_id"] = json!(id);
        }
        body
    }

    fn order_body(&self, request: &IssueRequest, common_name: &str, renews: Option<u64>) -> Value {
        let config = &self.config;
        let mut body = json!({
            "certificate": self.certificate_body(request, common_name),
            "order_validity": { "days": config.order_validity_days.max(self.days(request)) },
            "comments": comments(request),
            "disable_renewal_notifications": !config.renewal_notifications,
            "skip_approval": config.skip_approval,
        });
        if let Some(id) = config.organization_id {
            body["organization"] = json!({ "id": id });
        }
        if let Some(id) = config.container_id {
            body["container"] = json!({ "id": id });
        }
        if let Some(method) = config.dcv_method {
            body["dcv_method"] = json!(method);
        }
        if let Some(id) = renews {
            body["renewal_of_order_id"] = json!(id);
        }
        body
    }

    fn reissue_body(&self, request: &IssueRequest, common_name: &str) -> Value {
        json!({
            "certificate": self.certificate_body(request, common_name),
            "comments": comments(request),
            "skip_approval": self.config.skip_approval,
        })
    }
}

/// What an answer without success says about an order. A 404 that is not DigiCert's own is that of the network in front of
/// it, and says nothing.
fn unsuccessful(answer: &Answer, submitted: OffsetDateTime, now: OffsetDateTime) -> Result<OrderState> {
    if answer.status() == 404 && !client::is_own(answer) {
        return Err(triage::astray(answer));
    }
    triage::refused(answer, submitted, now).map_err(|error| explain(error, answer))
}

/// Whether what was asked for was declined, as far as the order tells. That it was approved is not read here: DigiCert
/// shows that late.
fn request_is_rejected(handle: &Handle, order: &Order) -> bool {
    let ours = |id| handle.request == Some(id);
    order.requests.iter().any(|wish| ours(wish.id) && wish.status.as_deref() == Some("rejected"))
}

/// The error for an order that cannot be reissued, or told apart from others, before another reissue of it is done.
pub(super) fn reissue_pending() -> Error {
    let why = "another reissue of the order is pending at DigiCert";
    Error::transient(OPERATION, "reissue_pending", why)
}

fn pending() -> OrderState {
    OrderState::Pending { retry_after: None }
}

fn rejected(status: &str) -> OrderState {
    let reason = Error::validation(OPERATION, "order_rejected", "the order is over at DigiCert, without a certificate");
    OrderState::Rejected { reason: reason.with("status", status) }
}

/// Whether an order ends soon enough to be renewed.
fn is_in_window(former: &Order, now: OffsetDateTime) -> bool {
    let till = former.order_valid_till.as_deref().and_then(day);
    till.is_some_and(|till| till <= (now + RENEWAL_WINDOW).date())
}

/// The first name that fits into a common name (ub-common-name, RFC 5280 appendix A).
fn request_common_name(request: &IssueRequest) -> Option<&str> {
    request.names.iter().map(String::as_str).find(|name| name.len() <= 64)
}

pub(super) fn common_name(request: &IssueRequest) -> Result<&str> {
    request_common_name(request).ok_or_else(|| {
        let why = "DigiCert needs a common name, and no name has at most 64 characters";
        Error::validation(OPERATION, "name_too_long", why)
    })
}

/// The remark that an order is found by.
fn comments(request: &IssueRequest) -> String {
    format!("certlib {}", request.reference).trim_end().to_owned()
}

/// A day, or the day of a time.
fn day(text: &str) -> Option<Date> {
    Date::parse(text.get(..10)?, format_description!("[year]-[month]-[day]")).ok()
}
