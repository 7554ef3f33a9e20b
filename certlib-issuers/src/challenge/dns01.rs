use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use certlib_core::{Context, Result};

use super::{Proof, Readiness};
use crate::dns::{DnsProvider, Propagation};

/// DNS-01: a TXT record that only the holder of the name can make.
#[derive(Debug)]
pub(crate) struct Dns01 {
    provider: Arc<dyn DnsProvider>,
    propagation: Propagation,
}

impl Dns01 {
    pub(crate) fn new(provider: Arc<dyn DnsProvider>, propagation: Propagation) -> Self {
        Self { provider, propagation }
    }

    /// How often to look whether records are visible.
    pub(crate) fn interval(&self) -> Duration {
        self.propagation.interval()
    }

    /// When records that are not visible become a failure.
    pub(crate) fn timeout(&self) -> Duration {
        self.propagation.timeout()
    }

    /// Adds every value first and looks afterwards: a name and its wildcard share one record.
    pub(super) async fn provision(&self, cx: &Context, proofs: &[Proof]) -> Result<Readiness> {
        let records = self.records(proofs).await?;
        for (name, values) in &records {
            for value in values {
                cx.check_cancelled("dns01.provision")?;
                self.provider.add_txt(cx, name, value).await?;
            }
        }
        for (name, values) in &records {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            if let Some(why) = self.propagation.lacking(name, &values).await? {
                return Ok(Readiness::NotYet(why));
            }
        }
        Ok(Readiness::Ready)
    }

    pub(super) async fn clean_up(&self, cx: &Context, proofs: &[Proof]) -> Result<()> {
        let mut result = Ok(());
        let names: BTreeSet<&str> = proofs.iter().map(|proof| proof.name.as_str()).collect();
        // One that fails must not keep the others in place.
        for name in names {
            let of_name: Vec<Proof> = proofs.iter().filter(|proof| proof.name == name).cloned().collect();
            match self.records(&of_name).await {
                Ok(records) => {
                    for (name, values) in records {
                        for value in values {
                            result = result.and(self.provider.remove_txt(cx, &name, &value).await);
                        }
                    }
                }
                Err(error) => result = result.and(Err(error)),
            }
        }
        result
    }

    /// Values by the name to write them at.
    async fn records(&self, proofs: &[Proof]) -> Result<BTreeMap<String, BTreeSet<String>>> {
        let mut records: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut known: BTreeMap<&str, String> = BTreeMap::new();
        for proof in proofs {
            let name = match known.get(proof.name.as_str()) {
                Some(name) => name.clone(),
                None => {
                    let name = self.propagation.canonical(&record_name(&proof.name)).await?;
                    known.insert(&proof.name, name.clone());
                    name
                }
            };
            records.entry(name).or_default().insert(proof.dns_value.clone());
        }
        Ok(records)
    }
}

fn record_name(name: &str) -> String {
    format!("_acme-challenge.{}", name.trim_start_matches("*."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(record_name("example.com"), "_acme-challenge.example.com");
        assert_eq!(record_name("*.example.com"), "_acme-challenge.example.com");
    }
}
