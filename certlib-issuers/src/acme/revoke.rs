//! Taking certificates back (RFC 8555 section 7.6), on the word of the account that ordered them.

use async_trait::async_trait;
use certlib_core::issuer::{RevocationReason, Revoker};
use certlib_core::{CertificateBundle, Context, Error, Result};
use instant_acme::{RevocationReason as Reason, RevocationRequest};
use rustls::pki_types::CertificateDer;

use super::AcmeIssuer;
use super::client::{call, ours};
use super::error::ALREADY_REVOKED;

const OPERATION: &str = "acme.revoke";

#[async_trait]
impl Revoker for AcmeIssuer {
    async fn revoke(&self, cx: &Context, bundle: &CertificateBundle, reason: RevocationReason) -> Result<()> {
        let account = self.account.at_ca(cx).await?;
        let certificate = CertificateDer::from(bundle.leaf_der());
        let request = RevocationRequest { certificate: &certificate, reason: reason_of(reason) };
        let (revoked, _) = call!(cx, OPERATION, async {
            account.revoke(&request).await.map_err(|error| match error {
                // All that instant-acme can miss here is the address in the directory.
                instant_acme::Error::Str(_) => ours(Error::permanent(
                    OPERATION,
                    "revocation_unsupported",
                    "the CA does not revoke through this interface",
                )),
                error => error,
            })
        });
        match revoked {
            Err(error) if error.code() == ALREADY_REVOKED => Ok(()),
            result => result,
        }
    }
}

/// To give no reason is to leave it out (RFC 5280 section 5.3.1).
fn reason_of(reason: RevocationReason) -> Option<Reason> {
    match reason {
        RevocationReason::Unspecified => None,
        RevocationReason::KeyCompromise => Some(Reason::KeyCompromise),
        RevocationReason::AffiliationChanged => Some(Reason::AffiliationChanged),
        RevocationReason::Superseded => Some(Reason::Superseded),
        RevocationReason::CessationOfOperation => Some(Reason::CessationOfOperation),
        RevocationReason::PrivilegeWithdrawn => Some(Reason::PrivilegeWithdrawn),
    }
}
