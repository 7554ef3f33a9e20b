//! What the journal keeps: enough to go on, and enough to go back.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certlib_core::Secret;
use certlib_core::secret::SecretBytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zeroize::Zeroizing;

use super::survey::Item;
use crate::files::{Format, sha256};
use crate::winrm::host::{FileState, Found};
use crate::winrm::{path, sddl};

/// An entry of the journal.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Undo {
    /// Files are about to be swapped.
    Swap(Swap),
    /// The service is about to be told to read its files.
    Reloading,
}

/// All files of one swap.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Swap {
    /// The machine they are on.
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
    /// Its path.
    pub path: String,
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
    /// Owner, group and access list, in SDDL.
    pub sddl: String,
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
    /// The access list, in SDDL, if it is set; otherwise that of the former file or of the directory.
    pub sddl: Option<String>,
}

/// Whose file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Is {
    /// The one that was recorded, or as absent as was recorded.
    Former,
    /// The content that was recorded, but with another access list.
    FormerContent,
    /// The new one.
    New,
    /// There is none, although one was recorded.
    Missing,
    /// Neither.
    Foreign,
}

impl Change {
    /// What is needed to undo the replacement of `item`.
    pub(super) fn record(item: &Item<'_>) -> Self {
        let before = match &item.found {
            Found::Absent => None,
            Found::File(FileState { content, sddl }) => {
                Some(Former { content: content.duplicate(), sddl: sddl.clone() })
            }
        };
        let content = (item.format == Format::Pfx).then(|| item.content.duplicate());
        let after = New { sha256: sha256(item.content.expose()), content, sddl: item.sddl.clone() };
        Self { format: item.format, path: item.output.path.clone(), before, after }
    }

    /// Whose file `found` is.
    pub(super) fn classify(&self, found: &Found) -> Is {
        let file = match (found, &self.before) {
            (Found::Absent, None) => return Is::Former,
            (Found::Absent, Some(_)) => return Is::Missing,
            (Found::File(file), _) => file,
        };
        let is_new = sha256(file.content.expose()) == self.after.sha256;
        let has_new_list = self.after.sddl.as_ref().is_none_or(|wanted| sddl::same(wanted, &file.sddl));
        match &self.before {
            Some(before) if before.content.expose() == file.content.expose() => {
                if sddl::same(&before.sddl, &file.sddl) {
                    Is::Former
                } else if is_new && has_new_list {
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
        path::temporary(&self.path, nonce)
    }

    /// The temporary file on the way back.
    pub(super) fn undo_temporary(&self, nonce: &str) -> String {
        path::temporary(&self.path, &format!("{nonce}u"))
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

    const TIGHT: &str = "O:BAG:SYD:P(A;;FA;;;SY)(A;;FA;;;BA)";
    const LOOSE: &str = "O:BAG:SYD:AI(A;ID;FA;;;SY)(A;ID;FR;;;BU)";

    fn change(before: Option<(&str, &str)>, after: &str, list: Option<&str>) -> Change {
        let before = before
            .map(|(content, sddl)| Former { content: Secret::new(content.as_bytes().to_vec()), sddl: sddl.to_owned() });
        let after = New { sha256: sha256(after.as_bytes()), content: None, sddl: list.map(str::to_owned) };
        Change { format: Format::Cert, path: r"C:\c".into(), before, after }
    }

    fn file(content: &str, sddl: &str) -> Found {
        Found::File(FileState { content: Secret::new(content.as_bytes().to_vec()), sddl: sddl.to_owned() })
    }

    #[test]
    fn whose_file_it_is() {
        let replace = change(Some(("old", LOOSE)), "new", Some("D:P(A;;FA;;;BA)(A;;FA;;;SY)"));
        assert_eq!(replace.classify(&file("old", LOOSE)), Is::Former);
        assert_eq!(replace.classify(&file("old", TIGHT)), Is::FormerContent);
        assert_eq!(replace.classify(&file("new", TIGHT)), Is::New);
        assert_eq!(replace.classify(&file("new", LOOSE)), Is::New);
        assert_eq!(replace.classify(&file("else", LOOSE)), Is::Foreign);
        assert_eq!(replace.classify(&Found::Absent), Is::Missing);

        let create = change(None, "new", None);
        assert_eq!(create.classify(&Found::Absent), Is::Former);
        assert_eq!(create.classify(&file("new", LOOSE)), Is::New);
        assert_eq!(create.classify(&file("old", LOOSE)), Is::Foreign);

        let list_only = change(Some(("same", LOOSE)), "same", Some("D:P(A;;FA;;;BA)(A;;FA;;;SY)"));
        assert_eq!(list_only.classify(&file("same", LOOSE)), Is::Former);
        assert_eq!(list_only.classify(&file("same", TIGHT)), Is::New);
        assert_eq!(list_only.classify(&file("same", "O:BAG:SYD:P(A;;FA;;;SY)")), Is::FormerContent);
    }

    #[test]
    fn entries_survive_the_journal_and_hide_in_debug() {
        let files = vec![change(Some(("canary", TIGHT)), "new", None)];
        let undo = Undo::Swap(Swap { machine: "m".into(), nonce: "n".into(), files });
        assert!(!format!("{undo:?}").contains("canary"));
        let json = serde_json::to_vec(&undo).unwrap();
        let Undo::Swap(swap) = serde_json::from_slice(&json).unwrap() else { panic!("another step") };
        assert_eq!(swap.files[0].before.as_ref().unwrap().content.expose(), b"canary");
    }
}
