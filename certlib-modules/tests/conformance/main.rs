//! The module conformance suite on `file`, `ssh` and `webhook`. Other modules run it among their own tests.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../common/mod.rs"]
mod common;
mod file;
mod haproxy;
#[path = "../webhook/receiver.rs"]
#[allow(dead_code)]
mod receiver;
mod ssh_openssh;
mod ssh_simhost;
mod ssh_sudo;
mod webhook;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use certlib_core::CertificateBundle;
use certlib_core::module::ErasedModule;
use certlib_testkit::pki::{Issued, TestCa};

/// Certificates for one target, all by the same CA.
pub(crate) struct Certificates(Vec<(Issued, CertificateBundle)>);

impl Certificates {
    pub(crate) fn new() -> Self {
        let ca = TestCa::new("test root").unwrap();
        let issue = |_| {
            let issued = ca.issue(&["localhost", "127.0.0.1"]).unwrap();
            let bundle = CertificateBundle::from_pem(issued.combined().as_bytes()).unwrap();
            (issued, bundle)
        };
        Self((0..4).map(issue).collect())
    }

    /// What somebody else would put there.
    pub(crate) const FOREIGN: usize = 3;

    pub(crate) fn issued(&self, number: usize) -> &Issued {
        &self.0[number].0
    }

    pub(crate) fn bundle(&self, number: usize) -> CertificateBundle {
        CertificateBundle::from_pem(self.issued(number).combined().as_bytes()).unwrap()
    }
}

pub(crate) fn module(kind: &str) -> Arc<dyn ErasedModule> {
    certlib_modules::registry().unwrap().module(kind).unwrap()
}

/// Every file in `folder`: name, mode, and what is in it by its hash.
pub(crate) fn listing(folder: &Path) -> String {
    let mut lines: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let mode = fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o7777;
            let hash = certlib_testkit::tls::fingerprint(&fs::read(&path).unwrap());
            format!("{} {mode:o} {hash}", path.display())
        })
        .collect();
    lines.sort();
    lines.join("\n")
}

/// Waits for `start` here and now, and takes what was left out on purpose for nothing.
pub(crate) fn started<T>(start: impl Future<Output = certlib_testkit::Result<T>>) -> Option<T> {
    match tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(start)) {
        Ok(value) => Some(value),
        Err(certlib_testkit::Error::LeftOut { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}
