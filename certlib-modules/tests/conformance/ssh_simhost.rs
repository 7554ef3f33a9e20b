//! `ssh` with a simulated host, whose service serves what is delivered.

use std::sync::Arc;

use async_trait::async_trait;
use certlib_core::conformance::module::{ModuleFixture, ModuleHarness};
use certlib_core::module::{ErasedModule, TargetSpec};
use certlib_core::{CertificateBundle, Secret};
use certlib_testkit::simhost::{Service, SimHost, UserAuth};
use serde_json::json;

use crate::{Certificates, module};

const CERT: &str = "/etc/ssl/site.pem";
const KEY: &str = "/etc/ssl/site.key";
const PASSWORD: &str = "correct horse";
const WRONG: &str = "battery staple";

struct Simulated;

struct Machine {
    host: SimHost,
    certificates: Certificates,
}

#[async_trait]
impl ModuleHarness for Simulated {
    fn module(&self) -> Arc<dyn ErasedModule> {
        module("ssh")
    }

    async fn fresh(&self) -> Option<Box<dyn ModuleFixture>> {
        let certificates = Certificates::new();
        let former = certificates.issued(0);
        let host = SimHost::builder()
            .name("web-07")
            .user("root", UserAuth::password(PASSWORD))
            .file(CERT, former.full_chain(), 0o644)
            .file(KEY, former.key_pem.clone(), 0o600)
            .service(Service::new(CERT, KEY))
            .start()
            .await
            .unwrap();
        Some(Box::new(Machine { host, certificates }))
    }

    fn tested_against(&self) -> &str {
        "SimHost"
    }
}

impl Machine {
    fn with_login(&self, password: &str) -> TargetSpec {
        let (ssh, tls) = (self.host.ssh_addr(), self.host.tls_addr());
        let config = json!({
            "host_key": { "known_hosts": self.host.known_hosts_line() },
            "test_command": "certlib-sim test",
            "reload_command": "certlib-sim reload",
            "endpoints": [{
                "host": tls.ip().to_string(), "port": tls.port(), "server_name": "localhost", "tries": 1, "delay_ms": 0,
            }],
        });
        let location = json!({
            "host": ssh.ip().to_string(),
            "port": ssh.port(),
            "paths": { "fullchain": CERT, "key": KEY },
        });
        let credentials = json!({ "user": "root", "password": password });
        TargetSpec::new("t-1", "web", config, location, Some(Secret::new(credentials.to_string())))
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
        self.certificates.bundle(number)
    }

    async fn state(&self) -> String {
        let mut lines: Vec<_> = self
            .host
            .files()
            .into_iter()
            .map(|info| {
                let content = self.host.file(&info.path).map(|bytes| certlib_testkit::tls::fingerprint(&bytes));
                format!("{} {:o} {}:{} {content:?}", info.path, info.mode, info.uid, info.gid)
            })
            .collect();
        lines.push(format!("served {:?}", self.host.served_fingerprint()));
        lines.join("\n")
    }

    async fn meddle(&self) {
        let foreign = self.certificates.issued(Certificates::FOREIGN);
        self.host.put_file(CERT, foreign.full_chain(), 0o644).unwrap();
        self.host.put_file(KEY, foreign.key_pem.clone(), 0o600).unwrap();
    }
}

certlib_core::module_conformance!(Simulated);
