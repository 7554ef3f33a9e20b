//! What the process does so that keys do not end up on a disk: no core dumps, and no swapping where that is allowed.

use std::fs;

use rustix::io::Errno;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

/// `CAP_IPC_LOCK`: may lock memory beyond every limit.
const CAP_IPC_LOCK: u32 = 14;

/// Whether the memory of the process can be swapped out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Memory {
    /// Everything is locked, and what is yet to be allocated will be.
    Locked,
    /// The system allows less than the process may need: locking with such a limit makes later allocations fail.
    Limited {
        /// How much may be locked, in bytes.
        limit: u64,
    },
    /// The system refused.
    Refused(Errno),
}

/// Allows no core dump of this process and, with it, no debugger of the same user.
///
/// # Errors
/// What the system says; it should never say no.
pub(crate) fn forbid_core_dumps() -> Result<(), Errno> {
    // The limit alone does not hold for a core pattern that is a pipe.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

/// Locks the memory of this process, all that is there and all to come, unless there is a limit to it.
pub(crate) fn lock_memory() -> Memory {
    if let Some(limit) = lift_limit()
        && !may_exceed_limits()
    {
        return Memory::Limited { limit };
    }
    // On fault: the reserved but untouched part of every thread's stack is not brought into memory for it.
    match mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT) {
        Ok(()) => Memory::Locked,
        Err(error) => Memory::Refused(error),
    }
}

impl Memory {
    /// Tells the log, once, what an operator can do about it.
    pub(crate) fn log(self) {
        const REMEDY: &str =
            "set `LimitMEMLOCK=infinity` in the systemd unit, `--ulimit memlock=-1` for a container, or turn swap off";
        match self {
            Self::Locked => tracing::info!("the memory of this process is locked"),
            Self::Limited { limit } => {
                tracing::warn!(
                    limit_bytes = limit,
                    needed = "unlimited",
                    remedy = REMEDY,
                    "keys in memory may be swapped out"
                );
            }
            Self::Refused(error) => {
                tracing::warn!(%error, remedy = REMEDY, "keys in memory may be swapped out: they cannot be locked");
            }
        }
    }
}

/// Lifts the limit as far as this process may; returns what is left of it.
fn lift_limit() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Memlock);
    current?;
    // Only the privileged may raise the maximum; everybody may raise what is current up to it.
    let unlimited = Rlimit { current: None, maximum: None };
    if setrlimit(Resource::Memlock, unlimited).is_ok() {
        return None;
    }
    let raised = setrlimit(Resource::Memlock, Rlimit { current: maximum, maximum }).is_ok();
    if raised { maximum } else { current }
}

/// Whether limits do not count for this process. The capability means that only in the first user namespace.
fn may_exceed_limits() -> bool {
    let Ok(status) = fs::read_to_string("/proc/self/status") else { return false };
    let Ok(namespace) = fs::read_to_string("/proc/self/uid_map") else { return false };
    has_capability(&status, CAP_IPC_LOCK) && namespace.split_whitespace().eq(["0", "0", "4294967295"])
}

fn has_capability(status: &str, capability: u32) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or_default();
    effective >> capability & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_their_bits() {
        assert!(has_capability("Name:\tx\nCapEff:\t0000000000004000\n", CAP_IPC_LOCK));
        assert!(!has_capability("Name:\tx\nCapEff:\t000001ffffffbfff\n", CAP_IPC_LOCK));
        assert!(!has_capability("CapEff:\tnonsense", CAP_IPC_LOCK));
        assert!(!has_capability("CapPrm:\tffffffffffffffff", CAP_IPC_LOCK));
    }
}
