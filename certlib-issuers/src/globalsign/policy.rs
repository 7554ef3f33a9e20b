//! The validation policy of an account, and a request for a certificate that keeps to it.
//!
//! HVCA refuses a request that says anything which the policy forbids or says by itself. So the request is made from the
//! policy, and held against it before it is sent.

use std::collections::BTreeMap;
use std::net::IpAddr;

use certlib_core::issuer::IssueRequest;
use certlib_core::{Error, Result};
use regex::RegexBuilder;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;

use super::client::OPERATION;
use super::config::GlobalSignConfig;
use crate::keys;

/// id-kp-serverAuth and id-kp-clientAuth, RFC 5280 section 4.2.1.12.
const SERVER_AUTH: &str = "1.3.6.1.5.5.7.3.1";
const CLIENT_AUTH: &str = "1.3.6.1.5.5.7.3.2";

/// id-ecPublicKey, RFC 5480 section 2.1.1.
const EC: &str = "1.2.840.10045.2.1";

/// The most memory that a pattern of a policy may take, in bytes.
const PATTERN_MAX: usize = 1 << 20;

/// What the CA accepts, as far as it matters here.
#[derive(Debug, Deserialize)]
pub(super) struct Policy {
    validity: Validity,
    #[serde(default)]
    subject_dn: BTreeMap<String, Field>,
    #[serde(default)]
    san: BTreeMap<String, Field>,
    extended_key_usages: Option<Usages>,
    #[serde(default)]
    signature: BTreeMap<String, Algorithm>,
    public_key: KeyPolicy,
}

#[derive(Debug, Deserialize)]
struct Validity {
    #[serde(default)]
    secondsmin: i64,
    secondsmax: i64,
}

/// A field of the policy: one text, a list of them, or something else.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Field {
    Text(Text),
    List(List),
    /// What holds nothing that is sent.
    Other(#[serde(deserialize_with = "ignore")] ()),
}

#[derive(Debug, Deserialize)]
struct Text {
    presence: Presence,
    #[serde(default)]
    format: String,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Presence {
    Required,
    Optional,
    #[default]
    #[serde(other)]
    /// `FORBIDDEN` and `STATIC` alike: not to be sent.
    Unwanted,
}

#[derive(Debug, Deserialize)]
struct List {
    #[serde(default, rename = "static")]
    is_static: bool,
    #[serde(default)]
    list: Vec<String>,
    #[serde(default)]
    mincount: usize,
    maxcount: usize,
}

#[derive(Debug, Deserialize)]
struct Usages {
    ekus: List,
}

#[derive(Debug, Deserialize)]
struct Algorithm {
    #[serde(default)]
    presence: Presence,
    #[serde(default)]
    list: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct KeyPolicy {
    #[serde(default)]
    key_type: String,
    #[serde(default)]
    allowed_lengths: Vec<usize>,
    #[serde(default)]
    key_format: String,
}

impl Policy {
    /// The body of a request for a certificate.
    ///
    /// # Errors
    /// `Validation`: `policy_violated`, naming the field; `key_format_unsupported`; `csr_invalid`.
    pub(super) fn request(
        &self,
        config: &GlobalSignConfig,
        request: &IssueRequest,
        now: OffsetDateTime,
    ) -> Result<Value> {
        self.public_key.check(&request.csr)?;
        let mut body = Map::new();
        body.insert("validity".to_owned(), self.validity.ask(config, request, now)?);
        let subject = self.subject(config, request)?;
        if !subject.is_empty() {
            body.insert("subject_dn".to_owned(), Value::Object(subject));
        }
        body.insert("san".to_owned(), Value::Object(self.names(request)?));
        if let Some(usages) = self.usages(config)? {
            body.insert("extended_key_usages".to_owned(), json!(usages));
        }
        let signature = self.signature();
        if !signature.is_empty() {
            body.insert("signature".to_owned(), Value::Object(signature));
        }
        body.insert("public_key".to_owned(), json!(keys::request_pem(&request.csr)));
        Ok(Value::Object(body))
    }

    fn subject(&self, config: &GlobalSignConfig, request: &IssueRequest) -> Result<Map<String, Value>> {
        // ub-common-name, RFC 5280 appendix A.
        let common_name = request.names.iter().map(String::as_str).find(|name| name.len() <= 64);
        let mut subject = Map::new();
        for (name, field) in &self.subject_dn {
            let at = format!("subject_dn.{name}");
            match field {
                Field::Text(text) => {
                    let value = if name == "common_name" { common_name } else { config.subject.text(name) };
                    if let Some(value) = text.admit(&at, value)? {
                        subject.insert(name.clone(), json!(value));
                    }
                }
                Field::List(list) => {
                    let own = &config.subject.organizational_unit;
                    let values = if name == "organizational_unit" { own.as_slice() } else { &[] };
                    // A list that may have nothing is as good as forbidden.
                    let values = if list.maxcount == 0 { &[] } else { values };
                    if let Some(values) = list.admit(&at, values)? {
                        subject.insert(name.clone(), json!(values));
                    }
                }
                Field::Other(_) => {}
            }
        }
        Ok(subject)
    }

    fn names(&self, request: &IssueRequest) -> Result<Map<String, Value>> {
        let (addresses, names): (Vec<String>, Vec<String>) =
            request.names.iter().cloned().partition(|name| name.parse::<IpAddr>().is_ok());
        let mut san = Map::new();
        for (field, values) in [("dns_names", names), ("ip_addresses", addresses)] {
            let at = format!("san.{field}");
            match self.san.get(field) {
                Some(Field::List(list)) => {
                    if let Some(values) = list.admit(&at, &values)? {
                        san.insert(field.to_owned(), json!(values));
                    }
                }
                _ if values.is_empty() => {}
                _ => return Err(violated(&at, "such names are forbidden")),
            }
        }
        Ok(san)
    }

    fn usages(&self, config: &GlobalSignConfig) -> Result<Option<Vec<String>>> {
        let Some(Usages { ekus }) = &self.extended_key_usages else { return Ok(None) };
        let wanted: &[&str] = if config.client_auth { &[SERVER_AUTH, CLIENT_AUTH] } else { &[SERVER_AUTH] };
        let wanted: Vec<String> = wanted.iter().map(|usage| (*usage).to_owned()).collect();
        let wanted = if ekus.maxcount == 0 { &[] } else { wanted.as_slice() };
        Ok(ekus.admit("extended_key_usages", wanted)?.map(<[String]>::to_vec))
    }

    /// Only what must be said: otherwise the CA knows best.
    fn signature(&self) -> Map<String, Value> {
        let required = self.signature.iter().filter(|(_, algorithm)| algorithm.presence == Presence::Required);
        required
            .filter_map(|(name, Algorithm { list, .. })| {
                let usual = list.iter().find(|name| *name == "SHA-256");
                Some((name.clone(), json!(usual.or(list.first())?)))
            })
            .collect()
    }
}

impl Validity {
    fn ask(&self, config: &GlobalSignConfig, request: &IssueRequest, now: OffsetDateTime) -> Result<Value> {
        let own = i64::from(config.validity_days) * 24 * 3600;
        let wanted = request.validity.map_or(own, |validity| i64::try_from(validity.as_secs()).unwrap_or(i64::MAX));
        if wanted < self.secondsmin {
            return Err(violated("validity", "the certificate would be valid for too short a time"));
        }
        let from = now.unix_timestamp();
        Ok(json!({ "not_before": from, "not_after": from + wanted.min(self.secondsmax) }))
    }
}

impl Text {
    /// The value if it is to be sent.
    fn admit<'a>(&self, at: &str, value: Option<&'a str>) -> Result<Option<&'a str>> {
        match (self.presence, value) {
            (Presence::Unwanted, _) | (Presence::Optional, None) => Ok(None),
            (Presence::Required, None) => Err(violated(at, "a value is required")),
            (_, Some(value)) if matches(&self.format, value) => Ok(Some(value)),
            (_, Some(_)) => Err(violated(at, "the value does not have the required form")),
        }
    }
}

impl List {
    /// The values if they are to be sent.
    fn admit<'a>(&self, at: &str, values: &'a [String]) -> Result<Option<&'a [String]>> {
        if self.is_static {
            return Ok(None);
        }
        if values.len() > self.maxcount {
            return Err(violated(at, "there are more values than allowed").with("most", self.maxcount));
        }
        if values.len() < self.mincount {
            return Err(violated(at, "there are fewer values than required").with("least", self.mincount));
        }
        let fits = |value: &String| self.list.iter().any(|pattern| matches(pattern, value));
        if !values.iter().all(fits) {
            return Err(violated(at, "a value does not have an allowed form"));
        }
        Ok((!values.is_empty()).then_some(values))
    }
}

impl KeyPolicy {
    fn check(&self, csr: &[u8]) -> Result<()> {
        // The other form is signed with the private key, which nobody but the engine has.
        if self.key_format != "PKCS10" {
            let why = "the account's validation policy wants keys in another form than PKCS#10; have GlobalSign change \
                       `public_key.key_format` to PKCS10";
            return Err(Error::validation(OPERATION, "key_format_unsupported", why));
        }
        let (kind, bits) = key_of(csr)?;
        if kind != self.key_type {
            return Err(violated("public_key.key_type", "another type of key is required"));
        }
        if !self.allowed_lengths.contains(&bits) {
            return Err(violated("public_key.allowed_lengths", "another size of key is required").with("bits", bits));
        }
        Ok(())
    }
}

fn ignore<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<(), D::Error> {
    IgnoredAny::deserialize(deserializer).map(drop)
}

/// Type and size of a request's key, in the policy's words.
fn key_of(csr: &[u8]) -> Result<(&'static str, usize)> {
    let invalid = || Error::validation(OPERATION, "csr_invalid", "the certificate request cannot be read");
    let (_, request) = X509CertificationRequest::from_der(csr).map_err(|_| invalid())?;
    let key = &request.certification_request_info.subject_pki;
    match key.parsed().map_err(|_| invalid())? {
        PublicKey::RSA(key) => Ok(("RSA", key.key_size())),
        // The point is uncompressed: a byte, then two coordinates; those of P-521 have 66 bytes.
        PublicKey::EC(point) if key.algorithm.algorithm.to_id_string() == EC => {
            Ok(("ECDSA", ((point.data().len().saturating_sub(1)) / 2 * 8).min(521)))
        }
        _ => Ok(("other", 0)),
    }
}

/// Whether a value has this form. About a pattern that cannot be read, the CA decides.
fn matches(pattern: &str, value: &str) -> bool {
    match RegexBuilder::new(pattern).size_limit(PATTERN_MAX).build() {
        Ok(pattern) => pattern.is_match(value),
        Err(error) => {
            tracing::debug!(%error, "a pattern of the validation policy cannot be read");
            true
        }
    }
}

fn violated(field: &str, why: &str) -> Error {
    let message = format!("the account's validation policy does not allow this: {field}: {why}");
    Error::validation(OPERATION, "policy_violated", message).with("field", field)
}

#[cfg(test)]
mod tests;
