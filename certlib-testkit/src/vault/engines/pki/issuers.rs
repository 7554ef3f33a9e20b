//! The issuers of a PKI engine, their keys, and which of them is the default one.

use std::collections::BTreeMap;

use rcgen::{KeyPair, PublicKeyData as _};
use serde_json::{Map, Value, json};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::super::super::{
    answer::{Answer, Outcome, Refusal},
    call::Body,
    random,
};

/// How the default issuer is called in paths.
const DEFAULT: &str = "default";

/// All issuers and keys.
#[derive(Default)]
pub(super) struct Issuers {
    by_id: BTreeMap<String, Issuer>,
    keys: BTreeMap<String, Key>,
    default: String,
    follows_latest: bool,
}

/// A certificate that issues, with its key if there is one.
pub(super) struct Issuer {
    pub(super) certificate: Vec<u8>,
    name: String,
    key: Option<String>,
    serial: String,
}

struct Key {
    pem: String,
    /// The encoded public key.
    public: Vec<u8>,
}

/// What an import has found.
#[derive(Default)]
struct Imported {
    issuers: Vec<String>,
    keys: Vec<String>,
    existing_issuers: Vec<String>,
    existing_keys: Vec<String>,
    mapping: Map<String, Value>,
}

impl Issuers {
    /// Takes over the certificates and keys of a bundle. What is there already is only named.
    pub(super) fn import(&mut self, text: &str, keys_allowed: bool) -> Outcome {
        let blocks = pem::parse_many(text).map_err(|_| Refusal::invalid("no data found in PEM block"))?;
        if blocks.is_empty() {
            return Err(Refusal::invalid("'pem_bundle' parameter was empty"));
        }
        let (certificates, keys): (Vec<_>, Vec<_>) = blocks.iter().partition(|block| block.tag() == "CERTIFICATE");
        if !keys.is_empty() && !keys_allowed {
            return Err(Refusal::invalid("private keys found in the PEM bundle but not allowed by the path"));
        }
        for certificate in &certificates {
            check_authority(certificate.contents())?;
        }
        let mut imported = Imported::default();
        for key in keys {
            let (id, new) = self.add_key(&pem::encode(key))?;
            if new { &mut imported.keys } else { &mut imported.existing_keys }.push(id);
        }
        for certificate in certificates {
            let (id, new) = self.add_issuer(certificate.contents())?;
            let key = self.by_id.get(&id).and_then(|issuer| issuer.key.clone()).unwrap_or_default();
            imported.mapping.insert(id.clone(), json!(key));
            if new { &mut imported.issuers } else { &mut imported.existing_issuers }.push(id);
        }
        self.follow(&imported);
        let list = |ids: &[String]| if ids.is_empty() { Value::Null } else { json!(ids) };
        Ok(Answer::data(json!({
            "imported_issuers": list(&imported.issuers),
            "imported_keys": list(&imported.keys),
            "existing_issuers": list(&imported.existing_issuers),
            "existing_keys": list(&imported.existing_keys),
            "mapping": imported.mapping,
        })))
    }

    /// The first issuer with a key becomes the default one; later ones only if that is configured, and unambiguous.
    fn follow(&mut self, imported: &Imported) {
        let able = |id: &&String| self.by_id.get(*id).is_some_and(|issuer| issuer.key.is_some());
        let fresh: Vec<_> = imported.issuers.iter().filter(able).cloned().collect();
        if let [only] = fresh.as_slice()
            && (self.default.is_empty() || self.follows_latest)
        {
            self.default.clone_from(only);
        } else if self.default.is_empty()
            && let Some(first) = fresh.first().or(imported.issuers.first())
        {
            self.default.clone_from(first);
        }
    }

    pub(super) fn add_key(&mut self, text: &str) -> Result<(String, bool), Refusal> {
        let unusable = || Refusal::invalid("unable to parse the private key: the simulator wants PKCS #8");
        let public = KeyPair::from_pem(text).map_err(|_| unusable())?.subject_public_key_info();
        if let Some((id, _)) = self.keys.iter().find(|(_, key)| key.public == public) {
            return Ok((id.clone(), false));
        }
        let id = random::uuid();
        for issuer in self.by_id.values_mut().filter(|issuer| issuer.key.is_none()) {
            if public_key(&issuer.certificate).as_ref() == Some(&public) {
                issuer.key = Some(id.clone());
            }
        }
        self.keys.insert(id.clone(), Key { pem: text.to_owned(), public });
        Ok((id, true))
    }

    fn add_issuer(&mut self, certificate: &[u8]) -> Result<(String, bool), Refusal> {
        if let Some((id, _)) = self.by_id.iter().find(|(_, issuer)| issuer.certificate == certificate) {
            return Ok((id.clone(), false));
        }
        let public = public_key(certificate);
        let key = self.keys.iter().find(|(_, key)| Some(&key.public) == public.as_ref()).map(|(id, _)| id.clone());
        let serial = serial(certificate).ok_or_else(|| Refusal::invalid("unable to parse the certificate"))?;
        let id = random::uuid();
        let issuer = Issuer { certificate: certificate.to_vec(), name: String::new(), key, serial };
        self.by_id.insert(id.clone(), issuer);
        Ok((id, true))
    }

    /// An issuer by id, name, or as the default one, with its id.
    pub(super) fn find(&self, reference: &str) -> Result<(&str, &Issuer), Refusal> {
        let reference = if reference == DEFAULT { self.default.as_str() } else { reference };
        let found = self
            .by_id
            .iter()
            .find(|(id, issuer)| !reference.is_empty() && (id.as_str() == reference || issuer.name == reference));
        let unknown = || Refusal::new(404, "unable to find PKI issuer for reference: ".to_owned() + reference);
        found.map(|(id, issuer)| (id.as_str(), issuer)).ok_or_else(unknown)
    }

    /// The issuer and its key, PEM.
    pub(super) fn signer(&self, reference: &str) -> Result<(&Issuer, &str), Refusal> {
        let (_, issuer) = self.find(reference).map_err(|refusal| Refusal { status: 500, ..refusal })?;
        let key = issuer.key.as_ref().and_then(|id| self.keys.get(id));
        let key = key.ok_or_else(|| Refusal::new(500, "the issuer has no key"))?;
        Ok((issuer, &key.pem))
    }

    /// The certificates of all issuers.
    pub(super) fn certificates(&self) -> impl Iterator<Item = &[u8]> {
        self.by_id.values().map(|issuer| issuer.certificate.as_slice())
    }

    pub(super) fn list(&self) -> Outcome {
        if self.by_id.is_empty() {
            return Err(Refusal::absent());
        }
        let info = self.by_id.iter().map(|(id, issuer)| {
            let about = json!({
                "issuer_name": issuer.name,
                "is_default": *id == self.default,
                "key_id": issuer.key.clone().unwrap_or_default(),
                "serial_number": issuer.serial,
            });
            (id.clone(), about)
        });
        let info: Map<String, Value> = info.collect();
        Ok(Answer::data(json!({ "keys": self.by_id.keys().collect::<Vec<_>>(), "key_info": info })))
    }

    pub(super) fn describe(&self, reference: &str) -> Outcome {
        let (id, issuer) = self.find(reference)?;
        Ok(Answer::data(json!({
            "issuer_id": id,
            "issuer_name": issuer.name,
            "key_id": issuer.key.clone().unwrap_or_default(),
            "certificate": to_pem(&issuer.certificate),
            "ca_chain": self.chain(issuer),
            "manual_chain": null,
            "usage": "crl-signing,issuing-certificates,ocsp-signing,read-only",
            "leaf_not_after_behavior": "err",
            "revoked": false,
        })))
    }

    /// The issuer and those above it that are here, PEM.
    pub(super) fn chain(&self, issuer: &Issuer) -> Vec<String> {
        let mut chain = vec![&issuer.certificate];
        while let Some(last) = chain.last() {
            let above = self.by_id.values().map(|issuer| &issuer.certificate);
            let Some(next) = above.into_iter().find(|above| is_issued_by(last, above) && !chain.contains(above)) else {
                break;
            };
            chain.push(next);
        }
        chain.into_iter().map(|certificate| to_pem(certificate)).collect()
    }

    pub(super) fn rename(&mut self, reference: &str, body: &Body) -> Outcome {
        let id = self.find(reference)?.0.to_owned();
        let name = body.text("issuer_name")?;
        let taken = self.by_id.iter().any(|(other, issuer)| *other != id && !name.is_empty() && issuer.name == name);
        if taken || name == DEFAULT {
            return Err(Refusal::invalid("issuer name already in use"));
        }
        if let Some(issuer) = self.by_id.get_mut(&id) {
            name.clone_into(&mut issuer.name);
        }
        self.describe(&id)
    }

    pub(super) fn delete(&mut self, reference: &str) -> Outcome {
        let id = self.find(reference)?.0.to_owned();
        self.by_id.remove(&id);
        if self.default == id {
            self.default.clear();
        }
        Ok(Answer::nothing())
    }

    /// Removes all issuers and keys.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn config(&self) -> Answer {
        Answer::data(json!({ "default": self.default, "default_follows_latest_issuer": self.follows_latest }))
    }

    pub(super) fn configure(&mut self, body: &Body) -> Outcome {
        let wanted = body.text("default")?;
        if wanted.is_empty() || wanted == DEFAULT {
            return Err(Refusal::invalid("Invalid issuer specification; must be non-empty and can't be 'default'."));
        }
        let (id, has_key) = self.find(wanted).map(|(id, issuer)| (id.to_owned(), issuer.key.is_some()))?;
        self.default = id;
        self.follows_latest = body.flag("default_follows_latest_issuer")?.unwrap_or(false);
        let warning = "This selected default issuer has no key associated with it.".to_owned();
        Ok(if has_key { self.config() } else { self.config().warn(&[warning]) })
    }
}

/// Serial numbers as Vault writes them: pairs of digits with colons.
pub(super) fn serial(certificate: &[u8]) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.raw_serial_as_string())
}

pub(super) fn to_pem(certificate: &[u8]) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new("CERTIFICATE", certificate), config).trim_end().to_owned()
}

/// Whether a certificate, PEM, is one that signs itself.
pub(super) fn is_root(pem: &str) -> bool {
    pem::parse(pem).is_ok_and(|read| is_issued_by(read.contents(), read.contents()))
}

fn check_authority(certificate: &[u8]) -> Result<(), Refusal> {
    let parsed = X509Certificate::from_der(certificate);
    let (_, parsed) = parsed.map_err(|_| Refusal::invalid("unable to parse the certificate"))?;
    if parsed.is_ca() {
        return Ok(());
    }
    Err(Refusal::invalid("unable to verify imported certificate: issuer certificate is not a CA"))
}

fn public_key(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.public_key().raw.to_vec())
}

pub(super) fn is_issued_by(certificate: &[u8], issuer: &[u8]) -> bool {
    let parsed = (X509Certificate::from_der(certificate), X509Certificate::from_der(issuer));
    let (Ok((_, certificate)), Ok((_, issuer))) = parsed else { return false };
    certificate.issuer() == issuer.subject() && certificate.verify_signature(Some(issuer.public_key())).is_ok()
}
