//! The module conformance suite: a Secret that somebody made with kubectl is taken over, and given back.

use std::sync::Arc;

use async_trait::async_trait;
use certlib_core::CertificateBundle;
use certlib_core::conformance::module::{ModuleFixture, ModuleHarness};
use certlib_core::module::{ErasedModule, TargetSpec};
use serde_json::json;

use crate::support::{Certificates, Place, server, settled};

struct Harness;

struct Fixture {
    place: Place<'static>,
    certificates: Certificates,
}

/// No such token.
const REFUSED: &str = "token-that-nobody-gave-out";

#[async_trait]
impl ModuleHarness for Harness {
    fn module(&self) -> Arc<dyn ErasedModule> {
        certlib_modules::registry().unwrap().module("kubernetes").unwrap()
    }

    async fn fresh(&self) -> Option<Box<dyn ModuleFixture>> {
        let made = async {
            let place = Place::new(server().await?).await;
            let certificates = Certificates::new();
            place.create(certificates.issued(0), json!({})).await;
            Some(Fixture { place, certificates })
        };
        Some(Box::new(settled(made)?))
    }

    fn tested_against(&self) -> &str {
        "kube-apiserver 1.20.2, etcd 3.4"
    }
}

impl Fixture {
    fn with_token(&self, token: &str) -> TargetSpec {
        let mut target = self.place.subject(json!({"take_over": true})).target;
        target.credentials = Some(json!({"token": token}).to_string().into());
        target
    }
}

#[async_trait]
impl ModuleFixture for Fixture {
    fn target(&self) -> TargetSpec {
        self.with_token(self.place.account.token())
    }

    fn refused(&self) -> Option<TargetSpec> {
        Some(self.with_token(REFUSED))
    }

    fn secrets(&self) -> Vec<String> {
        vec![self.place.account.token().to_owned(), REFUSED.to_owned()]
    }

    fn bundle(&self, number: usize) -> CertificateBundle {
        CertificateBundle::from_pem(self.certificates.issued(number).combined().as_bytes()).unwrap()
    }

    async fn state(&self) -> String {
        self.place.state().await
    }

    async fn meddle(&self) {
        self.place.force(self.certificates.issued(3)).await;
    }
}

certlib_core::module_conformance!(Harness);
