//! JWT: roles for whoever an identity provider vouches for. Keys are given (`jwt_validation_pubkeys`), not fetched.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::{
    super::{
        answer::{Answer, Outcome, Refusal},
        call::{Body, Call, Operation},
    },
    Grant, Login,
    identity::Verifier,
    role::{self, RoleTokens},
};

/// The roles at one mount, and whom it believes.
#[derive(Default)]
pub(super) struct Jwt {
    keys: Vec<String>,
    issuer: String,
    default_role: String,
    roles: BTreeMap<String, Role>,
}

#[derive(Clone, Default)]
struct Role {
    tokens: RoleTokens,
    user_claim: String,
    audiences: Vec<String>,
    subject: String,
    claims: Map<String, Value>,
}

impl Role {
    fn update(&mut self, body: &Body) -> Result<(), Refusal> {
        if !matches!(body.text("role_type")?, "jwt" | "") {
            return Err(Refusal::invalid("the simulator has roles of the type jwt only"));
        }
        self.tokens.update(body)?;
        body.text("user_claim")?.clone_into(&mut self.user_claim);
        if self.user_claim.is_empty() {
            return Err(Refusal::invalid("a user claim must be defined on the role"));
        }
        self.audiences = body.texts("bound_audiences")?.unwrap_or_default();
        body.text("bound_subject")?.clone_into(&mut self.subject);
        self.claims = body.object("bound_claims")?.cloned().unwrap_or_default();
        if self.audiences.is_empty() && self.subject.is_empty() && self.claims.is_empty() {
            let bounds = "must have at least one bound constraint when creating/updating a role";
            return Err(Refusal::invalid(bounds));
        }
        Ok(())
    }

    fn admits(&self, claims: &Map<String, Value>) -> bool {
        let has = |name: &str, wanted: &str| match claims.get(name) {
            Some(Value::String(value)) => value == wanted,
            Some(Value::Array(values)) => values.iter().any(|value| value == wanted),
            _ => false,
        };
        // As in Vault: who says for whom a token is must be asked for it.
        let audience = if self.audiences.is_empty() {
            !claims.contains_key("aud")
        } else {
            self.audiences.iter().any(|audience| has("aud", audience))
        };
        audience
            && (self.subject.is_empty() || has("sub", &self.subject))
            && self.claims.iter().all(|(name, wanted)| claims.get(name) == Some(wanted))
    }
}

impl Login for Jwt {
    fn kind(&self) -> &'static str {
        "jwt"
    }

    fn login(&mut self, call: &Call, now: OffsetDateTime) -> Result<Grant, Refusal> {
        let name = match call.body.text("role")? {
            "" => self.default_role.as_str(),
            name => name,
        };
        if name.is_empty() {
            return Err(Refusal::invalid("missing role"));
        }
        let role = self.roles.get(name).ok_or_else(|| Refusal::invalid(format!("role {name:?} could not be found")))?;
        let token = call.body.text("jwt")?;
        let keys = self.keys.iter().filter_map(|key| Verifier::parse(key));
        let claims = keys.into_iter().find_map(|key| key.claims(token, now));
        let claims = claims.ok_or_else(|| {
            Refusal::invalid("error validating token: no known key successfully validated the token signature")
        })?;
        if !self.issuer.is_empty() && claims.get("iss") != Some(&json!(self.issuer)) {
            return Err(Refusal::invalid("error validating token: invalid issuer (iss) claim"));
        }
        if !role.admits(&claims) {
            return Err(Refusal::invalid("error validating claims: they do not fit the role"));
        }
        let user = claims.get(&role.user_claim).and_then(Value::as_str);
        let user = user.ok_or_else(|| Refusal::invalid(format!("claim {:?} not found in token", role.user_claim)))?;
        Ok(role.tokens.grant(&format!("jwt-{user}")))
    }

    fn handle(&mut self, call: &Call, _now: OffsetDateTime) -> Outcome {
        match (call.operation, call.segments().as_slice()) {
            (Operation::Update, ["config"]) => {
                let keys = call.body.texts("jwt_validation_pubkeys")?.unwrap_or_default();
                if keys.is_empty() || !keys.iter().all(|key| Verifier::parse(key).is_some()) {
                    let why = "error parsing public key: the simulator wants P-256 keys in jwt_validation_pubkeys";
                    return Err(Refusal::invalid(why));
                }
                self.keys = keys;
                call.body.text("bound_issuer")?.clone_into(&mut self.issuer);
                call.body.text("default_role")?.clone_into(&mut self.default_role);
                Ok(Answer::nothing())
            }
            (Operation::Read, ["config"]) => Ok(Answer::data(json!({
                "jwt_validation_pubkeys": self.keys,
                "bound_issuer": self.issuer,
                "default_role": self.default_role,
            }))),
            (Operation::List, ["role"]) => role::list(&self.roles),
            (Operation::Update, ["role", name]) => {
                let mut role = self.roles.get(*name).cloned().unwrap_or_default();
                role.update(&call.body)?;
                self.roles.insert((*name).to_owned(), role);
                Ok(Answer::nothing())
            }
            (Operation::Read, ["role", name]) => {
                let role = self.roles.get(*name).ok_or_else(Refusal::absent)?;
                let mut data = role.tokens.describe();
                data.extend([
                    ("role_type".to_owned(), json!("jwt")),
                    ("user_claim".to_owned(), json!(role.user_claim)),
                    ("bound_audiences".to_owned(), json!(role.audiences)),
                    ("bound_subject".to_owned(), json!(role.subject)),
                    ("bound_claims".to_owned(), Value::Object(role.claims.clone())),
                ]);
                Ok(Answer::data(data.into()))
            }
            (Operation::Delete, ["role", name]) => {
                self.roles.remove(*name);
                Ok(Answer::nothing())
            }
            _ => Err(Refusal::unsupported_path()),
        }
    }
}
