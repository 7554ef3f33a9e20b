//! The issuer suite on a simulated account of CertCentral.

use std::sync::Arc;

use async_trait::async_trait;
use certlib_core::CertificateBundle;
use certlib_core::conformance::issuer::{CaFault, CaFixture, IssuerHarness};
use certlib_core::issuer::IssuerFactory;
use certlib_core::secret::SecretString;
use certlib_issuers::digicert::DigiCertFactory;
use certlib_testkit::digicert::{Course, DigiCertSim, Fault, Injection};
use certlib_testkit::pki::Flaw;
use serde_json::Value;

use super::support::{config, credentials};

struct DigiCert;

#[async_trait]
impl IssuerHarness for DigiCert {
    fn factory(&self) -> Arc<dyn IssuerFactory> {
        Arc::new(DigiCertFactory)
    }

    async fn fresh(&self) -> Option<Box<dyn CaFixture>> {
        Some(Box::new(Account(DigiCertSim::start().await.unwrap())))
    }
}

struct Account(DigiCertSim);

#[async_trait]
impl CaFixture for Account {
    fn config(&self) -> Value {
        config(&self.0)
    }

    fn credentials(&self) -> Option<SecretString> {
        Some(credentials(self.0.api_key()))
    }

    fn refused(&self) -> Option<(Value, Option<SecretString>)> {
        Some((config(&self.0), Some(credentials("CANARY-KEY"))))
    }

    fn secrets(&self) -> Vec<String> {
        vec![self.0.api_key().to_owned(), "CANARY-KEY".to_owned()]
    }

    async fn set(&self, fault: CaFault) {
        const QUESTION: &str = "order/certificate/";
        let ca = &self.0;
        ca.clear_faults();
        ca.set_course(Course::default());
        // What holds an order up as long as one wants.
        ca.set_organization_validated(DigiCertSim::ORGANIZATION, fault != CaFault::Pending);
        let answer = |fault| ca.inject(Injection::new(fault).on("GET", QUESTION));
        let page = |status, kind: &str, body: &str| {
            answer(Fault::Answer { status, content_type: kind.to_owned(), body: body.to_owned() });
        };
        match fault {
            CaFault::None | CaFault::Pending => {}
            CaFault::LoseAnswers => ca.inject(Injection::new(Fault::LoseReply).on("POST", QUESTION)),
            CaFault::Status { status: 401, .. } => answer(Fault::Unauthorized),
            CaFault::Status { status: 403, .. } => answer(Fault::Forbidden),
            CaFault::Status { status: 429, retry_after } => answer(Fault::RateLimited { retry_after }),
            CaFault::Status { status: status @ 500.., .. } => answer(Fault::Broken { status }),
            CaFault::Status { status, .. } => {
                page(status, "application/json", r#"{"errors":[{"code":"refused","message":"no"}]}"#);
            }
            CaFault::Garbage => page(200, "text/html", "<html>welcome</html>"),
            CaFault::Reject => ca.set_course(Course::default().rejected()),
            CaFault::WrongNames => ca.set_course(Course::default().flawed(Flaw::OtherNames)),
            other => panic!("unknown: {other:?}"),
        }
    }

    async fn orders(&self) -> usize {
        self.0.orders().len()
    }

    async fn is_revoked(&self, bundle: &CertificateBundle) -> bool {
        self.0.orders().iter().any(|order| {
            let pem = self.0.certificate_pem(order.certificate_id).unwrap_or_default();
            order.status == "revoked"
                && CertificateBundle::from_pem(pem.as_bytes()).unwrap().fingerprint() == bundle.fingerprint()
        })
    }
}

certlib_core::issuer_conformance!(DigiCert);
