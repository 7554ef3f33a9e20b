//! The keys of a token: how they are found, known and made.

use aws_lc_rs::digest::{Context, SHA256};
use certlib_core::secret::{Kek, KekId};
use certlib_core::{Error, Result};
use cryptoki::context::Function;
use cryptoki::error::RvError;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use cryptoki::types::Ulong;
use zeroize::Zeroizing;

use super::Pkcs11Provider;
use super::config::Fingerprint;
use super::failure::{Failure, sized};
use super::session::{Hsm, Live};

/// The length of an AES-256 key, in bytes.
const KEY_LEN: Ulong = Ulong::new(32);

/// Every key that can be used, each checked.
pub(super) fn all(hsm: &Hsm, live: &mut Live) -> Result<Vec<Kek>, Failure> {
    let mut keks: Vec<Kek> = Vec::new();
    live.handles.clear();
    for (version, handle) in list(hsm, &live.session)? {
        if keks.iter().any(|kek| kek.version == version) {
            let why = "several keys of the token have this label; rename or delete those that are not in use";
            let error = Error::validation("pkcs11.keys", "kek_ambiguous", why);
            return Err(error.with("label", label(hsm, version)).into());
        }
        let kek = inspect(hsm, &live.session, version, handle)?;
        live.handles.insert(kek.id, handle);
        keks.push(kek);
    }
    keks.sort_by_key(|kek| kek.version);
    Ok(keks)
}

/// Where this session finds a key. Other keys of the token may be anything.
pub(super) fn handle(hsm: &Hsm, live: &mut Live, id: &KekId) -> Result<ObjectHandle, Failure> {
    if let Some(handle) = live.handles.get(id) {
        return Ok(*handle);
    }
    for (version, handle) in list(hsm, &live.session)? {
        match inspect(hsm, &live.session, version, handle) {
            Ok(kek) => live.handles.insert(kek.id, handle),
            Err(failure @ Failure::Token(..)) if failure.is_stale() => return Err(failure),
            Err(_) => continue,
        };
    }
    live.handles.get(id).copied().ok_or_else(|| {
        let why = "the token does not have this key, or does not let it be used";
        Error::validation("pkcs11.keys", "kek_unknown", why).with("kek", id.short()).into()
    })
}

/// Makes a key in the token, once.
pub(super) fn generate(hsm: &Hsm, live: &Live, version: u32) -> Result<Kek, Failure> {
    let session = &live.session;
    let label = label(hsm, version);
    let labelled = [Attribute::Token(true), Attribute::Label(label.clone().into_bytes())];
    let exists = || {
        let why = "the token has an object with this label already";
        Error::validation("pkcs11.generate", "kek_exists", why).with("label", &label)
    };
    if !session.find_objects(&labelled)?.is_empty() {
        return Err(exists().into());
    }
    // From here on it must not be done a second time.
    let once = |failure: Failure| Failure::Final(failure.into_error("pkcs11.generate"));
    let mut template = template(hsm.config.fingerprint);
    template.extend(labelled.clone());
    let handle = session.generate_key(&Mechanism::AesKeyGen, &template).map_err(|error| once(error.into()))?;
    // Tokens allow a label twice. Of two processes that made one at the same time, none has used it yet.
    let outcome = session.find_objects(&labelled).map_err(Failure::from).and_then(|found| match found.len() {
        0 | 1 => inspect(hsm, session, version, handle),
        _ => Err(exists().into()),
    });
    outcome.map_err(|failure| match session.destroy_object(handle) {
        Ok(()) => once(failure),
        Err(error) => {
            tracing::error!(label, %error, "a key that cannot be used was made in the HSM and is left there");
            once(failure)
        }
    })
}

/// A key that ends with its session, to try things with.
pub(super) fn generate_temporary(session: &Session, by: Fingerprint) -> Result<ObjectHandle, Failure> {
    let mut template = template(by);
    template.push(Attribute::Token(false));
    Ok(session.generate_key(&Mechanism::AesKeyGen, &template)?)
}

fn template(by: Fingerprint) -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::ValueLen(KEY_LEN),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Encrypt(true),
        Attribute::Decrypt(true),
        Attribute::Sign(by == Fingerprint::Cmac),
        Attribute::Verify(false),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
    ]
}

fn label(hsm: &Hsm, version: u32) -> String {
    format!("{}v{version}", hsm.config.label_prefix)
}

/// The version in a label, if it is one that [`label`] makes.
fn version(prefix: &str, label: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(label).ok()?.strip_prefix(prefix)?.strip_prefix('v')?;
    let version = digits.parse().ok()?;
    (digits == format!("{version}")).then_some(version)
}

fn list(hsm: &Hsm, session: &Session) -> Result<Vec<(u32, ObjectHandle)>, Failure> {
    let aes = [Attribute::Token(true), Attribute::Class(ObjectClass::SECRET_KEY), Attribute::KeyType(KeyType::AES)];
    let mut keys = Vec::new();
    for handle in session.find_objects(&aes)? {
        for attribute in session.get_attributes(handle, &[AttributeType::Label])? {
            if let Attribute::Label(label) = attribute
                && let Some(version) = version(&hsm.config.label_prefix, &label)
            {
                keys.push((version, handle));
            }
        }
    }
    hsm.confirm_login(session)?;
    Ok(keys)
}

/// Checks that a key is one that certlib may rely on, and computes its fingerprint.
fn inspect(hsm: &Hsm, session: &Session, version: u32, handle: ObjectHandle) -> Result<Kek, Failure> {
    let wanted = [AttributeType::Sensitive, AttributeType::Extractable, AttributeType::ValueLen];
    let attributes = session.get_attributes(handle, &wanted)?;
    let refused = |code: &'static str, why: &'static str| {
        Failure::Final(Error::validation("pkcs11.keys", code, why).with("label", label(hsm, version)))
    };
    if !attributes.contains(&Attribute::Sensitive(true)) || !attributes.contains(&Attribute::Extractable(false)) {
        let why = "the key could leave the token: it has to be CKA_SENSITIVE and not CKA_EXTRACTABLE";
        return Err(refused("kek_extractable", why));
    }
    if !attributes.contains(&Attribute::ValueLen(KEY_LEN)) {
        return Err(refused("kek_weak", "the key is no AES-256 key"));
    }
    match fingerprint(session, handle, hsm.config.fingerprint) {
        Ok(id) => Ok(Kek::new(id, version, Pkcs11Provider::KIND)),
        Err(Failure::Token(RvError::KeyFunctionNotPermitted, _)) => {
            let why = "the fingerprint of the key cannot be computed: CMAC needs CKA_SIGN, ECB needs CKA_ENCRYPT";
            Err(refused("kek_attributes", why))
        }
        Err(failure) => Err(failure),
    }
}

/// Computes the fingerprint of a key without seeing the key.
pub(super) fn fingerprint(session: &Session, handle: ObjectHandle, by: Fingerprint) -> Result<KekId, Failure> {
    let (domain, mechanism, blocks): (&[u8], _, [&[u8; 16]; 2]) = match by {
        Fingerprint::Cmac => {
            (b"certlib pkcs11 kek id v1 cmac", Mechanism::AesCMac, [b"certlib kek id 1", b"certlib kek id 2"])
        }
        // They end with a block counter of zero, which GCM with 96-bit nonces never gets to.
        Fingerprint::Ecb => {
            (b"certlib pkcs11 kek id v1 ecb", Mechanism::AesEcb, [b"certlib id 1\0\0\0\0", b"certlib id 2\0\0\0\0"])
        }
    };
    let mut digest = Context::new(&SHA256);
    digest.update(domain);
    for block in blocks {
        let (output, function) = match by {
            Fingerprint::Cmac => (session.sign(&mechanism, handle, block)?, Function::Sign),
            Fingerprint::Ecb => (session.encrypt(&mechanism, handle, block)?, Function::Encrypt),
        };
        let output = Zeroizing::new(output);
        digest.update(&*Zeroizing::new(sized::<16>(&output, function)?));
    }
    sized(digest.finish().as_ref(), Function::Digest).map(KekId::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_labels_of_this_form_are_keys() {
        assert_eq!(version("certlib-kek-", b"certlib-kek-v17"), Some(17));
        for other in ["certlib-kek-", "certlib-kek-v", "certlib-kek-v01", "certlib-kek-v+1", "certlib-kek-v4294967296"]
        {
            assert_eq!(version("certlib-kek-", other.as_bytes()), None, "{other}");
        }
        assert_eq!(version("certlib-kek-", b"other-v1"), None);
        assert_eq!(version("certlib-kek-", &[0xff, 0xfe]), None);
    }
}
