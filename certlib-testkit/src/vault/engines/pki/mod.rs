//! The PKI engine: an authority in Vault, with several issuers of which one is the default.

mod issuers;
mod sign;

use std::collections::BTreeMap;

use rcgen::KeyPair;
use serde_json::{Value, json};
use time::OffsetDateTime;

use self::{
    issuers::{Issuers, serial, to_pem},
    sign::Der,
};
use super::{
    super::{
        answer::{Answer, Outcome, Refusal},
        call::{Body, Call, Operation},
    },
    Engine, Settings,
};

/// A PKI engine. Roles allow every name; nothing is revoked, and there are no CRLs.
#[derive(Default)]
pub(super) struct Pki {
    issuers: Issuers,
    roles: BTreeMap<String, Role>,
    /// What was issued and kept, by serial number.
    certificates: BTreeMap<String, Der>,
}

#[derive(Clone, Default)]
struct Role {
    no_store: bool,
    issuer: String,
}

impl Engine for Pki {
    fn kind(&self) -> &'static str {
        "pki"
    }

    fn exists(&self, path: &str) -> Option<bool> {
        Some(self.roles.contains_key(path.strip_prefix("roles/")?))
    }

    fn handle(&mut self, call: &Call, settings: &Settings, now: OffsetDateTime) -> Outcome {
        use Operation::{Delete, List, Patch, Read, Update};
        let body = &call.body;
        if settings.single_issuer && matches!(call.segments().as_slice(), ["issuers" | "issuer", ..] | [_, "issuers"]) {
            return Err(Refusal::unsupported_path());
        }
        match (call.operation, call.segments().as_slice()) {
            (List, ["issuers"]) => self.issuers.list(),
            (Update, ["issuers", "import", "bundle"] | ["config", "ca"]) => {
                self.issuers.import(body.text("pem_bundle")?, true)
            }
            (Update, ["issuers", "import", "cert"]) => self.issuers.import(body.text("pem_bundle")?, false),
            (Update, ["intermediate", "set-signed"]) => self.issuers.import(body.text("certificate")?, false),
            (Update, ["intermediate", "generate", kind]) => self.request(kind, body, now),
            (Update, ["root", "generate", kind]) => self.root(kind, body, now),
            (Delete, ["root"]) => {
                self.issuers.clear();
                Ok(Answer::nothing())
            }
            (Read, ["config", "issuers"]) => Ok(self.issuers.config()),
            (Update, ["config", "issuers"]) => self.issuers.configure(body),
            (Read, ["issuer", reference]) => self.issuers.describe(reference),
            (Update | Patch, ["issuer", reference]) => self.issuers.rename(reference, body),
            (Delete, ["issuer", reference]) => self.issuers.delete(reference),
            (List, ["roles"]) if self.roles.is_empty() => Err(Refusal::absent()),
            (List, ["roles"]) => Ok(Answer::data(json!({ "keys": self.roles.keys().collect::<Vec<_>>() }))),
            (Update, ["roles", name]) => {
                let mut role = self.roles.get(*name).cloned().unwrap_or_default();
                role.no_store = body.flag("no_store")?.unwrap_or(role.no_store);
                body.text("issuer_ref")?.clone_into(&mut role.issuer);
                self.roles.insert((*name).to_owned(), role);
                Ok(Answer::nothing())
            }
            (Read, ["roles", name]) => {
                let role = self.roles.get(*name).ok_or_else(Refusal::absent)?;
                Ok(Answer::data(json!({ "no_store": role.no_store, "issuer_ref": role.reference() })))
            }
            (Delete, ["roles", name]) => {
                self.roles.remove(*name);
                Ok(Answer::nothing())
            }
            (Update, ["issue", role]) => self.issue(role, None, body, now),
            (Update, ["sign", role]) => self.issue(role, Some(body.text("csr")?), body, now),
            (List, ["certs"]) if self.certificates.is_empty() => Err(Refusal::absent()),
            (List, ["certs"]) => Ok(Answer::data(json!({ "keys": self.certificates.keys().collect::<Vec<_>>() }))),
            (Read, ["cert", "ca"]) => {
                let (_, issuer) = self.issuers.find("default")?;
                Ok(Answer::data(json!({ "certificate": to_pem(&issuer.certificate) })))
            }
            (Read, ["cert", serial]) => {
                let found = self.certificates.get(*serial).ok_or_else(Refusal::absent)?;
                Ok(Answer::data(json!({ "certificate": to_pem(found), "revocation_time": 0 })))
            }
            _ => Err(Refusal::unsupported_path()),
        }
    }
}

impl Role {
    fn reference(&self) -> &str {
        if self.issuer.is_empty() { "default" } else { &self.issuer }
    }
}

impl Pki {
    fn key(&mut self, kind: &str) -> Result<(KeyPair, String), Refusal> {
        if !matches!(kind, "internal" | "exported") {
            return Err(Refusal::unsupported_path());
        }
        let key = KeyPair::generate().map_err(|_| Refusal::new(500, "no key can be made"))?;
        let (id, _) = self.issuers.add_key(&key.serialize_pem())?;
        Ok((key, id))
    }

    /// A key and a request for the certificate of an intermediate authority.
    fn request(&mut self, kind: &str, body: &Body, now: OffsetDateTime) -> Outcome {
        let (key, id) = self.key(kind)?;
        let csr = sign::request(&key, body, now)?;
        let mut data = json!({ "csr": csr, "key_id": id });
        if kind == "exported" {
            data["private_key"] = json!(key.serialize_pem());
        }
        Ok(Answer::data(data))
    }

    fn root(&mut self, kind: &str, body: &Body, now: OffsetDateTime) -> Outcome {
        let (key, key_id) = self.key(kind)?;
        let made = sign::root(&key, body, now)?;
        let imported = self.issuers.import(&to_pem(&made), false)?.into_data();
        let number = serial(&made).unwrap_or_default();
        self.certificates.insert(number.clone(), made.clone());
        let mut data = json!({
            "certificate": to_pem(&made),
            "issuing_ca": to_pem(&made),
            "issuer_id": imported["imported_issuers"][0],
            "key_id": key_id,
            "serial_number": number,
        });
        if kind == "exported" {
            data["private_key"] = json!(key.serialize_pem());
        }
        Ok(Answer::data(data))
    }

    fn issue(&mut self, role: &str, csr: Option<&str>, body: &Body, now: OffsetDateTime) -> Outcome {
        let role = self.roles.get(role).ok_or_else(|| Refusal::invalid(format!("unknown role: {role}")))?;
        let (issuer, key) = self.issuers.signer(role.reference())?;
        let (made, own) = sign::leaf((&issuer.certificate, key), csr, body, now)?;
        let number = serial(&made).unwrap_or_default();
        let mut data = json!({
            "certificate": to_pem(&made),
            "issuing_ca": to_pem(&issuer.certificate),
            "ca_chain": self.issuers.chain(issuer),
            "serial_number": number,
        });
        if let Some(own) = own {
            data["private_key"] = Value::String(own.serialize_pem());
            data["private_key_type"] = json!("ec");
        }
        if !role.no_store {
            self.certificates.insert(number, made);
        }
        Ok(Answer::data(data))
    }
}
