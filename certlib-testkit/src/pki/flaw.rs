//! Certificates that are not what was asked for.

use rcgen::{KeyPair, PublicKeyData as _};
use time::Duration;

use super::{Signed, Terms, TestCa};
use crate::Result;

/// How a certificate differs from what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Flaw {
    /// It has another key than the request.
    OtherKey,
    /// It is for `other.example.net`.
    OtherNames,
    /// It was valid until an hour before it should have begun to be.
    Expired,
    /// Another authority of the same name signed it, so that the chain that comes along does not lead to it.
    OtherIssuer,
}

/// What a certificate is made from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Subject<'a> {
    /// A request, PEM or DER.
    Request(&'a [u8]),
    /// A public key, DER.
    Key(&'a [u8]),
}

impl TestCa {
    /// Signs as [`TestCa::sign`] and [`TestCa::sign_key`] do, but not quite, if there is a flaw.
    pub(crate) fn sign_with(&self, subject: Subject<'_>, terms: &Terms, flaw: Option<Flaw>) -> Result<Signed> {
        const OTHER: &str = "other.example.net";

        let mut terms = terms.clone();
        match flaw {
            None => self.sign_subject(subject, &terms),
            Some(Flaw::OtherKey) => {
                let other = KeyPair::generate()?.subject_public_key_info();
                self.sign_subject(Subject::Key(&other), &terms)
            }
            Some(Flaw::OtherNames) => {
                terms.common_name = Some(OTHER.to_owned());
                terms.names = Some(vec![OTHER.to_owned()]);
                self.sign_subject(subject, &terms)
            }
            Some(Flaw::Expired) => {
                let meant = terms.not_before.unwrap_or_else(time::OffsetDateTime::now_utc);
                terms.not_before = Some(meant - Duration::days(90));
                terms.not_after = Some(meant - Duration::hours(1));
                self.sign_subject(subject, &terms)
            }
            Some(Flaw::OtherIssuer) => TestCa::new(&self.common_name)?.sign_subject(subject, &terms),
        }
    }

    fn sign_subject(&self, subject: Subject<'_>, terms: &Terms) -> Result<Signed> {
        match subject {
            Subject::Request(request) => self.sign(request, terms),
            Subject::Key(key) => self.sign_key(key, terms),
        }
    }
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::{FromDer as _, X509Certificate};

    use super::*;
    use crate::pki::CertificateRequest;
    use rcgen::CertificateParams;

    #[test]
    fn each_flaw_is_the_only_one() {
        let ca = TestCa::new("root").unwrap();
        let request = CertificateParams::new(vec!["a.example".to_owned()])
            .unwrap()
            .serialize_request(&KeyPair::generate().unwrap());
        let request = request.unwrap().pem().unwrap();
        let key = CertificateRequest::read(&request).unwrap().public_key;
        let terms = Terms {
            common_name: Some("a.example".to_owned()),
            names: Some(vec!["a.example".to_owned()]),
            ..Terms::default()
        };
        for (flaw, expected) in [
            (None, (true, true, true)),
            (Some(Flaw::OtherKey), (false, true, true)),
            (Some(Flaw::OtherNames), (true, false, true)),
            (Some(Flaw::Expired), (true, true, false)),
        ] {
            let signed = ca.sign_with(Subject::Request(request.as_bytes()), &terms, flaw).unwrap();
            let (_, read) = X509Certificate::from_der(&signed.certificate_der).unwrap();
            let names = signed.certificate_der.windows(9).any(|part| part == b"a.example");
            assert_eq!((read.public_key().raw == key, names, read.validity().is_valid()), expected, "{flaw:?}");
        }
    }
}
