//! The file system of a host with the rights of root, through `sudo`.
//!
//! Each operation is one `sudo -n -- /bin/sh -c SCRIPT sh ARGUMENT…`. Scripts are constants; paths are their arguments,
//! quoted once for the shell that starts `sudo`. Contents go through standard input and output: a key is never an
//! argument, and rests nowhere but in the file that it is for. What a script has to say is its exit status, from 60 on,
//! so that nothing of it is confused with `sudo` itself, which ends with 1 when it refuses.
//!
//! Scripts use what POSIX, GNU and BusyBox have in common, and `stat -c` and `readlink -f`, which both have.

use std::time::Duration;

use async_trait::async_trait;
use certlib_core::secret::SecretBytes;
use certlib_core::{Effect, Error, ErrorClass, Result, Secret};

use super::exec::{self, Stream};
use super::sftp::RemoteFileSystem;
use crate::files::{Attributes, CommandOutput, Ended, FileState, FileSystem, Found, OUTPUT_LIMIT, Replaced, quote};

const OPERATION: &str = "ssh.sudo";

const ABSENT: u32 = 60;
const DANGLING: u32 = 61;
const NOT_A_FILE: u32 = 62;
const TOO_LARGE: u32 = 63;
const NO_DIRECTORY: u32 = 64;
const UNREADABLE: u32 = 65;
const UNWRITABLE: u32 = 66;
const OWNER_REFUSED: u32 = 67;

/// `PATH LIMIT`: mode, user, group and real path, a NUL, and the content.
const OBSERVE: &str = r#"
[ -e "$1" ] || [ -L "$1" ] || exit 60
real=$1
if [ -L "$1" ]; then real=$(readlink -f -- "$1") && [ -e "$real" ] || exit 61; fi
[ -f "$real" ] || exit 62
[ "$(stat -c %s -- "$real")" -le "$2" ] || exit 63
stat=$(stat -c '%a %u %g' -- "$real") || exit 65
printf '%s %s\0' "$stat" "$real"
cat -- "$real" || exit 65
"#;

/// `PATH MODE OWNER REQUIRED`, the content on standard input: whether the owner is the one asked for.
const STAGE: &str = r#"
umask 077
set -C
{ cat >"$1"; } 2>/dev/null || exit 66
owner=kept
if [ -n "$3" ] && ! chown -- "$3" "$1" 2>/dev/null; then
    [ "$4" = no ] || exit 67
    owner=lost
fi
chmod -- "$2" "$1" || exit 66
sync -- "$1" 2>/dev/null
echo "$owner"
"#;

/// `FROM TO`: whether the file has the label that belongs there, where SELinux is enabled.
const REPLACE: &str = r#"
label=kept
selinux=no
if [ -e /sys/fs/selinux/enforce ] || selinuxenabled 2>/dev/null; then selinux=yes; fi
[ -e "$2" ]; is_new=$?
if [ $selinux$is_new = yes0 ]; then chcon --reference="$2" -- "$1" 2>/dev/null || label=lost; fi
mv -f -- "$1" "$2" || exit 66
if [ $selinux$is_new = yes1 ]; then restorecon -- "$2" 2>/dev/null || label=lost; fi
echo $label
"#;

/// `PATH`
const REMOVE: &str = r#"rm -f -- "$1" || exit 66"#;

/// `PATH`: a table whose last line has the free blocks of 1 KiB in its fourth column.
const FREE_SPACE: &str = r#"[ -d "$1" ] || exit 64; df -P -k -- "$1" 2>/dev/null || :"#;

/// `PATH`: where it really is.
const REAL_DIRECTORY: &str = r#"cd -P -- "$1" 2>/dev/null || exit 64; pwd -P"#;

/// A connection, used with the rights of root. Sockets are reached with those of the login.
#[derive(Debug)]
pub(super) struct Elevated<'a> {
    plain: &'a RemoteFileSystem,
    /// How long one operation may take.
    limit: Duration,
}

impl<'a> Elevated<'a> {
    pub(super) fn new(plain: &'a RemoteFileSystem, limit: Duration) -> Self {
        Self { plain, limit }
    }

    /// Runs a script; gives its output. Whether anything was changed is for the caller to say.
    async fn script(&self, script: &str, arguments: &[&str], stream: Stream<'_>) -> Result<Result<Vec<u8>, u32>> {
        let mut command = sudo(script);
        command.push_str(" sh");
        for argument in arguments {
            command.push(' ');
            command.push_str(&quote(argument));
        }
        let output = exec::stream(self.plain.connection(), &command, stream, self.limit).await?;
        let error = match output.ended {
            Ended::Exited(0) => return Ok(Ok(output.stdout)),
            Ended::Exited(status @ ABSENT..=OWNER_REFUSED) => return Ok(Err(status)),
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
    use std::path::Path;
    use std::process::{Command, Output, Stdio};

    use super::*;

    /// Runs a script as the host's shell would, without `sudo`.
    fn run(script: &str, arguments: &[&str], input: &[u8]) -> Output {
        let mut child = Command::new("/bin/sh")
            .args(["-c", script, "sh"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    }

    fn status(output: &Output) -> u32 {
        output.status.code().unwrap().try_into().unwrap()
    }

    fn text(path: &Path) -> &str {
        path.to_str().unwrap()
    }

    #[test]
    fn files_are_observed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("it's $(odd)"), b"a\0b\n\n").unwrap();
        symlink("it's $(odd)", at("link")).unwrap();
        symlink("nowhere", at("dangling")).unwrap();
        let file = read(&run(OBSERVE, &[text(&at("link")), "5"], b"").stdout).unwrap();
        assert_eq!(file.content.expose(), b"a\0b\n\n");
        let real = fs::canonicalize(at("link")).unwrap();
        let metadata = fs::metadata(&real).unwrap();
        assert_eq!((file.real.as_str(), file.uid, file.gid), (text(&real), metadata.uid(), metadata.gid()));
        assert_eq!(file.mode, metadata.mode() & 0o7777);
        for (name, code) in
            [("none", ABSENT), ("none/below", ABSENT), ("dangling", DANGLING), ("", NOT_A_FILE), ("link", TOO_LARGE)]
        {
            assert_eq!(status(&run(OBSERVE, &[text(&at(name)), "4"], b"")), code, "{name}");
        }
        assert!(read(b"644 0 0 /a").is_none() && read(b"").is_none() && read(b"rw 0 0 /a\0x").is_none());
    }

    #[test]
    fn files_are_staged_and_moved() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let me = fs::metadata(folder.path()).unwrap();
        let owner = format!("{}:{}", me.uid(), me.gid());
        let stage =
            |mode: &str, owner: &str, required: &str| run(STAGE, &[text(&at("new")), mode, owner, required], b"k\0y");
        assert_eq!(stage("0640", &owner, "yes").stdout, b"kept\n");
        assert_eq!(fs::read(at("new")).unwrap(), b"k\0y");
        assert_eq!(fs::metadata(at("new")).unwrap().mode() & 0o7777, 0o640);
        assert_eq!(status(&stage("0640", "", "no")), UNWRITABLE, "it never writes over another");
        fs::remove_file(at("new")).unwrap();
        assert_eq!(status(&stage("0640", "no-such-user", "yes")), OWNER_REFUSED);
        fs::remove_file(at("new")).unwrap();
        assert_eq!(stage("0600", "no-such-user", "no").stdout, b"lost\n");
        fs::write(at("old"), "old").unwrap();
        assert_eq!(status(&run(REPLACE, &[text(&at("new")), text(&at("old"))], b"")), 0);
        assert_eq!(fs::read(at("old")).unwrap(), b"k\0y");
        assert_eq!(status(&run(REPLACE, &[text(&at("new")), text(&at("old"))], b"")), UNWRITABLE);
        for _ in 0..2 {
            assert_eq!(status(&run(REMOVE, &[text(&at("old"))], b"")), 0);
        }
        assert!(!at("old").exists());
    }

    /// As on a host with SELinux, as far as commands can tell: `chcon` and `restorecon` write down what they are given.
    #[test]
    fn labels_are_kept_where_there_are_any() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (log, new, old) = (at("log"), at("new"), at("old"));
        fs::create_dir(at("bin")).unwrap();
        let put = |name: &str, script: &str| {
            fs::write(at("bin").join(name), format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(at("bin").join(name), fs::Permissions::from_mode(0o755)).unwrap();
        };
        let path = format!("PATH='{}:/usr/bin:/bin'", text(&at("bin")));
        let replace = || {
            fs::write(&new, "new").unwrap();
            let output = run(&format!("{path}{REPLACE}"), &[text(&new), text(&old)], b"");
            assert_eq!(fs::read(&old).unwrap(), b"new");
            let commands = fs::read_to_string(&log).unwrap_or_default();
            let _ = fs::remove_file(&log);
            (String::from_utf8(output.stdout).unwrap(), commands)
        };
        put("selinuxenabled", "exit 1");
        for name in ["chcon", "restorecon"] {
            put(name, &format!("echo {name} \"$@\" >>'{}'", text(&log)));
        }
        assert_eq!(replace(), ("kept\n".into(), String::new()), "SELinux is off");
        put("selinuxenabled", "exit 0");
        let copied = format!("chcon --reference={} -- {}\n", text(&old), text(&new));
        assert_eq!(replace(), ("kept\n".into(), copied));
        fs::remove_file(&old).unwrap();
        assert_eq!(replace(), ("kept\n".into(), format!("restorecon -- {}\n", text(&old))));
        put("chcon", "exit 1");
        assert_eq!(replace(), ("lost\n".into(), String::new()), "delivered all the same");
    }

    #[test]
    fn directories_are_measured() {
        let folder = tempfile::tempdir().unwrap();
        symlink(folder.path(), folder.path().join("link")).unwrap();
        let link = folder.path().join("link");
        let real = format!("{}\n", fs::canonicalize(folder.path()).unwrap().display());
        assert_eq!(run(REAL_DIRECTORY, &[text(&link)], b"").stdout, real.as_bytes());
        let table = run(FREE_SPACE, &[text(&link)], b"").stdout;
        assert!(free(&String::from_utf8(table).unwrap()).is_some_and(|free| free > 0));
        for script in [REAL_DIRECTORY, FREE_SPACE] {
            assert_eq!(status(&run(script, &[text(&folder.path().join("none"))], b"")), NO_DIRECTORY);
        }
        assert_eq!(free("Filesystem 1024-blocks Used Available\nnone - - - -\n"), None);
    }
}
