//! certlib from end to end, on a machine with nothing but Rust.
//!
//! ```text
//! cargo run --release --example quickstart -- --hosts 12
//! ```
//!
//! Starts a fleet of simulated hosts in this process, a quarter of them in trouble; issues a certificate from a CA of
//! its own; delivers it to all hosts over real SSH; proves by TLS handshakes what is served; and puts the former
//! certificate back where delivery failed. Everything is gone when it ends.
//!
//! [`deliver`] is the part to read first: it is how a service uses certlib. The rest is stage scenery: `world.rs` has
//! the hosts and their troubles, `progress.rs` the bars, `report.rs` the table.

mod progress;
mod report;
mod world;

use std::io::{self, IsTerminal as _, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use certlib_core::Client;
use certlib_core::client::{DistributionStatus, NewCertificate, NewIssuer};
use certlib_core::module::ModuleRegistry;
use certlib_core::queue::JobState;
use certlib_core::runtime::{IssuerRegistry, Runtime};
use certlib_core::secret::{Keyring, KeyringEnvelope};
use certlib_issuers::local_ca::LocalCaFactory;
use certlib_modules::ssh::SshModule;
use certlib_store_sql::{SqliteOptions, SqliteStore};
use clap::{Parser, ValueEnum};
use serde_json::json;

use self::progress::Progress;
use self::report::Report;
use self::world::Fleet;

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

const PROJECT: &str = "quickstart";
const ISSUER: &str = "local-ca";

/// Far beyond what even thousands of hosts take: only a defect gets there.
const LIMIT: Duration = Duration::from_secs(1800);

/// Issues a certificate, delivers it to simulated hosts over SSH, and proves what they serve.
#[derive(Debug, Parser)]
pub(crate) struct Args {
    /// How many hosts to deliver to.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    hosts: u16,
    /// Whether a quarter of the hosts is in trouble.
    #[arg(long, value_enum, default_value_t = Switch::On)]
    faults: Switch,
    /// How many hosts to work on at the same time; the ssh module takes at most 25.
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u16).range(1..=1000))]
    batch: u16,
    /// Prints one JSON object instead of the table.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

/// 0: every host serves the new or its former certificate. 1: one does not. 2: it did not get that far.
fn main() -> ExitCode {
    let args = Args::parse();
    let bars = !args.json && io::stderr().is_terminal();
    match run(&args, bars, &mut io::stdout()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("quickstart: {}", one_line(&*error));
            ExitCode::from(2)
        }
    }
}

/// Runs it all; `true` when every host serves the new or its former certificate.
pub(crate) fn run(args: &Args, bars: bool, out: &mut impl Write) -> Result<bool> {
    let began = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut report = runtime.block_on(async {
        tokio::select! {
            report = perform(args, bars) => report,
            _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
        }
    })?;
    report.elapsed = began.elapsed();
    if args.json {
        report.write_json(out)?
    } else {
        report.write_table(out)?
    }
    Ok(report.is_safe())
}

/// The whole play: fleet, runtime, delivery, proof, curtain.
async fn perform(args: &Args, bars: bool) -> Result<Report> {
    let progress = Progress::new(bars);
    progress.stage(format!("starting {} hosts", args.hosts));
    let fleet = Fleet::start(usize::from(args.hosts), args.faults == Switch::On).await?;

    // Where records live, what seals their secrets, who delivers, who issues.
    let directory = tempfile::tempdir()?;
    let store = SqliteStore::open(directory.path().join("certlib.db"), SqliteOptions::default()).await?;
    let envelope = KeyringEnvelope::new(Keyring::generate()?);
    let running = Runtime::builder(Arc::new(store), Arc::new(envelope))
        .modules(ModuleRegistry::new().register(SshModule::new())?)
        .issuers(IssuerRegistry::new().register(LocalCaFactory)?)
        .build()?
        .start();

    let delivered = deliver(&running.client(), &fleet, args, &progress).await;
    progress.stage("shutting down");
    running.shutdown().await;
    let (status, fingerprint) = delivered?;

    progress.stage("asking every host what it serves");
    let report = Report::new(&status, &fleet.served(&fingerprint).await);
    progress.finish();
    fleet.stop().await;
    Ok(report)
}

/// Issues the certificate and waits until every host had its turn. Returns how that went, and what was issued.
async fn deliver(
    client: &Client,
    fleet: &Fleet,
    args: &Args,
    progress: &Progress,
) -> Result<(DistributionStatus, String)> {
    client.create_project(PROJECT).await?;
    let issuer = NewIssuer {
        name: "our own CA".to_owned(),
        kind: ISSUER.to_owned(),
        config: json!({ "common_name": "Quickstart CA" }),
        credential_id: None,
    };
    let issuer = client.create_issuer(PROJECT, issuer).await?;

    progress.stage("registering targets");
    let login = client.create_credential(PROJECT, "login of all hosts", &fleet.login()).await?;
    let mut targets = Vec::new();
    for machine in fleet.machines() {
        targets.push(client.create_target(PROJECT, machine.target(&login.id)).await?.id);
    }
    let certificate = NewCertificate {
        names: vec![world::SERVER_NAME.to_owned()],
        issuer_id: issuer.id,
        targets,
        batch_size: Some(usize::from(args.batch)),
        ..NewCertificate::default()
    };
    let certificate = client.create_certificate(PROJECT, certificate).await?;

    // From here on the runtime does everything on its own; we only watch.
    progress.stage("issuing and delivering");
    let job = client.issue(PROJECT, &certificate.id).await?;
    let status = first_pass(client, &certificate.id, &job, progress).await?;
    let material = client.material(PROJECT, &certificate.id, Some(status.run.version), false).await?;
    Ok((status, material.bundle.fingerprint().to_string()))
}

/// Watches the run until every target had its turn. What failed for a passing reason would be tried again later; that
/// is not waited for.
async fn first_pass(client: &Client, certificate: &str, job: &str, progress: &Progress) -> Result<DistributionStatus> {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(status) = client.distribution_status(PROJECT, certificate).await? {
            progress.show(&status);
            if status.run.passes >= 1 {
                return Ok(status);
            }
        } else {
            let job = client.job(PROJECT, job).await?;
            if matches!(job.state, JobState::Failed | JobState::DeadLetter) {
                let why = job.attempts.last().map(|attempt| attempt.error.to_string()).unwrap_or_default();
                return Err(format!("the certificate was not issued: {why}").into());
            }
        }
        if Instant::now() > deadline {
            return Err(format!("the delivery did not end within {LIMIT:?}").into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// An error with its causes, in one line.
fn one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text.replace(['\n', '\r'], " ")
}
