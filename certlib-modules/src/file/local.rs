//! The file system of this machine.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::sync::OnceLock;
use std::time::Duration;

use async_trait::async_trait;
use certlib_core::secret::SecretBytes;
use certlib_core::{Error, ErrorClass, Result, Secret, classify};

use super::label::{self, Labels};
use super::{command, socket};
use crate::files::{Attributes, CommandOutput, FileState, FileSystem, Found, Replaced};

/// The file system of this machine, with the rights of this process. Blocking calls run on tokio's blocking threads.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct LocalFileSystem;

impl LocalFileSystem {
    /// The file system.
    pub fn new() -> Self {
        Self
    }
}

/// What tells this machine from others: several may run the same engine on the same store.
pub(super) fn machine() -> &'static str {
    static MACHINE: OnceLock<String> = OnceLock::new();
    MACHINE.get_or_init(|| {
        // The second one changes with a mere renaming, but containers often lack the first.
        let mut names = ["/etc/machine-id", "/proc/sys/kernel/hostname"].into_iter().filter_map(|path| {
            let text = fs::read_to_string(path).ok()?;
            Some(text.trim().to_owned()).filter(|name| !name.is_empty())
        });
        names.next().unwrap_or_default()
    })
}

#[async_trait]
impl FileSystem for LocalFileSystem {
    async fn observe(&self, path: &str, limit: usize) -> Result<Found> {
        let path = path.to_owned();
        blocking(move || observe(&path, limit)).await
    }

    async fn free_space(&self, path: &str) -> Result<Option<u64>> {
        // The standard library cannot tell, and a write that does not fit is undone.
        self.real_directory(path).await.map(|_| None)
    }

    async fn real_directory(&self, path: &str) -> Result<String> {
        let path = path.to_owned();
        blocking(move || {
            let missing = || {
                Error::validation("file.directory", "directory_missing", "there is no such directory")
                    .with("path", path.escape_debug())
            };
            let real = fs::canonicalize(&path).map_err(|error| match error.kind() {
                ErrorKind::NotFound | ErrorKind::NotADirectory => missing(),
                _ => failed("file.directory", "read_failed", &path, error),
            })?;
            if real.is_dir() { Ok(real.to_string_lossy().into_owned()) } else { Err(missing()) }
        })
        .await
    }

    async fn stage(&self, path: &str, content: &[u8], attributes: &Attributes) -> Result<bool> {
        let (path, content, attributes) = (path.to_owned(), Secret::new(content.to_vec()), *attributes);
        blocking(move || {
            stage(&path, content.expose(), &attributes)
                .map_err(|error| failed("file.write", "write_failed", &path, error))
        })
        .await
    }

    async fn replace(&self, from: &str, to: &str) -> Result<Replaced> {
        let (from, to) = (from.to_owned(), to.to_owned());
        blocking(move || {
            let labels = label::labels();
            let labels = labels.as_ref().map(|labels| labels as &dyn Labels);
            let kept = label::with_label(labels, &from, &to, || fs::rename(&from, &to))
                .map_err(|error| failed("file.rename", "write_failed", &to, error))?;
            Ok(Replaced::atomically().with_label(kept))
        })
        .await
    }

    async fn remove(&self, path: &str) -> Result<()> {
        let path = path.to_owned();
        blocking(move || match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(failed("file.remove", "write_failed", &path, error))
            }
            _ => Ok(()),
        })
        .await
    }

    async fn sync_directory(&self, path: &str) -> Result<()> {
        let path = path.to_owned();
        blocking(move || {
            File::open(&path)
                .and_then(|directory| directory.sync_all())
                .map_err(|error| failed("file.sync", "write_failed", &path, error))
        })
        .await
    }

    async fn run(&self, command: &str, timeout: Duration) -> Result<CommandOutput> {
        command::run(command, timeout).await
    }

    async fn ask(&self, socket: &str, request: &SecretBytes, timeout: Duration) -> Result<Vec<u8>> {
        socket::ask(socket, request, timeout).await
    }
}

fn observe(path: &str, limit: usize) -> Result<Found> {
    let refused = |code, message| Err(Error::validation("file.read", code, message).with("path", path.escape_debug()));
    let unreadable = |error| failed("file.read", "read_failed", path, error);
    let mut metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Found::Absent),
        Err(error) => return Err(unreadable(error)),
    };
    let mut real = path.to_owned();
    if metadata.is_symlink() {
        real = match fs::canonicalize(path) {
            Ok(end) => end.to_string_lossy().into_owned(),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return refused("link_dangling", "this symbolic link leads nowhere");
            }
            Err(error) => return Err(unreadable(error)),
        };
        metadata = fs::symlink_metadata(&real).map_err(unreadable)?;
    }
    // Opening a FIFO or a device could block, or worse.
    if !metadata.is_file() {
        return refused("path_not_a_file", "something other than a regular file is at this path");
    }
    let file = File::open(&real).map_err(unreadable)?;
    let mut content = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(limit).min(limit) + 1);
    file.take(limit as u64 + 1).read_to_end(&mut content).map_err(unreadable)?;
    let content = Secret::new(content);
    if content.expose().len() > limit {
        return refused("file_too_large", "the file is too large to be a certificate or key");
    }
    Ok(Found::File(FileState::new(real, content, metadata.mode() & 0o7777, metadata.uid(), metadata.gid())))
}

fn stage(path: &str, content: &[u8], attributes: &Attributes) -> io::Result<bool> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    let now = file.metadata()?;
    let differs =
        attributes.uid.is_some_and(|uid| uid != now.uid()) || attributes.gid.is_some_and(|gid| gid != now.gid());
    let mut has_owner = true;
    if differs && let Err(error) = fchown(&file, attributes.uid, attributes.gid) {
        if attributes.owner_required || error.kind() != ErrorKind::PermissionDenied {
            return Err(error);
        }
        has_owner = false;
    }
    // After the owner: giving a file away can clear permission bits.
    file.set_permissions(Permissions::from_mode(attributes.mode))?;
    file.sync_all()?;
    Ok(has_owner)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| {
        Err(Error::new(ErrorClass::IoTransient, "file", "runtime_stopped", "the runtime is shutting down")
            .with_source(error))
    })
}

/// An error of the operating system.
fn failed(operation: &'static str, code: &'static str, path: &str, error: io::Error) -> Error {
    let code = if error.kind() == ErrorKind::PermissionDenied { "permission_denied" } else { code };
    Error::new(classify::io(error.kind()), operation, code, error.to_string()).with("path", path.escape_debug())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use super::*;

    fn text(path: &std::path::Path) -> &str {
        path.to_str().unwrap()
    }

    #[tokio::test]
    async fn observes_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let local = LocalFileSystem::new();
        let at = |name: &str| folder.path().join(name);
        let code = async |name: &str| local.observe(text(&at(name)), 8).await.unwrap_err().code().to_owned();

        assert!(matches!(local.observe(text(&at("none")), 8).await.unwrap(), Found::Absent));
        fs::write(at("file"), "12345678").unwrap();
        symlink("file", at("one")).unwrap();
        symlink(at("one"), at("two")).unwrap();
        let Found::File(file) = local.observe(text(&at("two")), 8).await.unwrap() else { panic!("absent") };
        assert_eq!((file.content.expose().as_slice(), file.real.as_str()), (&b"12345678"[..], text(&at("file"))));

        symlink("nowhere", at("dangling")).unwrap();
        assert_eq!(code("dangling").await, "link_dangling");
        fs::write(at("large"), "123456789").unwrap();
        assert_eq!(code("large").await, "file_too_large");
        assert_eq!(code("").await, "path_not_a_file");
        assert!(Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
        assert_eq!(code("fifo").await, "path_not_a_file");
    }

    #[tokio::test]
    async fn stages_exclusively_with_the_final_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new");
        let local = LocalFileSystem::new();
        assert!(local.stage(text(&path), b"secret", &Attributes::mode(0o640)).await.unwrap());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
        let again = local.stage(text(&path), b"other", &Attributes::mode(0o640)).await.unwrap_err();
        assert_eq!(again.code(), "write_failed");
        assert_eq!(fs::read(&path).unwrap(), b"secret");
        local.remove(text(&path)).await.unwrap();
        local.remove(text(&path)).await.unwrap();
    }

    #[tokio::test]
    async fn directories() {
        let folder = tempfile::tempdir().unwrap();
        symlink(folder.path(), folder.path().join("link")).unwrap();
        let real = fs::canonicalize(folder.path()).unwrap();
        let local = LocalFileSystem::new();
        assert_eq!(local.real_directory(text(&folder.path().join("link"))).await.unwrap(), text(&real));
        fs::write(folder.path().join("file"), "").unwrap();
        for name in ["none", "file", "file/below"] {
            let missing = local.free_space(text(&folder.path().join(name))).await.unwrap_err();
            assert_eq!(missing.code(), "directory_missing", "{name}");
        }
    }
}
