//! Where a name really lives: aliases, zones, and the servers that have the last word on them.

use std::collections::HashSet;
use std::iter;
use std::net::{IpAddr, SocketAddr};

use certlib_core::{Error, Result};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};

use super::{text, wire};

/// A chain of aliases longer than this is a mistake.
const ALIASES_MAX: usize = 16;
const DNS_PORT: u16 = 53;

/// Finds things out about names.
///
/// It asks first the server that will be updated, as far as that one speaks with authority, so that a challenge in a
/// zone of one's own needs no resolver at all; then the configured resolvers, or those of the system.
#[derive(Debug, Clone, Default)]
pub(crate) struct Resolver {
    primary: Option<String>,
    resolvers: Vec<SocketAddr>,
}

/// One name server of a zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NameServer {
    pub(super) name: String,
    pub(super) addresses: Vec<SocketAddr>,
}

impl Resolver {
    pub(crate) fn new(primary: Option<String>, resolvers: Vec<SocketAddr>) -> Self {
        Self { primary, resolvers }
    }

    /// Follows aliases to the name that holds the data.
    ///
    /// # Errors
    /// `Validation` `cname_loop`; `IoTransient` `resolver_failed` when nobody answers.
    pub(super) async fn canonical(&self, name: &Name) -> Result<Name> {
        let mut seen = HashSet::from([name.to_lowercase()]);
        let mut current = name.clone();
        loop {
            let answer = self.ask(&current, RecordType::CNAME).await?;
            let alias = answer.answers.iter().find_map(|record| match &record.data {
                RData::CNAME(target) if record.name == current => Some(target.0.clone()),
                _ => None,
            });
            let Some(target) = alias else { return Ok(current) };
            if !seen.insert(target.to_lowercase()) || seen.len() > ALIASES_MAX {
                return Err(Error::validation("dns.alias", "cname_loop", "the aliases of this name do not end")
                    .with("name", text(name)));
            }
            current = target;
        }
    }

    /// The zone that `name` belongs to.
    ///
    /// # Errors
    /// `Validation` `zone_not_found`; `IoTransient` `resolver_failed`.
    pub(super) async fn zone_of(&self, name: &Name) -> Result<Name> {
        for candidate in zone_candidates(name) {
            if is_zone(&candidate, &self.ask(&candidate, RecordType::SOA).await?) {
                return Ok(candidate);
            }
        }
        Err(zone_not_found(name))
    }

    /// The name servers of `zone`, with their addresses.
    pub(super) async fn name_servers(&self, zone: &Name) -> Result<Vec<NameServer>> {
        let answer = self.ask(zone, RecordType::NS).await?;
        let mut servers = Vec::new();
        for record in &answer.answers {
            let RData::NS(target) = &record.data else { continue };
            let mut addresses = Vec::new();
            for kind in [RecordType::A, RecordType::AAAA] {
                let answer = self.ask(&target.0, kind).await?;
                addresses.extend(answer.answers.iter().filter_map(|record| match &record.data {
                    RData::A(address) => Some(SocketAddr::new(IpAddr::V4(address.0), DNS_PORT)),
                    RData::AAAA(address) => Some(SocketAddr::new(IpAddr::V6(address.0), DNS_PORT)),
                    _ => None,
                }));
            }
            servers.push(NameServer { name: text(&target.0), addresses });
        }
        Ok(servers)
    }

    /// An answer that says what there is, or that there is nothing.
    async fn ask(&self, name: &Name, kind: RecordType) -> Result<Message> {
        if let Some(primary) = &self.primary {
            for server in wire::addresses(primary).await? {
                match wire::query(server, name, kind, false).await {
                    Ok(answer) if answer.metadata.authoritative && is_final(&answer) => return Ok(answer),
                    _ => {}
                }
            }
        }
        let system;
        let resolvers = if self.resolvers.is_empty() {
            system = system_resolvers().await;
            &system
        } else {
            &self.resolvers
        };
        let mut failed =
            Error::transient("dns.resolve", "resolver_failed", "no resolver answers").with("name", text(name));
        for server in resolvers {
            match wire::query(*server, name, kind, true).await {
                Ok(answer) if is_final(&answer) => return Ok(answer),
                Ok(answer) => failed = failed.with("answer", answer.metadata.response_code),
                Err(error) => failed = failed.with_source(error),
            }
        }
        Err(failed)
    }
}

/// `name` and its parents, the closest first: one of them is the zone that holds it.
pub(super) fn zone_candidates(name: &Name) -> impl Iterator<Item = Name> + use<> {
    iter::successors(Some(name.clone()), |name| Some(name.base_name())).take_while(|name| !name.is_root())
}

/// Whether `answer`, which was asked for its SOA record, makes `name` a zone.
pub(super) fn is_zone(name: &Name, answer: &Message) -> bool {
    // With an alias in the answer the record would be that of another name.
    answer.answers.iter().any(|record| record.name == *name && matches!(record.data, RData::SOA(_)))
}

/// `zone_not_found`, from wherever it is noticed.
pub(super) fn zone_not_found(name: &Name) -> Error {
    Error::validation("dns.zone", "zone_not_found", "no zone holds this name").with("name", text(name))
}

fn is_final(answer: &Message) -> bool {
    matches!(answer.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain)
}

/// The resolvers of `/etc/resolv.conf`.
async fn system_resolvers() -> Vec<SocketAddr> {
    let content = tokio::fs::read_to_string("/etc/resolv.conf").await.unwrap_or_default();
    parse_resolvers(&content)
}

fn parse_resolvers(content: &str) -> Vec<SocketAddr> {
    let servers = content.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next()? == "nameserver").then(|| words.next()?.parse::<IpAddr>().ok())?
    });
    servers.map(|address| SocketAddr::new(address, DNS_PORT)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn aliases_zones_and_servers_are_found_at_the_primary_or_a_resolver() {
        let bind = certlib_testkit::require!(certlib_testkit::counterpart::Bind::start("example.test").await);
        bind.update("update add alias.example.test 60 CNAME data.example.test").await.unwrap();
        let name = |text: &str| super::super::absolute(text).unwrap();
        let primary = Resolver::new(Some(bind.addr().to_string()), vec!["127.0.0.1:1".parse().unwrap()]);
        let resolver = Resolver::new(None, vec!["127.0.0.1:1".parse().unwrap(), bind.addr()]);
        for resolver in [primary, resolver] {
            assert_eq!(text(&resolver.canonical(&name("alias.example.test")).await.unwrap()), "data.example.test");
            assert_eq!(text(&resolver.canonical(&name("data.example.test")).await.unwrap()), "data.example.test");
            let zone = resolver.zone_of(&name("_acme-challenge.a.b.example.test")).await.unwrap();
            assert_eq!(text(&zone), "example.test");
            let servers = resolver.name_servers(&zone).await.unwrap();
            let expected =
                NameServer { name: "ns.example.test".to_owned(), addresses: vec!["127.0.0.1:53".parse().unwrap()] };
            assert_eq!(servers, [expected]);
            // It is not asked to resolve for others, and nobody else is at hand.
            let error = resolver.canonical(&name("www.example.org")).await.unwrap_err();
            assert_eq!((error.class(), error.code()), (certlib_core::ErrorClass::IoTransient, "resolver_failed"));
        }
    }

    #[test]
    fn candidates_end_below_the_root() {
        let name = super::super::absolute("_acme-challenge.www.example.com").unwrap();
        let candidates: Vec<String> = zone_candidates(&name).map(|name| text(&name)).collect();
        assert_eq!(candidates, ["_acme-challenge.www.example.com", "www.example.com", "example.com", "com"]);
    }

    #[test]
    fn resolver_lines() {
        let text = "# comment\nsearch example.com\nnameserver 192.0.2.1\nnameserver\t2001:db8::1 # two\nnameserver x\n";
        let servers = parse_resolvers(text);
        assert_eq!(servers, ["192.0.2.1:53".parse().unwrap(), "[2001:db8::1]:53".parse().unwrap()]);
    }
}
