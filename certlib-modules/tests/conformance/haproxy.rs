//! `file`, and `ssh` with OpenSSH, with HAProxy being told over its runtime API.

use std::fs;
use std::sync::Arc;

use async_trait::async_trait;
use certlib_core::conformance::module::{ModuleFixture, ModuleHarness};
use certlib_core::module::{ErasedModule, TargetSpec};
use certlib_core::{CertificateBundle, Secret};
use certlib_testkit::counterpart::{CertificateFiles, Haproxy, KeyType, Sshd};
use serde_json::json;
use tempfile::TempDir;

use crate::{Certificates, listing, module, started};

struct RuntimeApi {
    kind: &'static str,
}

struct Machine {
    haproxy: Haproxy,
    files: CertificateFiles,
    sshd: Option<Sshd>,
    certificates: Certificates,
    _folder: TempDir,
}

#[async_trait]
impl ModuleHarness for RuntimeApi {
    fn module(&self) -> Arc<dyn ErasedModule> {
        module(self.kind)
    }

    async fn fresh(&self) -> Option<Box<dyn ModuleFixture>> {
        let folder = tempfile::tempdir().unwrap();
        let files = CertificateFiles::new(folder.path());
        let certificates = Certificates::new();
        files.write(certificates.issued(0)).unwrap();
        let sshd = match self.kind {
            "ssh" => Some(started(Sshd::start())?),
            _ => None,
        };
        let haproxy = started(Haproxy::start(&files))?;
        Some(Box::new(Machine { haproxy, files, sshd, certificates, _folder: folder }))
    }

    fn tested_against(&self) -> &str {
        match self.kind {
            "ssh" => "OpenSSH 9.2, HAProxy 2.6, runtime API",
            _ => "HAProxy 2.6, runtime API",
        }
    }
}

impl Machine {
    fn with_key(&self, key: &str) -> TargetSpec {
        let address = self.haproxy.addr();
        let mut config = json!({
            "test_command": self.haproxy.test_command(),
            "haproxy": { "socket": self.haproxy.socket() },
            "endpoints": [{
                "host": address.ip().to_string(), "port": address.port(), "server_name": "localhost", "tries": 1,
                "delay_ms": 0,
            }],
        });
        let mut location = json!({ "paths": { "combined": self.files.combined() } });
        let Some(sshd) = &self.sshd else { return TargetSpec::new("t-1", "this machine", config, location, None) };
        config["host_key"] = json!({ "known_hosts": fs::read_to_string(sshd.known_hosts()).unwrap() });
        location["host"] = sshd.addr().ip().to_string().into();
        location["port"] = sshd.addr().port().into();
        let credentials = json!({ "user": sshd.user(), "private_key": key });
        TargetSpec::new("t-1", "web", config, location, Some(Secret::new(credentials.to_string())))
    }

    fn keys(&self) -> Option<[String; 2]> {
        let sshd = self.sshd.as_ref()?;
        // The second is one that the server does not know: its host key.
        let paths = [sshd.user_key(KeyType::Ed25519), sshd.folder().join("host_ed25519")];
        Some(paths.map(|path| fs::read_to_string(path).unwrap()))
    }
}

#[async_trait]
impl ModuleFixture for Machine {
    fn target(&self) -> TargetSpec {
        self.with_key(self.keys().map(|[key, _]| key).as_deref().unwrap_or_default())
    }

    fn refused(&self) -> Option<TargetSpec> {
        self.keys().map(|[_, wrong]| self.with_key(&wrong))
    }

    fn secrets(&self) -> Vec<String> {
        self.keys().iter().flatten().map(|key| key.lines().nth(3).unwrap().to_owned()).collect()
    }

    fn bundle(&self, number: usize) -> CertificateBundle {
        self.certificates.bundle(number)
    }

    async fn state(&self) -> String {
        let served = self.haproxy.served_fingerprint().await.unwrap();
        let transactions = self.haproxy.command("show ssl cert").await.unwrap();
        format!("{}\nserved {served}\n{transactions}", listing(self.files.folder()))
    }

    /// On this machine somebody else speaks to HAProxy; by SSH they write the file.
    async fn meddle(&self) {
        let foreign = self.certificates.issued(Certificates::FOREIGN);
        if self.sshd.is_some() {
            return self.files.write(foreign).unwrap();
        }
        let name = self.files.combined().display().to_string();
        for line in [format!("set ssl cert {name} <<\n{}", foreign.combined()), format!("commit ssl cert {name}")] {
            self.haproxy.command(&line).await.unwrap();
        }
    }
}

mod file {
    use super::*;

    certlib_core::module_conformance!(RuntimeApi { kind: "file" });
}

mod ssh {
    use super::*;

    certlib_core::module_conformance!(RuntimeApi { kind: "ssh" });
}
