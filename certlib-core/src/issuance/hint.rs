//! `refresh_renewal_hint`: asks the CA when to renew, and moves the renewal there.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;

use super::{CertificatePayload, REFRESH_HINT, payload};
use crate::bundle::CertificateBundle;
use crate::context::Subject;
use crate::error::Result;
use crate::model::{Certificate, CertificateVersion, Event, VersionState};
use crate::policy;
use crate::queue::{Job, Lane};
use crate::runtime::{Engine, Handled, JobContext, JobHandler};
use crate::store::{StoreExt as _, Versioned, WriteBatch};

/// Refreshes a certificate's renewal hint.
#[derive(Debug)]
pub(crate) struct HintHandler {
    engine: Arc<Engine>,
}

impl HintHandler {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }
}

#[async_trait]
impl JobHandler for HintHandler {
    fn kind(&self) -> &'static str {
        REFRESH_HINT
    }

    fn lane(&self) -> Lane {
        Lane::Maintenance
    }

    async fn run(&self, job: &Job, context: &JobContext) -> Result<Handled> {
        let CertificatePayload { certificate_id, .. } = payload(job)?;
        let mut certificate = self.engine.store.load::<Certificate>(&certificate_id).await?;
        let number = certificate.latest_version;
        let wanted = number > 0 && certificate.renewal.automatic && certificate.renewal.follow_hint;
        if !wanted {
            certificate.hint_check_at = None;
            return Ok(Handled::success(WriteBatch::new().update(&certificate)?));
        }
        let version =
            self.engine.store.load::<CertificateVersion>(&CertificateVersion::id_of(&certificate_id, number)).await?;
        if version.state != VersionState::Issued {
            certificate.hint_check_at = None;
            return Ok(Handled::success(WriteBatch::new().update(&certificate)?));
        }
        let cx = context.cx.clone().about(Subject::certificate(&certificate.project, &certificate_id, number));
        let issuer = self.engine.issuer(&cx, &version.issuer_id).await?;
        let Some(renewal_info) = issuer.renewal_info() else {
            certificate.hint_check_at = None;
            return Ok(Handled::success(WriteBatch::new().update(&certificate)?));
        };
        let bundle = CertificateBundle::from_pem(version.chain_pem.as_bytes())?;
        let now = self.engine.clock.now();
        let mut batch = WriteBatch::new();
        let mut retry_after = None;
        if let Some(window) = renewal_info.renewal_window(&cx, &bundle).await? {
            retry_after = window.retry_after;
            let mut hint = policy::choose_instant(&window, certificate.hint.as_ref(), &mut rand::rng());
            let former = self.engine.store.find(&CertificateVersion::id_of(&certificate_id, number - 1)).await?;
            let former = former.map(|former: Versioned<CertificateVersion>| former.created_at);
            let (earliest, latest) = policy::renewal_bounds(&version.leaf, version.created_at, former);
            if hint.chosen < earliest || hint.chosen > latest {
                tracing::warn!(certificate = %certificate_id, chosen = %hint.chosen, "the CA's window is out of bounds");
                hint.chosen = hint.chosen.clamp(earliest, latest);
            }
            if certificate.hint.as_ref() != Some(&hint) {
                let data = json!({
                    "version": number,
                    "renew_at": hint.chosen.unix_timestamp(),
                    "explanation_url": hint.explanation_url,
                });
                batch = batch.insert(&Event::new(
                    &certificate.project,
                    "certificate.renewal_moved",
                    &certificate_id,
                    data,
                    now,
                ))?;
                certificate.renew_at = Some(hint.chosen);
                certificate.hint = Some(hint);
            }
        }
        certificate.hint_check_at = Some(now + policy::hint_interval(retry_after));
        Ok(Handled::success(batch.update(&certificate)?))
    }
}
