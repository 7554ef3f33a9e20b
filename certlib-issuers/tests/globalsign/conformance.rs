//! The issuer suite on a simulated account of Atlas.

use std::sync::Arc;

use async_trait::async_trait;
use certlib_core::CertificateBundle;
use certlib_core::conformance::issuer::{CaFault, CaFixture, IssuerHarness};
use certlib_core::issuer::IssuerFactory;
use certlib_core::secret::SecretString;
use certlib_issuers::globalsign::GlobalSignFactory;
use certlib_testkit::globalsign::{Course, Fault, GlobalSignSim, Injection};
use certlib_testkit::pki::Flaw;
use serde_json::Value;

use super::support::{config, credentials};

struct GlobalSign;

#[async_trait]
impl IssuerHarness for GlobalSign {
    fn factory(&self) -> Arc<dyn IssuerFactory> {
        Arc::new(GlobalSignFactory)
    }

    async fn fresh(&self) -> Option<Box<dyn CaFixture>> {
        Some(Box::new(Account(GlobalSignSim::start().await.unwrap())))
    }
}

struct Account(GlobalSignSim);

#[async_trait]
impl CaFixture for Account {
    fn config(&self) -> Value {
        config(&self.0)
    }

    fn credentials(&self) -> Option<SecretString> {
        Some(credentials(&self.0, self.0.api_secret()))
    }

    fn refused(&self) -> Option<(Value, Option<SecretString>)> {
        Some((config(&self.0), Some(credentials(&self.0, "CANARY-SECRET"))))
    }

    fn secrets(&self) -> Vec<String> {
        let key = self.0.client().key_pem.lines().nth(1).unwrap().to_owned();
        vec![self.0.api_key().to_owned(), self.0.api_secret().to_owned(), "CANARY-SECRET".to_owned(), key]
    }

    async fn set(&self, fault: CaFault) {
        let ca = &self.0;
        ca.clear_faults();
        ca.set_course(Course::default());
        let answer = |fault| ca.inject(Injection::new(fault).on("GET", "certificates/"));
        let page = |status, kind: &str, body: &str| {
            answer(Fault::Answer { status, content_type: kind.to_owned(), body: body.to_owned() });
        };
        match fault {
            CaFault::None => {}
            CaFault::Pending => page(202, "application/json", ""),
            CaFault::LoseAnswers => ca.inject(Injection::new(Fault::LoseReply).on("POST", "certificates")),
            CaFault::Status { status: 401, .. } => answer(Fault::Unauthorized),
            CaFault::Status { status: 403, .. } => answer(Fault::Forbidden),
            CaFault::Status { status: 429, retry_after } => answer(Fault::RateLimited { retry_after }),
            CaFault::Status { status: status @ 500.., .. } => answer(Fault::Broken { status }),
            CaFault::Status { status, .. } => page(status, "application/problem+json", r#"{"description":"no"}"#),
            CaFault::Garbage => page(200, "text/html", "<html>welcome</html>"),
            CaFault::Reject => ca.set_course(Course::default().lost()),
            CaFault::WrongNames => ca.set_course(Course::default().flawed(Flaw::OtherNames)),
            other => panic!("unknown: {other:?}"),
        }
    }

    async fn orders(&self) -> usize {
        self.0.certificates().len()
    }

    async fn is_revoked(&self, bundle: &CertificateBundle) -> bool {
        let own =
            |pem: &str| CertificateBundle::from_pem(pem.as_bytes()).unwrap().fingerprint() == bundle.fingerprint();
        self.0.certificates().iter().any(|found| own(&found.pem) && found.revocation_reason.is_some())
    }
}

certlib_core::issuer_conformance!(GlobalSign);
