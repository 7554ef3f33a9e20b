//! One logged-in client acting on its host: every change passes here, so that faults and history see it,
//! whether it came by SFTP or by a command.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{
    FileInfo, Operation,
    filesystem::{Content, Filesystem, FsError, Owner, SharedInode},
    host::{Host, User},
    lock,
};

type Result<T> = std::result::Result<T, FsError>;

/// A client on one connection.
pub(super) struct Actor {
    pub(super) host: Arc<Host>,
    pub(super) connection: u64,
    /// Cancelled to lose the connection without a goodbye.
    pub(super) cut: CancellationToken,
    pub(super) user: User,
}

/// How to open a file.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OpenOptions {
    pub(super) read: bool,
    pub(super) write: bool,
    pub(super) append: bool,
    pub(super) create: bool,
    pub(super) truncate: bool,
    pub(super) exclusive: bool,
}

/// A file a client has open.
pub(super) struct OpenFile {
    pub(super) path: String,
    pub(super) inode: SharedInode,
    options: OpenOptions,
}

/// Attributes to change; `None` leaves them as they are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Changes {
    pub(super) size: Option<u64>,
    pub(super) mode: Option<u32>,
    pub(super) owner: Option<(u32, u32)>,
    pub(super) modified: Option<u32>,
}

impl Actor {
    /// `path` made absolute from the user's home directory.
    pub(super) fn absolute(&self, path: &str) -> String {
        if path.starts_with('/') { path.to_owned() } else { format!("{}/{path}", self.user.home) }
    }

    pub(super) fn canonical(&self, path: &str) -> Result<String> {
        lock(&self.host.files).resolve(&self.absolute(path), true)
    }

    pub(super) fn info(&self, path: &str, follow: bool) -> Result<FileInfo> {
        lock(&self.host.files).info(&self.absolute(path), follow)
    }

    pub(super) fn list(&self, path: &str) -> Result<Vec<FileInfo>> {
        lock(&self.host.files).list(&self.absolute(path))
    }

    pub(super) fn read(&self, path: &str) -> Result<Arc<Vec<u8>>> {
        lock(&self.host.files).read(&self.absolute(path))
    }

    pub(super) fn read_link(&self, path: &str) -> Result<String> {
        let files = lock(&self.host.files);
        let path = files.resolve(&self.absolute(path), false)?;
        match &lock(files.node(&path)?).content {
            Content::Symlink(target) => Ok(target.clone()),
            _ => Err(FsError::Invalid),
        }
    }

    pub(super) fn open(&self, path: &str, options: OpenOptions, mode: u32) -> Result<OpenFile> {
        let mut files = lock(&self.host.files);
        // As open(2) has it: an exclusive create does not look through a link, it fails on it.
        let exclusive = options.create && options.exclusive;
        let path = files.resolve(&self.absolute(path), !exclusive)?;
        if options.write || options.create {
            self.may_change(&path)?;
        }
        let inode = if !files.exists(&path) {
            if !options.create {
                return Err(FsError::NotFound);
            }
            let content = Content::File(Arc::default());
            let inode = files.create(&path, content, mode, self.user.owner)?;
            self.record(Operation::Created { path: path.clone(), mode: mode & 0o7777 });
            inode
        } else if exclusive {
            return Err(FsError::Exists);
        } else {
            let inode = Arc::clone(files.node(&path)?);
            if matches!(lock(&inode).content, Content::Directory) {
                return Err(FsError::IsDirectory);
            }
            if options.write && options.truncate && lock(&inode).length() > 0 {
                lock(&inode).truncate(0)?;
                self.record(Operation::Truncated { path: path.clone(), length: 0 });
            }
            inode
        };
        Ok(OpenFile { path, inode, options })
    }

    /// Writes as much of `data` as the disk takes.
    pub(super) fn write(&self, file: &OpenFile, offset: u64, data: &[u8]) -> Result<()> {
        if !file.options.write {
            return Err(FsError::BadHandle);
        }
        let fits = lock(&self.host.fault).take_space(data.len());
        let offset = {
            let mut inode = lock(&file.inode);
            let offset = if file.options.append { inode.length() } else { offset };
            inode.write(offset, &data[..fits])?;
            offset
        };
        if fits > 0 {
            self.record(Operation::Wrote { path: file.path.clone(), offset, length: fits });
        }
        if fits < data.len() {
            return Err(FsError::NoSpace);
        }
        Ok(())
    }

    /// Up to `length` bytes from `offset`; [`FsError::End`] when there are none left.
    pub(super) fn read_at(&self, file: &OpenFile, offset: u64, length: usize) -> Result<Vec<u8>> {
        if !file.options.read {
            return Err(FsError::BadHandle);
        }
        let inode = lock(&file.inode);
        let Content::File(bytes) = &inode.content else {
            return Err(FsError::IsDirectory);
        };
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = bytes.get(start..).unwrap_or_default();
        if rest.is_empty() {
            return Err(FsError::End);
        }
        Ok(rest[..rest.len().min(length)].to_vec())
    }

    pub(super) fn sync(&self, file: &OpenFile) {
        self.record(Operation::Synced { path: file.path.clone() });
    }

    /// Changes the attributes of what `path` leads to.
    pub(super) fn change(&self, path: &str, changes: Changes) -> Result<()> {
        let (path, inode) = {
            let files = lock(&self.host.files);
            let path = files.resolve(&self.absolute(path), true)?;
            let inode = Arc::clone(files.node(&path)?);
            (path, inode)
        };
        self.change_inode(&path, &inode, changes)
    }

    /// Changes the attributes of an open file.
    pub(super) fn change_inode(&self, path: &str, inode: &SharedInode, changes: Changes) -> Result<()> {
        self.may_change(path)?;
        let mut inode = lock(inode);
        let Owner { uid, gid } = self.user.owner;
        if uid != 0 {
            let gives_away = changes
                .owner
                .is_some_and(|(new_uid, new_gid)| new_uid != inode.uid || (new_gid != inode.gid && new_gid != gid));
            if gives_away || uid != inode.uid {
                return Err(FsError::Denied);
            }
        }
        if let Some(length) = changes.size {
            inode.truncate(length)?;
            self.record(Operation::Truncated { path: path.to_owned(), length });
        }
        if let Some((uid, gid)) = changes.owner {
            inode.uid = uid;
            inode.gid = gid;
        }
        if let Some(mode) = changes.mode {
            inode.mode = mode & 0o7777;
        }
        if let Some(modified) = changes.modified {
            inode.modified = modified;
        }
        if changes.mode.is_some() || changes.owner.is_some() || changes.modified.is_some() {
            self.record(Operation::AttributesSet {
                path: path.to_owned(),
                mode: changes.mode.map(|mode| mode & 0o7777),
                owner: changes.owner,
            });
        }
        Ok(())
    }

    pub(super) fn rename(&self, from: &str, to: &str, replace: bool) -> Result<()> {
        if lock(&self.host.fault).drops_before_rename() {
            return Err(self.drop_connection());
        }
        {
            let mut files = lock(&self.host.files);
            let from = files.resolve(&self.absolute(from), false)?;
            let to = files.resolve(&self.absolute(to), false)?;
            self.may_change(&from)?;
            self.may_change(&to)?;
            let replaced = files.rename(&from, &to, replace)?;
            self.record(Operation::Renamed { from, to, replaced });
        }
        if lock(&self.host.fault).drops_after_rename() {
            return Err(self.drop_connection());
        }
        Ok(())
    }

    pub(super) fn remove(&self, path: &str) -> Result<()> {
        self.edit(path, |files, path| {
            files.remove(&path)?;
            Ok(Operation::Removed { path })
        })
    }

    pub(super) fn make_directory(&self, path: &str, mode: u32) -> Result<()> {
        self.edit(path, |files, path| {
            files.create(&path, Content::Directory, mode, self.user.owner)?;
            Ok(Operation::DirectoryCreated { path })
        })
    }

    pub(super) fn remove_directory(&self, path: &str) -> Result<()> {
        self.edit(path, |files, path| {
            files.remove_directory(&path)?;
            Ok(Operation::DirectoryRemoved { path })
        })
    }

    pub(super) fn symlink(&self, target: &str, link: &str) -> Result<()> {
        self.edit(link, |files, path| {
            let content = Content::Symlink(target.to_owned());
            files.create(&path, content, 0o777, self.user.owner)?;
            Ok(Operation::SymlinkCreated { path, target: target.to_owned() })
        })
    }

    pub(super) fn hard_link(&self, from: &str, to: &str) -> Result<()> {
        self.edit(to, |files, to| {
            let from = files.resolve(&self.absolute(from), false)?;
            files.hard_link(&from, &to)?;
            Ok(Operation::HardLinked { from, to })
        })
    }

    pub(super) fn record(&self, operation: Operation) {
        self.host.record(self.connection, operation);
    }

    /// Loses the connection; the error never reaches the client.
    pub(super) fn drop_connection(&self) -> FsError {
        self.cut.cancel();
        FsError::Dropped
    }

    /// Runs one change of the tree at a path whose last component is not followed, and records it.
    fn edit(&self, path: &str, change: impl FnOnce(&mut Filesystem, String) -> Result<Operation>) -> Result<()> {
        let mut files = lock(&self.host.files);
        let path = files.resolve(&self.absolute(path), false)?;
        self.may_change(&path)?;
        let operation = change(&mut files, path)?;
        self.record(operation);
        Ok(())
    }

    fn may_change(&self, canonical: &str) -> Result<()> {
        if lock(&self.host.fault).denies(canonical) {
            return Err(FsError::Denied);
        }
        Ok(())
    }
}
