//! Revocation: the certificate is found by its serial number.

use async_trait::async_trait;
use certlib_core::issuer::{RevocationReason, Revoker};
use certlib_core::{CertificateBundle, Context, Error, Result};
use serde_json::json;

use super::Ecs;
use super::client::{OPERATION, refused};
use crate::entrust::serial;

#[async_trait]
impl Revoker for Ecs {
    async fn revoke(&self, cx: &Context, bundle: &CertificateBundle, reason: RevocationReason) -> Result<()> {
        let wanted = serial(&bundle.leaf().serial);
        let listed = self.client.list(cx, &[("serialNumber", &wanted)]).await?;
        let has_serial = |shown: &Option<String>| shown.as_deref().is_some_and(|shown| serial(shown) == wanted);
        let Some(found) = listed.into_iter().find(|listed| has_serial(&listed.serial_number)) else {
            let why = "the account has no certificate with this serial number";
            return Err(Error::validation(OPERATION, "certificate_unknown", why));
        };
        if found.status.as_deref() == Some("REVOKED") {
            return Ok(());
        }
        let body = json!({ "crlReason": name_of(reason), "revocationComment": "certlib" });
        let id = found.tracking_id.to_string();
        let answer = self.client.post(cx, &["certificates", &id, "revocations"], &body).await?;
        if answer.is_success() {
            return Ok(());
        }
        // Somebody else may have been faster.
        if answer.status() == 400 && self.client.certificate(cx, found.tracking_id).await?.status == "REVOKED" {
            return Ok(());
        }
        Err(refused(&answer))
    }
}

fn name_of(reason: RevocationReason) -> &'static str {
    match reason {
        RevocationReason::KeyCompromise => "keyCompromise",
        RevocationReason::AffiliationChanged => "affiliationChanged",
        // Entrust wants one of four reasons; this one says nothing bad of the key or its owner.
        RevocationReason::Superseded | RevocationReason::Unspecified => "superseded",
        RevocationReason::CessationOfOperation | RevocationReason::PrivilegeWithdrawn => "cessationOfOperation",
    }
}
