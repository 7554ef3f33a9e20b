//! The module conformance suite on `winrm`: once over TLS, once with messages sealed by NTLM.

use std::sync::Arc;

use async_trait::async_trait;
use certlib_core::conformance::module::{ModuleFixture, ModuleHarness};
use certlib_core::module::{ErasedModule, TargetSpec};
use certlib_core::{CertificateBundle, Secret};
use certlib_testkit::pki::{Issued, TestCa};
use certlib_testkit::winrm::{ScriptMatcher, ScriptOutput, WinRmSim};
use serde_json::json;

use crate::windows::{PASSWORD, WRONG, connection, host, ntlm};
use crate::{CERT, KEY, location, state};

struct Harness {
    tls: bool,
}

struct Machine {
    host: WinRmSim,
    certificates: Vec<Issued>,
    tls: bool,
}

/// What somebody else would put there.
const FOREIGN: usize = 3;

#[async_trait]
impl ModuleHarness for Harness {
    fn module(&self) -> Arc<dyn ErasedModule> {
        certlib_modules::registry().unwrap().module("winrm").unwrap()
    }

    async fn fresh(&self) -> Option<Box<dyn ModuleFixture>> {
        let ca = TestCa::new("root").unwrap();
        let certificates: Vec<Issued> = (0..4).map(|_| ca.issue(&["localhost"]).unwrap()).collect();
        let (chain, key) = (certificates[0].full_chain(), bundle(&certificates[0]).key_pem().unwrap());
        let host = host()
            .script(ScriptMatcher::program("app-reload"), |_, _| ScriptOutput::text("reloaded"))
            .windows(move |windows| {
                windows.files.put(CERT, chain).unwrap();
                windows.files.put(KEY, key.expose().as_bytes().to_vec()).unwrap();
            })
            .start()
            .await
            .unwrap();
        Some(Box::new(Machine { host, certificates, tls: self.tls }))
    }

    fn tested_against(&self) -> &str {
        if self.tls { "WinRmSim over HTTPS" } else { "WinRmSim over HTTP sealed by NTLM" }
    }
}

fn bundle(issued: &Issued) -> CertificateBundle {
    CertificateBundle::from_pem(issued.combined().as_bytes()).unwrap()
}

impl Machine {
    fn with_login(&self, password: &str) -> TargetSpec {
        let (url, connection) = if self.tls {
            (self.host.https_url(), connection(&self.host))
        } else {
            (self.host.http_url(), json!({ "addresses": { "allow_loopback": true }, "allow_http": true }))
        };
        let config = json!({ "connection": connection, "reload_command": "app-reload" });
        let credentials = json!({ "login": ntlm(password) }).to_string();
        TargetSpec::new("t-1", "app", config, location(&url), Some(Secret::new(credentials)))
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
        vec![PASSWORD.to_owned(), WRONG.to_owned()]
    }

    fn bundle(&self, number: usize) -> CertificateBundle {
        bundle(&self.certificates[number])
    }

    async fn state(&self) -> String {
        state(&self.host)
    }

    async fn meddle(&self) {
        let foreign = &self.certificates[FOREIGN];
        self.host.with(|windows| {
            windows.files.put(CERT, foreign.full_chain()).unwrap();
            windows.files.put(KEY, foreign.key_pem.as_bytes().to_vec()).unwrap();
        });
    }
}

mod tls {
    use super::*;

    certlib_core::module_conformance!(Harness { tls: true });
}

mod sealed {
    use super::*;

    certlib_core::module_conformance!(Harness { tls: false });
}
