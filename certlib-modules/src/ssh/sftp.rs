//! The file system of a host, over SFTP version 3 as OpenSSH speaks it.
//!
//! Requests that do not depend on each other's answers are sent together: the server works on them in order.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use certlib_core::secret::SecretBytes;
use certlib_core::{Error, ErrorClass, Result, Secret};
use futures::future::join_all;
use futures::join;
use russh_sftp::client::error::Error as SftpError;
use russh_sftp::client::{Config, RawSftpSession};
use russh_sftp::protocol::{Data, FileAttributes, OpenFlags, Packet, StatusCode};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use super::connect::{Connection, failed};
use super::{exec, socket};
use crate::files::{Attributes, CommandOutput, Ended, FileState, FileSystem, Found, Replaced, quote};

const POSIX_RENAME: &str = "posix-rename@openssh.com";
const FSYNC: &str = "fsync@openssh.com";
const STATVFS: &str = "statvfs@openssh.com";

/// Bytes in one read or write request: what every server takes.
const CHUNK: usize = 32 * 1024;

/// How many write requests are under way at once.
const WRITES_AT_ONCE: usize = 16;

/// How long the fallback for a missing rename, or a change of a label, may take.
const MOVE_LIMIT: Duration = Duration::from_secs(30);

/// There where SELinux is enabled.
const SELINUX: &str = "/sys/fs/selinux/enforce";

/// What the kind of a file looks like among its permission bits.
const KIND: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const DIRECTORY: u32 = 0o040_000;

/// One connection with an SFTP session on it.
pub(super) struct RemoteFileSystem {
    connection: Connection,
    sftp: RawSftpSession,
    has_posix_rename: bool,
    has_fsync: bool,
    has_statvfs: bool,
    has_selinux: OnceCell<bool>,
    labels_fail: AtomicBool,
}

impl fmt::Debug for RemoteFileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteFileSystem").field("connection", &self.connection).finish_non_exhaustive()
    }
}

impl RemoteFileSystem {
    /// Starts SFTP on `connection`.
    ///
    /// # Errors
    /// `IoPermanent` `sftp_unavailable`; `IoTransient` `channel_refused`; `Network` `connection_lost`.
    pub(super) async fn start(connection: Connection, request_timeout: Duration) -> Result<Self> {
        let operation = "sftp.start";
        let lost = |error| failed(operation, error);
        let mut channel = connection.handle.channel_open_session().await.map_err(lost)?;
        channel.request_subsystem(true, "sftp").await.map_err(lost)?;
        loop {
            match timeout(request_timeout, channel.wait()).await {
                Ok(Some(russh::ChannelMsg::Success)) => break,
                Ok(Some(russh::ChannelMsg::Failure)) => {
                    return Err(Error::permanent(operation, "sftp_unavailable", "the host offers no SFTP"));
                }
                Ok(Some(_)) => {}
                Ok(None) => return Err(lost(russh::Error::Disconnect)),
                Err(_) => return Err(Error::network(operation, "timeout", "the host did not start SFTP in time")),
            }
        }
        let request_timeout_secs = request_timeout.as_secs().max(1);
        let config = Config { request_timeout_secs, ..Config::default() };
        let sftp = RawSftpSession::new_with_config(channel.into_stream(), config);
        let version = sftp.init().await.map_err(|error| sftp_failed(operation, "read_failed", "", error))?;
        let has = |name: &str| version.extensions.contains_key(name);
        Ok(Self {
            has_posix_rename: has(POSIX_RENAME),
            has_fsync: has(FSYNC),
            has_statvfs: has(STATVFS),
            has_selinux: OnceCell::new(),
            labels_fail: AtomicBool::new(false),
            connection,
            sftp,
        })
    }

    /// What it runs on.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Whether the connection still carries an answer back.
    pub(super) async fn is_alive(&self, limit: Duration) -> bool {
        matches!(timeout(limit, self.sftp.realpath(".")).await, Ok(Ok(_)))
    }

    /// Ends the session and the connection.
    pub(super) async fn close(self) {
        // The connection ends with it, so an error changes nothing.
        let _ = self.sftp.close_session();
        self.connection.close().await;
    }

    /// Mode, owner and size of `path` itself; `None` when there is nothing.
    async fn lstat(&self, path: &str) -> Result<Option<FileAttributes>> {
        match self.sftp.lstat(path).await {
            Ok(answer) => Ok(Some(answer.attrs)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(sftp_failed("sftp.stat", "read_failed", path, error)),
        }
    }

    async fn real_path(&self, path: &str) -> Result<String, SftpError> {
        let names = self.sftp.realpath(path).await?;
        let name = names.files.into_iter().next();
        name.map(|name| name.filename).ok_or(SftpError::UnexpectedPacket)
    }

    async fn read(&self, path: &str, size: usize) -> Result<Vec<u8>, SftpError> {
        let handle = self.sftp.open(path, OpenFlags::READ, FileAttributes::empty()).await?.handle;
        let chunk = |offset: usize| {
            // One byte more, so that a file that grew meanwhile is not taken for the one that was looked at.
            let length = u32::try_from((size - offset + 1).min(CHUNK)).unwrap_or(1);
            self.sftp.read(&handle, offset as u64, length)
        };
        if size < CHUNK {
            // The usual case: one request for everything, and the end right behind it.
            let (read, closed) = join!(chunk(0), self.sftp.close(&handle));
            closed?;
            return until_end(read).map(Option::unwrap_or_default);
        }
        let mut content = Vec::with_capacity(size);
        while content.len() <= size {
            match until_end(chunk(content.len()).await)? {
                Some(data) => content.extend_from_slice(&data),
                None => break,
            }
        }
        self.sftp.close(&handle).await?;
        Ok(content)
    }

    async fn write(&self, path: &str, content: &[u8], attributes: &Attributes) -> Result<bool, SftpError> {
        let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUDE;
        let handle = self.sftp.open(path, flags, permissions(0o600)).await?.handle;
        let chunks: Vec<(u64, &[u8])> = (0_u64..).step_by(CHUNK).zip(content.chunks(CHUNK)).collect();
        let mut batches = chunks.chunks(WRITES_AT_ONCE);
        let last = batches.next_back().unwrap_or_default();
        let write = |batch: &[(u64, &[u8])]| {
            let writes = batch.iter().map(|(offset, chunk)| self.sftp.write(&handle, *offset, chunk.to_vec()));
            join_all(writes.collect::<Vec<_>>())
        };
        for batch in batches {
            write(batch).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        }
        let wanted = FileAttributes { permissions: Some(attributes.mode), ..self.owner(&handle, attributes).await? };
        // Sent in this order, without waiting in between.
        let (written, set, synced, closed) = join!(
            write(last),
            self.sftp.fsetstat(&handle, wanted),
            async {
                match self.has_fsync {
                    true => self.sftp.fsync(&handle).await.map(drop),
                    false => Ok(()),
                }
            },
            self.sftp.close(&handle),
        );
        written.into_iter().collect::<Result<Vec<_>, _>>()?;
        let has_owner = match set {
            Err(SftpError::Status(status))
                if status.status_code == StatusCode::PermissionDenied && !attributes.owner_required =>
            {
                // Which of the two was denied is not told; the mode of a file of our own cannot be.
                self.sftp.setstat(path, permissions(attributes.mode)).await?;
                false
            }
            other => other.map(|_| true)?,
        };
        synced?;
        closed?;
        Ok(has_owner)
    }

    /// The attributes for owner and group; the protocol knows only both together.
    async fn owner(&self, handle: &str, attributes: &Attributes) -> Result<FileAttributes, SftpError> {
        let (uid, gid) = match (attributes.uid, attributes.gid) {
            (None, None) => return Ok(FileAttributes::empty()),
            (Some(uid), Some(gid)) => (uid, gid),
            (uid, gid) => {
                let now = self.sftp.fstat(handle).await?.attrs;
                let missing = SftpError::UnexpectedPacket;
                let (Some(own_uid), Some(own_gid)) = (now.uid, now.gid) else { return Err(missing) };
                (uid.unwrap_or(own_uid), gid.unwrap_or(own_gid))
            }
        };
        Ok(FileAttributes { uid: Some(uid), gid: Some(gid), ..FileAttributes::empty() })
    }

    async fn posix_rename(&self, from: &str, to: &str) -> Result<(), SftpError> {
        let mut data = Vec::with_capacity(8 + from.len() + to.len());
        for path in [from, to] {
            let length = u32::try_from(path.len()).map_err(|_| SftpError::Limited("path too long".to_owned()))?;
            data.extend_from_slice(&length.to_be_bytes());
            data.extend_from_slice(path.as_bytes());
        }
        match self.sftp.extended(POSIX_RENAME, data).await? {
            Packet::Status(status) if status.status_code == StatusCode::Ok => Ok(()),
            Packet::Status(status) => Err(status.into()),
            _ => Err(SftpError::UnexpectedPacket),
        }
    }

    /// Bytes that can be written in the directory `path`, if the host tells.
    async fn free(&self, path: &str) -> Option<u64> {
        const READ_ONLY: u64 = 1;
        if !self.has_statvfs {
            return None;
        }
        let found = self.sftp.statvfs(path).await.ok()?;
        let free = found.fragment_size.saturating_mul(found.blocks_avail);
        Some(if found.flags & READ_ONLY != 0 { 0 } else { free })
    }

    /// Puts `from` in the place of `to`, in one step where the host can.
    async fn rename(&self, from: &str, to: &str) -> Result<Replaced> {
        let rename_failed = |error| sftp_failed("sftp.rename", "write_failed", to, error);
        if self.has_posix_rename {
            self.posix_rename(from, to).await.map_err(rename_failed)?;
            return Ok(Replaced::atomically());
        }
        // Plain SFTP refuses to replace, so this succeeds only when nothing is there.
        match self.sftp.rename(from, to).await {
            Ok(_) => return Ok(Replaced::atomically()),
            Err(SftpError::Status(status)) if status.status_code == StatusCode::Failure => {}
            Err(error) => return Err(rename_failed(error)),
        }
        let command = format!("mv -f -- {} {}", quote(from), quote(to));
        match exec::run(&self.connection, &command, MOVE_LIMIT).await {
            Ok(CommandOutput { ended: Ended::Exited(0), .. }) => return Ok(Replaced::atomically()),
            Err(error) if error.class() == ErrorClass::Network => return Err(error),
            _ => {}
        }
        // It may have worked without our being told; then what is at `to` must stay.
        if self.lstat(from).await?.is_none() {
            return Ok(Replaced::atomically());
        }
        self.remove(to).await?;
        self.sftp.rename(from, to).await.map_err(rename_failed)?;
        Ok(Replaced::with_gap())
    }

    /// Whether files have labels there, as far as the login can see: it may be locked into a directory, or not be shown
    /// what the kernel says.
    async fn has_selinux(&self) -> Result<bool> {
        let found = self.has_selinux.get_or_try_init(async || can_be_seen(self.lstat(SELINUX).await));
        found.await.copied()
    }

    /// Has `command` set a label. One that failed is not tried again: where the host runs no commands, or the login may
    /// not set labels, each try would only cost time.
    async fn label(&self, command: &str) -> Result<bool> {
        if self.labels_fail.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let kept = self.succeeds(command).await?;
        if !kept {
            self.labels_fail.store(true, Ordering::Relaxed);
        }
        Ok(kept)
    }

    /// Whether a command could be run, and ended well.
    async fn succeeds(&self, command: &str) -> Result<bool> {
        match exec::run(&self.connection, command, MOVE_LIMIT).await {
            Ok(output) => Ok(output.ended == Ended::Exited(0)),
            Err(error) if error.class() == ErrorClass::Network => Err(error),
            Err(_) => Ok(false),
        }
    }
}

#[async_trait]
impl FileSystem for RemoteFileSystem {
    async fn observe(&self, path: &str, limit: usize) -> Result<Found> {
        let refused =
            |code, message| Err(Error::validation("sftp.read", code, message).with("path", path.escape_debug()));
        let Some(mut attributes) = self.lstat(path).await? else { return Ok(Found::Absent) };
        let mut real = path.to_owned();
        if kind(&attributes) == LINK {
            let dangling = "this symbolic link leads nowhere";
            real = match self.real_path(path).await {
                Ok(real) => real,
                Err(error) if is_missing(&error) => return refused("link_dangling", dangling),
                Err(error) => return Err(sftp_failed("sftp.read", "read_failed", path, error)),
            };
            attributes = match self.lstat(&real).await? {
                Some(attributes) => attributes,
                None => return refused("link_dangling", dangling),
            };
        }
        // Opening a FIFO would block the server.
        if kind(&attributes) != REGULAR {
            return refused("path_not_a_file", "something other than a regular file is at this path");
        }
        let size = usize::try_from(attributes.size.unwrap_or(0)).unwrap_or(usize::MAX);
        if size > limit {
            return refused("file_too_large", "the file is too large to be a certificate or key");
        }
        let content = match self.read(&real, size).await {
            Ok(content) => Secret::new(content),
            Err(error) => return Err(sftp_failed("sftp.read", "read_failed", path, error)),
        };
        if content.expose().len() > limit {
            return refused("file_too_large", "the file is too large to be a certificate or key");
        }
        let mode = attributes.permissions.unwrap_or(0) & 0o7777;
        let (uid, gid) = (attributes.uid.unwrap_or(0), attributes.gid.unwrap_or(0));
        Ok(Found::File(FileState::new(real, content, mode, uid, gid)))
    }

    async fn free_space(&self, path: &str) -> Result<Option<u64>> {
        let (found, free) = join!(self.sftp.stat(path), self.free(path));
        match found {
            Ok(found) if kind(&found.attrs) == DIRECTORY => Ok(free),
            Ok(_) => Err(no_directory(path)),
            Err(error) => Err(directory_failed(path, error)),
        }
    }

    async fn real_directory(&self, path: &str) -> Result<String> {
        let (real, found) = join!(self.real_path(path), self.sftp.stat(path));
        match (real, found) {
            (Ok(real), Ok(found)) if kind(&found.attrs) == DIRECTORY => Ok(real),
            (Ok(_), Ok(_)) => Err(no_directory(path)),
            (Err(error), _) | (_, Err(error)) => Err(directory_failed(path, error)),
        }
    }

    async fn stage(&self, path: &str, content: &[u8], attributes: &Attributes) -> Result<bool> {
        match self.write(path, content, attributes).await {
            Ok(has_owner) => Ok(has_owner),
            Err(error) => {
                let failure = sftp_failed("sftp.write", "write_failed", path, error);
                if failure.code() != "write_failed" {
                    return Err(failure);
                }
                // The protocol has one code for everything; a full disk is the usual reason.
                let directory = path.rfind('/').map_or("/", |end| &path[..end.max(1)]);
                Err(match self.free(directory).await {
                    Some(free) => failure.with("free_bytes", free),
                    None => failure,
                })
            }
        }
    }

    async fn replace(&self, from: &str, to: &str) -> Result<Replaced> {
        if !self.has_selinux().await? {
            return self.rename(from, to).await;
        }
        let is_new = self.lstat(to).await?.is_none();
        let mut kept = is_new || self.label(&format!("chcon --reference={} -- {}", quote(to), quote(from))).await?;
        let replaced = self.rename(from, to).await?;
        if is_new {
            kept = self.label(&format!("restorecon -- {}", quote(to))).await?;
        }
        if !kept {
            tracing::warn!(path = to, "the SELinux label of a file could not be kept");
        }
        Ok(replaced.with_label(kept))
    }

    async fn remove(&self, path: &str) -> Result<()> {
        match self.sftp.remove(path).await {
            Ok(_) => Ok(()),
            Err(error) if is_missing(&error) => Ok(()),
            Err(error) => Err(sftp_failed("sftp.remove", "write_failed", path, error)),
        }
    }

    async fn sync_directory(&self, _path: &str) -> Result<()> {
        // SFTP cannot, and a command for it would cost more than it gives: the journal brings back what is lost.
        Ok(())
    }

    async fn run(&self, command: &str, timeout: Duration) -> Result<CommandOutput> {
        exec::run(&self.connection, command, timeout).await
    }

    async fn ask(&self, socket: &str, request: &SecretBytes, timeout: Duration) -> Result<Vec<u8>> {
        match socket::ask(&self.connection, socket, request, timeout).await {
            // Why is not told, but this much can be seen.
            Err(error) if error.code() == socket::REFUSED && matches!(self.lstat(socket).await, Ok(None)) => {
                Err(Error::permanent(socket::OPERATION, "socket_missing", "there is no such socket")
                    .with("socket", socket.escape_debug()))
            }
            answer => answer,
        }
    }
}

fn no_directory(path: &str) -> Error {
    Error::validation("sftp.directory", "directory_missing", "there is no such directory")
        .with("path", path.escape_debug())
}

fn directory_failed(path: &str, error: SftpError) -> Error {
    if is_missing(&error) { no_directory(path) } else { sftp_failed("sftp.directory", "read_failed", path, error) }
}

/// Whether a look found something. Only a lost connection is an error: all other answers are a host's way to show nothing.
fn can_be_seen(found: Result<Option<FileAttributes>>) -> Result<bool> {
    match found {
        Ok(found) => Ok(found.is_some()),
        Err(error) if error.class() == ErrorClass::Network => Err(error),
        Err(_) => Ok(false),
    }
}

fn kind(attributes: &FileAttributes) -> u32 {
    attributes.permissions.unwrap_or(0) & KIND
}

fn permissions(mode: u32) -> FileAttributes {
    FileAttributes { permissions: Some(mode), ..FileAttributes::empty() }
}

/// The bytes of an answer to a read request; `None` at the end of the file.
fn until_end(answer: Result<Data, SftpError>) -> Result<Option<Vec<u8>>, SftpError> {
    match answer {
        Ok(data) => Ok((!data.data.is_empty()).then_some(data.data)),
        Err(SftpError::Status(status)) if status.status_code == StatusCode::Eof => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_missing(error: &SftpError) -> bool {
    matches!(error, SftpError::Status(status) if status.status_code == StatusCode::NoSuchFile)
}

/// An error of SFTP, by class. `code` names what the host refused for a reason that it does not tell.
fn sftp_failed(operation: &'static str, code: &'static str, path: &str, error: SftpError) -> Error {
    let (class, code, message) = match &error {
        SftpError::Status(status) => match status.status_code {
            StatusCode::NoSuchFile => (ErrorClass::Validation, "path_missing", "there is no such file or directory"),
            StatusCode::PermissionDenied => {
                (ErrorClass::IoPermanent, "permission_denied", "the login has no permission for this")
            }
            StatusCode::NoConnection | StatusCode::ConnectionLost => {
                (ErrorClass::Network, "connection_lost", "the connection was lost")
            }
            _ => (ErrorClass::IoPermanent, code, "the host refuses this, without saying why"),
        },
        SftpError::Timeout => (ErrorClass::Network, "timeout", "the host did not answer in time"),
        SftpError::IO(_) | SftpError::UnexpectedBehavior(_) => {
            (ErrorClass::Network, "connection_lost", "the connection was lost")
        }
        _ => (ErrorClass::IoPermanent, "protocol_error", "the host does not keep to the SFTP protocol"),
    };
    let error = Error::new(class, operation, code, message).with_source(error);
    if path.is_empty() { error } else { error.with("path", path.escape_debug()) }
}

#[cfg(test)]
mod tests {
    use russh_sftp::protocol::Status;

    use super::*;

    /// Hosts that lock a login in answer in many ways when they are asked about what lies outside.
    #[test]
    fn whatever_is_not_shown_is_not_there() {
        let answer = |status_code| {
            let status = Status { id: 1, status_code, error_message: String::new(), language_tag: String::new() };
            can_be_seen(Err(sftp_failed("sftp.stat", "read_failed", SELINUX, SftpError::Status(status))))
        };
        for code in
            [StatusCode::PermissionDenied, StatusCode::Failure, StatusCode::BadMessage, StatusCode::OpUnsupported]
        {
            assert!(!answer(code).unwrap(), "{code:?}");
        }
        assert_eq!(answer(StatusCode::ConnectionLost).unwrap_err().code(), "connection_lost");
        let timeout = can_be_seen(Err(sftp_failed("sftp.stat", "read_failed", SELINUX, SftpError::Timeout)));
        assert_eq!(timeout.unwrap_err().class(), ErrorClass::Network);
        assert!(can_be_seen(Ok(Some(FileAttributes::empty()))).unwrap() && !can_be_seen(Ok(None)).unwrap());
    }
}
