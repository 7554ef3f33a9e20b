//! The envelope: what sealing, opening, rewrapping and verifying cost beside the bare calls of the cryptographic library;
//! and how long it takes to rotate the key under many secrets, beside a bare update of the same rows.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::hint::black_box;
use std::time::Duration;

use certlib_benches::backend::{Backend, Server};
use certlib_benches::cipher::Raw;
use certlib_benches::meter::{self, quantile};
use certlib_benches::process::thread_cpu;
use certlib_benches::rotation::Bare;
use certlib_benches::scale::Scale;
use certlib_benches::table::{Table, rate, ratio};
use certlib_benches::{Result, rotation};
use certlib_core::secret::{Aad, Keyring, KeyringEnvelope, Sealed, SecretEnvelope, Suite};
use criterion::{BenchmarkId, Criterion, criterion_group};
use futures::FutureExt as _;

/// A private key for an elliptic curve, and one for RSA: as PEM, what they are in most stores.
const SIZES: [usize; 2] = [250, 2000];
const SUITES: [(&str, Suite); 2] = [("AES", Suite::Aes256Gcm), ("ChaCha", Suite::ChaCha20Poly1305)];
const AAD: Aad<'static> = Aad {
    tenant: "shop",
    collection: "certificate_version",
    record: "0199f9a6-7c1e-7d7c-a5c8-0f6a4c6ad5c1/3",
    field: "key",
    version: 1,
};

criterion_group! {
    name = envelope;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(200));
    targets = one_by_one
}

fn main() {
    envelope();
    let scale = Scale::of_this_run();
    eprintln!("{}", meter::machine().unwrap());
    eprintln!("{}", operations(scale).unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    eprintln!("{}\n{}", runtime.block_on(rotations(scale)).unwrap(), meter::machine().unwrap());
    Criterion::default().configure_from_args().final_summary();
}

fn one_by_one(criterion: &mut Criterion) {
    for what in Operation::ALL {
        let mut group = criterion.benchmark_group(what.name());
        for (name, suite) in SUITES {
            let mut certlib = Certlib::new(suite, SIZES[0]);
            group.bench_function(BenchmarkId::from_parameter(name), |bencher| bencher.iter(|| certlib.run(what)));
        }
        group.finish();
    }
}

#[derive(Debug, Clone, Copy)]
enum Operation {
    Seal,
    Open,
    Rewrap,
    Verify,
}

impl Operation {
    const ALL: [Self; 4] = [Self::Seal, Self::Open, Self::Rewrap, Self::Verify];

    fn name(self) -> &'static str {
        match self {
            Self::Seal => "seal",
            Self::Open => "open",
            Self::Rewrap => "rewrap",
            Self::Verify => "verify",
        }
    }
}

/// An envelope over two keys in memory, and a secret under the first of them.
struct Certlib {
    envelope: KeyringEnvelope,
    plain: Vec<u8>,
    sealed: Sealed,
}

impl Certlib {
    fn new(suite: Suite, size: usize) -> Certlib {
        let mut ring = Keyring::generate().unwrap();
        ring.add(2, certlib_core::Secret::new(std::array::from_fn(|n| n as u8))).unwrap();
        let envelope = KeyringEnvelope::new(ring).suite(suite);
        envelope.promote(&envelope.keks()[0].id).unwrap();
        let plain = vec![b's'; size];
        let sealed = envelope.seal(&plain, &AAD).now_or_never().unwrap().unwrap();
        envelope.promote(&envelope.keks()[1].id).unwrap();
        Certlib { envelope, plain, sealed }
    }

    fn run(&mut self, what: Operation) {
        let Self { envelope, plain, sealed } = self;
        match what {
            Operation::Seal => drop(black_box(envelope.seal(plain, &AAD).now_or_never().unwrap().unwrap())),
            Operation::Open => drop(black_box(envelope.open(sealed, &AAD).now_or_never().unwrap().unwrap())),
            Operation::Rewrap => drop(black_box(envelope.rewrap(sealed, &AAD).now_or_never().unwrap().unwrap())),
            Operation::Verify => envelope.verify(sealed, &AAD).now_or_never().unwrap().unwrap(),
        }
    }
}

fn by_hand(raw: &mut Raw, plain: &mut Vec<u8>, what: Operation) {
    match what {
        Operation::Seal => raw.seal(),
        Operation::Open => raw.open(plain),
        Operation::Rewrap => raw.rewrap(),
        Operation::Verify => raw.verify(),
    }
    .unwrap();
    black_box(plain);
}

/// The processor time of `count` calls, by the clock of this thread.
fn timed(count: usize, mut call: impl FnMut()) -> Result<Duration> {
    let began = thread_cpu()?;
    for _ in 0..count {
        call();
    }
    Ok(thread_cpu()? - began)
}

fn operations(scale: Scale) -> Result<Table> {
    let (count, rounds) = scale.pick((10, 1), (25_000, 7), (100_000, 15));
    let mut table = Table::new(
        format!(
            "Per second of one core; the median of {rounds} rounds of {count}, in turns. Raw: the same calls of \
             aws-lc-rs, commitment included; in brackets without:"
        ),
        ["", "certlib", "raw", "ratio"],
    );
    let place = AAD.tenant.len() + AAD.collection.len() + AAD.record.len() + AAD.field.len();
    for what in Operation::ALL {
        for (name, suite) in SUITES {
            for size in SIZES {
                // A rewrap and a verification do not touch the payload.
                if matches!(what, Operation::Rewrap | Operation::Verify) && (size, name) != (SIZES[0], "AES") {
                    continue;
                }
                let mut certlib = Certlib::new(suite, size);
                let mut raw = Raw::new(suite, size, place).map_err(|_| "aws-lc-rs refused")?;
                let mut plain = Vec::with_capacity(size + 16);
                let (mut ours, mut limit, mut bare) = (Vec::new(), Vec::new(), Vec::new());
                for _ in 0..rounds {
                    ours.push(timed(count, || certlib.run(what))?);
                    limit.push(timed(count, || by_hand(&mut raw, &mut plain, what))?);
                    if let Operation::Rewrap = what {
                        bare.push(timed(count, || raw.unwrap_and_wrap().unwrap())?);
                    }
                }
                let [ours, limit, bare] = [ours, limit, bare].map(|mut times| quantile(&mut times, 0.5));
                let also = |text: String| if bare.is_zero() { String::new() } else { format!(" ({text})") };
                table.row([
                    match what {
                        Operation::Rewrap | Operation::Verify => what.name().to_owned(),
                        _ => format!("{}, {name}, {size} B", what.name()),
                    },
                    rate(count, ours),
                    rate(count, limit) + &also(rate(count, bare)),
                    ratio(limit, ours) + &also(ratio(bare, ours)),
                ]);
            }
        }
    }
    Ok(table)
}

/// All secrets of a store moved to another key.
async fn rotations(scale: Scale) -> Result<Table> {
    let count = scale.pick(300, 5_000, 100_000);
    let mut table = Table::new(
        format!(
            "{count} secrets of {} B moved to another key, {} in each commit; raw: one UPDATE for each page of the same \
             rows. In brackets: the rewraps alone, as a share of the time",
            SIZES[0],
            rotation::PAGE
        ),
        ["", "rewrapped/s", "raw/s", "ratio", "verified/s", "whole rotation"],
    );
    for backend in Backend::wanted(&[Backend::Postgres, Backend::Sqlite]) {
        let Some(server) = Server::start(backend).await? else { continue };
        let database = server.database("rotation").await?;
        let store = database.open().await?;
        let (took, rows) = rotation::rotate(&store, count, SIZES[0]).await?;
        drop(store);
        let raw = server.database("rotation_raw").await?;
        let limit = Bare::open(raw.url()).await?.rotate(&rows).await?;
        let alone = rotation::rewrap_alone(count, SIZES[0]).await?;
        table.row([
            backend.name().to_owned(),
            format!("{} ({})", rate(count, took.rewrap), ratio(alone, took.rewrap)),
            rate(count, limit),
            ratio(limit, took.rewrap),
            rate(count, took.verify),
            format!("{:.1} s", took.whole.as_secs_f64()),
        ]);
        server.stop().await?;
    }
    Ok(table)
}
