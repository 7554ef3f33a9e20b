//! The module conformance suite on `f5`: once proven by handshakes, once by reading back.

use std::sync::Arc;

use async_trait::async_trait;
use certlib_core::conformance::module::{ModuleFixture, ModuleHarness};
use certlib_core::module::{ErasedModule, TargetSpec};
use certlib_core::{CertificateBundle, Secret};
use certlib_testkit::f5::F5Sim;
use serde_json::json;

use crate::lab::Lab;

const WRONG: &str = "wrong-password-91c7";

/// Virtual servers that are probed, or a pair of units without any.
struct Harness {
    probed: bool,
}

struct Fixture {
    lab: Lab,
    probed: bool,
}

#[async_trait]
impl ModuleHarness for Harness {
    fn module(&self) -> Arc<dyn ErasedModule> {
        certlib_modules::registry().unwrap().module("f5").unwrap()
    }

    async fn fresh(&self) -> Option<Box<dyn ModuleFixture>> {
        Some(Box::new(Fixture { lab: Lab::new().await, probed: self.probed }))
    }

    fn tested_against(&self) -> &str {
        if self.probed { "F5Sim, virtual servers probed" } else { "F5Sim, a pair of units, profiles read back" }
    }
}

impl Fixture {
    fn spec(&self, password: &str) -> TargetSpec {
        let mut config = self.lab.config();
        if self.probed {
            config["endpoints"] = self.lab.endpoints();
        } else {
            config["sync_group"] = json!("pair");
        }
        let credentials = json!({ "username": F5Sim::USER, "password": password });
        TargetSpec::new("t-1", "bigip", config, self.lab.location(), Some(Secret::new(credentials.to_string())))
    }
}

#[async_trait]
impl ModuleFixture for Fixture {
    fn target(&self) -> TargetSpec {
        self.spec(F5Sim::PASSWORD)
    }

    fn refused(&self) -> Option<TargetSpec> {
        Some(self.spec(WRONG))
    }

    fn secrets(&self) -> Vec<String> {
        vec![F5Sim::PASSWORD.to_owned(), WRONG.to_owned()]
    }

    fn bundle(&self, number: usize) -> CertificateBundle {
        self.lab.bundle(number)
    }

    async fn state(&self) -> String {
        let bigip = &self.lab.bigip;
        let uploads: Vec<String> = bigip.uploads().into_iter().map(|(name, _)| name).collect();
        format!("{}{uploads:?} {} tokens", bigip.describe(), bigip.live_tokens())
    }

    async fn meddle(&self) {
        self.lab.meddle();
    }
}

mod probed {
    use super::Harness;

    certlib_core::module_conformance!(Harness { probed: true });
}

mod read_back {
    use super::Harness;

    certlib_core::module_conformance!(Harness { probed: false });
}
