//! Speaks of certificates that end.

use async_trait::async_trait;
use serde_json::json;
use time::{Duration, OffsetDateTime};

use super::due::{Advance, Due, sweep_due};
use super::{Sweep, SweepContext};
use crate::error::Result;
use crate::model::{Certificate, Event};
use crate::policy::{check_expiry, expiry_severity};
use crate::store::{Versioned, WriteBatch};

/// The kind of the event that says that a certificate ends soon.
pub const EXPIRING_EVENT: &str = "cert.expiring_soon";
/// The kind of the event that says that a certificate has ended.
pub const EXPIRED_EVENT: &str = "cert.expired";

/// Leaves a `cert.expiring_soon` event at each threshold before the end of the version that is in use, and a
/// `cert.expired` event at its end.
///
/// Each is left once for each certificate, end and threshold, whoever sweeps and how often: it is committed together
/// with the mark that says so, and its id follows from the three. A sweep that is late leaves only the nearest notice.
/// [`check_expiry`] says which thresholds count.
#[derive(Debug, Clone)]
pub struct ExpirationSweep {
    thresholds: Vec<u32>,
}

impl ExpirationSweep {
    /// With these thresholds, in days before the end.
    pub fn new(thresholds: Vec<u32>) -> Self {
        Self { thresholds }
    }
}

#[async_trait]
impl Sweep for ExpirationSweep {
    fn name(&self) -> &'static str {
        "expiration"
    }

    async fn run(&self, cx: &SweepContext) -> Result<usize> {
        sweep_due(cx, self).await
    }
}

#[async_trait]
impl Due for ExpirationSweep {
    type Record = Certificate;
    const FIELD: &'static str = "expiry_check_at";

    async fn advance(
        &self,
        _: &SweepContext,
        certificate: &mut Versioned<Certificate>,
        now: OffsetDateTime,
    ) -> Result<Advance> {
        let Some(watch) = &mut certificate.expiry else { return Ok(Advance::alone()) };
        let (from, end) = (watch.not_before, watch.not_after);
        let check = check_expiry(from, end, &self.thresholds, watch.told, now);
        watch.check_at = check.next;
        let Some(days) = check.notice else { return Ok(Advance::alone()) };
        watch.told = Some(days);
        let data = json!({
            "version": watch.version,
            "threshold_days": days,
            "not_after": end.unix_timestamp(),
            "severity": expiry_severity(end - now, end - from),
            "names": certificate.names,
        });
        let kind = if days == 0 { EXPIRED_EVENT } else { EXPIRING_EVENT };
        let event = Event::new(&certificate.project, kind, &certificate.id, data, now)
            .once(&format!("{}/{days}", end.unix_timestamp()), end.saturating_sub(Duration::days(i64::from(days))));
        Ok(Advance::with(WriteBatch::new().insert(&event)?))
    }
}
