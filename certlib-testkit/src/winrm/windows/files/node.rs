//! What has a path.

use std::sync::Arc;

use time::OffsetDateTime;

use super::WinPath;

/// What a new file or directory inherits: administrators and SYSTEM.
pub(super) const INHERITED: &str = "O:BAG:SYD:AI(A;ID;FA;;;SY)(A;ID;FA;;;BA)";

/// A file or directory, without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileInfo {
    /// Its path, as it was first written.
    pub path: String,
    /// Whether it is a directory.
    pub directory: bool,
    /// Length in bytes; 0 for a directory.
    pub size: u64,
    /// The read-only attribute.
    pub read_only: bool,
    /// Owner and access list, in SDDL.
    pub sddl: String,
    /// When the content changed last.
    pub modified: OffsetDateTime,
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) path: String,
    pub(super) content: Option<Arc<Vec<u8>>>,
    pub(super) read_only: bool,
    pub(super) sddl: String,
    pub(super) modified: OffsetDateTime,
}

impl Node {
    pub(super) fn new(path: &WinPath, content: Option<Vec<u8>>, sddl: String) -> Self {
        let modified = OffsetDateTime::now_utc();
        Self { path: path.display(), content: content.map(Arc::new), read_only: false, sddl, modified }
    }

    pub(super) fn info(&self) -> FileInfo {
        FileInfo {
            path: self.path.clone(),
            directory: self.content.is_none(),
            size: self.content.as_ref().map_or(0, |bytes| bytes.len() as u64),
            read_only: self.read_only,
            sddl: self.sddl.clone(),
            modified: self.modified,
        }
    }
}
