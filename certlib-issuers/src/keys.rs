//! Keys and other marks of requests and certificates: what tells whether something at a CA is ours. All keys are the bits
//! themselves, as [`PrivateKey::public_key`](certlib_core::bundle::PrivateKey::public_key) gives them.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certlib_core::{CertificateBundle, Error, Result};
use x509_parser::certificate::X509Certificate;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer as _;

const DAY: u64 = 24 * 3600;

/// The public key of a PKCS#10 request, DER.
///
/// # Errors
/// `Validation` `csr_invalid`.
pub(crate) fn of_request(der: &[u8]) -> Result<Vec<u8>> {
    key_of_request(der)
        .ok_or_else(|| Error::validation("issuer.request", "csr_invalid", "the certificate request cannot be read"))
}

/// The public key of a PKCS#10 request as a CA shows it: PEM, whatever its lines end with. `None` if it is none.
pub(crate) fn of_request_pem(pem: &str) -> Option<Vec<u8>> {
    let (_, pem) = parse_x509_pem(pem.trim_start().as_bytes()).ok()?;
    key_of_request(&pem.contents)
}

/// The public key of the first certificate of a PEM text. `None` if there is none.
pub(crate) fn of_certificate_pem(pem: &str) -> Option<Vec<u8>> {
    let bundle = CertificateBundle::from_pem(pem.as_bytes()).ok()?;
    let (_, certificate) = X509Certificate::from_der(bundle.leaf_der()).ok()?;
    Some(certificate.public_key().subject_public_key.data.to_vec())
}

fn key_of_request(der: &[u8]) -> Option<Vec<u8>> {
    let (_, request) = X509CertificationRequest::from_der(der).ok()?;
    Some(request.certification_request_info.subject_pki.subject_public_key.data.to_vec())
}

/// A PKCS#10 request as PEM, with lines of 64 characters.
pub(crate) fn request_pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = "-----BEGIN CERTIFICATE REQUEST-----\n".to_owned();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str("-----END CERTIFICATE REQUEST-----\n");
    pem
}

/// A certificate's serial number as CAs write it: upper-case hexadecimal, two digits a byte, without the zero that DER puts in
/// front of what would be negative.
pub(crate) fn serial(bundle: &CertificateBundle) -> String {
    plain(&bundle.leaf().serial)
}

/// A certificate's serial number in all [`spellings`].
pub(crate) fn serials(bundle: &CertificateBundle) -> Vec<String> {
    spellings(&bundle.leaf().serial)
}

/// A serial number as [`serial`] gives it, followed by the way DER has it where that is another: which of the two an API
/// takes, not all documents say.
pub(crate) fn spellings(serial: &str) -> Vec<String> {
    let plain = plain(serial);
    let is_high = plain.len().is_multiple_of(2)
        && plain.starts_with(|digit: char| digit.to_digit(16).is_some_and(|digit| digit >= 8));
    let der = is_high.then(|| format!("00{plain}"));
    std::iter::once(plain).chain(der).collect()
}

fn plain(serial: &str) -> String {
    serial.strip_prefix("00").filter(|rest| !rest.is_empty()).unwrap_or(serial).to_ascii_uppercase()
}

/// A validity in whole days, for CAs that count in days: rounded up, and at least one.
pub(crate) fn days(validity: Duration) -> u32 {
    u32::try_from(validity.as_secs().div_ceil(DAY)).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use certlib_core::bundle::{KeyType, PrivateKey};

    use super::*;

    #[test]
    fn keys_are_the_same_wherever_they_are_read() {
        for kind in [KeyType::EcdsaP256, KeyType::Rsa2048] {
            let key = PrivateKey::generate(kind).unwrap();
            let csr = key.certificate_request(&["a.example".to_owned()]).unwrap();
            assert_eq!(of_request(&csr).unwrap(), key.public_key());
            let pem = request_pem(&csr);
            assert!(pem.lines().all(|line| line.len() <= 64), "{pem}");
            assert_eq!(of_request_pem(&pem).unwrap(), key.public_key());
            assert_eq!(of_request_pem(&pem.replace('\n', "\r\n")).unwrap(), key.public_key());
        }
        assert_eq!(of_request(b"nothing").unwrap_err().code(), "csr_invalid");
        assert!(of_request_pem("nothing").is_none() && of_certificate_pem("nothing").is_none());
    }

    #[test]
    fn serial_numbers_are_spelled_in_two_ways() {
        for (serial, expected) in [
            ("7fab", &["7FAB"][..]),
            ("0a1b", &["0A1B"]),
            ("008fab", &["8FAB", "008FAB"]),
            ("8FAB", &["8FAB", "008FAB"]),
            ("00", &["00"]),
            ("00ABcd", &["ABCD", "00ABCD"]),
        ] {
            assert_eq!(spellings(serial), expected, "{serial}");
        }
    }

    #[test]
    fn days_are_rounded_up() {
        for (seconds, expected) in [(0, 1), (1, 1), (DAY, 1), (DAY + 1, 2), (90 * DAY, 90), (u64::MAX, u32::MAX)] {
            assert_eq!(days(Duration::from_secs(seconds)), expected, "{seconds}");
        }
    }
}
