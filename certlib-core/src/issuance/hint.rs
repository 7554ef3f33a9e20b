//! `refresh_renewal_hint`: asks the CA when to renew, and moves the renewal there.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;

use super::{CertificatePayload, REFRESH_HINT, payload};
use crate::backoff::Jitter;
use crate::bundle::CertificateBundle;
use crate::context::Subject;
use crate::error::{ErrorClass, Result};
use crate::model::{Certificate, CertificateVersion, Event, VersionState};
use crate::policy::{self, Advice};
use crate::queue::{Job, Lane};
use crate::random;
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
        let window = match renewal_info.renewal_window(&cx, &bundle).await {
            // The same as no answer (RFC 9773 section 4.2): it is asked again later.
            Err(error) if error.class() == ErrorClass::Validation && error.code() == "window_invalid" => {
                tracing::warn!(certificate = %certificate_id, %error, "the CA's window is ignored");
                None
            }
            window => window?,
        };
        if let Some(window) = window {
            retry_after = window.retry_after;
            let former = self.engine.store.find(&CertificateVersion::id_of(&certificate_id, number - 1)).await?;
            let former = former.map(|former: Versioned<CertificateVersion>| former.created_at);
            let bounds = policy::renewal_bounds(&version.leaf, version.created_at, former);
            let known = certificate.hint.as_ref();
            let advice = random::with(|rng| policy::follow_window(&window, known, &version.leaf, bounds, now, rng));
            match advice {
                Advice::Follow(hint) if certificate.hint.as_ref() != Some(&hint) => {
                    if hint.end <= now {
                        tracing::warn!(certificate = %certificate_id, end = %hint.end, "the CA's window has passed");
                    }
                    let data = json!({
                        "version": number,
                        "renew_at": hint.chosen.unix_timestamp(),
                        "explanation_url": hint.explanation_url,
                    });
                    let kind = "certificate.renewal_moved";
                    batch = batch.insert(&Event::new(&certificate.project, kind, &certificate_id, data, now))?;
                    certificate.renew_at = Some(hint.chosen);
                    certificate.hint = Some(hint);
                }
                Advice::Follow(_) => {}
                Advice::Ignore(why) => {
                    let (start, end) = (window.start, window.end);
                    tracing::warn!(certificate = %certificate_id, %start, %end, why, "the CA's window is ignored");
                }
            }
        }
        if retry_after.is_some_and(|after| !(policy::HINT_MIN..=policy::HINT_MAX).contains(&after)) {
            tracing::warn!(certificate = %certificate_id, ?retry_after, "the CA's Retry-After is out of bounds");
        }
        certificate.hint_check_at = Some(now + policy::hint_interval(retry_after, Jitter::random()));
        Ok(Handled::success(batch.update(&certificate)?))
    }
}
