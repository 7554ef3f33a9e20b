//! Certificates out of signed messages (RFC 5652): what CES answers with and what `.p7b` files hold. Signatures of the
//! messages are not looked at: a chain is judged by its own.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certlib_core::{CertificateBundle, Error, Result};
use x509_parser::asn1_rs::{Any, Class, FromDer, Oid};
use x509_parser::certificate::X509Certificate;

use super::OPERATION;

/// `id-signedData`: 1.2.840.113549.1.7.2, encoded.
const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];

/// How many certificates are looked at.
const CERTIFICATES_MAX: usize = 32;

/// The certificates of a message, DER, in its order. `None` when it is no signed message.
pub(super) fn certificates(message: &[u8]) -> Option<Vec<Vec<u8>>> {
    let (_, info) = element(message)?;
    let mut info = Elements(info.data);
    let kind = info.next().filter(|(_, kind)| kind.tag().0 == 6)?.1;
    if Oid::new(kind.data.into()) != Oid::new(SIGNED_DATA.into()) {
        return None;
    }
    let signed = element(info.next()?.1.data)?.1;
    // Version, digests and content come first; certificates and lists, each with a tag of its own, are optional.
    let certificates = Elements(signed.data).find(|(_, field)| is_context(field, 0));
    let Some((_, certificates)) = certificates else { return Some(Vec::new()) };
    // What is tagged there is a certificate of some other, older kind.
    let plain = Elements(certificates.data).filter(|(_, found)| found.class() == Class::Universal);
    Some(plain.take(CERTIFICATES_MAX).map(|(whole, _)| whole.to_vec()).collect())
}

/// Bytes as CAs give them: DER, base64 in lines, or that in an armour.
pub(super) fn unarmoured(bytes: &[u8]) -> Option<Vec<u8>> {
    if bytes.first() == Some(&0x30) {
        return Some(bytes.to_vec());
    }
    let text = std::str::from_utf8(bytes).ok()?;
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("-----"));
    // Line ends come escaped twice from some servers.
    let digits: String = lines.flat_map(|line| line.split("&#xD;")).collect();
    let digits: String = digits.chars().filter(|character| !character.is_whitespace()).collect();
    STANDARD.decode(digits).ok().filter(|bytes| !bytes.is_empty())
}

/// The chain of `leaf`, or else of the one certificate among `others` that issued none of them, as PEM: leaf first, then its
/// issuers, without the root, which whoever verifies has already.
///
/// # Errors
/// `IoPermanent` `answer_invalid`.
pub(super) fn chain(leaf: Option<&[u8]>, others: &[Vec<u8>]) -> Result<String> {
    let mut pool = Vec::new();
    for der in others {
        pool.push(read(der)?);
    }
    let leaf = match leaf {
        Some(leaf) => read(leaf)?,
        None => {
            let ends = |one: &&X509Certificate<'_>| {
                !one.is_ca() && !pool.iter().any(|other| other.issuer().as_raw() == one.subject().as_raw())
            };
            let mut leaves = pool.iter().filter(ends);
            match (leaves.next(), leaves.next()) {
                (Some(leaf), None) => leaf.clone(),
                _ => return Err(unreadable()),
            }
        }
    };
    let mut chain: Vec<X509Certificate<'_>> = vec![leaf];
    while let Some(issuer) = chain.last().and_then(|last| issuer_of(last, &pool)) {
        // A root, or two that issued each other.
        if issuer.subject() == issuer.issuer() || chain.iter().any(|known| known == issuer) {
            break;
        }
        chain.push(issuer.clone());
    }
    let chain = chain.iter().map(|certificate| certificate.as_raw().to_vec()).collect();
    let bundle = CertificateBundle::new(chain, None).map_err(|error| unreadable().with_source(error))?;
    Ok(bundle.fullchain_pem())
}

/// The issuer by its name, and of several by the signature: a CA that was renewed has the same name as before.
fn issuer_of<'a, 'b>(
    certificate: &X509Certificate<'_>,
    pool: &'a [X509Certificate<'b>],
) -> Option<&'a X509Certificate<'b>> {
    let named = || pool.iter().filter(|other| other.subject().as_raw() == certificate.issuer().as_raw());
    named()
        .find(|issuer| certificate.verify_signature(Some(issuer.public_key())).is_ok())
        // An algorithm that is not known here: only if there is nothing to choose.
        .or_else(|| named().next().filter(|_| named().count() == 1))
}

fn read(der: &[u8]) -> Result<X509Certificate<'_>> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(unreadable()),
    }
}

/// The error for an answer that should hold a certificate.
pub(super) fn unreadable() -> Error {
    let why = "the CA's answer has no certificate that can be read; is there a proxy in between?";
    Error::permanent(OPERATION, "answer_invalid", why)
}

/// The elements of a content, each with its bytes; ends at what is none.
struct Elements<'a>(&'a [u8]);

impl<'a> Iterator for Elements<'a> {
    type Item = (&'a [u8], Any<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let (rest, found) = element(self.0)?;
        let whole = self.0.get(..self.0.len() - rest.len())?;
        self.0 = rest;
        Some((whole, found))
    }
}

fn element(bytes: &[u8]) -> Option<(&[u8], Any<'_>)> {
    Any::from_der(bytes).ok()
}

fn is_context(found: &Any<'_>, tag: u32) -> bool {
    found.class() == Class::ContextSpecific && found.tag().0 == tag
}

#[cfg(test)]
mod tests {
    use certlib_testkit::pki::TestCa;

    use super::*;

    fn der(pem: &str) -> Vec<u8> {
        CertificateBundle::from_pem(pem.as_bytes()).unwrap().leaf_der().to_vec()
    }

    /// An element with a length in the long form, which DER allows from 128 bytes on.
    fn wrap(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).unwrap().to_be_bytes();
        match content.len() {
            0..=127 => [&[tag, length[3]], content].concat(),
            128..=255 => [&[tag, 0x81, length[3]], content].concat(),
            _ => [&[tag, 0x82, length[2], length[3]], content].concat(),
        }
    }

    fn message(certificates: &[&[u8]]) -> Vec<u8> {
        let content = wrap(0x30, &wrap(0x06, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01]));
        let certificates = wrap(0xa0, &certificates.concat());
        let signed = wrap(0x30, &[wrap(0x02, &[1]), wrap(0x31, &[]), content, certificates, wrap(0x31, &[])].concat());
        wrap(0x30, &[wrap(0x06, SIGNED_DATA), wrap(0xa0, &signed)].concat())
    }

    #[test]
    fn chains_are_found_in_any_order() {
        let root = TestCa::new("root").unwrap();
        // Renewed, with the same name.
        let (former, issuing) = (root.intermediate("issuing").unwrap(), root.intermediate("issuing").unwrap());
        let leaf = der(&issuing.issue(&["a.example"]).unwrap().certificate_pem);
        let (root, former) = (der(root.certificate_pem()), der(former.certificate_pem()));
        let issuing = der(issuing.certificate_pem());
        for order in
            [[&root, &former, &issuing, &leaf], [&leaf, &issuing, &former, &root], [&former, &leaf, &root, &issuing]]
        {
            let message = message(&order.map(Vec::as_slice));
            let found = certificates(&message).unwrap();
            assert_eq!(found.len(), 4);
            for chain in [chain(None, &found).unwrap(), chain(Some(&leaf), &found).unwrap()] {
                let bundle = CertificateBundle::from_pem(chain.as_bytes()).unwrap();
                assert_eq!(bundle.certificates(), [leaf.clone(), issuing.clone()]);
                bundle.check_signatures().unwrap();
            }
        }
        assert_eq!(chain(None, &[root]).unwrap_err().code(), "answer_invalid");
        assert!(chain(Some(&leaf), &[]).unwrap().contains("BEGIN CERTIFICATE"));
        assert!(chain(Some(b"no certificate"), &[]).is_err());
    }

    #[test]
    fn what_is_no_message_has_none() {
        let whole = message(&[]);
        assert_eq!(certificates(&whole), Some(Vec::new()));
        for end in 0..whole.len() {
            // Cut off, it is none, and nothing breaks.
            assert_eq!(certificates(&whole[..end]), None);
        }
        for bytes in [&b"<html>"[..], b"", &[0x30, 0x80], &wrap(0x30, &wrap(0x06, &[0x2a]))] {
            assert_eq!(certificates(bytes), None);
        }
    }

    #[test]
    fn armour_comes_off() {
        let bytes = [0x30, 1, 2, 3];
        for text in [
            "MAECAw==",
            "MAE&#xD;\nCAw==&#xD;\n",
            "-----BEGIN CERTIFICATE-----\r\nMAEC\r\nAw==\r\n-----END CERTIFICATE-----\r\n",
        ] {
            assert_eq!(unarmoured(text.as_bytes()).unwrap(), bytes, "{text}");
        }
        assert_eq!(unarmoured(&bytes).unwrap(), bytes);
        assert_eq!((unarmoured(b"<html>"), unarmoured(b"")), (None, None));
    }
}
