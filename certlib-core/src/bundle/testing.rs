//! Bundles for unit tests.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::{CertificateBundle, KeyType, PrivateKey};

/// A fresh certificate with its key, and the fresh CA that issued it.
pub(crate) fn bundle(name: &str) -> CertificateBundle {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "test root");
    let root_key = KeyPair::generate().unwrap();
    let root = params.self_signed(&root_key).unwrap().der().to_vec();
    let issuer = Issuer::new(params, root_key);
    let key = PrivateKey::generate(KeyType::EcdsaP256).unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let leaf = params.signed_by(&key.to_rcgen().unwrap(), &issuer).unwrap().der().to_vec();
    CertificateBundle::new(vec![leaf, root], Some(key)).unwrap()
}
