//! The leases of the store in memory.

use std::collections::HashMap;
use std::time::Duration;

use crate::error::Result;
use crate::lock::{Lease, LeaseInfo, LeaseRequest};

/// Every lease ever granted. Expiry is on the monotonic clock: nothing here outlives the process.
#[derive(Clone, Default)]
pub(super) struct Leases {
    by_name: HashMap<String, Grant>,
}

#[derive(Clone)]
struct Grant {
    holder: String,
    nonce: String,
    epoch: u64,
    expires_at: Duration,
    released: bool,
}

impl Grant {
    /// Whether this is what `request` was granted before.
    fn answers(&self, request: &LeaseRequest) -> bool {
        !self.released && self.holder == request.holder && self.nonce == request.nonce
    }
}

impl Leases {
    pub(super) fn acquire(&mut self, request: &LeaseRequest, now: Duration) -> Option<Lease> {
        let epoch = match self.by_name.get(&request.name) {
            Some(grant) if grant.answers(request) => grant.epoch,
            Some(grant) if !grant.released && grant.expires_at > now => return None,
            Some(grant) => grant.epoch + 1,
            None => 1,
        };
        let grant = Grant {
            holder: request.holder.clone(),
            nonce: request.nonce.clone(),
            epoch,
            expires_at: now.saturating_add(request.ttl),
            released: false,
        };
        self.by_name.insert(request.name.clone(), grant);
        Some(request.granted(epoch))
    }

    pub(super) fn raise(&mut self, name: &str, floor: u64) -> u64 {
        let grant = self.by_name.entry(name.to_owned()).or_insert_with(|| Grant {
            holder: String::new(),
            nonce: String::new(),
            epoch: 0,
            expires_at: Duration::ZERO,
            released: true,
        });
        if grant.epoch <= floor {
            (grant.epoch, grant.released) = (floor, true);
        }
        grant.epoch
    }

    pub(super) fn renew(&mut self, lease: &Lease, until: Duration) -> bool {
        self.held(lease).map(|grant| grant.expires_at = until).is_some()
    }

    pub(super) fn release(&mut self, lease: &Lease) -> bool {
        self.held(lease).map(|grant| grant.released = true).is_some()
    }

    pub(super) fn inspect(&self, name: &str, now: Duration) -> Option<LeaseInfo> {
        self.by_name.get(name).map(|grant| LeaseInfo {
            name: name.to_owned(),
            holder: grant.holder.clone(),
            epoch: grant.epoch,
            remaining: if grant.released { Duration::ZERO } else { grant.expires_at.saturating_sub(now) },
            released: grant.released,
        })
    }

    /// `lease_lost` unless `lease` is the latest grant and was not released.
    pub(super) fn require(&mut self, lease: &Lease) -> Result<()> {
        if self.held(lease).is_some() { Ok(()) } else { Err(lease.lost()) }
    }

    fn held(&mut self, lease: &Lease) -> Option<&mut Grant> {
        self.by_name
            .get_mut(&lease.name)
            .filter(|grant| grant.epoch == lease.epoch && grant.holder == lease.holder && !grant.released)
    }
}
