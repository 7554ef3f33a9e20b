//! The issuer suite, for both products.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use certlib_core::CertificateBundle;
use certlib_core::conformance::issuer::{CaFault, CaFixture, IssuerHarness};
use certlib_core::issuer::IssuerFactory;
use certlib_core::secret::SecretString;
use certlib_issuers::entrust::EntrustFactory;
use certlib_testkit::entrust::{CagwSim, CagwStatus, EcsSim, EcsStatus, Fault, Injection};
use certlib_testkit::pki::{Flaw, Issued, TestCa};
use serde_json::{Value, json};

use super::{ecs_config, ecs_credentials, gateway_config, identity, refusal};

const WRONG: &str = "not-the-key";

struct EcsHarness;

#[async_trait]
impl IssuerHarness for EcsHarness {
    fn factory(&self) -> Arc<dyn IssuerFactory> {
        Arc::new(EntrustFactory)
    }

    async fn fresh(&self) -> Option<Box<dyn CaFixture>> {
        Some(Box::new(EcsCa(EcsSim::start().await.unwrap())))
    }
}

struct EcsCa(EcsSim);

#[async_trait]
impl CaFixture for EcsCa {
    fn config(&self) -> Value {
        ecs_config(&self.0)
    }

    fn credentials(&self) -> Option<SecretString> {
        Some(ecs_credentials(&self.0).to_string().into())
    }

    fn refused(&self) -> Option<(Value, Option<SecretString>)> {
        let mut wrong = ecs_credentials(&self.0);
        wrong["api_key"] = json!(WRONG);
        Some((self.config(), Some(wrong.to_string().into())))
    }

    fn secrets(&self) -> Vec<String> {
        vec![EcsSim::KEY.to_owned(), WRONG.to_owned(), key_text(self.0.client_certificate())]
    }

    async fn set(&self, fault: CaFault) {
        let sim = &self.0;
        sim.clear_faults();
        sim.set_rejections(fault == CaFault::Reject);
        sim.set_pending_polls(if fault == CaFault::Pending { u32::MAX } else { 0 });
        if fault != CaFault::Pending {
            for order in sim.orders().iter().filter(|order| order.status == EcsStatus::Pending) {
                sim.finish(order.id).unwrap();
            }
        }
        let question = |fault| Injection::new(fault).on("GET", "/certificates/");
        match fault {
            CaFault::LoseAnswers => sim.inject(Injection::new(Fault::LoseReply).on("POST", "/certificates")),
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
        order.status == EcsStatus::Revoked
    }
}

struct GatewayHarness {
    shows_enrollments: bool,
}

#[async_trait]
impl IssuerHarness for GatewayHarness {
    fn factory(&self) -> Arc<dyn IssuerFactory> {
        Arc::new(EntrustFactory)
    }

    async fn fresh(&self) -> Option<Box<dyn CaFixture>> {
        let builder = CagwSim::builder();
        let builder = if self.shows_enrollments { builder } else { builder.without_enrollment_resource() };
        Some(Box::new(GatewayCa(builder.start().await.unwrap())))
    }

    fn unsupported(&self) -> &[(&str, &str)] {
        if self.shows_enrollments {
            return &[];
        }
        &[("a_rejected_order_ends", "a gateway that shows no enrolments does not say that it rejected one")]
    }
}

struct GatewayCa(CagwSim);

#[async_trait]
impl CaFixture for GatewayCa {
    fn config(&self) -> Value {
        gateway_config(&self.0)
    }

    fn credentials(&self) -> Option<SecretString> {
        Some(identity(self.0.client_certificate()).to_string().into())
    }

    fn refused(&self) -> Option<(Value, Option<SecretString>)> {
        let stranger = TestCa::new("somebody else's clients").unwrap().issue(&["stranger.example"]).unwrap();
        Some((self.config(), Some(identity(&stranger).to_string().into())))
    }

    fn secrets(&self) -> Vec<String> {
        vec!["PRIVATE KEY".to_owned(), key_text(self.0.client_certificate())]
    }

    async fn set(&self, fault: CaFault) {
        let sim = &self.0;
        sim.clear_faults();
        sim.set_rejections(fault == CaFault::Reject);
        sim.set_pending_polls(if fault == CaFault::Pending { u32::MAX } else { 0 });
        if fault != CaFault::Pending {
            for enrollment in sim.enrollments().iter().filter(|known| known.status == CagwStatus::Accepted) {
                sim.finish(&enrollment.id).unwrap();
            }
        }
        let question = |fault| Injection::new(fault).on("GET", "/certificate-authorities/");
        match fault {
            CaFault::LoseAnswers => sim.inject(Injection::new(Fault::LoseReply).on("POST", "/enrollments")),
            CaFault::Status { status, retry_after } => sim.inject(question(answered(status, retry_after))),
            CaFault::Garbage => sim.inject(question(Fault::Garbled)),
            CaFault::WrongNames => sim.spoil_next(Flaw::OtherNames),
            _ => {}
        }
    }

    async fn orders(&self) -> usize {
        self.0.enrollments().len()
    }

    async fn is_revoked(&self, bundle: &CertificateBundle) -> bool {
        self.0.is_revoked(&bundle.leaf().serial)
    }
}

fn answered(status: u16, retry_after: Option<Duration>) -> Fault {
    match status {
        401 => Fault::Unauthorized,
        403 => Fault::Forbidden,
        429 => Fault::RateLimited { retry_after },
        500.. => Fault::Broken { status },
        _ => refusal(status),
    }
}

/// The second line of a key in PEM: nothing else has it.
fn key_text(issued: &Issued) -> String {
    issued.key_pem.lines().nth(1).unwrap().to_owned()
}

mod ecs {
    use super::*;
    certlib_core::issuer_conformance!(EcsHarness);
}

mod gateway {
    use super::*;
    certlib_core::issuer_conformance!(GatewayHarness { shows_enrollments: true });
}

mod gateway_without_enrollments {
    use super::*;
    certlib_core::issuer_conformance!(GatewayHarness { shows_enrollments: false });
}
