//! Revocation: an action on a certificate, which the gateway carries out at once or later.

use async_trait::async_trait;
use certlib_core::issuer::{RevocationReason, Revoker};
use certlib_core::{CertificateBundle, Context, Error, Result};
use serde::Deserialize;
use serde_json::json;

use super::CaGateway;
use super::client::{OPERATION, is_own, refused};
use crate::{keys, triage};

#[derive(Deserialize)]
struct Answered {
    action: Action,
}

#[derive(Deserialize)]
struct Action {
    id: Option<String>,
    status: Option<String>,
}

#[async_trait]
impl Revoker for CaGateway {
    async fn revoke(&self, cx: &Context, bundle: &CertificateBundle, reason: RevocationReason) -> Result<()> {
        let body = json!({ "action": {
            "type": "RevokeAction",
            "reason": name_of(reason),
            "comment": "certlib",
            "issueCrl": false,
            "succeedIfAlreadyInRequestedState": true,
        } });
        let mut serial = keys::serial(bundle);
        let mut answer = self.client.post(cx, &["certificates", &serial, "actions"], &body).await?;
        for other in keys::serials(bundle).into_iter().skip(1) {
            if answer.status() == 404 && is_own(&answer) {
                answer = self.client.post(cx, &["certificates", &other, "actions"], &body).await?;
                serial = other;
            }
        }
        if !answer.is_success() {
            return Err(refused(&answer));
        }
        let Action { id, status } = triage::read::<Answered>(&answer)?.action;
        if status.as_deref() == Some("COMPLETED") {
            return Ok(());
        }
        // What counts is what became of the certificate.
        if let Some(id) = &id
            && self.is_completed(cx, &serial, id).await?
        {
            return Ok(());
        }
        let kept = self.client.certificate(cx, &serial).await?;
        if kept.is_some_and(|kept| kept.certificate.status.as_deref() == Some("revoked")) {
            return Ok(());
        }
        if status.as_deref() == Some("REJECTED") {
            let why = "the gateway rejects the revocation";
            return Err(Error::validation(OPERATION, "revocation_rejected", why));
        }
        let why = "the gateway has accepted the revocation, but not carried it out yet";
        Err(Error::transient(OPERATION, "revocation_pending", why))
    }
}

impl CaGateway {
    /// Whether an action is done; not every gateway can be asked.
    async fn is_completed(&self, cx: &Context, serial: &str, id: &str) -> Result<bool> {
        let answer = self.client.get(cx, &["certificates", serial, "actions", id], &[]).await?;
        if !answer.is_success() {
            return Ok(false);
        }
        Ok(triage::read::<Answered>(&answer)?.action.status.as_deref() == Some("COMPLETED"))
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
