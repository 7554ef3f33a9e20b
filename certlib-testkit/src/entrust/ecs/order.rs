//! An order and its certificate, as the Enterprise API sees them and as tests do.

use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::{
    entrust::period,
    pki::{CertificateRequest, Signed},
};

/// Where an order of the Enterprise API stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EcsStatus {
    /// It waits for a human, or for the authority.
    Pending,
    /// There is a certificate.
    Active,
    /// A human said no.
    Declined,
    /// Another certificate with other names or another key took its place.
    Reissued,
    /// A later certificate took its place.
    Renewed,
    /// It is on hold.
    Suspended,
    /// It was revoked.
    Revoked,
    /// Its time is over.
    Expired,
}

impl EcsStatus {
    /// The word that the API uses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Active => "ACTIVE",
            Self::Declined => "DECLINED",
            Self::Reissued => "REISSUED",
            Self::Renewed => "RENEWED",
            Self::Suspended => "SUSPENDED",
            Self::Revoked => "REVOKED",
            Self::Expired => "EXPIRED",
        }
    }
}

/// An order of the Enterprise API, as it is at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EcsOrder {
    /// `trackingId`.
    pub id: i64,
    /// Where it stands.
    pub status: EcsStatus,
    /// The names that the certificate is for, the common name first.
    pub names: Vec<String>,
    /// The certificate's serial number, upper-case hexadecimal, without leading zeros.
    pub serial: Option<String>,
    /// The SHA-256 of the certificate, lower-case hexadecimal.
    pub fingerprint: Option<String>,
    /// Why it was revoked (`crlReason`) or declined (`declineReason`).
    pub reason: Option<String>,
    /// What the order says under `tracking`, JSON.
    pub tracking: Value,
}

/// What an order asks for.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) asked: CertificateRequest,
    /// The request as it was sent.
    pub(super) csr: String,
    /// The common name first.
    pub(super) names: Vec<String>,
    pub(super) client: i64,
    pub(super) organization: String,
    pub(super) kind: String,
    pub(super) eku: String,
    pub(super) expires: OffsetDateTime,
    pub(super) tracking: Value,
    pub(super) queued: bool,
}

/// An order with everything that the service knows.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: i64,
    pub(super) wish: Wish,
    pub(super) status: EcsStatus,
    /// Whether a human still has to look at it.
    pub(super) waits: bool,
    /// How often one has to ask until it is issued.
    pub(super) polls: u32,
    pub(super) certificate: Option<Signed>,
    pub(super) issued: Option<OffsetDateTime>,
    pub(super) reason: Option<String>,
}

impl Entry {
    /// The status, with the passing of time.
    pub(super) fn status(&self, now: OffsetDateTime) -> EcsStatus {
        match self.status {
            EcsStatus::Active | EcsStatus::Suspended if self.wish.expires <= now => EcsStatus::Expired,
            status => status,
        }
    }

    /// The serial number as this service writes it: it cuts leading zeros.
    pub(super) fn serial(&self) -> Option<String> {
        self.certificate.as_ref().map(|certificate| certificate.serial.trim_start_matches('0').to_owned())
    }

    /// What a list says about it.
    pub(super) fn summary(&self, now: OffsetDateTime) -> Value {
        let Wish { asked, names, organization, kind, eku, expires, .. } = &self.wish;
        let name = names.first().map_or("", String::as_str);
        let mut body = json!({
            "status": self.status(now).as_str(),
            "trackingId": self.id,
            "uri": format!("/enterprise/v2/certificates/{}", self.id),
            "dn": format!("cn={name}, o={organization}"),
            "signingAlg": "SHA-2",
            "eku": eku,
            "keySize": asked.key.bits,
            "org": organization,
            "certType": kind,
            "domainUsed": name,
            "isThirdParty": false,
            "expiresAfter": period::shown(*expires),
        });
        if let (Value::Object(map), Some(issued)) = (&mut body, self.issued) {
            map.insert("serialNumber".to_owned(), self.serial().into());
            map.insert("issueDateTime".to_owned(), period::shown(issued).into());
        }
        body
    }

    /// Everything that the API says about it.
    pub(super) fn detail(&self, chain: &[String], now: OffsetDateTime) -> Value {
        let mut body = self.summary(now);
        let Value::Object(map) = &mut body else { return body };
        let names = self.wish.names.iter().map(|name| json!({ "type": "DNSNAME", "value": name }));
        map.insert("subjectAltName".to_owned(), names.collect());
        map.insert("csr".to_owned(), self.wish.csr.clone().into());
        map.insert("tracking".to_owned(), self.wish.tracking.clone());
        if let Some(certificate) = &self.certificate {
            map.insert("endEntityCert".to_owned(), certificate.certificate_pem.clone().into());
            map.insert("chainCerts".to_owned(), chain.into());
        }
        body
    }

    /// What the API answers to the order itself.
    pub(super) fn receipt(&self, chain: &[String]) -> Value {
        let mut body = json!({ "trackingId": self.id });
        if let (Value::Object(map), Some(certificate)) = (&mut body, &self.certificate) {
            map.insert("endEntityCert".to_owned(), certificate.certificate_pem.clone().into());
            map.insert("chainCerts".to_owned(), chain.into());
            map.insert("serialNumber".to_owned(), self.serial().into());
            map.insert("expiresAfter".to_owned(), period::shown(self.wish.expires).into());
            map.insert("pickupUrl".to_owned(), format!("/pickup/{}", self.id).into());
        }
        body
    }

    pub(super) fn snapshot(&self, now: OffsetDateTime) -> EcsOrder {
        EcsOrder {
            id: self.id,
            status: self.status(now),
            names: self.wish.names.clone(),
            serial: self.serial(),
            fingerprint: self.certificate.as_ref().map(|certificate| certificate.fingerprint.clone()),
            reason: self.reason.clone(),
            tracking: self.wish.tracking.clone(),
        }
    }
}
