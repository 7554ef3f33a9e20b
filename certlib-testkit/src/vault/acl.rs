//! Policies: which token may do what to which path.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{answer::Refusal, call::Operation};

/// The name of the policy that allows everything.
pub(super) const ROOT: &str = "root";
/// The name of the policy that every token has besides.
pub(super) const DEFAULT: &str = "default";

/// Rules about paths. The most specific rule that fits a path decides: an exact one before a pattern, a longer pattern
/// before a shorter one. `*` at the end stands for anything, `+` for one part of the path.
#[derive(Clone, Debug, Default)]
pub(super) struct Policy {
    rules: Vec<(String, BTreeSet<String>)>,
}

impl Policy {
    pub(super) fn new(rules: impl IntoIterator<Item = (String, Vec<String>)>) -> Self {
        let rules = rules.into_iter().map(|(path, capabilities)| (path, capabilities.into_iter().collect()));
        Self { rules: rules.collect() }
    }

    /// What every token may do: look after itself.
    pub(super) fn default_one() -> Self {
        let rule = |path: &str, capability: &str| (path.to_owned(), vec![capability.to_owned()]);
        Self::new([
            rule("auth/token/lookup-self", "read"),
            rule("auth/token/renew-self", "update"),
            rule("auth/token/revoke-self", "update"),
            rule("sys/capabilities-self", "update"),
            rule("sys/internal/ui/mounts/*", "read"),
        ])
    }

    /// Reads the JSON form of a policy: `{"path": {"secret/*": {"capabilities": ["read"]}}}`.
    pub(super) fn parse(text: &str) -> Result<Self, Refusal> {
        let unreadable = || Refusal::invalid("failed to parse policy: the simulator reads the JSON form only");
        let value: Value = serde_json::from_str(text).map_err(|_| unreadable())?;
        let paths = value.get("path").and_then(Value::as_object).ok_or_else(unreadable)?;
        let rules = paths.iter().map(|(path, rule)| {
            let names = rule.get("capabilities").and_then(Value::as_array).ok_or_else(unreadable)?;
            let names = names.iter().map(|name| name.as_str().map(str::to_owned).ok_or_else(unreadable));
            Ok((path.clone(), names.collect::<Result<_, _>>()?))
        });
        Ok(Self { rules: rules.collect::<Result<_, Refusal>>()? })
    }

    /// The JSON form.
    pub(super) fn to_json(&self) -> String {
        let paths = self.rules.iter().map(|(path, names)| (path.clone(), json!({ "capabilities": names })));
        json!({ "path": paths.collect::<Map<_, _>>() }).to_string()
    }
}

/// What a token with these policies may do to a path; empty for nothing.
pub(super) fn capabilities<'a>(policies: impl IntoIterator<Item = &'a Policy>, path: &str) -> BTreeSet<String> {
    let path = path.trim_end_matches('/');
    let mut best: Option<(bool, usize)> = None;
    let mut found = BTreeSet::new();
    for (pattern, names) in policies.into_iter().flat_map(|policy| &policy.rules) {
        if !fits(pattern, path) {
            continue;
        }
        let rank = (!pattern.contains(['*', '+']), pattern.len());
        if best.is_none_or(|best| rank > best) {
            best = Some(rank);
            found.clear();
        }
        if best == Some(rank) {
            found.extend(names.iter().cloned());
        }
    }
    if found.contains("deny") { BTreeSet::new() } else { found }
}

/// Whether one of `capabilities` allows the operation. A write to something that is not there yet needs `create`.
pub(super) fn allows(capabilities: &BTreeSet<String>, operation: Operation, exists: Option<bool>) -> bool {
    let has = |name: &str| capabilities.contains(name);
    has(ROOT)
        || match (operation, exists) {
            (Operation::Read, _) => has("read"),
            (Operation::List, _) => has("list"),
            (Operation::Delete, _) => has("delete"),
            (Operation::Patch, _) => has("patch"),
            (Operation::Update, Some(true)) => has("update"),
            (Operation::Update, Some(false)) => has("create"),
            (Operation::Update, None) => has("update") || has("create"),
        }
}

fn fits(pattern: &str, path: &str) -> bool {
    let (pattern, open) = match pattern.strip_suffix('*') {
        Some(prefix) => (prefix, true),
        None => (pattern.trim_end_matches('/'), false),
    };
    if !pattern.contains('+') {
        return if open { path.starts_with(pattern) } else { path == pattern };
    }
    let mut parts = path.split('/');
    let mut wanted = pattern.split('/').peekable();
    while let Some(want) = wanted.next() {
        let last = wanted.peek().is_none();
        match parts.next() {
            None => return false,
            Some(part) if open && last => return want == "+" || part.starts_with(want),
            Some(part) if want == "+" || want == part => {}
            Some(_) => return false,
        }
    }
    parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(rules: &[(&str, &[&str])]) -> Policy {
        Policy::new(
            rules
                .iter()
                .map(|(path, names)| ((*path).to_owned(), names.iter().map(|name| (*name).to_owned()).collect())),
        )
    }

    fn granted(policies: &[Policy], path: &str) -> Vec<String> {
        capabilities(policies, path).into_iter().collect()
    }

    #[test]
    fn the_most_specific_rule_decides() {
        let policies = [
            policy(&[("transit/*", &["read"]), ("transit/encrypt/app", &["update"]), ("kv/+/tls", &["list"])]),
            policy(&[("transit/encrypt/app", &["create"]), ("transit/decrypt/*", &["deny"])]),
        ];
        assert_eq!(granted(&policies, "transit/keys/app"), ["read"]);
        assert_eq!(granted(&policies, "transit/encrypt/app"), ["create", "update"]);
        assert!(granted(&policies, "transit/decrypt/app").is_empty());
        assert_eq!(granted(&policies, "kv/shop/tls"), ["list"]);
        assert!(granted(&policies, "kv/shop/more/tls").is_empty());
        assert!(granted(&policies, "elsewhere").is_empty());
    }

    #[test]
    fn the_json_form_is_read_as_written() {
        let before = policy(&[("a/*", &["read", "list"])]);
        let after = Policy::parse(&before.to_json()).unwrap();
        assert_eq!(granted(&[after], "a/b"), ["list", "read"]);
        assert!(Policy::parse("path \"a\" {}").is_err());
    }

    #[test]
    fn creating_is_another_right_than_updating() {
        let update = BTreeSet::from(["update".to_owned()]);
        assert!(allows(&update, Operation::Update, Some(true)));
        assert!(!allows(&update, Operation::Update, Some(false)));
        assert!(allows(&update, Operation::Update, None));
    }
}
