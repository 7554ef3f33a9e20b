//! The PKI engine: an authority in Vault, with several issuers of which one is the default.

mod issuers;
mod kept;
mod role;
mod sign;

use std::collections::BTreeMap;

use rcgen::KeyPair;
use serde_json::{Value, json};
use time::OffsetDateTime;

use self::{
    issuers::{Issuers, is_issued_by, is_root, serial, to_pem},
    kept::Kept,
    role::Role,
};
use super::{
    super::{
        answer::{Answer, Outcome, Refusal},
        call::{Body, Call, Operation},
    },
    Engine, Settings,
};
use crate::pki::CertificateRequest;

/// A PKI engine. There are no CRLs.
#[derive(Default)]
pub(super) struct Pki {
    issuers: Issuers,
    roles: BTreeMap<String, Role>,
    certificates: Kept,
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
                self.roles.insert((*name).to_owned(), Role::read(body)?);
                Ok(Answer::nothing())
            }
            (Read, ["roles", name]) => Ok(Answer::data(self.role(name)?.describe())),
            (Delete, ["roles", name]) => {
                self.roles.remove(*name);
                Ok(Answer::nothing())
            }
            (Update, ["issue", role]) => self.issue(None, role, body, now),
            (Update, ["issuer", issuer, "issue", role]) => self.issue(Some(*issuer), role, body, now),
            (Update, ["sign", role]) => self.sign(None, role, body, now),
            (Update, ["issuer", issuer, "sign", role]) => self.sign(Some(*issuer), role, body, now),
            (Update, ["revoke"]) => self.revoke(body, now),
            (List, ["certs"]) => self.certificates.list(),
            (Read, ["cert", "ca"]) => {
                let (_, issuer) = self.issuers.find("default")?;
                Ok(Answer::data(json!({ "certificate": to_pem(&issuer.certificate) })))
            }
            (Read, ["cert", serial]) => self.certificates.describe(serial),
            _ => Err(Refusal::unsupported_path()),
        }
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
        self.certificates.insert(&made);
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

    fn role(&self, name: &str) -> Result<&Role, Refusal> {
        self.roles.get(name).ok_or_else(Refusal::absent)
    }

    fn issue(&mut self, issuer: Option<&str>, role: &str, body: &Body, now: OffsetDateTime) -> Outcome {
        self.certify(issuer, role, None, body, now)
    }

    fn sign(&mut self, issuer: Option<&str>, role: &str, body: &Body, now: OffsetDateTime) -> Outcome {
        let csr = body.text("csr")?;
        // Only PEM will do.
        let csr = CertificateRequest::read(csr).ok().filter(|read| csr.contains("-----BEGIN") && read.key.is_usual());
        let csr = csr.ok_or_else(|| Refusal::invalid("\"csr\" contains no data, or no request that is signed well"))?;
        self.certify(issuer, role, Some(&csr), body, now)
    }

    fn certify(
        &mut self,
        issuer: Option<&str>,
        role: &str,
        csr: Option<&CertificateRequest>,
        body: &Body,
        now: OffsetDateTime,
    ) -> Outcome {
        let role = self.role(role).map_err(|_| Refusal::invalid(format!("unknown role: {role}")))?;
        let (issuer, key) = self.issuers.signer(issuer.unwrap_or(role.reference()))?;
        let subject = role.subject(csr, body)?;
        let (ttl, warnings) = role.validity(body)?;
        let until = now + ttl;
        let public_key = csr.map(|csr| csr.public_key.as_slice());
        let (made, own) = sign::leaf((&issuer.certificate, key), &subject, public_key, now, until)?;
        let mut chain = self.issuers.chain(issuer);
        if body.flag("remove_roots_from_chain")? == Some(true) {
            chain.retain(|certificate| !is_root(certificate));
        }
        let mut data = json!({
            "certificate": to_pem(&made),
            "issuing_ca": to_pem(&issuer.certificate),
            "ca_chain": chain,
            "serial_number": serial(&made),
            "expiration": until.unix_timestamp(),
        });
        if let Some(own) = own {
            data["private_key"] = Value::String(own.serialize_pem());
            data["private_key_type"] = json!("ec");
        }
        if !role.no_store {
            self.certificates.insert(&made);
        }
        Ok(Answer::data(data).warn(&warnings))
    }

    /// Revokes by serial number what is kept, or what is shown.
    fn revoke(&mut self, body: &Body, now: OffsetDateTime) -> Outcome {
        let (number, shown) = (body.text("serial_number")?, body.text("certificate")?);
        match (number, shown) {
            ("", "") => Err(Refusal::invalid("The serial number or certificate to revoke must be provided.")),
            (number, "") => self.certificates.revoke(number, now),
            ("", shown) => {
                let shown = pem::parse(shown).map_err(|_| Refusal::invalid("certificate contains no PEM data"))?;
                let is_own = self.issuers.certificates().any(|issuer| is_issued_by(shown.contents(), issuer));
                if !is_own {
                    return Err(Refusal::invalid("certificate not issued by this mount"));
                }
                let number = self.certificates.insert(shown.contents());
                self.certificates.revoke(&number, now)
            }
            _ => Err(Refusal::invalid("Must provide either the certificate or the serial to revoke; not both.")),
        }
    }
}
