//! A file system in memory: directories, files with several names, symbolic links, owners and modes.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

use super::lock;

/// As many symbolic links as Linux follows before it gives up.
const MAX_LINKS: u32 = 40;

/// Why an operation on the file system failed, one per errno a client can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FsError {
    NotFound,
    NotDirectory,
    TooManyLinks,
    Exists,
    IsDirectory,
    NotEmpty,
    Denied,
    NoSpace,
    Invalid,
    BadHandle,
    /// The operation is not offered.
    Unsupported,
    /// Not an error: a reader reached the end.
    End,
    /// The connection is being cut; no answer will arrive.
    Dropped,
}

impl fmt::Display for FsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "No such file or directory",
            Self::NotDirectory => "Not a directory",
            Self::TooManyLinks => "Too many levels of symbolic links",
            Self::Exists => "File exists",
            Self::IsDirectory => "Is a directory",
            Self::NotEmpty => "Directory not empty",
            Self::Denied => "Permission denied",
            Self::NoSpace => "No space left on device",
            Self::Invalid => "Invalid argument",
            Self::BadHandle => "Bad file descriptor",
            Self::Unsupported => "Operation not supported",
            Self::End => "End of file",
            Self::Dropped => "Connection reset by peer",
        })
    }
}

type Result<T> = std::result::Result<T, FsError>;

/// What a name stands for. Bytes are shared until someone writes to them, so that thousands of hosts can start
/// with the same certificate for the price of one.
#[derive(Clone, Debug)]
pub(super) enum Content {
    File(Arc<Vec<u8>>),
    Directory,
    Symlink(String),
}

/// The kind of a [`FileInfo`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
}

/// A file, directory or link of a [`SimHost`](super::SimHost), without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileInfo {
    /// Absolute path.
    pub path: String,
    /// What it is.
    pub kind: FileKind,
    /// Permission bits, without the kind.
    pub mode: u32,
    /// Owning user.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// Length in bytes; of a link, the length of its target's name.
    pub size: u64,
    /// Last change of the content, in whole seconds since 1970.
    pub modified: u32,
}

/// A file itself, as opposed to its names.
#[derive(Clone, Debug)]
pub(super) struct Inode {
    pub(super) content: Content,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) modified: u32,
}

impl Inode {
    pub(super) fn info(&self, path: &str) -> FileInfo {
        let (kind, size) = match &self.content {
            Content::File(bytes) => (FileKind::File, bytes.len()),
            Content::Directory => (FileKind::Directory, 4096),
            Content::Symlink(target) => (FileKind::Symlink, target.len()),
        };
        FileInfo {
            path: path.to_owned(),
            kind,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            size: size as u64,
            modified: self.modified,
        }
    }

    /// Puts `data` at `offset`, filling a gap with zeros.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        let Content::File(bytes) = &mut self.content else {
            return Err(FsError::IsDirectory);
        };
        let start = usize::try_from(offset).map_err(|_| FsError::NoSpace)?;
        let end = start.checked_add(data.len()).ok_or(FsError::NoSpace)?;
        if end > MAX_FILE {
            return Err(FsError::NoSpace);
        }
        let bytes = Arc::make_mut(bytes);
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[start..end].copy_from_slice(data);
        self.modified = now();
        Ok(())
    }

    pub(super) fn truncate(&mut self, length: u64) -> Result<()> {
        let Content::File(bytes) = &mut self.content else {
            return Err(FsError::IsDirectory);
        };
        let length = usize::try_from(length).map_err(|_| FsError::NoSpace)?;
        if length > MAX_FILE {
            return Err(FsError::NoSpace);
        }
        Arc::make_mut(bytes).resize(length, 0);
        self.modified = now();
        Ok(())
    }

    pub(super) fn length(&self) -> u64 {
        self.info("").size
    }
}

/// No file grows beyond this; a client that tries is stopped before the process runs out of memory.
const MAX_FILE: usize = 64 << 20;

/// A file that has been opened; it lives on when its name goes.
pub(super) type SharedInode = Arc<Mutex<Inode>>;

/// Who creates something, and with which permission bits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// All names of one host.
#[derive(Debug)]
pub(super) struct Filesystem {
    nodes: BTreeMap<String, SharedInode>,
}

impl Filesystem {
    /// An empty tree with `/`, `/tmp` and `/etc`.
    pub(super) fn new() -> Self {
        let mut tree = Self { nodes: BTreeMap::new() };
        let root = Owner { uid: 0, gid: 0 };
        for (path, mode) in [("/", 0o755), ("/etc", 0o755), ("/tmp", 0o1777)] {
            tree.insert(path, Content::Directory, mode, root);
        }
        tree
    }

    /// The canonical path of `path` (absolute): links followed, `.` and `..` gone. The last component may be
    /// missing, and is followed when it is a link only if `follow` says so.
    pub(super) fn resolve(&self, path: &str, follow: bool) -> Result<String> {
        if path.contains('\0') {
            return Err(FsError::Invalid);
        }
        let mut pending = Vec::new();
        push_components(&mut pending, path);
        let mut current = String::new();
        let mut links = 0;
        while let Some(component) = pending.pop() {
            if component == ".." {
                current.truncate(current.rfind('/').unwrap_or(0));
                continue;
            }
            let next = format!("{current}/{component}");
            let last = pending.is_empty();
            let Some(node) = self.nodes.get(&next) else {
                if last {
                    return Ok(next);
                }
                return Err(FsError::NotFound);
            };
            match &lock(node).content {
                Content::Symlink(target) if follow || !last => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(FsError::TooManyLinks);
                    }
                    if target.starts_with('/') {
                        current.clear();
                    }
                    push_components(&mut pending, target);
                }
                Content::Directory => current = next,
                Content::File(_) | Content::Symlink(_) if last => current = next,
                Content::File(_) | Content::Symlink(_) => return Err(FsError::NotDirectory),
            }
        }
        if current.is_empty() {
            current.push('/');
        }
        Ok(current)
    }

    /// The node at a canonical path.
    pub(super) fn node(&self, canonical: &str) -> Result<&SharedInode> {
        self.nodes.get(canonical).ok_or(FsError::NotFound)
    }

    pub(super) fn exists(&self, canonical: &str) -> bool {
        self.nodes.contains_key(canonical)
    }

    pub(super) fn info(&self, path: &str, follow: bool) -> Result<FileInfo> {
        let path = self.resolve(path, follow)?;
        let info = lock(self.node(&path)?).info(&path);
        Ok(info)
    }

    /// The bytes of a file, links followed.
    pub(super) fn read(&self, path: &str) -> Result<Arc<Vec<u8>>> {
        let path = self.resolve(path, true)?;
        match &lock(self.node(&path)?).content {
            Content::File(bytes) => Ok(Arc::clone(bytes)),
            _ => Err(FsError::IsDirectory),
        }
    }

    /// Creates something at a canonical path where nothing is yet.
    pub(super) fn create(&mut self, canonical: &str, content: Content, mode: u32, owner: Owner) -> Result<SharedInode> {
        if self.exists(canonical) {
            return Err(FsError::Exists);
        }
        Ok(self.insert(canonical, content, mode, owner))
    }

    /// Puts something at an absolute path whatever was there, with the directories that lead to it.
    /// For setting a host up; clients go through [`Filesystem::create`].
    pub(super) fn put(&mut self, path: &str, content: Content, mode: u32) -> Result<()> {
        let owner = Owner { uid: 0, gid: 0 };
        for (index, _) in path.match_indices('/').skip(1) {
            let directory = self.resolve(&path[..index], true)?;
            if !self.exists(&directory) {
                self.insert(&directory, Content::Directory, 0o755, owner);
            }
        }
        let path = self.resolve(path, false)?;
        let is_directory = |node: &SharedInode| matches!(lock(node).content, Content::Directory);
        if self.nodes.get(&path).is_some_and(is_directory) {
            return match content {
                Content::Directory => Ok(()),
                _ => Err(FsError::IsDirectory),
            };
        }
        self.insert(&path, content, mode, owner);
        Ok(())
    }

    /// Gives `from` the name `to`; true when something was there and got replaced.
    pub(super) fn rename(&mut self, from: &str, to: &str, replace: bool) -> Result<bool> {
        let node = Arc::clone(self.node(from)?);
        let moves_directory = matches!(lock(&node).content, Content::Directory);
        let replaced = match self.nodes.get(to) {
            None => false,
            Some(_) if !replace => return Err(FsError::Exists),
            Some(target) if Arc::ptr_eq(target, &node) => return Ok(true),
            Some(target) => {
                let over_directory = matches!(lock(target).content, Content::Directory);
                match (moves_directory, over_directory) {
                    (false, true) => return Err(FsError::IsDirectory),
                    (true, false) => return Err(FsError::NotDirectory),
                    (true, true) if self.children(to).next().is_some() => {
                        return Err(FsError::NotEmpty);
                    }
                    _ => true,
                }
            }
        };
        if moves_directory {
            if to.starts_with(&format!("{from}/")) {
                return Err(FsError::Invalid);
            }
            let below: Vec<String> = self.below(from).map(|(path, _)| path.clone()).collect();
            for path in below {
                if let Some(child) = self.nodes.remove(&path) {
                    self.nodes.insert(format!("{to}{}", &path[from.len()..]), child);
                }
            }
        }
        self.nodes.remove(from);
        self.nodes.insert(to.to_owned(), node);
        Ok(replaced)
    }

    /// Gives the file at `from` a second name.
    pub(super) fn hard_link(&mut self, from: &str, to: &str) -> Result<()> {
        let node = Arc::clone(self.node(from)?);
        if matches!(lock(&node).content, Content::Directory) {
            return Err(FsError::Denied);
        }
        if self.exists(to) {
            return Err(FsError::Exists);
        }
        self.nodes.insert(to.to_owned(), node);
        Ok(())
    }

    /// Removes a name that is not a directory.
    pub(super) fn remove(&mut self, canonical: &str) -> Result<()> {
        if matches!(lock(self.node(canonical)?).content, Content::Directory) {
            return Err(FsError::IsDirectory);
        }
        self.nodes.remove(canonical);
        Ok(())
    }

    /// Removes an empty directory.
    pub(super) fn remove_directory(&mut self, canonical: &str) -> Result<()> {
        if !matches!(lock(self.node(canonical)?).content, Content::Directory) {
            return Err(FsError::NotDirectory);
        }
        if canonical == "/" || self.children(canonical).next().is_some() {
            return Err(FsError::NotEmpty);
        }
        self.nodes.remove(canonical);
        Ok(())
    }

    /// What is directly inside a directory, by name.
    pub(super) fn list(&self, path: &str) -> Result<Vec<FileInfo>> {
        let path = self.resolve(path, true)?;
        if !matches!(lock(self.node(&path)?).content, Content::Directory) {
            return Err(FsError::NotDirectory);
        }
        Ok(self.children(&path).map(|(path, node)| lock(node).info(path)).collect())
    }

    /// Everything there is, by path.
    pub(super) fn all(&self) -> Vec<FileInfo> {
        self.nodes.iter().map(|(path, node)| lock(node).info(path)).collect()
    }

    fn insert(&mut self, path: &str, content: Content, mode: u32, owner: Owner) -> SharedInode {
        let node = Arc::new(Mutex::new(Inode {
            content,
            mode: mode & 0o7777,
            uid: owner.uid,
            gid: owner.gid,
            modified: now(),
        }));
        self.nodes.insert(path.to_owned(), Arc::clone(&node));
        node
    }

    fn below(&self, directory: &str) -> impl Iterator<Item = (&String, &SharedInode)> {
        let prefix = format!("{}/", directory.trim_end_matches('/'));
        self.nodes
            .range(prefix.clone()..)
            .take_while(move |(path, _)| path.starts_with(&prefix))
            .filter(|(path, _)| path.len() > 1)
    }

    fn children(&self, directory: &str) -> impl Iterator<Item = (&String, &SharedInode)> {
        let start = directory.trim_end_matches('/').len() + 1;
        self.below(directory).filter(move |(path, _)| !path[start..].contains('/'))
    }
}

/// Puts the components of `path` on a stack, the first on top.
fn push_components(stack: &mut Vec<String>, path: &str) {
    let wanted = |component: &&str| !component.is_empty() && *component != ".";
    stack.extend(path.rsplit('/').filter(wanted).map(str::to_owned));
}

/// Seconds since 1970, as SFTP version 3 counts them.
fn now() -> u32 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u32::try_from(since.as_secs()).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Filesystem {
        let mut tree = Filesystem::new();
        let file = |text: &str| Content::File(Arc::new(text.into()));
        tree.put("/etc/ssl/a.pem", file("a"), 0o644).unwrap();
        tree.put("/etc/live/b.pem", file("b"), 0o600).unwrap();
        tree.put("/etc/ssl/link.pem", Content::Symlink("../live/b.pem".into()), 0o777).unwrap();
        tree.put("/etc/dir", Content::Symlink("/etc/ssl".into()), 0o777).unwrap();
        tree.put("/etc/loop", Content::Symlink("loop".into()), 0o777).unwrap();
        tree
    }

    #[test]
    fn resolution_follows_links_as_posix_does() {
        let tree = tree();
        let follow = |path| tree.resolve(path, true);
        assert_eq!(follow("/etc/dir/link.pem"), Ok("/etc/live/b.pem".into()));
        assert_eq!(follow("/etc//./ssl/../ssl/a.pem"), Ok("/etc/ssl/a.pem".into()));
        assert_eq!(follow("/../.."), Ok("/".into()));
        assert_eq!(follow("/etc/dir/new"), Ok("/etc/ssl/new".into()));
        assert_eq!(follow("/etc/none/new"), Err(FsError::NotFound));
        assert_eq!(follow("/etc/ssl/a.pem/x"), Err(FsError::NotDirectory));
        assert_eq!(follow("/etc/loop"), Err(FsError::TooManyLinks));
        assert_eq!(tree.resolve("/etc/dir/link.pem", false), Ok("/etc/ssl/link.pem".into()));
    }

    #[test]
    fn rename_replaces_only_when_asked_to() {
        let mut tree = tree();
        let (from, to) = ("/etc/ssl/a.pem", "/etc/live/b.pem");
        assert_eq!(tree.rename(from, to, false), Err(FsError::Exists));
        assert_eq!(tree.rename(from, to, true), Ok(true));
        assert!(!tree.exists(from));
        assert_eq!(*tree.read(to).unwrap(), b"a");
    }

    #[test]
    fn a_second_name_keeps_the_old_content_when_the_first_is_replaced() {
        let mut tree = tree();
        tree.hard_link("/etc/live/b.pem", "/etc/live/b.bak").unwrap();
        tree.rename("/etc/ssl/a.pem", "/etc/live/b.pem", true).unwrap();
        assert_eq!(*tree.read("/etc/live/b.bak").unwrap(), b"b");
        // Writing in place, on the other hand, reaches both names.
        tree.hard_link("/etc/live/b.pem", "/etc/live/c").unwrap();
        lock(tree.node("/etc/live/b.pem").unwrap()).write(0, b"z").unwrap();
        assert_eq!(*tree.read("/etc/live/c").unwrap(), b"z");
    }

    #[test]
    fn directories_move_with_what_they_hold_and_go_only_when_empty() {
        let mut tree = tree();
        assert_eq!(tree.remove_directory("/etc/live"), Err(FsError::NotEmpty));
        assert_eq!(tree.rename("/etc/live", "/etc/old", false), Ok(false));
        assert_eq!(*tree.read("/etc/old/b.pem").unwrap(), b"b");
        assert_eq!(tree.rename("/etc/old", "/etc/old/in", false), Err(FsError::Invalid));
        tree.remove("/etc/old/b.pem").unwrap();
        tree.remove_directory("/etc/old").unwrap();
        let names: Vec<_> = tree.list("/").unwrap().into_iter().map(|i| i.path).collect();
        assert_eq!(names, ["/etc", "/tmp"]);
    }
}
