//! Names of what the module puts on the appliance: from them it knows its own again.
//!
//! They are made of the certificate alone, so the same delivery always uses the same names, and sort by time of issue.

use aws_lc_rs::digest::{SHA256, digest};
use certlib_core::Fingerprint;
use certlib_core::bundle::LeafInfo;
use serde::{Deserialize, Serialize};

/// What every name of ours begins with.
pub(super) const MARK: &str = "certlib-";
/// How many digits of a fingerprint stand in the name of a file or a pair.
const DIGITS: usize = 10;
/// How many stand in the name of an issuer's certificate, which all targets share.
const ISSUER_DIGITS: usize = 16;
/// The longest part of a pair's name in the names of its files, which have at most 63 characters.
const FILE_BASE: usize = 24;
/// The same in the names of new pairs, which older builds cut at 31.
const PAIR_BASE: usize = 11;

/// Names for one target.
#[derive(Debug)]
pub(super) struct Names {
    files: String,
    pairs: String,
}

impl Names {
    /// Names for the target that holds the pair `certkey`.
    pub(super) fn new(certkey: &str) -> Self {
        let prefix = |longest| format!("{MARK}{}-", base(certkey, longest));
        Self { files: prefix(FILE_BASE), pairs: prefix(PAIR_BASE) }
    }

    /// The files for a certificate and its key.
    pub(super) fn files(&self, leaf: &LeafInfo) -> (String, String) {
        let at = leaf.not_before;
        let (date, (hour, minute, second)) = (at.date(), at.to_hms());
        let stamp =
            format!("{:04}{:02}{:02}{hour:02}{minute:02}{second:02}", date.year(), u8::from(date.month()), date.day());
        let stem = format!("{}{stamp}-{}", self.files, digits(leaf.fingerprint, DIGITS));
        (format!("{stem}.cer"), format!("{stem}.key"))
    }

    /// The name of a new pair.
    pub(super) fn pair(&self, fingerprint: Fingerprint) -> String {
        format!("{}{}", self.pairs, digits(fingerprint, DIGITS))
    }

    /// Whether a pair was made for this target.
    pub(super) fn is_pair(&self, name: &str) -> bool {
        name.strip_prefix(&self.pairs).is_some_and(|rest| is_hex(rest, DIGITS))
    }

    /// The delivery that a file belongs to: sorts by time. `None` when the file is not one of this target.
    pub(super) fn generation<'a>(&self, file: &'a str) -> Option<&'a str> {
        let rest = file.strip_prefix(&self.files)?;
        let stem = rest.strip_suffix(".cer").or_else(|| rest.strip_suffix(".key"))?;
        let (stamp, digits) = stem.split_once('-')?;
        let is_stamp = stamp.len() == 14 && stamp.bytes().all(|byte| byte.is_ascii_digit());
        (is_stamp && is_hex(digits, DIGITS)).then_some(stem)
    }
}

/// The pair for the certificate of an issuer.
pub(super) fn issuer(fingerprint: Fingerprint) -> String {
    format!("{MARK}ca-{}", digits(fingerprint, ISSUER_DIGITS))
}

/// The file of an issuer's certificate.
pub(super) fn issuer_file(fingerprint: Fingerprint) -> String {
    format!("{}.cer", issuer(fingerprint))
}

/// Whether a pair is one that [`issuer`] names.
pub(super) fn is_issuer(name: &str) -> bool {
    name.strip_prefix(MARK).and_then(|rest| rest.strip_prefix("ca-")).is_some_and(|rest| is_hex(rest, ISSUER_DIGITS))
}

/// Where the module's files are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Folder {
    /// Its path.
    pub path: String,
    /// The folder that bare names stand for.
    pub default: String,
}

impl Folder {
    /// How a pair refers to a file in it: by its bare name where that is what the appliance expects.
    pub(super) fn reference(&self, file: &str) -> String {
        if self.path == self.default { file.to_owned() } else { format!("{}/{file}", self.path) }
    }

    /// The file in it that a pair refers to.
    pub(super) fn file<'a>(&self, reference: &'a str) -> Option<&'a str> {
        let name = match reference.strip_prefix(&self.path).and_then(|rest| rest.strip_prefix('/')) {
            Some(name) => name,
            None if self.path == self.default => reference,
            None => return None,
        };
        (!name.contains('/')).then_some(name)
    }

    /// Folder and name of any file that a pair refers to.
    pub(super) fn split<'a>(&'a self, reference: &'a str) -> (&'a str, &'a str) {
        reference.rsplit_once('/').unwrap_or((&self.default, reference))
    }
}

fn digits(fingerprint: Fingerprint, count: usize) -> String {
    fingerprint.to_string()[..count].to_owned()
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A pair's name, made fit for a file: as it is if it is short and plain, otherwise its beginning and a digest.
fn base(certkey: &str, longest: usize) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    if certkey.len() <= longest && certkey.bytes().all(plain) {
        return certkey.to_owned();
    }
    let beginning = certkey.bytes().take(longest - 7).map(|byte| if plain(byte) { char::from(byte) } else { '_' });
    let digest = digest(&SHA256, certkey.as_bytes());
    let hex: String = digest.as_ref()[..3].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{hex}", beginning.collect::<String>())
}

#[cfg(test)]
mod tests {
    use certlib_core::CertificateBundle;
    use certlib_testkit::pki::TestCa;

    use super::*;

    fn leaf() -> LeafInfo {
        let issued = TestCa::new("root").unwrap().issue(&["a.example"]).unwrap();
        CertificateBundle::from_pem(issued.combined().as_bytes()).unwrap().leaf().clone()
    }

    #[test]
    fn names_fit_and_are_known_again() {
        let leaf = leaf();
        for certkey in ["shop", "a pair: with#signs", &"x".repeat(63)] {
            let names = Names::new(certkey);
            let (cert, key) = names.files(&leaf);
            assert!(cert.len() <= 63 && key.len() <= 63, "{cert}");
            assert!(names.generation(&cert).is_some());
            assert_eq!(names.generation(&cert), names.generation(&key));
            let pair = names.pair(leaf.fingerprint);
            assert!(pair.len() <= 31 && names.is_pair(&pair), "{pair}");
            assert!(issuer(leaf.fingerprint).len() <= 31 && is_issuer(&issuer(leaf.fingerprint)));
        }
    }

    #[test]
    fn what_belongs_to_others_is_not_ours() {
        let leaf = leaf();
        let (shop, other) = (Names::new("shop"), Names::new("shop-2"));
        let (cert, _) = other.files(&leaf);
        assert_eq!(shop.generation(&cert), None);
        assert!(!shop.is_pair(&other.pair(leaf.fingerprint)));
        for file in ["shop.cer", "certlib-shop-.cer", "certlib-shop-20260101000000-0123456789.pem"] {
            assert_eq!(shop.generation(file), None, "{file}");
        }
        assert_ne!(Names::new(&"x".repeat(40)).files(&leaf), Names::new(&"x".repeat(41)).files(&leaf));
    }

    #[test]
    fn files_are_looked_up_by_bare_name_or_path() {
        let folder = |path: &str| Folder { path: path.to_owned(), default: "/nsconfig/ssl".to_owned() };
        let default = folder("/nsconfig/ssl");
        assert_eq!(default.reference("a.cer"), "a.cer");
        assert_eq!(default.file("a.cer"), Some("a.cer"));
        assert_eq!(default.file("/nsconfig/ssl/a.cer"), Some("a.cer"));
        assert_eq!(default.file("/nsconfig/ssl/sub/a.cer"), None);
        assert_eq!(default.file("/elsewhere/a.cer"), None);
        let other = folder("/nsconfig/ssl/sub");
        assert_eq!(other.file(&other.reference("a.cer")), Some("a.cer"));
        assert_eq!(other.file("a.cer"), None);
        assert_eq!((other.split("a.cer"), other.split("/x/a.cer")), (("/nsconfig/ssl", "a.cer"), ("/x", "a.cer")));
    }
}
