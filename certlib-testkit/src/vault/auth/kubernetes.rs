//! Kubernetes: roles for service accounts. The simulator is the API server too, and knows its own tokens.

use std::collections::BTreeMap;

use serde_json::json;
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

/// The roles at one mount.
pub(super) struct Kubernetes {
    cluster: Verifier,
    host: String,
    roles: BTreeMap<String, Role>,
}

#[derive(Clone, Default)]
struct Role {
    tokens: RoleTokens,
    names: Vec<String>,
    namespaces: Vec<String>,
    audience: String,
}

impl Role {
    fn update(&mut self, body: &Body) -> Result<(), Refusal> {
        self.tokens.update(body)?;
        self.names = body.texts("bound_service_account_names")?.unwrap_or_else(|| self.names.clone());
        self.namespaces = body.texts("bound_service_account_namespaces")?.unwrap_or_else(|| self.namespaces.clone());
        body.text("audience")?.clone_into(&mut self.audience);
        if self.names.is_empty() || self.namespaces.is_empty() {
            return Err(Refusal::invalid("\"bound_service_account_names\" and namespaces can not be empty"));
        }
        Ok(())
    }
}

impl Kubernetes {
    /// For a cluster whose tokens `cluster` verifies.
    pub(super) fn new(cluster: Verifier) -> Self {
        Self { cluster, host: String::new(), roles: BTreeMap::new() }
    }
}

impl Login for Kubernetes {
    fn kind(&self) -> &'static str {
        "kubernetes"
    }

    /// As in Vault, an account that the role does not name is `403`.
    fn login(&mut self, call: &Call, now: OffsetDateTime) -> Result<Grant, Refusal> {
        let (name, token) = (call.body.text("role")?, call.body.text("jwt")?);
        if name.is_empty() || token.is_empty() {
            return Err(Refusal::invalid(if name.is_empty() { "missing role" } else { "missing jwt" }));
        }
        if self.host.is_empty() {
            return Err(Refusal::new(500, "could not load backend configuration"));
        }
        let role = self.roles.get(name).ok_or_else(|| Refusal::invalid(format!("invalid role name {name:?}")))?;
        let claims = self.cluster.claims(token, now).ok_or_else(Refusal::denied)?;
        let subject = claims.get("sub").and_then(|subject| subject.as_str()).unwrap_or_default();
        let account = subject.strip_prefix("system:serviceaccount:").and_then(|account| account.split_once(':'));
        let (namespace, account) = account.ok_or_else(Refusal::denied)?;
        let fits = |bound: &[String], name: &str| bound.iter().any(|bound| bound == "*" || bound == name);
        let asked = role.audience.is_empty() || claims.get("aud") == Some(&json!(role.audience));
        if !asked || !fits(&role.names, account) || !fits(&role.namespaces, namespace) {
            return Err(Refusal::denied());
        }
        Ok(role.tokens.grant(&format!("kubernetes-{namespace}-{account}")))
    }

    fn handle(&mut self, call: &Call, _now: OffsetDateTime) -> Outcome {
        match (call.operation, call.segments().as_slice()) {
            (Operation::Update, ["config"]) => {
                call.body.text("kubernetes_host")?.clone_into(&mut self.host);
                if self.host.is_empty() {
                    return Err(Refusal::invalid("no host provided"));
                }
                Ok(Answer::nothing())
            }
            (Operation::Read, ["config"]) => Ok(Answer::data(json!({ "kubernetes_host": self.host }))),
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
                    ("bound_service_account_names".to_owned(), json!(role.names)),
                    ("bound_service_account_namespaces".to_owned(), json!(role.namespaces)),
                    ("audience".to_owned(), json!(role.audience)),
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
