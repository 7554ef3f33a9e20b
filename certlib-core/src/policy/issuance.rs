//! What a project may have issued.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::bundle::KeyType;
use crate::error::{Error, Result};
use crate::model::{Certificate, IssuancePolicy};

/// The code of the error that a broken policy is.
pub const POLICY_VIOLATED: &str = "policy_violated";

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// The certificate's name, for people.
    pub name: &'a str,
    /// DNS names, wildcards, IP addresses, as [`normalize_names`](super::normalize_names) gives them.
    pub names: &'a [String],
    /// The kind of key.
    pub key_type: KeyType,
    /// The id of the issuer.
    pub issuer_id: &'a str,
}

impl<'a> Wish<'a> {
    /// What `certificate` asks for.
    pub fn of(certificate: &'a Certificate) -> Self {
        let Certificate { name, names, key_type, issuer_id, .. } = certificate;
        Self { name, names, key_type: *key_type, issuer_id }
    }
}

/// A rule that is broken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Which rule: the name of the policy's member.
    pub rule: String,
    /// Which field of what was asked for breaks it.
    pub field: String,
    /// What is wrong with it, in one line.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// Every rule of `policy` that `wish` breaks, in the order of the policy's members.
pub fn violations(policy: &IssuancePolicy, wish: &Wish<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut broken = |rule: &str, field: &str, message: String| {
        found.push(Violation { rule: rule.to_owned(), field: field.to_owned(), message });
    };
    if !policy.key_types.is_empty() && !policy.key_types.contains(&wish.key_type) {
        let allowed: Vec<_> = policy.key_types.iter().map(KeyType::to_string).collect();
        broken("key_types", "key_type", format!("{} is not allowed; allowed: {}", wish.key_type, allowed.join(", ")));
    }
    if !policy.issuers.is_empty() && !policy.issuers.iter().any(|id| id == wish.issuer_id) {
        broken("issuers", "issuer_id", "this issuer is not allowed".to_owned());
    }
    for name in wish.names {
        if let Some(pattern) =
            policy.deny_names.iter().find(|pattern| matches(pattern, name) || is_below(pattern, name))
        {
            broken("deny_names", "names", format!("{name} is forbidden by {pattern}"));
        } else if !policy.allow_names.is_empty() && !policy.allow_names.iter().any(|pattern| matches(pattern, name)) {
            broken("allow_names", "names", format!("{name} is not among what is allowed"));
        }
    }
    if let Some(most) = policy.most_names.filter(|most| wish.names.len() > *most) {
        broken("most_names", "names", format!("{} names, and at most {most} are allowed", wish.names.len()));
    }
    if let Some(pattern) = policy.naming.as_deref().filter(|pattern| !glob(pattern, wish.name)) {
        broken("naming", "name", format!("the certificate's name must look like {pattern}"));
    }
    found
}

/// Fails when `wish` breaks a rule, naming all that it breaks.
///
/// # Errors
/// `Validation` `policy_violated`, with the [violations](Violation) as JSON in the context `violations`.
pub fn admit(policy: &IssuancePolicy, wish: &Wish<'_>) -> Result<()> {
    let found = violations(policy, wish);
    if found.is_empty() {
        return Ok(());
    }
    let all: Vec<_> = found.iter().map(Violation::to_string).collect();
    let message = format!("the project's policy does not allow this: {}", all.join("; "));
    let json = serde_json::to_string(&found).unwrap_or_default();
    Err(Error::validation("policy", POLICY_VIOLATED, message).with("violations", json))
}

/// Checks a policy's own settings.
///
/// # Errors
/// `Validation` `policy_invalid`, naming the member.
pub fn check_policy(policy: &IssuancePolicy) -> Result<()> {
    let invalid = |member: &'static str, why: &str| {
        Err(Error::validation("policy.check", "policy_invalid", format!("{member}: {why}")).with("member", member))
    };
    for (member, patterns) in [("allow_names", &policy.allow_names), ("deny_names", &policy.deny_names)] {
        if patterns.len() > 1000 || patterns.iter().any(|pattern| pattern.is_empty() || pattern.len() > 255) {
            return invalid(member, "at most 1000 patterns of 1 to 255 characters");
        }
    }
    if policy.most_names == Some(0) {
        return invalid("most_names", "a certificate has one name at least");
    }
    if policy.naming.as_ref().is_some_and(|pattern| pattern.is_empty() || pattern.len() > 255) {
        return invalid("naming", "1 to 255 characters");
    }
    Ok(())
}

/// Whether a pattern about names covers `name`: `example.org` covers itself, `.example.org` what is below it (a wildcard
/// included), and anything with a `*` what looks like it, a `*` standing for any characters.
fn matches(pattern: &str, name: &str) -> bool {
    let pattern = pattern.to_ascii_lowercase();
    if let Some(parent) = pattern.strip_prefix('.') {
        return name.strip_suffix(parent).is_some_and(|below| below.len() > 1 && below.ends_with('.'));
    }
    glob(&pattern, name)
}

/// Whether the wildcard `name` covers the one name that `pattern` stands for: who must not have that name must not have
/// the wildcard either.
fn is_below(pattern: &str, name: &str) -> bool {
    let pattern = pattern.to_ascii_lowercase();
    let label = name.strip_prefix('*').and_then(|parent| pattern.strip_suffix(parent));
    label.is_some_and(|label| !label.is_empty() && !label.contains(['.', '*']))
}

/// Whether `text` looks like `pattern`, in which `*` stands for any characters, or none.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy() -> IssuancePolicy {
        IssuancePolicy {
            key_types: vec![KeyType::EcdsaP256],
            issuers: vec!["ca-1".into()],
            allow_names: vec!["example.org".into(), ".example.org".into()],
            deny_names: vec!["*.internal.example.org".into()],
            most_names: Some(2),
            naming: Some("web-*".into()),
            ..IssuancePolicy::new("p")
        }
    }

    fn wish<'a>(name: &'a str, names: &'a [String], issuer_id: &'a str, key_type: KeyType) -> Wish<'a> {
        Wish { name, names, key_type, issuer_id }
    }

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn everything_that_is_broken_is_named_at_once() {
        let good = names(&["example.org", "*.example.org"]);
        assert!(admit(&policy(), &wish("web-1", &good, "ca-1", KeyType::EcdsaP256)).is_ok());
        let bad = names(&["example.com", "a.internal.example.org", "badexample.org"]);
        let error = admit(&policy(), &wish("mail", &bad, "ca-2", KeyType::Rsa2048)).unwrap_err();
        assert_eq!(error.code(), POLICY_VIOLATED);
        let json = error.context().find(|(key, _)| *key == "violations").unwrap().1.to_owned();
        let found: Vec<Violation> = serde_json::from_str(&json).unwrap();
        let rules: Vec<_> = found.iter().map(|one| &*one.rule).collect();
        let expected = ["key_types", "issuers", "allow_names", "deny_names", "allow_names", "most_names", "naming"];
        assert_eq!(rules, expected);
        assert!(found.iter().all(|one| error.message().contains(&one.message)));
    }

    #[test]
    fn an_empty_policy_allows_everything() {
        let any = names(&["x.test", "192.0.2.1"]);
        assert!(violations(&IssuancePolicy::new("p"), &wish("?", &any, "?", KeyType::Rsa4096)).is_empty());
    }

    #[test]
    fn a_forbidden_name_forbids_the_wildcard_that_covers_it() {
        let policy = IssuancePolicy { deny_names: vec!["Admin.example.org".into()], ..IssuancePolicy::new("p") };
        let broken = |name: &str| {
            let names = names(&[name]);
            violations(&policy, &wish("x", &names, "ca", KeyType::EcdsaP256)).len()
        };
        assert_eq!([broken("admin.example.org"), broken("*.example.org")], [1, 1]);
        assert_eq!([broken("www.example.org"), broken("*.a.example.org"), broken("*.org")], [0, 0, 0]);
    }

    #[test]
    fn below_means_below() {
        assert!(matches(".example.org", "a.b.example.org") && matches(".example.org", "*.example.org"));
        assert!(!matches(".example.org", "example.org") && !matches(".example.org", "badexample.org"));
        assert!(!matches(".example.org", ".example.org"));
        assert!(matches("EXAMPLE.org", "example.org") && !matches("example.org", "a.example.org"));
        assert!(matches("10.1.*", "10.1.2.3"));
    }

    proptest! {
        #[test]
        fn a_pattern_covers_what_was_put_in_its_stars(parts in proptest::collection::vec("[ab.]{0,3}", 1..5), fill in "[abc.]{0,3}") {
            prop_assert!(glob(&parts.join("*"), &parts.join(&fill)));
        }

        #[test]
        fn globbing_is_like_searching_by_hand(pattern in "[ab*]{0,6}", text in "[ab]{0,8}") {
            fn slow(pattern: &[u8], text: &[u8]) -> bool {
                match (pattern.first(), text.first()) {
                    (None, None) => true,
                    (Some(b'*'), _) => slow(&pattern[1..], text) || (!text.is_empty() && slow(pattern, &text[1..])),
                    (Some(p), Some(t)) if p == t => slow(&pattern[1..], &text[1..]),
                    _ => false,
                }
            }
            prop_assert_eq!(glob(&pattern, &text), slow(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
