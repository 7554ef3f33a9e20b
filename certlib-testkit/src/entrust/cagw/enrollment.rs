//! Enrolments: what is asked for, and what humans and the authority decide.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use super::{
    answer::{Outcome, Refusal, told},
    certificate::{Certificate, Standing},
    state::State,
};
use crate::{
    entrust::{call::Call, period},
    pki::{CertificateRequest, Subject, Terms},
};

/// Where an enrolment at a gateway stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CagwStatus {
    /// A human has to approve it.
    AwaitingApproval,
    /// The authority works on it.
    Accepted,
    /// There is a certificate.
    Completed,
    /// A human or the authority said no.
    Rejected,
}

impl CagwStatus {
    /// The word that the API uses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AwaitingApproval => "AWAITING_APPROVAL",
            Self::Accepted => "ACCEPTED",
            Self::Completed => "COMPLETED",
            Self::Rejected => "REJECTED",
        }
    }
}

/// An enrolment at a gateway, as it is at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CagwEnrollment {
    /// `enrollment.id`.
    pub id: String,
    /// Where it stands.
    pub status: CagwStatus,
    /// The names that the certificate is for, the common name first.
    pub names: Vec<String>,
    /// The certificate's serial number, upper-case hexadecimal.
    pub serial: Option<String>,
    /// The SHA-256 of the certificate, lower-case hexadecimal.
    pub fingerprint: Option<String>,
}

/// An enrolment with everything that the gateway knows.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: String,
    pub(super) status: CagwStatus,
    asked: CertificateRequest,
    names: Vec<String>,
    from: OffsetDateTime,
    until: OffsetDateTime,
    with_chain: bool,
    /// How often one has to ask until it is issued.
    polls: u32,
    /// The certificate's serial number.
    serial: Option<String>,
}

impl State {
    pub(super) fn enroll(&mut self, call: &Call) -> Outcome {
        let profile = call.text("/profileId");
        let names_needed = match super::state::PROFILES.iter().find(|known| known.id == profile) {
            Some(known) => known.needs_name,
            None => return Err(Refusal::bad("profileId", format!("The profile {profile} was not found"))),
        };
        match call.text("/requiredFormat/format") {
            "X509" => {}
            "PKCS12" => return Err(Refusal::bad("requiredFormat.format", "PKCS12 is not possible with a CSR")),
            _ => return Err(Refusal::bad("requiredFormat.format", "The format must be X509 or PKCS12")),
        }
        let csr = call.text("/csr");
        let der = STANDARD.decode(csr).ok().filter(|_| !csr.is_empty());
        let asked = der.and_then(|der| CertificateRequest::from_der(der).ok()).filter(|asked| asked.key.is_usual());
        let asked =
            asked.ok_or_else(|| Refusal::bad("csr", "The CSR is not the base64 encoding of a PKCS#10 request"))?;
        let names = names(call, &asked)?;
        if names_needed && names.1.is_empty() {
            return Err(Refusal::bad("subjectAltNames", "dNSName is required"));
        }
        let (from, until) = validity(call)?;
        self.last_id += 1;
        let id = format!("enrollment-{}", self.last_id);
        let status = match (self.rejects, self.approvals) {
            (true, _) => CagwStatus::Rejected,
            (_, true) => CagwStatus::AwaitingApproval,
            _ => CagwStatus::Accepted,
        };
        let mut all = vec![names.0];
        all.extend(names.1);
        let with_chain = call.flag("/includeCa");
        let polls = self.polls;
        let entry = Entry { id: id.clone(), status, asked, names: all, from, until, with_chain, polls, serial: None };
        self.enrollments.push(entry);
        if status == CagwStatus::Accepted && polls == 0 {
            self.issue(&id)?;
        }
        self.enrollment(&id)
    }

    /// Somebody asks for an enrolment: that is what moves it.
    pub(super) fn look(&mut self, id: &str) -> Outcome {
        if !self.shows_enrollments {
            return Err(Refusal::not_found("The resource"));
        }
        self.poll(id)?;
        self.enrollment(id)
    }

    /// Where nobody can ask for an enrolment, whoever asks for events moves them all.
    pub(super) fn go_on(&mut self) -> Result<(), Refusal> {
        if self.shows_enrollments {
            return Ok(());
        }
        let ids: Vec<String> = self.enrollments.iter().map(|entry| entry.id.clone()).collect();
        ids.iter().try_for_each(|id| self.poll(id))
    }

    fn poll(&mut self, id: &str) -> Result<(), Refusal> {
        let entry = self.find(id)?;
        match (entry.status, entry.polls) {
            (CagwStatus::Accepted, 0) => self.issue(id),
            (CagwStatus::Accepted, _) => {
                entry.polls -= 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// What a human or the authority decides about an enrolment that waits.
    pub(super) fn decide(&mut self, id: &str, to: CagwStatus) -> Result<(), Refusal> {
        let entry = self.find(id)?;
        let fits = match to {
            CagwStatus::Accepted => entry.status == CagwStatus::AwaitingApproval,
            _ => matches!(entry.status, CagwStatus::AwaitingApproval | CagwStatus::Accepted),
        };
        if !fits {
            return Err(Refusal::new(409, format!("The enrollment is {}", entry.status.as_str())));
        }
        if to == CagwStatus::Completed {
            return self.issue(id);
        }
        entry.status = to;
        if to == CagwStatus::Accepted && entry.polls == 0 { self.issue(id) } else { Ok(()) }
    }

    pub(super) fn snapshots(&self) -> Vec<CagwEnrollment> {
        let shown = |entry: &Entry| {
            let certificate = self.certificates.iter().find(|known| Some(known.signed.padded_serial()) == entry.serial);
            CagwEnrollment {
                id: entry.id.clone(),
                status: entry.status,
                names: entry.names.clone(),
                serial: entry.serial.clone(),
                fingerprint: certificate.map(|certificate| certificate.signed.fingerprint.clone()),
            }
        };
        self.enrollments.iter().map(shown).collect()
    }

    fn find(&mut self, id: &str) -> Result<&mut Entry, Refusal> {
        let found = self.enrollments.iter_mut().find(|entry| entry.id == id);
        found.ok_or_else(|| Refusal::not_found("The enrollment"))
    }

    fn enrollment(&mut self, id: &str) -> Outcome {
        let chain = self.chain();
        let entry = self.find(id)?;
        let (status, with_chain, serial) = (entry.status, entry.with_chain, entry.serial.clone());
        let mut enrollment = json!({ "id": id, "status": status.as_str(), "properties": {} });
        let certificate = self.certificates.iter().find(|known| Some(known.signed.padded_serial()) == serial);
        if let (Value::Object(map), Some(certificate)) = (&mut enrollment, certificate) {
            map.insert("body".to_owned(), STANDARD.encode(&certificate.signed.certificate_der).into());
            if with_chain {
                map.insert("chain".to_owned(), chain.into());
            }
        }
        Ok(json!({ "type": "EnrollmentResponse", "enrollment": enrollment, "message": told("") }))
    }

    fn issue(&mut self, id: &str) -> Result<(), Refusal> {
        let now = self.desk.now();
        let flaw = self.flaws.pop_front();
        let entry = self.find(id)?;
        let terms = Terms {
            common_name: entry.names.first().cloned(),
            names: Some(entry.names.clone()),
            not_before: Some(entry.from),
            not_after: Some(entry.until),
            ..Terms::default()
        };
        let (request, names) = (entry.asked.der.clone(), entry.names.clone());
        let signed = self.desk.issuing.sign_with(Subject::Request(&request), &terms, flaw);
        let entry = self.find(id)?;
        let Ok(signed) = signed else {
            entry.status = CagwStatus::Rejected;
            return Ok(());
        };
        (entry.status, entry.serial) = (CagwStatus::Completed, Some(signed.padded_serial()));
        let (from, until) = (terms.not_before.unwrap_or(now), terms.not_after.unwrap_or(now));
        self.note("issued", &signed.padded_serial(), now);
        let standing = Standing::Normal;
        self.certificates.push(Certificate { signed, names, from, until, standing, reason: None, revoked: None });
        Ok(())
    }
}

/// The common name and the other names: those that are given, or else those of the request.
fn names(call: &Call, asked: &CertificateRequest) -> Result<(String, Vec<String>), Refusal> {
    let entries = |pointer: &str, kind: &str| {
        let of_kind = |entry: &&Value| entry["type"].as_str().is_some_and(|given| given.eq_ignore_ascii_case(kind));
        let list = call.field(pointer).and_then(Value::as_array).into_iter().flatten();
        let values = list.filter(of_kind).filter_map(|entry| entry["value"].as_str());
        values.map(str::to_owned).collect::<Vec<_>>()
    };
    let subject = call.text("/optionalCertificateRequestDetails/subjectDn").split(',').filter_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("cn").then(|| value.trim().to_owned())
    });
    let mut common = entries("/subjectVariables", "cn").into_iter().chain(subject);
    let common = common.next().or_else(|| asked.common_name.clone());
    let common = common.ok_or_else(|| Refusal::bad("subjectVariables", "The subject variable cn is required"))?;
    let mut given = entries("/subjectAltNames", "dNSName");
    given.extend(entries("/subjectAltNames", "iPAddress"));
    let mut more = if given.is_empty() { asked.names.clone() } else { given };
    more.retain(|name| !name.eq_ignore_ascii_case(&common));
    Ok((common, more))
}

/// From when and until when: a period from now on, or an interval.
fn validity(call: &Call) -> Result<(OffsetDateTime, OffsetDateTime), Refusal> {
    let now = call.now;
    let from = now - Duration::hours(1);
    let bad = || Refusal::bad("validityPeriod", "The validity period cannot be read");
    let (from, until) = match call.text("/optionalCertificateRequestDetails/validityPeriod") {
        "" => (from, now + Duration::days(365)),
        text => match text.split_once('/') {
            Some((begin, end)) => period::moment(begin).zip(period::moment(end)).ok_or_else(bad)?,
            None => (from, now + period::duration(text).ok_or_else(bad)?),
        },
    };
    if until <= now || until <= from || until > now + Duration::days(3_650) {
        return Err(Refusal::bad("validityPeriod", "The validity period is out of range"));
    }
    Ok((from, until))
}
