//! What tells certificates apart, and which names they are for.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use certlib_core::CertificateBundle;
use certlib_core::bundle::LeafInfo;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::hex;

/// The first certificate of a PEM text, as services give it back; `None` when there is none that can be read.
pub(super) fn first(pem: &str) -> Option<LeafInfo> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    CertificateBundle::new(vec![der.to_vec()], None).ok().map(|bundle| bundle.leaf().clone())
}

/// The SHA-1 that the certificate manager shows, as lower-case hex. It tells our own certificates apart, no more.
pub(super) fn sha1(bundle: &CertificateBundle) -> String {
    hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, bundle.leaf_der()).as_ref())
}

/// Whether a fingerprint as a service prints it is this one.
pub(super) fn is_sha1(shown: &str, expected: &str) -> bool {
    let digits = shown.bytes().filter(|byte| byte.is_ascii_hexdigit()).map(|byte| byte.to_ascii_lowercase());
    digits.eq(expected.bytes())
}

/// Whether a certificate for `names` can serve `name`, which may be a wildcard itself.
pub(super) fn covers(names: &[String], name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    names.iter().any(|candidate| {
        *candidate == name
            || candidate.strip_prefix("*.").is_some_and(|parent| {
                name.split_once('.').is_some_and(|(label, rest)| label != "*" && !label.is_empty() && rest == parent)
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_covered() {
        let names = ["a.example".to_owned(), "*.b.example".to_owned()];
        for name in ["a.example", "A.example", "*.b.example", "x.b.example"] {
            assert!(covers(&names, name), "{name}");
        }
        for name in ["b.example", "x.y.b.example", "*.a.example", "x.a.example", ".b.example"] {
            assert!(!covers(&names, name), "{name}");
        }
    }

    #[test]
    fn fingerprints_in_every_spelling() {
        assert!(is_sha1("AA:0b:FF", "aa0bff"));
        assert!(is_sha1("aa0bff", "aa0bff"));
        assert!(!is_sha1("", "aa0bff"));
        assert!(!is_sha1("aa0bff00", "aa0bff"));
    }

    #[test]
    fn the_first_certificate_counts() {
        let ca = certlib_testkit::pki::TestCa::new("root").unwrap();
        let issued = ca.issue(&["a.example"]).unwrap();
        let leaf = first(&format!("text\n{}", issued.full_chain())).unwrap();
        assert_eq!((leaf.fingerprint.to_string(), leaf.names), (issued.fingerprint, vec!["a.example".to_owned()]));
        assert!(first("no PEM").is_none());
    }
}
