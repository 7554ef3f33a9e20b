//! What becomes due is found once: notices of the end, renewals, suggestions of the CA.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use certlib_core::Error;
use certlib_core::bundle::{Fingerprint, LeafInfo};
use certlib_core::client::{Client, NewCertificate, NewIssuer};
use certlib_core::clock::Clock as _;
use certlib_core::conformance::dying::{Death, DyingStore};
use certlib_core::error::codes;
use certlib_core::issuer::RenewalWindow;
use certlib_core::model::{Certificate, CertificateState, Event, ExpiryWatch, RenewalPolicy};
use certlib_core::policy;
use certlib_core::queue::{ClaimRequest, Job, JobFilter, JobState, Lane, Outcome, Settlement};
use certlib_core::runtime::Role;
use certlib_core::scheduler::{EXPIRED_EVENT, EXPIRING_EVENT, ExpirationSweep, RenewalSweep, Sweep as _, SweepContext};
use certlib_core::store::{Index, StoreExt as _, TypedQuery, Versioned, Write, WriteBatch};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;
use time::OffsetDateTime;

use crate::common::{START, World};

const MS: Duration = Duration::from_millis(50);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

fn expiration() -> ExpirationSweep {
    ExpirationSweep::new(policy::EXPIRY_THRESHOLDS.to_vec())
}

/// Certificates that were issued at the start and live for so long; nothing runs.
async fn issued(world: &World, count: usize, lifetime: Duration) -> Vec<String> {
    let client = world.builder().build().unwrap().client();
    client.create_project("shop").await.unwrap();
    let issuer = NewIssuer { name: "ca".into(), kind: "fake".into(), config: json!({}), credential_id: None };
    let issuer_id = client.create_issuer("shop", issuer).await.unwrap().id;
    let mut ids = Vec::with_capacity(count);
    for number in 0..count {
        let new = NewCertificate::new([format!("c{number}.example")], &*issuer_id);
        let id = client.create_certificate("shop", new).await.unwrap().id;
        let mut certificate = load(world, &id).await;
        certificate.latest_version = 1;
        certificate.active_version = Some(1);
        certificate.state = CertificateState::Active;
        certificate.expiry = Some(ExpiryWatch {
            version: 1,
            not_before: START,
            not_after: START + lifetime,
            told: None,
            check_at: Some(START),
        });
        world.store.update(&mut certificate).await.unwrap();
        ids.push(id);
    }
    ids
}

async fn load(world: &World, id: &str) -> Versioned<Certificate> {
    world.store.load::<Certificate>(id).await.unwrap()
}

/// The notices of a certificate's end, in the order they were left: threshold and severity.
async fn notices(world: &World, id: &str) -> Vec<(u64, String)> {
    let events = world.store.list_all(TypedQuery::<Event>::new().equal("subject", id)).await.unwrap();
    let notices = events.iter().filter(|event| [EXPIRING_EVENT, EXPIRED_EVENT].contains(&&*event.kind));
    notices
        .map(|event| {
            let days = event.data["threshold_days"].as_u64().unwrap();
            assert_eq!(event.kind == EXPIRED_EVENT, days == 0);
            (days, event.data["severity"].as_str().unwrap().to_owned())
        })
        .collect()
}

fn days(notices: &[(u64, String)]) -> Vec<u64> {
    notices.iter().map(|(days, _)| *days).collect()
}

#[tokio::test]
async fn each_threshold_is_told_once_whoever_sweeps() {
    let world = World::new();
    let id = issued(&world, 1, 90 * DAY).await.remove(0);
    let mut former = world.leader("a").await;
    for day in 0..=95 {
        let cx = world.leader(if day % 2 == 0 { "a" } else { "b" }).await;
        // The former leader does not know yet that it is one no more.
        match expiration().run(&former).await {
            Ok(moved) => assert_eq!(moved, 0, "it found something on day {day}"),
            Err(error) => assert_eq!(error.code(), codes::LEASE_LOST),
        }
        expiration().run(&cx).await.unwrap();
        assert_eq!(expiration().run(&cx).await.unwrap(), 0, "twice at the same moment");
        former = cx;
        world.clock.advance(DAY);
    }
    let told = notices(&world, &id).await;
    assert_eq!(days(&told), [30, 14, 7, 3, 1, 0]);
    let severities: Vec<_> = told.iter().map(|(_, severity)| &**severity).collect();
    assert_eq!(severities, ["info", "warning", "warning", "error", "critical", "critical"]);
    assert_eq!(load(&world, &id).await.expiry.as_ref().unwrap().check_at, None, "it is not looked at any more");
}

#[tokio::test]
async fn sweeps_at_the_same_moment_tell_once() {
    let world = World::new();
    let ids = issued(&world, 250, 90 * DAY).await;
    let cx = world.leader("a").await;
    world.clock.advance(61 * DAY);
    let sweeps = (0..4).map(|_| {
        let cx = cx.clone();
        async move { expiration().run(&cx).await.unwrap() }
    });
    let moved: usize = futures::future::join_all(sweeps).await.into_iter().sum();
    assert_eq!(moved, 250);
    for id in &ids {
        assert_eq!(days(&notices(&world, id).await), [30], "{id}");
    }
}

#[tokio::test]
async fn a_late_sweep_tells_the_nearest_threshold_alone() {
    let world = World::new();
    let ids = issued(&world, 2, 90 * DAY).await;
    let cx = world.leader("a").await;
    world.clock.advance(85 * DAY);
    expiration().run(&cx).await.unwrap();
    assert_eq!(days(&notices(&world, &ids[0]).await), [7]);
    world.clock.advance(10 * DAY);
    expiration().run(&cx).await.unwrap();
    assert_eq!(days(&notices(&world, &ids[1]).await), [7, 0]);
}

#[tokio::test]
async fn short_lives_are_not_spent_under_alarm() {
    let world = World::new();
    let id = issued(&world, 1, 6 * DAY).await.remove(0);
    let cx = world.leader("a").await;
    for _ in 0..7 * 24 {
        expiration().run(&cx).await.unwrap();
        world.clock.advance(HOUR);
    }
    let told = notices(&world, &id).await;
    assert_eq!(days(&told), [3, 1, 0]);
    assert_eq!(told[0].1, "info", "half of its life is left");
}

#[tokio::test]
async fn a_page_moves_on_what_it_can() {
    let world = World::new();
    let ids = issued(&world, 150, 90 * DAY).await;
    let cx = world.leader("a").await;
    world.clock.advance(61 * DAY);
    // One was told before, but the mark is gone, as after a restore; another is from another version of the program.
    expiration().run(&cx).await.unwrap();
    for id in &ids {
        let mut certificate = load(&world, id).await;
        let told = id == &ids[40];
        let watch = certificate.expiry.as_mut().unwrap();
        (watch.told, watch.check_at) = (None, Some(START));
        world.store.update(&mut certificate).await.unwrap();
        if !told {
            let events = TypedQuery::<Event>::new().equal("subject", &**id).equal("kind", EXPIRING_EVENT);
            for event in world.store.list_all(events).await.unwrap() {
                world.store.commit(WriteBatch::new().delete::<Event>(&event.id)).await.unwrap();
            }
        }
    }
    let index = Index::new().field("expiry_check_at", START).field("renew_at", START);
    let mut batch = WriteBatch::new();
    batch.writes.push(Write::Put { kind: "certificate", id: "0-strange".to_owned(), body: "{}".into(), index });
    world.store.commit(batch).await.unwrap();

    assert_eq!(expiration().run(&cx).await.unwrap(), 150);
    for id in &ids {
        assert_eq!(days(&notices(&world, id).await), [30], "{id}");
    }
    assert_eq!(expiration().run(&cx).await.unwrap(), 0, "nothing is met for ever");
}

#[tokio::test]
async fn a_sweep_costs_what_is_due_and_not_what_exists() {
    let mut writes = Vec::new();
    for exist in [300, 5_000] {
        let world = World::new();
        let ids = issued(&world, exist, 90 * DAY).await;
        for (number, id) in ids.iter().enumerate() {
            let mut certificate = load(&world, id).await;
            let far = START + 30 * DAY;
            certificate.renew_at = Some(if number % (exist / 100) == 0 { START } else { far });
            world.store.update(&mut certificate).await.unwrap();
        }
        let cx = world.leader("a").await;
        let counting = DyingStore::mortal(world.store.clone());
        let counted = SweepContext::under(cx.lease().clone(), 365 * DAY, counting.clone(), world.clock.clone());
        assert_eq!(RenewalSweep.run(&counted).await.unwrap(), 100);
        writes.push(counting.writes());
    }
    assert_eq!(writes, [1, 1], "a hundred are one commit");
}

#[tokio::test]
async fn a_leader_that_dies_in_its_sweep_leaves_nothing_out_and_nothing_twice() {
    for death in [Death::Before, Death::After] {
        for nth in 1..=3 {
            let world = World::new();
            let ids = issued(&world, 250, 90 * DAY).await;
            let cx = world.leader("a").await;
            world.clock.advance(61 * DAY);
            let dying = DyingStore::new(world.store.clone(), nth, death);
            let dying = SweepContext::under(cx.lease().clone(), 365 * DAY, dying, world.clock.clone());
            expiration().run(&dying).await.unwrap_err();
            let moved = expiration().run(&world.leader("b").await).await.unwrap();
            let before = match death {
                Death::Before => nth - 1,
                Death::After => nth,
            };
            assert_eq!(moved, 250_usize.saturating_sub(before * 100), "{death:?} {nth}");
            for id in &ids {
                assert_eq!(days(&notices(&world, id).await), [30], "{death:?} {nth} {id}");
            }
        }
    }
}

#[tokio::test]
async fn the_live_version_is_the_one_that_is_watched() {
    let world = World::new();
    let node = world.builder().build().unwrap().start();
    let client = node.client();
    let id = world.certificate(&client, &["a"]).await;
    client.issue("shop", &id).await.unwrap();
    world.until(MS, || async { live(&client, &id).await == Some(1) }).await;
    let first = client.certificate("shop", &id).await.unwrap().expiry.unwrap();
    assert_eq!((first.version, first.told), (1, None));
    assert_eq!(first.check_at, Some(first.not_after - time::Duration::days(30)));

    world.clock.advance(DAY / 2);
    world.fleet.fault("a", Some(common::Fault::Refuses));
    client.renew("shop", &id).await.unwrap();
    let failed =
        || async { client.certificate("shop", &id).await.unwrap().state == CertificateState::DistributionFailed };
    world.until(MS, failed).await;
    let watched = client.certificate("shop", &id).await.unwrap().expiry.unwrap();
    assert_eq!(watched.version, 1, "what is served still ends when it ends");

    world.fleet.fault("a", None);
    client.distribute("shop", &id).await.unwrap();
    world.until(MS, || async { live(&client, &id).await == Some(2) }).await;
    let watched = client.certificate("shop", &id).await.unwrap().expiry.unwrap();
    assert_eq!(watched.version, 2);
    assert!(watched.not_after > first.not_after);
    node.shutdown().await;
}

async fn live(client: &Client, id: &str) -> Option<u32> {
    client.certificate("shop", id).await.unwrap().active_version
}

/// All jobs of the store, by when they may run.
async fn run_times(world: &World) -> Vec<OffsetDateTime> {
    let mut filter = JobFilter { limit: 1000, ..JobFilter::default() };
    let mut times = Vec::new();
    loop {
        let page: Vec<Job> = world.store.jobs(&filter).await.unwrap();
        let Some(last) = page.last() else { return times };
        filter.before = Some(last.id.clone());
        times.extend(page.iter().map(|job| job.run_at));
    }
}

#[tokio::test]
async fn ten_thousand_certificates_of_one_hour_are_not_renewed_in_one_minute() {
    const COUNT: usize = 10_000;
    let world = World::new();
    let ids = issued(&world, COUNT, 6 * DAY).await;
    let rfc3339 = |at: OffsetDateTime| at.format(&time::format_description::well_known::Rfc3339).unwrap();
    let leaf: LeafInfo = serde_json::from_value(json!({
        "names": [], "subject": "", "issuer": "", "serial": "",
        "not_before": rfc3339(START), "not_after": rfc3339(START + 6 * DAY), "fingerprint": Fingerprint::of(b""),
    }))
    .unwrap();
    let mut rng = StdRng::seed_from_u64(7);
    for id in &ids {
        let mut certificate = load(&world, id).await;
        certificate.renew_at = policy::renew_at(&leaf, &RenewalPolicy::default(), rng.random_range(0.0..1.0));
        world.store.update(&mut certificate).await.unwrap();
    }
    let cx = world.leader("a").await;
    world.clock.advance(4 * DAY - MINUTE);
    let mut minutes = 0;
    while minutes < 6 * 60 {
        // Twice nobody leads for a while: what piles up must not go at once.
        let pause = match minutes {
            60 => 10,
            180 => 25,
            _ => 1,
        };
        world.clock.advance(MINUTE * pause);
        minutes += pause;
        RenewalSweep.run(&cx).await.unwrap();
    }
    let times = run_times(&world).await;
    assert_eq!(times.len(), COUNT, "each once");
    let minute = |at: &OffsetDateTime| (*at - START).whole_minutes();
    let (first, last) = (times.iter().map(minute).min().unwrap(), times.iter().map(minute).max().unwrap());
    assert!(first >= 4 * 24 * 60, "nothing early");
    // Five minutes have enough of them that chance alone makes no peak.
    let mut slots = BTreeMap::new();
    for at in &times {
        *slots.entry((minute(at) - first) / 5).or_insert(0_u32) += 1;
    }
    let mean = 5.0 * 10_000.0 / f64::from(i32::try_from(last - first + 1).unwrap());
    let peak = f64::from(*slots.values().max().unwrap());
    assert!(peak <= 2.0 * mean, "peak {peak} in five minutes, mean {mean}");
}

#[tokio::test]
async fn many_that_are_due_go_oldest_first_and_once() {
    let world = World::new();
    let ids = issued(&world, 1_050, 90 * DAY).await;
    for (number, id) in ids.iter().enumerate() {
        let mut certificate = load(&world, id).await;
        let due = if number < 1_000 { START + DAY } else { START + 30 * DAY };
        certificate.renew_at = Some(due + Duration::from_secs(u64::try_from(number).unwrap()));
        world.store.update(&mut certificate).await.unwrap();
    }
    let cx = world.leader("a").await;
    world.clock.advance(2 * DAY);
    assert_eq!(RenewalSweep.run(&cx).await.unwrap(), 1_000);
    assert_eq!(RenewalSweep.run(&cx).await.unwrap(), 0);
    let times = run_times(&world).await;
    assert_eq!(times.len(), 1_000);
    assert!(times.iter().all(|at| *at <= world.clock.now() + HOUR), "spread, but within an hour");
    world.clock.advance(DAY);
    assert_eq!(RenewalSweep.run(&cx).await.unwrap(), 1_000, "the net: looked at again after a day");
    assert_eq!(run_times(&world).await.len(), 1_000, "but no second job");
}

#[tokio::test]
async fn the_net_does_not_hurry_a_job_that_waits() {
    let world = World::new();
    let id = issued(&world, 1, 90 * DAY).await.remove(0);
    let mut certificate = load(&world, &id).await;
    certificate.renew_at = Some(START);
    world.store.update(&mut certificate).await.unwrap();
    let cx = world.leader("a").await;
    RenewalSweep.run(&cx).await.unwrap();
    let request = ClaimRequest::new(Lane::Issuance, "w", 1, DAY);
    let job = world.store.claim(&request).await.unwrap().remove(0);
    let error = Error::transient("ca", "busy", "not before three days").to_record();
    let outcome = Outcome::Retry { error, delay: 3 * DAY };
    let settlement = Settlement { claim: job.claim(), outcome, duration: Duration::ZERO };
    assert_eq!(world.store.settle(vec![settlement]).await.unwrap(), [true]);
    for _ in 0..3 {
        world.clock.advance(DAY - MINUTE);
        RenewalSweep.run(&cx).await.unwrap();
        assert_eq!(run_times(&world).await, [START + 3 * DAY], "as the CA wants it");
    }
}

#[tokio::test]
async fn a_failing_renewal_is_tried_in_time_and_gets_louder() {
    let mut world = World::new();
    Arc::get_mut(&mut world.ca).unwrap().lifetime = 6 * DAY;
    let node = world.patient_builder().build().unwrap().start();
    let client = node.client();
    let id = world.certificate(&client, &[]).await;
    client.issue("shop", &id).await.unwrap();
    world.until(MS, || async { live(&client, &id).await == Some(1) }).await;
    let end = client.certificate("shop", &id).await.unwrap().expiry.unwrap().not_after;
    let last_call = end - DAY;
    *world.ca.fail.lock().unwrap() = Some(|| Error::network("fake", "connect_refused", "away"));
    // In short steps around the last call, so that a try at that instant can be told from a late one.
    world.until(Duration::from_secs(600), || async { world.clock.now() >= last_call + 8 * HOUR }).await;

    let failures: Vec<Event> = client
        .events("shop", Some(&id), 1000)
        .await
        .unwrap()
        .into_iter()
        .filter(|event| event.kind == "cert.renewal_failed")
        .collect();
    let mut times: Vec<_> = failures.iter().map(|event| event.at).collect();
    times.sort_unstable();
    assert!(times.iter().any(|at| *at >= last_call && *at <= last_call + HOUR / 2), "a try at {last_call}: {times:?}");
    let late: Vec<_> = times.iter().filter(|at| **at >= last_call).collect();
    assert!(late.len() >= 4, "and about every hour from then on, at first: {late:?}");
    for event in &failures {
        let severity = event.data["severity"].as_str().unwrap();
        assert_eq!(severity, if event.at >= last_call { "critical" } else { "warning" }, "{}", event.at);
        assert_eq!(event.data["error"]["class"], "network");
    }
    assert_eq!(days(&notices(&world, &id).await), [3, 1]);

    *world.ca.fail.lock().unwrap() = None;
    world.until(Duration::from_secs(600), || async { live(&client, &id).await == Some(2) }).await;
    assert!(world.clock.now() < end, "in time");
    node.shutdown().await;
}

#[tokio::test]
async fn windows_that_cannot_be_meant_leave_the_plan_as_it_is() {
    let at = |days: i32| START + time::Duration::DAY * days;
    for (start, end, follows) in [(at(20), at(10), false), (at(-18_250), at(18_250), false), (at(-9), at(-8), true)] {
        let world = World::new();
        let mut window = RenewalWindow::new(START, START + DAY).unwrap();
        (window.start, window.end) = (start, end);
        window.retry_after = Some(Duration::from_secs(1_000_000_000_000));
        *world.ca.window.lock().unwrap() = Some(window);
        let node = world.builder().settings(|settings| settings.roles = vec![Role::Worker]).build().unwrap().start();
        let client = node.client();
        let id = world.certificate(&client, &[]).await;
        client.issue("shop", &id).await.unwrap();
        world.until(MS, || async { live(&client, &id).await == Some(1) }).await;
        let plan = client.certificate("shop", &id).await.unwrap().renew_at.unwrap();
        let cx = world.leader("a").await;
        certlib_core::scheduler::HintSweep.run(&cx).await.unwrap();
        let asked = || async {
            let filter = JobFilter { state: Some(JobState::Succeeded), ..JobFilter::default() };
            let jobs = client.jobs("shop", filter).await.unwrap();
            jobs.iter().any(|job| job.kind == "refresh_renewal_hint")
        };
        world.until(MS, asked).await;
        let certificate = client.certificate("shop", &id).await.unwrap();
        assert_eq!(certificate.renew_at != Some(plan), follows);
        if follows {
            assert!(certificate.renew_at.unwrap() <= world.clock.now(), "a window that has passed means now");
        }
        let again = certificate.hint_check_at.unwrap() - world.clock.now();
        assert!(again <= DAY.mul_f64(1.1) && again >= DAY.mul_f64(0.8), "asked again within a day: {again}");
        node.shutdown().await;
    }
}
