//! What the journal keeps: enough to go on, and enough to go back.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certlib_core::Secret;
use certlib_core::secret::SecretBytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zeroize::Zeroizing;

use super::filesystem::{Attributes, FileState, Found};
use super::haproxy::Commit;
use super::layout::Format;
use super::survey::{Item, real};
use super::{path, sha256};

/// An entry of the journal.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Undo {
    /// Files are about to be swapped.
    Swap(Swap),
    /// The service is about to be told to read its files.
    Reloading,
    /// HAProxy is about to be given the certificate.
    Committing(Commit),
}

/// All files of one swap.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Swap {
    /// The machine they are on: [`Delivery::machine`](super::Delivery::machine).
    pub machine: String,
    /// What the names of the temporary files end in.
    pub nonce: String,
    /// The files that change, in order.
    pub files: Vec<Change>,
}

/// One file of a swap.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Change {
    /// What it is.
    pub format: Format,
    /// The configured path.
    pub path: String,
    /// The file that is replaced; differs from `path` when that is a symbolic link.
    pub real: String,
    /// What was there; `None` when nothing was.
    pub before: Option<Former>,
    /// What will be there.
    pub after: New,
}

/// A file as it was.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Former {
    /// All of it.
    #[serde(serialize_with = "serialize", deserialize_with = "deserialize")]
    pub content: SecretBytes,
    /// Permission bits.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// A file as it will be.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct New {
    /// SHA-256 of the content, lower-case hex.
    pub sha256: String,
    /// The content, where it comes out differently each time it is made.
    #[serde(serialize_with = "serialize_option", deserialize_with = "deserialize_option")]
    pub content: Option<SecretBytes>,
    /// Permission bits.
    pub mode: u32,
    /// Its owner, if that is set.
    pub uid: Option<u32>,
    /// Its group, if that is set.
    pub gid: Option<u32>,
    /// Whether owner and group must be as said.
    pub owner_required: bool,
}

/// Whose file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Is {
    /// The one that was recorded, or as absent as was recorded.
    Former,
    /// The content that was recorded, but with another mode or owner.
    FormerContent,
    /// The new one.
    New,
    /// There is none, although one was recorded: removed by us on a machine that cannot replace, or by somebody else.
    Missing,
    /// Neither.
    Foreign,
}

impl Change {
    /// What is needed to undo the replacement of `item`.
    pub(super) fn record(item: &Item<'_>) -> Self {
        let before = match &item.found {
            Found::Absent => None,
            Found::File(FileState { content, mode, uid, gid, .. }) => {
                Some(Former { content: content.duplicate(), mode: *mode, uid: *uid, gid: *gid })
            }
        };
        let Attributes { mode, uid, gid, owner_required } = item.attributes;
        let content = (item.format == Format::Pfx).then(|| item.content.duplicate());
        let after = New { sha256: sha256(item.content.expose()), content, mode, uid, gid, owner_required };
        let real = item.real().to_owned();
        Self { format: item.format, path: item.output.path.clone(), real, before, after }
    }

    /// Whose file `found` is.
    pub(super) fn classify(&self, found: &Found) -> Is {
        let file = match (found, &self.before) {
            (Found::Absent, None) => return Is::Former,
            (Found::Absent, Some(_)) => return Is::Missing,
            (Found::File(file), _) => file,
        };
        if real(&self.path, found) != self.real {
            return Is::Foreign;
        }
        let after = &self.after;
        let is_new = sha256(file.content.expose()) == after.sha256;
        let has_new_attributes = file.mode == after.mode
            && after.uid.is_none_or(|uid| uid == file.uid)
            && after.gid.is_none_or(|gid| gid == file.gid);
        match &self.before {
            Some(before) if before.content.expose() == file.content.expose() => {
                if before.is(file) {
                    Is::Former
                } else if is_new && has_new_attributes {
                    Is::New
                } else {
                    Is::FormerContent
                }
            }
            _ if is_new => Is::New,
            _ => Is::Foreign,
        }
    }

    /// The temporary file on the way forward.
    pub(super) fn temporary(&self, nonce: &str) -> String {
        path::temporary(&self.real, nonce)
    }

    /// The temporary file on the way back.
    pub(super) fn undo_temporary(&self, nonce: &str) -> String {
        path::temporary(&self.real, &format!("{nonce}u"))
    }
}

impl Former {
    /// Mode and owner to be restored.
    pub(super) fn attributes(&self) -> Attributes {
        Attributes { mode: self.mode, uid: Some(self.uid), gid: Some(self.gid), owner_required: false }
    }

    fn is(&self, file: &FileState) -> bool {
        (self.mode, self.uid, self.gid) == (file.mode, file.uid, file.gid)
    }
}

impl New {
    /// Mode and owner to be set.
    pub(super) fn attributes(&self) -> Attributes {
        Attributes { mode: self.mode, uid: self.uid, gid: self.gid, owner_required: self.owner_required }
    }
}

fn serialize<S: Serializer>(content: &SecretBytes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&Zeroizing::new(STANDARD.encode(content.expose())))
}

fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretBytes, D::Error> {
    let text = Zeroizing::new(String::deserialize(deserializer)?);
    STANDARD.decode(text.as_bytes()).map(Secret::new).map_err(|_| de::Error::custom("content is not base64"))
}

fn serialize_option<S: Serializer>(content: &Option<SecretBytes>, serializer: S) -> Result<S::Ok, S::Error> {
    match content {
        Some(content) => serialize(content, serializer),
        None => serializer.serialize_none(),
    }
}

fn deserialize_option<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretBytes>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)?.map(Zeroizing::new) else { return Ok(None) };
    let decoded = STANDARD.decode(text.as_bytes()).map_err(|_| de::Error::custom("content is not base64"))?;
    Ok(Some(Secret::new(decoded)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(before: Option<(&str, u32)>, after: &str, mode: u32) -> Change {
        let before = before.map(|(content, mode)| Former {
            content: Secret::new(content.as_bytes().to_vec()),
            mode,
            uid: 0,
            gid: 0,
        });
        let after = New {
            sha256: sha256(after.as_bytes()),
            content: None,
            mode,
            uid: Some(0),
            gid: Some(0),
            owner_required: false,
        };
        Change { format: Format::Cert, path: "/c".into(), real: "/c".into(), before, after }
    }

    fn file(content: &str, mode: u32) -> Found {
        Found::File(FileState::new("/c", Secret::new(content.as_bytes().to_vec()), mode, 0, 0))
    }

    #[test]
    fn whose_file_it_is() {
        let replace = change(Some(("old", 0o644)), "new", 0o644);
        assert_eq!(replace.classify(&file("old", 0o644)), Is::Former);
        assert_eq!(replace.classify(&file("old", 0o600)), Is::FormerContent);
        assert_eq!(replace.classify(&file("new", 0o644)), Is::New);
        assert_eq!(replace.classify(&file("new", 0o600)), Is::New);
        assert_eq!(replace.classify(&file("else", 0o644)), Is::Foreign);
        assert_eq!(replace.classify(&Found::Absent), Is::Missing);

        let create = change(None, "new", 0o644);
        assert_eq!(create.classify(&Found::Absent), Is::Former);
        assert_eq!(create.classify(&file("new", 0o644)), Is::New);
        assert_eq!(create.classify(&file("old", 0o644)), Is::Foreign);

        let mode_only = change(Some(("same", 0o644)), "same", 0o600);
        assert_eq!(mode_only.classify(&file("same", 0o644)), Is::Former);
        assert_eq!(mode_only.classify(&file("same", 0o600)), Is::New);
        assert_eq!(mode_only.classify(&file("same", 0o640)), Is::FormerContent);
    }

    #[test]
    fn a_link_that_points_elsewhere_is_foreign() {
        let mut moved = change(Some(("old", 0o644)), "new", 0o644);
        moved.real = "/elsewhere".into();
        assert_eq!(moved.classify(&file("old", 0o644)), Is::Foreign);
    }

    #[test]
    fn entries_survive_the_journal_and_hide_in_debug() {
        let undo = Undo::Swap(Swap {
            machine: "m".into(),
            nonce: "n".into(),
            files: vec![change(Some(("canary", 0o600)), "new", 0o600)],
        });
        assert!(!format!("{undo:?}").contains("canary"));
        let json = serde_json::to_vec(&undo).unwrap();
        let Undo::Swap(swap) = serde_json::from_slice(&json).unwrap() else { panic!("another step") };
        assert_eq!(swap.files[0].before.as_ref().unwrap().content.expose(), b"canary");
        assert!(serde_json::from_str::<Undo>(r#"{"step":"reloading"}"#).is_ok());
    }
}
