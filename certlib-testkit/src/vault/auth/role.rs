//! What roles of all login methods have in common.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Map, Value, json};

use super::{
    super::{
        acl,
        answer::{Answer, Outcome, Refusal},
        call::Body,
    },
    Grant,
};

/// How long a login lasts when the role does not say.
const DEFAULT_TTL: Duration = Duration::from_secs(32 * 24 * 3_600);

/// The tokens that a role gives out.
#[derive(Clone, Default)]
pub(super) struct RoleTokens {
    policies: Vec<String>,
    ttl: Duration,
    max_ttl: Duration,
    uses: u32,
}

impl RoleTokens {
    /// Takes over the fields that are given.
    pub(super) fn update(&mut self, body: &Body) -> Result<(), Refusal> {
        let policies = body.texts("token_policies")?.or(body.texts("policies")?);
        self.policies = policies.unwrap_or_else(|| self.policies.clone());
        self.ttl = body.period("token_ttl")?.unwrap_or(self.ttl);
        self.max_ttl = body.period("token_max_ttl")?.unwrap_or(self.max_ttl);
        self.uses = count(body, "token_num_uses")?.unwrap_or(self.uses);
        Ok(())
    }

    pub(super) fn describe(&self) -> Map<String, Value> {
        Map::from_iter([
            ("token_policies".to_owned(), json!(self.policies)),
            ("token_ttl".to_owned(), json!(self.ttl.as_secs())),
            ("token_max_ttl".to_owned(), json!(self.max_ttl.as_secs())),
            ("token_num_uses".to_owned(), json!(self.uses)),
        ])
    }

    pub(super) fn grant(&self, display_name: &str) -> Grant {
        let mut policies = self.policies.clone();
        if !policies.iter().any(|policy| policy == acl::DEFAULT) {
            policies.insert(0, acl::DEFAULT.to_owned());
        }
        let given = |period: Duration| (!period.is_zero()).then_some(period);
        Grant {
            policies,
            ttl: given(self.ttl).or(Some(DEFAULT_TTL)),
            max_ttl: given(self.max_ttl).or(Some(DEFAULT_TTL)),
            uses: self.uses,
            renewable: true,
            display_name: display_name.to_owned(),
        }
    }
}

/// The names of all roles; `404` when there are none.
pub(super) fn list<T>(roles: &BTreeMap<String, T>) -> Outcome {
    let names: Vec<_> = roles.keys().collect();
    if names.is_empty() { Err(Refusal::absent()) } else { Ok(Answer::data(json!({ "keys": names }))) }
}

/// A number that cannot be negative.
pub(super) fn count(body: &Body, field: &str) -> Result<Option<u32>, Refusal> {
    let number = body.number(field)?;
    number
        .map(|number| u32::try_from(number).map_err(|_| Refusal::invalid(format!("{field} cannot be negative"))))
        .transpose()
}
