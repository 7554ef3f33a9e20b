//! Leases: one holder at a time, under epochs that only grow.

use std::time::Duration;

use super::StoreHarness;
use super::fixture::{Fixture, assert_code, at_once};
use crate::error::codes;
use crate::lock::{Lease, LeaseRequest};
use crate::model::new_id;
use crate::store::{Condition, WriteBatch};

const TTL: Duration = Duration::from_secs(90);

async fn take(f: &Fixture, holder: &str) -> Option<Lease> {
    f.acquire("leader", holder, TTL).await.unwrap()
}

/// While one holds it, nobody gets it; other names are other leases.
pub async fn a_lease_has_one_holder(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let lease = take(&f, "one").await.unwrap();
    assert_eq!((&*lease.name, &*lease.holder), ("leader", "one"));
    assert_eq!(take(&f, "two").await, None);
    assert_eq!(take(&f, "one").await, None, "not even its holder");
    assert!(f.acquire("Leader", "two", TTL).await.unwrap().is_some());
    assert!(f.acquire("leader ", "three", TTL).await.unwrap().is_some());
    assert!(f.release(&lease).await.unwrap());
    assert!(take(&f, "two").await.is_some());
}

/// A lease lasts as long as it was granted for, and no longer.
pub async fn a_lease_expires_exactly(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    take(&f, "one").await.unwrap();
    f.pass(TTL - f.precision);
    assert_eq!(take(&f, "two").await, None);
    f.pass(f.precision);
    assert_eq!(take(&f, "two").await.unwrap().holder, "two");
}

/// Release, expiry, renewal: the epoch never goes back and never repeats.
pub async fn epochs_only_grow(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let mut last = 0;
    for round in 0..30 {
        let lease = take(&f, if round % 3 == 0 { "one" } else { "two" }).await.unwrap();
        assert!(lease.epoch > last, "{} after {last}", lease.epoch);
        last = lease.epoch;
        if round % 2 == 0 {
            assert!(f.renew(&lease, TTL).await.unwrap());
            assert!(f.release(&lease).await.unwrap());
        } else {
            f.pass(TTL);
        }
    }
    assert_eq!(f.inspect("leader").await.unwrap().unwrap().epoch, last);
}

/// Of sixteen who ask at the same time, one is granted the lease: when it is new, released, or expired.
pub async fn racing_for_a_lease_has_one_winner(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let mut last = 0;
    for round in 0..9 {
        let granted: Vec<_> = at_once(16, |n| {
            let store = f.store.clone();
            async move { store.acquire(&LeaseRequest::new("leader", format!("node-{n}"), new_id(), TTL)).await.unwrap() }
        })
        .await
        .into_iter()
        .flatten()
        .collect();
        assert_eq!(granted.len(), 1);
        assert!(granted[0].epoch > last);
        last = granted[0].epoch;
        if round % 2 == 0 {
            assert!(f.release(&granted[0]).await.unwrap());
        } else {
            f.pass(TTL);
        }
    }
}

/// A heartbeat moves the end of the lease.
pub async fn a_renewed_lease_lasts(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let lease = take(&f, "one").await.unwrap();
    for _ in 0..5 {
        f.pass(TTL - f.precision);
        assert!(f.renew(&lease, TTL).await.unwrap());
        assert_eq!(take(&f, "two").await, None);
    }
    f.pass(TTL);
    assert!(take(&f, "two").await.is_some());
}

/// Who comes late keeps the lease if nobody took it, and has lost it if somebody did.
pub async fn an_expired_lease_is_revived_unless_taken(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let first = take(&f, "one").await.unwrap();
    f.pass(TTL * 2);
    assert!(f.renew(&first, TTL).await.unwrap());
    assert_eq!(take(&f, "two").await, None);
    f.pass(TTL);
    let second = take(&f, "two").await.unwrap();
    assert!(!f.renew(&first, TTL).await.unwrap());
    f.pass(TTL);
    assert!(!f.renew(&first, TTL).await.unwrap(), "expired again, but no longer its own");
    assert!(f.renew(&second, TTL).await.unwrap());
    assert!(f.release(&second).await.unwrap());
    assert!(!f.renew(&second, TTL).await.unwrap(), "given back is given back");
    assert!(!f.renew(&Lease { name: "absent".to_owned(), ..second }, TTL).await.unwrap());
}

/// A holder that lost its lease and releases it does not free the one of its successor, even under the same name.
pub async fn a_late_release_frees_nothing(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    for successor in ["two", "one"] {
        let late = take(&f, "one").await.unwrap();
        f.pass(TTL);
        let current = take(&f, successor).await.unwrap();
        assert!(!f.release(&late).await.unwrap());
        assert!(!f.renew(&late, TTL).await.unwrap());
        assert_eq!(take(&f, "three").await, None);
        assert!(f.release(&current).await.unwrap());
        assert!(!f.release(&current).await.unwrap(), "once");
    }
}

/// Anyone can see who holds a lease and for how long; a lease is remembered after its end.
pub async fn leases_can_be_inspected(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    assert!(f.inspect("leader").await.unwrap().is_none());
    let lease = take(&f, "one").await.unwrap();
    f.pass(Duration::from_secs(30));
    let info = f.inspect("leader").await.unwrap().unwrap();
    assert_eq!((&*info.name, &*info.holder, info.epoch, info.released), ("leader", "one", lease.epoch, false));
    assert!(info.remaining.abs_diff(Duration::from_secs(60)) <= f.precision);
    f.pass(TTL);
    let info = f.inspect("leader").await.unwrap().unwrap();
    assert_eq!((info.remaining, info.released), (Duration::ZERO, false));
    assert!(f.release(&lease).await.unwrap());
    let info = f.inspect("leader").await.unwrap().unwrap();
    assert_eq!((info.epoch, info.remaining, info.released), (lease.epoch, Duration::ZERO, true));
}

/// An answer may get lost: the same request finds its own grant again, extended, until it was released or taken.
pub async fn a_repeated_request_finds_its_grant(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let request = LeaseRequest::new("leader", "one", "first", TTL);
    let lease = f.store.acquire(&request).await.unwrap().unwrap();
    f.pass(TTL - f.precision);
    assert_eq!(f.store.acquire(&request).await.unwrap(), Some(lease.clone()));
    f.pass(TTL - f.precision);
    assert_eq!(take(&f, "two").await, None, "it was extended");
    for other in [LeaseRequest::new("leader", "one", "second", TTL), LeaseRequest::new("leader", "two", "first", TTL)] {
        assert_eq!(f.store.acquire(&other).await.unwrap(), None);
    }
    assert!(f.release(&lease).await.unwrap());
    let anew = f.store.acquire(&request).await.unwrap().unwrap();
    assert!(anew.epoch > lease.epoch, "what was released is granted anew");
    f.pass(TTL);
    let taken = take(&f, "two").await.unwrap();
    assert_eq!(f.store.acquire(&request).await.unwrap(), None);
    f.pass(TTL);
    let back = f.store.acquire(&request).await.unwrap().unwrap();
    assert!(back.epoch > taken.epoch);
}

/// After a restore of the database an operator lifts the epoch above every one that was ever seen.
pub async fn a_floor_lifts_the_epoch(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    assert_eq!(f.raise("leader", 7).await.unwrap(), 7);
    let first = take(&f, "one").await.unwrap();
    assert_eq!(first.epoch, 8);
    assert_eq!(f.raise("leader", 7).await.unwrap(), 8, "never lowered");
    assert!(f.renew(&first, TTL).await.unwrap(), "and left alone when it is above already");
    assert_eq!(f.raise("leader", 40).await.unwrap(), 40);
    assert!(!f.renew(&first, TTL).await.unwrap());
    assert_code(f.commit(WriteBatch::new().require(Condition::Lease(first))).await, codes::LEASE_LOST);
    assert_eq!(take(&f, "two").await.unwrap().epoch, 41);
}

/// Who waits for a lease hears when it is given back.
pub async fn candidates_hear_of_a_release(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let lease = take(&f, "one").await.unwrap();
    let mut vacancies = f.vacancies();
    vacancies.borrow_and_update();
    assert!(f.release(&lease).await.unwrap());
    tokio::time::timeout(Duration::from_secs(10), vacancies.changed()).await.expect("it is told").unwrap();
}
