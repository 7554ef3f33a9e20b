//! The renewal sweep: what it costs beside how many certificates there are and how many are due.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::time::{Duration, Instant};

use certlib_benches::backend::{Backend, Server};
use certlib_benches::meter::{self, quantile};
use certlib_benches::scale::Scale;
use certlib_benches::sweeps::{Leader, OneStatement};
use certlib_benches::table::{Table, megabytes, millis, ratio};
use certlib_benches::{Result, process};
use criterion::{BenchmarkId, Criterion, criterion_group};

/// What is held in memory comes last, because a process keeps what it once had.
const BACKENDS: [Backend; 3] = [Backend::Sqlite, Backend::Postgres, Backend::Memory];

/// How many certificates are due in an ordinary sweep.
const DUE: usize = 100;

criterion_group! {
    name = sweep;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(500));
    targets = idle
}

fn main() {
    sweep();
    runtime().block_on(tables(Scale::of_this_run())).unwrap();
    Criterion::default().configure_from_args().final_summary();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}

/// A sweep that finds nothing.
fn idle(criterion: &mut Criterion) {
    let certificates = Scale::of_this_run().pick(1_000, 10_000, 10_000);
    let runtime = runtime();
    let mut group = criterion.benchmark_group(format!("idle sweep of {certificates}"));
    for backend in Backend::wanted(&BACKENDS) {
        let Some(server) = runtime.block_on(Server::start(backend)).unwrap() else { continue };
        let leader = runtime.block_on(async {
            let store = server.database("idle").await.unwrap().open().await.unwrap();
            let mut leader = Leader::start(&store).await.unwrap();
            leader.load(certificates).await.unwrap();
            leader
        });
        group.bench_function(BenchmarkId::from_parameter(backend.name()), |bencher| {
            bencher.to_async(&runtime).iter(|| async { assert_eq!(leader.sweep().await.unwrap().0, 0) });
        });
        runtime.block_on(async {
            leader.stop().await;
            server.stop().await.unwrap();
        });
    }
    group.finish();
}

async fn tables(scale: Scale) -> Result<()> {
    let sizes = scale.pick([2_000, 4_000, 6_000], [10_000, 30_000, 100_000], [10_000, 100_000, 1_000_000]);
    let rounds = scale.pick(1, 5, 9);
    eprintln!("{}", meter::machine()?);
    for backend in Backend::wanted(&BACKENDS) {
        let Some(server) = Server::start(backend).await? else { continue };
        let mut table = Table::new(
            format!(
                "A sweep with {DUE} certificates due, median of {rounds} rounds, in ms; one with a tenth of all due:"
            ),
            [
                "certificates",
                "idle",
                "100 due",
                "x smallest",
                "a tenth due",
                "per due, us",
                "resident MB",
                "sweep adds MB",
            ],
        );
        certlib(&server, &sizes, rounds, &mut table).await?;
        if backend == Backend::Postgres {
            one_statement(&server, &sizes, rounds, &mut table).await?;
        }
        server.stop().await?;
        eprintln!("{table}\n{}\n", meter::machine()?);
    }
    Ok(())
}

async fn certlib(server: &Server, sizes: &[usize], rounds: usize, table: &mut Table) -> Result<()> {
    let name = server.backend().name();
    let mut smallest = None;
    for &size in sizes {
        let store = server.database(&format!("sweep_{size}")).await?.open().await?;
        let mut leader = Leader::start(&store).await?;
        let began = Instant::now();
        leader.load(size).await?;
        eprintln!("{name}: {size} certificates loaded in {:.1?}", began.elapsed());
        let resident = process::resident()?;
        let (mut idle, mut due) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let (found, took) = leader.sweep().await?;
            assert_eq!(found, 0, "nothing was due");
            idle.push(took);
            leader.make_due(DUE, round).await?;
            let (found, took) = leader.sweep().await?;
            assert_eq!(found, DUE, "all that was due");
            due.push(took);
        }
        leader.make_a_tenth_due();
        process::forget_peak()?;
        let before = process::resident()?;
        let (found, mass) = leader.sweep().await?;
        // Those of before are looked at again after a day.
        assert!(found >= size / 10, "all that was due");
        let grown = process::peak()?.saturating_sub(before);
        leader.stop().await;

        let due = quantile(&mut due, 0.5);
        table.row([
            format!("{name}: {size}"),
            millis(quantile(&mut idle, 0.5)),
            millis(due),
            ratio(due, *smallest.get_or_insert(due)),
            millis(mass),
            format!("{:.0}", mass.as_secs_f64() * 1e6 / found as f64),
            megabytes(resident),
            megabytes(grown),
        ]);
    }
    Ok(())
}

async fn one_statement(server: &Server, sizes: &[usize], rounds: usize, table: &mut Table) -> Result<()> {
    let database = server.database("one_statement").await?;
    let floor = OneStatement::open(database.url().unwrap()).await?;
    let (mut loaded, mut smallest) = (0, None);
    for &size in sizes {
        floor.load(loaded, size).await?;
        loaded = size;
        let (mut idle, mut due) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            floor.make_due(DUE, size).await?;
            let (found, took) = floor.sweep(false, 10_000).await?;
            assert_eq!(found, DUE, "all that was due");
            due.push(took);
            floor.make_due(1, size).await?;
            floor.sweep(false, 10_000).await?;
            let (found, took) = floor.sweep(false, 10_000).await?;
            assert_eq!(found, 0, "it was enqueued already");
            idle.push(took);
        }
        let (found, mass) = floor.sweep(true, size).await?;
        let due = quantile(&mut due, 0.5);
        table.row([
            format!("one statement: {size}"),
            millis(quantile(&mut idle, 0.5)),
            millis(due),
            ratio(due, *smallest.get_or_insert(due)),
            millis(mass),
            format!("{:.0}", mass.as_secs_f64() * 1e6 / found as f64),
            String::new(),
            String::new(),
        ]);
    }
    Ok(())
}
