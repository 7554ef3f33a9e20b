//! AppRole: a role's id and one of its secrets, for machines.

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;
use time::OffsetDateTime;

use super::{
    super::{
        acl,
        answer::{Answer, Outcome, Refusal},
        call::{Body, Call, Operation},
        random,
    },
    Grant,
};

/// How long a login lasts when the role does not say.
const DEFAULT_TTL: Duration = Duration::from_secs(32 * 24 * 3_600);

/// The roles at one mount.
#[derive(Default)]
pub(crate) struct AppRole {
    roles: BTreeMap<String, Role>,
}

#[derive(Clone)]
struct Role {
    id: String,
    policies: Vec<String>,
    token_ttl: Duration,
    token_max_ttl: Duration,
    token_uses: u32,
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
            policies: Vec::new(),
            token_ttl: Duration::ZERO,
            token_max_ttl: Duration::ZERO,
            token_uses: 0,
            needs_secret: true,
            secret_uses: 0,
            secret_ttl: Duration::ZERO,
            secrets: BTreeMap::new(),
        }
    }

    fn update(&mut self, body: &Body) -> Result<(), Refusal> {
        let policies = body.texts("token_policies")?.or(body.texts("policies")?);
        self.policies = policies.unwrap_or_else(|| self.policies.clone());
        self.token_ttl = body.period("token_ttl")?.unwrap_or(self.token_ttl);
        self.token_max_ttl = body.period("token_max_ttl")?.unwrap_or(self.token_max_ttl);
        self.token_uses = count(body, "token_num_uses")?.unwrap_or(self.token_uses);
        self.needs_secret = body.flag("bind_secret_id")?.unwrap_or(self.needs_secret);
        self.secret_uses = count(body, "secret_id_num_uses")?.unwrap_or(self.secret_uses);
        self.secret_ttl = body.period("secret_id_ttl")?.unwrap_or(self.secret_ttl);
        Ok(())
    }

    fn grant(&self, name: &str) -> Grant {
        let mut policies = self.policies.clone();
        if !policies.iter().any(|policy| policy == acl::DEFAULT) {
            policies.insert(0, acl::DEFAULT.to_owned());
        }
        let given = |period: Duration| (!period.is_zero()).then_some(period);
        Grant {
            policies,
            ttl: given(self.token_ttl).or(Some(DEFAULT_TTL)),
            max_ttl: given(self.token_max_ttl).or(Some(DEFAULT_TTL)),
            uses: self.token_uses,
            renewable: true,
            display_name: format!("approle-{name}"),
        }
    }
}

impl AppRole {
    /// `login`. As in Vault, a wrong role or secret is `400`, not `403`.
    pub(in super::super) fn login(&mut self, body: &Body, now: OffsetDateTime) -> Result<Grant, Refusal> {
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
        Ok(role.grant(name))
    }

    /// Everything else; the path is what follows the mount.
    pub(in super::super) fn handle(&mut self, call: &Call, now: OffsetDateTime) -> Outcome {
        match (call.operation, call.segments().as_slice()) {
            (Operation::List, ["role"]) => {
                let names: Vec<_> = self.roles.keys().collect();
                if names.is_empty() { Err(Refusal::absent()) } else { Ok(Answer::data(json!({ "keys": names }))) }
            }
            (Operation::Update, ["role", name]) => {
                let mut role = self.roles.get(*name).cloned().unwrap_or_else(Role::new);
                role.update(&call.body)?;
                self.roles.insert((*name).to_owned(), role);
                Ok(Answer::nothing())
            }
            (Operation::Read, ["role", name]) => {
                let role = self.roles.get(*name).ok_or_else(Refusal::absent)?;
                Ok(Answer::data(json!({
                    "bind_secret_id": role.needs_secret,
                    "secret_id_num_uses": role.secret_uses,
                    "secret_id_ttl": role.secret_ttl.as_secs(),
                    "token_policies": role.policies,
                    "token_ttl": role.token_ttl.as_secs(),
                    "token_max_ttl": role.token_max_ttl.as_secs(),
                    "token_num_uses": role.token_uses,
                })))
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

fn count(body: &Body, field: &str) -> Result<Option<u32>, Refusal> {
    let number = body.number(field)?;
    number
        .map(|number| u32::try_from(number).map_err(|_| Refusal::invalid(format!("{field} cannot be negative"))))
        .transpose()
}
