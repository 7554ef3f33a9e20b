use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certlib_core::bundle::{KeyType, PrivateKey};
use certlib_core::issuer::IssuerState;
use certlib_core::secret::{Secret, SecretBytes};
use certlib_core::{CertificateBundle, Error, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SerialNumber,
};
use serde::Deserialize;
use time::{Duration, OffsetDateTime};

use super::config::LocalCaConfig;
use super::request::CheckedRequest;

const OPERATION: &str = "local_ca.root";

/// How far back certificates begin: machines whose clock runs late must accept them too.
const BACKDATE: Duration = Duration::minutes(5);

/// The root certificate and its key.
pub(super) struct Root {
    key: PrivateKey,
    certificate: CertificateBundle,
}

/// A [`Root`] as it is kept, sealed, by [`IssuerState`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    key: Secret<String>,
    certificate: String,
}

impl Root {
    /// The root that is kept in `state`; the first caller makes it, whoever else is trying at the same time.
    pub(super) async fn open(state: &dyn IssuerState, config: &LocalCaConfig, now: OffsetDateTime) -> Result<Self> {
        if let Some((kept, _)) = state.load().await? {
            return Self::decode(&kept);
        }
        let kind = config.key_type;
        let key = tokio::task::spawn_blocking(move || PrivateKey::generate(kind)).await.map_err(|error| {
            Error::transient(OPERATION, "key_generation_failed", "the key was not generated to the end")
                .with_source(error)
        })??;
        let root = Self::make(key, config, now)?;
        match state.save(&root.encode(), None).await {
            Ok(_) => Ok(root),
            Err(error) if error.is_conflict() => {
                let (kept, _) = state.load().await?.ok_or(error)?;
                Self::decode(&kept)
            }
            Err(error) => Err(error),
        }
    }

    fn make(key: PrivateKey, config: &LocalCaConfig, now: OffsetDateTime) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, config.common_name.trim());
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(random_serial());
        params.not_before = now - BACKDATE;
        params.not_after = now + seconds(config.root_validity_seconds);
        let certificate = params.self_signed(&key.to_rcgen()?).map_err(signing_failed)?;
        Ok(Self { key, certificate: CertificateBundle::new(vec![certificate.der().to_vec()], None)? })
    }

    fn encode(&self) -> SecretBytes {
        let key = Secret::new(STANDARD.encode(self.key.pkcs8().expose()));
        let certificate = STANDARD.encode(self.certificate.leaf_der());
        // Both parts are base64, so nothing needs escaping, and no copy of the key is left in a JSON tree.
        Secret::new(format!(r#"{{"key":"{}","certificate":"{certificate}"}}"#, key.expose()).into_bytes())
    }

    fn decode(kept: &SecretBytes) -> Result<Self> {
        let invalid =
            || Error::permanent(OPERATION, "state_invalid", "what is kept for this CA is not a root and its key");
        let kept: Kept = serde_json::from_slice(kept.expose()).map_err(|_| invalid())?;
        let key = Secret::new(STANDARD.decode(kept.key.expose()).map_err(|_| invalid())?);
        let key = PrivateKey::from_pkcs8(key.expose()).map_err(|_| invalid())?;
        let certificate = STANDARD.decode(kept.certificate).map_err(|_| invalid())?;
        // The key stays out of the bundle, but it must belong to it.
        let certificate = CertificateBundle::new(vec![certificate], Some(key)).map_err(|_| invalid())?;
        let key = certificate.key().map(|key| PrivateKey::from_pkcs8(key.pkcs8().expose())).ok_or_else(invalid)??;
        Ok(Self { key, certificate })
    }

    pub(super) fn pem(&self) -> String {
        self.certificate.leaf_pem()
    }

    /// A leaf for `names` and the root, PEM, leaf first.
    ///
    /// # Errors
    /// `Validation` `name_invalid`; `IoPermanent` `root_expired`, `signing_failed`.
    pub(super) fn issue(
        &self,
        names: &[String],
        request: &CheckedRequest,
        now: OffsetDateTime,
        validity: std::time::Duration,
    ) -> Result<String> {
        let root = self.certificate.leaf();
        let until = now.checked_add(seconds(validity.as_secs())).unwrap_or(root.not_after).min(root.not_after);
        if until <= now {
            return Err(Error::permanent(
                OPERATION,
                "root_expired",
                "the root of this CA has expired; make a new issuer",
            )
            .with("not_after", root.not_after));
        }
        let mut params = CertificateParams::new(names.to_vec()).map_err(|error| {
            Error::validation(OPERATION, "name_invalid", "a name is neither a DNS name nor an address")
                .with_source(error)
        })?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        // With an empty subject the names extension would have to be critical, which some clients cannot read.
        if let Some(name) = names.iter().find(|name| name.len() <= 64) {
            params.distinguished_name.push(DnType::CommonName, name.as_str());
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if request.is_rsa {
            params.key_usages.push(KeyUsagePurpose::KeyEncipherment);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(random_serial());
        params.not_before = (now - BACKDATE).max(root.not_before);
        params.not_after = until;
        let leaf = params.signed_by(&request.public_key, &self.issuer()?).map_err(signing_failed)?;
        let chain = vec![leaf.der().to_vec(), self.certificate.leaf_der().to_vec()];
        Ok(CertificateBundle::new(chain, None)?.fullchain_pem())
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>> {
        Issuer::from_ca_cert_der(&self.certificate.leaf_der().into(), self.key.to_rcgen()?).map_err(signing_failed)
    }

    pub(super) fn key_type(&self) -> KeyType {
        self.key.kind()
    }
}

/// 16 random bytes as a positive number that is never shortened.
fn random_serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    SerialNumber::from_slice(&bytes)
}

fn seconds(seconds: u64) -> Duration {
    Duration::seconds(i64::try_from(seconds).unwrap_or(i64::MAX))
}

fn signing_failed(error: rcgen::Error) -> Error {
    Error::permanent(OPERATION, "signing_failed", "the certificate could not be signed").with_source(error)
}
