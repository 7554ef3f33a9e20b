//! A file that appears under its name once it is whole.

use std::io;
use std::path::{Path, PathBuf};

use tokio::fs::{File, OpenOptions};

use crate::classify;
use crate::error::{Error, Result};
use crate::random;

/// A file under a temporary name beside the one it is to have, for its owner alone; gone when dropped unfinished.
pub(crate) struct PartFile {
    file: File,
    part: PathBuf,
    path: PathBuf,
    overwrite: bool,
    finished: bool,
}

impl PartFile {
    /// Begins to write `path`.
    ///
    /// # Errors
    /// `Validation` `backup_exists` unless it may be overwritten; as the file system.
    pub(crate) async fn create(path: &Path, overwrite: bool) -> Result<Self> {
        let name = path.file_name().ok_or_else(|| failed(path, "this is no name for a file", None))?;
        if !overwrite && tokio::fs::symlink_metadata(path).await.is_ok() {
            return Err(exists(path));
        }
        let mut part = std::ffi::OsString::from(".");
        part.push(name);
        part.push(format!(".{}.part", random::id().simple()));
        let part = path.with_file_name(part);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        options.mode(0o600);
        let file = options.open(&part).await.map_err(|error| failed(path, "the file cannot be made", Some(error)))?;
        Ok(Self { file, part, path: path.to_owned(), overwrite, finished: false })
    }

    pub(crate) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Makes it durable and gives it its name.
    pub(crate) async fn finish(mut self) -> Result<()> {
        let path = self.path.clone();
        self.file.sync_all().await.map_err(|error| failed(&path, "the file cannot be made durable", Some(error)))?;
        let (from, to, overwrite) = (self.part.clone(), path.clone(), self.overwrite);
        let placed = tokio::task::spawn_blocking(move || place(&from, &to, overwrite)).await;
        self.finished = matches!(placed, Ok(Ok(())));
        match placed {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) if error.kind() == io::ErrorKind::AlreadyExists => Err(exists(&path)),
            Ok(Err(error)) => Err(failed(&path, "the file cannot be put in its place", Some(error))),
            Err(_) => Err(failed(&path, "the file cannot be put in its place", None)),
        }
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        if !self.finished {
            let _ = std::fs::remove_file(&self.part);
        }
    }
}

/// Renames `from`, which is durable, to `to`.
fn place(from: &Path, to: &Path, overwrite: bool) -> io::Result<()> {
    // A rename replaces what is there; a link does not, whatever happens at the same moment.
    let linked = if overwrite { None } else { Some(std::fs::hard_link(from, to)) };
    match linked {
        Some(Ok(())) => std::fs::remove_file(from)?,
        Some(Err(error)) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
        // Not every file system has links.
        Some(Err(_)) if to.symlink_metadata().is_ok() => return Err(io::ErrorKind::AlreadyExists.into()),
        _ => std::fs::rename(from, to)?,
    }
    // The name itself; only Unix lets a directory be opened for that.
    if cfg!(unix) {
        let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty());
        std::fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

fn exists(path: &Path) -> Error {
    Error::validation("backup.file", "backup_exists", "there is a file of this name already")
        .with("file", path.display())
}

fn failed(path: &Path, why: &'static str, error: Option<io::Error>) -> Error {
    let class = error.as_ref().map_or(crate::ErrorClass::Validation, |error| classify::io(error.kind()));
    let failed = Error::new(class, "backup.file", "io_failed", why).with("file", path.display());
    match error {
        Some(error) => failed.with_source(error),
        None => failed,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn it_appears_whole_or_not_at_all_and_replaces_nothing_unasked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("backup");
        let files = || std::fs::read_dir(folder.path()).unwrap().count();

        let mut part = PartFile::create(&path, false).await.unwrap();
        part.file().write_all(b"one").await.unwrap();
        assert!(!path.exists());
        drop(part);
        assert_eq!(files(), 0, "what was not finished is gone");

        let mut part = PartFile::create(&path, false).await.unwrap();
        let rival = PartFile::create(&path, false).await.unwrap();
        part.file().write_all(b"two").await.unwrap();
        part.file().flush().await.unwrap();
        part.finish().await.unwrap();
        assert_eq!(rival.finish().await.unwrap_err().code(), "backup_exists", "it came while this one was written");
        assert_eq!(PartFile::create(&path, false).await.err().unwrap().code(), "backup_exists");
        assert_eq!((std::fs::read(&path).unwrap(), files()), (b"two".to_vec(), 1));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }

        let mut part = PartFile::create(&path, true).await.unwrap();
        part.file().write_all(b"three").await.unwrap();
        part.file().flush().await.unwrap();
        part.finish().await.unwrap();
        assert_eq!((std::fs::read(&path).unwrap(), files()), (b"three".to_vec(), 1));
        let nowhere = folder.path().join("missing").join("backup");
        assert_eq!(PartFile::create(&nowhere, false).await.err().unwrap().code(), "io_failed");
    }
}
