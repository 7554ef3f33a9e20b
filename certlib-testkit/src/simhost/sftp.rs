//! The SFTP side of a host: protocol version 3 as OpenSSH speaks it.

use std::{collections::HashMap, sync::Arc};

use russh_sftp::{
    protocol::{
        Attrs, Data, ExtendedReply, File, FileAttributes, FileMode, Handle, Name, OpenFlags, Packet, Status,
        StatusCode, Version,
    },
    server::{Handler, StatusReply},
};

use super::{
    Fault, FileInfo, FileKind,
    actor::{Actor, Changes, OpenFile, OpenOptions},
    filesystem::FsError,
    lock,
};

pub(super) const POSIX_RENAME: &str = "posix-rename@openssh.com";
pub(super) const FSYNC: &str = "fsync@openssh.com";
pub(super) const HARDLINK: &str = "hardlink@openssh.com";
pub(super) const STATVFS: &str = "statvfs@openssh.com";

/// Name and version of every extension a host can offer.
pub(super) const EXTENSIONS: [(&str, &str); 4] = [(POSIX_RENAME, "1"), (FSYNC, "1"), (HARDLINK, "1"), (STATVFS, "2")];

const UMASK: u32 = 0o022;
const MAX_HANDLES: usize = 100;
const MAX_READ: usize = 255 * 1024;
const NAMES_PER_ANSWER: usize = 100;

/// The simulated disk, in blocks of [`BLOCK`] bytes.
const DISK_BLOCKS: u64 = 262_144;
const BLOCK: u64 = 4096;

type Result<T> = std::result::Result<T, FsError>;

enum Open {
    File(OpenFile),
    Directory(Vec<FileInfo>),
}

/// One SFTP session.
pub(super) struct SftpHandler {
    actor: Arc<Actor>,
    open: HashMap<String, Open>,
    next_handle: u64,
}

impl SftpHandler {
    pub(super) fn new(actor: Arc<Actor>) -> Self {
        Self { actor, open: HashMap::new(), next_handle: 0 }
    }

    fn offers(&self, extension: &str) -> bool {
        let host = &self.actor.host;
        let hidden = host.hidden_extensions.iter().any(|name| name == extension);
        let faulty = extension == POSIX_RENAME && host.fault() == Some(Fault::NoPosixRename);
        !hidden && !faulty
    }

    fn keep(&mut self, id: u32, open: Open) -> Result<Handle> {
        if self.open.len() >= MAX_HANDLES {
            return Err(FsError::NoSpace);
        }
        self.next_handle += 1;
        let handle = self.next_handle.to_string();
        self.open.insert(handle.clone(), open);
        Ok(Handle { id, handle })
    }

    fn file(&self, handle: &str) -> Result<&OpenFile> {
        match self.open.get(handle) {
            Some(Open::File(file)) => Ok(file),
            _ => Err(FsError::BadHandle),
        }
    }

    fn statvfs(&self, path: &str) -> Result<Vec<u8>> {
        self.actor.info(path, true)?;
        let left = lock(&self.actor.host.fault).space_left();
        let free = left.map_or(DISK_BLOCKS / 2, |bytes| bytes / BLOCK);
        let fields = [BLOCK, BLOCK, DISK_BLOCKS, free, free, DISK_BLOCKS, DISK_BLOCKS / 2, DISK_BLOCKS / 2, 1, 0, 255];
        Ok(fields.iter().flat_map(|field| field.to_be_bytes()).collect())
    }
}

impl From<FsError> for StatusReply {
    /// The same table as OpenSSH's, which knows no more than these codes.
    fn from(error: FsError) -> Self {
        Self::new(match error {
            FsError::NotFound | FsError::NotDirectory | FsError::TooManyLinks | FsError::BadHandle => {
                StatusCode::NoSuchFile
            }
            FsError::Denied => StatusCode::PermissionDenied,
            FsError::Invalid => StatusCode::BadMessage,
            FsError::Unsupported => StatusCode::OpUnsupported,
            FsError::End => StatusCode::Eof,
            FsError::Exists | FsError::IsDirectory | FsError::NotEmpty | FsError::NoSpace | FsError::Dropped => {
                StatusCode::Failure
            }
        })
    }
}

impl Handler for SftpHandler {
    type Error = FsError;

    fn unimplemented(&self) -> FsError {
        FsError::Unsupported
    }

    async fn init(&mut self, _version: u32, _offered: HashMap<String, String>) -> Result<Version> {
        self.actor.host.pace().await;
        let mut version = Version::new();
        for (name, number) in EXTENSIONS {
            if self.offers(name) {
                version.extensions.insert(name.into(), number.into());
            }
        }
        Ok(version)
    }

    async fn open(&mut self, id: u32, filename: String, pflags: OpenFlags, attrs: FileAttributes) -> Result<Handle> {
        self.actor.host.pace().await;
        let options = OpenOptions {
            read: pflags.contains(OpenFlags::READ),
            write: pflags.contains(OpenFlags::WRITE),
            append: pflags.contains(OpenFlags::APPEND),
            create: pflags.contains(OpenFlags::CREATE),
            truncate: pflags.contains(OpenFlags::TRUNCATE),
            exclusive: pflags.contains(OpenFlags::EXCLUDE),
        };
        let mode = attrs.permissions.unwrap_or(0o666) & !UMASK;
        let file = self.actor.open(&filename, options, mode)?;
        self.keep(id, Open::File(file))
    }

    async fn close(&mut self, id: u32, handle: String) -> Result<Status> {
        self.actor.host.pace().await;
        self.open.remove(&handle).ok_or(FsError::BadHandle)?;
        Ok(done(id))
    }

    async fn read(&mut self, id: u32, handle: String, offset: u64, len: u32) -> Result<Data> {
        self.actor.host.pace().await;
        let length = usize::try_from(len).unwrap_or(MAX_READ).min(MAX_READ);
        let data = self.actor.read_at(self.file(&handle)?, offset, length)?;
        Ok(Data { id, data })
    }

    async fn write(&mut self, id: u32, handle: String, offset: u64, data: Vec<u8>) -> Result<Status> {
        self.actor.host.pace().await;
        if lock(&self.actor.host.fault).drops_write() {
            return Err(self.actor.drop_connection());
        }
        self.actor.write(self.file(&handle)?, offset, &data)?;
        Ok(done(id))
    }

    async fn lstat(&mut self, id: u32, path: String) -> Result<Attrs> {
        self.actor.host.pace().await;
        let attrs = attributes(&self.actor.info(&path, false)?);
        Ok(Attrs { id, attrs })
    }

    async fn stat(&mut self, id: u32, path: String) -> Result<Attrs> {
        self.actor.host.pace().await;
        let attrs = attributes(&self.actor.info(&path, true)?);
        Ok(Attrs { id, attrs })
    }

    async fn fstat(&mut self, id: u32, handle: String) -> Result<Attrs> {
        self.actor.host.pace().await;
        let file = self.file(&handle)?;
        let attrs = attributes(&lock(&file.inode).info(&file.path));
        Ok(Attrs { id, attrs })
    }

    async fn setstat(&mut self, id: u32, path: String, attrs: FileAttributes) -> Result<Status> {
        self.actor.host.pace().await;
        self.actor.change(&path, changes(&attrs))?;
        Ok(done(id))
    }

    async fn fsetstat(&mut self, id: u32, handle: String, attrs: FileAttributes) -> Result<Status> {
        self.actor.host.pace().await;
        let file = self.file(&handle)?;
        self.actor.change_inode(&file.path, &file.inode, changes(&attrs))?;
        Ok(done(id))
    }

    async fn opendir(&mut self, id: u32, path: String) -> Result<Handle> {
        self.actor.host.pace().await;
        let entries = self.actor.list(&path)?;
        self.keep(id, Open::Directory(entries))
    }

    async fn readdir(&mut self, id: u32, handle: String) -> Result<Name> {
        self.actor.host.pace().await;
        let Some(Open::Directory(entries)) = self.open.get_mut(&handle) else {
            return Err(FsError::BadHandle);
        };
        if entries.is_empty() {
            return Err(FsError::End);
        }
        let batch = entries.len().min(NAMES_PER_ANSWER);
        let files = entries
            .drain(..batch)
            .map(|info| {
                let name = info.path.rsplit('/').next().unwrap_or_default();
                File::new(name, attributes(&info))
            })
            .collect();
        Ok(Name { id, files })
    }

    async fn remove(&mut self, id: u32, filename: String) -> Result<Status> {
        self.actor.host.pace().await;
        self.actor.remove(&filename)?;
        Ok(done(id))
    }

    async fn mkdir(&mut self, id: u32, path: String, attrs: FileAttributes) -> Result<Status> {
        self.actor.host.pace().await;
        let mode = attrs.permissions.unwrap_or(0o777) & !UMASK;
        self.actor.make_directory(&path, mode)?;
        Ok(done(id))
    }

    async fn rmdir(&mut self, id: u32, path: String) -> Result<Status> {
        self.actor.host.pace().await;
        self.actor.remove_directory(&path)?;
        Ok(done(id))
    }

    async fn realpath(&mut self, id: u32, path: String) -> Result<Name> {
        self.actor.host.pace().await;
        let files = vec![File::dummy(self.actor.canonical(&path)?)];
        Ok(Name { id, files })
    }

    async fn rename(&mut self, id: u32, oldpath: String, newpath: String) -> Result<Status> {
        self.actor.host.pace().await;
        self.actor.rename(&oldpath, &newpath, false)?;
        Ok(done(id))
    }

    async fn readlink(&mut self, id: u32, path: String) -> Result<Name> {
        self.actor.host.pace().await;
        let files = vec![File::dummy(self.actor.read_link(&path)?)];
        Ok(Name { id, files })
    }

    /// OpenSSH reads the target first and the link second, against the draft; clients have followed it.
    async fn symlink(&mut self, id: u32, first: String, second: String) -> Result<Status> {
        self.actor.host.pace().await;
        self.actor.symlink(&first, &second)?;
        Ok(done(id))
    }

    async fn extended(&mut self, id: u32, request: String, data: Vec<u8>) -> Result<Packet> {
        self.actor.host.pace().await;
        if !self.offers(&request) {
            return Err(FsError::Unsupported);
        }
        let mut data = data.as_slice();
        match request.as_str() {
            POSIX_RENAME => {
                let (from, to) = (string(&mut data)?, string(&mut data)?);
                self.actor.rename(&from, &to, true)?;
            }
            HARDLINK => {
                let (from, to) = (string(&mut data)?, string(&mut data)?);
                self.actor.hard_link(&from, &to)?;
            }
            FSYNC => self.actor.sync(self.file(&string(&mut data)?)?),
            STATVFS => {
                let data = self.statvfs(&string(&mut data)?)?;
                return Ok(Packet::ExtendedReply(ExtendedReply { id, data }));
            }
            _ => return Err(FsError::Unsupported),
        }
        Ok(Packet::Status(done(id)))
    }
}

fn done(id: u32) -> Status {
    Status { id, status_code: StatusCode::Ok, error_message: "Success".into(), language_tag: String::new() }
}

fn attributes(info: &FileInfo) -> FileAttributes {
    let kind = match info.kind {
        FileKind::File => FileMode::REG,
        FileKind::Directory => FileMode::DIR,
        FileKind::Symlink => FileMode::LNK,
    };
    FileAttributes {
        size: Some(info.size),
        uid: Some(info.uid),
        gid: Some(info.gid),
        permissions: Some(kind.bits() | info.mode),
        atime: Some(info.modified),
        mtime: Some(info.modified),
        ..FileAttributes::empty()
    }
}

fn changes(attributes: &FileAttributes) -> Changes {
    Changes {
        size: attributes.size,
        mode: attributes.permissions,
        owner: attributes.uid.zip(attributes.gid),
        modified: attributes.mtime,
    }
}

/// Takes one length-prefixed string off the front.
fn string(data: &mut &[u8]) -> Result<String> {
    let (length, rest) = data.split_first_chunk().ok_or(FsError::Invalid)?;
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| FsError::Invalid)?;
    let (text, rest) = rest.split_at_checked(length).ok_or(FsError::Invalid)?;
    *data = rest;
    String::from_utf8(text.to_vec()).map_err(|_| FsError::Invalid)
}
