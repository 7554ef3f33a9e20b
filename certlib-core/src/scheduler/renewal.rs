//! Renews what is due.

use std::sync::OnceLock;
use std::time::Duration;

use async_trait::async_trait;
use rand::RngExt as _;
use serde_json::json;
use time::OffsetDateTime;

use super::due::{Advance, Due, sweep_due};
use super::{Sweep, SweepContext};
use crate::error::Result;
use crate::issuance::{self, IssueReason};
use crate::model::{Certificate, Event, IssuancePolicy};
use crate::policy::Wish;
use crate::queue::{JobFilter, NewJob};
use crate::store::{StoreExt as _, Versioned, WriteBatch};
use crate::{policy, random};

/// The kind of the event that says that a certificate that is due is not what its project's policy allows any more.
pub const POLICY_VIOLATED_EVENT: &str = "certificate.policy_violated";

/// Enqueues `renew_certificate` for each certificate whose `renew_at` has come, oldest first.
///
/// When many have piled up, because nobody led for a while, their jobs are spread: see
/// [`policy::release_delay`](crate::policy::release_delay).
#[derive(Debug, Clone, Copy)]
pub struct RenewalSweep;

#[async_trait]
impl Sweep for RenewalSweep {
    fn name(&self) -> &'static str {
        "renewal"
    }

    async fn run(&self, cx: &SweepContext) -> Result<usize> {
        sweep_due(cx, &Renewals::default()).await
    }
}

#[derive(Default)]
struct Renewals {
    /// How long the oldest of what is due has been so: the first one tells.
    backlog: OnceLock<Duration>,
}

#[async_trait]
impl Due for Renewals {
    type Record = Certificate;
    const FIELD: &'static str = "renew_at";

    async fn advance(
        &self,
        cx: &SweepContext,
        certificate: &mut Versioned<Certificate>,
        now: OffsetDateTime,
    ) -> Result<Advance> {
        let late = certificate.renew_at.map(|due| Duration::try_from(now - due).unwrap_or_default());
        let backlog = *self.backlog.get_or_init(|| late.unwrap_or_default());
        let not_after = certificate.expiry.as_ref().map(|watch| watch.not_after);
        let left = not_after.map(|not_after| Duration::try_from(not_after - now).unwrap_or_default());
        certificate.renew_at = Some(policy::look_again(now, not_after));
        let job = issuance::job(certificate, IssueReason::Renewal);
        if is_under_way(cx, &job).await? {
            return Ok(Advance::alone());
        }
        let mut batch = WriteBatch::new();
        if let Some(policy) = cx.store.find::<IssuancePolicy>(&certificate.project).await?
            && let Err(error) = policy::admit(&policy, &Wish::of(certificate))
        {
            // Once for each version: the certificate is looked at every day.
            let version = certificate.latest_version;
            let data = json!({ "version": version, "error": error.to_record(), "renewed": !policy.stop_renewals });
            let event = Event::new(&certificate.project, POLICY_VIOLATED_EVENT, &certificate.id, data, now)
                .once(&version.to_string(), certificate.created_at);
            if cx.store.find::<Event>(&event.id).await?.is_none() {
                batch = batch.insert(&event)?;
            }
            if policy.stop_renewals {
                return Ok(Advance::with(batch));
            }
        }
        let delay = policy::release_delay(backlog, left, random::with(|rng| rng.random_range(0.0..1.0)));
        Ok(Advance::with(batch.enqueue(job.with_delay(delay))))
    }
}

/// Whether there is such a job already. To enqueue it again would have it run at once, whatever its ladder or the CA's
/// Retry-After say.
async fn is_under_way(cx: &SweepContext, job: &NewJob) -> Result<bool> {
    let filter = JobFilter { kind: Some(job.kind.clone()), key: job.key.clone(), limit: 1, ..JobFilter::default() };
    Ok(cx.store.jobs(&filter).await?.first().is_some_and(|job| job.state.is_active()))
}
