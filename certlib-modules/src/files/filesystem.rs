//! What delivery needs of a machine: a few file operations, a shell, and sockets of services.

use std::fmt::{self, Debug};
use std::time::Duration;

use async_trait::async_trait;
use certlib_core::Result;
use certlib_core::secret::SecretBytes;

use super::command::CommandOutput;

/// How much of a socket's answer is read, in bytes.
pub const ANSWER_LIMIT: usize = 64 * 1024;

/// The files, the shell and the sockets of one machine.
///
/// The operations are coarse, so that a remote implementation needs few round trips; delivery calls independent ones
/// at the same time. Paths are absolute and [checked](super::Layout::check).
///
/// # Errors
/// `Network` when the machine cannot be reached any more; `IoPermanent` `permission_denied`, `write_failed`,
/// `read_failed`; `Validation` `directory_not_protected`, `link_not_protected` where it is worked on with the rights of
/// root, and somebody else could decide what root reads or writes; otherwise as named.
#[async_trait]
pub trait FileSystem: Debug + Send + Sync {
    /// Looks at `path`, following symbolic links to the final file.
    ///
    /// # Errors
    /// `Validation`: `path_not_a_file` for anything but a regular file (found out without opening it), `link_dangling`,
    /// `file_too_large` beyond `limit` bytes.
    async fn observe(&self, path: &str, limit: usize) -> Result<Found>;

    /// Makes sure that `path` is a directory, and tells how many bytes can still be written there, if that can be
    /// known: none on a file system that is read-only.
    ///
    /// # Errors
    /// `Validation` `directory_missing`.
    async fn free_space(&self, path: &str) -> Result<Option<u64>>;

    /// Where the directory `path` really is, symbolic links followed.
    ///
    /// # Errors
    /// `Validation` `directory_missing`.
    async fn real_directory(&self, path: &str) -> Result<String>;

    /// Creates the file `path`, which must not exist, with mode 0600; writes `content`, sets `attributes`, and makes
    /// everything durable where that is possible. Answers whether the owner is the one asked for.
    async fn stage(&self, path: &str, content: &[u8], attributes: &Attributes) -> Result<bool>;

    /// Puts the file `from` in the place of `to`, which may exist, in one step where that is possible. Where SELinux is
    /// enabled, it takes the label of the file in whose place it comes, or the one that the policy has for that place.
    async fn replace(&self, from: &str, to: &str) -> Result<Replaced>;

    /// Removes the file `path`; succeeds when it does not exist.
    async fn remove(&self, path: &str) -> Result<()>;

    /// Makes renames and removals in the directory `path` durable, where that is possible.
    async fn sync_directory(&self, path: &str) -> Result<()>;

    /// Has `/bin/sh` run `command`; stops it after `timeout`.
    ///
    /// # Errors
    /// Only when the command could not be started or the machine was lost; see [`CommandOutput`] for the rest.
    async fn run(&self, command: &str, timeout: Duration) -> Result<CommandOutput>;

    /// Sends `request` to the UNIX socket `socket` and reads the answer: until the other side ends it, which may be
    /// before it has taken all of the request, or has said [`ANSWER_LIMIT`] bytes.
    ///
    /// # Errors
    /// `IoPermanent`: `socket_missing`, `forwarding_refused` where the machine passes nothing on to sockets. `Network`:
    /// `socket_refused` when nobody listens there, or for a reason that the machine does not tell; `socket_timeout`.
    async fn ask(&self, socket: &str, request: &SecretBytes, timeout: Duration) -> Result<Vec<u8>>;
}

/// What is at a path.
#[derive(Debug)]
pub enum Found {
    /// Nothing.
    Absent,
    /// A regular file, at the path itself or at the end of symbolic links.
    File(FileState),
}

/// A regular file as it was found.
#[non_exhaustive]
pub struct FileState {
    /// Where it really is: the path itself unless that was a symbolic link.
    pub real: String,
    /// All of it.
    pub content: SecretBytes,
    /// Permission bits.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

impl FileState {
    /// A file.
    pub fn new(real: impl Into<String>, content: SecretBytes, mode: u32, uid: u32, gid: u32) -> Self {
        Self { real: real.into(), content, mode, uid, gid }
    }
}

impl Debug for FileState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { real, content, mode, uid, gid } = self;
        write!(f, "FileState({real:?}, {} bytes, {mode:04o}, {uid}:{gid})", content.expose().len())
    }
}

/// Mode and owner of a file to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attributes {
    /// Permission bits.
    pub mode: u32,
    /// The owner; `None` leaves it to the machine.
    pub uid: Option<u32>,
    /// The group; `None` leaves it to the machine.
    pub gid: Option<u32>,
    /// Whether it is an error when owner or group cannot be set.
    pub owner_required: bool,
}

impl Attributes {
    /// Only a mode.
    pub fn mode(mode: u32) -> Self {
        Self { mode, uid: None, gid: None, owner_required: false }
    }
}

/// How a file took the place of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Replaced {
    /// The old file was removed first: for a moment there was none. Otherwise readers saw the old file or the new one.
    pub gap: bool,
    /// The SELinux label of the place could not be given to the new file.
    pub label_lost: bool,
}

impl Replaced {
    /// In one step.
    pub fn atomically() -> Self {
        Self { gap: false, label_lost: false }
    }

    /// Not in one step.
    pub fn with_gap() -> Self {
        Self { gap: true, label_lost: false }
    }

    /// Sets whether the label is the one that belongs there.
    #[must_use]
    pub fn with_label(mut self, kept: bool) -> Self {
        self.label_lost = !kept;
        self
    }
}
