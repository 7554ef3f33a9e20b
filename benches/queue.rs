//! The queue: insertion, claim and settlement, a worker, and how soon a job is picked up; on every database, beside what
//! the same database does without certlib.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::time::Duration;

use certlib_benches::backend::{Backend, Server};
use certlib_benches::floor::{self, RawJob};
use certlib_benches::meter::{self, Cost, Meter, Rounds, quantile};
use certlib_benches::scale::Scale;
use certlib_benches::table::{Table, millis, rate, ratio};
use certlib_benches::{Result, work};
use certlib_core::runtime::Settings;
use criterion::{BenchmarkId, Criterion, criterion_group};

/// How many jobs one insertion adds.
const INSERTED: usize = 1000;
/// How many jobs one claim takes.
const CLAIMED: usize = 100;
/// How many claim and settle at the same time.
const LOOPS: usize = 2;
/// How far apart single jobs are enqueued.
const GAP: Duration = Duration::from_millis(10);

type Tune = fn(&mut Settings);

/// How the worker is set up.
const WORKERS: [(&str, Tune); 3] = [
    ("defaults", |_| {}),
    ("prefetch 256", |settings| settings.prefetch = 256),
    ("and 64 slots", |settings| {
        settings.prefetch = 256;
        settings.lanes.insert(work::LANE, 64);
    }),
];

criterion_group! {
    name = queue;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(500));
    targets = one_by_one
}

fn main() {
    queue();
    runtime().block_on(tables(Scale::of_this_run())).unwrap();
    Criterion::default().configure_from_args().final_summary();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}

/// One job, added in a commit of its own.
fn one_by_one(criterion: &mut Criterion) {
    let runtime = runtime();
    let mut group = criterion.benchmark_group("enqueue one");
    for backend in Backend::wanted(&Backend::ALL) {
        let Some(server) = runtime.block_on(Server::start(backend)).unwrap() else { continue };
        let store = runtime.block_on(async { server.database("one").await.unwrap().open().await.unwrap() });
        group.bench_function(BenchmarkId::from_parameter(backend.name()), |bencher| {
            bencher.to_async(&runtime).iter(|| async { store.enqueue(work::jobs(1)).await.unwrap() });
        });
        runtime.block_on(async {
            drop(store);
            server.stop().await.unwrap();
        });
    }
    group.finish();
}

async fn tables(scale: Scale) -> Result<()> {
    let jobs = scale.pick(200, 20_000, 20_000);
    let rounds = scale.pick(1, 3, 7);
    let pickups = scale.pick(20, 300, 300);
    eprintln!("{}", meter::machine()?);
    let mut throughput = Table::new(
        format!(
            "{jobs} jobs, median of {rounds} rounds in turns; {INSERTED} per insertion, {CLAIMED} per claim, {LOOPS} \
             loops; processor time of client + server in ms per 1,000 jobs:"
        ),
        ["", "certlib jobs/s", "raw jobs/s", "ratio", "certlib CPU", "raw CPU"],
    );
    let mut latency = Table::new(
        format!("{pickups} jobs, enqueued one by one, {GAP:?} apart; from there to the handler, in ms:"),
        ["", "certlib p50", "p99", "raw p50", "p99", "p50 ratio", "p99 ratio"],
    );
    for backend in Backend::wanted(&Backend::ALL) {
        let Some(server) = Server::start(backend).await? else { continue };
        drain(&server, jobs, rounds, &mut throughput).await?;
        pickup(&server, pickups, &mut latency).await?;
        server.stop().await?;
    }
    eprintln!("{throughput}\n{latency}\n{}", meter::machine()?);
    Ok(())
}

/// What is measured of one side in one round.
#[derive(Default)]
struct Side {
    insert: Rounds,
    drain: Rounds,
}

async fn drain(server: &Server, jobs: usize, rounds: usize, table: &mut Table) -> Result<()> {
    let (mut raw, mut certlib) = (Side::default(), Side::default());
    let mut workers = [const { Rounds::new() }; WORKERS.len()];
    for round in 0..rounds {
        raw_round(server, &format!("raw_{round}"), jobs, &mut raw).await?;
        certlib_round(server, &format!("certlib_{round}"), jobs, &mut certlib).await?;
        for (number, (rounds, (_, tune))) in workers.iter_mut().zip(WORKERS).enumerate() {
            rounds.push(worker_round(server, &format!("worker_{number}_{round}"), jobs, tune).await?);
        }
    }
    let name = server.backend().name();
    let mut row = |what: &str, certlib: Cost, raw: Option<Cost>| {
        let raw = raw.filter(|raw| !raw.wall.is_zero());
        table.row([
            format!("{name}: {what}"),
            rate(jobs, certlib.wall),
            raw.map(|raw| rate(jobs, raw.wall)).unwrap_or_default(),
            raw.map(|raw| ratio(raw.wall, certlib.wall)).unwrap_or_default(),
            cpu(certlib, jobs),
            raw.map(|raw| cpu(raw, jobs)).unwrap_or_default(),
        ]);
    };
    let has_floor = !raw.drain.median().wall.is_zero();
    let floor = |rounds: &Rounds| has_floor.then(|| rounds.median());
    row("insert", certlib.insert.median(), floor(&raw.insert));
    row("claim + settle", certlib.drain.median(), floor(&raw.drain));
    for (rounds, (settings, _)) in workers.iter().zip(WORKERS) {
        row(&format!("worker, {settings}"), rounds.median(), floor(&raw.drain));
    }
    Ok(())
}

fn cpu(cost: Cost, jobs: usize) -> String {
    let each = |time: Duration| time.as_secs_f64() * 1e3 / (jobs as f64 / 1e3);
    format!("{:.1} + {:.1}", each(cost.client), each(cost.server))
}

async fn raw_round(server: &Server, name: &str, jobs: usize, side: &mut Side) -> Result<()> {
    let Some(floor) = server.database(name).await?.floor().await? else { return Ok(()) };
    let new = RawJob::many(jobs);
    let meter = Meter::start()?;
    for batch in new.chunks(INSERTED) {
        floor.insert(batch).await?;
    }
    side.insert.push(meter.stop()?);
    let meter = Meter::start()?;
    let done = floor::drain(&floor, LOOPS, CLAIMED).await?;
    side.drain.push(meter.stop()?);
    assert_eq!(done, jobs, "each job was settled once");
    Ok(())
}

async fn certlib_round(server: &Server, name: &str, jobs: usize, side: &mut Side) -> Result<()> {
    let store = server.database(name).await?.open().await?;
    let new = work::jobs(jobs);
    let meter = Meter::start()?;
    work::enqueue(&store, new, INSERTED).await?;
    side.insert.push(meter.stop()?);
    let meter = Meter::start()?;
    let done = work::drain(&store, LOOPS, CLAIMED).await?;
    side.drain.push(meter.stop()?);
    assert_eq!(done, jobs, "each job was settled once");
    Ok(())
}

async fn worker_round(server: &Server, name: &str, jobs: usize, tune: Tune) -> Result<Cost> {
    let store = server.database(name).await?.open().await?;
    work::enqueue(&store, work::jobs(jobs), INSERTED).await?;
    let meter = Meter::start()?;
    work::run_worker(&store, jobs, tune).await?;
    meter.stop()
}

async fn pickup(server: &Server, count: usize, table: &mut Table) -> Result<()> {
    let backend = server.backend();
    let raw = match server.database("pickup_raw").await?.floor().await? {
        Some(floor) => Some(quantiles(floor::pickup(&floor, count, GAP).await?)),
        None => None,
    };
    let database = server.database("pickup").await?;
    let store = database.open().await?;
    let mut row = |who: &str, (p50, p99): (Duration, Duration)| {
        let beside = |limit: Duration, took: Duration| format!("{:.2}", took.as_secs_f64() / limit.as_secs_f64());
        table.row([
            format!("{}: {who}", backend.name()),
            millis(p50),
            millis(p99),
            raw.map(|raw| millis(raw.0)).unwrap_or_default(),
            raw.map(|raw| millis(raw.1)).unwrap_or_default(),
            raw.map(|raw| beside(raw.0, p50)).unwrap_or_default(),
            raw.map(|raw| beside(raw.1, p99)).unwrap_or_default(),
        ]);
    };
    row("same store", quantiles(work::pickup(&store, &store, count, GAP).await?));
    if backend != Backend::Memory {
        let other = database.open().await?;
        row("other store", quantiles(work::pickup(&store, &other, count, GAP).await?));
    }
    Ok(())
}

fn quantiles(mut took: Vec<Duration>) -> (Duration, Duration) {
    (quantile(&mut took, 0.5), quantile(&mut took, 0.99))
}
