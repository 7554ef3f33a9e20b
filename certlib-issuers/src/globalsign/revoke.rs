//! Revocation, by serial number.

use async_trait::async_trait;
use certlib_core::issuer::{RevocationReason, Revoker};
use certlib_core::{CertificateBundle, Context, Result};
use reqwest::Method;
use serde_json::json;

use super::GlobalSign;
use super::client::Call;
use crate::keys;

#[async_trait]
impl Revoker for GlobalSign {
    async fn revoke(&self, cx: &Context, bundle: &CertificateBundle, reason: RevocationReason) -> Result<()> {
        let serial = keys::serial(bundle);
        let body = json!({ "revocation_reason": name_of(reason) });
        let path = ["certificates", serial.as_str()];
        let answer = self.client.send(cx, &Call::with_body(Method::PATCH, &path, &body)).await?;
        match answer.status() {
            _ if answer.is_success() => Ok(()),
            // Maybe because there is nothing left to be done.
            400 | 404 | 409 | 422 if self.is_revoked(cx, &serial).await? => Ok(()),
            _ => Err(answer.refused()),
        }
    }
}

fn name_of(reason: RevocationReason) -> &'static str {
    match reason {
        RevocationReason::Unspecified => "unspecified",
        RevocationReason::KeyCompromise => "keyCompromise",
        RevocationReason::AffiliationChanged => "affiliationChanged",
        RevocationReason::Superseded => "superseded",
        RevocationReason::CessationOfOperation => "cessationOfOperation",
        RevocationReason::PrivilegeWithdrawn => "privilegeWithdrawn",
    }
}
