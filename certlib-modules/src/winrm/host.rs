//! What delivery does on a machine: one script a step, from [`scripts`](self).

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certlib_core::secret::SecretBytes;
use certlib_core::{Error, Result, Secret};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use super::wsman::Client;
use crate::files::{CommandOutput, sha256};

const LOOK: &str = include_str!("scripts/files.look.ps1");
const STAGE: &str = include_str!("scripts/files.stage.ps1");
const REPLACE: &str = include_str!("scripts/files.replace.ps1");
const REMOVE: &str = include_str!("scripts/files.remove.ps1");

const OPERATION: &str = "winrm.files";

/// Files and commands of one machine.
#[derive(Debug)]
pub(crate) struct Host<'a> {
    pub(crate) client: Client<'a>,
}

/// What to look at.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Look<'l> {
    pub(crate) files: Vec<&'l str>,
    /// Whether the content is wanted, or only its digest.
    pub(crate) content: bool,
    /// The largest file, in bytes.
    pub(crate) limit: usize,
    pub(crate) directories: Vec<&'l str>,
    /// A directory that no link may lead out of.
    pub(crate) root: Option<&'l str>,
    /// Accounts whose SIDs are wanted.
    pub(crate) names: Vec<&'l str>,
}

/// What was seen.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) files: Vec<Found>,
    pub(crate) directories: Vec<Directory>,
    pub(crate) sids: Vec<Option<String>>,
}

/// What is at a path.
#[derive(Debug)]
pub(crate) enum Found {
    /// Nothing.
    Absent,
    /// A file.
    File(FileState),
}

/// A file as it was found.
pub(crate) struct FileState {
    /// All of it.
    pub(crate) content: SecretBytes,
    /// Its security descriptor: owner, group and access list.
    pub(crate) sddl: String,
}

impl fmt::Debug for FileState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileState({} bytes, {})", self.content.expose().len(), self.sddl)
    }
}

/// A directory.
#[derive(Debug, Deserialize)]
pub(crate) struct Directory {
    pub(crate) exists: bool,
    pub(crate) writable_bytes: Option<u64>,
    /// A link on its path leads away from the root.
    pub(crate) escapes: bool,
}

/// How a file took the place of another.
#[derive(Debug, Deserialize)]
pub(crate) struct Replaced {
    /// For a moment there was none.
    pub(crate) gap: bool,
    /// The owner is the one asked for.
    pub(crate) owner_kept: bool,
}

#[derive(Deserialize)]
struct RawSeen {
    files: Vec<RawFile>,
    directories: Vec<Directory>,
    sids: Vec<Option<String>>,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum RawFile {
    Absent,
    Link,
    Other,
    Large,
    File { sha256: String, content: Option<String>, sddl: String },
}

impl Host<'_> {
    /// Looks at files and directories, all in one step.
    ///
    /// # Errors
    /// `Validation`: `path_not_a_file`, `path_is_link`, `file_too_large`; as [`Client::script`].
    pub(crate) async fn look(&mut self, look: &Look<'_>) -> Result<Seen> {
        let raw: RawSeen = self.client.script(LOOK, look).await?;
        let counts = (raw.files.len(), raw.directories.len(), raw.sids.len());
        if counts != (look.files.len(), look.directories.len(), look.names.len()) {
            return Err(Error::permanent(OPERATION, "answer_invalid", "the machine looked at something else"));
        }
        let files = raw.files.into_iter().zip(&look.files).map(|(file, path)| found(file, path));
        let sids = raw.sids.into_iter().map(|sid| sid.filter(|sid| super::sddl::is_sid(sid))).collect();
        Ok(Seen { files: files.collect::<Result<_>>()?, directories: raw.directories, sids })
    }

    /// Creates the file `path`, which must not exist, with its access list from the first moment on.
    ///
    /// # Errors
    /// `IoPermanent` `already_exists`, `permission_denied`, `disk_full`, `write_failed`.
    pub(crate) async fn stage(&mut self, path: &str, content: &SecretBytes, sddl: Option<&str>) -> Result<()> {
        #[derive(Serialize)]
        struct Input<'i> {
            path: &'i str,
            content: &'i str,
            sddl: Option<&'i str>,
        }
        #[derive(Deserialize)]
        struct Output {
            sha256: String,
        }
        let base64 = Zeroizing::new(STANDARD.encode(content.expose()));
        let input = Input { path, content: &base64, sddl };
        let written: Output =
            self.client.script(STAGE, &input).await.map_err(|error| error.with("path", path.escape_debug()))?;
        if written.sha256 != sha256(content.expose()) {
            return Err(Error::permanent(OPERATION, "write_failed", "the file on the machine is not what was sent")
                .with("path", path.escape_debug()));
        }
        Ok(())
    }

    /// Sets the access list of `to`, if one is given, and puts the file `from`, if one is given, in its place.
    ///
    /// # Errors
    /// `IoTransient` `file_in_use`; `IoPermanent` `permission_denied`.
    pub(crate) async fn replace(&mut self, from: Option<&str>, to: &str, sddl: Option<&str>) -> Result<Replaced> {
        #[derive(Serialize)]
        struct Input<'i> {
            from: Option<&'i str>,
            to: &'i str,
            sddl: Option<&'i str>,
        }
        self.client
            .script(REPLACE, &Input { from, to, sddl })
            .await
            .map_err(|error| error.with("path", to.escape_debug()))
    }

    /// Removes files; those that do not exist are no error.
    ///
    /// # Errors
    /// As [`replace`](Self::replace).
    pub(crate) async fn remove(&mut self, paths: &[String]) -> Result<()> {
        #[derive(Serialize)]
        struct Input<'i> {
            paths: &'i [String],
        }
        #[derive(Deserialize)]
        struct Output {}
        if paths.is_empty() {
            return Ok(());
        }
        self.client.script::<Output>(REMOVE, &Input { paths }).await.map(drop)
    }

    /// Has `cmd.exe` run a command line.
    ///
    /// # Errors
    /// As [`Client::command`].
    pub(crate) async fn run(&mut self, line: &str, limit: Duration) -> Result<CommandOutput> {
        self.client.command(line, limit).await
    }
}

fn found(file: RawFile, path: &str) -> Result<Found> {
    let refused =
        |code: &'static str, why| Err(Error::validation(OPERATION, code, why).with("path", path.escape_debug()));
    match file {
        RawFile::Absent => Ok(Found::Absent),
        RawFile::Link => refused("path_is_link", "a link is at this path; give the path of the file itself"),
        RawFile::Other => refused("path_not_a_file", "something other than a file is at this path"),
        RawFile::Large => refused("file_too_large", "the file is too large to be a certificate or key"),
        RawFile::File { sha256: digest, content, sddl } => {
            let mut base64 = content.unwrap_or_default();
            let content = STANDARD.decode(&base64).map(Secret::new);
            base64.zeroize();
            match content {
                Ok(content) if sha256(content.expose()) == digest => Ok(Found::File(FileState { content, sddl })),
                _ => Err(Error::transient(OPERATION, "answer_lost", "a file was not read as it is on the machine")
                    .with("path", path.escape_debug())),
            }
        }
    }
}
