//! A deterministic simulation: the real engine on the store in memory, three nodes, virtual time, and everything that can go
//! wrong between them, drawn from a seed.
//!
//! A run is one thread. Its nodes pause, crash, stop and start again; their clocks run at different rates and are set wrong;
//! requests and answers are delayed, lost, or arrive when nobody waits for them any more; the CA and the targets fail. Beside
//! the store an account is kept of what every request must have done (`checks.rs`). Then all faults end, and everything has to
//! come to rest.
//!
//! - **Replay**: a seed that fails prints the command. `CERTLIB_SIM_SEED=7 cargo test -p certlib-core --test simulation replay
//!   -- --nocapture` runs seed 7 and prints its whole history.
//! - **More seeds**: `CERTLIB_SIM_SEEDS=20000 cargo test -p certlib-core --test simulation`; `CERTLIB_SIM_FIRST` says where to
//!   begin. Seeds that ever failed are in `seeds.txt` and run first.
//! - **A new check** is a `demand` in `checks.rs`, or in [`world::World`] for what must hold at the end.
//! - **A new known bug** is a variant of [`mutants::Mutant`] and the place in `backend.rs` where it bites.
//!
//! Engine code that runs here takes time from its `Clock` and chance from `certlib_core::random`, writes `biased;` into
//! every `select!`, keeps in order whatever it walks through, and leaves threads alone; otherwise replays are not exact, and
//! `replays_are_exact` fails.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs, unreachable_pub)]

mod backend;
mod ca;
mod checks;
mod clock;
mod fleet;
mod history;
mod keys;
mod mutants;
mod nemesis;
mod network;
mod operator;
mod store;
mod tasks;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

use crate::mutants::Mutant;
use crate::world::{Report, run};

/// How many seeds are run unless the environment says otherwise.
const SEEDS: u64 = 2_000;

/// How many of its last lines of history a failing seed shows.
const TAIL: usize = 60;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

/// Seeds that once failed.
fn known_seeds() -> Vec<u64> {
    let lines = include_str!("seeds.txt").lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    lines.filter(|line| !line.is_empty()).map(|line| line.parse().unwrap()).collect()
}

/// What a failing seed says.
fn complaint(seed: u64, report: &Report) -> Option<String> {
    let violation = report.violation.as_ref()?;
    Some(format!(
        "seed {seed} breaks {}: {}\n\n{}\nreplay: CERTLIB_SIM_SEED={seed} cargo test -p certlib-core --test simulation replay -- --nocapture\n",
        violation.promise,
        violation.why,
        report.history.tail(TAIL)
    ))
}

fn run_seeds(seeds: impl Iterator<Item = u64>) {
    let complaints: Vec<_> = seeds.filter_map(|seed| complaint(seed, &run(seed, None))).take(3).collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// Half of the seeds: the other half runs beside it.
fn run_half(which: u64) {
    let first = number("CERTLIB_SIM_FIRST").unwrap_or(1);
    let seeds = number("CERTLIB_SIM_SEEDS").unwrap_or(SEEDS);
    let known = known_seeds().into_iter();
    run_seeds(known.chain(first..first + seeds).filter(|seed| seed % 2 == which));
}

#[test]
fn even_seeds_keep_every_promise() {
    run_half(0);
}

#[test]
fn odd_seeds_keep_every_promise() {
    run_half(1);
}

#[test]
fn replays_are_exact() {
    for seed in 1..=20 {
        let first = run(seed, None);
        let second = run(seed, None);
        assert!(first.history.len() > 100, "seed {seed} did nothing");
        let same = first.history.digest() == second.history.digest();
        assert!(same, "seed {seed} is not repeatable; {}", first.history.difference(&second.history));
    }
}

/// Runs the seed of the environment, or else the first, and shows what happened.
#[test]
fn replay() {
    let seed = number("CERTLIB_SIM_SEED").unwrap_or(1);
    let report = run(seed, None);
    println!("{}", report.history.tail(usize::MAX));
    if let Some(complaint) = complaint(seed, &report) {
        panic!("{complaint}");
    }
}

#[test]
fn every_known_bug_is_caught() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(mutant) = Mutant::ALL.get(usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap())
                {
                    let caught = (1..=SEEDS).find_map(|seed| Some((seed, run(seed, Some(*mutant)).violation?)));
                    let (seed, violation) = caught.unwrap_or_else(|| panic!("nothing notices {mutant:?}"));
                    println!("{mutant:?}: caught after {seed} seeds as {}: {}", violation.promise, violation.why);
                }
            });
        }
    });
}
