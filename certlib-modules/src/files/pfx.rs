//! PKCS#12 containers.

use certlib_core::secret::{SecretBytes, SecretString};
use certlib_core::{CertificateBundle, Error, Result, Secret};
use p12_keystore::{
    Certificate, EncryptionAlgorithm, KeyStore, KeyStoreEntry, MacAlgorithm, Pkcs12ImportPolicy, PrivateKey,
    PrivateKeyChain,
};
use serde::Deserialize;

/// How PKCS#12 files are made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct PfxOptions {
    /// Which algorithms protect it.
    pub profile: PfxProfile,
}

/// The algorithms of a PKCS#12 file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PfxProfile {
    /// AES-256 and HMAC-SHA-256, 10,000 rounds: everything current, Windows Server 2019 and later.
    #[default]
    Modern,
    /// Triple DES and HMAC-SHA-1, 2,000 rounds: for Windows Server 2016 and older, which can read nothing better.
    Legacy,
}

/// The largest number of rounds accepted in a container that was found on a target.
const MAX_ITERATIONS: u64 = 1_000_000;

/// How deep a container is searched for its numbers of rounds.
const MAX_DEPTH: u32 = 24;

const OPERATION: &str = "files.pfx";

/// Key, leaf and issuers under `password`.
pub(crate) fn encode(bundle: &CertificateBundle, options: PfxOptions, password: &SecretString) -> Result<SecretBytes> {
    let key = bundle.key().ok_or_else(|| {
        Error::validation(OPERATION, "key_missing", "the private key of this certificate is not at hand")
    })?;
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
    let name = bundle.leaf().names.first().map_or("certificate", String::as_str);
    store.add_entry(name, KeyStoreEntry::PrivateKeyChain(chain));
    let writer = store.writer(password.expose());
    let writer = match options.profile {
        PfxProfile::Modern => writer
            .encryption_algorithm(EncryptionAlgorithm::PbeWithHmacSha256AndAes256)
            .encryption_iterations(10_000)
            .mac_algorithm(MacAlgorithm::HmacSha256)
            .mac_iterations(10_000),
        PfxProfile::Legacy => writer
            .encryption_algorithm(EncryptionAlgorithm::PbeWithShaAnd3KeyTripleDesCbc)
            .encryption_iterations(2_000)
            .mac_algorithm(MacAlgorithm::HmacSha1)
            .mac_iterations(2_000),
    };
    writer.write().map(Secret::new).map_err(failed)
}

/// Whether a container opens with `password` and holds exactly this chain and key.
pub(crate) fn holds(container: &[u8], password: &SecretString, bundle: &CertificateBundle) -> bool {
    let Some(store) = open(container, password) else { return false };
    let Some((_, chain)) = store.private_key_chain() else { return false };
    let same_key = bundle.key().is_some_and(|key| key.pkcs8().expose() == chain.key().as_der());
    same_key && chain.certs().iter().map(Certificate::as_der).eq(bundle.certificates().iter().map(Vec::as_slice))
}

/// The certificates in a container, leaf first.
pub(crate) fn certificates(container: &[u8], password: &SecretString) -> Option<Vec<Vec<u8>>> {
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
    use proptest::prelude::*;

    use super::*;
    use crate::files::testing;

    fn password() -> SecretString {
        Secret::new("pässwörd".to_owned())
    }

    #[test]
    fn both_profiles_hold_what_was_put_in() {
        let (bundle, other) = (testing::bundle("a.test"), testing::bundle("a.test"));
        for profile in [PfxProfile::Modern, PfxProfile::Legacy] {
            let container = encode(&bundle, PfxOptions { profile }, &password()).unwrap();
            assert!(holds(container.expose(), &password(), &bundle));
            assert!(!holds(container.expose(), &password(), &other));
            assert!(!holds(container.expose(), &Secret::new("wrong".to_owned()), &bundle));
            assert_eq!(certificates(container.expose(), &password()).unwrap(), bundle.certificates());
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
            prop_assert!(!holds(&input, &password(), testing::shared_bundle()));
        }
    }
}
