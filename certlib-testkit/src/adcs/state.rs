//! What the simulated authority knows: its templates, and every request it ever got.

use std::{collections::BTreeMap, time::Duration};

use time::OffsetDateTime;
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

use super::{
    authority::{Authority, Contents, with_another_key},
    cms,
    csr::{Csr, Named},
    fault::{Fault, Injection},
    history::Record,
    hresult::Hresult,
    template::{KeyAlgorithm, Template},
};
use crate::{logins::Logins, pki::Signed, tls::fingerprint};

/// How a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Disposition {
    /// A manager has yet to decide.
    Pending,
    /// There is a certificate.
    Issued,
    /// There will be none, and this is why.
    Denied(Hresult),
}

/// A request that the authority keeps.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Enrolment {
    /// Its number.
    pub id: u32,
    /// The template's name.
    pub template: String,
    /// Who asked.
    pub requester: String,
    /// When it came, by the simulator's clock.
    pub submitted: OffsetDateTime,
    /// How it stands.
    pub disposition: Disposition,
    /// The DNS names and IP addresses of the request.
    pub names: Vec<String>,
    /// The SHA-256 of the certificate that it renews, lower-case hexadecimal, if that one has signed it.
    pub renews: Option<String>,
    /// The certificate, once there is one.
    pub certificate: Option<Signed>,
    pub(super) csr: Vec<u8>,
    contents: Contents,
    /// After how many questions it is issued without a manager.
    polls_left: Option<u32>,
    /// Whether its requester has taken it off the list of pending ones.
    pub(super) hidden: bool,
}

/// A request as it comes in.
#[derive(Debug)]
pub(super) struct Submission<'a> {
    /// PKCS#10, or a message around it that is signed with the certificate to renew. DER.
    pub(super) request: &'a [u8],
    /// Request attributes by name, such as `CertificateTemplate`.
    pub(super) attributes: &'a [(String, String)],
    pub(super) requester: &'a str,
    /// Whether only renewals are taken.
    pub(super) renewal_only: bool,
}

/// What is refused, and under which number it is kept, if it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) code: Hresult,
    pub(super) id: Option<u32>,
}

impl From<Hresult> for Refused {
    fn from(code: Hresult) -> Self {
        Self { code, id: None }
    }
}

/// Everything there is.
pub(super) struct State {
    pub(super) authority: Authority,
    pub(super) templates: Vec<Template>,
    /// When the templates last changed.
    pub(super) changed: OffsetDateTime,
    /// Whether the request attribute `SAN` counts: `EDITF_ATTRIBUTESUBJECTALTNAME2`.
    pub(super) san_attribute: bool,
    pub(super) logins: Logins,
    pub(super) enrolments: BTreeMap<u32, Enrolment>,
    pub(super) next: u32,
    pub(super) faults: Vec<Injection>,
    pub(super) history: Vec<Record>,
    /// How far its clock is ahead of the machine's.
    pub(super) ahead: Duration,
}

impl State {
    pub(super) fn now(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc() + self.ahead
    }

    /// Takes a request; the number that it gets. What the policy refuses is kept as well.
    pub(super) fn submit(&mut self, submission: &Submission<'_>, fault: Option<&Fault>) -> Result<u32, Refused> {
        let (csr, former) = read(submission)?;
        let judged = self.judge(&csr, former.as_deref(), submission);
        let id = self.next;
        self.next += 1;
        let mut enrolment = Enrolment {
            id,
            template: template_attribute(submission.attributes).unwrap_or_default().to_owned(),
            requester: submission.requester.to_owned(),
            submitted: self.now(),
            disposition: Disposition::Pending,
            names: csr.names.clone(),
            renews: former.as_deref().map(fingerprint),
            certificate: None,
            csr: csr.der.clone(),
            contents: Contents::default(),
            polls_left: None,
            hidden: false,
        };
        let mut waits = matches!(fault, Some(Fault::Pend | Fault::PendFor(_)));
        match judged {
            Ok(judged) => {
                enrolment.template = judged.template;
                enrolment.contents = judged.contents;
                waits |= judged.waits;
            }
            Err(code) => enrolment.disposition = Disposition::Denied(code),
        }
        match fault {
            Some(Fault::Deny(code)) => enrolment.disposition = Disposition::Denied(*code),
            Some(Fault::PendFor(polls)) => enrolment.polls_left = Some(*polls),
            Some(Fault::WrongKey) => enrolment.csr = with_another_key(&csr).unwrap_or(csr.der),
            Some(Fault::WrongNames(names)) => {
                enrolment.contents.common_name = names.first().cloned();
                enrolment.contents.names = Some(names.clone());
            }
            _ => {}
        }
        let disposition = enrolment.disposition;
        self.enrolments.insert(id, enrolment);
        match disposition {
            Disposition::Denied(code) => Err(Refused { code, id: Some(id) }),
            _ if waits => Ok(id),
            _ => self.issue(id).map(|_| id).map_err(|code| Refused { code, id: Some(id) }),
        }
    }

    /// What became of a request, for who made it. Being asked is what some wait for.
    pub(super) fn retrieve(&mut self, id: u32, requester: &str) -> Result<&Enrolment, Hresult> {
        let enrolment = self.enrolments.get_mut(&id).ok_or(Hresult::INVALID_ARGUMENT)?;
        if !enrolment.requester.eq_ignore_ascii_case(requester) {
            return Err(Hresult::ACCESS_DENIED);
        }
        let due = match (&enrolment.disposition, &mut enrolment.polls_left) {
            (Disposition::Pending, Some(0)) => true,
            (Disposition::Pending, Some(left)) => {
                *left -= 1;
                false
            }
            _ => false,
        };
        if due {
            self.issue(id)?;
        }
        self.enrolments.get(&id).ok_or(Hresult::INVALID_ARGUMENT)
    }

    /// Makes the certificate of a pending request.
    pub(super) fn issue(&mut self, id: u32) -> Result<&Enrolment, Hresult> {
        let now = self.now();
        let enrolment = self.enrolments.get_mut(&id).ok_or(Hresult::INVALID_ARGUMENT)?;
        if enrolment.disposition != Disposition::Pending {
            return Err(Hresult::BAD_REQUEST_STATUS);
        }
        let template = self.templates.iter().find(|template| template.name.eq_ignore_ascii_case(&enrolment.template));
        let made = template
            .ok_or(Hresult::UNSUPPORTED_CERT_TYPE)
            .and_then(|template| self.authority.sign(&enrolment.csr, template, &enrolment.contents, now));
        match made {
            Ok(signed) => {
                // The directory knows whose it is, so that it logs in.
                self.logins.certificates.insert(signed.fingerprint.clone(), enrolment.requester.clone());
                enrolment.certificate = Some(signed);
                enrolment.disposition = Disposition::Issued;
                Ok(enrolment)
            }
            Err(code) => {
                enrolment.disposition = Disposition::Denied(code);
                Err(code)
            }
        }
    }

    /// Denies a pending request.
    pub(super) fn deny(&mut self, id: u32, code: Hresult) -> Result<(), Hresult> {
        let enrolment = self.enrolments.get_mut(&id).ok_or(Hresult::INVALID_ARGUMENT)?;
        if enrolment.disposition != Disposition::Pending {
            return Err(Hresult::BAD_REQUEST_STATUS);
        }
        enrolment.disposition = Disposition::Denied(code);
        Ok(())
    }

    /// The policy: whether a request is taken, and what its certificate is to say.
    fn judge(&self, csr: &Csr, former: Option<&[u8]>, submission: &Submission<'_>) -> Result<Judged, Hresult> {
        let former = former.map(|former| self.check_former(csr, former, submission.requester)).transpose()?;
        if former.is_none() && submission.renewal_only {
            return Err(Hresult::ACCESS_DENIED);
        }
        let template = self.template(csr, former, submission.attributes)?;
        if !template.admits(submission.requester) {
            return Err(Hresult::TEMPLATE_DENIED);
        }
        let fits = csr.key.is_some_and(|key| template.algorithms.contains(&key));
        let bits = usize::try_from(template.minimal_key_length).unwrap_or(usize::MAX);
        if !fits || csr.key == Some(KeyAlgorithm::Rsa) && csr.bits < bits {
            return Err(Hresult::KEY_LENGTH);
        }
        if template.signatures > 0 {
            return Err(Hresult::SIGNATURE_COUNT);
        }
        Ok(Judged {
            template: template.name.clone(),
            contents: self.contents(csr, former, template, submission)?,
            waits: template.manager_approval && !(former.is_some() && template.renews_without_approval),
        })
    }

    /// Checks the certificate that signs a renewal; the request that it came from.
    fn check_former(&self, csr: &Csr, former: &[u8], requester: &str) -> Result<&Enrolment, Hresult> {
        let known = fingerprint(former);
        let made = |enrolment: &&Enrolment| enrolment.certificate.as_ref().is_some_and(|it| it.fingerprint == known);
        let enrolment = self.enrolments.values().find(made).ok_or(Hresult::UNTRUSTED_ROOT)?;
        if !is_valid(former, self.now()) {
            return Err(Hresult::EXPIRED);
        }
        if !enrolment.requester.eq_ignore_ascii_case(requester) {
            return Err(Hresult::BAD_RENEWAL_SUBJECT);
        }
        match &csr.renews {
            Some(named) if named != former => Err(Hresult::INVALID_ARGUMENT),
            _ => Ok(enrolment),
        }
    }

    /// The template that a request names: by an attribute, in itself, or by what it renews.
    fn template(
        &self,
        csr: &Csr,
        former: Option<&Enrolment>,
        attributes: &[(String, String)],
    ) -> Result<&Template, Hresult> {
        let find = |named: &Named| {
            let found = self.templates.iter().find(|template| match named {
                Named::Name(name) => template.name.eq_ignore_ascii_case(name),
                Named::Oid(oid) => template.oid == *oid,
            });
            found.ok_or(Hresult::UNSUPPORTED_CERT_TYPE)
        };
        let by_attribute = template_attribute(attributes).map(|name| Named::Name(name.to_owned()));
        let by_former = former.map(|former| Named::Name(former.template.clone()));
        match (by_attribute, &csr.template) {
            (Some(attribute), Some(within)) => {
                let (one, other) = (find(&attribute)?, find(within)?);
                if one == other { Ok(one) } else { Err(Hresult::TEMPLATE_CONFLICT) }
            }
            (Some(named), None) => find(&named),
            (None, Some(named)) => find(named),
            (None, None) => find(&by_former.ok_or(Hresult::NO_CERT_TYPE)?),
        }
    }

    fn contents(
        &self,
        csr: &Csr,
        former: Option<&Enrolment>,
        template: &Template,
        submission: &Submission<'_>,
    ) -> Result<Contents, Hresult> {
        if template.subject_from_directory {
            let name = submission.requester.trim_end_matches('$');
            let name = format!("{name}.{}", self.logins.policy.domain).to_lowercase();
            // A name that no DNS name can hold is none that the directory has.
            if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte)) {
                return Err(Hresult::SUBJECT_DNS_REQUIRED);
            }
            let user = Some(submission.requester.to_owned());
            return Ok(Contents { common_name: Some(name.clone()), names: Some(vec![name]), user });
        }
        let mut contents = Contents::default();
        let added = submission.attributes.iter().find(|(name, _)| name.eq_ignore_ascii_case("SAN"));
        if let Some((_, added)) = added.filter(|_| self.san_attribute) {
            let parts = added.split('&').filter_map(|part| part.split_once('='));
            let wanted = parts.filter(|(kind, _)| ["dns", "ipaddress"].contains(&kind.to_lowercase().as_str()));
            let wanted = wanted.map(|(_, name)| name.trim().to_owned());
            contents.names = Some(csr.names.iter().cloned().chain(wanted).collect());
        }
        let nameless = csr.common_name.is_empty() && csr.names.is_empty() && contents.names.is_none();
        match former.filter(|_| nameless) {
            Some(former) => {
                contents.common_name = former.names.first().cloned();
                contents.names = Some(former.names.clone());
            }
            None if nameless => return Err(Hresult::BAD_REQUEST_SUBJECT),
            None => {}
        }
        Ok(contents)
    }
}

/// What the policy makes of a request.
struct Judged {
    template: String,
    contents: Contents,
    waits: bool,
}

/// The request, and the certificate that has signed it when it is a renewal.
fn read(submission: &Submission<'_>) -> Result<(Csr, Option<Vec<u8>>), Hresult> {
    if cms::is_signed(submission.request) {
        let opened = cms::open(submission.request)?;
        return Ok((Csr::read(&opened.request)?, Some(opened.signer)));
    }
    Ok((Csr::read(submission.request)?, None))
}

fn template_attribute(attributes: &[(String, String)]) -> Option<&str> {
    let found = attributes.iter().find(|(name, _)| name.eq_ignore_ascii_case("CertificateTemplate"));
    found.map(|(_, value)| value.trim()).filter(|value| !value.is_empty())
}

/// Whether a certificate is within its validity.
pub(super) fn is_valid(certificate: &[u8], now: OffsetDateTime) -> bool {
    X509Certificate::from_der(certificate).is_ok_and(|(_, parsed)| {
        let validity = parsed.validity();
        (validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&now.unix_timestamp())
    })
}
