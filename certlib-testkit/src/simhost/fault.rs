//! Everything a simulated host can do wrong, and when.

use std::time::Duration;

/// One way in which a [`SimHost`](super::SimHost) misbehaves.
///
/// A host plays at most one fault at a time: the one given to the builder, until
/// [`SimHost::set_fault`](super::SimHost::set_fault) replaces it. Counts (bytes, writes, renames, commands) start at
/// zero when the fault is set and cover all connections together.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing listens on the SSH port: the kernel refuses the connection. The port stays reserved for this host.
    Refuse,
    /// TCP connections to the SSH port are accepted and never answered.
    Hang,
    /// Every SSH operation (greeting, authentication, SFTP request, command) takes this long.
    Slow(Duration),
    /// The server presents another host key than the one of
    /// [`SimHost::host_key_fingerprint`](super::SimHost::host_key_fingerprint).
    WrongHostKey,
    /// Every login attempt is refused, whatever the credential.
    AuthRefused,
    /// The disk has room for this many more bytes. The write that crosses the line stores what fits and fails.
    DiskFull {
        /// Bytes that can still be written.
        after_bytes: u64,
    },
    /// The path, and everything below it, cannot be changed, created, renamed or removed. Reading still works.
    PermissionDenied {
        /// Absolute path, after symbolic links are followed.
        path: String,
    },
    /// The TCP connection is lost at a given point; it happens once.
    DropAt(DropPoint),
    /// A reload changes nothing and exits with this status.
    ReloadFails {
        /// The exit status; 0 makes no sense here but is passed on.
        exit_code: u32,
        /// What the command prints on its standard error.
        stderr: String,
    },
    /// A reload changes nothing and never ends, until the client closes the channel or sends a signal.
    ReloadHangs,
    /// A reload changes nothing and prints without end, until the client closes the channel or sends a signal.
    ReloadFloods,
    /// A reload reports success, yet TLS clients still get the certificate from before.
    ServesOldCertificate,
    /// `posix-rename@openssh.com` is neither announced nor understood.
    NoPosixRename,
    /// Commands run, but their channel closes without an exit status.
    NoExitStatus,
}

/// Where [`Fault::DropAt`] cuts the connection. Points count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DropPoint {
    /// Instead of the n-th SFTP write, which is lost.
    Write(u32),
    /// Before the n-th rename (SFTP, `posix-rename@openssh.com` or `mv`), which does not happen.
    BeforeRename(u32),
    /// After the n-th rename, which has happened, but before the client is told.
    AfterRename(u32),
    /// When the n-th command arrives, which does not run.
    Exec(u32),
}

/// The fault being played and how far it has got.
#[derive(Debug, Default)]
pub(super) struct ActiveFault {
    pub(super) fault: Option<Fault>,
    bytes: u64,
    writes: u32,
    renames: u32,
    commands: u32,
}

impl ActiveFault {
    pub(super) fn new(fault: Option<Fault>) -> Self {
        Self { fault, ..Self::default() }
    }

    /// Counts an SFTP write; true when the connection drops instead.
    pub(super) fn drops_write(&mut self) -> bool {
        self.writes += 1;
        self.fault == Some(Fault::DropAt(DropPoint::Write(self.writes)))
    }

    /// Counts a rename about to happen; true when the connection drops instead.
    pub(super) fn drops_before_rename(&mut self) -> bool {
        self.renames += 1;
        self.fault == Some(Fault::DropAt(DropPoint::BeforeRename(self.renames)))
    }

    /// True when the connection drops right after the rename counted last.
    pub(super) fn drops_after_rename(&self) -> bool {
        self.fault == Some(Fault::DropAt(DropPoint::AfterRename(self.renames)))
    }

    /// Counts a command; true when the connection drops instead.
    pub(super) fn drops_command(&mut self) -> bool {
        self.commands += 1;
        self.fault == Some(Fault::DropAt(DropPoint::Exec(self.commands)))
    }

    /// How many of `wanted` bytes still fit, counted as used from now on.
    pub(super) fn take_space(&mut self, wanted: usize) -> usize {
        let fits = match self.space_left() {
            Some(left) => wanted.min(usize::try_from(left).unwrap_or(usize::MAX)),
            None => wanted,
        };
        self.bytes += fits as u64;
        fits
    }

    /// Bytes left on a disk that fills up; `None` when the disk has no limit.
    pub(super) fn space_left(&self) -> Option<u64> {
        match self.fault {
            Some(Fault::DiskFull { after_bytes }) => Some(after_bytes.saturating_sub(self.bytes)),
            _ => None,
        }
    }

    /// Whether the fault forbids changing `path` (canonical).
    pub(super) fn denies(&self, path: &str) -> bool {
        match &self.fault {
            Some(Fault::PermissionDenied { path: denied }) => path
                .strip_prefix(denied.trim_end_matches('/'))
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_fire_once_and_only_at_their_count() {
        let mut fault = ActiveFault::new(Some(Fault::DropAt(DropPoint::AfterRename(2))));
        let fired: Vec<_> = (0..4)
            .map(|_| {
                assert!(!fault.drops_before_rename());
                fault.drops_after_rename()
            })
            .collect();
        assert_eq!(fired, [false, true, false, false]);
    }

    #[test]
    fn space_runs_out_exactly_at_the_limit() {
        let mut fault = ActiveFault::new(Some(Fault::DiskFull { after_bytes: 10 }));
        assert_eq!(fault.take_space(6), 6);
        assert_eq!(fault.take_space(6), 4);
        assert_eq!(fault.take_space(6), 0);
        assert_eq!(ActiveFault::new(None).take_space(6), 6);
    }

    #[test]
    fn denial_covers_the_path_and_what_is_below_it() {
        let fault = ActiveFault::new(Some(Fault::PermissionDenied { path: "/etc/ssl".into() }));
        assert!(fault.denies("/etc/ssl"));
        assert!(fault.denies("/etc/ssl/a.pem"));
        assert!(!fault.denies("/etc/ssl2"));
        assert!(!fault.denies("/etc"));
    }
}
