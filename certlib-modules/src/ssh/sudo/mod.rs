//! The file system of a host with the rights of root, through `sudo`.
//!
//! Each operation is one `sudo -n -- /bin/sh -c SCRIPT sh ARGUMENT…`. Scripts are constants; paths are their arguments,
//! quoted once for the shell that starts `sudo`. Contents go through standard input and output: a key is never an
//! argument, and rests nowhere but in the file that it is for. What a script has to say is its exit status, from 60 on,
//! so that nothing of it is confused with `sudo` itself, which ends with 1 when it refuses.
//!
//! Root goes nowhere that somebody else could have led it to: every directory from `/` on has to be root's alone to
//! change, and every symbolic link root's own. [`scripts`] has the rule, and looks before anything is read or written.

mod scripts;

use std::time::Duration;

use async_trait::async_trait;
use certlib_core::secret::SecretBytes;
use certlib_core::{Effect, Error, ErrorClass, Result, Secret};
use tokio::sync::Semaphore;

use self::scripts::{
    ABSENT, DANGLING, FOREIGN_LINK, FREE_SPACE, NO_DIRECTORY, NOT_A_FILE, OBSERVE, OWNER_REFUSED, REAL_DIRECTORY,
    REMOVE, REPLACE, STAGE, TOO_LARGE, UNPROTECTED, UNREADABLE, UNWRITABLE,
};
use super::exec::{self, Stream};
use super::sftp::RemoteFileSystem;
use crate::files::{Attributes, CommandOutput, Ended, FileState, FileSystem, Found, OUTPUT_LIMIT, Replaced, quote};

const OPERATION: &str = "ssh.sudo";

/// How many operations of one connection are under way at once. Each is a session of its own, of which OpenSSH allows
/// ten (`MaxSessions`) and a hardened host fewer. SFTP has one already, and for a moment an ended one still counts.
const AT_ONCE: usize = 2;

/// A connection, used with the rights of root. Sockets are reached with those of the login.
#[derive(Debug)]
pub(super) struct Elevated<'a> {
    plain: &'a RemoteFileSystem,
    /// How long one operation may take.
    limit: Duration,
    turns: Semaphore,
}

impl<'a> Elevated<'a> {
    pub(super) fn new(plain: &'a RemoteFileSystem, limit: Duration) -> Self {
        Self { plain, limit, turns: Semaphore::new(AT_ONCE) }
    }

    /// Runs a script; gives its output. Whether anything was changed is for the caller to say.
    async fn script(&self, script: &str, arguments: &[&str], stream: Stream<'_>) -> Result<Result<Vec<u8>, u32>> {
        let mut command = sudo(script);
        command.push_str(" sh");
        for argument in arguments {
            command.push(' ');
            command.push_str(&quote(argument));
        }
        // It is never closed, so this never fails.
        let _turn = self.turns.acquire().await;
        let output = exec::stream(self.plain.connection(), &command, stream, self.limit).await?;
        let error = match output.ended {
            Ended::Exited(0) => return Ok(Ok(output.stdout)),
            Ended::Exited(status @ ABSENT..=FOREIGN_LINK) => return Ok(Err(status)),
            Ended::Exited(1) => Error::permanent(
                OPERATION,
                "sudo_refused",
                "sudo asks for a password, or does not let this login run /bin/sh as root: it needs a rule with NOPASSWD",
            ),
            Ended::Exited(127) => Error::permanent(OPERATION, "sudo_missing", "the host has no sudo"),
            Ended::Exited(status) => {
                Error::permanent(OPERATION, "sudo_failed", "sudo ended in an unexpected way").with("exit", status)
            }
            Ended::TimedOut => Error::network(OPERATION, "timeout", "the host did not answer in time"),
            _ => Error::new(ErrorClass::IoTransient, OPERATION, "command_no_status", "sudo ended without a status"),
        };
        Err(error)
    }

    /// As [`script`](Self::script), for one about a path, whose every status is an error.
    async fn about(&self, path: &str, script: &str, arguments: &[&str], stream: Stream<'_>) -> Result<Vec<u8>> {
        match self.script(script, arguments, stream).await {
            Ok(Ok(output)) => Ok(output),
            Ok(Err(status)) => Err(failed(status).with("path", path.escape_debug())),
            Err(error) => Err(error.with("path", path.escape_debug())),
        }
    }
}

#[async_trait]
impl FileSystem for Elevated<'_> {
    async fn observe(&self, path: &str, limit: usize) -> Result<Found> {
        // What comes before the content is short, but for the path.
        let stream = Stream { input: None, limit: limit.saturating_add(OUTPUT_LIMIT) };
        let output = match self.script(OBSERVE, &[path, &limit.to_string()], stream).await {
            Ok(Ok(output)) => Secret::new(output),
            Ok(Err(ABSENT)) => return Ok(Found::Absent),
            Ok(Err(status)) => return Err(failed(status).with("path", path.escape_debug())),
            Err(error) => return Err(error.with("path", path.escape_debug())),
        };
        let found = read(output.expose()).ok_or_else(|| {
            Error::permanent(OPERATION, "sudo_failed", "what came back is not what was asked for")
                .with("path", path.escape_debug())
        })?;
        if found.content.expose().len() > limit {
            return Err(failed(TOO_LARGE).with("path", path.escape_debug()));
        }
        Ok(Found::File(found))
    }

    async fn free_space(&self, path: &str) -> Result<Option<u64>> {
        let table = self.about(path, FREE_SPACE, &[path], Stream::default()).await?;
        Ok(free(&String::from_utf8_lossy(&table)))
    }

    async fn real_directory(&self, path: &str) -> Result<String> {
        let output = self.about(path, REAL_DIRECTORY, &[path], Stream::default()).await?;
        let text = String::from_utf8_lossy(&output);
        Ok(text.strip_suffix('\n').unwrap_or(&text).to_owned())
    }

    async fn stage(&self, path: &str, content: &[u8], attributes: &Attributes) -> Result<bool> {
        let owner = match (attributes.uid, attributes.gid) {
            (None, None) => String::new(),
            (Some(uid), None) => uid.to_string(),
            (None, Some(gid)) => format!(":{gid}"),
            (Some(uid), Some(gid)) => format!("{uid}:{gid}"),
        };
        let required = if attributes.owner_required { "yes" } else { "no" };
        let mode = format!("{:04o}", attributes.mode);
        let stream = Stream { input: Some(content), limit: OUTPUT_LIMIT };
        let output = self.about(path, STAGE, &[path, &mode, &owner, required], stream).await?;
        Ok(output.trim_ascii() == b"kept")
    }

    async fn replace(&self, from: &str, to: &str) -> Result<Replaced> {
        let moved = self.about(to, REPLACE, &[from, to], Stream::default()).await;
        let kept = moved.map_err(|error| error.with_effect(Effect::Possible))?.trim_ascii() == b"kept";
        if !kept {
            tracing::warn!(path = to, "the SELinux label of a file could not be kept");
        }
        Ok(Replaced::atomically().with_label(kept))
    }

    async fn remove(&self, path: &str) -> Result<()> {
        self.about(path, REMOVE, &[path], Stream::default()).await.map(drop)
    }

    async fn sync_directory(&self, path: &str) -> Result<()> {
        self.plain.sync_directory(path).await
    }

    async fn run(&self, command: &str, timeout: Duration) -> Result<CommandOutput> {
        let _turn = self.turns.acquire().await;
        exec::run(self.plain.connection(), &sudo(command), timeout).await
    }

    async fn ask(&self, socket: &str, request: &SecretBytes, timeout: Duration) -> Result<Vec<u8>> {
        self.plain.ask(socket, request, timeout).await
    }
}

/// Has root's shell run `script`. Without a password: with `-n`, `sudo` never asks.
fn sudo(script: &str) -> String {
    format!("sudo -n -- /bin/sh -c {}", quote(script))
}

/// What a script's exit status says.
fn failed(status: u32) -> Error {
    let refused = |code, message| Error::validation(OPERATION, code, message);
    match status {
        DANGLING => refused("link_dangling", "this symbolic link leads nowhere"),
        NOT_A_FILE => refused("path_not_a_file", "something other than a regular file is at this path"),
        TOO_LARGE => refused("file_too_large", "the file is too large to be a certificate or key"),
        NO_DIRECTORY => refused("directory_missing", "there is no such directory"),
        UNREADABLE => Error::permanent(OPERATION, "read_failed", "root cannot read this"),
        UNWRITABLE => Error::permanent(OPERATION, "write_failed", "root cannot write this"),
        OWNER_REFUSED => Error::permanent(OPERATION, "permission_denied", "root cannot set this owner"),
        UNPROTECTED => refused(
            "directory_not_protected",
            "somebody other than root can change a directory on the way to this file, and so decide what root writes to",
        ),
        FOREIGN_LINK => refused("link_not_protected", "a symbolic link on the way to this file is not root's"),
        status => Error::permanent(OPERATION, "sudo_failed", "sudo ended in an unexpected way").with("exit", status),
    }
}

/// Reads the output of [`OBSERVE`].
fn read(output: &[u8]) -> Option<FileState> {
    let end = output.iter().position(|byte| *byte == 0)?;
    let head = std::str::from_utf8(&output[..end]).ok()?;
    let mut parts = head.splitn(4, ' ');
    let mode = u32::from_str_radix(parts.next()?, 8).ok()?;
    let (uid, gid) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let real = parts.next()?;
    Some(FileState::new(real, Secret::new(output[end + 1..].to_vec()), mode, uid, gid))
}

/// Free bytes, by a table of `df -P -k`.
fn free(table: &str) -> Option<u64> {
    let blocks: u64 = table.lines().nth(1)?.split_ascii_whitespace().nth(3)?.parse().ok()?;
    blocks.checked_mul(1024)
}
