//! A CA and a fleet of targets in memory, with faults, to drive the real engine with.

#![allow(dead_code, unreachable_pub)]

pub mod jobs;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use certlib_core::bundle::{CertificateBundle, Fingerprint};
use certlib_core::client::{Client, NewCertificate, NewIssuer, NewTarget};
use certlib_core::clock::{Clock, ManualClock};
use certlib_core::error::codes;
use certlib_core::issuer::{
    AsyncIssuer, IssueRequest, IssuerFactory, IssuerSpec, OrderHandle, OrderSearch, OrderState, Recovery, RenewalInfo,
    RenewalWindow, RevocationReason, Revoker,
};
use certlib_core::lock::LeaseRequest;
use certlib_core::memory::MemoryStore;
use certlib_core::module::{
    ApprovedPlan, Capabilities, DistributionModule, EndpointCheck, Facts, Journal, ModuleRegistry, Plan,
    RollbackOutcome, Step, Target, Validation, Verb,
};
use certlib_core::runtime::{IssuerRegistry, RunningRuntime, Runtime, RuntimeBuilder};
use certlib_core::scheduler::{LEASE, SweepContext, Watchdog};
use certlib_core::secret::{Keyring, KeyringEnvelope};
use certlib_core::store::SharedStore;
use certlib_core::{Context, Effect, Error, Result};
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, IsCa, Issuer, KeyPair};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::macros::datetime;

pub const START: OffsetDateTime = datetime!(2027-01-01 00:00 UTC);

/// A CA in memory.
#[derive(Debug)]
pub struct FakeCa {
    issuer: Issuer<'static, KeyPair>,
    root_der: Vec<u8>,
    pub submits: AtomicUsize,
    pub polls: AtomicUsize,
    pub revoked: Mutex<Vec<RevocationReason>>,
    pub window: Mutex<Option<RenewalWindow>>,
    pub pending: AtomicUsize,
    pub wrong_names: Mutex<bool>,
    pub fail: Mutex<Option<fn() -> Error>>,
    orders: Mutex<HashMap<usize, String>>,
    pub lifetime: Duration,
    pub memory: Mutex<Memory>,
    /// How many of the next orders are accepted without an answer.
    pub answers_lost: AtomicUsize,
    placed: Mutex<HashMap<String, (OffsetDateTime, OrderHandle)>>,
}

impl FakeCa {
    pub fn new() -> Arc<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "fake ca");
        let key = KeyPair::generate().unwrap();
        let root_der = params.self_signed(&key).unwrap().der().to_vec();
        Arc::new(Self {
            issuer: Issuer::new(params, key),
            root_der,
            submits: AtomicUsize::new(0),
            polls: AtomicUsize::new(0),
            revoked: Mutex::default(),
            window: Mutex::default(),
            pending: AtomicUsize::new(0),
            wrong_names: Mutex::new(false),
            fail: Mutex::new(None),
            orders: Mutex::default(),
            lifetime: Duration::from_secs(90 * 86_400),
            memory: Mutex::default(),
            answers_lost: AtomicUsize::new(0),
            placed: Mutex::default(),
        })
    }

    /// The handle of the order that was placed by this reference.
    pub fn placed_as(&self, reference: &str) -> OrderHandle {
        self.placed.lock().unwrap()[reference].1.clone()
    }

    fn issue(&self, request: &IssueRequest, now: OffsetDateTime) -> String {
        let mut csr = CertificateSigningRequestParams::from_der(&request.csr.as_slice().into()).unwrap();
        csr.params.not_before = now;
        csr.params.not_after = now + self.lifetime;
        if *self.wrong_names.lock().unwrap() {
            csr.params.subject_alt_names =
                CertificateParams::new(vec!["evil.example".to_owned()]).unwrap().subject_alt_names;
        }
        let leaf = csr.signed_by(&self.issuer).unwrap();
        CertificateBundle::new(vec![leaf.der().to_vec(), self.root_der.clone()], None).unwrap().fullchain_pem()
    }
}

#[derive(Debug, Clone)]
pub struct FakeIssuer {
    ca: Arc<FakeCa>,
    clock: Arc<dyn Clock>,
}

#[derive(Serialize, Deserialize)]
struct Handle {
    number: usize,
    request: IssueRequest,
}

#[async_trait]
impl AsyncIssuer for FakeIssuer {
    async fn submit(&self, _: &Context, request: &IssueRequest) -> Result<OrderHandle> {
        if let Some(fail) = *self.ca.fail.lock().unwrap() {
            return Err(fail());
        }
        let number = self.ca.submits.fetch_add(1, Ordering::SeqCst);
        let handle = OrderHandle::encode(&Handle { number, request: request.clone() })?;
        self.ca.placed.lock().unwrap().insert(request.reference.clone(), (self.clock.now(), handle.clone()));
        let lost = self.ca.answers_lost.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if lost.is_ok() {
            return Err(Error::network("fake", "timeout", "no answer").with_effect(certlib_core::Effect::Possible));
        }
        Ok(handle)
    }

    fn recovery(&self) -> Recovery<'_> {
        match *self.ca.memory.lock().unwrap() {
            Memory::Repeats => Recovery::Repeat,
            Memory::Searchable => Recovery::Search(self),
            Memory::None => Recovery::Park,
        }
    }

    async fn poll(&self, _: &Context, handle: &OrderHandle) -> Result<OrderState> {
        self.ca.polls.fetch_add(1, Ordering::SeqCst);
        if let Some(fail) = *self.ca.fail.lock().unwrap() {
            return Err(fail());
        }
        let left = self.ca.pending.load(Ordering::SeqCst);
        if left > 0 {
            self.ca.pending.store(left - 1, Ordering::SeqCst);
            return Ok(OrderState::Pending { retry_after: None });
        }
        let handle: Handle = handle.decode()?;
        let mut orders = self.ca.orders.lock().unwrap();
        let now = self.clock.now();
        let chain_pem = orders.entry(handle.number).or_insert_with(|| self.ca.issue(&handle.request, now)).clone();
        Ok(OrderState::Issued { chain_pem })
    }

    fn revoker(&self) -> Option<&dyn Revoker> {
        Some(self)
    }

    fn renewal_info(&self) -> Option<&dyn RenewalInfo> {
        Some(self)
    }
}

/// Whether orders can be found again by who placed them.
#[derive(Debug, Clone, Copy, Default)]
pub enum Memory {
    #[default]
    Repeats,
    Searchable,
    None,
}

/// How long it takes until a search finds a new order.
pub const VISIBLE_AFTER: Duration = Duration::from_secs(30);

#[async_trait]
impl OrderSearch for FakeIssuer {
    fn visible_after(&self) -> Duration {
        VISIBLE_AFTER
    }

    async fn find(&self, _: &Context, request: &IssueRequest, since: OffsetDateTime) -> Result<Option<OrderHandle>> {
        let placed = self.ca.placed.lock().unwrap();
        let visible = |at: OffsetDateTime| at >= since && self.clock.now() >= at + VISIBLE_AFTER;
        Ok(placed.get(&request.reference).filter(|(at, _)| visible(*at)).map(|(_, handle)| handle.clone()))
    }
}

#[async_trait]
impl Revoker for FakeIssuer {
    async fn revoke(&self, _: &Context, _: &CertificateBundle, reason: RevocationReason) -> Result<()> {
        self.ca.revoked.lock().unwrap().push(reason);
        Ok(())
    }
}

#[async_trait]
impl RenewalInfo for FakeIssuer {
    async fn renewal_window(&self, _: &Context, _: &CertificateBundle) -> Result<Option<RenewalWindow>> {
        Ok(self.ca.window.lock().unwrap().clone())
    }
}

#[derive(Debug)]
pub struct FakeFactory(pub Arc<FakeCa>);

#[async_trait]
impl IssuerFactory for FakeFactory {
    fn kind(&self) -> &'static str {
        "fake"
    }

    fn check(&self, _: &Value) -> Result<()> {
        Ok(())
    }

    async fn build(&self, _: &Context, spec: IssuerSpec) -> Result<Arc<dyn AsyncIssuer>> {
        Ok(Arc::new(FakeIssuer { ca: self.0.clone(), clock: spec.clock }))
    }
}

/// What a fake target does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Unreachable,
    Refuses,
    KeepsServingOld,
    BreaksHalfway,
    /// Says at first sight that it is gone for good.
    Gone,
    /// Says so when the change is made, and again when it is to be taken back.
    GoneHalfway,
}

/// Targets in memory: a file and what is served, which differ until "reload".
#[derive(Debug, Default)]
pub struct Fleet {
    pub targets: Mutex<HashMap<String, FakeTarget>>,
    pub swaps: AtomicUsize,
    pub peak: AtomicUsize,
    /// How long a swap takes, by this clock.
    pub pace: Mutex<Option<(Arc<ManualClock>, Duration)>>,
    busy: AtomicUsize,
}

#[derive(Debug, Clone, Default)]
pub struct FakeTarget {
    pub file: Option<Fingerprint>,
    pub served: Option<Fingerprint>,
    pub fault: Option<Fault>,
}

impl Fleet {
    pub fn fault(&self, name: &str, fault: Option<Fault>) {
        self.targets.lock().unwrap().entry(name.to_owned()).or_default().fault = fault;
    }

    pub fn served(&self, name: &str) -> Option<Fingerprint> {
        self.targets.lock().unwrap().get(name).and_then(|target| target.served)
    }

    pub fn with<T>(&self, name: &str, f: impl FnOnce(&mut FakeTarget) -> T) -> T {
        f(self.targets.lock().unwrap().entry(name.to_owned()).or_default())
    }
}

#[derive(Debug)]
pub struct FakeModule(pub Arc<Fleet>);

#[derive(Serialize, Deserialize)]
pub struct Undo {
    file: Option<Fingerprint>,
    new: Fingerprint,
}

fn text(fingerprint: Option<Fingerprint>) -> String {
    fingerprint.map_or_else(|| "absent".to_owned(), |fingerprint| fingerprint.to_string())
}

fn gone() -> Error {
    Error::permanent("fake.connect", codes::TARGET_GONE, "there is nobody any more")
}

impl DistributionModule for FakeModule {
    const KIND: &'static str = "fake";
    type Config = HashMap<String, Value>;
    type Credentials = Option<String>;
    type Location = HashMap<String, Value>;
    type Undo = Undo;

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    fn check(&self, _: Target<'_, Self>) -> Result<()> {
        Ok(())
    }

    async fn dry_run(&self, _: &Context, target: Target<'_, Self>, bundle: &CertificateBundle) -> Result<Plan> {
        let now = self.0.with(target.name, |target| target.clone());
        if now.fault == Some(Fault::Unreachable) {
            return Err(Error::network("fake.connect", "connect_refused", "nobody there"));
        }
        if now.fault == Some(Fault::Gone) {
            return Err(gone());
        }
        if now.fault == Some(Fault::Refuses) {
            return Err(Error::auth("fake.connect", "login_refused", "wrong password"));
        }
        let new = bundle.fingerprint();
        let verb = if now.file == Some(new) && now.served == Some(new) { Verb::Keep } else { Verb::Replace };
        let step = Step::new(verb, "file").before(text(now.file)).after(text(Some(new)));
        Ok(Plan::new(Self::KIND, target.name, text(now.file), vec![step]))
    }

    async fn execute(
        &self,
        _: &Context,
        target: Target<'_, Self>,
        bundle: &CertificateBundle,
        plan: &ApprovedPlan,
        undo: &Journal<'_, Undo>,
    ) -> Result<Facts> {
        let busy = self.0.busy.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.peak.fetch_max(busy, Ordering::SeqCst);
        tokio::task::yield_now().await;
        let pace = self.0.pace.lock().unwrap().clone();
        if let Some((clock, pace)) = pace {
            clock.sleep(pace).await;
        }
        self.0.busy.fetch_sub(1, Ordering::SeqCst);
        let new = bundle.fingerprint();
        let now = self.0.with(target.name, |target| target.clone());
        if undo.entries().await?.is_empty() {
            if text(now.file) != plan.plan().base {
                return Err(Error::validation("fake.execute", "plan_stale", "the target changed"));
            }
            undo.record("swap", &Undo { file: now.file, new }).await?;
        }
        self.0.swaps.fetch_add(1, Ordering::SeqCst);
        self.0.with(target.name, |target| target.file = Some(new));
        if now.fault == Some(Fault::BreaksHalfway) {
            return Err(Error::network("fake.execute", "reset", "gone").with_effect(Effect::Possible));
        }
        if now.fault == Some(Fault::GoneHalfway) {
            return Err(gone().with_effect(Effect::Possible));
        }
        if now.fault != Some(Fault::KeepsServingOld) {
            self.0.with(target.name, |target| target.served = Some(new));
        }
        Ok(Facts::new().with("reloaded", true))
    }

    async fn validate(&self, _: &Context, target: Target<'_, Self>, bundle: &CertificateBundle) -> Result<Validation> {
        let served = self.0.served(target.name);
        let endpoints = vec![EndpointCheck::new(target.name, served, 1, None)];
        if served == Some(bundle.fingerprint()) {
            Ok(Validation::Served { endpoints })
        } else {
            Ok(Validation::NotServed { endpoints, reason: "another certificate is served".to_owned() })
        }
    }

    async fn rollback(&self, _: &Context, target: Target<'_, Self>, undo: Vec<Undo>) -> Result<RollbackOutcome> {
        let Some(first) = undo.first() else { return Ok(RollbackOutcome::NothingToDo) };
        if self.0.with(target.name, |target| target.fault) == Some(Fault::GoneHalfway) {
            return Err(gone());
        }
        Ok(self.0.with(target.name, |target| {
            if target.file == first.file {
                return RollbackOutcome::NothingToDo;
            }
            if target.file != Some(first.new) {
                return RollbackOutcome::Refused { code: "foreign_change".to_owned(), reason: "not ours".to_owned() };
            }
            target.file = first.file;
            target.served = first.file;
            RollbackOutcome::RolledBack
        }))
    }
}

/// Everything together.
pub struct World {
    pub clock: Arc<ManualClock>,
    pub store: SharedStore,
    pub ca: Arc<FakeCa>,
    pub fleet: Arc<Fleet>,
    pub envelope: Arc<KeyringEnvelope>,
}

impl World {
    pub fn new() -> Self {
        let clock = Arc::new(ManualClock::new(START));
        Self {
            store: Arc::new(MemoryStore::new(clock.clone())),
            clock,
            ca: FakeCa::new(),
            fleet: Arc::default(),
            envelope: Arc::new(KeyringEnvelope::new(Keyring::generate().unwrap())),
        }
    }

    pub fn builder(&self) -> RuntimeBuilder {
        self.builder_on(self.store.clone())
    }

    /// For a node that is alone while the clock goes in long steps. Its lease must outlast them: a leader that has lost
    /// it, and whose steps of the clock leave no time to end its work, never stands again.
    pub fn patient_builder(&self) -> RuntimeBuilder {
        self.builder().settings(|settings| settings.leader_ttl = Duration::from_secs(86_400))
    }

    pub fn builder_on(&self, store: SharedStore) -> RuntimeBuilder {
        Runtime::builder(store, self.envelope.clone())
            .clock(self.clock.clone())
            .watchdog(Watchdog::Task)
            .modules(ModuleRegistry::new().register(FakeModule(self.fleet.clone())).unwrap())
            .issuers(IssuerRegistry::new().register(FakeFactory(self.ca.clone())).unwrap())
    }

    /// The context of a sweep, under a lease that is taken from whoever has it and does not end by itself.
    pub async fn leader(&self, holder: &str) -> SweepContext {
        let forever = Duration::from_secs(100 * 365 * 86_400);
        if let Some(info) = self.store.inspect(LEASE).await.unwrap() {
            self.store.raise(LEASE, info.epoch).await.unwrap();
        }
        let request = LeaseRequest::new(LEASE, holder, holder, forever);
        let lease = self.store.acquire(&request).await.unwrap().expect("the lease is free");
        SweepContext::under(lease, forever, self.store.clone(), self.clock.clone())
    }

    /// A project with one certificate on targets of these names; nothing is issued yet.
    pub async fn certificate(&self, client: &Client, targets: &[&str]) -> String {
        client.create_project("shop").await.unwrap();
        let issuer = NewIssuer { name: "ca".into(), kind: "fake".into(), config: json!({}), credential_id: None };
        let issuer_id = client.create_issuer("shop", issuer).await.unwrap().id;
        let mut ids = Vec::new();
        for name in targets {
            let target = NewTarget { name: (*name).into(), module: "fake".into(), ..NewTarget::default() };
            ids.push(client.create_target("shop", target).await.unwrap().id);
        }
        let new = NewCertificate {
            names: vec!["www.shop.example".into()],
            issuer_id,
            targets: ids,
            ..NewCertificate::default()
        };
        client.create_certificate("shop", new).await.unwrap().id
    }

    /// Stops a node while the clock moves on.
    pub async fn stop(&self, node: RunningRuntime) {
        let stopped = tokio::spawn(node.shutdown());
        self.until(Duration::from_millis(500), || async { stopped.is_finished() }).await;
    }

    /// Lets everything run, moving the clock on by `step` when nothing else happens, until `done`.
    pub async fn until<F: Future<Output = bool>>(&self, step: Duration, mut done: impl FnMut() -> F) {
        let deadline = Instant::now() + Duration::from_secs(120);
        while !done().await {
            assert!(Instant::now() < deadline, "it did not happen within 120 s");
            // Real time for what runs on other threads: key generation.
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
            // Long steps only while nothing runs: a worker whose clock jumps over its lease has lost its job.
            let stats = self.store.stats().await.unwrap();
            let busy = stats.by_kind.values().any(|depth| depth.in_progress > 0);
            self.clock.advance(if busy { step.min(Duration::from_millis(50)) } else { step });
        }
    }
}
