//! Certificates: downloads, chains, reissues, duplicates, revocation.

use serde_json::{Value, json};

use super::{
    account::KeyRole,
    answer::{Answer, Outcome, Refusal},
    order::Status,
    pkcs7,
    request::{Kind, Verdict},
    state::{State, object},
    terms,
};
use crate::api::Call;

/// What a revocation may be for, in lower case without anything between the words: the documentation names
/// `superseded` only, and authorities differ in how they write the others.
const REASONS: [&str; 6] =
    ["unspecified", "keycompromise", "affiliationchanged", "superseded", "cessationofoperation", "privilegewithdrawn"];

impl State {
    pub(super) fn certificate_action(
        &mut self,
        method: &str,
        id: &str,
        action: &[&str],
        call: &Call,
        role: KeyRole,
    ) -> Outcome {
        let id = self.certificate_id(id)?;
        match (method, action) {
            ("GET", ["download", "format", format]) => self.download(id, format),
            ("GET", ["chain"]) => {
                self.issued(id)?;
                let chain = [named(self.intermediate.common_name(), self.intermediate.certificate_pem())];
                Ok(Answer::Json(200, json!({ "intermediates": chain })))
            }
            ("PUT", ["revoke"]) => {
                let order = self.certificates.get(&id).map(|found| found.order).unwrap_or_default();
                self.revocation(order, Some(id), call, role)
            }
            _ => Err(Refusal::absent("route")),
        }
    }

    fn certificate_id(&self, text: &str) -> Result<u64, Refusal> {
        if let Some(id) = text.parse().ok().filter(|id| self.certificates.contains_key(id)) {
            return Ok(id);
        }
        let found = self.certificates.iter().find(|(_, certificate)| certificate.is_called(text));
        found.map(|(id, _)| *id).ok_or_else(|| Refusal::absent("certificate"))
    }

    /// The PEM of a certificate that exists.
    fn issued(&self, id: u64) -> Result<&str, Refusal> {
        let issued = self.certificates.get(&id).and_then(|found| found.issued.as_ref());
        let absent = || Refusal::new(404, "cert_not_found", "The certificate has not been issued yet.");
        issued.map(|issued| issued.signed.certificate_pem.as_str()).ok_or_else(absent)
    }

    fn download(&self, id: u64, format: &str) -> Outcome {
        const PEM: &str = "application/x-pem-file";

        let (leaf, between) = (self.issued(id)?, self.intermediate.certificate_pem());
        let text = |parts: &[&str]| Ok(Answer::File(PEM, crlf(&parts.concat()).into_bytes()));
        match format {
            "pem_all" => text(&[leaf, between, self.root.certificate_pem()]),
            "pem_noroot" => text(&[leaf, between]),
            "pem_nointermediate" => text(&[leaf]),
            "cer" => Ok(Answer::File("application/pkix-cert", der(leaf))),
            "p7b" => {
                let der = pkcs7::of([leaf, between, self.root.certificate_pem()].map(der));
                let text = pem::encode(&pem::Pem::new("PKCS7", der));
                Ok(Answer::File("application/x-pkcs7-certificates", text.into_bytes()))
            }
            _ => Err(Refusal::bad("invalid_format", format!("The simulator has no format {format}."))),
        }
    }

    /// What the answer to an order carries when the certificate exists already.
    pub(super) fn chain_of(&self, id: u64) -> Option<Value> {
        let certificate = self.certificates.get(&id)?;
        let leaf = &certificate.issued.as_ref()?.signed.certificate_pem;
        let authority = |ca: &crate::pki::TestCa| named(ca.common_name(), ca.certificate_pem());
        let leaf = named(&certificate.wanted.common_name, leaf);
        Some(json!([leaf, authority(&self.intermediate), authority(&self.root)]))
    }

    /// `POST /order/certificate/{id}/reissue` and `/duplicate`.
    pub(super) fn again(&mut self, id: u64, action: &str, call: &Call, role: KeyRole) -> Outcome {
        let body = object(call)?;
        let kind = if action == "reissue" { Kind::Reissue } else { Kind::Duplicate };
        let order = self.orders.get(&id).ok_or_else(|| Refusal::absent("order"))?;
        if order.status != Status::Issued {
            return Err(Refusal::bad("order_status_invalid", "Only an order that is issued can be issued again."));
        }
        let former = self.certificates.get(&order.primary).ok_or_else(|| Refusal::absent("certificate"))?;
        let mut wanted = terms::changed(&body, &former.wanted, order.product, kind == Kind::Reissue)?;
        let now = self.clock.now();
        wanted.till = wanted.order_till;
        if order.product.public {
            wanted.till = wanted.till.min(now + time::Duration::days(self.settings.longest_days));
        }
        let certificate = self.next();
        if kind == Kind::Reissue
            && let Some(order) = self.orders.get_mut(&id)
        {
            (order.status, order.changed) = (Status::ReissuePending, now);
        }
        self.begin(certificate, id, kind, wanted, &body, role)
    }

    /// `GET /order/certificate/{id}/reissue` and `/duplicate`: a look.
    pub(super) fn others(&mut self, id: u64, action: &str) -> Outcome {
        self.look(id)?;
        let kind = if action == "reissue" { Kind::Reissue } else { Kind::Duplicate };
        let now = self.clock.now();
        let all = self.certificates.iter().filter(|(_, found)| found.order == id && found.kind == kind);
        let all: Vec<Value> = all
            .enumerate()
            .map(|(at, (id, found))| {
                let mut shown = self.details(*id, found, now);
                let approved = found.status == Status::Issued;
                shown["status"] = json!(if approved { "approved" } else { found.status.text() });
                shown["sub_id"] = json!(format!("{:03}", at + 1));
                shown
            })
            .collect();
        Ok(Answer::Json(200, json!({ "certificates": all })))
    }

    /// `PUT /order/certificate/{id}/revoke`.
    pub(super) fn revoke_order(&mut self, id: u64, call: &Call, role: KeyRole) -> Outcome {
        self.revocation(id, None, call, role)
    }

    fn revocation(&mut self, order: u64, certificate: Option<u64>, call: &Call, role: KeyRole) -> Outcome {
        let body = object(call)?;
        let plain = |reason: &str| reason.replace('_', "").to_ascii_lowercase();
        if body["revocation_reason"].as_str().is_some_and(|reason| !REASONS.contains(&plain(reason).as_str())) {
            return Err(Refusal::bad("invalid_revocation_reason", "The reason is not one of those offered."));
        }
        let found = self.orders.get(&order).ok_or_else(|| Refusal::absent("order"))?;
        if found.status == Status::ReissuePending {
            return Err(Refusal::bad("pending_reissue", "There is a reissue that is pending."));
        }
        let of_order = self.certificates_of(order);
        let concerned = certificate.map_or(of_order, |id| vec![id]);
        let alive = |id: &u64| self.certificates.get(id).is_some_and(|found| found.status == Status::Issued);
        if !concerned.iter().any(alive) {
            return Err(Refusal::bad("cert_status_invalid", "There is nothing that can be revoked."));
        }
        let request = self.ask(Kind::Revoke, order, certificate, &body, role);
        if self.verdict(request) == Verdict::Approved {
            // Nothing is kept of a request that nobody had to approve.
            self.requests.remove(&request);
            if let Some(order) = self.orders.get_mut(&order) {
                order.requests.retain(|id| *id != request);
            }
            match certificate {
                Some(id) => self.revoke(id)?,
                None => self.revoke_all(order)?,
            }
            return Ok(Answer::Nothing);
        }
        let shown = self.requests.get(&request).map(|found| found.shown(request)).unwrap_or_default();
        Ok(Answer::Json(201, shown))
    }

    /// Revokes a certificate, and its order if that has no other and the account wants it so.
    pub(super) fn revoke(&mut self, id: u64) -> Result<(), Refusal> {
        let now = self.clock.now();
        let certificate = self.certificates.get_mut(&id).ok_or_else(|| Refusal::absent("certificate"))?;
        if certificate.status != Status::Issued {
            return Err(Refusal::bad("cert_status_invalid", "Only what was issued can be revoked."));
        }
        certificate.status = Status::Revoked;
        let order = certificate.order;
        let of_order = self.certificates_of(order);
        if of_order.len() == 1
            && self.settings.revokes_orders
            && let Some(order) = self.orders.get_mut(&order)
        {
            (order.status, order.changed) = (Status::Revoked, now);
        }
        Ok(())
    }

    pub(super) fn revoke_all(&mut self, order: u64) -> Result<(), Refusal> {
        let now = self.clock.now();
        for id in self.certificates_of(order) {
            if let Some(found) = self.certificates.get_mut(&id).filter(|found| found.status == Status::Issued) {
                found.status = Status::Revoked;
            }
        }
        let order = self.orders.get_mut(&order).ok_or_else(|| Refusal::absent("order"))?;
        (order.status, order.changed) = (Status::Revoked, now);
        Ok(())
    }
}

fn named(common_name: &str, pem: &str) -> Value {
    json!({ "subject_common_name": common_name, "pem": crlf(pem) })
}

/// CertCentral ends lines as Windows does.
fn crlf(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\n', "\r\n")
}

fn der(pem: &str) -> Vec<u8> {
    pem::parse(pem).map(pem::Pem::into_contents).unwrap_or_default()
}
