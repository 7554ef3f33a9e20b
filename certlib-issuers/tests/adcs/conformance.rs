//! The issuer suite, for each way to be asked whose login does not depend on the clock, which the suite moves.

use std::sync::Arc;

use async_trait::async_trait;
use certlib_core::CertificateBundle;
use certlib_core::conformance::issuer::{CaFault, CaFixture, IssuerHarness};
use certlib_core::issuer::IssuerFactory;
use certlib_core::secret::SecretString;
use certlib_issuers::adcs::AdcsFactory;
use certlib_testkit::adcs::{Fault, Hresult, Injection, Operation};
use certlib_testkit::pki::TestCa;
use serde_json::Value;

use super::support::{PASSWORD, Pki, USER, Way, builder, identity, login, start};

struct Harness(Way);

#[async_trait]
impl IssuerHarness for Harness {
    fn factory(&self) -> Arc<dyn IssuerFactory> {
        Arc::new(AdcsFactory)
    }

    async fn fresh(&self) -> Option<Box<dyn CaFixture>> {
        Some(Box::new(Ca { pki: start(builder()).await, way: self.0 }))
    }

    fn unsupported(&self) -> &[(&str, &str)] {
        &[("revoke", "neither the web services nor the web pages can revoke")]
    }
}

struct Ca {
    pki: Pki,
    way: Way,
}

impl Ca {
    fn inject(&self, fault: Fault, on: Option<Operation>) {
        let injection = Injection::new(fault);
        self.pki.sim.inject(match on {
            Some(operation) => injection.on(operation),
            None => injection,
        });
    }
}

#[async_trait]
impl CaFixture for Ca {
    fn config(&self) -> Value {
        self.pki.config(self.way)
    }

    fn credentials(&self) -> Option<SecretString> {
        Some(self.pki.credentials(self.way).into())
    }

    fn refused(&self) -> Option<(Value, Option<SecretString>)> {
        let credentials = match self.way {
            Way::Certificate => identity(&TestCa::new("strangers").unwrap().issue(&["client"]).unwrap()),
            _ => login(USER, "CANARY-wrong"),
        };
        Some((self.config(), Some(credentials.into())))
    }

    fn secrets(&self) -> Vec<String> {
        let key = self.pki.client.key_pem.lines().nth(1).unwrap().to_owned();
        vec![PASSWORD.to_owned(), "CANARY".to_owned(), key]
    }

    async fn set(&self, fault: CaFault) {
        let sim = &self.pki.sim;
        sim.clear_faults();
        let (order, question) = match self.way {
            Way::Pages => (Operation::Submit, Operation::CheckPending),
            _ => (Operation::Issue, Operation::QueryStatus),
        };
        match fault {
            CaFault::None => {
                for request in sim.pending() {
                    sim.approve(request.id).unwrap();
                }
            }
            CaFault::Pending => self.inject(Fault::Pend, None),
            CaFault::LoseAnswers => self.inject(Fault::LoseReply, Some(order)),
            CaFault::Status { status: 429, retry_after } => {
                self.inject(Fault::Throttled { retry_after }, Some(question));
            }
            CaFault::Status { status, retry_after } => {
                self.inject(Fault::Broken { status, retry_after }, Some(question))
            }
            CaFault::Garbage => {
                let body = "<html><body><h1>Please log in to the proxy 42.</h1></body></html>".to_owned();
                let fault = Fault::Answer { status: 200, content_type: "text/html".to_owned(), body };
                self.inject(fault, Some(question));
            }
            CaFault::Reject => self.inject(Fault::Deny(Hresult::ADMIN_DENIED), None),
            CaFault::WrongNames => self.inject(Fault::WrongNames(vec!["other.example".to_owned()]), None),
            other => panic!("{other:?} is not known here"),
        }
    }

    async fn orders(&self) -> usize {
        self.pki.sim.requests().len()
    }

    async fn is_revoked(&self, _: &CertificateBundle) -> bool {
        false
    }
}

mod ces_with_certificate {
    use super::*;
    certlib_core::issuer_conformance!(Harness(Way::Certificate));
}

mod ces_with_basic {
    use super::*;
    certlib_core::issuer_conformance!(Harness(Way::Basic));
}

mod certsrv {
    use super::*;
    certlib_core::issuer_conformance!(Harness(Way::Pages));
}
