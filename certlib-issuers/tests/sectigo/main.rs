//! The Sectigo issuer, against a simulated certificate manager.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![cfg(feature = "sectigo")]

#[path = "../common/mod.rs"]
mod common;
mod conformance;
mod login;
mod orders;
mod recovery;
mod revocation;

use std::sync::Arc;

use certlib_core::clock::{Clock, ManualClock, SystemClock};
use certlib_core::issuer::{AsyncIssuer, IssueRequest, IssuerFactory as _, OrderHandle, OrderState};
use certlib_core::{CertificateBundle, Context, Error};
use certlib_issuers::sectigo::SectigoFactory;
use certlib_testkit::sectigo::SectigoSim;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use self::common::{MemoryState, request, spec};

/// A certificate manager, the issuer for it, and a clock of its own.
struct Desk {
    sim: SectigoSim,
    issuer: Arc<dyn AsyncIssuer>,
    clock: Arc<ManualClock>,
    cx: Context,
}

impl Desk {
    async fn new(sim: SectigoSim) -> Self {
        Self::with(sim, |_| {}).await
    }

    async fn with(sim: SectigoSim, change: impl FnOnce(&mut Value)) -> Self {
        let mut config = config(&sim);
        change(&mut config);
        let issuer = build(config, &credentials()).await.unwrap();
        let clock = Arc::new(ManualClock::new(SystemClock::new().now()));
        let cx = Context::with(clock.clone(), CancellationToken::new(), "test");
        Self { sim, issuer, clock, cx }
    }

    async fn submit(&self, request: &IssueRequest) -> OrderHandle {
        self.issuer.submit(&self.cx, request).await.unwrap()
    }

    async fn poll(&self, handle: &OrderHandle) -> Result<OrderState, Error> {
        self.issuer.poll(&self.cx, handle).await
    }

    /// Polls an order that is issued.
    async fn collect(&self, handle: &OrderHandle) -> CertificateBundle {
        match self.poll(handle).await.unwrap() {
            OrderState::Issued { chain_pem } => CertificateBundle::from_pem(chain_pem.as_bytes()).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    async fn is_pending(&self, handle: &OrderHandle) -> bool {
        matches!(self.poll(handle).await.unwrap(), OrderState::Pending { .. })
    }

    /// Polls an order that is over, and says why.
    async fn rejection(&self, handle: &OrderHandle) -> Error {
        match self.poll(handle).await.unwrap() {
            OrderState::Rejected { reason } => reason,
            other => panic!("{other:?}"),
        }
    }

    /// How often something was asked.
    fn asked(&self, method: &str, part: &str) -> usize {
        self.sim.history().iter().filter(|record| record.method == method && record.path.contains(part)).count()
    }
}

fn config(sim: &SectigoSim) -> Value {
    let mut connection = json!({ "addresses": { "allow_loopback": true }, "allow_http": true });
    if let Some(root) = sim.ca_pem() {
        connection["tls"] = json!({ "ca_pem": root });
    }
    json!({
        "url": sim.url(),
        "organization_id": SectigoSim::ORGANIZATION,
        "certificate_type": SectigoSim::PROFILE,
        "connection": connection,
    })
}

fn credentials() -> Value {
    let (login, customer) = (SectigoSim::LOGIN, SectigoSim::CUSTOMER_URI);
    json!({ "login": login, "customer_uri": customer, "password": SectigoSim::PASSWORD })
}

async fn build(config: Value, credentials: &Value) -> Result<Arc<dyn AsyncIssuer>, Error> {
    let mut spec = spec(config, &Arc::new(MemoryState::default()));
    spec.credentials = Some(credentials.to_string().into());
    SectigoFactory.build(&Context::new("test"), spec).await
}

fn order() -> IssueRequest {
    order_for(&["www.shop.example", "shop.example"])
}

fn order_for(names: &[&str]) -> IssueRequest {
    let mut request = request(names).0;
    request.reference = "order-4711".to_owned();
    request
}
