//! From a bundle to the bytes of a file.

use certlib_core::bundle::pkcs12;
use certlib_core::secret::{SecretBytes, SecretString};
use certlib_core::{CertificateBundle, Error, Result, Secret};

use super::layout::Format;
use super::pfx::PfxOptions;

/// What a PKCS#12 container needs besides the bundle.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PfxInput<'a> {
    pub(crate) options: PfxOptions,
    pub(crate) password: Option<&'a SecretString>,
}

/// The bytes of one file. PEM ends in one newline; the leaf comes first.
///
/// # Errors
/// `Validation`: `key_missing`, `pfx_password_missing`, `pfx_failed`.
pub(crate) fn render(format: Format, bundle: &CertificateBundle, pfx: PfxInput<'_>) -> Result<SecretBytes> {
    let bytes = match format {
        Format::Cert => bundle.leaf_pem().into_bytes(),
        Format::Chain => bundle.chain_pem().into_bytes(),
        Format::Fullchain => bundle.fullchain_pem().into_bytes(),
        Format::Key => bundle.key_pem()?.expose().clone().into_bytes(),
        Format::Combined => {
            let key = bundle.key_pem()?;
            let certificates = bundle.fullchain_pem();
            // Exactly as large as needed, so that growing leaves no copy of the key behind.
            let mut bytes = Vec::with_capacity(certificates.len() + key.expose().len());
            bytes.extend_from_slice(certificates.as_bytes());
            bytes.extend_from_slice(key.expose().as_bytes());
            bytes
        }
        Format::Der => bundle.leaf_der().to_vec(),
        Format::Pfx => return pkcs12::encode(bundle, pfx.options.profile, None, password(pfx)?),
    };
    Ok(Secret::new(bytes))
}

/// Whether a file holds this bundle already. Containers are encrypted afresh each time, so they are opened.
pub(crate) fn holds(
    format: Format,
    content: &SecretBytes,
    wanted: &SecretBytes,
    bundle: &CertificateBundle,
    pfx: PfxInput<'_>,
) -> bool {
    match (format, pfx.password) {
        (Format::Pfx, Some(password)) => pkcs12::holds(content.expose(), password, bundle),
        _ => content.expose() == wanted.expose(),
    }
}

/// The certificates in a file of this format, if they can be read; for judging backups.
pub(crate) fn read(format: Format, content: &SecretBytes, pfx: PfxInput<'_>) -> Option<CertificateBundle> {
    match (format, pfx.password) {
        (Format::Cert | Format::Fullchain | Format::Combined, _) => {
            CertificateBundle::import(content.expose(), &Default::default()).ok().map(|(bundle, _)| bundle)
        }
        (Format::Der, _) => CertificateBundle::new(vec![content.expose().clone()], None).ok(),
        (Format::Pfx, Some(password)) => {
            let chain = pkcs12::certificates(content.expose(), password)?;
            CertificateBundle::new(chain.into_iter().take(1).collect(), None).ok()
        }
        _ => None,
    }
}

fn password<'a>(pfx: PfxInput<'a>) -> Result<&'a SecretString> {
    pfx.password.ok_or_else(|| {
        Error::validation(
            "files.render",
            "pfx_password_missing",
            "a PKCS#12 file needs `pfx_password` in the credentials of the target",
        )
    })
}
