//! Fan-out: delivery to many hosts over SSH, beside a bare SSH client that does the same by hand, and the engine alone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::time::{Duration, Instant};

use certlib_benches::engine::{Engine, StoreKind};
use certlib_benches::hosts::Hosts;
use certlib_benches::noop::NoOp;
use certlib_benches::process;
use certlib_benches::raw::{self, Material};
use certlib_benches::scale::Scale;
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group};
use tokio::runtime::Runtime;

/// How many hosts are worked on at the same time, on both sides.
const BATCH: usize = 25;

/// How many hosts the two sides are compared over.
const COMPARED: usize = 200;

criterion_group! {
    name = fanout;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(500));
    targets = over_ssh, alone
}

fn main() {
    fanout();
    let scale = Scale::of_this_run();
    let hosts = scale.pick(10, COMPARED, COMPARED);
    compare(hosts, scale.pick(1, 3, 7));
    Criterion::default().configure_from_args().final_summary();
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}

/// A new certificate, issued outside of the time that is counted, then delivered to all hosts.
async fn deliver(engine: &Engine, hosts: &Hosts) -> Duration {
    let fingerprint = engine.issue().await.unwrap();
    let began = Instant::now();
    engine.deliver().await.unwrap();
    let took = began.elapsed();
    hosts.expect_served(&fingerprint).unwrap();
    took
}

/// The same without the engine.
async fn deliver_raw(hosts: &Hosts) -> Duration {
    let material = Material::generate().unwrap();
    let fingerprint = material.fingerprint().to_owned();
    let list = hosts.list();
    let began = Instant::now();
    raw::deliver_all(&list, hosts.login(), material, BATCH).await.unwrap();
    let took = began.elapsed();
    hosts.expect_served(&fingerprint).unwrap();
    took
}

fn over_ssh(criterion: &mut Criterion) {
    let sizes = Scale::of_this_run().pick(&[10][..], &[10, 100, 200, 1000], &[10, 100, 200, 1000]);
    let mut group = criterion.benchmark_group("fanout over ssh");
    group.sampling_mode(SamplingMode::Flat);
    for &size in sizes {
        let runtime = runtime();
        let hosts = runtime.block_on(Hosts::start(size)).unwrap();
        let engine = runtime.block_on(Engine::over_ssh(StoreKind::Sqlite, &hosts, BATCH)).unwrap();
        group.throughput(Throughput::Elements(size as u64));
        group.bench_function(BenchmarkId::new("certlib, sqlite", size), |bencher| {
            bencher.iter_custom(|rounds| {
                runtime.block_on(async {
                    let mut total = Duration::ZERO;
                    for _ in 0..rounds {
                        total += deliver(&engine, &hosts).await;
                    }
                    total
                })
            });
        });
        group.bench_function(BenchmarkId::new("bare russh", size), |bencher| {
            bencher.iter_custom(|rounds| {
                runtime.block_on(async {
                    let mut total = Duration::ZERO;
                    for _ in 0..rounds {
                        total += deliver_raw(&hosts).await;
                    }
                    total
                })
            });
        });
        runtime.block_on(async {
            engine.stop().await;
            hosts.stop().await;
        });
    }
    group.finish();
}

/// The engine without anything to talk to: one thread, a store in memory, processor time of that thread.
fn alone(criterion: &mut Criterion) {
    let targets = Scale::of_this_run().pick(100, 10_000, 10_000);
    let mut group = criterion.benchmark_group("engine alone");
    group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(targets as u64));
    for (name, module) in [("no-op", NoOp { journals: false }), ("no-op, 4 KB journalled", NoOp { journals: true })] {
        let mut best = Duration::MAX;
        group.bench_function(BenchmarkId::new(name, targets), |bencher| {
            bencher.iter_custom(|rounds| (0..rounds).map(|_| round_alone(module, targets, &mut best)).sum());
        });
        let each = best.as_secs_f64() * 1e6 / targets as f64;
        eprintln!("engine alone, {name}: {each:.1} us of processor time a target (best round of {targets} targets)\n");
    }
    group.finish();
}

fn round_alone(module: NoOp, targets: usize, best: &mut Duration) -> Duration {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let took = runtime.block_on(async {
        let engine = Engine::over_nothing(module, targets, BATCH).await.unwrap();
        let began = process::thread_cpu().unwrap();
        engine.deliver().await.unwrap();
        let took = process::thread_cpu().unwrap() - began;
        engine.stop().await;
        took
    });
    *best = took.min(*best);
    took
}

/// Both sides in turns, so that whatever else the machine does hits both alike.
fn compare(size: usize, rounds: usize) {
    let runtime = runtime();
    runtime.block_on(async {
        let hosts = Hosts::start(size).await.unwrap();
        let sqlite = Engine::over_ssh(StoreKind::Sqlite, &hosts, BATCH).await.unwrap();
        let memory = Engine::over_ssh(StoreKind::Memory, &hosts, BATCH).await.unwrap();
        // Buffers of the hosts grow with their first connection; that is not the engine's memory.
        deliver_raw(&hosts).await;
        let before = process::resident().unwrap();
        let mut times = [const { Vec::new() }; 3];
        for _ in 0..rounds {
            times[0].push(deliver_raw(&hosts).await);
            times[1].push(deliver(&sqlite, &hosts).await);
            times[2].push(deliver(&memory, &hosts).await);
        }
        let grown = process::resident().unwrap().saturating_sub(before);
        let [raw, sqlite_took, memory_took] = times.map(median);
        let report = |name: &str, took: Duration| {
            let (rate, ratio) = (size as f64 / took.as_secs_f64(), took.as_secs_f64() / raw.as_secs_f64());
            eprintln!("{name:>16}: {took:>8.2?}, {rate:>5.0} hosts/s, {ratio:.2}x bare russh");
        };
        eprintln!("\n{size} hosts, {BATCH} at a time, median of {rounds} rounds in turns:");
        report("bare russh", raw);
        report("certlib, sqlite", sqlite_took);
        report("certlib, memory", memory_took);
        eprintln!("{:>16}: {:.1} MB over all rounds", "memory grown by", grown as f64 / 1e6);
        sqlite.stop().await;
        memory.stop().await;
        hosts.stop().await;
    });
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
