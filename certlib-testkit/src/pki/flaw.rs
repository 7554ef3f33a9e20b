//! Certificates that an authority should not have issued.

use rcgen::{CertificateParams, KeyPair};
use time::Duration;

use super::{Signed, Terms, TestCa};
use crate::Result;

/// What is wrong with a certificate that a simulated authority issues, besides being what nobody asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Flaw {
    /// It is for a key that is not the request's.
    OtherKey,
    /// It names `other.invalid` and none of the names that were asked for.
    OtherNames,
    /// It was valid for a day, which ended a day before it was issued.
    Expired,
}

impl TestCa {
    /// [Signs](TestCa::sign) a request, and gets one thing wrong if there is a flaw.
    ///
    /// # Errors
    /// As [`TestCa::sign`].
    pub(crate) fn sign_flawed(&self, request: &[u8], terms: &Terms, flaw: Option<Flaw>) -> Result<Signed> {
        let mut terms = terms.clone();
        match flaw {
            None => {}
            Some(Flaw::OtherKey) => {
                // The terms decide about names; the request then only brings the key.
                let other = CertificateParams::default().serialize_request(&KeyPair::generate()?)?;
                return self.sign(other.der(), &terms);
            }
            Some(Flaw::OtherNames) => {
                let other = "other.invalid".to_owned();
                terms.names = Some(vec![other.clone()]);
                terms.common_name = Some(other);
            }
            Some(Flaw::Expired) => {
                let issued = terms.not_before.unwrap_or_else(time::OffsetDateTime::now_utc);
                terms.not_before = Some(issued - Duration::days(2));
                terms.not_after = Some(issued - Duration::days(1));
            }
        }
        self.sign(request, &terms)
    }
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::{FromDer as _, X509Certificate};

    use super::*;
    use crate::pki::Asked;

    #[test]
    fn each_flaw_is_the_only_one() {
        let ca = TestCa::new("root").unwrap();
        let request = CertificateParams::new(vec!["a.example".to_owned()])
            .unwrap()
            .serialize_request(&KeyPair::generate().unwrap());
        let request = request.unwrap().pem().unwrap();
        let key = Asked::read(request.as_bytes()).unwrap().public_key;
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
            let signed = ca.sign_flawed(request.as_bytes(), &terms, flaw).unwrap();
            let (_, read) = X509Certificate::from_der(&signed.certificate_der).unwrap();
            let names = signed.certificate_der.windows(9).any(|part| part == b"a.example");
            assert_eq!((read.public_key().raw == key, names, read.validity().is_valid()), expected, "{flaw:?}");
        }
    }
}
