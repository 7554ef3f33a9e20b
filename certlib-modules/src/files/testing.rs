//! Bundles for unit tests.

use std::sync::OnceLock;

use certlib_core::CertificateBundle;
use certlib_testkit::pki::TestCa;

/// A fresh certificate with its key, from a fresh CA.
pub(crate) fn bundle(name: &str) -> CertificateBundle {
    let issued = TestCa::new("test root").unwrap().issue(&[name]).unwrap();
    CertificateBundle::from_pem(issued.combined().as_bytes()).unwrap()
}

/// One certificate for tests that need any.
pub(crate) fn shared_bundle() -> &'static CertificateBundle {
    static SHARED: OnceLock<CertificateBundle> = OnceLock::new();
    SHARED.get_or_init(|| bundle("shared.test"))
}
