//! What may be ordered, and for whom: profiles, organisations, custom fields.

use serde_json::{Value, json};

use super::{
    answer::{Answer, Outcome, Refusal},
    call::Call,
    state::State,
};
use crate::pki::CertificateRequest;

/// A certificate profile, which the API calls a type.
#[derive(Clone, Debug)]
pub(super) struct Profile {
    pub(super) id: i64,
    pub(super) name: String,
    /// Days.
    pub(super) terms: Vec<i64>,
    pub(super) renewable: bool,
}

/// An organisation.
#[derive(Debug)]
pub(super) struct Organization {
    pub(super) id: i64,
    pub(super) name: String,
}

/// A field that orders carry, because the customer wants it.
#[derive(Debug)]
pub(super) struct CustomField {
    pub(super) id: i64,
    pub(super) name: String,
    pub(super) mandatory: bool,
}

impl Profile {
    pub(super) fn shown(&self) -> Value {
        json!({
            "id": self.id,
            "name": self.name,
            "description": "",
            "terms": self.terms,
            "keyTypes": { "RSA": ["2048", "3072", "4096"], "EC": ["P-256", "P-384"] },
            "useSecondaryOrgName": false,
        })
    }

    /// Whether the key may be used.
    pub(super) fn check_key(asked: &CertificateRequest) -> Result<(), Refusal> {
        match (asked.key.algorithm, asked.key.bits) {
            ("RSA", 2048 | 3072 | 4096) | ("ECDSA", 256 | 384) => Ok(()),
            _ => Err(Refusal::bad(-13, "The CSR uses an unsupported key size!")),
        }
    }
}

impl State {
    pub(super) fn types(&self, call: &Call) -> Outcome {
        if let Some(id) = call.param("organizationId") {
            self.check_organization(id.parse().ok())?;
        }
        Ok(Answer::ok(self.profiles.iter().map(Profile::shown).collect::<Vec<_>>().into()))
    }

    pub(super) fn fields(&self) -> Answer {
        let shown = |field: &CustomField| json!({ "id": field.id, "name": field.name, "mandatory": field.mandatory });
        Answer::ok(self.custom_fields.iter().map(shown).collect::<Vec<_>>().into())
    }

    pub(super) fn organizations(&self, call: &Call, path: &[&str]) -> Outcome {
        let shown = |organization: &Organization| json!({ "id": organization.id, "name": organization.name, "departments": [] });
        match (call.method.as_str(), path) {
            ("GET", []) => Ok(Answer::ok(self.organizations.iter().map(shown).collect::<Vec<_>>().into())),
            ("GET", [id]) => {
                let found = self.organizations.iter().find(|known| known.id.to_string() == *id);
                let absent = || Refusal::new(404, -639, "Supplied orgid invalid.");
                found.map(|organization| Answer::ok(shown(organization))).ok_or_else(absent)
            }
            _ => Err(Refusal::no_such_api()),
        }
    }

    pub(super) fn check_organization(&self, id: Option<i64>) -> Result<i64, Refusal> {
        let known = self.organizations.iter().map(|known| known.id).find(|known| Some(*known) == id);
        known.ok_or_else(|| Refusal::bad(-639, "Supplied orgid invalid."))
    }

    /// The custom fields of an order.
    pub(super) fn read_fields(&self, call: &Call) -> Result<Vec<(String, String)>, Refusal> {
        let given = call.body["customFields"].as_array().cloned().unwrap_or_default();
        let mut fields = Vec::new();
        for field in &given {
            let (Some(name), Some(value)) = (field["name"].as_str(), field["value"].as_str()) else {
                return Err(Refusal::invalid("customFields"));
            };
            if !self.custom_fields.iter().any(|known| known.name == name) {
                return Err(Refusal::bad(-135, "Custom field cannot be found."));
            }
            fields.push((name.to_owned(), value.to_owned()));
        }
        let lacks = |known: &&CustomField| {
            known.mandatory && !fields.iter().any(|(name, value)| *name == known.name && !value.is_empty())
        };
        match self.custom_fields.iter().find(lacks) {
            Some(_) => Err(Refusal::bad(-62, "Missing mandatory custom field!")),
            None => Ok(fields),
        }
    }
}
