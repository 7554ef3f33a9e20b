//! Certificates a simulated host can start with or be sent.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::{
    ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::NoServerSessionStorage,
};

use super::Error;
use crate::tls;

/// A certificate with its private key, in PEM, for tests only.
#[derive(Clone)]
pub struct TestCertificate {
    certificate_pem: Arc<str>,
    key_pem: Arc<str>,
    served: Served,
}

impl TestCertificate {
    /// A new self-signed certificate (P-256) for these DNS names or IP addresses. The first is also the common name.
    ///
    /// # Errors
    /// [`Error::Certificate`] when a name cannot stand in a certificate.
    pub fn self_signed<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Result<Self, Error> {
        let names: Vec<String> = names.into_iter().map(Into::into).collect();
        let unusable = |error: rcgen::Error| Error::Certificate(error.to_string());
        let common_name = names.first().cloned().unwrap_or_default();
        let mut params = CertificateParams::new(names).map_err(unusable)?;
        params.distinguished_name.push(DnType::CommonName, common_name);
        let key = KeyPair::generate().map_err(unusable)?;
        let certificate = params.self_signed(&key).map_err(unusable)?;
        Self::from_pem(&certificate.pem(), &key.serialize_pem())
    }

    /// A certificate (leaf first, chain after it) and private key that exist already, both PEM.
    ///
    /// # Errors
    /// [`Error::Certificate`] when either does not parse or the key belongs to another certificate.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, Error> {
        let served = Served::load(certificate_pem.as_bytes(), key_pem.as_bytes()).map_err(Error::Certificate)?;
        Ok(Self { certificate_pem: certificate_pem.into(), key_pem: key_pem.into(), served })
    }

    /// The certificate every host starts with unless told otherwise: made once per process, for `localhost`.
    ///
    /// # Errors
    /// [`Error::Certificate`] when the process has no source of randomness.
    pub fn shared() -> Result<Self, Error> {
        static SHARED: OnceLock<TestCertificate> = OnceLock::new();
        if let Some(made) = SHARED.get() {
            return Ok(made.clone());
        }
        let made = Self::self_signed(["localhost", "127.0.0.1"])?;
        Ok(SHARED.get_or_init(|| made).clone())
    }

    /// The certificate, PEM.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The private key, PEM (PKCS#8 when made here).
    #[must_use]
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// Certificate, then key, in one text: what HAProxy reads.
    #[must_use]
    pub fn combined_pem(&self) -> String {
        format!("{}{}", self.certificate_pem, self.key_pem)
    }

    /// SHA-256 of the leaf's DER, 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.served.fingerprint
    }

    /// The TLS configuration, which every host that presents this certificate shares.
    pub(super) fn served(&self) -> Served {
        self.served.clone()
    }
}

impl fmt::Debug for TestCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestCertificate").field("fingerprint", &self.served.fingerprint).finish_non_exhaustive()
    }
}

/// What a TLS endpoint presents.
#[derive(Clone)]
pub(super) struct Served {
    pub(super) config: Arc<ServerConfig>,
    pub(super) fingerprint: Arc<str>,
}

impl Served {
    /// Reads PEM as a TLS server would. Resumption is off, so that every handshake shows the present certificate.
    ///
    /// The error is what the service prints when it refuses the files.
    pub(super) fn load(certificates: &[u8], key: &[u8]) -> Result<Self, String> {
        let chain = CertificateDer::pem_slice_iter(certificates)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| format!("cannot read certificate: {error}"))?;
        for der in &chain {
            x509_parser::parse_x509_certificate(der).map_err(|error| format!("cannot parse certificate: {error}"))?;
        }
        let leaf = chain.first().ok_or("cannot read certificate: no certificate in the file")?;
        let fingerprint = tls::fingerprint(leaf).into();
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("cannot read private key: {error}"))?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .map_err(|error| format!("certificate and private key do not fit: {error}"))?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self { config: Arc::new(config), fingerprint })
    }
}

/// One provider for the whole process: building one per host would cost memory for nothing.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let one = TestCertificate::self_signed(["one.test"]).unwrap();
        let two = TestCertificate::self_signed(["two.test"]).unwrap();
        assert_ne!(one.fingerprint(), two.fingerprint());
        assert!(TestCertificate::from_pem(one.certificate_pem(), two.key_pem()).is_err());
        let again = TestCertificate::from_pem(one.certificate_pem(), one.key_pem()).unwrap();
        assert_eq!(again.fingerprint(), one.fingerprint());
    }

    #[test]
    fn debug_hides_the_private_key() {
        let shown = format!("{:?}", TestCertificate::shared().unwrap());
        assert!(!shown.contains("PRIVATE KEY"), "{shown}");
    }
}
