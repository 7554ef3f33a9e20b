//! Roles: what may be issued, and for how long.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use serde_json::{Value, json};

use super::super::super::{answer::Refusal, call::Body};
use crate::pki::CertificateRequest;

/// How long a certificate is valid when nobody says, and at most: what a mount has by itself.
const SYSTEM_TTL: Duration = Duration::from_secs(32 * 24 * 3_600);

/// A role.
#[derive(Clone, Debug)]
pub(super) struct Role {
    pub(super) no_store: bool,
    issuer: String,
    allow_any_name: bool,
    allowed_domains: Vec<String>,
    allow_bare_domains: bool,
    allow_subdomains: bool,
    allow_wildcard_certificates: bool,
    allow_ip_sans: bool,
    enforce_hostnames: bool,
    require_cn: bool,
    use_csr_common_name: bool,
    use_csr_sans: bool,
    ttl: Duration,
    max_ttl: Duration,
}

/// What is to be certified.
#[derive(Debug, Default)]
pub(super) struct Subject {
    pub(super) common_name: String,
    /// DNS names and addresses.
    pub(super) names: Vec<String>,
}

impl Default for Role {
    fn default() -> Self {
        Self {
            no_store: false,
            issuer: String::new(),
            allow_any_name: false,
            allowed_domains: Vec::new(),
            allow_bare_domains: false,
            allow_subdomains: false,
            allow_wildcard_certificates: true,
            allow_ip_sans: true,
            enforce_hostnames: true,
            require_cn: true,
            use_csr_common_name: true,
            use_csr_sans: true,
            ttl: Duration::ZERO,
            max_ttl: Duration::ZERO,
        }
    }
}

impl Role {
    /// The role as `body` describes it; what it leaves out has its default, whatever it was before.
    pub(super) fn read(body: &Body) -> Result<Self, Refusal> {
        let mut role = Self::default();
        let flags = [
            ("no_store", &mut role.no_store),
            ("allow_any_name", &mut role.allow_any_name),
            ("allow_bare_domains", &mut role.allow_bare_domains),
            ("allow_subdomains", &mut role.allow_subdomains),
            ("allow_wildcard_certificates", &mut role.allow_wildcard_certificates),
            ("allow_ip_sans", &mut role.allow_ip_sans),
            ("enforce_hostnames", &mut role.enforce_hostnames),
            ("require_cn", &mut role.require_cn),
            ("use_csr_common_name", &mut role.use_csr_common_name),
            ("use_csr_sans", &mut role.use_csr_sans),
        ];
        for (field, flag) in flags {
            *flag = body.flag(field)?.unwrap_or(*flag);
        }
        body.text("issuer_ref")?.clone_into(&mut role.issuer);
        role.allowed_domains = body.texts("allowed_domains")?.unwrap_or_default();
        role.ttl = body.period("ttl")?.unwrap_or_default();
        role.max_ttl = body.period("max_ttl")?.unwrap_or_default();
        if !role.max_ttl.is_zero() && role.ttl > role.max_ttl {
            return Err(Refusal::invalid("\"ttl\" value must be less than \"max_ttl\" value"));
        }
        Ok(role)
    }

    pub(super) fn describe(&self) -> Value {
        json!({
            "no_store": self.no_store,
            "issuer_ref": self.reference(),
            "allow_any_name": self.allow_any_name,
            "allowed_domains": self.allowed_domains,
            "allow_bare_domains": self.allow_bare_domains,
            "allow_subdomains": self.allow_subdomains,
            "allow_wildcard_certificates": self.allow_wildcard_certificates,
            "allow_ip_sans": self.allow_ip_sans,
            "enforce_hostnames": self.enforce_hostnames,
            "require_cn": self.require_cn,
            "use_csr_common_name": self.use_csr_common_name,
            "use_csr_sans": self.use_csr_sans,
            "ttl": self.ttl.as_secs(),
            "max_ttl": self.max_ttl.as_secs(),
        })
    }

    /// The issuer that signs unless the path says otherwise.
    pub(super) fn reference(&self) -> &str {
        if self.issuer.is_empty() { "default" } else { &self.issuer }
    }

    /// What the request (`csr`) and the fields beside it ask for, if this role allows it.
    pub(super) fn subject(&self, csr: Option<&CertificateRequest>, body: &Body) -> Result<Subject, Refusal> {
        let common_name = csr.filter(|_| self.use_csr_common_name).and_then(|csr| csr.common_name.clone());
        let common_name = match common_name {
            Some(name) if !name.is_empty() => name,
            _ => body.text("common_name")?.to_owned(),
        };
        if common_name.is_empty() && self.require_cn {
            return Err(Refusal::invalid(
                "the common_name field is required, or must be provided in a CSR with \"use_csr_common_name\" set to \
                 true, unless \"require_cn\" is set to false",
            ));
        }
        let asked = match csr.filter(|_| self.use_csr_sans) {
            Some(csr) => csr.names.clone(),
            None => {
                let names = body.texts("alt_names")?.unwrap_or_default();
                names.into_iter().chain(body.texts("ip_sans")?.unwrap_or_default()).collect()
            }
        };
        let mut names = BTreeSet::from_iter(asked);
        if !common_name.is_empty() && body.flag("exclude_cn_from_sans")? != Some(true) {
            names.insert(common_name.clone());
        }
        if !common_name.is_empty() && !self.allows(&common_name) {
            return Err(Refusal::invalid(format!("common name {common_name} not allowed by this role")));
        }
        for name in &names {
            let is_address = name.parse::<IpAddr>().is_ok();
            if is_address && !self.allow_ip_sans {
                let why = "IP Subject Alternative Names are not allowed in this role, but was provided";
                return Err(Refusal::invalid(format!("{why} [{name}]")));
            }
            if !is_address && !self.allows(name) {
                return Err(Refusal::invalid(format!("subject alternate name {name} not allowed by this role")));
            }
        }
        Ok(Subject { common_name, names: names.into_iter().collect() })
    }

    fn allows(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        let (is_wildcard, bare) = match name.strip_prefix("*.") {
            Some(bare) => (true, bare),
            None => (false, name.as_str()),
        };
        if (is_wildcard && !self.allow_wildcard_certificates) || (self.enforce_hostnames && !is_host(bare)) {
            return false;
        }
        self.allow_any_name
            || self.allowed_domains.iter().any(|domain| {
                let domain = domain.to_ascii_lowercase();
                let is_below = name.strip_suffix(&domain).is_some_and(|rest| rest.ends_with('.'));
                (name == domain && self.allow_bare_domains) || (is_below && self.allow_subdomains)
            })
    }

    /// How long it is going to be valid, and what to warn of: longer than allowed is shortened, not refused.
    pub(super) fn validity(&self, body: &Body) -> Result<(Duration, Vec<String>), Refusal> {
        let asked = body.period("ttl")?.filter(|ttl| !ttl.is_zero());
        let own = Some(self.ttl).filter(|ttl| !ttl.is_zero());
        let most = Some(self.max_ttl).filter(|ttl| !ttl.is_zero()).unwrap_or(SYSTEM_TTL);
        let ttl = asked.or(own).unwrap_or(SYSTEM_TTL);
        if ttl <= most {
            return Ok((ttl, Vec::new()));
        }
        let (ttl, seconds) = (ttl.as_secs(), most.as_secs());
        let warning = format!("TTL \"{ttl}s\" is longer than permitted maxTTL \"{seconds}s\", so maxTTL is being used");
        Ok((most, vec![warning]))
    }
}

fn is_host(name: &str) -> bool {
    let fits = |label: &str| {
        let plain = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        (1..=63).contains(&label.len()) && plain && !label.starts_with('-') && !label.ends_with('-')
    };
    name.split('.').all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(fields: &Value) -> Role {
        Role::read(&Body::read(fields.to_string().as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn names_below_allowed_domains() {
        let both = role(&json!({
            "allowed_domains": "shop.example,other.example", "allow_subdomains": true, "allow_bare_domains": true,
        }));
        for name in ["shop.example", "WWW.shop.example", "a.b.other.example", "*.shop.example"] {
            assert!(both.allows(name), "{name}");
        }
        for name in ["example", "notshop.example", "shop.example.org", "a..shop.example", "*.*.shop.example"] {
            assert!(!both.allows(name), "{name}");
        }
        let bare = role(&json!({ "allowed_domains": ["shop.example"], "allow_bare_domains": "true" }));
        assert!(bare.allows("shop.example") && !bare.allows("www.shop.example"));
        assert!(!Role::default().allows("shop.example"), "by itself a role allows nothing");
        let plain = role(&json!({ "allow_any_name": true, "allow_wildcard_certificates": false }));
        assert!(plain.allows("any.where") && !plain.allows("*.any.where") && !plain.allows("no host"));
    }
}
