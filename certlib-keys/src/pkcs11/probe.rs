//! Finds out at start what would fail later.

use certlib_core::secret::DEK_LEN;
use certlib_core::{Error, Result, Secret};
use cryptoki::mechanism::MechanismType;

use super::config::Fingerprint;
use super::failure::Failure;
use super::session::{Hsm, Live};
use super::{gcm, keys};

/// Checks that the token has what is needed, and that it works.
pub(super) fn probe(hsm: &Hsm, live: &mut Live) -> Result<(), Failure> {
    let prefix = &hsm.config.label_prefix;
    if prefix.is_empty() || prefix.chars().any(char::is_control) {
        let why = "labels of keys need a prefix of printable characters";
        return Err(Error::validation("pkcs11.open", "label_prefix_invalid", why).into());
    }
    mechanisms(hsm)?;
    if hsm.config.self_test { self_test(hsm, live) } else { Ok(()) }
}

fn mechanisms(hsm: &Hsm) -> Result<(), Failure> {
    let (slot, token) = hsm.find_token()?;
    let offered = hsm.library().get_mechanism_list(slot)?;
    let fingerprint = match hsm.config.fingerprint {
        Fingerprint::Cmac => MechanismType::AES_CMAC,
        Fingerprint::Ecb => MechanismType::AES_ECB,
    };
    let needed = [MechanismType::AES_GCM, MechanismType::AES_KEY_GEN, fingerprint];
    let missing: Vec<_> = needed.iter().filter(|needed| !offered.contains(needed)).map(ToString::to_string).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut why = "the token lacks mechanisms that certlib needs".to_owned();
    if missing == [MechanismType::AES_CMAC.to_string()] && offered.contains(&MechanismType::AES_ECB) {
        why.push_str("; set `fingerprint` to `ecb`, on every node");
    }
    let error = Error::permanent("pkcs11.open", "hsm_mechanism_missing", why);
    Err(error.with("missing", missing.join(", ")).with("model", token.model()).into())
}

/// Wraps and unwraps with a key that ends with its session.
fn self_test(hsm: &Hsm, live: &Live) -> Result<(), Failure> {
    let round_trip = || {
        let (config, session) = (&hsm.config, &live.session);
        let key = keys::generate_temporary(session, config.fingerprint)?;
        let id = keys::fingerprint(session, key, config.fingerprint)?;
        let dek = Secret::new([0x5a; DEK_LEN]);
        let wrapped = gcm::wrap(config, session, key, &dek, b"probe")?;
        let opened = gcm::unwrap(config, session, (key, &id), &wrapped, b"probe")?;
        let elsewhere = gcm::unwrap(config, session, (key, &id), &wrapped, b"elsewhere");
        session.destroy_object(key)?;
        Ok::<_, Failure>(opened.expose() == dek.expose() && elsewhere.is_err())
    };
    match round_trip() {
        Ok(true) => Ok(()),
        Ok(false) => {
            let why = "the token does not open what it wrapped, or opens it with other data than it was bound to";
            Err(Error::permanent("pkcs11.open", "hsm_unfit", why).into())
        }
        Err(failure) if failure.is_stale() => Err(failure),
        Err(failure) => {
            let source = failure.into_error("pkcs11.probe");
            let why = "the token failed a wrap with a temporary key; see `iv_from_hsm` and `self_test`";
            let error = Error::new(source.class(), "pkcs11.open", "hsm_unfit", why);
            Err(error.with("cause", source.code().to_owned()).with_source(source).into())
        }
    }
}
