//! PKCS#12 containers (RFC 7292): key, leaf and issuers in one file under a password.

use p12_keystore::{
    Certificate, EncryptionAlgorithm, KeyStore, KeyStoreEntry, MacAlgorithm, Pkcs12ImportPolicy, PrivateKey,
    PrivateKeyChain,
};
use serde::{Deserialize, Serialize};

use super::CertificateBundle;
use crate::error::{Error, Result};
use crate::secret::{Secret, SecretBytes, SecretString};

/// The algorithms that protect a PKCS#12 file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Pkcs12Profile {
    /// AES-256 and HMAC-SHA-256, 10,000 rounds: everything current, Windows Server 2019 and later, Java 8u301 and later.
    #[default]
    Modern,
    /// Triple DES and HMAC-SHA-1, 2,000 rounds: for Windows Server 2016 and other old readers, which know nothing better.
    Legacy,
}

/// The longest alias, in characters.
const ALIAS_MAX: usize = 255;

/// The largest number of rounds accepted in a container that was found on a target.
const MAX_ITERATIONS: u64 = 1_000_000;

/// How deep a container is searched for its numbers of rounds.
const MAX_DEPTH: u32 = 24;

const OPERATION: &str = "bundle.pkcs12";

/// Key, leaf and issuers under `password`. The entry's friendly name is `alias`, or else the leaf's first name: Java's
/// keytool reads the file as a keystore of type PKCS12 and shows the entry, a `PrivateKeyEntry`, by that name in lower
/// case.
///
/// # Errors
/// `Validation`: `key_missing`, `alias_invalid`, `pfx_failed`.
pub fn encode(
    bundle: &CertificateBundle,
    profile: Pkcs12Profile,
    alias: Option<&str>,
    password: &SecretString,
) -> Result<SecretBytes> {
    let key = bundle.key().ok_or_else(|| {
        Error::validation(OPERATION, "key_missing", "the private key of this certificate is not at hand")
    })?;
    alias.map_or(Ok(()), check_alias)?;
    let failed = |error: p12_keystore::error::Error| {
        Error::validation(OPERATION, "pfx_failed", "the PKCS#12 file cannot be made").with_source(error)
    };
    let certificates: Vec<Certificate> = bundle
        .certificates()
        .iter()
        .map(|der| Certificate::from_der(der))
        .collect::<std::result::Result<_, _>>()
        .map_err(failed)?;
    let key = PrivateKey::from_der(key.pkcs8().expose()).map_err(failed)?;
    let identifier = bundle.fingerprint().as_bytes()[..20].to_vec();
    let chain = PrivateKeyChain::new(identifier, key, certificates);
    let mut store = KeyStore::new();
    let name = alias.or(bundle.leaf().names.first().map(String::as_str)).unwrap_or("certificate");
    store.add_entry(name, KeyStoreEntry::PrivateKeyChain(chain));
    let writer = store.writer(password.expose());
    let writer = match profile {
        Pkcs12Profile::Modern => writer
            .encryption_algorithm(EncryptionAlgorithm::PbeWithHmacSha256AndAes256)
            .encryption_iterations(10_000)
            .mac_algorithm(MacAlgorithm::HmacSha256)
            .mac_iterations(10_000),
        Pkcs12Profile::Legacy => writer
            .encryption_algorithm(EncryptionAlgorithm::PbeWithShaAnd3KeyTripleDesCbc)
            .encryption_iterations(2_000)
            .mac_algorithm(MacAlgorithm::HmacSha1)
            .mac_iterations(2_000),
    };
    writer.write().map(Secret::new).map_err(failed)
}

/// Fails unless `alias` can name an entry: 1 to 255 characters of the Basic Multilingual Plane, the only ones that a
/// friendly name can hold (RFC 2985, section 5.5.1), none of them control characters.
///
/// # Errors
/// `Validation` `alias_invalid`.
pub fn check_alias(alias: &str) -> Result<()> {
    let fits = |character: char| !character.is_control() && u32::from(character) <= 0xffff;
    if alias.is_empty() || alias.chars().count() > ALIAS_MAX || !alias.chars().all(fits) {
        let why = "the alias of an entry has 1 to 255 printable characters of the Basic Multilingual Plane";
        return Err(Error::validation(OPERATION, "alias_invalid", why));
    }
    Ok(())
}

/// Whether a container opens with `password` and holds exactly this chain and key.
pub fn holds(container: &[u8], password: &SecretString, bundle: &CertificateBundle) -> bool {
    let Some(store) = open(container, password) else { return false };
    let Some((_, chain)) = store.private_key_chain() else { return false };
    let same_key = bundle.key().is_some_and(|key| key.pkcs8().expose() == chain.key().as_der());
    same_key && chain.certs().iter().map(Certificate::as_der).eq(bundle.certificates().iter().map(Vec::as_slice))
}

/// The certificates in a container, leaf first.
pub fn certificates(container: &[u8], password: &SecretString) -> Option<Vec<Vec<u8>>> {
    let store = open(container, password)?;
    let (_, chain) = store.private_key_chain()?;
    Some(chain.certs().iter().map(|certificate| certificate.as_der().to_vec()).collect())
}

fn open(container: &[u8], password: &SecretString) -> Option<KeyStore> {
    // Whoever can put a file on the target must not be able to keep this process busy for hours.
    if !rounds_are_bounded(container, 0) {
        return None;
    }
    KeyStore::from_pkcs12(container, password.expose(), Pkcs12ImportPolicy::Relaxed).ok()
}

/// Walks DER, also inside octet strings, and accepts no INTEGER beyond [`MAX_ITERATIONS`] that follows an
/// OCTET STRING: that is how salt and rounds stand in every scheme of PKCS#12.
fn rounds_are_bounded(mut der: &[u8], depth: u32) -> bool {
    const INTEGER: u8 = 0x02;
    const OCTET_STRING: u8 = 0x04;
    const CONSTRUCTED: u8 = 0x20;
    if depth > MAX_DEPTH {
        return false;
    }
    let mut after_salt = false;
    while let Some((tag, content, rest)) = element(der) {
        if after_salt && tag == INTEGER {
            let digits = content.iter().skip_while(|byte| **byte == 0);
            if digits.clone().count() > 8
                || digits.fold(0, |value, byte| value << 8 | u64::from(*byte)) > MAX_ITERATIONS
            {
                return false;
            }
        }
        after_salt = tag == OCTET_STRING;
        if (tag & CONSTRUCTED != 0 || tag == OCTET_STRING) && !rounds_are_bounded(content, depth + 1) {
            return false;
        }
        der = rest;
    }
    true
}

/// Takes one element with a one-byte tag and a definite length off the front.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, der) = der.split_first()?;
    let (&first, mut der) = der.split_first()?;
    let mut length = usize::from(first);
    if first >= 0x80 {
        let (digits, rest) = der.split_at_checked(usize::from(first & 0x7f))?;
        if digits.is_empty() || digits.len() > 4 {
            return None;
        }
        length = digits.iter().fold(0, |value, byte| value << 8 | usize::from(*byte));
        der = rest;
    }
    let (content, rest) = der.split_at_checked(length)?;
    Some((tag, content, rest))
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use proptest::prelude::*;

    use super::*;
    use crate::bundle::testing;

    fn shared() -> &'static CertificateBundle {
        static SHARED: OnceLock<CertificateBundle> = OnceLock::new();
        SHARED.get_or_init(|| testing::bundle("shared.test"))
    }

    fn password() -> SecretString {
        Secret::new("pässwörd".to_owned())
    }

    #[test]
    fn both_profiles_hold_what_was_put_in() {
        let (bundle, other) = (testing::bundle("a.test"), testing::bundle("a.test"));
        for profile in [Pkcs12Profile::Modern, Pkcs12Profile::Legacy] {
            let container = encode(&bundle, profile, None, &password()).unwrap();
            assert!(holds(container.expose(), &password(), &bundle));
            assert!(!holds(container.expose(), &password(), &other));
            assert!(!holds(container.expose(), &Secret::new("wrong".to_owned()), &bundle));
            assert_eq!(certificates(container.expose(), &password()).unwrap(), bundle.certificates());
        }
    }

    #[test]
    fn an_alias_is_kept_as_it_is_or_refused() {
        let bundle = testing::bundle("a.test");
        let alias = |container: &SecretBytes| {
            let store = open(container.expose(), &password()).unwrap();
            store.private_key_chain().unwrap().0.to_owned()
        };
        let encoded = |alias| encode(&bundle, Pkcs12Profile::Modern, alias, &password());
        assert_eq!(alias(&encoded(None).unwrap()), "a.test");
        assert_eq!(alias(&encoded(Some("shop-tomcat")).unwrap()), "shop-tomcat");
        for bad in ["", "a\u{7}b", "\u{1f511}", &"a".repeat(256)] {
            assert_eq!(encoded(Some(bad)).unwrap_err().code(), "alias_invalid", "{bad:?}");
        }
    }

    #[test]
    fn endless_key_derivation_is_refused() {
        // MacData: SEQUENCE { OCTET STRING salt, INTEGER 1,000,000,000 }.
        let hostile = [0x30, 0x0a, 0x04, 0x02, 1, 2, 0x02, 0x04, 0x3b, 0x9a, 0xca, 0x00];
        assert!(!rounds_are_bounded(&hostile, 0));
        let modest = [0x30, 0x08, 0x04, 0x02, 1, 2, 0x02, 0x02, 0x27, 0x10];
        assert!(rounds_are_bounded(&modest, 0));
        let nested = (0..40).fold(Vec::new(), |inner: Vec<u8>, _| {
            let length = u8::try_from(inner.len()).unwrap();
            [vec![0x30, length], inner].concat()
        });
        assert!(!rounds_are_bounded(&nested, 0));
    }

    proptest! {
        #[test]
        fn no_input_panics(input in proptest::collection::vec(any::<u8>(), 0..256)) {
            prop_assert!(!holds(&input, &password(), shared()));
        }
    }
}
