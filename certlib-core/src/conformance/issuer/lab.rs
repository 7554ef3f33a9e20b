//! The engine at work with one issuer, and a protocol of what it asked the CA.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::Value;
use time::OffsetDateTime;

use super::{CaFixture, IssuerHarness};
use crate::client::{Client, NewCertificate, NewIssuer};
use crate::clock::{Clock, ManualClock, SystemClock};
use crate::context::Context;
use crate::error::{ErrorClass, Result};
use crate::issuer::{
    AsyncIssuer, IssueRequest, IssuerFactory, IssuerSpec, OrderHandle, OrderState, Recovery, RenewalInfo, Revoker,
};
use crate::memory::MemoryStore;
use crate::model::{Certificate, CertificateState, Order};
use crate::poll::PollSchedule;
use crate::queue::{JobFilter, JobState};
use crate::runtime::{IssuerRegistry, Role, RunningRuntime, Runtime};
use crate::scheduler::Watchdog;
use crate::secret::{Keyring, KeyringEnvelope, SecretString};
use crate::store::SharedStore;

/// The project of everything in the lab.
pub(super) const PROJECT: &str = "shop";

/// How long a case may wait, in real time.
const PATIENCE: Duration = Duration::from_secs(120);

/// An engine, a store in memory, a clock that jumps, a CA, and one certificate that wants to be issued.
pub struct Lab {
    /// The CA.
    pub ca: Box<dyn CaFixture>,
    /// The store.
    pub store: SharedStore,
    /// The time: real at first, and on from there by jumps.
    pub clock: Arc<ManualClock>,
    /// The certificate's id.
    pub certificate: String,
    envelope: Arc<KeyringEnvelope>,
    factory: Arc<Recording>,
}

impl std::fmt::Debug for Lab {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lab").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl Lab {
    /// A fresh CA, and a certificate that wants to be issued there.
    pub async fn new(harness: &impl IssuerHarness) -> Self {
        let ca = harness.fresh().await.expect("a harness that gave a CA gives another");
        let (config, credentials) = (ca.config(), ca.credentials());
        Self::with_login(harness, ca, config, credentials).await
    }

    /// The same with another configuration or login.
    pub async fn with_login(
        harness: &impl IssuerHarness,
        ca: Box<dyn CaFixture>,
        config: Value,
        credentials: Option<SecretString>,
    ) -> Self {
        let clock = Arc::new(ManualClock::new(SystemClock::new().now()));
        let factory = Arc::new(Recording { inner: harness.factory(), calls: Arc::default(), made: Mutex::default() });
        let mut lab = Self {
            ca,
            store: Arc::new(MemoryStore::new(clock.clone())),
            clock,
            certificate: String::new(),
            envelope: Arc::new(KeyringEnvelope::new(Keyring::generate().unwrap())),
            factory,
        };
        let client = lab.client();
        client.create_project(PROJECT).await.unwrap();
        let credential_id = match credentials {
            Some(credentials) => Some(client.create_credential(PROJECT, "ca", &credentials).await.unwrap().id),
            None => None,
        };
        let kind = lab.factory.kind().to_owned();
        let issuer = NewIssuer { name: "ca".to_owned(), kind, config, credential_id };
        let issuer = client.create_issuer(PROJECT, issuer).await.unwrap();
        let new = NewCertificate::new(lab.ca.names(), issuer.id);
        lab.certificate = client.create_certificate(PROJECT, new).await.unwrap().id;
        lab
    }

    /// Starts a node that works on jobs.
    pub fn start(&self) -> RunningRuntime {
        self.start_on(self.store.clone())
    }

    /// Starts a node on a store of its own, such as one that dies.
    pub fn start_on(&self, store: SharedStore) -> RunningRuntime {
        self.runtime(store).start()
    }

    /// A client without a node.
    pub fn client(&self) -> Client {
        self.runtime(self.store.clone()).client()
    }

    fn runtime(&self, store: SharedStore) -> Runtime {
        Runtime::builder(store, self.envelope.clone())
            .clock(self.clock.clone())
            .watchdog(Watchdog::Task)
            .settings(|settings| settings.roles = vec![Role::Worker])
            .issuers(IssuerRegistry::new().register(Shared(self.factory.clone())).unwrap())
            .build()
            .unwrap()
    }

    /// Stops a node while the clock goes on.
    pub async fn stop(&self, node: RunningRuntime) {
        let stopped = tokio::spawn(node.shutdown());
        let deadline = Instant::now() + PATIENCE;
        while !stopped.is_finished() {
            assert!(Instant::now() < deadline, "the node does not stop");
            tokio::time::sleep(Duration::from_millis(1)).await;
            self.clock.advance(Duration::from_millis(50));
        }
    }

    /// Lets the nodes work until `done`; whenever nothing runs, the clock jumps to what is due next.
    pub async fn until(&self, what: &str, mut done: impl AsyncFnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // Looked at before `done`, so that the clock does not jump over the moment at which it comes true.
            let wait = self.next(Duration::from_secs(3600)).await;
            if done().await {
                return;
            }
            assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}; asked: {:?}", self.calls());
            self.clock.advance(wait);
        }
    }

    /// Lets the nodes work for this long by the lab's clock.
    pub async fn go_on(&self, time: Duration) {
        let (end, deadline) = (self.clock.now() + time, Instant::now() + PATIENCE);
        while let Ok(left) = Duration::try_from(end - self.clock.now())
            && !left.is_zero()
        {
            assert!(Instant::now() < deadline, "{time:?} did not pass within {PATIENCE:?}");
            let wait = self.next(left).await;
            self.clock.advance(wait);
        }
    }

    /// How far the clock may jump: to what is due next, or hardly at all while something runs.
    async fn next(&self, longest: Duration) -> Duration {
        // Real time for what runs on other threads, and for the CA.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        let jobs = self.store.jobs(&JobFilter::default()).await.unwrap();
        if jobs.iter().any(|job| job.state == JobState::InProgress) {
            Duration::from_millis(1)
        } else {
            let next = jobs.iter().filter(|job| job.state.is_active()).map(|job| job.run_at).min();
            let left = next.map_or(longest, |next| Duration::try_from(next - self.clock.now()).unwrap_or_default());
            // What is due already needs the worker to look.
            left.max(Duration::from_millis(20)).min(longest)
        }
    }

    /// Asks for the certificate and waits until it is issued.
    pub async fn issue(&self) {
        self.client().issue(PROJECT, &self.certificate).await.unwrap();
        self.until("issued", async || self.state().await == CertificateState::Active).await;
    }

    /// The certificate's record.
    pub async fn record(&self) -> Certificate {
        self.client().certificate(PROJECT, &self.certificate).await.unwrap()
    }

    /// Where the certificate stands.
    pub async fn state(&self) -> CertificateState {
        self.record().await.state
    }

    /// The newest order.
    pub async fn order(&self) -> Order {
        self.client().orders(PROJECT, &self.certificate).await.unwrap().pop().expect("there is an order")
    }

    /// How many orders were begun.
    pub async fn begun(&self) -> usize {
        self.client().orders(PROJECT, &self.certificate).await.unwrap().len()
    }

    /// Whether no job is left to be done.
    pub async fn is_idle(&self) -> bool {
        !self.store.jobs(&JobFilter::default()).await.unwrap().iter().any(|job| job.state.is_active())
    }

    /// What the CA was asked, in order.
    pub fn calls(&self) -> Vec<Called> {
        self.factory.calls.lock().unwrap().clone()
    }

    /// The issuer that a node made last, without the protocol.
    pub fn issuer(&self) -> Arc<dyn AsyncIssuer> {
        self.factory.made.lock().unwrap().clone().expect("a node has made one")
    }

    /// The lab's time.
    pub fn clock_now(&self) -> OffsetDateTime {
        self.clock.now()
    }

    /// When the CA was asked about an order, in order.
    pub fn polls(&self) -> Vec<OffsetDateTime> {
        self.calls().into_iter().filter(|called| called.call == Call::Poll).map(|called| called.at).collect()
    }
}

/// A call of an issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Called {
    /// Which.
    pub call: Call,
    /// When it began.
    pub at: OffsetDateTime,
    /// Its error's class and code, if it had one.
    pub error: Option<(ErrorClass, String)>,
}

/// A method of [`AsyncIssuer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// [`AsyncIssuer::submit`].
    Submit,
    /// [`AsyncIssuer::poll`].
    Poll,
}

/// Makes the issuers under test, which keep a protocol.
#[derive(Debug)]
struct Recording {
    inner: Arc<dyn IssuerFactory>,
    calls: Arc<Mutex<Vec<Called>>>,
    made: Mutex<Option<Arc<dyn AsyncIssuer>>>,
}

impl Recording {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }
}

#[derive(Debug)]
struct Shared(Arc<Recording>);

#[async_trait]
impl IssuerFactory for Shared {
    fn kind(&self) -> &'static str {
        self.0.kind()
    }

    fn check(&self, config: &Value) -> Result<()> {
        self.0.inner.check(config)
    }

    async fn build(&self, cx: &Context, spec: IssuerSpec) -> Result<Arc<dyn AsyncIssuer>> {
        let inner = self.0.inner.build(cx, spec).await?;
        *self.0.made.lock().unwrap() = Some(inner.clone());
        Ok(Arc::new(Recorded { inner, calls: self.0.calls.clone() }))
    }
}

#[derive(Debug)]
struct Recorded {
    inner: Arc<dyn AsyncIssuer>,
    calls: Arc<Mutex<Vec<Called>>>,
}

impl Recorded {
    fn keep<T>(&self, call: Call, at: OffsetDateTime, result: &Result<T>) {
        let error = result.as_ref().err().map(|error| (error.class(), error.code().to_owned()));
        self.calls.lock().unwrap().push(Called { call, at, error });
    }
}

#[async_trait]
impl AsyncIssuer for Recorded {
    async fn submit(&self, cx: &Context, request: &IssueRequest) -> Result<OrderHandle> {
        let at = cx.clock.now();
        let result = self.inner.submit(cx, request).await;
        self.keep(Call::Submit, at, &result);
        result
    }

    async fn poll(&self, cx: &Context, handle: &OrderHandle) -> Result<OrderState> {
        let at = cx.clock.now();
        let result = self.inner.poll(cx, handle).await;
        self.keep(Call::Poll, at, &result);
        result
    }

    fn recovery(&self) -> Recovery<'_> {
        self.inner.recovery()
    }

    fn poll_schedule(&self) -> PollSchedule {
        self.inner.poll_schedule()
    }

    fn revoker(&self) -> Option<&dyn Revoker> {
        self.inner.revoker()
    }

    fn renewal_info(&self) -> Option<&dyn RenewalInfo> {
        self.inner.renewal_info()
    }
}
