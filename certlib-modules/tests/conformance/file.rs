//! `file`, with nginx reading what is delivered.

use std::sync::Arc;

use async_trait::async_trait;
use certlib_core::CertificateBundle;
use certlib_core::conformance::module::{ModuleFixture, ModuleHarness};
use certlib_core::module::{ErasedModule, TargetSpec};
use certlib_testkit::counterpart::{CertificateFiles, Nginx};
use serde_json::json;
use tempfile::TempDir;

use crate::{Certificates, listing, module, started};

struct File;

struct Machine {
    nginx: Nginx,
    files: CertificateFiles,
    certificates: Certificates,
    _folder: TempDir,
}

#[async_trait]
impl ModuleHarness for File {
    fn module(&self) -> Arc<dyn ErasedModule> {
        module("file")
    }

    async fn fresh(&self) -> Option<Box<dyn ModuleFixture>> {
        let folder = tempfile::tempdir().unwrap();
        let files = CertificateFiles::new(folder.path());
        let certificates = Certificates::new();
        files.write(certificates.issued(0)).unwrap();
        let nginx = started(Nginx::start(&files))?;
        Some(Box::new(Machine { nginx, files, certificates, _folder: folder }))
    }

    fn tested_against(&self) -> &str {
        "nginx 1.22"
    }
}

#[async_trait]
impl ModuleFixture for Machine {
    fn target(&self) -> TargetSpec {
        let config =
            json!({ "test_command": self.nginx.test_command(), "reload_command": self.nginx.reload_command() });
        let paths = json!({ "fullchain": self.files.full_chain(), "key": self.files.private_key() });
        TargetSpec::new("t-1", "this machine", config, json!({ "paths": paths }), None)
    }

    fn refused(&self) -> Option<TargetSpec> {
        None
    }

    fn secrets(&self) -> Vec<String> {
        Vec::new()
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

certlib_core::module_conformance!(File);
