//! `revoke_certificate`: tells the CA, keeps that it was told, and has the certificate replaced.

use std::sync::Arc;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::json;

use super::{IssueReason, REVOKE, job as issue_job, payload};
use crate::client::Revocation;
use crate::context::Subject;
use crate::distribution;
use crate::error::{Error, Result};
use crate::model::{Certificate, CertificateState, CertificateVersion, Distribution, Event, VersionState};
use crate::queue::{Job, Lane};
use crate::runtime::{Engine, Handled, JobContext, JobHandler};
use crate::store::{StoreExt as _, TypedQuery, WriteBatch};

/// Revokes a version.
#[derive(Debug)]
pub(crate) struct RevocationHandler {
    engine: Arc<Engine>,
}

impl RevocationHandler {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }
}

#[derive(Deserialize)]
struct Payload {
    certificate_id: String,
    revocation: Revocation,
}

#[async_trait]
impl JobHandler for RevocationHandler {
    fn kind(&self) -> &'static str {
        REVOKE
    }

    fn lane(&self) -> Lane {
        Lane::Issuance
    }

    async fn run(&self, job: &Job, context: &JobContext) -> Result<Handled> {
        let Payload { certificate_id, revocation } = payload(job)?;
        let mut certificate = self.engine.store.load::<Certificate>(&certificate_id).await?;
        let number = revocation.version.unwrap_or(certificate.latest_version);
        let id = CertificateVersion::id_of(&certificate_id, number);
        let mut version = self.engine.store.load::<CertificateVersion>(&id).await?;
        if matches!(version.state, VersionState::Revoked { .. }) {
            return Ok(Handled::Succeeded);
        }
        let cx = context.cx.clone().about(Subject::certificate(&certificate.project, &certificate_id, number));
        let issuer = self.engine.issuer(&cx, &version.issuer_id).await?;
        let revoker = issuer.revoker().ok_or_else(|| {
            Error::permanent("revoke", "revocation_unsupported", "this issuer cannot revoke; replace the certificate")
        })?;
        // Some CAs want the certificate's own key as proof.
        revoker.revoke(&cx, &self.engine.open_bundle(&version).await?, revocation.reason).await?;

        let now = self.engine.clock.now();
        version.state = VersionState::Revoked { at: now, reason: revocation.reason };
        let data = json!({ "version": number, "reason": revocation.reason });
        let event = Event::new(&certificate.project, "certificate.revoked", &certificate_id, data, now);
        let mut batch = WriteBatch::new().update(&version)?.insert(&event)?;
        let newest = certificate.latest_version == number;
        let held = certificate.held_version == Some(number);
        if held {
            // Nobody wants to keep it: the newest goes where it was.
            certificate.held_version = None;
            let query = TypedQuery::<Distribution>::new().equal("certificate", &*certificate_id);
            for distribution in self.engine.store.list_all(query).await? {
                if !distribution.targets.is_empty() {
                    let run = distribution::new_run(&distribution, certificate.latest_version, now);
                    batch = batch.insert(&run)?.enqueue(distribution::job(&run));
                }
            }
        }
        // Whatever becomes of it, it does not end by expiring.
        let watched = certificate.expiry.as_mut().filter(|watch| watch.version == number);
        let unwatched = watched.map(|watch| watch.check_at = None).is_some();
        if newest || certificate.active_version == Some(number) {
            certificate.state = CertificateState::Revoked;
            certificate.updated_at = now;
            // Where a newer version is on its way already, it is the replacement.
            if newest {
                certificate.hint_check_at = None;
                certificate.renew_at = revocation.replace.then_some(now);
                if revocation.replace {
                    batch = batch.enqueue(issue_job(&certificate, IssueReason::Revoked));
                }
            }
        }
        if unwatched || newest || held || certificate.active_version == Some(number) {
            batch = batch.update(&certificate)?;
        }
        // Should the commit meet another, the whole job runs again: revoking twice is harmless.
        Ok(Handled::success(batch))
    }
}
