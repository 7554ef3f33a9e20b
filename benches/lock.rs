//! The leader's lock: what each operation costs, and how soon another node leads.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::time::{Duration, Instant};

use certlib_benches::Result;
use certlib_benches::backend::{Backend, Server};
use certlib_benches::leaders::{Node, TTL, first_write};
use certlib_benches::meter::{self, quantile};
use certlib_benches::scale::Scale;
use certlib_benches::table::{Table, millis, rate, ratio};
use certlib_core::lock::{Lease, LeaseRequest};
use certlib_core::store::SharedStore;
use criterion::{BenchmarkId, Criterion, criterion_group};
use tokio::sync::mpsc::unbounded_channel;

criterion_group! {
    name = lock;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(500));
    targets = renew
}

fn main() {
    lock();
    runtime().block_on(tables(Scale::of_this_run())).unwrap();
    Criterion::default().configure_from_args().final_summary();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}

/// The heartbeat of a leader.
fn renew(criterion: &mut Criterion) {
    let runtime = runtime();
    let mut group = criterion.benchmark_group("renew the lease");
    for backend in Backend::wanted(&Backend::ALL) {
        let Some(server) = runtime.block_on(Server::start(backend)).unwrap() else { continue };
        let (store, lease) = runtime.block_on(async {
            let store = server.database("renew").await.unwrap().open().await.unwrap();
            let lease = store.acquire(&request("nonce")).await.unwrap().unwrap();
            (store, lease)
        });
        group.bench_function(BenchmarkId::from_parameter(backend.name()), |bencher| {
            bencher.to_async(&runtime).iter(|| async { assert!(store.renew(&lease, TTL).await.unwrap()) });
        });
        runtime.block_on(async {
            drop(store);
            server.stop().await.unwrap();
        });
    }
    group.finish();
}

fn request(nonce: &str) -> LeaseRequest {
    LeaseRequest::new("bench", "node", nonce, TTL)
}

async fn tables(scale: Scale) -> Result<()> {
    let (cycles, graceful, crashes) = scale.pick((5, 1, 1), (200, 5, 3), (1000, 20, 15));
    eprintln!("{}", meter::machine()?);
    let mut operations = Table::new(
        format!("One after the other, {cycles} times in turns, medians, in operations per second:"),
        ["", "acquire", "raw", "renew", "raw", "release", "raw", "all three, ratio"],
    );
    let mut takeover = Table::new(
        format!(
            "From the end of a leader to the first write of its successor, in ms; {graceful} in order, {crashes} \
             crashes; the lease lasts {} ms:",
            TTL.as_millis()
        ),
        ["", "in order p50", "max", "crash p50", "max"],
    );
    for backend in Backend::wanted(&Backend::ALL) {
        let Some(server) = Server::start(backend).await? else { continue };
        operate(&server, cycles, &mut operations).await?;
        let mut in_order = take_over(&server, "in_order", graceful, false).await?;
        let mut crashed = take_over(&server, "crash", crashes, true).await?;
        takeover.row([
            backend.name().to_owned(),
            millis(quantile(&mut in_order, 0.5)),
            millis(quantile(&mut in_order, 1.0)),
            millis(quantile(&mut crashed, 0.5)),
            millis(quantile(&mut crashed, 1.0)),
        ]);
        server.stop().await?;
    }
    eprintln!("{operations}\n{takeover}\n{}", meter::machine()?);
    Ok(())
}

/// How long each of acquire, renew and release took.
type Times = [Vec<Duration>; 3];

async fn operate(server: &Server, cycles: usize, table: &mut Table) -> Result<()> {
    let store = server.database("operations").await?.open().await?;
    let floor = server.database("operations_raw").await?.floor().await?;
    let (mut certlib, mut raw) = (Times::default(), Times::default());
    for cycle in 0..cycles {
        cycle_of(&store, cycle, &mut certlib).await?;
        let Some(floor) = &floor else { continue };
        let began = Instant::now();
        let epoch = floor.acquire("node").await?.ok_or("the lease was free")?;
        raw[0].push(began.elapsed());
        let began = Instant::now();
        assert!(floor.renew("node", epoch).await?);
        raw[1].push(began.elapsed());
        let began = Instant::now();
        assert!(floor.release("node", epoch).await?);
        raw[2].push(began.elapsed());
    }
    let certlib = certlib.map(|mut times| quantile(&mut times, 0.5));
    let raw = floor.map(|_| raw.map(|mut times| quantile(&mut times, 0.5)));
    let limit = |part: usize| raw.map(|raw| rate(1, raw[part])).unwrap_or_default();
    table.row([
        server.backend().name().to_owned(),
        rate(1, certlib[0]),
        limit(0),
        rate(1, certlib[1]),
        limit(1),
        rate(1, certlib[2]),
        limit(2),
        raw.map(|raw| ratio(raw.iter().sum(), certlib.iter().sum())).unwrap_or_default(),
    ]);
    Ok(())
}

async fn cycle_of(store: &SharedStore, cycle: usize, times: &mut Times) -> Result<()> {
    let request = request(&cycle.to_string());
    let began = Instant::now();
    let lease: Lease = store.acquire(&request).await?.ok_or("the lease was free")?;
    times[0].push(began.elapsed());
    let began = Instant::now();
    assert!(store.renew(&lease, TTL).await?);
    times[1].push(began.elapsed());
    let began = Instant::now();
    assert!(store.release(&lease).await?);
    times[2].push(began.elapsed());
    Ok(())
}

/// Lets one leader follow the other; returns how long each handover took.
async fn take_over(server: &Server, name: &str, times: usize, crash: bool) -> Result<Vec<Duration>> {
    let database = server.database(name).await?;
    let (sender, mut marks) = unbounded_channel();
    let mut leader = Node::start(&database, 0, sender.clone()).await?;
    first_write(&mut marks, 0).await?;
    let mut took = Vec::with_capacity(times);
    for number in 1..=times {
        let successor = Node::start(&database, number, sender.clone()).await?;
        // At any moment between two heartbeats of the one and two looks of the other.
        tokio::time::sleep(TTL / 3 + TTL.mul_f64(rand::random_range(0.0..0.5))).await;
        let began = if crash { leader.crash().await } else { leader.stop().await? };
        took.push(first_write(&mut marks, number).await? - began);
        leader = successor;
    }
    leader.stop().await?;
    Ok(took)
}
