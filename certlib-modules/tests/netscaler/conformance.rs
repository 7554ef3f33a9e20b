//! The module conformance suite: updating a pair, binding a new one, and in a partition without endpoints.

use std::sync::Arc;

use async_trait::async_trait;
use certlib_core::CertificateBundle;
use certlib_core::conformance::module::{ModuleFixture, ModuleHarness};
use certlib_core::module::{ErasedModule, TargetSpec};
use certlib_testkit::netscaler::{AdminCall, NetscalerSim};
use certlib_testkit::pki::TestCa;
use serde_json::{Value, json};

use crate::support::{Delivered, NAME, PASSWORD, Shop, endpoint, login};

const WRONG: &str = "wrong-password";

struct Appliance {
    against: &'static str,
    partition: &'static str,
    settings: Value,
    has_endpoint: bool,
}

struct Fixture {
    shop: Shop,
    settings: Value,
    bundles: Vec<Delivered>,
}

#[async_trait]
impl ModuleHarness for Appliance {
    fn module(&self) -> Arc<dyn ErasedModule> {
        certlib_modules::registry().unwrap().module("netscaler").unwrap()
    }

    async fn fresh(&self) -> Option<Box<dyn ModuleFixture>> {
        let shop = Shop::build(NetscalerSim::builder(), self.partition).await;
        // The renewal comes from another authority, as they do: the chain changes as well.
        let bundles = vec![shop.pki.by_b(), shop.pki.by_b()];
        let mut settings = self.settings.clone();
        if self.has_endpoint {
            settings["endpoints"] = json!([endpoint(shop.web(), NAME)]);
        }
        Some(Box::new(Fixture { shop, settings, bundles }))
    }

    fn tested_against(&self) -> &str {
        self.against
    }
}

#[async_trait]
impl ModuleFixture for Fixture {
    fn target(&self) -> TargetSpec {
        self.shop.work(self.settings.clone()).target
    }

    fn refused(&self) -> Option<TargetSpec> {
        let mut target = self.target();
        target.credentials = login("nsroot", WRONG);
        Some(target)
    }

    fn secrets(&self) -> Vec<String> {
        vec![PASSWORD.to_owned(), WRONG.to_owned()]
    }

    fn bundle(&self, number: usize) -> CertificateBundle {
        if number == 0 { self.shop.former.bundle() } else { self.bundles[number - 1].bundle() }
    }

    async fn state(&self) -> String {
        self.shop.sim.snapshot(&self.shop.partition)
    }

    async fn meddle(&self) {
        if self.settings["switch"] != "rebind" {
            return self.shop.meddle();
        }
        let theirs = TestCa::new("theirs").unwrap().issue(&[NAME]).unwrap();
        let (sim, partition) = (&self.shop.sim, self.shop.partition.as_str());
        sim.put_pair(partition, "theirs", &theirs.certificate_pem, &theirs.key_pem).unwrap();
        let binding = json!({ "vservername": "web", "certkeyname": "theirs" });
        sim.call(partition, &AdminCall::put("sslvserver_sslcertkey_binding", binding)).unwrap();
    }
}

mod update {
    use super::*;

    certlib_core::module_conformance!(Appliance {
        against: "NetscalerSim",
        partition: "",
        settings: json!({}),
        has_endpoint: true,
    });
}

mod rebind {
    use super::*;

    certlib_core::module_conformance!(Appliance {
        against: "NetscalerSim, rebinding",
        partition: "",
        settings: json!({ "switch": "rebind" }),
        has_endpoint: true,
    });
}

mod partition {
    use super::*;

    certlib_core::module_conformance!(Appliance {
        against: "NetscalerSim, in a partition, read back",
        partition: "tenant",
        settings: json!({}),
        has_endpoint: false,
    });
}
