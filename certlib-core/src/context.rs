//! What every call to an issuer or a module is given.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, SystemClock};
use crate::error::{Error, Result, codes};

/// The surroundings of one operation: its clock, its cancellation, and what it is about.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Context {
    /// The time; also for waiting.
    pub clock: Arc<dyn Clock>,
    /// Fires when the operation should stop at the next safe point.
    pub cancel: CancellationToken,
    /// The same for every retry of the same operation: an idempotency key.
    pub operation_id: String,
    /// What the operation is about.
    pub subject: Subject,
}

/// What an operation is about; parts that do not apply are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Subject {
    /// The project.
    pub project: String,
    /// The certificate.
    pub certificate_id: String,
    /// Its version.
    pub version: u32,
}

impl Subject {
    /// Version `version` of a certificate.
    pub fn certificate(project: &str, certificate_id: &str, version: u32) -> Self {
        Self { project: project.to_owned(), certificate_id: certificate_id.to_owned(), version }
    }
}

impl Context {
    /// A context with the system clock that nobody cancels.
    pub fn new(operation_id: impl Into<String>) -> Self {
        Self::with(SystemClock::shared(), CancellationToken::new(), operation_id)
    }

    /// A context with this clock and cancellation.
    pub fn with(clock: Arc<dyn Clock>, cancel: CancellationToken, operation_id: impl Into<String>) -> Self {
        Self { clock, cancel, operation_id: operation_id.into(), subject: Subject::default() }
    }

    /// The same context about `subject`.
    #[must_use]
    pub fn about(mut self, subject: Subject) -> Self {
        self.subject = subject;
        self
    }

    /// Fails with `cancelled` once the operation should stop. Call it at safe points only.
    ///
    /// # Errors
    /// `IoTransient` `cancelled`.
    pub fn check_cancelled(&self, operation: &'static str) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(Error::transient(operation, codes::CANCELLED, "stopped on request"));
        }
        Ok(())
    }
}
