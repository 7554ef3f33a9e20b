//! Whom an outbound TLS connection trusts.

use std::sync::Arc;

use certlib_core::error::{Error, Result};
use certlib_core::secret::SecretString;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt as _;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

const OPERATION: &str = "net.tls";

/// Whom to trust: by default, whom the operating system trusts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsSettings {
    /// Root certificates, PEM, that are trusted *instead of* the operating system's.
    pub ca_pem: Option<String>,
    /// Trusts anybody. Works only together with `acknowledge_insecure`, and warns at every use.
    pub insecure_skip_verify: bool,
    /// Says that `insecure_skip_verify` is meant.
    pub acknowledge_insecure: bool,
}

impl TlsSettings {
    /// Checks the settings without using them.
    ///
    /// # Errors
    /// `Validation`: `insecure_not_acknowledged`, `ca_invalid`.
    pub fn check(&self) -> Result<()> {
        if self.insecure_skip_verify && !self.acknowledge_insecure {
            return Err(Error::validation(
                OPERATION,
                "insecure_not_acknowledged",
                "`insecure_skip_verify` trusts anybody; if that is meant, set `acknowledge_insecure` too",
            ));
        }
        self.roots().map(drop)
    }

    /// Whether the peer's certificate is verified.
    pub fn verifies(&self) -> bool {
        !(self.insecure_skip_verify && self.acknowledge_insecure)
    }

    /// The verifying configuration, for TLS 1.2 and 1.3.
    ///
    /// # Errors
    /// As [`TlsSettings::check`]; `IoPermanent` `tls_unavailable` when the operating system has no root certificates.
    pub fn client_config(&self, identity: Option<&ClientIdentity>) -> Result<ClientConfig> {
        let unavailable = |error: rustls::Error| {
            Error::permanent(
                OPERATION,
                "tls_unavailable",
                "the TLS client cannot be set up; are there root certificates?",
            )
            .with_source(error)
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(unavailable)?;
        let builder = match self.roots()? {
            Some(roots) => builder.with_root_certificates(roots),
            None => builder.with_platform_verifier().map_err(unavailable)?,
        };
        match identity {
            None => Ok(builder.with_no_client_auth()),
            Some(identity) => {
                let (chain, key) = identity.parse()?;
                builder.with_client_auth_cert(chain, key).map_err(|_| unusable())
            }
        }
    }

    fn roots(&self) -> Result<Option<RootCertStore>> {
        let Some(pem) = &self.ca_pem else { return Ok(None) };
        let invalid = |why| Error::validation(OPERATION, "ca_invalid", why);
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate.map_err(|_| invalid("`ca_pem` is not PEM"))?;
            roots.add(certificate).map_err(|_| invalid("`ca_pem` has a certificate that cannot be a root"))?;
        }
        if roots.is_empty() {
            return Err(invalid("`ca_pem` has no certificate"));
        }
        Ok(Some(roots))
    }
}

/// A certificate of ours, and its key, that a TLS server asks for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ClientIdentity {
    /// The certificate and its issuers, PEM, leaf first.
    pub certificate_pem: String,
    /// Its private key, PEM, not encrypted.
    pub private_key_pem: SecretString,
}

impl ClientIdentity {
    /// A certificate with its issuers, and its key, PEM; nothing is checked yet.
    pub fn new(certificate_pem: impl Into<String>, private_key_pem: impl Into<SecretString>) -> Self {
        Self { certificate_pem: certificate_pem.into(), private_key_pem: private_key_pem.into() }
    }

    /// The same once more, for a second owner.
    pub fn duplicate(&self) -> Self {
        Self { certificate_pem: self.certificate_pem.clone(), private_key_pem: self.private_key_pem.duplicate() }
    }

    /// Checks that certificate and key can be used.
    ///
    /// # Errors
    /// `Validation` `identity_invalid`; nothing is quoted.
    pub fn check(&self) -> Result<()> {
        let (chain, key) = self.parse()?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        CertifiedKey::from_der(chain, key, &provider).map(drop).map_err(|_| unusable())
    }

    fn parse(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(self.certificate_pem.as_bytes())
            .collect::<std::result::Result<_, _>>()
            .map_err(|_| unusable())?;
        let key = PrivateKeyDer::from_pem_slice(self.private_key_pem.expose().as_bytes()).map_err(|_| unusable())?;
        if chain.is_empty() { Err(unusable()) } else { Ok((chain, key)) }
    }

    /// The same for a client that verifies nothing.
    pub(super) fn for_reqwest(&self) -> Result<reqwest::Identity> {
        let both = Zeroizing::new(format!("{}\n{}", self.certificate_pem, self.private_key_pem.expose()));
        reqwest::Identity::from_pem(both.as_bytes()).map_err(|_| unusable())
    }
}

fn unusable() -> Error {
    let why = "the client certificate must be PEM, with a key that belongs to it and is not encrypted";
    Error::validation(OPERATION, "identity_invalid", why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_a_certificate_with_its_key() {
        let ca = certlib_testkit::pki::TestCa::new("root").unwrap();
        let (one, two) = (ca.issue(&["a.example"]).unwrap(), ca.issue(&["a.example"]).unwrap());
        let identity = |certificate: &str, key: &str| ClientIdentity {
            certificate_pem: certificate.to_owned(),
            private_key_pem: key.to_owned().into(),
        };
        identity(&one.full_chain(), &one.key_pem).check().unwrap();
        for (certificate, key) in [("", &*one.key_pem), (&*one.full_chain(), ""), (&*one.full_chain(), &*two.key_pem)] {
            assert_eq!(identity(certificate, key).check().unwrap_err().code(), "identity_invalid");
        }
    }

    #[test]
    fn verification_is_off_only_when_said_twice() {
        let settings = |text: &str| serde_json::from_str::<TlsSettings>(text).unwrap();
        assert!(settings("{}").verifies());
        assert!(settings(r#"{"acknowledge_insecure": true}"#).verifies());
        let once = settings(r#"{"insecure_skip_verify": true}"#);
        assert!(once.verifies());
        assert_eq!(once.check().unwrap_err().code(), "insecure_not_acknowledged");
        let twice = settings(r#"{"insecure_skip_verify": true, "acknowledge_insecure": true}"#);
        assert!(!twice.verifies() && twice.check().is_ok());
    }

    #[test]
    fn roots_must_be_certificates() {
        for pem in ["", "no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            let settings = TlsSettings { ca_pem: Some(pem.to_owned()), ..TlsSettings::default() };
            assert_eq!(settings.check().unwrap_err().code(), "ca_invalid", "{pem}");
        }
    }
}
