//! The records that certlib keeps.
//!
//! Every record belongs to a project; ids are unique over all projects. Secrets appear only as
//! [`Sealed`](crate::secret::Sealed).

mod approval;
mod certificate;
mod challenge;
mod download;
mod event;
mod job_log;
mod keyring;
mod limit;
mod node;
mod order;
mod project;
mod rules;
mod run;
mod target;

pub use self::approval::{ApprovalDecision, ApprovalRequest, ApprovalState};
pub use self::certificate::{
    Certificate, CertificateState, CertificateVersion, ExpiryWatch, RenewalHint, RenewalPolicy, VersionState,
};
pub use self::challenge::AcmeChallenge;
pub use self::download::Download;
pub use self::event::{Event, Severity};
pub use self::job_log::{JobLog, JobLogLine, LogLevel, LogPosition};
pub use self::keyring::{Backup, KekFence, KeyringState, Rotation, RotationCursor, RotationPhase};
pub use self::limit::{IssuanceBucket, IssuanceLimit, IssuanceWindow};
pub use self::node::{LaneLoad, Node};
pub use self::order::{Order, OrderStage};
pub use self::project::{Credential, Issuer, IssuerSecret, Project};
pub use self::rules::{ApprovalRule, IssuancePolicy, MaintenanceWindow, Rollout};
pub use self::run::{JournalEntry, Run, RunState, RunSummary, TargetPhase, TargetRun, TargetStatus, Waiting};
pub use self::target::{Distribution, Target, TargetState, Trigger};
use crate::error::{Error, Result};
use crate::random;
use crate::store::RecordKinds;

/// Every kind of record of certlib itself that outlives the process that wrote it.
pub fn record_kinds() -> RecordKinds {
    RecordKinds::none()
        .with::<AcmeChallenge>()
        .with::<ApprovalRequest>()
        .with::<Backup>()
        .with::<Certificate>()
        .with::<CertificateVersion>()
        .with::<Credential>()
        .with::<Distribution>()
        .with::<Event>()
        .with::<IssuancePolicy>()
        .with::<IssuanceWindow>()
        .with::<Issuer>()
        .with::<IssuerSecret>()
        .with::<JournalEntry>()
        .with::<KekFence>()
        .with::<KeyringState>()
        .with::<Order>()
        .with::<Project>()
        .with::<Run>()
        .with::<Target>()
        .with::<TargetRun>()
        .with::<TargetState>()
}

/// A fresh id, which sorts by age: UUID version 7.
pub fn new_id() -> String {
    random::id().to_string()
}

/// Fails unless `name` can name something: 1 to 100 characters, none of them control characters.
///
/// # Errors
/// `Validation` `name_invalid`.
pub fn check_name(what: &'static str, name: &str) -> Result<()> {
    if name.is_empty() || name.chars().count() > 100 || name.chars().any(char::is_control) {
        return Err(Error::validation("model.check", "name_invalid", format!("{what}: 1 to 100 printable characters"))
            .with("name", name.escape_debug()));
    }
    Ok(())
}
