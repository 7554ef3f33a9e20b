//! Revocation: of one certificate, never of the whole order, which may have others.

use async_trait::async_trait;
use certlib_core::issuer::{RevocationReason, Revoker};
use certlib_core::{CertificateBundle, Context, Error, Result};
use reqwest::Method;
use serde::Deserialize;
use serde_json::json;

use super::DigiCert;
use super::client::{self, OPERATION, refused};
use crate::{keys, triage};

/// A request that somebody may have to approve.
#[derive(Deserialize)]
struct Requested {
    status: Option<String>,
}

#[async_trait]
impl Revoker for DigiCert {
    async fn revoke(&self, cx: &Context, bundle: &CertificateBundle, reason: RevocationReason) -> Result<()> {
        let serial = keys::serial(bundle);
        // Only the certificate that an order shows leads to it.
        if let Some(order) = self.order(cx, &serial).await? {
            // An order may have other certificates: what waits for them is told apart by the remark.
            let waits = order.requests.iter().any(|wish| {
                wish.kind.as_deref() == Some("revoke")
                    && wish.status.as_deref() == Some("pending")
                    && wish.comments.as_deref().is_some_and(|comments| comments.contains(&serial))
            });
            match order.status.as_str() {
                "revoked" => return Ok(()),
                "reissue_pending" => {
                    let why = "DigiCert revokes nothing of an order while a reissue of it is pending";
                    return Err(Error::transient(OPERATION, "reissue_pending", why));
                }
                _ if waits => return Err(waiting()),
                _ => {}
            }
        }
        let mut body = json!({ "comments": format!("certlib {serial}"), "skip_approval": self.config.skip_approval });
        if let Some(reason) = name_of(reason) {
            body["revocation_reason"] = json!(reason);
        }
        let answer = self.client.send(cx, Method::PUT, &["certificate", &serial, "revoke"], &body).await?;
        match answer.status() {
            201 => match triage::read::<Requested>(&answer)?.status.as_deref() {
                Some("approved") => Ok(()),
                _ => Err(waiting()),
            },
            _ if answer.is_success() => Ok(()),
            400..=499 if client::code(&answer).is_some_and(|code| code.contains("already_revoked")) => Ok(()),
            _ => Err(refused(&answer)),
        }
    }
}

fn waiting() -> Error {
    let why = "somebody has to approve the revocation in CertCentral";
    Error::transient(OPERATION, "approval_pending", why)
}

/// The reasons in DigiCert's words. To give none is to leave it out.
fn name_of(reason: RevocationReason) -> Option<&'static str> {
    match reason {
        RevocationReason::Unspecified => None,
        RevocationReason::KeyCompromise => Some("key_compromise"),
        RevocationReason::AffiliationChanged => Some("affiliation_changed"),
        RevocationReason::Superseded => Some("superseded"),
        RevocationReason::CessationOfOperation => Some("cessation_of_operation"),
        RevocationReason::PrivilegeWithdrawn => Some("privilege_withdrawn"),
    }
}
