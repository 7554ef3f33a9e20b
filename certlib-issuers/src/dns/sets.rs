//! Services that know only the whole set of records at a name: it is read, changed and written back.

use std::fmt::Debug;

use async_trait::async_trait;
use certlib_core::{Context, Error, Result};
use serde_json::Value;
use tokio::sync::Mutex;

use super::DnsProvider;
use super::service::{Place, Zones, find};

/// How often a set is read and written before others are said to be in the way.
const ATTEMPTS: usize = 8;

/// How often a state may be called old that still is the current one.
const REFUSALS: usize = 3;

/// The TXT records at a name.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Set {
    /// The records as the service has them, so that those of others go back as they came.
    pub(super) records: Vec<Value>,
    /// Their time to live, in seconds.
    pub(super) ttl: u32,
    /// What tells this state of the set from others, where the service knows such a thing, or its id.
    pub(super) tag: String,
}

/// How writing went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    Done,
    /// The set is not what was read any more, and was not changed.
    Stale,
}

/// What such a service must be able to do.
#[async_trait]
pub(super) trait SetApi: Zones + Debug + 'static {
    /// Whether the service refuses a write that is based on an old state.
    ///
    /// Where it does not, a write is followed by a look at what became of it. Another node's value that comes between
    /// reading and writing is lost, and that node puts it back when it looks the next time, which it does until the CA
    /// has been told.
    const COMPARES: bool;

    /// The set at a name, if there is one.
    async fn read(&self, cx: &Context, zone: &Self::Zone, place: &Place) -> Result<Option<Set>>;

    /// Replaces `old` by `new`; none of its records left means that the set goes.
    async fn write(
        &self,
        cx: &Context,
        zone: &Self::Zone,
        place: &Place,
        old: Option<&Set>,
        new: &Set,
    ) -> Result<Written>;

    /// The value of a record, without quotes.
    fn value(&self, record: &Value) -> String;

    /// A record with this value.
    fn record(&self, value: &str) -> Value;
}

/// A [`DnsProvider`] for such a service.
#[derive(Debug)]
pub(super) struct Sets<A> {
    api: A,
    /// One change at a time: orders of this process do not get in each other's way.
    turn: Mutex<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Add,
    Remove,
}

impl<A: SetApi> Sets<A> {
    pub(super) fn new(api: A) -> Self {
        Self { api, turn: Mutex::new(()) }
    }

    async fn change(&self, cx: &Context, fqdn: &str, value: &str, change: Change) -> Result<()> {
        let _turn = self.turn.lock().await;
        let (place, zone) = find(&self.api, cx, fqdn).await?;
        let (mut refused, mut refusals) = (None, 0);
        for _ in 0..ATTEMPTS {
            cx.check_cancelled("dns.change")?;
            let old = self.api.read(cx, &zone, &place).await?;
            let Some(new) = self.next(old.as_ref(), value, change) else { return Ok(()) };
            match self.api.write(cx, &zone, &place, old.as_ref(), &new).await? {
                Written::Done if A::COMPARES => return Ok(()),
                Written::Done => {}
                Written::Stale if refused == Some(old.clone()) => refusals += 1,
                Written::Stale => (refused, refusals) = (Some(old), 1),
            }
            if refusals == REFUSALS {
                let why = "the service refuses the change, although nobody changed the records in between";
                return Err(Error::validation("dns.change", "set_refused", why).with("name", place.fqdn));
            }
        }
        let why = "others keep changing the records at this name";
        Err(Error::transient("dns.change", "set_contended", why).with("name", place.fqdn))
    }

    /// The set as it should be; `None` when it is so already.
    fn next(&self, old: Option<&Set>, value: &str, change: Change) -> Option<Set> {
        let mut set = old.cloned().unwrap_or_else(|| Set { ttl: self.api.service().ttl, ..Set::default() });
        let there = set.records.iter().any(|record| self.api.value(record) == value);
        match change {
            Change::Add if there => return None,
            Change::Remove if !there => return None,
            Change::Add => set.records.push(self.api.record(value)),
            Change::Remove => set.records.retain(|record| self.api.value(record) != value),
        }
        Some(set)
    }
}

#[async_trait]
impl<A: SetApi> DnsProvider for Sets<A> {
    async fn add_txt(&self, cx: &Context, fqdn: &str, value: &str) -> Result<()> {
        self.change(cx, fqdn, value, Change::Add).await
    }

    async fn remove_txt(&self, cx: &Context, fqdn: &str, value: &str) -> Result<()> {
        self.change(cx, fqdn, value, Change::Remove).await
    }
}
