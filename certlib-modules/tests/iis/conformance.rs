//! The module conformance suite on `iis`: with sites and a service that are probed, and with the central store as well,
//! read back.

use std::sync::Arc;

use async_trait::async_trait;
use certlib_core::conformance::module::{ModuleFixture, ModuleHarness};
use certlib_core::module::{ErasedModule, TargetSpec};
use certlib_core::{CertificateBundle, Secret};
use certlib_testkit::pki::{Issued, TestCa};
use certlib_testkit::winrm::{WinRmSim, pfx_of};
use serde_json::{Value, json};

use crate::windows::{PASSWORD, WRONG, connection, ntlm};
use crate::{bundle, endpoints, host_with, location, show, state};

const CENTRAL: &str = r"C:\ccs\localhost.pfx";
const CENTRAL_PASSWORD: &str = "central secret";

/// What somebody else would put there.
const FOREIGN: usize = 3;

struct Harness {
    probed: bool,
}

struct Machine {
    host: WinRmSim,
    certificates: Vec<Issued>,
    endpoints: Option<Value>,
}

#[async_trait]
impl ModuleHarness for Harness {
    fn module(&self) -> Arc<dyn ErasedModule> {
        certlib_modules::registry().unwrap().module("iis").unwrap()
    }

    async fn fresh(&self) -> Option<Box<dyn ModuleFixture>> {
        let ca = TestCa::new("root").unwrap();
        let certificates: Vec<Issued> = (0..4).map(|_| ca.issue(&["localhost"]).unwrap()).collect();
        let host = host_with(&certificates[0]).await;
        let endpoints = if self.probed { Some(endpoints(&host).await) } else { None };
        let pfx = pfx_of(&certificates[0], CENTRAL_PASSWORD).unwrap();
        host.with(|windows| windows.files.put(CENTRAL, pfx).unwrap());
        Some(Box::new(Machine { host, certificates, endpoints }))
    }

    fn tested_against(&self) -> &str {
        if self.probed { "WinRmSim, bindings probed" } else { "WinRmSim, central store too, read back" }
    }
}

impl Machine {
    fn with_login(&self, password: &str) -> TargetSpec {
        let mut config = json!({ "connection": connection(&self.host), "app_pools": ["Shop"] });
        let mut location = location(&self.host);
        match &self.endpoints {
            Some(endpoints) => config["endpoints"] = endpoints.clone(),
            None => {
                config["pfx"] = json!({ "profile": "legacy" });
                location["central_store"] = json!({ "directory": r"C:\ccs", "hosts": ["localhost"] });
            }
        }
        let credentials = json!({ "login": ntlm(password), "pfx_password": CENTRAL_PASSWORD }).to_string();
        TargetSpec::new("t-1", "web", config, location, Some(Secret::new(credentials)))
    }
}

#[async_trait]
impl ModuleFixture for Machine {
    fn target(&self) -> TargetSpec {
        self.with_login(PASSWORD)
    }

    fn refused(&self) -> Option<TargetSpec> {
        Some(self.with_login(WRONG))
    }

    fn secrets(&self) -> Vec<String> {
        vec![PASSWORD.to_owned(), WRONG.to_owned(), CENTRAL_PASSWORD.to_owned()]
    }

    fn bundle(&self, number: usize) -> CertificateBundle {
        bundle(&self.certificates[number])
    }

    async fn state(&self) -> String {
        state(&self.host)
    }

    async fn meddle(&self) {
        let foreign = &self.certificates[FOREIGN];
        let pfx = pfx_of(foreign, CENTRAL_PASSWORD).unwrap();
        self.host.with(|windows| {
            show(windows, foreign);
            windows.files.put(CENTRAL, pfx).unwrap();
        });
    }
}

mod probed {
    use super::*;

    certlib_core::module_conformance!(Harness { probed: true });
}

mod central {
    use super::*;

    certlib_core::module_conformance!(Harness { probed: false });
}
