//! AppRole: a role's id and one of its secrets, for machines.

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;
use time::OffsetDateTime;

use super::{
    super::{
        answer::{Answer, Outcome, Refusal},
        call::{Body, Call, Operation},
        random,
    },
    Grant, Login,
    role::{self, RoleTokens, count},
};

/// The roles at one mount.
#[derive(Default)]
pub(crate) struct AppRole {
    roles: BTreeMap<String, Role>,
}

#[derive(Clone)]
struct Role {
    id: String,
    tokens: RoleTokens,
    needs_secret: bool,
    /// How often each secret can be used; 0: no limit.
    secret_uses: u32,
    secret_ttl: Duration,
    secrets: BTreeMap<String, SecretId>,
}

#[derive(Clone)]
struct SecretId {
    accessor: String,
    left: Option<u32>,
    expires: Option<OffsetDateTime>,
}

impl Role {
    fn new() -> Self {
        Self {
            id: random::uuid(),
            tokens: RoleTokens::default(),
            needs_secret: true,
            secret_uses: 0,
            secret_ttl: Duration::ZERO,
            secrets: BTreeMap::new(),
        }
    }

    fn update(&mut self, body: &Body) -> Result<(), Refusal> {
        self.tokens.update(body)?;
        self.needs_secret = body.flag("bind_secret_id")?.unwrap_or(self.needs_secret);
        self.secret_uses = count(body, "secret_id_num_uses")?.unwrap_or(self.secret_uses);
        self.secret_ttl = body.period("secret_id_ttl")?.unwrap_or(self.secret_ttl);
        Ok(())
    }
}

impl Login for AppRole {
    fn kind(&self) -> &'static str {
        "approle"
    }

    /// `login`. As in Vault, a wrong role or secret is `400`, not `403`.
    fn login(&mut self, call: &Call, now: OffsetDateTime) -> Result<Grant, Refusal> {
        let body = &call.body;
        let wrong = || Refusal::invalid("invalid role or secret ID");
        let id = body.text("role_id")?.trim();
        if id.is_empty() {
            return Err(Refusal::invalid("missing role_id"));
        }
        let (name, role) = self.roles.iter_mut().find(|(_, role)| role.id == id).ok_or_else(wrong)?;
        if role.needs_secret {
            let text = body.text("secret_id")?.trim();
            if text.is_empty() {
                return Err(Refusal::invalid("missing secret_id"));
            }
            let secret = role.secrets.get_mut(text).ok_or_else(wrong)?;
            if secret.expires.is_some_and(|expires| expires <= now) {
                role.secrets.remove(text);
                return Err(wrong());
            }
            match &mut secret.left {
                Some(0 | 1) => drop(role.secrets.remove(text)),
                Some(left) => *left -= 1,
                None => {}
            }
        }
        Ok(role.tokens.grant(&format!("approle-{name}")))
    }

    fn handle(&mut self, call: &Call, now: OffsetDateTime) -> Outcome {
        match (call.operation, call.segments().as_slice()) {
            (Operation::List, ["role"]) => role::list(&self.roles),
            (Operation::Update, ["role", name]) => {
                let mut role = self.roles.get(*name).cloned().unwrap_or_else(Role::new);
                role.update(&call.body)?;
                self.roles.insert((*name).to_owned(), role);
                Ok(Answer::nothing())
            }
            (Operation::Read, ["role", name]) => {
                let role = self.roles.get(*name).ok_or_else(Refusal::absent)?;
                let mut data = role.tokens.describe();
                data.extend([
                    ("bind_secret_id".to_owned(), json!(role.needs_secret)),
                    ("secret_id_num_uses".to_owned(), json!(role.secret_uses)),
                    ("secret_id_ttl".to_owned(), json!(role.secret_ttl.as_secs())),
                ]);
                Ok(Answer::data(data.into()))
            }
            (Operation::Delete, ["role", name]) => {
                self.roles.remove(*name);
                Ok(Answer::nothing())
            }
            (operation, ["role", name, rest @ ..]) => {
                let role = self.roles.get_mut(*name).ok_or_else(Refusal::absent)?;
                part(role, operation, rest, call, now)
            }
            _ => Err(Refusal::unsupported_path()),
        }
    }
}

fn part(role: &mut Role, operation: Operation, path: &[&str], call: &Call, now: OffsetDateTime) -> Outcome {
    match (operation, path) {
        (Operation::Read, ["role-id"]) => Ok(Answer::data(json!({ "role_id": role.id }))),
        (Operation::Update, ["role-id"]) => {
            call.body.text("role_id")?.clone_into(&mut role.id);
            Ok(Answer::nothing())
        }
        (Operation::Update, ["secret-id"]) => {
            let uses = count(&call.body, "num_uses")?.unwrap_or(role.secret_uses);
            let ttl = call.body.period("ttl")?.unwrap_or(role.secret_ttl);
            let secret = SecretId {
                accessor: random::uuid(),
                left: (uses > 0).then_some(uses),
                expires: (!ttl.is_zero()).then(|| now + ttl),
            };
            let (text, accessor) = (random::uuid(), secret.accessor.clone());
            role.secrets.insert(text.clone(), secret);
            Ok(Answer::data(json!({
                "secret_id": text,
                "secret_id_accessor": accessor,
                "secret_id_num_uses": uses,
                "secret_id_ttl": ttl.as_secs(),
            })))
        }
        (Operation::List, ["secret-id"]) if role.secrets.is_empty() => Err(Refusal::absent()),
        (Operation::List, ["secret-id"]) => {
            let accessors: Vec<_> = role.secrets.values().map(|secret| &secret.accessor).collect();
            Ok(Answer::data(json!({ "keys": accessors })))
        }
        (Operation::Update, ["secret-id", "destroy"]) => {
            role.secrets.remove(call.body.text("secret_id")?);
            Ok(Answer::nothing())
        }
        _ => Err(Refusal::unsupported_path()),
    }
}
