//! The one error type of certlib.
//!
//! An [`Error`] says what a caller can *do*: its [`ErrorClass`] decides whether a retry can help, its
//! [`Effect`] whether the outside world may have changed, its `code` names the exact cause in a form that
//! programs may match on. Messages are for people and may change.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A [`Result`](std::result::Result) with certlib's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation failed, by remedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// The peer could not be reached: DNS, TCP, TLS, or silence before the first byte of an answer. Retried.
    Network,
    /// The peer is there and says "not now": 429, 5xx, busy, locked. Retried, honouring its `Retry-After`.
    IoTransient,
    /// We are not who the peer wants, or the peer is not who we want. Never retried.
    Auth,
    /// What was asked for is wrong and will stay wrong: bad input, policy, a failed challenge. Never retried.
    Validation,
    /// The peer or the disk refuses for a lasting reason: permission, disk full, unsupported. Never retried.
    IoPermanent,
}

impl ErrorClass {
    /// Whether trying again later can help.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Network | Self::IoTransient)
    }

    /// The class as it appears in JSON, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::IoTransient => "io_transient",
            Self::Auth => "auth",
            Self::Validation => "validation",
            Self::IoPermanent => "io_permanent",
        }
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a failed operation may have left behind in the outside world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Nothing was changed.
    None,
    /// Something may have been changed: the answer was lost, or the failure came halfway.
    Possible,
}

/// Codes that certlib itself reacts to. Backends are free to add their own.
pub mod codes {
    /// A condition of a commit did not hold; nothing was written.
    pub const CONFLICT: &str = "conflict";
    /// The record, job or object does not exist.
    pub const NOT_FOUND: &str = "not_found";
    /// The claim on a job, or the leader's lease, belongs to somebody else now.
    pub const LEASE_LOST: &str = "lease_lost";
    /// The work was asked to stop and stopped at a safe point.
    pub const CANCELLED: &str = "cancelled";
    /// The target holds neither the certificate we deployed nor the one we saved: somebody else changed it.
    pub const FOREIGN_CHANGE: &str = "foreign_change";
    /// The target changed since the plan was made.
    pub const PLAN_STALE: &str = "plan_stale";
    /// It is unclear whether the CA has an order, and nobody but its users can tell.
    pub const ORDER_UNCLEAR: &str = "order_unclear";
    /// The target says that it is gone for good: the engine pauses it, with an event, until somebody lifts the pause.
    pub const TARGET_GONE: &str = "target_gone";
    /// The private key does not belong to the leaf certificate.
    pub const KEY_MISMATCH: &str = "key_mismatch";
}

/// An error with class, effect, operation, code, message, context and source.
///
/// One pointer wide. `Display` is one line; `Debug` shows everything, sources included.
pub struct Error(Box<Inner>);

struct Inner {
    class: ErrorClass,
    effect: Effect,
    operation: &'static str,
    code: Cow<'static, str>,
    message: String,
    context: Vec<(&'static str, String)>,
    retry_after: Option<Duration>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `class`, raised by `operation` (such as `"ssh.connect"`), for the reason `code`
    /// (such as `"host_key_unknown"`), explained by `message`.
    ///
    /// The effect starts as [`Effect::None`].
    pub fn new(
        class: ErrorClass,
        operation: &'static str,
        code: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) -> Self {
        Self(Box::new(Inner {
            class,
            effect: Effect::None,
            operation,
            code: code.into(),
            message: message.into(),
            context: Vec::new(),
            retry_after: None,
            source: None,
        }))
    }

    /// Shorthand for [`ErrorClass::Network`].
    pub fn network(operation: &'static str, code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(ErrorClass::Network, operation, code, message)
    }

    /// Shorthand for [`ErrorClass::IoTransient`].
    pub fn transient(operation: &'static str, code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(ErrorClass::IoTransient, operation, code, message)
    }

    /// Shorthand for [`ErrorClass::Auth`].
    pub fn auth(operation: &'static str, code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(ErrorClass::Auth, operation, code, message)
    }

    /// Shorthand for [`ErrorClass::Validation`].
    pub fn validation(operation: &'static str, code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(ErrorClass::Validation, operation, code, message)
    }

    /// Shorthand for [`ErrorClass::IoPermanent`].
    pub fn permanent(operation: &'static str, code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(ErrorClass::IoPermanent, operation, code, message)
    }

    /// A missing record or object, class [`ErrorClass::Validation`].
    pub fn not_found(operation: &'static str, what: impl fmt::Display) -> Self {
        Self::validation(operation, codes::NOT_FOUND, format!("{what} does not exist"))
    }

    /// Adds a key and value that help to find the cause: a host, a path, a limit. Never a secret.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        self.0.context.push((key, value.to_string()));
        self
    }

    /// Sets what may have been left behind.
    #[must_use]
    pub fn with_effect(mut self, effect: Effect) -> Self {
        self.0.effect = effect;
        self
    }

    /// Sets when the peer asked us to come back.
    #[must_use]
    pub fn with_retry_after(mut self, after: Option<Duration>) -> Self {
        self.0.retry_after = after;
        self
    }

    /// Sets the underlying error.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Why it failed, by remedy.
    pub fn class(&self) -> ErrorClass {
        self.0.class
    }

    /// What may have been left behind.
    pub fn effect(&self) -> Effect {
        self.0.effect
    }

    /// The operation that failed, such as `"ssh.connect"`.
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// The exact cause, stable over releases.
    pub fn code(&self) -> &str {
        &self.0.code
    }

    /// The explanation, without operation and code.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Keys and values added by [`Error::with`], in order.
    pub fn context(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.context.iter().map(|(key, value)| (*key, value.as_str()))
    }

    /// When the peer asked us to come back, if it did.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Whether a commit was refused because a condition did not hold.
    pub fn is_conflict(&self) -> bool {
        self.code() == codes::CONFLICT
    }

    /// Whether something does not exist.
    pub fn is_not_found(&self) -> bool {
        self.code() == codes::NOT_FOUND
    }

    /// The error as data, to be kept with a job or a target run.
    pub fn to_record(&self) -> ErrorRecord {
        let mut message = self.to_string();
        truncate(&mut message, ErrorRecord::MESSAGE_LIMIT);
        ErrorRecord {
            class: self.class(),
            code: self.code().to_owned(),
            operation: self.operation().to_owned(),
            message,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({}", self.0.operation, self.0.message, self.0.code)?;
        for (key, value) in &self.0.context {
            write!(f, ", {key}={value}")?;
        }
        f.write_str(")")
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} [class={}, effect={:?}", self.0.class, self.0.effect)?;
        if let Some(after) = self.0.retry_after {
            write!(f, ", retry_after={after:?}")?;
        }
        f.write_str("]")?;
        let mut source = self.source();
        while let Some(error) = source {
            write!(f, "\n  caused by: {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_ref().map(|source| &**source as &(dyn StdError + 'static))
    }
}

/// An [`Error`] as data: what a job's attempt or a target run keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorRecord {
    /// Why it failed, by remedy.
    pub class: ErrorClass,
    /// The exact cause.
    pub code: String,
    /// The operation that failed.
    pub operation: String,
    /// One line for people, at most [`ErrorRecord::MESSAGE_LIMIT`] bytes.
    pub message: String,
}

impl ErrorRecord {
    /// The longest message kept, in bytes.
    pub const MESSAGE_LIMIT: usize = 8 * 1024;
}

impl fmt::Display for ErrorRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.message, self.class)
    }
}

/// Shortens `text` to at most `limit` bytes at a character boundary.
pub(crate) fn truncate(text: &mut String, limit: usize) {
    if text.len() > limit {
        let end = (0..=limit).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pointer_wide() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }

    #[test]
    fn display_is_one_line_and_debug_shows_sources() {
        let error = Error::network("ssh.connect", "connect_refused", "nobody listens")
            .with("host", "web-01")
            .with_source(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
        assert_eq!(error.to_string(), "ssh.connect: nobody listens (connect_refused, host=web-01)");
        assert!(format!("{error:?}").contains("caused by: connection refused"));
    }

    #[test]
    fn records_cut_at_a_character() {
        let error = Error::validation("t", "c", "é".repeat(ErrorRecord::MESSAGE_LIMIT));
        let record = error.to_record();
        assert!(record.message.len() <= ErrorRecord::MESSAGE_LIMIT);
    }
}
