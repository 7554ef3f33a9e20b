//! When the CA wants a certificate renewed (RFC 9773).

use std::time::Duration;

use async_trait::async_trait;
use certlib_core::issuer::{RenewalInfo, RenewalWindow};
use certlib_core::{CertificateBundle, Context, Error, Result};
use instant_acme::CertificateIdentifier;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::AcmeIssuer;
use super::client::call;

const OPERATION: &str = "acme.renewal_info";
/// No CA is asked more often, nor less, whatever it wishes.
const RETRY_MIN: Duration = Duration::from_secs(60);
const RETRY_MAX: Duration = Duration::from_secs(24 * 3600);

#[async_trait]
impl RenewalInfo for AcmeIssuer {
    async fn renewal_window(&self, cx: &Context, bundle: &CertificateBundle) -> Result<Option<RenewalWindow>> {
        let account = self.account.at_ca(cx).await?;
        let id = certificate_id(bundle.leaf_der())?;
        let (info, answer) = call!(cx, OPERATION, account.renewal_info(&id));
        let info = match info {
            // The CA does not know the certificate, or no longer, or has no opinion on any.
            Err(error) if !error.class().is_retryable() => {
                tracing::info!(%error, "the CA has no renewal window for this certificate");
                return Ok(None);
            }
            info => info?.0,
        };
        let suggested = info.suggested_window;
        let Ok(mut window) = RenewalWindow::new(suggested.start, suggested.end) else { return Ok(None) };
        window.retry_after = answer.retry_after.map(|wait| wait.clamp(RETRY_MIN, RETRY_MAX));
        window.explanation_url = info.explanation_url;
        Ok(Some(window))
    }
}

/// The unique identifier of a certificate (RFC 9773 section 4.1).
///
/// # Errors
/// `Validation` `cert_invalid`, and `key_identifier_missing` when the certificate does not name its issuer's key.
pub(super) fn certificate_id(leaf: &[u8]) -> Result<CertificateIdentifier<'static>> {
    X509Certificate::from_der(leaf)
        .map_err(|_| Error::validation(OPERATION, "cert_invalid", "the certificate cannot be read"))?;
    CertificateIdentifier::try_from(&CertificateDer::from(leaf)).map_err(|_| {
        Error::validation(OPERATION, "key_identifier_missing", "the certificate does not name the key of its issuer")
    })
}

#[cfg(test)]
mod tests {
    use certlib_core::bundle::{KeyType, PrivateKey};
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyIdMethod, KeyPair, SerialNumber};

    use super::*;

    #[test]
    fn the_example_of_the_rfc() {
        // RFC 9773 section 4.1.
        let authority = [
            0x69, 0x88, 0x5b, 0x6b, 0x87, 0x46, 0x40, 0x41, 0xe1, 0xb3, 0x7b, 0x84, 0x7b, 0xa0, 0xae, 0x2c, 0xde, 0x01,
            0xc8, 0xd4,
        ];
        let expected = "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE";

        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_identifier_method = KeyIdMethod::PreSpecified(authority.to_vec());
        let issuer = Issuer::new(ca, KeyPair::generate().unwrap());
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(SerialNumber::from_slice(&[0x87, 0x65, 0x43, 0x21]));
        let key = PrivateKey::generate(KeyType::EcdsaP256).unwrap().to_rcgen().unwrap();
        let leaf = params.signed_by(&key, &issuer).unwrap();
        assert_eq!(certificate_id(leaf.der()).unwrap().to_string(), expected);

        params.use_authority_key_identifier_extension = false;
        let leaf = params.signed_by(&key, &issuer).unwrap();
        assert_eq!(certificate_id(leaf.der()).unwrap_err().code(), "key_identifier_missing");
        assert_eq!(certificate_id(b"x").unwrap_err().code(), "cert_invalid");
    }
}
