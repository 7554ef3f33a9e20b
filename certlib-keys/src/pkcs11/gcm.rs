//! Wraps and unwraps data keys inside the token.

use certlib_core::secret::{DEK_LEN, Dek, KekId, WRAP_NONCE_LEN, WRAP_SALT_LEN, WrappedDek};
use certlib_core::{Error, Result, Secret};
use cryptoki::context::Function;
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use cryptoki::types::Ulong;
use zeroize::Zeroizing;

use super::config::Pkcs11Config;
use super::failure::{Failure, rejected, sized};
use super::keys;

/// The length of a tag, in bits.
const TAG_BITS: Ulong = Ulong::new(128);

pub(super) fn wrap(
    config: &Pkcs11Config,
    session: &Session,
    key: ObjectHandle,
    dek: &Dek,
    aad: &[u8],
) -> Result<WrappedDek, Failure> {
    let (mut salt, mut nonce) = ([0; WRAP_SALT_LEN], [0; WRAP_NONCE_LEN]);
    fill(&mut salt)?;
    // A token that makes the nonce wants to find zeros in its place.
    if !config.iv_from_hsm {
        fill(&mut nonce)?;
    }
    let aad = bound(aad, &salt);
    let mechanism = Mechanism::AesGcm(GcmParams::new(&mut nonce, &aad, TAG_BITS)?);
    let ciphertext = session.encrypt(&mechanism, key, dek.expose())?;
    drop(mechanism);
    if nonce == [0; WRAP_NONCE_LEN] {
        let why = "the token does not say which nonce it used; it needs `iv_from_hsm` to be off, or cannot be used";
        return Err(Error::permanent("pkcs11.wrap", "hsm_iv_missing", why).into());
    }
    Ok(WrappedDek { salt, nonce, ciphertext: sized(&ciphertext, Function::Encrypt)? })
}

pub(super) fn unwrap(
    config: &Pkcs11Config,
    session: &Session,
    (key, id): (ObjectHandle, &KekId),
    wrapped: &WrappedDek,
    aad: &[u8],
) -> Result<Dek, Failure> {
    let mut nonce = wrapped.nonce;
    let aad = bound(aad, &wrapped.salt);
    let mechanism = Mechanism::AesGcm(GcmParams::new(&mut nonce, &aad, TAG_BITS)?);
    match session.decrypt(&mechanism, key, &wrapped.ciphertext).map_err(Failure::from) {
        Ok(plain) => {
            let plain = Zeroizing::new(plain);
            let dek = <&[u8; DEK_LEN]>::try_from(plain.as_slice());
            dek.map(|dek| Secret::new(*dek)).map_err(|_| rejected())
        }
        Err(failure) if failure.says_not_authentic() => Err(rejected()),
        // The token is well and the key at its place: so it was the data.
        Err(failure) if failure.may_mean_not_authentic() => match keys::fingerprint(session, key, config.fingerprint) {
            Ok(found) if found == *id => Err(rejected()),
            _ => Err(failure),
        },
        Err(failure) => Err(failure),
    }
}

/// The salt has a fixed length and comes last, so no two pairs give the same bytes.
fn bound(aad: &[u8], salt: &[u8; WRAP_SALT_LEN]) -> Vec<u8> {
    [aad, salt].concat()
}

fn fill(bytes: &mut [u8]) -> Result<()> {
    aws_lc_rs::rand::fill(bytes)
        .map_err(|_| Error::permanent("pkcs11.wrap", "random_failed", "the system gives no randomness"))
}
