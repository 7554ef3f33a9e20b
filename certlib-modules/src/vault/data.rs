//! The fields of a secret: what a certificate makes of them, and how two states compare.

use std::fmt;

use aws_lc_rs::digest::{Context as Digest, SHA256};
use certlib_core::bundle::{CertificateBundle, Fingerprint};
use certlib_core::error::{Error, Result};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use time::format_description::well_known::Rfc3339;
use zeroize::Zeroize as _;

use super::OPERATION;
use super::config::Fields;

/// From here on, numbers are not exact any more.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// The fields of a secret. `Debug` shows their names; the texts are wiped when it is dropped.
#[derive(Clone, Default, PartialEq)]
pub(super) struct SecretData(Map<String, Value>);

impl SecretData {
    /// The certificate as fields.
    ///
    /// # Errors
    /// `key_missing` when the key is to be delivered and is not at hand.
    pub(super) fn of(bundle: &CertificateBundle, fields: &Fields) -> Result<Self> {
        let mut data = Self::default();
        let mut set = |name: &Option<String>, value: String| {
            if let Some(name) = name {
                data.0.insert(name.clone(), Value::String(value));
            }
        };
        set(&fields.certificate, bundle.leaf_pem());
        set(&fields.chain, bundle.chain_pem());
        set(&fields.fullchain, bundle.fullchain_pem());
        set(&fields.serial, bundle.leaf().serial.clone());
        set(&fields.fingerprint, bundle.fingerprint().to_string());
        set(&fields.not_after, not_after(bundle)?);
        if fields.need_key() {
            let key = bundle.key_pem()?;
            set(&fields.private_key, key.expose().clone());
            set(&fields.combined, bundle.fullchain_pem() + key.expose());
        }
        Ok(data)
    }

    /// These fields, with those of `certificate` in place of the ones that have their names.
    ///
    /// # Errors
    /// `Validation` `number_inexact` when a field that would be written back is a number that was not read exactly.
    pub(super) fn with(&self, certificate: &Self) -> Result<Self> {
        let mut merged = self.clone();
        merged.0.extend(certificate.0.clone());
        merged.check_numbers()?;
        Ok(merged)
    }

    fn check_numbers(&self) -> Result<()> {
        match self.0.iter().find(|(_, value)| !is_exact(value)) {
            None => Ok(()),
            Some((name, _)) => {
                let why = "another field of the secret holds a number that is too large to be written back as it is; \
                           make it a text, or give the certificate a secret of its own";
                Err(Error::validation(OPERATION, "number_inexact", why).with("field", name.escape_debug()))
            }
        }
    }

    /// Whether all fields of `certificate` are here as they are there.
    pub(super) fn holds(&self, certificate: &Self) -> bool {
        certificate.0.iter().all(|(name, value)| self.0.get(name) == Some(value))
    }

    /// How many fields there are that `certificate` does not have.
    pub(super) fn others(&self, certificate: &Self) -> usize {
        self.0.keys().filter(|name| !certificate.0.contains_key(*name)).count()
    }

    /// The certificate in here, if there is one.
    pub(super) fn fingerprint(&self, fields: &Fields) -> Option<Fingerprint> {
        self.leaf(fields).map(|der| Fingerprint::of(&der))
    }

    /// The certificate in here, parsed.
    pub(super) fn certificate(&self, fields: &Fields) -> Option<CertificateBundle> {
        CertificateBundle::new(vec![self.leaf(fields)?.to_vec()], None).ok()
    }

    fn leaf(&self, fields: &Fields) -> Option<CertificateDer<'static>> {
        let texts = fields.with_leaf().filter_map(|name| self.0.get(name)?.as_str());
        texts.into_iter().find_map(|text| CertificateDer::from_pem_slice(text.as_bytes()).ok())
    }

    /// SHA-256 of everything in it, lower-case hex. Equal states have equal digests. To be kept with secrets only: who
    /// sees it can try what short texts it comes from.
    pub(super) fn digest(&self) -> String {
        let mut digest = Digest::new(&SHA256);
        feed(&mut digest, &self.0);
        hex(digest.finish().as_ref())
    }
}

impl fmt::Debug for SecretData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Drop for SecretData {
    fn drop(&mut self) {
        self.0.values_mut().for_each(wipe);
    }
}

impl<'de> Deserialize<'de> for SecretData {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Map::deserialize(deserializer).map(Self)
    }
}

/// For requests to Vault, and for the sealed journal.
impl Serialize for SecretData {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// The end of a certificate's validity, RFC 3339.
pub(super) fn not_after(bundle: &CertificateBundle) -> Result<String> {
    let invalid = |_| Error::validation(OPERATION, "cert_invalid", "the end of the validity cannot be written");
    bundle.leaf().not_after.format(&Rfc3339).map_err(invalid)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_exact(value: &Value) -> bool {
    match value {
        Value::Number(number) if number.is_f64() => number.as_f64().is_some_and(|number| number.abs() < EXACT),
        Value::Array(values) => values.iter().all(is_exact),
        Value::Object(fields) => fields.values().all(is_exact),
        _ => true,
    }
}

/// Names in order and lengths before contents, so that different states never look the same.
fn feed(digest: &mut Digest, fields: &Map<String, Value>) {
    let mut names: Vec<&String> = fields.keys().collect();
    names.sort();
    digest.update(&(names.len() as u64).to_be_bytes());
    for name in names {
        feed_text(digest, name);
        feed_value(digest, &fields[name]);
    }
}

fn feed_value(digest: &mut Digest, value: &Value) {
    match value {
        Value::Null => digest.update(b"0"),
        Value::Bool(flag) => digest.update(if *flag { b"t" } else { b"f" }),
        Value::Number(number) => {
            digest.update(b"n");
            feed_text(digest, &number.to_string());
        }
        Value::String(text) => {
            digest.update(b"s");
            feed_text(digest, text);
        }
        Value::Array(values) => {
            digest.update(b"a");
            digest.update(&(values.len() as u64).to_be_bytes());
            values.iter().for_each(|value| feed_value(digest, value));
        }
        Value::Object(fields) => {
            digest.update(b"o");
            feed(digest, fields);
        }
    }
}

fn feed_text(digest: &mut Digest, text: &str) {
    digest.update(&(text.len() as u64).to_be_bytes());
    digest.update(text.as_bytes());
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(values) => values.iter_mut().for_each(wipe),
        Value::Object(fields) => fields.values_mut().for_each(wipe),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use certlib_testkit::pki::TestCa;
    use serde_json::json;

    use super::*;

    fn data(value: Value) -> SecretData {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_certificate_comes_in_between_other_fields() {
        let issued = TestCa::new("root").unwrap().issue(&["a.example"]).unwrap();
        let bundle = CertificateBundle::from_pem(issued.combined().as_bytes()).unwrap();
        let fields: Fields = serde_json::from_value(
            json!({"certificate": "crt", "chain": null, "fingerprint": "fp", "combined": "all", "not_after": "end"}),
        )
        .unwrap();
        let certificate = SecretData::of(&bundle, &fields).unwrap();
        let before = data(json!({"password": "canary", "crt": "old"}));
        let after = before.with(&certificate).unwrap();
        assert!(after.holds(&certificate) && !before.holds(&certificate));
        assert_eq!((after.others(&certificate), after.fingerprint(&fields)), (1, Some(bundle.fingerprint())));
        let mut names: Vec<_> = after.0.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["all", "crt", "end", "fp", "fullchain", "password", "private_key"]);
        assert_eq!(after.0["fp"], bundle.fingerprint().to_string());
        assert!(after.0["all"].as_str().unwrap().contains("PRIVATE KEY"));
        assert_eq!(before.fingerprint(&fields), None);
        assert!(!format!("{after:?}").contains("canary"));
        let without = CertificateBundle::from_pem(issued.full_chain().as_bytes()).unwrap();
        assert_eq!(SecretData::of(&without, &fields).unwrap_err().code(), "key_missing");
    }

    #[test]
    fn digests_tell_states_apart() {
        let states = [
            json!({}),
            json!({"a": null}),
            json!({"a": ""}),
            json!({"a": "b"}),
            json!({"ab": ""}),
            json!({"a": ["b"]}),
            json!({"a": {"b": ""}}),
            json!({"a": 1}),
            json!({"a": "1"}),
            json!({"a": true}),
            json!({"a": "", "b": ""}),
        ];
        let digests: std::collections::HashSet<_> = states.iter().map(|state| data(state.clone()).digest()).collect();
        assert_eq!(digests.len(), states.len());
        let (one, other) = (r#"{"a": "<", "b": 2}"#, r#"{"b": 2, "a": "\u003c"}"#);
        let read = |text| serde_json::from_str::<SecretData>(text).unwrap().digest();
        assert_eq!(read(one), read(other));
    }

    #[test]
    fn numbers_that_would_change_are_not_written_back() {
        for text in ["12345678901234567890123", "[1e300]", r#"{"deep": -9007199254740993.5}"#] {
            let before: SecretData = serde_json::from_str(&format!(r#"{{"n": {text}}}"#)).unwrap();
            assert_eq!(before.with(&SecretData::default()).unwrap_err().code(), "number_inexact", "{text}");
        }
        for text in ["18446744073709551615", "-9223372036854775808", "0.1", "1e10", r#""12345678901234567890123""#] {
            let before: SecretData = serde_json::from_str(&format!(r#"{{"n": {text}}}"#)).unwrap();
            before.with(&SecretData::default()).unwrap();
        }
    }
}
