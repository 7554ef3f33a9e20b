//! `ssh` with OpenSSH as a user who may do nothing without `sudo`, read back.

use std::fs;
use std::sync::Arc;

use async_trait::async_trait;
use certlib_core::conformance::module::{ModuleFixture, ModuleHarness};
use certlib_core::module::{ErasedModule, TargetSpec};
use certlib_core::{CertificateBundle, Secret};
use certlib_testkit::counterpart::{CertificateFiles, KeyType, Sshd, SudoUser};
use serde_json::json;
use tempfile::TempDir;

use crate::{Certificates, listing, module, started};

struct Sudo;

struct Machine {
    sshd: Sshd,
    user: SudoUser,
    files: CertificateFiles,
    certificates: Certificates,
    _folder: TempDir,
}

#[async_trait]
impl ModuleHarness for Sudo {
    fn module(&self) -> Arc<dyn ErasedModule> {
        module("ssh")
    }

    async fn fresh(&self) -> Option<Box<dyn ModuleFixture>> {
        let folder = tempfile::tempdir().unwrap();
        let files = CertificateFiles::new(folder.path());
        let certificates = Certificates::new();
        files.write(certificates.issued(0)).unwrap();
        let user = started(SudoUser::create(true))?;
        let sshd = started(Sshd::start())?;
        Some(Box::new(Machine { sshd, user, files, certificates, _folder: folder }))
    }

    fn tested_against(&self) -> &str {
        "OpenSSH 9.2, sudo 1.9"
    }
}

impl Machine {
    fn with_key(&self, key: &str) -> TargetSpec {
        let known_hosts = fs::read_to_string(self.sshd.known_hosts()).unwrap();
        let config = json!({ "host_key": { "known_hosts": known_hosts }, "sudo": true, "reload_command": "true" });
        let address = self.sshd.addr();
        let location = json!({
            "host": address.ip().to_string(),
            "port": address.port(),
            "paths": { "fullchain": self.files.full_chain(), "key": self.files.private_key() },
        });
        let credentials = json!({ "user": self.user.name(), "private_key": key });
        TargetSpec::new("t-1", "web", config, location, Some(Secret::new(credentials.to_string())))
    }

    fn key(&self) -> String {
        fs::read_to_string(self.sshd.user_key(KeyType::Ed25519)).unwrap()
    }

    /// A key that the server does not know: its host key.
    fn wrong_key(&self) -> String {
        fs::read_to_string(self.sshd.folder().join("host_ed25519")).unwrap()
    }
}

#[async_trait]
impl ModuleFixture for Machine {
    fn target(&self) -> TargetSpec {
        self.with_key(&self.key())
    }

    fn refused(&self) -> Option<TargetSpec> {
        Some(self.with_key(&self.wrong_key()))
    }

    fn secrets(&self) -> Vec<String> {
        [self.key(), self.wrong_key()].iter().map(|key| key.lines().nth(3).unwrap().to_owned()).collect()
    }

    fn bundle(&self, number: usize) -> CertificateBundle {
        self.certificates.bundle(number)
    }

    async fn state(&self) -> String {
        listing(self.files.folder())
    }

    async fn meddle(&self) {
        self.files.write(self.certificates.issued(Certificates::FOREIGN)).unwrap();
    }
}

certlib_core::module_conformance!(Sudo);
