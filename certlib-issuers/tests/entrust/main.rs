//! The Entrust issuers, against a simulated Enterprise API and a simulated CA Gateway.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![cfg(feature = "entrust")]

mod ca_gateway;
#[path = "../common/mod.rs"]
mod common;
mod conformance;
mod ecs;
mod login;

use std::sync::Arc;

use certlib_core::clock::{Clock, ManualClock, SystemClock};
use certlib_core::issuer::{AsyncIssuer, IssueRequest, IssuerFactory as _, OrderHandle, OrderState, Recovery};
use certlib_core::{CertificateBundle, Context, Error};
use certlib_issuers::entrust::EntrustFactory;
use certlib_testkit::entrust::{CagwSim, EcsSim, Fault};
use certlib_testkit::pki::Issued;
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};
use tokio_util::sync::CancellationToken;

use self::common::{MemoryState, request, spec};

/// A simulated service, the issuer for it, and a clock of its own.
struct Desk<S> {
    sim: S,
    issuer: Arc<dyn AsyncIssuer>,
    clock: Arc<ManualClock>,
    cx: Context,
}

impl<S> Desk<S> {
    async fn with(sim: S, config: Value, credentials: Value) -> Self {
        let issuer = build(config, &credentials).await.unwrap();
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

    async fn find(&self, request: &IssueRequest) -> Result<Option<OrderHandle>, Error> {
        let Recovery::Search(search) = self.issuer.recovery() else { panic!("it can be searched") };
        search.find(&self.cx, request, OffsetDateTime::now_utc() - Duration::minutes(5)).await
    }
}

async fn ecs_desk(sim: EcsSim) -> Desk<EcsSim> {
    let (config, credentials) = (ecs_config(&sim), ecs_credentials(&sim));
    Desk::with(sim, config, credentials).await
}

async fn gateway_desk(sim: CagwSim) -> Desk<CagwSim> {
    let (config, credentials) = (gateway_config(&sim), identity(sim.client_certificate()));
    Desk::with(sim, config, credentials).await
}

fn connection(root: &str) -> Value {
    json!({ "addresses": { "allow_loopback": true }, "tls": { "ca_pem": root } })
}

fn ecs_config(sim: &EcsSim) -> Value {
    json!({
        "api": "ecs",
        "url": sim.url(),
        "certificate_type": "STANDARD_SSL",
        "client_id": 1,
        "requester": { "name": "Web team", "email": "web@shop.example", "phone": "+1 555 0100" },
        "connection": connection(sim.ca_pem()),
    })
}

fn ecs_credentials(sim: &EcsSim) -> Value {
    let mut credentials = identity(sim.client_certificate());
    credentials["username"] = json!(EcsSim::USER);
    credentials["api_key"] = json!(EcsSim::KEY);
    credentials
}

fn gateway_config(sim: &CagwSim) -> Value {
    json!({
        "api": "ca_gateway",
        "url": sim.url(),
        "ca_id": CagwSim::AUTHORITY,
        "profile_id": "tls-server",
        "connection": connection(sim.ca_pem()),
    })
}

fn identity(issued: &Issued) -> Value {
    json!({ "certificate_pem": issued.certificate_pem, "private_key_pem": issued.key_pem })
}

async fn build(config: Value, credentials: &Value) -> Result<Arc<dyn AsyncIssuer>, Error> {
    let mut spec = spec(config, &Arc::new(MemoryState::default()));
    spec.credentials = Some(credentials.to_string().into());
    EntrustFactory.build(&Context::new("test"), spec).await
}

fn order() -> IssueRequest {
    let mut request = request(&["www.shop.example", "shop.example"]).0;
    request.reference = "order-4711".to_owned();
    request
}

/// An answer in the words of ECS (`errors`) and of a gateway (`error`) alike.
fn refusal(status: u16) -> Fault {
    let body = json!({
        "status": status,
        "errors": [{ "message": "secret words", "code": 4711 }],
        "error": { "code": "invalid.request", "message": "secret words" },
    });
    Fault::Answer { status, content_type: "application/json".to_owned(), body: body.to_string() }
}

fn page(status: u16) -> Fault {
    Fault::Answer { status, content_type: "text/html".to_owned(), body: "<html>secret words</html>".to_owned() }
}
