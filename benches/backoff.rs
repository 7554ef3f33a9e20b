//! Waiting: what a decision to wait costs, and what 100,000 orders that wait cost.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use certlib_benches::pending::{JumpingClock, PendingCa};
use certlib_benches::process;
use certlib_benches::scale::Scale;
use certlib_core::backoff::{Jitter, Ladder};
use certlib_core::client::{NewCertificate, NewIssuer};
use certlib_core::memory::MemoryStore;
use certlib_core::model::{Certificate, Event, Order};
use certlib_core::poll::PollSchedule;
use certlib_core::queue::{RetryPolicy, after_failure};
use certlib_core::runtime::{IssuerRegistry, Role, RunningRuntime, Runtime};
use certlib_core::secret::{Keyring, KeyringEnvelope};
use certlib_core::store::{Record, TypedQuery};
use certlib_core::{Client, Error};
use criterion::{Criterion, criterion_group};
use futures::FutureExt as _;
use serde_json::json;
use time::OffsetDateTime;

const PROJECT: &str = "bench";

/// How long a poll rests at the end of the schedule.
const REST: Duration = Duration::from_secs(300);

criterion_group!(backoff, decisions);

fn main() {
    backoff();
    let scale = Scale::of_this_run();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(pending_orders(scale.pick(500, 100_000, 100_000), Duration::from_secs(scale.pick(1, 5, 20))));
    Criterion::default().configure_from_args().final_summary();
}

fn decisions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decision");
    let mut rng = rand::rng();
    group.bench_function("Jitter::draw", |bencher| bencher.iter(|| Jitter::draw(black_box(&mut rng))));

    let jitter = Jitter::random();
    let ladder = Ladder::standard();
    group.bench_function("Ladder::wait", |bencher| bencher.iter(|| ladder.wait(black_box(3), black_box(jitter))));

    let schedule = PollSchedule::default();
    let started = OffsetDateTime::now_utc();
    let now = started + Duration::from_secs(70);
    group.bench_function("PollSchedule::next", |bencher| {
        bencher.iter(|| schedule.next(black_box(3), started, black_box(now), None, black_box(jitter)));
    });

    let policy = RetryPolicy::default();
    let error = Error::network("ssh.connect", "connect_refused", "nobody listens").with("host", "web-01");
    group.bench_function("after_failure", |bencher| {
        bencher.iter(|| after_failure(&policy, black_box(3), black_box(&error), black_box(jitter)));
    });
    group.finish();
}

/// Orders that a CA does not finish, brought to rest by the engine itself.
async fn pending_orders(orders: u64, quiet: Duration) {
    let empty = process::resident().unwrap();
    let clock = Arc::new(JumpingClock::new());
    let ca = PendingCa::default();
    let running = start(&clock, &ca);
    let client = running.client();

    let (began, used) = (Instant::now(), process::cpu().unwrap());
    place(&client, orders).await;
    until(|| ca.polls() >= orders && nothing_runs(&client)).await;
    let (took, used) = (began.elapsed(), process::cpu().unwrap() - used);
    eprintln!("\n{orders} orders placed and polled once: {took:.1?}, {used:.1?} of processor time");

    let memory = process::resident().unwrap().saturating_sub(empty);
    let each = memory / orders;
    eprintln!("resident memory: {:.0} MB, {each} bytes an order, its certificate, job and event", memory as f64 / 1e6);
    let bodies = [body::<Certificate>(&client).await, body::<Order>(&client).await, body::<Event>(&client).await];
    eprintln!("of which JSON, for one: certificate {}, order {}, event {} bytes", bodies[0], bodies[1], bodies[2]);

    let used = process::cpu().unwrap();
    tokio::time::sleep(quiet).await;
    let used = process::cpu().unwrap() - used;
    let share = 100.0 * used.as_secs_f64() / quiet.as_secs_f64();
    eprintln!("at rest for {quiet:?}: {share:.2} % of a core");

    let (polled, used) = (ca.polls(), process::cpu().unwrap());
    clock.jump(2 * REST.as_secs());
    until(|| ca.polls() >= polled + orders && nothing_runs(&client)).await;
    let used = process::cpu().unwrap() - used;
    let each = used.as_secs_f64() / orders as f64;
    let share = 100.0 * used.as_secs_f64() / REST.as_secs_f64();
    eprintln!(
        "one poll of each: {used:.1?} of processor time, {:.0} us a poll; \
         spread over the {REST:?} between two polls of an order: {share:.1} % of a core\n",
        each * 1e6
    );
    running.shutdown().await;
}

fn start(clock: &Arc<JumpingClock>, ca: &PendingCa) -> RunningRuntime {
    let store = Arc::new(MemoryStore::new(clock.clone()));
    let envelope = Arc::new(KeyringEnvelope::new(Keyring::generate().unwrap()));
    Runtime::builder(store, envelope)
        .clock(clock.clone())
        .issuers(IssuerRegistry::new().register(ca.clone()).unwrap())
        .settings(|settings| settings.roles = vec![Role::Worker])
        .build()
        .unwrap()
        .start()
}

async fn place(client: &Client, orders: u64) {
    client.create_project(PROJECT).await.unwrap();
    let issuer = NewIssuer { name: "ca".into(), kind: "pending".into(), config: json!({}), credential_id: None };
    let issuer_id = client.create_issuer(PROJECT, issuer).await.unwrap().id;
    for index in 0..orders {
        let certificate = NewCertificate {
            names: vec![format!("host-{index:06}.example.test")],
            issuer_id: issuer_id.clone(),
            ..NewCertificate::default()
        };
        let certificate = client.create_certificate(PROJECT, certificate).await.unwrap();
        client.issue(PROJECT, &certificate.id).await.unwrap();
    }
}

/// Whether no job is being worked on at this moment.
fn nothing_runs(client: &Client) -> bool {
    // The store in memory answers at once.
    let stats = client.queue_stats().now_or_never();
    let stats = stats.expect("a store in memory never waits").unwrap();
    stats.by_kind.values().all(|depth| depth.in_progress == 0)
}

/// The size of one stored record of this kind, in bytes of JSON.
async fn body<R: Record>(client: &Client) -> usize {
    let query = TypedQuery::<R>::new().limit(1).into_raw().unwrap();
    client.store().query(&query).await.unwrap().records.first().map_or(0, |record| record.body.len())
}

async fn until(done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(900);
    while !done() {
        assert!(Instant::now() < deadline, "it did not happen within 15 minutes");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
