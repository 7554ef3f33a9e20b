//! From a certificate that should exist to issued material: orders, revocation, renewal hints.

mod hint;
mod issue;
mod order;
pub mod rate;
mod revoke;

use serde::{Deserialize, Serialize};
use serde_json::json;

pub(crate) use self::hint::HintHandler;
pub(crate) use self::issue::IssuanceHandler;
pub(crate) use self::revoke::RevocationHandler;
use crate::client::Revocation;
use crate::error::{Error, Result};
use crate::model::Certificate;
use crate::queue::{Job, Lane, NewJob};

/// The type of job that gets a certificate's first version.
pub const ISSUE: &str = "issue_certificate";
/// The type of job that gets a further version.
pub const RENEW: &str = "renew_certificate";
/// The type of job that revokes a version.
pub const REVOKE: &str = "revoke_certificate";
/// The type of job that asks the CA when to renew.
pub const REFRESH_HINT: &str = "refresh_renewal_hint";

/// The kind of the event that each failed attempt at a renewal leaves, with class, attempt and severity.
pub const RENEWAL_FAILED: &str = "cert.renewal_failed";
/// The kind of the event that says that it is unclear whether the CA has an order, and that somebody has to look.
pub const ORDER_UNCLEAR: &str = "certificate.order_unclear";

/// Why a version is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum IssueReason {
    /// Somebody asked.
    Requested,
    /// The present version ends soon, or the CA says so.
    Renewal,
    /// The present version was revoked.
    Revoked,
}

/// The payload of all jobs about one certificate.
#[derive(Debug, Serialize, Deserialize)]
struct CertificatePayload {
    certificate_id: String,
    /// The version that is wanted: a job that finds it there has nothing to do.
    #[serde(default)]
    version: u32,
}

/// The job that gets a new version of `certificate`.
pub(crate) fn job(certificate: &Certificate, reason: IssueReason) -> NewJob {
    let kind = if certificate.latest_version == 0 { ISSUE } else { RENEW };
    let payload =
        json!({ "certificate_id": certificate.id, "version": certificate.latest_version + 1, "reason": reason });
    // A revoked certificate is in use somewhere: it goes first.
    let priority = if reason == IssueReason::Revoked { 10 } else { 0 };
    NewJob::new(kind, Lane::Issuance, payload)
        .with_key(&*certificate.id)
        .with_project(&*certificate.project)
        .with_priority(priority)
}

/// The job that revokes a version of `certificate`.
pub(crate) fn revocation_job(certificate: &Certificate, revocation: Revocation) -> NewJob {
    let version = revocation.version.unwrap_or(certificate.latest_version);
    NewJob::new(REVOKE, Lane::Issuance, json!({ "certificate_id": certificate.id, "revocation": revocation }))
        .with_key(format!("{}/{version}", certificate.id))
        .with_project(&*certificate.project)
        .with_priority(10)
}

/// The job that asks the CA when to renew `certificate`.
pub(crate) fn hint_job(certificate: &Certificate) -> NewJob {
    NewJob::new(REFRESH_HINT, Lane::Maintenance, json!({ "certificate_id": certificate.id }))
        .with_key(&*certificate.id)
        .with_project(&*certificate.project)
}

/// A job's payload in its own type.
pub(crate) fn payload<T: for<'de> Deserialize<'de>>(job: &Job) -> Result<T> {
    T::deserialize(&job.payload).map_err(|error| {
        Error::validation("job.payload", "payload_invalid", "the job's payload is not what its type needs")
            .with_source(error)
    })
}
