//! Looking at the machine: what is there, what should be there.

use std::collections::BTreeSet;

use certlib_core::secret::SecretBytes;
use certlib_core::{CertificateBundle, Error, Result};

use super::Delivery;
use crate::files::{FILE_LIMIT, Format, formats, sha256};
use crate::winrm::host::{Directory, Found, Host, Look};
use crate::winrm::layout::{Acl, WindowsOutput};
use crate::winrm::{path, sddl};

/// Space that must be free in a directory before anything is written, in bytes.
const MIN_FREE: u64 = FILE_LIMIT as u64;

/// One wanted file and what is in its place.
#[derive(Debug)]
pub(crate) struct Item<'a> {
    pub(super) format: Format,
    pub(super) output: &'a WindowsOutput,
    /// What it should hold.
    pub(super) content: SecretBytes,
    /// Which access list is set; `None` leaves the one that comes by itself.
    pub(super) sddl: Option<String>,
    pub(super) found: Found,
    /// It is right already.
    pub(super) keep: bool,
}

impl<'a> Delivery<'a> {
    /// Looks at every wanted file and its directory, in one step.
    pub(super) async fn survey(&self, host: &mut Host<'_>, bundle: &CertificateBundle) -> Result<Vec<Item<'a>>> {
        let files: Vec<&str> = self.outputs.iter().map(|(_, output)| output.path.as_str()).collect();
        let names = self.outputs.iter().filter_map(|(_, output)| output.acl.as_ref()).flat_map(Acl::names);
        let names: Vec<&str> = names.collect::<BTreeSet<_>>().into_iter().collect();
        let seen = self.look(host, files, names.clone()).await?;
        let account = |name: &str| -> Result<String> {
            if sddl::is_sid(name) {
                return Ok(name.to_owned());
            }
            let index = names.iter().position(|known| *known == name);
            index.and_then(|index| seen.sids.get(index).cloned().flatten()).ok_or_else(|| {
                Error::validation("winrm.survey", "account_unknown", "the machine knows no account of this name")
                    .with("name", name.escape_debug())
            })
        };
        let mut items = Vec::with_capacity(self.outputs.len());
        for (&(format, output), found) in self.outputs.iter().zip(seen.files) {
            let wanted = match &output.acl {
                Some(Acl::Sddl(list)) => Some(list.clone()),
                Some(Acl::Readers(readers)) => {
                    let readers: Vec<String> = readers.iter().map(|name| account(name)).collect::<Result<_>>()?;
                    Some(sddl::for_readers(&readers))
                }
                None if format.is_secret() && matches!(found, Found::Absent) => Some(sddl::for_readers(&[])),
                None => None,
            };
            items.push(self.item(format, output, wanted, found, bundle)?);
        }
        Ok(items)
    }

    /// Looks at files again, and at the directories they are in.
    pub(super) async fn look(
        &self,
        host: &mut Host<'_>,
        files: Vec<&str>,
        names: Vec<&str>,
    ) -> Result<crate::winrm::host::Seen> {
        let directories: Vec<&str> =
            files.iter().map(|file| path::parent(file)).collect::<BTreeSet<_>>().into_iter().collect();
        let look =
            Look { files, content: true, limit: FILE_LIMIT, directories: directories.clone(), root: self.root, names };
        let seen = host.look(&look).await?;
        for (directory, found) in directories.iter().zip(&seen.directories) {
            check_directory(directory, found)?;
        }
        Ok(seen)
    }

    fn item(
        &self,
        format: Format,
        output: &'a WindowsOutput,
        wanted: Option<String>,
        found: Found,
        bundle: &CertificateBundle,
    ) -> Result<Item<'a>> {
        let content = formats::render(format, bundle, self.pfx())?;
        let keep = match &found {
            Found::Absent => false,
            Found::File(file) => {
                let same_list = wanted.as_ref().is_none_or(|wanted| sddl::same(wanted, &file.sddl));
                same_list && formats::holds(format, &file.content, &content, bundle, self.pfx())
            }
        };
        Ok(Item { format, output, content, sddl: wanted, found, keep })
    }
}

fn check_directory(directory: &str, found: &Directory) -> Result<()> {
    let error = if !found.exists {
        Error::validation("winrm.survey", "directory_missing", "there is no such directory")
    } else if found.escapes {
        Error::validation("winrm.survey", "path_escapes_root", "a link leads out of the root of this target")
    } else if let Some(free) = found.writable_bytes.filter(|free| *free < MIN_FREE) {
        Error::permanent("winrm.survey", "disk_full", "there is not enough room to write the new files")
            .with("free_bytes", free)
    } else {
        return Ok(());
    };
    Err(error.with("directory", directory.escape_debug()))
}

/// A digest of what the machine looks like.
pub(super) fn base(items: &[Item<'_>]) -> String {
    let state: Vec<_> = items
        .iter()
        .map(|item| match &item.found {
            Found::Absent => (&item.output.path, None),
            Found::File(file) => (&item.output.path, Some((sha256(file.content.expose()), &file.sddl))),
        })
        .collect();
    // Strings always encode.
    sha256(&serde_json::to_vec(&state).unwrap_or_default())
}
