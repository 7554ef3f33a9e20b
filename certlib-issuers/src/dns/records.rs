//! Services where every record has an id of its own: values come and go without touching their neighbours.

use std::fmt::Debug;

use async_trait::async_trait;
use certlib_core::{Context, Result};

use super::DnsProvider;
use super::service::{Place, Zones, find};

/// A TXT record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) id: String,
    /// Without quotes.
    pub(super) value: String,
}

/// What such a service must be able to do.
#[async_trait]
pub(super) trait RecordApi: Zones + Debug + 'static {
    /// The TXT records at a name, and at no other.
    async fn list(&self, cx: &Context, zone: &Self::Zone, place: &Place) -> Result<Vec<Record>>;

    /// Makes a record. One that was made by somebody else in the meantime is a success.
    async fn create(&self, cx: &Context, zone: &Self::Zone, place: &Place, value: &str) -> Result<()>;

    /// Deletes a record. One that is gone is a success.
    async fn delete(&self, cx: &Context, zone: &Self::Zone, id: &str) -> Result<()>;

    /// Makes changes public, where that is a step of its own. Also called when there was nothing to change: the step
    /// may have failed the last time.
    async fn publish(&self, _cx: &Context, _zone: &Self::Zone) -> Result<()> {
        Ok(())
    }
}

/// A [`DnsProvider`] for such a service.
#[derive(Debug)]
pub(super) struct Records<A>(pub(super) A);

#[async_trait]
impl<A: RecordApi> DnsProvider for Records<A> {
    async fn add_txt(&self, cx: &Context, fqdn: &str, value: &str) -> Result<()> {
        let (place, zone) = find(&self.0, cx, fqdn).await?;
        let there = self.0.list(cx, &zone, &place).await?;
        if !there.iter().any(|record| record.value == value) {
            cx.check_cancelled("dns.add")?;
            self.0.create(cx, &zone, &place, value).await?;
        }
        self.0.publish(cx, &zone).await
    }

    async fn remove_txt(&self, cx: &Context, fqdn: &str, value: &str) -> Result<()> {
        let (place, zone) = find(&self.0, cx, fqdn).await?;
        // More than one when two nodes added it at the same moment.
        for record in self.0.list(cx, &zone, &place).await?.iter().filter(|record| record.value == value) {
            self.0.delete(cx, &zone, &record.id).await?;
        }
        self.0.publish(cx, &zone).await
    }
}
