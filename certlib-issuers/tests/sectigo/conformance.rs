//! The issuer suite.

use std::sync::Arc;

use async_trait::async_trait;
use certlib_core::CertificateBundle;
use certlib_core::conformance::issuer::{CaFault, CaFixture, IssuerHarness};
use certlib_core::issuer::IssuerFactory;
use certlib_core::secret::SecretString;
use certlib_issuers::sectigo::SectigoFactory;
use certlib_testkit::pki::Flaw;
use certlib_testkit::sectigo::{Fault, Injection, SectigoSim, Status};
use serde_json::Value;

use super::{config, credentials};

const WRONG: &str = "not-the-password";

struct Harness;

#[async_trait]
impl IssuerHarness for Harness {
    fn factory(&self) -> Arc<dyn IssuerFactory> {
        Arc::new(SectigoFactory)
    }

    async fn fresh(&self) -> Option<Box<dyn CaFixture>> {
        Some(Box::new(Ca(SectigoSim::start().await.unwrap())))
    }
}

struct Ca(SectigoSim);

#[async_trait]
impl CaFixture for Ca {
    fn config(&self) -> Value {
        config(&self.0)
    }

    fn credentials(&self) -> Option<SecretString> {
        Some(credentials().to_string().into())
    }

    fn refused(&self) -> Option<(Value, Option<SecretString>)> {
        let mut wrong = credentials();
        wrong["password"] = WRONG.into();
        Some((self.config(), Some(wrong.to_string().into())))
    }

    fn secrets(&self) -> Vec<String> {
        vec![SectigoSim::PASSWORD.to_owned(), WRONG.to_owned()]
    }

    async fn set(&self, fault: CaFault) {
        let sim = &self.0;
        sim.clear_faults();
        sim.set_rejections(fault == CaFault::Reject);
        sim.set_pending_polls(if fault == CaFault::Pending { u32::MAX } else { 0 });
        if fault != CaFault::Pending {
            for order in sim.orders().iter().filter(|order| order.status == Status::Applied) {
                sim.finish(order.id).unwrap();
            }
        }
        let question = |fault| Injection::new(fault).on("GET", "/ssl/v1/");
        match fault {
            CaFault::LoseAnswers => sim.inject(Injection::new(Fault::LoseReply).on("POST", "/ssl/v1/enroll")),
            CaFault::Status { status, retry_after } => sim.inject(question(answered(status, retry_after))),
            CaFault::Garbage => sim.inject(question(Fault::Garbled)),
            CaFault::WrongNames => sim.spoil_next(Flaw::OtherNames),
            _ => {}
        }
    }

    async fn orders(&self) -> usize {
        self.0.orders().len()
    }

    async fn is_revoked(&self, bundle: &CertificateBundle) -> bool {
        let fingerprint = bundle.fingerprint().to_string();
        let orders = self.0.orders();
        let order = orders.iter().find(|order| order.fingerprint.as_ref() == Some(&fingerprint)).unwrap();
        order.status == Status::Revoked
    }
}

fn answered(status: u16, retry_after: Option<std::time::Duration>) -> Fault {
    let json = |body: &str| Fault::Answer { status, content_type: "application/json".into(), body: body.into() };
    match status {
        401 => Fault::Unauthorized,
        403 => Fault::Forbidden,
        404 => json(r#"{"code":-124,"description":"Wrong SSL certificate id."}"#),
        429 => Fault::RateLimited { retry_after },
        500.. => Fault::Broken { status },
        _ => json(r#"{"code":-1601,"description":"Field has invalid value."}"#),
    }
}

certlib_core::issuer_conformance!(Harness);
