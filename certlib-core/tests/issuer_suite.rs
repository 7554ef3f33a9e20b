//! The issuer suite, on a CA in memory that can be searched, on one that cannot, and on one that does not mind.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub, missing_docs)]

mod common;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use certlib_core::conformance::issuer::{CaFault, CaFixture, IssuerHarness, Lab};
use certlib_core::error::{Effect, Error, Result};
use certlib_core::issuer::{
    AsyncIssuer, IssueRequest, IssuerFactory, IssuerSpec, OrderHandle, OrderState, Recovery, Revoker, decode_config,
};
use certlib_core::poll::PollSchedule;
use certlib_core::queue::{JobFilter, JobState};
use certlib_core::secret::SecretString;
use certlib_core::{CertificateBundle, Context, classify};
use common::{FakeCa, FakeFactory, Memory};
use serde::Deserialize;
use serde_json::{Value, json};

const PASSWORD: &str = "correct horse";

/// The CA of the other tests, with a login and more ways to fail.
#[derive(Debug, Clone)]
struct Ca {
    number: usize,
    inner: Arc<FakeCa>,
    fault: Arc<Mutex<CaFault>>,
    revoked: Arc<Mutex<Vec<CertificateBundle>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    number: usize,
    /// Asks once in so many seconds, whatever the CA says.
    every: Option<u64>,
}

/// Every CA that was made; its place is its number.
type Cas = Arc<Mutex<Vec<Ca>>>;

#[derive(Debug)]
struct Factory(Cas);

#[async_trait]
impl IssuerFactory for Factory {
    fn kind(&self) -> &'static str {
        "fake"
    }

    fn check(&self, config: &Value) -> Result<()> {
        decode_config::<Config>(config).map(drop)
    }

    async fn build(&self, cx: &Context, spec: IssuerSpec) -> Result<Arc<dyn AsyncIssuer>> {
        if spec.credentials.as_ref().is_none_or(|password| !password.expose().contains(PASSWORD)) {
            return Err(Error::auth("fake", "denied", "the login is refused"));
        }
        let Config { number, every } = spec.decode_config()?;
        let ca = self.0.lock().unwrap()[number].clone();
        let inner = FakeFactory(ca.inner.clone()).build(cx, spec).await?;
        Ok(Arc::new(Issuer { ca, every, inner }))
    }
}

#[derive(Debug)]
struct Issuer {
    ca: Ca,
    every: Option<u64>,
    inner: Arc<dyn AsyncIssuer>,
}

#[async_trait]
impl AsyncIssuer for Issuer {
    async fn submit(&self, cx: &Context, request: &IssueRequest) -> Result<OrderHandle> {
        self.inner.submit(cx, request).await
    }

    async fn poll(&self, cx: &Context, handle: &OrderHandle) -> Result<OrderState> {
        let fault = *self.ca.fault.lock().unwrap();
        match fault {
            CaFault::Pending => Ok(OrderState::Pending { retry_after: None }),
            CaFault::Status { status, retry_after } => {
                let error = Error::new(classify::http(status), "fake", "http_status", "refused");
                Err(error.with_retry_after(retry_after).with_effect(Effect::None))
            }
            CaFault::Garbage => Err(Error::permanent("fake", "answer_invalid", "a page of a proxy")),
            CaFault::Reject => {
                let reason = Error::validation("fake", "order_rejected", "no");
                Ok(OrderState::Rejected { reason })
            }
            _ => self.inner.poll(cx, handle).await,
        }
    }

    fn poll_schedule(&self) -> PollSchedule {
        let naive = |every| PollSchedule { steps: vec![every], spread: 0.0, max_wait: 7 * 86_400 };
        self.every.map_or_else(PollSchedule::default, naive)
    }

    fn recovery(&self) -> Recovery<'_> {
        self.inner.recovery()
    }

    fn revoker(&self) -> Option<&dyn Revoker> {
        Some(self)
    }
}

#[async_trait]
impl Revoker for Issuer {
    async fn revoke(
        &self,
        _: &Context,
        bundle: &CertificateBundle,
        _: certlib_core::issuer::RevocationReason,
    ) -> Result<()> {
        let der = bundle.leaf_pem();
        self.ca.revoked.lock().unwrap().push(CertificateBundle::from_pem(der.as_bytes())?);
        Ok(())
    }
}

#[async_trait]
impl CaFixture for Ca {
    fn config(&self) -> Value {
        json!({ "number": self.number })
    }

    fn credentials(&self) -> Option<SecretString> {
        Some(SecretString::new(format!("\"{PASSWORD}\"")))
    }

    fn refused(&self) -> Option<(Value, Option<SecretString>)> {
        Some((self.config(), Some(SecretString::new("\"wrong horse\"".to_owned()))))
    }

    fn secrets(&self) -> Vec<String> {
        vec![PASSWORD.to_owned(), "wrong horse".to_owned()]
    }

    async fn set(&self, fault: CaFault) {
        *self.fault.lock().unwrap() = fault;
        let lost = if fault == CaFault::LoseAnswers { usize::MAX } else { 0 };
        self.inner.answers_lost.store(lost, Ordering::SeqCst);
        *self.inner.wrong_names.lock().unwrap() = fault == CaFault::WrongNames;
    }

    async fn orders(&self) -> usize {
        self.inner.submits.load(Ordering::SeqCst)
    }

    async fn is_revoked(&self, bundle: &CertificateBundle) -> bool {
        self.revoked.lock().unwrap().iter().any(|revoked| revoked.fingerprint() == bundle.fingerprint())
    }
}

struct Harness {
    memory: Memory,
    cas: Cas,
}

impl Harness {
    fn new(memory: Memory) -> Self {
        Self { memory, cas: Arc::default() }
    }
}

#[async_trait]
impl IssuerHarness for Harness {
    fn factory(&self) -> Arc<dyn IssuerFactory> {
        Arc::new(Factory(self.cas.clone()))
    }

    async fn fresh(&self) -> Option<Box<dyn CaFixture>> {
        let inner = FakeCa::new();
        *inner.memory.lock().unwrap() = self.memory;
        let mut cas = self.cas.lock().unwrap();
        let fault = Arc::new(Mutex::new(CaFault::None));
        let ca = Ca { number: cas.len(), inner, fault, revoked: Arc::default() };
        cas.push(ca.clone());
        Some(Box::new(ca))
    }
}

mod searchable {
    use super::*;
    certlib_core::issuer_conformance!(Harness::new(Memory::Searchable));
}

mod forgetful {
    use super::*;
    certlib_core::issuer_conformance!(Harness::new(Memory::None));
}

mod generous {
    use super::*;
    certlib_core::issuer_conformance!(Harness::new(Memory::Repeats));
}

const TEN_MINUTES: Duration = Duration::from_secs(600);

/// The most polls in any ten minutes.
async fn busiest_ten_minutes(config: Value, time: Duration) -> usize {
    let harness = Harness::new(Memory::Repeats);
    let ca = harness.fresh().await.unwrap();
    let credentials = ca.credentials();
    let lab = Lab::with_login(&harness, ca, config, credentials).await;
    lab.ca.set(CaFault::Status { status: 429, retry_after: None }).await;
    let node = lab.start();
    lab.client().issue("shop", &lab.certificate).await.unwrap();
    let end = lab.clock_now() + time;
    let mut held = 0;
    while lab.clock_now() < end {
        lab.go_on(TEN_MINUTES).await;
        let jobs = lab.store.jobs(&JobFilter::default()).await.unwrap();
        held += jobs.iter().filter(|job| job.state == JobState::InProgress).count();
    }
    assert_eq!(held, 0, "a worker is held");
    let polls = lab.polls();
    lab.stop(node).await;
    let within = |from: usize| polls[from..].iter().take_while(|at| **at < polls[from] + TEN_MINUTES).count();
    (0..polls.len()).map(within).max().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_of_refusals_costs_seven_calls_in_ten_minutes() {
    let day = Duration::from_secs(86_400);
    let most = busiest_ten_minutes(json!({ "number": 0 }), day).await;
    assert!((2..=7).contains(&most), "{most} calls");
    // A client that asks every second, beside it.
    let naive = busiest_ten_minutes(json!({ "number": 0, "every": 1 }), 2 * TEN_MINUTES).await;
    assert!((500..=600).contains(&naive), "{naive} calls");
}
