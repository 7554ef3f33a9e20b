//! An order and its certificate, as the service sees them and as tests do.

use serde_json::{Value, json};
use time::{Date, OffsetDateTime, macros::format_description};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::profile::Profile;
use crate::pki::{CertificateRequest, Signed};

/// Where an order stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// A human has to approve it.
    Requested,
    /// The authority works on it.
    Applied,
    /// There is a certificate.
    Issued,
    /// A human said no.
    Declined,
    /// The authority said no.
    Rejected,
    /// The certificate was revoked.
    Revoked,
    /// The certificate's time is over.
    Expired,
}

impl Status {
    /// The word that the API uses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "Requested",
            Self::Applied => "Applied",
            Self::Issued => "Issued",
            Self::Declined => "Declined",
            Self::Rejected => "Rejected",
            Self::Revoked => "Revoked",
            Self::Expired => "Expired",
        }
    }
}

/// An order, as it is at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Order {
    /// `sslId`.
    pub id: i64,
    /// `renewId`.
    pub renew_id: String,
    /// Where it stands.
    pub status: Status,
    /// The names that the certificate is for, the common name first.
    pub names: Vec<String>,
    /// The certificate's serial number, upper-case hexadecimal.
    pub serial: Option<String>,
    /// The SHA-256 of the certificate, lower-case hexadecimal.
    pub fingerprint: Option<String>,
    /// Why it was revoked, as a CRL reason.
    pub reason_code: Option<i64>,
    /// What the order says about itself.
    pub comments: String,
    /// Its custom fields.
    pub custom_fields: Vec<(String, String)>,
}

/// An order with everything that the service knows.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: i64,
    pub(super) renew_id: String,
    pub(super) organization: i64,
    pub(super) profile: Profile,
    /// Days.
    pub(super) term: i64,
    pub(super) asked: CertificateRequest,
    /// The common name first.
    pub(super) names: Vec<String>,
    pub(super) comments: String,
    pub(super) requester: String,
    pub(super) external_requester: String,
    pub(super) custom_fields: Vec<(String, String)>,
    pub(super) status: Status,
    /// A certificate that stays in place until the new one is there.
    pub(super) certificate: Option<Signed>,
    /// How often one has to ask until it is issued.
    pub(super) polls: u32,
    /// How often one has to collect after that.
    pub(super) lag: u32,
    pub(super) requested: OffsetDateTime,
    pub(super) approved: Option<OffsetDateTime>,
    pub(super) declined: Option<OffsetDateTime>,
    pub(super) issued: Option<OffsetDateTime>,
    pub(super) expires: Option<OffsetDateTime>,
    pub(super) replaced: Option<OffsetDateTime>,
    pub(super) revoked: Option<OffsetDateTime>,
    pub(super) reason_code: Option<i64>,
    pub(super) renewed: bool,
}

impl Entry {
    /// The status, with the passing of time.
    pub(super) fn status(&self, now: OffsetDateTime) -> Status {
        match self.status {
            Status::Issued if self.expires.is_some_and(|expires| expires <= now) => Status::Expired,
            status => status,
        }
    }

    pub(super) fn common_name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }

    fn serial(&self) -> Option<String> {
        self.certificate.as_ref().map(|certificate| colons(&certificate.padded_serial()))
    }

    /// Whether it has this serial number, with or without colons. A zero in front counts.
    pub(super) fn has_serial(&self, serial: &str) -> bool {
        let plain = serial.replace(':', "").to_ascii_uppercase();
        self.certificate.as_ref().is_some_and(|certificate| certificate.padded_serial() == plain)
    }

    /// What a list says about it in accounts whose lists are short.
    pub(super) fn short(&self) -> Value {
        json!({ "sslId": self.id })
    }

    /// What a list says about it.
    pub(super) fn summary(&self) -> Value {
        json!({
            "sslId": self.id,
            "commonName": self.common_name(),
            "subjectAlternativeNames": self.names,
            "serialNumber": self.serial().unwrap_or_default(),
        })
    }

    /// Everything that the API says about it.
    pub(super) fn detail(&self, now: OffsetDateTime) -> Value {
        let key_type = if self.asked.key.algorithm == "ECDSA" { "EC" } else { "RSA" };
        let fields: Vec<_> =
            self.custom_fields.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
        let mut body = json!({
            "commonName": self.common_name(),
            "sslId": self.id,
            "id": self.id,
            "orgId": self.organization,
            "status": self.status(now).as_str(),
            "orderNumber": 1_000_000 + self.id,
            "backendCertId": (1_000_000 + self.id).to_string(),
            "vendor": "Sectigo",
            "certType": self.profile.shown(),
            "term": self.term,
            "requester": self.requester,
            "externalRequester": self.external_requester,
            "comments": self.comments,
            "keyAlgorithm": key_type,
            "keyType": key_type,
            "keySize": self.asked.key.bits,
            "subjectAlternativeNames": self.names,
            "customFields": fields,
            "suspendNotifications": false,
            "renewed": self.renewed,
            "requested": date(self.requested),
        });
        let Value::Object(map) = &mut body else { return body };
        let dates = [
            ("approved", self.approved),
            ("declined", self.declined),
            ("issued", self.issued),
            ("expires", self.expires),
            ("replaced", self.replaced),
            ("revoked", self.revoked),
        ];
        for (name, moment) in dates {
            if let Some(moment) = moment {
                map.insert(name.to_owned(), date(moment).into());
            }
        }
        if let Some(code) = self.reason_code {
            map.insert("reasonCode".to_owned(), code.into());
        }
        if let Some(certificate) = &self.certificate {
            map.insert("serialNumber".to_owned(), self.serial().into());
            map.insert("signatureAlg".to_owned(), "SHA256withECDSA".into());
            map.insert("certificateDetails".to_owned(), described(&certificate.certificate_der));
        }
        body
    }

    pub(super) fn snapshot(&self, now: OffsetDateTime) -> Order {
        Order {
            id: self.id,
            renew_id: self.renew_id.clone(),
            status: self.status(now),
            names: self.names.clone(),
            serial: self.certificate.as_ref().map(Signed::padded_serial),
            fingerprint: self.certificate.as_ref().map(|certificate| certificate.fingerprint.clone()),
            reason_code: self.reason_code,
            comments: self.comments.clone(),
            custom_fields: self.custom_fields.clone(),
        }
    }
}

/// What the API says about the certificate itself.
fn described(der: &[u8]) -> Value {
    let Ok((_, read)) = X509Certificate::from_der(der) else { return Value::Null };
    let names = read.subject_alternative_name().ok().flatten();
    let names: Vec<String> =
        names.map(|found| found.value.general_names.iter().map(ToString::to_string).collect()).unwrap_or_default();
    let sha1 = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, der);
    json!({
        "issuer": read.issuer().to_string(),
        "subject": read.subject().to_string(),
        "subjectAltNames": names.join(", "),
        "sha1Hash": sha1.as_ref().iter().map(|byte| format!("{byte:02X}")).collect::<String>(),
    })
}

/// A serial number with a colon after every byte.
fn colons(serial: &str) -> String {
    let mut shown = String::with_capacity(serial.len() * 3 / 2);
    for (number, digit) in serial.chars().enumerate() {
        if number > 0 && number % 2 == 0 {
            shown.push(':');
        }
        shown.push(digit);
    }
    shown
}

/// A date as the service writes it, such as `01/31/2026`.
pub(super) fn date(moment: OffsetDateTime) -> String {
    let date: Date = moment.date();
    date.format(format_description!("[month]/[day]/[year]")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_numbers_and_dates_look_as_the_services() {
        assert_eq!(colons("12AB0C"), "12:AB:0C");
        assert_eq!(date(time::macros::datetime!(2026-01-31 23:59 UTC)), "01/31/2026");
    }
}
