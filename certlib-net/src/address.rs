//! Which addresses may be dialled.

use std::net::IpAddr;

use certlib_core::error::{Error, Result};
use serde::{Deserialize, Serialize};

use super::cidr::Cidr;
use super::registry::{self, Admission};

/// Which addresses may be dialled: the public Internet, and what is admitted here.
///
/// ```
/// use certlib_net::AddressPolicy;
///
/// let policy: AddressPolicy = serde_json::from_str(r#"{"allow": ["10.1.0.0/16"]}"#)?;
/// assert!(policy.check("hook.example.com", "93.184.215.14".parse()?).is_ok());
/// assert!(policy.check("hook.example.com", "10.1.2.3".parse()?).is_ok());
/// assert!(policy.check("hook.example.com", "10.2.0.1".parse()?).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AddressPolicy {
    /// Private networks that are admitted: parts of 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10,
    /// 198.18.0.0/15 and fc00::/7. Loopback, link-local, metadata services and other special blocks cannot be
    /// admitted here, however wide the block.
    pub allow: Vec<Cidr>,
    /// Admits this machine itself, 127.0.0.0/8 and ::1: for tests and demonstrations.
    pub allow_loopback: bool,
}

impl AddressPolicy {
    /// The public Internet, every private network, and this machine: for peers that must prove who they are before
    /// anything is said to them, where internal machines are the rule. What no allow-list admits (link-local addresses,
    /// metadata services, multicast and the like) is forbidden here as well.
    pub fn internal() -> Self {
        Self { allow: vec![Cidr::v4([0; 4], 0), Cidr::v6([0; 8], 0)], allow_loopback: true }
    }

    /// Fails unless `addr`, which stands for `host`, may be dialled.
    ///
    /// IPv4 addresses inside IPv6 ones are judged as what they are.
    ///
    /// # Errors
    /// `Validation` `address_forbidden` with `host`, `addr` and `rule`.
    pub fn check(&self, host: &str, addr: IpAddr) -> Result<()> {
        match self.broken_rule(addr) {
            None => Ok(()),
            Some(rule) => Err(Error::validation("net.address", "address_forbidden", hint(rule))
                .with("host", host)
                .with("addr", addr)
                .with("rule", rule)),
        }
    }

    /// Whether there is a policy that admits `addr`: link-local addresses, metadata services and the like never are.
    pub(crate) fn is_admissible(addr: IpAddr) -> bool {
        Self::internal().broken_rule(addr).is_none()
    }

    fn broken_rule(&self, addr: IpAddr) -> Option<&'static str> {
        // An IPv4-mapped address is IPv4 on the wire, so the policy about IPv4 holds for it, admissions included.
        let addr = addr.to_canonical();
        if let Some(inner) = registry::embedded(addr)
            && let Some(special) = registry::lookup(IpAddr::V4(inner))
        {
            // What is admitted is admitted directly, not around the corner.
            return Some(special.rule);
        }
        let special = registry::lookup(addr)?;
        let admitted = match special.admission {
            Admission::Never => false,
            Admission::AllowList => self.allow.iter().any(|block| block.contains(addr)),
            Admission::LoopbackSwitch => self.allow_loopback,
        };
        (!admitted).then_some(special.rule)
    }
}

fn hint(rule: &str) -> &'static str {
    match rule {
        "private" | "shared" | "benchmarking" | "unique_local" => {
            "the address is private; admit its network with `allow` if the target is meant to be there"
        }
        "loopback" => "the address is this machine; `allow_loopback` admits it for tests",
        "metadata" => "the address is a cloud's metadata service",
        _ => "the address is not one that a server on the Internet has",
    }
}

#[cfg(test)]
mod tests {
    use certlib_testkit::attacks::ADDRESSES;

    use super::*;

    fn rule(policy: &AddressPolicy, addr: &str) -> Option<&'static str> {
        policy.broken_rule(addr.parse().unwrap())
    }

    #[test]
    fn special_addresses_are_forbidden() {
        let policy = AddressPolicy::default();
        for (addr, expected) in ADDRESSES {
            assert_eq!(rule(&policy, addr), Some(expected), "{addr}");
        }
    }

    #[test]
    fn the_public_internet_is_allowed() {
        let policy = AddressPolicy::default();
        let public = [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "::ffff:93.184.215.14",
            "64:ff9b::5db8:d70e",
            "2606:4700:4700::1111",
            "2001:200::1",
            "2a00::1",
        ];
        for addr in public {
            assert_eq!(rule(&policy, addr), None, "{addr}");
        }
    }

    #[test]
    fn the_widest_allow_list_admits_private_networks_only() {
        let policy =
            AddressPolicy { allow: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()], allow_loopback: false };
        let admissible = ["private", "shared", "benchmarking", "unique_local"];
        for (addr, expected) in ADDRESSES {
            let direct = addr.parse::<IpAddr>().unwrap().to_canonical();
            let admitted = admissible.contains(&expected) && registry::embedded(direct).is_none();
            assert_eq!(rule(&policy, addr), (!admitted).then_some(expected), "{addr}");
        }
    }

    #[test]
    fn an_allow_list_ends_where_it_ends() {
        let policy = AddressPolicy { allow: vec!["10.1.0.0/16".parse().unwrap()], allow_loopback: false };
        assert_eq!(rule(&policy, "10.1.2.3"), None);
        assert_eq!(rule(&policy, "::ffff:10.1.2.3"), None);
        assert_eq!(rule(&policy, "10.2.0.0"), Some("private"));
        assert_eq!(rule(&policy, "64:ff9b::a01:203"), Some("private"));
    }

    #[test]
    fn the_loopback_switch_admits_loopback_and_nothing_else() {
        let policy = AddressPolicy { allow: Vec::new(), allow_loopback: true };
        for (addr, expected) in ADDRESSES {
            let direct = addr.parse::<IpAddr>().unwrap().to_canonical();
            let admitted = expected == "loopback" && registry::embedded(direct).is_none();
            assert_eq!(rule(&policy, addr), (!admitted).then_some(expected), "{addr}");
        }
    }

    #[test]
    fn the_internal_policy_admits_what_can_be_admitted_and_nothing_else() {
        let admissible = ["private", "shared", "benchmarking", "unique_local", "loopback"];
        for (addr, expected) in ADDRESSES {
            let direct = addr.parse::<IpAddr>().unwrap().to_canonical();
            let admitted = admissible.contains(&expected) && registry::embedded(direct).is_none();
            assert_eq!(rule(&AddressPolicy::internal(), addr), (!admitted).then_some(expected), "{addr}");
        }
    }

    #[test]
    fn the_error_says_what_and_why() {
        let error = AddressPolicy::default().check("hook.example", "10.0.0.1".parse().unwrap()).unwrap_err();
        assert_eq!(error.code(), "address_forbidden");
        let context: Vec<_> = error.context().collect();
        assert_eq!(context, [("host", "hook.example"), ("addr", "10.0.0.1"), ("rule", "private")]);
    }

    #[test]
    fn unknown_settings_are_refused() {
        assert!(serde_json::from_str::<AddressPolicy>(r#"{"allow_all": true}"#).is_err());
        assert!(serde_json::from_str::<AddressPolicy>(r#"{"allow": ["10.0.0.1/8"]}"#).is_err());
    }
}
