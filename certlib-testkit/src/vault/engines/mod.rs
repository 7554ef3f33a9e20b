//! Secrets engines.

mod transit;

use serde_json::Value;
use time::OffsetDateTime;

use self::transit::Transit;
use super::{answer::Outcome, call::Call};

/// What a simulated server differs in from a present one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Settings {
    /// As before Vault 1.13: `associated_data` is a field that nobody knows, and so is not looked at.
    pub(super) ignores_associated_data: bool,
}

/// One mounted engine with what it keeps.
pub(super) trait Engine: Send {
    /// As in `sys/mounts`.
    fn kind(&self) -> &'static str;

    /// As in `sys/mounts`.
    fn options(&self) -> Value {
        Value::Null
    }

    /// Whether what a write to `path` goes to is there; `None` where Vault makes no difference.
    fn exists(&self, path: &str) -> Option<bool>;

    /// Carries out a call; its path is what follows the mount.
    fn handle(&mut self, call: &Call, settings: &Settings, now: OffsetDateTime) -> Outcome;
}

/// A new engine of a kind, if there is such a kind.
pub(super) fn make(kind: &str) -> Option<Box<dyn Engine>> {
    match kind {
        "transit" => Some(Box::new(Transit::default())),
        _ => None,
    }
}
