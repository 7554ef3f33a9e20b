//! What clients did to a simulated host, in order.

/// One thing a client did, in the order in which the host saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// Which SSH connection did it; connections count from 1.
    pub connection: u64,
    /// What was done.
    pub operation: Operation,
}

/// Something a client did to a host. Only what took effect is recorded, except for logins and commands,
/// which are recorded when they arrive. Paths are canonical: absolute, symbolic links followed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// A login attempt reached the server, hence the client accepted the host key.
    Login {
        /// The user name given.
        user: String,
        /// `publickey`, `password` or `keyboard-interactive`.
        method: &'static str,
        /// Whether the server let the client in.
        accepted: bool,
    },
    /// A command arrived.
    Command(String),
    /// A file came into being.
    Created {
        /// The file.
        path: String,
        /// Its permission bits at birth.
        mode: u32,
    },
    /// An existing file was cut to a new length.
    Truncated {
        /// The file.
        path: String,
        /// Its length in bytes now.
        length: u64,
    },
    /// Bytes were written.
    Wrote {
        /// The file, under the name it was opened with.
        path: String,
        /// Where in the file, in bytes.
        offset: u64,
        /// How many bytes.
        length: usize,
    },
    /// An open file was synchronised to disk.
    Synced {
        /// The file, under the name it was opened with.
        path: String,
    },
    /// Permission bits, owner or time were set.
    AttributesSet {
        /// The file or directory.
        path: String,
        /// The new permission bits, when set.
        mode: Option<u32>,
        /// The new user and group, when set.
        owner: Option<(u32, u32)>,
    },
    /// A file, link or directory got another name.
    Renamed {
        /// The old name.
        from: String,
        /// The new name.
        to: String,
        /// Whether something was there and got replaced.
        replaced: bool,
    },
    /// A file or link was removed.
    Removed {
        /// Its name until then.
        path: String,
    },
    /// A directory came into being.
    DirectoryCreated {
        /// The directory.
        path: String,
    },
    /// A directory was removed.
    DirectoryRemoved {
        /// Its name until then.
        path: String,
    },
    /// A symbolic link came into being.
    SymlinkCreated {
        /// The link.
        path: String,
        /// What it points to, as written.
        target: String,
    },
    /// A second name for a file came into being.
    HardLinked {
        /// The name the file already had.
        from: String,
        /// The new name.
        to: String,
    },
}

impl Operation {
    /// Whether this changed the file system (logins and commands by themselves do not; nor does a sync).
    #[must_use]
    pub fn changes_files(&self) -> bool {
        !matches!(self, Self::Login { .. } | Self::Command(_) | Self::Synced { .. })
    }
}
