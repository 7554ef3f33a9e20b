//! Chains as CAs give them, in the order that is used here.

use certlib_core::bundle::Limits;
use certlib_core::{CertificateBundle, Result};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

/// The certificates of a PEM text in any order, as PEM: leaf first, then its issuers, without the root, which whoever
/// verifies has already. What belongs to no chain is left out.
///
/// # Errors
/// As [`CertificateBundle::import`].
pub(crate) fn leaf_first(pem: &[u8]) -> Result<String> {
    let (bundle, _) = CertificateBundle::import(pem, &Limits::default())?;
    without_root(bundle.certificates().to_vec())
}

/// The same for DER.
///
/// # Errors
/// As [`CertificateBundle::new`].
#[cfg(feature = "entrust")]
pub(crate) fn leaf_first_der(certificates: &[Vec<u8>]) -> Result<String> {
    // Each by itself is a chain; together they may not be one yet.
    let pem = certificates.iter().map(|der| Ok(CertificateBundle::new(vec![der.clone()], None)?.leaf_pem()));
    leaf_first(pem.collect::<Result<String>>()?.as_bytes())
}

fn without_root(mut chain: Vec<Vec<u8>>) -> Result<String> {
    if chain.len() > 1 && chain.last().is_some_and(|der| is_self_issued(der)) {
        chain.pop();
    }
    Ok(CertificateBundle::new(chain, None)?.fullchain_pem())
}

fn is_self_issued(der: &[u8]) -> bool {
    X509Certificate::from_der(der).is_ok_and(|(_, read)| read.subject().as_raw() == read.issuer().as_raw())
}

#[cfg(test)]
mod tests {
    use certlib_testkit::pki::TestCa;

    use super::*;

    #[test]
    fn any_order_becomes_leaf_first() {
        let root = TestCa::new("root").unwrap();
        let issuing = root.intermediate("issuing").unwrap();
        let leaf = issuing.issue(&["a.example"]).unwrap().certificate_pem;
        let (root, issuing) = (root.certificate_pem(), issuing.certificate_pem());
        for order in [[root, issuing, &leaf], [&leaf, issuing, root], [issuing, &leaf, root], [&leaf, issuing, issuing]]
        {
            let chain = leaf_first(order.concat().as_bytes()).unwrap();
            let read = CertificateBundle::from_pem(chain.as_bytes()).unwrap();
            assert_eq!((read.certificates().len(), read.is_authority()), (2, false));
        }
        let alone = leaf_first(leaf.as_bytes()).unwrap();
        assert_eq!(CertificateBundle::from_pem(alone.as_bytes()).unwrap().certificates().len(), 1);
        assert!(leaf_first(b"<html>").is_err());
    }
}
