//! Secrets engines.

mod kv;
mod pki;
mod transit;

use serde_json::{Map, Value};
use time::OffsetDateTime;

use self::{kv::KvV1, kv::KvV2, pki::Pki, transit::Transit};
use super::{answer::Outcome, call::Call};

/// What a simulated server differs in from a present one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Settings {
    /// As before Vault 1.13: `associated_data` is a field that nobody knows, and so is not looked at.
    pub(super) ignores_associated_data: bool,
    /// As before Vault 1.11: a PKI engine has one issuer, and no paths for several.
    pub(super) single_issuer: bool,
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
pub(super) fn make(kind: &str, options: Option<&Map<String, Value>>) -> Option<Box<dyn Engine>> {
    let version = options.and_then(|options| options.get("version"));
    let second = version.is_some_and(|version| version == "2" || version == 2);
    match kind {
        "kv-v2" => Some(Box::new(KvV2::default())),
        "kv" if second => Some(Box::new(KvV2::default())),
        "kv" | "kv-v1" | "generic" => Some(Box::new(KvV1::default())),
        "pki" => Some(Box::new(Pki::default())),
        "transit" => Some(Box::new(Transit::default())),
        _ => None,
    }
}
