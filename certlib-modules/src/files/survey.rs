//! Looking at the target: what is there, what should be there.

use std::collections::BTreeSet;

use certlib_core::secret::SecretBytes;
use certlib_core::{CertificateBundle, Error, Result};
use futures::future::try_join_all;

use super::filesystem::{Attributes, FileSystem, Found};
use super::layout::{Format, Output};
use super::owner::Owners;
use super::{Delivery, FILE_LIMIT, formats, path, sha256};

/// One wanted file and what is in its place.
#[derive(Debug)]
pub(super) struct Item<'a> {
    pub(super) format: Format,
    pub(super) output: &'a Output,
    /// What it should hold.
    pub(super) content: SecretBytes,
    /// Which mode and owner it should have.
    pub(super) attributes: Attributes,
    pub(super) found: Found,
    /// It is right already.
    pub(super) keep: bool,
}

impl Item<'_> {
    /// The file to write: the end of symbolic links, if there are any.
    pub(super) fn real(&self) -> &str {
        real(&self.output.path, &self.found)
    }
}

/// The end of symbolic links at `path`, if there are any.
pub(super) fn real<'a>(path: &'a str, found: &'a Found) -> &'a str {
    match found {
        Found::File(file) => &file.real,
        Found::Absent => path,
    }
}

impl<'a> Delivery<'a> {
    /// Looks at every wanted file.
    pub(super) async fn survey(&self, fs: &dyn FileSystem, bundle: &CertificateBundle) -> Result<Vec<Item<'a>>> {
        let outputs = self.layout.outputs();
        let owners = Owners::resolve(fs, &outputs).await?;
        let found = try_join_all(outputs.iter().map(|(_, output)| fs.observe(&output.path, FILE_LIMIT))).await?;
        let mut items = Vec::with_capacity(outputs.len());
        for ((format, output), found) in outputs.into_iter().zip(found) {
            items.push(self.item(format, output, found, &owners, bundle)?);
        }
        check_distinct(&items)?;
        self.check_root(fs, items.iter().map(Item::real)).await?;
        Ok(items)
    }

    fn item(
        &self,
        format: Format,
        output: &'a Output,
        found: Found,
        owners: &Owners,
        bundle: &CertificateBundle,
    ) -> Result<Item<'a>> {
        let content = formats::render(format, bundle, self.pfx())?;
        let wanted_mode = output.mode.map(|mode| mode.0);
        let (uid, gid) = (owners.uid(output), owners.gid(output));
        let owner_required = output.owner.is_some() || output.group.is_some();
        let (attributes, keep) = match &found {
            Found::Absent => {
                let mode = wanted_mode.unwrap_or_else(|| format.default_mode());
                (Attributes { mode, uid, gid, owner_required }, false)
            }
            Found::File(file) => {
                let mode = wanted_mode.unwrap_or(file.mode);
                let (uid, gid) = (uid.unwrap_or(file.uid), gid.unwrap_or(file.gid));
                let same_attributes = (mode, uid, gid) == (file.mode, file.uid, file.gid);
                let keep = same_attributes && formats::holds(format, &file.content, &content, bundle, self.pfx());
                (Attributes { mode, uid: Some(uid), gid: Some(gid), owner_required }, keep)
            }
        };
        Ok(Item { format, output, content, attributes, found, keep })
    }

    /// With a root, refuses files that symbolic links have led out of it.
    pub(super) async fn check_root(&self, fs: &dyn FileSystem, files: impl Iterator<Item = &str>) -> Result<()> {
        let Some(root) = self.layout.root.as_deref() else { return Ok(()) };
        let parents: BTreeSet<&str> = files.map(path::parent).collect();
        let root = fs.real_directory(root).await?;
        for parent in try_join_all(parents.into_iter().map(|parent| fs.real_directory(parent))).await? {
            if parent != root {
                path::check_inside(&parent, &root)?;
            }
        }
        Ok(())
    }
}

/// Two paths may be different names of one file.
fn check_distinct(items: &[Item<'_>]) -> Result<()> {
    let mut seen = BTreeSet::new();
    for item in items {
        if !seen.insert(item.real()) {
            return Err(Error::validation("files.survey", "path_duplicate", "two paths lead to the same file")
                .with("path", item.output.path.escape_debug())
                .with("file", item.real().escape_debug()));
        }
    }
    Ok(())
}

/// A digest of what the target looks like: its files, and what HAProxy has in memory.
pub(super) fn base(items: &[Item<'_>], memory: Option<&str>) -> String {
    let files: Vec<_> = items
        .iter()
        .map(|item| match &item.found {
            Found::Absent => (&item.output.path, None),
            Found::File(file) => {
                let content = sha256(file.content.expose());
                (&item.output.path, Some((&file.real, content, file.mode, file.uid, file.gid)))
            }
        })
        .collect();
    // Strings and numbers always encode.
    let files = serde_json::to_vec(&files).unwrap_or_default();
    match memory {
        Some(memory) => sha256(&[&files, memory.as_bytes()].concat()),
        None => sha256(&files),
    }
}
