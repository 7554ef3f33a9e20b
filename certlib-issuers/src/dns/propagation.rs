//! Looking for a record where the CA will: at every server that has the last word.

use std::net::SocketAddr;
use std::time::Duration;

use certlib_core::{Error, Result};
use futures::future::join_all;
use hickory_proto::rr::{Name, RData, RecordType};
use serde::{Deserialize, Serialize};

use super::zone::NameServer;
use super::{Resolver, absolute, text, wire};

/// Whether and how records are looked for before the CA is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PropagationConfig {
    /// Whether to look at all. Default yes.
    pub enabled: bool,
    /// After this long, in seconds, a record that is still not visible everywhere is reported as a failure of this
    /// attempt; the order itself stays open. Default 10 minutes.
    pub timeout_seconds: u64,
    /// How often to look, in seconds. Default 5.
    pub interval_seconds: u64,
    /// Ask these servers (`ip:port`) instead of the authoritative ones.
    pub nameservers: Vec<SocketAddr>,
    /// Resolvers (`ip:port`) for finding aliases and authoritative servers. Default: those of the system.
    pub resolvers: Vec<SocketAddr>,
}

impl Default for PropagationConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            timeout_seconds: 600,
            interval_seconds: 5,
            nameservers: Vec::new(),
            resolvers: Vec::new(),
        }
    }
}

impl PropagationConfig {
    pub(crate) fn check(&self) -> Result<()> {
        let invalid = |field: &str, why: &str| {
            Err(Error::validation("acme.config", "config_invalid", format!("challenge.propagation.{field}: {why}"))
                .with("field", field))
        };
        if !(1..=3600).contains(&self.interval_seconds) {
            return invalid("interval_seconds", "1 to 3600");
        }
        if !(1..=7 * 24 * 3600).contains(&self.timeout_seconds) {
            return invalid("timeout_seconds", "1 second to 7 days");
        }
        Ok(())
    }
}

/// Looks for records.
#[derive(Debug)]
pub(crate) struct Propagation {
    config: PropagationConfig,
    resolver: Resolver,
}

impl Propagation {
    pub(crate) fn new(config: PropagationConfig, resolver: Resolver) -> Self {
        Self { config, resolver }
    }

    pub(crate) fn interval(&self) -> Duration {
        Duration::from_secs(self.config.interval_seconds)
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(self.config.timeout_seconds)
    }

    /// The name to write at instead of `name`, when aliases lead elsewhere.
    ///
    /// # Errors
    /// `Validation` `cname_loop`, `name_invalid`; `IoTransient` `resolver_failed`.
    pub(crate) async fn canonical(&self, name: &str) -> Result<String> {
        Ok(text(&self.resolver.canonical(&absolute(name)?).await?))
    }

    /// `None` when every server has all of `values` at `name`, and otherwise who lacks what.
    ///
    /// # Errors
    /// `Validation` `zone_not_found`; `IoTransient` `resolver_failed`.
    pub(crate) async fn lacking(&self, name: &str, values: &[&str]) -> Result<Option<String>> {
        if !self.config.enabled {
            return Ok(None);
        }
        let name = absolute(name)?;
        let servers = self.servers(&name).await?;
        if servers.is_empty() {
            return Ok(Some(format!("the zone of {} names no servers", text(&name))));
        }
        let reports = join_all(servers.iter().map(|server| report(server, &name, values))).await;
        Ok(reports.into_iter().flatten().next())
    }

    async fn servers(&self, name: &Name) -> Result<Vec<NameServer>> {
        if self.config.nameservers.is_empty() {
            let zone = self.resolver.zone_of(name).await?;
            return self.resolver.name_servers(&zone).await;
        }
        let chosen = self.config.nameservers.iter();
        Ok(chosen.map(|address| NameServer { name: address.to_string(), addresses: vec![*address] }).collect())
    }
}

/// What keeps `server` from proving `values`: a server may have addresses that we cannot reach, but whichever of
/// them answers must have everything.
async fn report(server: &NameServer, name: &Name, values: &[&str]) -> Option<String> {
    let answers = join_all(server.addresses.iter().map(|address| txt(*address, name))).await;
    let mut reached = answers.into_iter().flatten().peekable();
    if reached.peek().is_none() {
        return Some(format!("{} cannot be reached", server.name));
    }
    let lacks = reached.any(|found| values.iter().any(|value| !found.iter().any(|text| text == value.as_bytes())));
    lacks.then(|| format!("{} does not have the record at {} yet", server.name, text(name)))
}

/// The TXT values at `name`, each with its strings joined.
async fn txt(server: SocketAddr, name: &Name) -> Option<Vec<Vec<u8>>> {
    let answer = wire::query(server, name, RecordType::TXT, false).await.ok()?;
    let values = answer.answers.iter().filter_map(|record| match &record.data {
        RData::TXT(value) if record.name == *name => Some(value.txt_data.concat()),
        _ => None,
    });
    Some(values.collect())
}
