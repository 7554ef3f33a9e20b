//! Orders: placing them, and how they go on.

use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use super::{
    account::KeyRole,
    answer::{Answer, Outcome, Refusal},
    course::{Course, End},
    dcv::Control,
    product::Product,
    request::{Kind, Verdict},
    state::{State, object},
    terms::{Wanted, wanted},
};
use crate::{
    api::Call,
    pki::{CertificateRequest, Signed, Subject, Terms},
};

/// An order, which has one certificate that counts, and maybe others.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) product: &'static Product,
    pub(super) organization: Option<u64>,
    pub(super) created: OffsetDateTime,
    /// When its status last changed.
    pub(super) changed: OffsetDateTime,
    pub(super) valid_till: OffsetDateTime,
    pub(super) status: Status,
    /// The certificate that it shows.
    pub(super) primary: u64,
    pub(super) control: Control,
    pub(super) requests: Vec<u64>,
    pub(super) renews: Option<u64>,
    pub(super) renewed: bool,
    pub(super) quiet: bool,
}

/// The status of an order or a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Pending,
    ReissuePending,
    Issued,
    Rejected,
    Canceled,
    Revoked,
}

/// One certificate of an order, from the wish for it on.
#[derive(Debug)]
pub(super) struct Certificate {
    pub(super) order: u64,
    pub(super) kind: Kind,
    pub(super) status: Status,
    pub(super) created: OffsetDateTime,
    pub(super) wanted: Wanted,
    pub(super) course: Course,
    pub(super) issued: Option<Issued>,
}

/// A certificate that exists.
#[derive(Debug)]
pub(super) struct Issued {
    pub(super) signed: Signed,
    pub(super) at: OffsetDateTime,
    pub(super) from: OffsetDateTime,
    pub(super) till: OffsetDateTime,
}

impl Status {
    pub(super) fn text(self) -> &'static str {
        match self {
            Status::Pending => "pending",
            Status::ReissuePending => "reissue_pending",
            Status::Issued => "issued",
            Status::Rejected => "rejected",
            Status::Canceled => "canceled",
            Status::Revoked => "revoked",
        }
    }
}

impl State {
    /// `POST /order/certificate/{name_id}`.
    pub(super) fn place(&mut self, name_id: &str, call: &Call, role: KeyRole) -> Outcome {
        let product = Product::find(name_id)?;
        let body = object(call)?;
        let organization = self.organization_of(product, &body)?;
        let now = self.clock.now();
        let wanted = wanted(&body, product, self.settings.longest_days, now)?;
        let renews = body["renewal_of_order_id"].as_u64();
        if let Some(former) = renews {
            self.orders.get_mut(&former).ok_or_else(|| Refusal::absent("order"))?.renewed = true;
        }
        let method = body["dcv_method"].as_str().unwrap_or("email");
        let control = Control::new(method, now)?;
        let (id, certificate) = (self.next(), self.next());
        let valid_till = wanted.order_till;
        self.orders.insert(
            id,
            Order {
                product,
                organization,
                created: now,
                changed: now,
                valid_till,
                status: Status::Pending,
                primary: certificate,
                control,
                requests: Vec::new(),
                renews,
                renewed: false,
                quiet: body["disable_renewal_notifications"].as_bool().unwrap_or_default(),
            },
        );
        self.begin(certificate, id, Kind::New, wanted, &body, role)
    }

    fn organization_of(&self, product: &Product, body: &Value) -> Result<Option<u64>, Refusal> {
        if product.validation == "dv" {
            return Ok(None);
        }
        // Real clients send the number as a text as well.
        let id = &body["organization"]["id"];
        let id = id.as_u64().or_else(|| id.as_str()?.parse().ok());
        let id = id.ok_or_else(|| Refusal::bad("missing_organization", "The order needs an organization."))?;
        let known = self.organizations.iter().any(|known| known.id == id);
        if known { Ok(Some(id)) } else { Err(Refusal::bad("invalid_organization", "No such organization.")) }
    }

    /// Takes the wish for a certificate in, and answers with what has become of it so far.
    pub(super) fn begin(
        &mut self,
        id: u64,
        order: u64,
        kind: Kind,
        wanted: Wanted,
        body: &Value,
        role: KeyRole,
    ) -> Outcome {
        let now = self.clock.now();
        let course = self.course.clone();
        let status = Status::Pending;
        self.certificates.insert(id, Certificate { order, kind, status, created: now, wanted, course, issued: None });
        let request = self.ask(kind, order, Some(id), body, role);
        self.settle(id, false)?;
        let mut answer =
            json!({ "id": order, "requests": [{ "id": request, "status": self.verdict(request).text() }] });
        if let Some(chain) = self.chain_of(id) {
            answer["certificate_id"] = json!(id);
            answer["certificate_chain"] = chain;
        } else if let Some(found) = self.orders.get(&order)
            && found.product.validation == "dv"
            && found.control.has_value()
        {
            answer["dcv_random_value"] = json!(found.control.value);
        }
        Ok(Answer::Json(201, answer))
    }

    /// Lets a certificate go on as far as it can; a look at it counts as a poll.
    pub(super) fn settle(&mut self, id: u64, look: bool) -> Result<(), Refusal> {
        let Some(certificate) = self.certificates.get(&id).filter(|found| found.status == Status::Pending) else {
            return Ok(());
        };
        match self.verdict_on(id) {
            Verdict::Pending => return Ok(()),
            Verdict::Rejected => return self.end(id, Status::Rejected),
            Verdict::Approved => {}
        }
        if !self.is_validated(certificate) {
            return Ok(());
        }
        let Some(certificate) = self.certificates.get_mut(&id) else { return Ok(()) };
        if certificate.course.polls > 0 {
            if look {
                certificate.course.polls -= 1;
            }
            return Ok(());
        }
        match certificate.course.end {
            End::Rejected => self.end(id, Status::Rejected),
            End::Canceled => self.end(id, Status::Canceled),
            End::Issued => self.issue(id),
        }
    }

    /// Whether the organization and all names are validated.
    fn is_validated(&self, certificate: &Certificate) -> bool {
        let Some(order) = self.orders.get(&certificate.order) else { return false };
        let organization = order.organization.and_then(|id| self.organizations.iter().find(|known| known.id == id));
        organization.is_none_or(|organization| organization.validated)
            && certificate.wanted.names.iter().all(|name| self.controls(name))
    }

    /// Ends what has not been issued.
    pub(super) fn end(&mut self, id: u64, status: Status) -> Result<(), Refusal> {
        let now = self.clock.now();
        let certificate = self.certificates.get_mut(&id).ok_or_else(|| Refusal::absent("certificate"))?;
        certificate.status = status;
        if let Some(order) = self.orders.get_mut(&certificate.order) {
            order.changed = now;
            match certificate.kind {
                Kind::New => order.status = status,
                // What was issued before still counts.
                Kind::Reissue => order.status = Status::Issued,
                Kind::Duplicate | Kind::Revoke => {}
            }
        }
        Ok(())
    }

    fn issue(&mut self, id: u64) -> Result<(), Refusal> {
        let now = self.clock.now();
        let Some(certificate) = self.certificates.get_mut(&id) else { return Ok(()) };
        let Wanted { common_name, names, till, request, .. } = &certificate.wanted;
        // From the beginning of the day on, as CertCentral has it.
        let from = now.replace_time(time::Time::MIDNIGHT);
        let terms = Terms {
            common_name: Some(common_name.clone()),
            names: Some(names.clone()),
            not_before: Some(from),
            not_after: Some(*till),
            ..Terms::default()
        };
        let signed = self.intermediate.sign_with(Subject::Request(&request.der), &terms, certificate.course.flaw);
        let signed = signed.map_err(|error| Refusal::bad("invalid_csr", error.to_string()))?;
        certificate.issued = Some(Issued { signed, at: now, from, till: *till });
        certificate.status = Status::Issued;
        let Some(order) = self.orders.get_mut(&certificate.order) else { return Ok(()) };
        order.changed = now;
        if certificate.kind != Kind::Duplicate {
            order.primary = id;
            order.status = Status::Issued;
        }
        Ok(())
    }

    /// The number of an order that is named by it, or by the serial number or thumbprint of its certificate.
    pub(super) fn order_id(&self, text: &str) -> Result<u64, Refusal> {
        if let Some(id) = text.parse().ok().filter(|id| self.orders.contains_key(id)) {
            return Ok(id);
        }
        let primary = |order: &Order| self.certificates.get(&order.primary).is_some_and(|found| found.is_called(text));
        let found = self.orders.iter().find(|(_, order)| primary(order));
        found.map(|(id, _)| *id).ok_or_else(|| Refusal::absent("order"))
    }

    /// The certificates of an order, oldest first.
    pub(super) fn certificates_of(&self, order: u64) -> Vec<u64> {
        let all = self.certificates.iter().filter(|(_, certificate)| certificate.order == order);
        all.map(|(id, _)| *id).collect()
    }

    /// Looks at everything of an order that is pending.
    pub(super) fn look(&mut self, order: u64) -> Result<(), Refusal> {
        for id in self.certificates_of(order) {
            self.settle(id, true)?;
        }
        Ok(())
    }

    /// `PUT /order/certificate/{id}/status`: cancels an order, or a reissue, that is pending.
    pub(super) fn set_status(&mut self, id: u64, call: &Call) -> Outcome {
        let body = object(call)?;
        if !body["status"].as_str().is_some_and(|status| status.eq_ignore_ascii_case("canceled")) {
            return Err(Refusal::bad("invalid_status", "An order can only be canceled."));
        }
        self.cancel(id)?;
        Ok(Answer::Nothing)
    }

    pub(super) fn cancel(&mut self, order: u64) -> Result<(), Refusal> {
        let pending = |id: &u64| self.certificates.get(id).is_some_and(|found| found.status == Status::Pending);
        let pending: Vec<u64> = self.certificates_of(order).into_iter().filter(pending).collect();
        if pending.is_empty() {
            return Err(Refusal::bad("order_status_invalid", "Only what is pending can be canceled."));
        }
        pending.into_iter().try_for_each(|id| self.end(id, Status::Canceled))
    }
}

impl Certificate {
    /// Whether this is its serial number or its thumbprint, in whatever case, with or without zeros in front.
    pub(super) fn is_called(&self, text: &str) -> bool {
        let bare = |text: &str| text.trim_start_matches('0').to_ascii_uppercase();
        let Some(issued) = &self.issued else { return false };
        bare(text) == bare(&issued.signed.serial) || text.eq_ignore_ascii_case(&issued.thumbprint())
    }

    pub(super) fn csr(&self) -> &CertificateRequest {
        &self.wanted.request
    }
}

impl Issued {
    /// The SHA-1 of the certificate, upper-case hexadecimal.
    pub(super) fn thumbprint(&self) -> String {
        let digest =
            aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, &self.signed.certificate_der);
        digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect()
    }

    pub(super) fn days_left(&self, now: OffsetDateTime) -> i64 {
        (self.till - now).max(Duration::ZERO).whole_days()
    }
}
