//! Limits, approvals, distributions that came later, and what is forgotten in time.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use certlib_core::client::{Client, NewApproval, NewCertificate, NewTarget};
use certlib_core::clock::Clock as _;
use certlib_core::issuance::rate::LIMITED_EVENT;
use certlib_core::model::{
    AcmeChallenge, ApprovalState, CertificateState, Event, IssuanceBucket, IssuanceLimit, IssuanceWindow, JournalEntry,
    Run, TargetRun, Trigger,
};
use certlib_core::queue::{JobFilter, JobState};
use certlib_core::runtime::{Role, RunningRuntime};
use certlib_core::scheduler::{
    APPROVAL_EXPIRED_EVENT, ApprovalSweep, AutoDistributionSweep, ChallengeSweep, EventSweep, RateWindowSweep,
    Sweep as _,
};
use certlib_core::store::{StoreExt as _, TypedQuery};
use serde_json::json;

use crate::common::{Fault, START, World};

const MS: Duration = Duration::from_millis(50);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// A node whose leader outlasts the steps of the clock.
fn node(world: &World) -> RunningRuntime {
    let settings = |settings: &mut certlib_core::runtime::Settings| {
        settings.leader_ttl = DAY;
        settings.run_retention = 30 * DAY;
    };
    world.builder().settings(settings).build().unwrap().start()
}

async fn events(world: &World, kind: &str) -> Vec<Event> {
    let events = world.store.list_all(TypedQuery::<Event>::new().equal("kind", kind)).await.unwrap();
    events.into_iter().map(|event| event.record).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_limit_is_exact_over_two_nodes() {
    const WANTED: usize = 32;
    const LIMIT: u32 = 10;
    let world = World::new();
    let workers = |settings: &mut certlib_core::runtime::Settings| settings.roles = vec![Role::Worker];
    let nodes = [0, 1].map(|_| world.builder().settings(workers).build().unwrap().start());
    let client = nodes[0].client();
    let first = world.certificate(&client, &[]).await;
    let issuer = client.certificate("shop", &first).await.unwrap().issuer_id;
    let limit = IssuanceLimit::weekly(LIMIT);
    client.limit_issuer("shop", &issuer, Some(limit)).await.unwrap();
    let mut ids = Vec::new();
    for number in 0..WANTED {
        let new = NewCertificate::new([format!("h{number}.shop.example")], &*issuer);
        ids.push(client.create_certificate("shop", new).await.unwrap().id);
    }
    let wishes = ids.iter().enumerate().map(|(number, id)| {
        let client = nodes[number % 2].client();
        async move { client.issue("shop", id).await.unwrap() }
    });
    futures::future::join_all(wishes).await;

    let refused = WANTED - usize::try_from(LIMIT).unwrap();
    let settled = || async {
        let stats = world.store.stats().await.unwrap();
        let busy = stats.by_kind.values().any(|depth| depth.in_progress > 0);
        !busy && events(&world, LIMITED_EVENT).await.len() == refused
    };
    world.until(MS, settled).await;
    let orders = || world.ca.submits.load(Ordering::SeqCst);
    assert_eq!(orders(), usize::try_from(LIMIT).unwrap());
    let window = IssuanceWindow::id_of(&issuer, "shop.example");
    let window = world.store.load::<IssuanceWindow>(&window).await.unwrap();
    assert_eq!(window.buckets.iter().map(|bucket| bucket.count).sum::<u32>(), LIMIT);
    let told: BTreeSet<_> = events(&world, LIMITED_EVENT).await.into_iter().map(|event| event.subject).collect();
    assert_eq!(told.len(), refused, "once for each certificate");
    let waiting = JobFilter { state: Some(JobState::Pending), limit: 100, ..JobFilter::default() };
    for job in client.jobs("shop", waiting).await.unwrap() {
        assert!(job.run_at >= START + 7 * DAY && job.run_at <= START + 7 * DAY + 2 * HOUR, "{}", job.run_at);
        assert_eq!(job.attempt, 0, "waiting is no attempt");
    }

    // The week passes, and the next ten go.
    world.until(HOUR, || async { orders() == 2 * usize::try_from(LIMIT).unwrap() }).await;
    assert!(world.clock.now() >= START + 7 * DAY);
    world.until(HOUR, || async { world.clock.now() >= START + 10 * DAY }).await;
    assert_eq!(orders(), 2 * usize::try_from(LIMIT).unwrap());
    client.limit_issuer("shop", &issuer, None).await.unwrap();
    world.until(HOUR, || async { orders() == WANTED }).await;
    for node in nodes {
        node.shutdown().await;
    }
}

#[tokio::test]
async fn renewals_may_use_what_new_certificates_may_not() {
    let world = World::new();
    let node = node(&world);
    let client = node.client();
    let first = world.certificate(&client, &[]).await;
    let issuer = client.certificate("shop", &first).await.unwrap().issuer_id;
    let limit = IssuanceLimit { renewal_share: 0.5, ..IssuanceLimit::weekly(2) };
    client.limit_issuer("shop", &issuer, Some(limit)).await.unwrap();
    let second = NewCertificate::new(["two.shop.example"], &*issuer);
    let second = client.create_certificate("shop", second).await.unwrap().id;
    client.issue("shop", &first).await.unwrap();
    world.until(MS, || async { state(&client, &first).await == CertificateState::Active }).await;
    client.issue("shop", &second).await.unwrap();
    world.until(MS, || async { events(&world, LIMITED_EVENT).await.len() == 1 }).await;
    client.renew("shop", &first).await.unwrap();
    world.until(MS, || async { client.certificate("shop", &first).await.unwrap().latest_version == 2 }).await;
    assert_eq!(client.certificate("shop", &second).await.unwrap().latest_version, 0);
    node.shutdown().await;
}

async fn state(client: &Client, id: &str) -> CertificateState {
    client.certificate("shop", id).await.unwrap().state
}

#[tokio::test]
async fn counts_that_no_longer_count_are_forgotten() {
    let world = World::new();
    let cx = world.leader("a").await;
    let hour = |at: i64| {
        let start = START.unix_timestamp() + at * 3600;
        IssuanceBucket { start, end: start + 3600, count: 1 }
    };
    for (zone, hours) in [("old.example", vec![0]), ("mixed.example", vec![0, 100]), ("new.example", vec![100])] {
        let window = IssuanceWindow {
            id: IssuanceWindow::id_of("i", zone),
            issuer_id: "i".into(),
            zone: zone.into(),
            window_seconds: 7 * 86_400,
            buckets: hours.into_iter().map(hour).collect(),
        };
        world.store.insert(window).await.unwrap();
    }
    assert_eq!(RateWindowSweep.run(&cx).await.unwrap(), 0);
    world.clock.advance(7 * DAY + HOUR);
    assert_eq!(RateWindowSweep.run(&cx).await.unwrap(), 2);
    assert_eq!(RateWindowSweep.run(&cx).await.unwrap(), 0);
    let left = world.store.list_all(TypedQuery::<IssuanceWindow>::new()).await.unwrap();
    let left: Vec<_> = left.iter().map(|window| (&*window.zone, window.buckets.len())).collect();
    assert_eq!(left, [("mixed.example", 1), ("new.example", 1)]);
}

#[tokio::test]
async fn a_distribution_that_comes_later_gets_its_run_once() {
    let world = World::new();
    let workers = |settings: &mut certlib_core::runtime::Settings| settings.roles = vec![Role::Worker];
    let node = world.builder().settings(workers).build().unwrap().start();
    let client = node.client();
    let id = world.certificate(&client, &["a"]).await;
    let mut targets = Vec::new();
    for name in ["b", "c"] {
        let target = NewTarget { name: name.into(), module: "fake".into(), ..NewTarget::default() };
        targets.push(client.create_target("shop", target).await.unwrap().id);
    }
    client.issue("shop", &id).await.unwrap();
    world.until(MS, || async { state(&client, &id).await == CertificateState::Active }).await;
    let runs = || async { world.store.list_all(TypedQuery::<Run>::new()).await.unwrap().len() };

    let cx = world.leader("a").await;
    world.clock.advance(HOUR);
    assert_eq!(AutoDistributionSweep.run(&cx).await.unwrap(), 1, "a look after the issuance");
    assert_eq!(runs().await, 1, "which has its run already");
    client.attach("shop", &id, vec![targets[0].clone()], None, Trigger::Automatic).await.unwrap();
    client.attach("shop", &id, vec![targets[1].clone()], None, Trigger::Manual).await.unwrap();
    let moved = futures::future::join_all((0..4).map(|_| AutoDistributionSweep.run(&cx))).await;
    assert_eq!(moved.into_iter().map(Result::unwrap).sum::<usize>(), 1);
    let cx = world.leader("b").await;
    assert_eq!(AutoDistributionSweep.run(&cx).await.unwrap(), 0);
    assert_eq!(runs().await, 2);
    world.until(MS, || async { world.fleet.served("b").is_some() }).await;
    assert_eq!(world.fleet.served("b"), world.fleet.served("a"));
    assert_eq!(world.fleet.served("c"), None, "nobody asked for it");
    node.shutdown().await;
}

#[tokio::test]
async fn approvals_are_asked_for_decided_and_expire() {
    let world = World::new();
    let client = world.builder().build().unwrap().client();
    client.create_project("shop").await.unwrap();
    client.create_project("other").await.unwrap();
    let new = NewApproval::new("run", "r1", "digest", "ada");
    let bad = NewApproval { needed: 2, approvers: vec!["ada".into(), "bob".into()], ..new.clone() };
    assert_eq!(client.request_approval("shop", bad).await.unwrap_err().code(), "approval_invalid");
    let two = NewApproval { needed: 2, ttl: 2 * DAY, ..new.clone() };
    let two = client.request_approval("shop", two).await.unwrap().id;
    let one = client.request_approval("shop", new.clone()).await.unwrap().id;
    let forgotten = client.request_approval("shop", new).await.unwrap().id;

    let decide = |id: &str, by: &str| {
        let (client, id, by) = (client.clone(), id.to_owned(), by.to_owned());
        async move { client.decide_approval("shop", &id, &by, true, "fine").await }
    };
    assert_eq!(decide(&one, "ada").await.unwrap_err().code(), "approval_own");
    assert_eq!(decide(&one, "bob").await.unwrap().state, ApprovalState::Approved);
    assert!(client.approval("shop", &one).await.unwrap().allows("digest", world.clock.now()));
    assert!(client.approval("other", &one).await.unwrap_err().is_not_found());
    assert!(client.decide_approval("other", &two, "bob", true, "").await.unwrap_err().is_not_found());
    // Both at the same moment: both count.
    let both = futures::future::join(decide(&two, "bob"), decide(&two, "eve")).await;
    assert!(both.0.is_ok() && both.1.is_ok());
    assert_eq!(client.approval("shop", &two).await.unwrap().state, ApprovalState::Approved);

    let pending = client.approvals("shop", Some(ApprovalState::Pending), None, 10).await.unwrap().records;
    assert_eq!(pending.iter().map(|request| &*request.id).collect::<Vec<_>>(), [&*forgotten]);
    let cx = world.leader("a").await;
    assert_eq!(ApprovalSweep.run(&cx).await.unwrap(), 0);
    world.clock.advance(DAY);
    assert_eq!(decide(&forgotten, "bob").await.unwrap_err().code(), "approval_expired");
    let former = cx;
    let cx = world.leader("b").await;
    assert!(ApprovalSweep.run(&former).await.is_err(), "another leads");
    assert_eq!(ApprovalSweep.run(&cx).await.unwrap(), 1);
    assert_eq!(ApprovalSweep.run(&cx).await.unwrap(), 0);
    assert_eq!(client.approval("shop", &forgotten).await.unwrap().state, ApprovalState::Expired);
    assert_eq!(client.approval("shop", &two).await.unwrap().state, ApprovalState::Approved, "a decision stands");
    let told = events(&world, APPROVAL_EXPIRED_EVENT).await;
    assert_eq!(told.iter().map(|event| &*event.subject).collect::<Vec<_>>(), [&*forgotten]);
    assert_eq!(client.approvals("shop", None, None, 10).await.unwrap().records.len(), 3);
}

#[tokio::test]
async fn old_events_and_challenges_are_forgotten_and_young_ones_kept() {
    let world = World::new();
    let cx = world.leader("a").await;
    for number in 0..1_200 {
        let event = Event::new("shop", "old", "s", json!({ "number": number }), START);
        world.store.insert(event).await.unwrap();
    }
    let challenge = |id: &str, expires_at| AcmeChallenge {
        id: id.into(),
        key_authorization: String::new(),
        name: "a.example".into(),
        expires_at,
    };
    world.store.insert(challenge("old", START + HOUR)).await.unwrap();
    world.clock.advance(60 * DAY);
    world.store.insert(Event::new("shop", "young", "s", json!({}), world.clock.now())).await.unwrap();
    world.store.insert(challenge("young", world.clock.now() + 40 * DAY)).await.unwrap();
    let sweep = EventSweep::new(90 * DAY);
    assert_eq!(sweep.run(&cx).await.unwrap(), 0);
    world.clock.advance(31 * DAY);
    assert_eq!(sweep.run(&cx).await.unwrap(), 1_200);
    assert_eq!(ChallengeSweep.run(&cx).await.unwrap(), 1);
    let left = world.store.list_all(TypedQuery::<Event>::new()).await.unwrap();
    assert_eq!(left.iter().map(|event| &*event.kind).collect::<Vec<_>>(), ["young"]);
    assert!(world.store.find::<AcmeChallenge>("young").await.unwrap().is_some());
}

#[tokio::test]
async fn runs_and_ways_back_are_kept_for_two_generations() {
    let world = World::new();
    let node = node(&world);
    let client = node.client();
    let id = world.certificate(&client, &["a", "b"]).await;
    for version in 1..=5 {
        client.issue("shop", &id).await.unwrap();
        let done = || async {
            let certificate = client.certificate("shop", &id).await.unwrap();
            let status = client.distribution_status("shop", &id).await.unwrap();
            certificate.active_version == Some(version)
                && status.is_some_and(|status| status.run.version == version && status.run.finished_at.is_some())
        };
        world.until(MS, done).await;
        // From here on `b` refuses what is new: it goes on serving, and needs the way back from, its first.
        world.fleet.fault("b", Some(Fault::Refuses));
    }
    let journals = || async {
        let mut found = BTreeSet::new();
        for run in world.store.list_all(TypedQuery::<Run>::new()).await.unwrap() {
            for target in world.store.list_all(TypedQuery::<TargetRun>::new().equal("run", &*run.id)).await.unwrap() {
                let query = TypedQuery::<JournalEntry>::new().equal("target_run", &*target.id);
                let entries = world.store.list_all(query).await.unwrap().len();
                assert_eq!(entries, usize::try_from(target.journal_entries).unwrap());
                if entries > 0 {
                    found.insert((run.version, target.target_name.clone()));
                }
            }
        }
        found
    };
    let name = |version, name: &str| (version, name.to_owned());
    let all: BTreeSet<_> = (1..=5).map(|version| name(version, "a")).chain([name(1, "b")]).collect();
    assert_eq!(journals().await, all);

    let kept: BTreeSet<_> = [name(1, "b"), name(4, "a"), name(5, "a")].into();
    world.until(HOUR, || async { journals().await == kept }).await;
    assert!(world.clock.now() >= START + DAY, "not at once");
    let runs = || async {
        let mut versions: Vec<_> = world.store.list_all(TypedQuery::<Run>::new()).await.unwrap();
        versions.sort_by_key(|run| run.version);
        versions.into_iter().map(|run| run.version).collect::<Vec<_>>()
    };
    assert_eq!(runs().await, [1, 2, 3, 4, 5]);
    world.until(6 * HOUR, || async { runs().await == [1, 4, 5] }).await;
    assert!(world.clock.now() >= START + 30 * DAY, "not before their time");
    let targets = world.store.list_all(TypedQuery::<TargetRun>::new()).await.unwrap();
    assert_eq!(targets.len(), 6, "no targets without a run");
    assert_eq!(client.versions("shop", &id).await.unwrap().len(), 5, "what was issued stays");
    assert_eq!(journals().await, kept);
    node.shutdown().await;
}
