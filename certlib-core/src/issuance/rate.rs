//! How many orders an issuer is given: exact over all nodes, because an order and its count are one commit.
//!
//! Orders are counted in buckets by when they were begun, by the clock of the node that begins them. A bucket counts
//! until all of it is older than the window, so no stretch of time as long as the window ever holds more than the
//! limit. Nothing is ever counted down: what no longer counts follows from the time alone, so a clean-up that runs
//! late, twice or never changes no decision.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use serde_json::json;
use time::OffsetDateTime;

use crate::error::{Error, Result};
use crate::model::{Certificate, Event, IssuanceBucket, IssuanceLimit, IssuanceWindow, Issuer};
use crate::random;
use crate::store::{SharedStore, StoreExt as _, Versioned, WriteBatch};

/// The kind of the event that an order leaves that has to wait for the limit.
pub const LIMITED_EVENT: &str = "issuance.rate_limited";

/// A window is counted in so many buckets: those of a week last an hour.
const BUCKETS: u64 = 168;

/// The zone that `name` counts for: the longest of `zones` that it ends in, and otherwise its last two labels; an address
/// counts for itself.
///
/// The last two labels of `www.shop.co.uk` are `co.uk`: whoever has names under such a suffix lists their zones.
pub fn zone_of(name: &str, zones: &[String]) -> String {
    if name.parse::<IpAddr>().is_ok() {
        return name.to_owned();
    }
    let name = name.trim_start_matches("*.");
    let within =
        |zone: &&String| name.strip_suffix(zone.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    if let Some(zone) = zones.iter().filter(within).max_by_key(|zone| zone.len()) {
        return zone.clone();
    }
    let from = name.rmatch_indices('.').nth(1).map_or(0, |(dot, _)| dot + 1);
    name[from..].to_owned()
}

/// Fails unless the limit can be kept.
///
/// # Errors
/// `Validation` `limit_invalid`, with the rule.
pub fn check_limit(limit: &IssuanceLimit) -> Result<()> {
    let invalid = |rule: &str| Err(Error::validation("issuer.limit", "limit_invalid", rule.to_owned()));
    if limit.orders == 0 {
        return invalid("at least one order must be allowed");
    }
    if !(60..=400 * 86_400).contains(&limit.window_seconds) {
        return invalid("the window is 60 seconds to 400 days");
    }
    if !(0.0..=0.9).contains(&limit.renewal_share) {
        return invalid("the share of renewals is 0 to 0.9");
    }
    let fits = |zone: &String| {
        (1..=150).contains(&zone.len()) && crate::policy::normalize_names(std::slice::from_ref(zone)).is_ok()
    };
    if !limit.zones.iter().all(fits) {
        return invalid("a zone is a DNS name of at most 150 characters");
    }
    Ok(())
}

/// How many orders of one kind the limit allows.
pub fn allowed(limit: &IssuanceLimit, renewal: bool) -> u32 {
    if renewal {
        return limit.orders;
    }
    let reserved = f64::from(limit.orders) * limit.renewal_share.clamp(0.0, 0.9);
    // At least one is left to new certificates, or a limit of one would allow none.
    limit.orders.saturating_sub(reserved.floor() as u32).max(1)
}

/// Whether another order may be begun at `now` (Unix seconds) where `allowed` are; if not, when to look again.
pub fn decide(window: &IssuanceWindow, allowed: u32, now: i64) -> std::result::Result<(), i64> {
    let length = i64::try_from(window.window_seconds).unwrap_or(i64::MAX);
    let counting = || window.buckets.iter().filter(|bucket| bucket.end.saturating_add(length) > now);
    let mut used: u64 = counting().map(|bucket| u64::from(bucket.count)).sum();
    if used < u64::from(allowed) {
        return Ok(());
    }
    for bucket in counting() {
        used -= u64::from(bucket.count);
        if used < u64::from(allowed) {
            return Err(bucket.end.saturating_add(length));
        }
    }
    Err(now.saturating_add(length))
}

/// Counts an order that is begun at `now` (Unix seconds), and forgets what no longer counts.
pub fn count(window: &mut IssuanceWindow, now: i64) {
    trim(window, now);
    if let Some(bucket) = window.buckets.iter_mut().find(|bucket| (bucket.start..bucket.end).contains(&now)) {
        bucket.count = bucket.count.saturating_add(1);
        return;
    }
    let width = i64::try_from((window.window_seconds / BUCKETS).max(1)).unwrap_or(i64::MAX);
    // Another width may have been in use before, or a node's clock is behind: no bucket reaches into another.
    let at = window.buckets.partition_point(|bucket| bucket.start <= now);
    let before = at.checked_sub(1).map_or(i64::MIN, |before| window.buckets[before].end);
    let after = window.buckets.get(at).map_or(i64::MAX, |bucket| bucket.start);
    let start = now.div_euclid(width).saturating_mul(width);
    let bucket = IssuanceBucket { start: start.max(before), end: start.saturating_add(width).min(after), count: 1 };
    window.buckets.insert(at, bucket);
}

/// Forgets the buckets that no longer count at `now` (Unix seconds).
pub fn trim(window: &mut IssuanceWindow, now: i64) {
    let length = i64::try_from(window.window_seconds).unwrap_or(i64::MAX);
    window.buckets.retain(|bucket| bucket.end.saturating_add(length) > now);
}

/// The counts that an order adds to, to be committed with it.
#[derive(Debug, Default)]
pub(super) struct Spending {
    windows: Vec<(IssuanceWindow, Option<u64>)>,
}

/// Why an order has to wait.
#[derive(Debug)]
pub(super) struct Limited {
    /// How long.
    pub(super) wait: Duration,
    /// What to commit: the event, unless it was told in this window already.
    pub(super) batch: Box<WriteBatch>,
}

/// Whether another order for `certificate` may be begun now.
pub(super) async fn spend(
    store: &SharedStore,
    certificate: &Certificate,
    now: OffsetDateTime,
) -> Result<std::result::Result<Spending, Limited>> {
    let issuer = store.load::<Issuer>(&certificate.issuer_id).await?;
    let Some(limit) = &issuer.limit else { return Ok(Ok(Spending::default())) };
    let renewal = certificate.latest_version > 0;
    let zones: BTreeSet<_> = certificate.names.iter().map(|name| zone_of(name, &limit.zones)).collect();
    let mut spending = Spending::default();
    let mut full: Option<(i64, String)> = None;
    for zone in zones {
        let id = IssuanceWindow::id_of(&issuer.id, &zone);
        let (mut window, revision) = match store.find::<IssuanceWindow>(&id).await? {
            Some(Versioned { record, revision }) => (record, Some(revision)),
            None => (new_window(id, &issuer.id, zone), None),
        };
        window.window_seconds = limit.window_seconds;
        match decide(&window, allowed(limit, renewal), now.unix_timestamp()) {
            Ok(()) => {
                count(&mut window, now.unix_timestamp());
                spending.windows.push((window, revision));
            }
            // All of its zones must have room: the last to have some decides.
            Err(until) if full.as_ref().is_none_or(|(latest, _)| until > *latest) => full = Some((until, window.zone)),
            Err(_) => {}
        }
    }
    match full {
        None => Ok(Ok(spending)),
        Some((until, zone)) => limited(store, certificate, limit, until, &zone, now).await.map(Err),
    }
}

fn new_window(id: String, issuer_id: &str, zone: String) -> IssuanceWindow {
    IssuanceWindow { id, issuer_id: issuer_id.to_owned(), zone, window_seconds: 0, buckets: Vec::new() }
}

async fn limited(
    store: &SharedStore,
    certificate: &Certificate,
    limit: &IssuanceLimit,
    until: i64,
    zone: &str,
    now: OffsetDateTime,
) -> Result<Limited> {
    let length = i64::try_from(limit.window_seconds).unwrap_or(i64::MAX).max(1);
    let present = now.unix_timestamp().div_euclid(length).saturating_mul(length);
    let since = OffsetDateTime::from_unix_timestamp(present).unwrap_or(now);
    let issuer = &certificate.issuer_id;
    let data = json!({ "issuer": issuer, "zone": zone, "orders": limit.orders, "until": until });
    let event = Event::new(&certificate.project, LIMITED_EVENT, &certificate.id, data, now)
        .once(&format!("{issuer}/{zone}/{length}/{present}"), since);
    tracing::info!(certificate = %certificate.id, zone, until, "the issuer was given all the orders it may have");
    let told = store.find::<Event>(&event.id).await?.is_some();
    let batch = if told { WriteBatch::new() } else { WriteBatch::new().insert(&event)? };
    // Those that wait for the same bucket do not all come back in the same second.
    let spread = (limit.window_seconds as f64 / BUCKETS as f64).clamp(1.0, 60.0);
    let draw: f64 = random::with(|rng| rand::RngExt::random_range(rng, 0.0..1.0));
    let left = u64::try_from(until.saturating_sub(now.unix_timestamp())).unwrap_or(0).max(1);
    Ok(Limited { wait: Duration::from_secs(left) + Duration::from_secs_f64(spread * draw), batch: Box::new(batch) })
}

impl Spending {
    /// Whether nothing is limited.
    pub(super) fn is_free(&self) -> bool {
        self.windows.is_empty()
    }

    /// Adds the counts to `batch`: if anybody else counted meanwhile, none of it happens.
    pub(super) fn add_to(self, mut batch: WriteBatch) -> Result<WriteBatch> {
        for (record, revision) in self.windows {
            batch = match revision {
                Some(revision) => batch.update(&Versioned { record, revision })?,
                None => batch.insert(&record)?,
            };
        }
        Ok(batch)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn window(seconds: u64) -> IssuanceWindow {
        let mut window = new_window("i/example.org".to_owned(), "i", "example.org".to_owned());
        window.window_seconds = seconds;
        window
    }

    #[test]
    fn zones() {
        let own = ["shop.co.uk".to_owned(), "eu.shop.co.uk".to_owned()];
        for (name, zone) in [
            ("www.example.org", "example.org"),
            ("example.org", "example.org"),
            ("*.a.b.example.org", "example.org"),
            ("localhost", "localhost"),
            ("192.0.2.1", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("www.shop.co.uk", "shop.co.uk"),
            ("shop.co.uk", "shop.co.uk"),
            ("a.eu.shop.co.uk", "eu.shop.co.uk"),
            ("workshop.co.uk", "co.uk"),
        ] {
            assert_eq!(zone_of(name, &own), zone, "{name}");
        }
    }

    #[test]
    fn renewals_have_their_share() {
        let limit = IssuanceLimit { renewal_share: 0.25, ..IssuanceLimit::weekly(10) };
        assert_eq!((allowed(&limit, false), allowed(&limit, true)), (8, 10));
        let limit = IssuanceLimit { renewal_share: 0.9, ..IssuanceLimit::weekly(1) };
        assert_eq!((allowed(&limit, false), allowed(&limit, true)), (1, 1));
    }

    #[test]
    fn limits_are_checked() {
        check_limit(&IssuanceLimit { zones: vec!["shop.co.uk".into()], ..IssuanceLimit::weekly(50) }).unwrap();
        for bad in [
            IssuanceLimit::weekly(0),
            IssuanceLimit { window_seconds: 59, ..IssuanceLimit::weekly(1) },
            IssuanceLimit { renewal_share: f64::NAN, ..IssuanceLimit::weekly(1) },
            IssuanceLimit { zones: vec!["a b".into()], ..IssuanceLimit::weekly(1) },
        ] {
            assert_eq!(check_limit(&bad).unwrap_err().code(), "limit_invalid", "{bad:?}");
        }
    }

    #[test]
    fn a_full_window_opens_when_its_oldest_bucket_has_left() {
        let mut week = window(7 * 86_400);
        for now in [100, 200, 3_700] {
            decide(&week, 3, now).unwrap();
            count(&mut week, now);
        }
        assert_eq!(week.buckets.len(), 2, "an hour is a bucket");
        let opens = 3_600 + 7 * 86_400;
        assert_eq!(decide(&week, 3, 4_000), Err(opens));
        assert_eq!(decide(&week, 3, opens - 1), Err(opens));
        assert_eq!(decide(&week, 3, opens), Ok(()));
        assert_eq!(decide(&week, 1, 4_000), Err(7_200 + 7 * 86_400), "a smaller limit waits for more to leave");
    }

    proptest! {
        #[test]
        fn no_stretch_of_time_holds_more_than_the_limit(
            length in 60_u64..100_000,
            limit in 1_u32..12,
            mut times in proptest::collection::vec(0_i64..300_000, 1..150),
            skewed in any::<bool>(),
        ) {
            // Clocks of nodes may differ a little: then orders come out of order.
            if !skewed {
                times.sort_unstable();
            }
            let mut counted = window(length);
            let mut begun: Vec<i64> = Vec::new();
            let mut newest = 0;
            for now in times {
                if skewed && now < newest - 50 {
                    continue;
                }
                newest = newest.max(now);
                match decide(&counted, limit, now) {
                    Ok(()) => {
                        count(&mut counted, now);
                        begun.push(now);
                    }
                    Err(until) => {
                        prop_assert!(until > now);
                        if !skewed {
                            prop_assert_eq!(decide(&counted, limit, until), Ok(()), "it waits long enough, once");
                        }
                    }
                }
                prop_assert!(counted.buckets.windows(2).all(|pair| pair[0].end <= pair[1].start), "no overlap");
                prop_assert!(counted.buckets.len() <= 400);
            }
            if !skewed {
                let length = i64::try_from(length).unwrap();
                for (index, from) in begun.iter().enumerate() {
                    let within = begun[index..].iter().filter(|at| **at < from + length).count();
                    prop_assert!(within <= usize::try_from(limit).unwrap(), "{within} from {from}");
                }
            }
        }
    }
}
