//! Targets that accept and never answer hold up their own lane, and no other.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use certlib_core::bundle::CertificateBundle;
use certlib_core::client::{NewCertificate, NewIssuer, NewTarget};
use certlib_core::clock::SystemClock;
use certlib_core::memory::MemoryStore;
use certlib_core::module::{
    ApprovedPlan, Capabilities, DistributionModule, Facts, Journal, ModuleRegistry, Plan, RollbackOutcome, Target,
    Validation,
};
use certlib_core::queue::{Lane, NewJob};
use certlib_core::runtime::{Handled, IssuerRegistry, Runtime};
use certlib_core::secret::{Keyring, KeyringEnvelope};
use certlib_core::{Context, Error, Result};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};

use crate::common::jobs::Act;
use crate::common::{FakeCa, FakeFactory};

const TARGETS: usize = 500;
const CERTIFICATES: usize = 20;

/// Dials its target and waits for what it never says.
#[derive(Debug)]
struct Patient {
    dialled: Arc<AtomicUsize>,
}

impl DistributionModule for Patient {
    const KIND: &'static str = "patient";
    type Config = HashMap<String, Value>;
    type Credentials = Option<String>;
    type Location = HashMap<String, Value>;
    type Undo = ();

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    fn check(&self, _: Target<'_, Self>) -> Result<()> {
        Ok(())
    }

    async fn dry_run(&self, _: &Context, target: Target<'_, Self>, _: &CertificateBundle) -> Result<Plan> {
        let away = |error: std::io::Error| Error::network("patient.dial", "silent", error.to_string());
        let port = target.location.get("port").and_then(Value::as_u64).unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", u16::try_from(port).unwrap())).await.map_err(away)?;
        self.dialled.fetch_add(1, Ordering::SeqCst);
        match tokio::time::timeout(Duration::from_secs(600), stream.read(&mut [0; 16])).await {
            Ok(read) => Err(read.err().map_or_else(|| Error::network("patient.read", "closed", "closed"), away)),
            Err(_) => Err(Error::network("patient.read", "timeout", "it says nothing")),
        }
    }

    async fn execute(
        &self,
        _: &Context,
        _: Target<'_, Self>,
        _: &CertificateBundle,
        _: &ApprovedPlan,
        _: &Journal<'_, ()>,
    ) -> Result<Facts> {
        Err(Error::permanent("patient.execute", "unexpected", "it never gets here"))
    }

    async fn validate(&self, _: &Context, _: Target<'_, Self>, _: &CertificateBundle) -> Result<Validation> {
        Ok(Validation::Skipped)
    }

    async fn rollback(&self, _: &Context, _: Target<'_, Self>, _: Vec<()>) -> Result<RollbackOutcome> {
        Ok(RollbackOutcome::NothingToDo)
    }
}

/// Notes how long its jobs waited.
fn timed(kind: &'static str, lane: Lane, enqueued: &Times, waits: &Arc<Mutex<Vec<Duration>>>) -> Act {
    let (enqueued, waits) = (enqueued.clone(), waits.clone());
    Act::new(kind, lane, move |job, _| {
        let at = enqueued.lock().unwrap()[&job.id];
        waits.lock().unwrap().push(at.elapsed());
        async { Ok(Handled::Succeeded) }
    })
}

type Times = Arc<Mutex<HashMap<String, Instant>>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_silent_targets_delay_no_other_lane() {
    let mut ports = Vec::new();
    for _ in 0..TARGETS {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        ports.push(listener.local_addr().unwrap().port());
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                open.push(stream);
            }
        });
    }
    let store = Arc::new(MemoryStore::new(SystemClock::shared()));
    let (dialled, ca) = (Arc::new(AtomicUsize::new(0)), FakeCa::new());
    let (enqueued, waits) = (Times::default(), Arc::new(Mutex::new(Vec::new())));
    let node = Runtime::builder(store.clone(), Arc::new(KeyringEnvelope::new(Keyring::generate().unwrap())))
        .modules(ModuleRegistry::new().register(Patient { dialled: dialled.clone() }).unwrap())
        .issuers(IssuerRegistry::new().register(FakeFactory(ca)).unwrap())
        .handler(timed("tell", Lane::Notification, &enqueued, &waits))
        .handler(timed("ask", Lane::Issuance, &enqueued, &waits))
        .build()
        .unwrap()
        .start();
    let client = node.client();
    client.create_project("shop").await.unwrap();
    let issuer = NewIssuer { name: "ca".into(), kind: "fake".into(), config: json!({}), credential_id: None };
    let issuer_id = client.create_issuer("shop", issuer).await.unwrap().id;
    let mut certificates = Vec::new();
    for (number, ports) in ports.chunks(TARGETS / CERTIFICATES).enumerate() {
        let mut targets = Vec::new();
        for port in ports {
            let target = NewTarget {
                name: format!("t{port}"),
                module: "patient".into(),
                location: json!({ "port": port }),
                ..NewTarget::default()
            };
            targets.push(client.create_target("shop", target).await.unwrap().id);
        }
        let name = format!("c{number}.shop.example");
        let new = NewCertificate { names: vec![name], issuer_id: issuer_id.clone(), targets, ..<_>::default() };
        certificates.push(client.create_certificate("shop", new).await.unwrap().id);
    }
    for id in &certificates {
        client.issue("shop", id).await.unwrap();
    }
    // Until as much of the lane is stuck as can be: four runs, 25 targets of one module.
    let deadline = Instant::now() + Duration::from_secs(20);
    while dialled.load(Ordering::SeqCst) < 25 {
        assert!(Instant::now() < deadline, "only {} targets were dialled", dialled.load(Ordering::SeqCst));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    const JOBS: usize = 400;
    for number in 0..JOBS {
        let (kind, lane) = [("tell", Lane::Notification), ("ask", Lane::Issuance)][number % 2];
        let job = NewJob::new(kind, lane, json!({})).with_project("shop");
        enqueued.lock().unwrap().insert(job.id.clone(), Instant::now());
        client.store().enqueue(vec![job]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    while waits.lock().unwrap().len() < JOBS {
        assert!(Instant::now() < deadline, "only {} jobs were started", waits.lock().unwrap().len());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut waits = waits.lock().unwrap().clone();
    waits.sort();
    let p99 = waits[JOBS * 99 / 100];
    assert!(p99 < Duration::from_secs(2), "p99 {p99:?}");
    let stats = client.queue_stats().await.unwrap();
    let stuck = stats.by_kind["distribution_execute"];
    assert_eq!((stuck.in_progress, stuck.pending), (4, CERTIFICATES as u64 - 4), "the lane was not saturated");
    // It would take until the last target's time is over.
    drop(node);
}
