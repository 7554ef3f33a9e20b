//! What the journal keeps: enough to go on, and enough to go back.

use std::collections::BTreeMap;

use certlib_core::bundle::Fingerprint;
use serde::{Deserialize, Serialize};

use super::config::{MountKind, VaultLocation};
use super::data::SecretData;
use super::kv::{Custom, Found};

/// An entry of the journal. Holds the former secret: it is sealed by the engine.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Undo {
    /// The fields of a secret are about to be written.
    Secret(SecretChange),
    /// What was about to be written was certainly not.
    NotWritten,
    /// Custom metadata is about to be written.
    Custom(CustomChange),
    /// An issuer is about to be imported and made the default one.
    Issuer(IssuerChange),
}

/// A change of a secret's fields.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct SecretChange {
    /// Where.
    pub place: Place,
    /// The version before; 0 if there was none, and in engines of the first version.
    pub version: u64,
    /// What was there; `None` when nothing was, or nothing that could be read.
    pub(super) before: Option<SecretData>,
    /// The digest of what will be there.
    pub(super) after: String,
    /// The certificate that comes.
    pub fingerprint: Fingerprint,
}

/// A change of custom metadata: of the names that are certlib's.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct CustomChange {
    /// What was there.
    pub before: BTreeMap<String, Option<String>>,
    /// What will be there.
    pub after: BTreeMap<String, String>,
}

/// A change of a PKI mount's default issuer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct IssuerChange {
    /// Where.
    pub place: Place,
    /// The default issuer before, if there was one.
    pub former: Option<String>,
    /// Whether later imports move the default by themselves.
    pub follows_latest: bool,
    /// The digest of the serial numbers of all certificates that were issued before; `None` when it is not known which.
    pub issued: Option<String>,
    /// The certificate that comes.
    pub fingerprint: Fingerprint,
}

/// Which secret or mount. The server's URL does not count: servers move, and a secret is known by its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Place {
    /// The namespace, without slashes at its ends; empty for the root.
    pub namespace: String,
    /// What is mounted.
    pub kind: MountKind,
    /// The path of the mount.
    pub mount: String,
    /// The path of the secret below it.
    pub path: String,
}

impl Place {
    pub(super) fn of(location: &VaultLocation, kind: MountKind) -> Self {
        let plain = |path: &str| path.trim_matches('/').to_owned();
        Self {
            namespace: plain(location.namespace.as_deref().unwrap_or_default()),
            kind,
            mount: plain(&location.mount),
            path: plain(&location.path),
        }
    }
}

/// How a secret is, compared with a recorded change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Is {
    /// As it was before.
    Former,
    /// As it was to be afterwards.
    New,
    /// Otherwise.
    Other,
}

impl SecretChange {
    /// What a found secret is.
    pub(super) fn classify(&self, found: &Found) -> Is {
        let versioned = self.place.kind == MountKind::Kv2;
        let digest = |data: &Option<SecretData>| data.as_ref().map(SecretData::digest);
        let (now, before) = (digest(&found.data), digest(&self.before));
        let next = !versioned || found.version == self.version + 1;
        if next && now.as_ref() == Some(&self.after) {
            Is::New
        } else if now == before {
            Is::Former
        } else {
            Is::Other
        }
    }
}

/// What a journal says about a secret.
#[derive(Debug, Default)]
pub(super) struct Recorded<'a> {
    /// The change that was made, or may have been.
    pub(super) secret: Option<&'a SecretChange>,
    pub(super) custom: Option<&'a CustomChange>,
}

impl<'a> Recorded<'a> {
    pub(super) fn read(entries: &'a [Undo]) -> Self {
        entries.iter().fold(Self::default(), |recorded, entry| match entry {
            Undo::Secret(secret) => Self { secret: Some(secret), ..recorded },
            Undo::NotWritten => Self { secret: None, ..recorded },
            Undo::Custom(custom) => Self { custom: Some(custom), ..recorded },
            Undo::Issuer(_) => recorded,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.secret.is_none() && self.custom.is_none()
    }
}

impl CustomChange {
    /// From what is said now to what will be.
    pub(super) fn record(now: &Custom, after: &Custom) -> Self {
        let before = after.keys().map(|name| (name.clone(), now.get(name).cloned())).collect();
        Self { before, after: after.clone() }
    }

    /// What is said, without what this change said: names that somebody else has set again stay. `None`: as it is.
    pub(super) fn undone(&self, now: &Custom) -> Option<Custom> {
        let mut custom = now.clone();
        for (name, after) in self.after.iter().filter(|(name, after)| now.get(*name) == Some(after)) {
            match self.before.get(name).cloned().flatten() {
                Some(before) if before == *after => {}
                Some(before) => drop(custom.insert(name.clone(), before)),
                None => drop(custom.remove(name)),
            }
        }
        (custom != *now).then_some(custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_words_are_taken_back() {
        let custom = |pairs: &[(&str, &str)]| -> Custom {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let before = custom(&[("a", "old"), ("owner", "x")]);
        let after = custom(&[("a", "new"), ("b", "new"), ("c", "new")]);
        let change = CustomChange::record(&before, &after);
        let now = custom(&[("a", "new"), ("b", "theirs"), ("c", "new"), ("owner", "y")]);
        assert_eq!(change.undone(&now), Some(custom(&[("a", "old"), ("b", "theirs"), ("owner", "y")])));
        assert_eq!(change.undone(&before), None);
    }
}
