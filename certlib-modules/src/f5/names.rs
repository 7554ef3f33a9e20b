//! Names on the unit: `/Partition/folder/object` in JSON, `~Partition~folder~object` in URLs.
//!
//! What the module makes is called `PREFIX_TARGET_TIME_SERIAL_LABEL.ending`: the configured prefix and eight hex digits
//! of the target's id are the marker by which the module knows its own; time (the start of the certificate's validity) and
//! serial number tell generations apart, and are the same however often a delivery is tried.

use aws_lc_rs::digest::{SHA256, digest};
use certlib_core::CertificateBundle;

/// How many characters of the certificate's first name are shown.
const LABEL: usize = 40;

/// What everything that the module makes for one target is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Marker {
    /// Ends in `_`.
    prefix: String,
    folder: String,
}

impl Marker {
    pub(super) fn new(prefix: &str, target_id: &str, folder: &str) -> Self {
        let prefix = format!("{prefix}_{}_", &hex_digest(target_id.as_bytes())[..8]);
        Self { prefix, folder: folder.to_owned() }
    }

    /// The generation that an object belongs to, if it is one of ours: later ones compare greater.
    pub(super) fn generation<'a>(&self, name: &'a str) -> Option<&'a str> {
        let own = name.strip_prefix(&self.folder)?.strip_prefix('/')?.strip_prefix(&self.prefix)?;
        let (time, rest) = own.split_once('_')?;
        let (serial, _) = rest.split_once('_')?;
        let digits = time.len() == 14 && time.bytes().all(|byte| byte.is_ascii_digit());
        let hex = !serial.is_empty() && serial.bytes().all(|byte| byte.is_ascii_hexdigit());
        (digits && hex).then(|| &own[..time.len() + 1 + serial.len()])
    }

    /// The names for a bundle.
    pub(super) fn names(&self, bundle: &CertificateBundle) -> Names {
        let leaf = bundle.leaf();
        let at = leaf.not_before;
        let time = format!(
            "{:04}{:02}{:02}{:02}{:02}{:02}",
            at.year(),
            u8::from(at.month()),
            at.day(),
            at.hour(),
            at.minute(),
            at.second()
        );
        let serial = &leaf.serial[leaf.serial.len().saturating_sub(8)..];
        let stem = format!("{}/{}{time}_{serial}_{}", self.folder, self.prefix, label(&leaf.names));
        let chain = bundle.chain_pem();
        let chain = (!chain.is_empty()).then(|| format!("{stem}.chain-{}.crt", &hex_digest(chain.as_bytes())[..8]));
        Names { key: format!("{stem}.key"), cert: format!("{stem}.crt"), chain }
    }
}

/// What the objects of one bundle are called: full paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) key: String,
    pub(super) cert: String,
    pub(super) chain: Option<String>,
}

/// The first name, in characters that are safe everywhere.
fn label(names: &[String]) -> String {
    let first = names.first().map_or("certificate", String::as_str).replace('*', "wildcard");
    let safe = first.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' });
    safe.take(LABEL).collect()
}

/// SHA-256, lower-case hex.
pub(super) fn hex_digest(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether `text` is a path of at least `parts` parts.
pub(super) fn is_path(text: &str, parts: usize) -> bool {
    let Some(rest) = text.strip_prefix('/') else { return false };
    text.len() <= 255 && rest.split('/').count() >= parts && rest.split('/').all(is_word)
}

/// Whether `text` is a name that means nothing special in URLs and to a shell.
pub(super) fn is_word(text: &str) -> bool {
    let letters = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    (1..=128).contains(&text.len()) && letters && !text.starts_with(['-', '.'])
}

/// The segment of a URL that stands for a full path.
pub(super) fn segment(name: &str) -> String {
    name.replace('/', "~")
}

/// The partition of a full path.
pub(super) fn partition(name: &str) -> &str {
    name.split('/').nth(1).unwrap_or_default()
}

/// A full path without its last part.
pub(super) fn folder(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// Name, partition and folder below it, as a new object needs them.
pub(super) fn parts(name: &str) -> (&str, &str, Option<&str>) {
    let last = name.rsplit('/').next().unwrap_or_default();
    let below = folder(name).strip_prefix('/').and_then(|folder| folder.split_once('/'));
    (last, partition(name), below.map(|(_, below)| below))
}

#[cfg(test)]
mod tests {
    use certlib_testkit::pki::TestCa;

    use super::*;

    #[test]
    fn names_are_told_apart_by_generation() {
        let issued = TestCa::new("root").unwrap().issue(&["*.shop.example"]).unwrap();
        let bundle = CertificateBundle::from_pem(issued.combined().as_bytes()).unwrap();
        let marker = Marker::new("certlib", "t-1", "/Tenant/app");
        let names = marker.names(&bundle);
        assert_eq!(names, marker.names(&bundle));
        assert!(names.cert.starts_with("/Tenant/app/certlib_") && names.cert.ends_with("_wildcard-shop-example.crt"));
        let generation = marker.generation(&names.cert).unwrap();
        assert_eq!(marker.generation(&names.key), Some(generation));
        assert_eq!(marker.generation(names.chain.as_ref().unwrap()), Some(generation));
        assert!([&names.cert, &names.key].iter().all(|name| is_path(name, 3)));
        for foreign in ["/Tenant/app/shop.crt", "/Tenant/certlib_x", "/Tenant/app/certlib_00000000_2_a_b.crt", ""] {
            assert_eq!(marker.generation(foreign), None, "{foreign}");
        }
        assert_eq!(Marker::new("certlib", "t-2", "/Tenant/app").generation(&names.cert), None, "another target");
        assert_eq!(Marker::new("certlib", "t-1", "/Tenant").generation(&names.cert), None, "another folder");
    }

    #[test]
    fn paths_and_words() {
        assert!(is_path("/Common/shop", 2) && is_path("/Common", 1) && is_path("/T/a.b/c-d_e", 3));
        for bad in ["Common/shop", "/Common", "/Common//x", "/Common/a b", "/Common/a~b", "/Common/;x", "/Common/../x"]
        {
            assert!(!is_path(bad, 2), "{bad}");
        }
        assert!(!is_word("-rf") && !is_word("") && !is_word("a;b") && is_word("failover_group"));
        assert_eq!(parts("/Tenant/app/sub/x.crt"), ("x.crt", "Tenant", Some("app/sub")));
        assert_eq!(parts("/Common/x.crt"), ("x.crt", "Common", None));
        assert_eq!((segment("/Common/x"), folder("/Common/x")), ("~Common~x".to_owned(), "/Common"));
    }
}
