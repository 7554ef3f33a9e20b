//! From a host to the addresses that may be dialled.

use std::fmt::Debug;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use certlib_core::error::{Error, Result};

use super::address::AddressPolicy;

/// How many of a host's addresses are used at most.
const MOST_ADDRESSES: usize = 16;

/// Finds the addresses of a host.
#[async_trait]
pub trait Lookup: Debug + Send + Sync + 'static {
    /// The addresses of `host`, in the order in which they should be tried.
    ///
    /// # Errors
    /// When the name does not exist or nobody answers. Cancel-safe.
    async fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// The operating system's resolver.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemLookup;

#[async_trait]
impl Lookup for SystemLookup {
    async fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        Ok(tokio::net::lookup_host((host, 0)).await?.map(|addr| addr.ip()).collect())
    }
}

/// Resolves hosts and gives out only addresses that the policy allows.
///
/// One connection asks once and dials what it was told, so an answer that changes between check and use (DNS
/// rebinding) finds no gap to slip through.
#[derive(Debug, Clone)]
pub struct Guard {
    policy: AddressPolicy,
    lookup: Arc<dyn Lookup>,
}

impl Guard {
    /// A guard over the operating system's resolver.
    pub fn new(policy: AddressPolicy) -> Self {
        Self::with_lookup(policy, Arc::new(SystemLookup))
    }

    /// A guard over another resolver.
    pub fn with_lookup(policy: AddressPolicy, lookup: Arc<dyn Lookup>) -> Self {
        Self { policy, lookup }
    }

    /// The policy.
    pub fn policy(&self) -> &AddressPolicy {
        &self.policy
    }

    /// The addresses of `host`, which is a name or an address: at least one, and all of them allowed.
    ///
    /// One forbidden address among many refuses the host: which one is dialled in the end is up to the network.
    /// Cancel-safe.
    ///
    /// # Errors
    /// `Validation` `address_forbidden`; `Network` `dns_failed`.
    pub async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>> {
        self.resolve_at_most(host, MOST_ADDRESSES).await
    }

    /// The same, with up to `most` addresses instead of sixteen.
    ///
    /// # Errors
    /// As [`Guard::resolve`].
    pub async fn resolve_at_most(&self, host: &str, most: usize) -> Result<Vec<IpAddr>> {
        let addrs = self.find(host).await?;
        self.admit(host, addrs, most)
    }

    /// The same, but addresses that no policy admits are left out of a name's, where it has others: a machine's own
    /// resolver may add a link-local address to every name of a neighbour.
    ///
    /// None of those is dialled, but neither do they refuse the host. That is for callers who only look, and send nothing
    /// that another machine must not have; everybody else takes [`Guard::resolve`].
    ///
    /// # Errors
    /// As [`Guard::resolve`].
    pub async fn resolve_admissible(&self, host: &str, most: usize) -> Result<Vec<IpAddr>> {
        let addrs = self.find(host).await?;
        let (admissible, never): (Vec<_>, Vec<_>) =
            addrs.into_iter().partition(|addr| AddressPolicy::is_admissible(*addr));
        self.admit(host, if admissible.is_empty() { never } else { admissible }, most)
    }

    /// All addresses of `host`, at least one, unchecked.
    async fn find(&self, host: &str) -> Result<Vec<IpAddr>> {
        let literal = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        if let Ok(addr) = literal.parse() {
            return Ok(vec![addr]);
        }
        let failed = |why| Error::network("net.resolve", "dns_failed", why).with("host", host);
        let addrs = self.lookup.lookup(host).await;
        let addrs = addrs.map_err(|error| failed("the host's addresses cannot be found").with_source(error))?;
        if addrs.is_empty() {
            return Err(failed("the host has no address"));
        }
        Ok(addrs)
    }

    /// The first `most` of `addrs`, if the policy admits all of them.
    fn admit(&self, host: &str, mut addrs: Vec<IpAddr>, most: usize) -> Result<Vec<IpAddr>> {
        for addr in &addrs {
            self.policy.check(host, *addr)?;
        }
        addrs.truncate(most);
        Ok(addrs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Fixed(Vec<IpAddr>);

    #[async_trait]
    impl Lookup for Fixed {
        async fn lookup(&self, _host: &str) -> io::Result<Vec<IpAddr>> {
            Ok(self.0.clone())
        }
    }

    async fn resolve(answers: &[&str]) -> Result<Vec<IpAddr>> {
        let answers = answers.iter().map(|addr| addr.parse().unwrap()).collect();
        Guard::with_lookup(AddressPolicy::default(), Arc::new(Fixed(answers))).resolve("hook.example").await
    }

    #[tokio::test]
    async fn one_forbidden_answer_refuses_the_host() {
        assert_eq!(resolve(&["1.1.1.1", "2606:4700::1"]).await.unwrap().len(), 2);
        for answers in [
            &["169.254.169.254"][..],
            &["1.1.1.1", "10.0.0.1"],
            &["10.0.0.1", "1.1.1.1"],
            &["fd00::1", "1.1.1.1"],
            &["1.1.1.1", "::ffff:127.0.0.1"],
        ] {
            assert_eq!(resolve(answers).await.unwrap_err().code(), "address_forbidden", "{answers:?}");
        }
    }

    #[tokio::test]
    async fn who_only_looks_does_without_addresses_that_are_never_admitted() {
        let look = async |answers: &[&str]| {
            let answers = answers.iter().map(|addr| addr.parse().unwrap()).collect();
            let guard = Guard::with_lookup(AddressPolicy::default(), Arc::new(Fixed(answers)));
            guard.resolve_admissible("web.example", 16).await
        };
        let good: Vec<IpAddr> = vec!["1.1.1.1".parse().unwrap(), "2606:4700::1".parse().unwrap()];
        let mixed = ["fe80::1", "1.1.1.1", "169.254.169.254", "2606:4700::1", "64:ff9b::a9fe:a9fe", "::"];
        assert_eq!(look(&mixed).await.unwrap(), good);
        // What a policy could admit still refuses the host, if this one does not; so does having nothing else.
        for answers in [&["1.1.1.1", "10.0.0.1"][..], &["127.0.0.1", "1.1.1.1"], &["fe80::1", "10.0.0.1"], &["fe80::1"]]
        {
            assert_eq!(look(answers).await.unwrap_err().code(), "address_forbidden", "{answers:?}");
        }
        let guard = Guard::with_lookup(AddressPolicy::default(), Arc::new(Fixed(good)));
        assert_eq!(guard.resolve_admissible("fe80::1", 16).await.unwrap_err().code(), "address_forbidden");
    }

    #[tokio::test]
    async fn floods_of_answers_are_cut_and_still_checked() {
        let mut answers = vec!["1.1.1.1"; 1000];
        assert_eq!(resolve(&answers).await.unwrap().len(), MOST_ADDRESSES);
        answers.push("127.0.0.1");
        assert_eq!(resolve(&answers).await.unwrap_err().code(), "address_forbidden");
    }

    #[tokio::test]
    async fn no_answer_is_a_network_error() {
        assert_eq!(resolve(&[]).await.unwrap_err().code(), "dns_failed");
    }

    #[tokio::test]
    async fn literals_never_reach_the_resolver() {
        let guard = Guard::with_lookup(AddressPolicy::default(), Arc::new(Fixed(vec!["1.1.1.1".parse().unwrap()])));
        for host in ["127.0.0.1", "::1", "[::1]", "[::ffff:7f00:1]"] {
            assert_eq!(guard.resolve(host).await.unwrap_err().code(), "address_forbidden", "{host}");
        }
    }
}
