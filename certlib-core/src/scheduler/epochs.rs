//! What this node remembers of leases: epochs only grow, so a smaller one means that the store went back in time.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::lock::{Lease, LeaseInfo};

/// The newest grant that a node has seen of each lease, in memory and, if there is one, in a file.
///
/// The file is one node's: of two nodes that share it, a newer epoch wins, but one may overwrite what the other has
/// just seen.
#[derive(Debug, Default)]
pub(crate) struct Epochs {
    leases: Mutex<BTreeMap<String, Seen>>,
    file: Option<PathBuf>,
}

/// The newest grant seen of one lease.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    epoch: u64,
    holder: String,
    /// The newest epoch that this process was granted; a grant of it is found again only before it is used.
    #[serde(skip)]
    used: u64,
    /// What the store showed instead, while it shows less.
    #[serde(skip)]
    regressed_to: Option<u64>,
}

/// The store showed or granted an epoch that was superseded long ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Regression {
    /// The newest epoch seen.
    pub(crate) seen: u64,
    /// What the store says.
    pub(crate) found: u64,
    /// Whether this was not known before.
    pub(crate) is_new: bool,
}

/// What a look at a lease told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// As expected.
    Fine,
    /// As expected again, after a regression.
    Mended,
    /// The store went back in time.
    Regressed(Regression),
}

impl Epochs {
    /// What `dir` remembers from before.
    ///
    /// # Errors
    /// `Validation` `state_unreadable`, with the file: it is there, but says nothing. Leading on would give up the
    /// guard silently.
    pub(crate) fn open(dir: Option<&Path>) -> Result<Self> {
        let Some(dir) = dir else { return Ok(Self::default()) };
        let file = dir.join("leader-epochs.json");
        let unreadable = |error: &dyn std::fmt::Display| {
            Error::validation("leader.state", "state_unreadable", format!("cannot read what this node knew: {error}"))
                .with("file", file.display())
        };
        fs::create_dir_all(dir).map_err(|error| unreadable(&error))?;
        let leases = read(&file).map_err(|error| unreadable(&error))?;
        Ok(Self { leases: Mutex::new(leases), file: Some(file) })
    }

    /// Takes note of what the store shows of `lease`; `None`: it was never granted.
    pub(crate) fn look(&self, lease: &str, info: Option<&LeaseInfo>) -> Look {
        let mut leases = self.lock();
        let seen = leases.entry(lease.to_owned()).or_default();
        let found = info.map_or(0, |info| info.epoch);
        // The same epoch under another holder was granted twice. A released one is no grant: whoever is next gets more.
        let twice = found == seen.epoch && info.is_some_and(|info| info.holder != seen.holder && !info.released);
        if found < seen.epoch || (twice && !seen.holder.is_empty()) {
            let is_new = seen.regressed_to.replace(found).is_none();
            return Look::Regressed(Regression { seen: seen.epoch, found, is_new });
        }
        if let Some(info) = info {
            (seen.epoch, seen.holder) = (info.epoch, info.holder.clone());
        }
        if seen.regressed_to.take().is_some() { Look::Mended } else { Look::Fine }
    }

    /// Takes note of a grant to this node; it must not be used if it is older than what was seen.
    pub(crate) fn granted(&self, lease: &Lease) -> Look {
        let mut leases = self.lock();
        let seen = leases.entry(lease.name.clone()).or_default();
        let found_again = lease.epoch == seen.epoch && lease.holder == seen.holder && lease.epoch > seen.used;
        if lease.epoch <= seen.epoch && !found_again {
            let is_new = seen.regressed_to.replace(lease.epoch).is_none();
            return Look::Regressed(Regression { seen: seen.epoch, found: lease.epoch, is_new });
        }
        (seen.epoch, seen.used) = (lease.epoch, lease.epoch);
        seen.holder.clone_from(&lease.holder);
        seen.regressed_to = None;
        Look::Fine
    }

    /// The newest epoch seen of `lease`; 0 if none was.
    pub(crate) fn newest(&self, lease: &str) -> u64 {
        self.lock().get(lease).map_or(0, |seen| seen.epoch)
    }

    /// Whether the store, when last looked at, had gone back.
    pub(crate) fn is_regressed(&self, lease: &str) -> bool {
        self.lock().get(lease).is_some_and(|seen| seen.regressed_to.is_some())
    }

    /// Keeps it for the next start, if there is a file. What cannot be kept is remembered as long as the process runs.
    pub(crate) async fn keep(&self) {
        let Some(file) = self.file.clone() else { return };
        let leases = self.lock().clone();
        let written = tokio::task::spawn_blocking(move || write(&file, leases)).await;
        if let Ok(Err(error)) = written {
            tracing::error!(%error, file = ?self.file, "cannot keep the newest epoch seen for the next start");
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Seen>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(file: &Path) -> std::io::Result<BTreeMap<String, Seen>> {
    match fs::read(file) {
        Ok(text) => Ok(serde_json::from_slice(&text)?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(error),
    }
}

/// Replaces `file` as a whole: after a crash it is the old one or the new one.
fn write(file: &Path, mut leases: BTreeMap<String, Seen>) -> std::io::Result<()> {
    for (name, kept) in read(file).unwrap_or_default() {
        let seen = leases.entry(name).or_default();
        if kept.epoch > seen.epoch {
            *seen = kept;
        }
    }
    let new = file.with_extension(format!("{}.new", std::process::id()));
    let mut writer = File::create(&new)?;
    writer.write_all(&serde_json::to_vec(&leases)?)?;
    writer.sync_all()?;
    fs::rename(&new, file)?;
    // The rename itself; only Unix lets a directory be opened for that.
    if let Some(dir) = file.parent().filter(|_| cfg!(unix)) {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NAME: &str = "scheduler";

    fn shown(epoch: u64, holder: &str, released: bool) -> LeaseInfo {
        LeaseInfo { name: NAME.to_owned(), holder: holder.to_owned(), epoch, remaining: Duration::ZERO, released }
    }

    fn lease(epoch: u64, holder: &str) -> Lease {
        Lease { name: NAME.to_owned(), holder: holder.to_owned(), epoch }
    }

    fn regressed(seen: u64, found: u64, is_new: bool) -> Look {
        Look::Regressed(Regression { seen, found, is_new })
    }

    #[test]
    fn epochs_that_grow_are_fine() {
        let epochs = Epochs::default();
        assert_eq!(epochs.look(NAME, None), Look::Fine);
        assert_eq!(epochs.look(NAME, Some(&shown(1, "a", false))), Look::Fine);
        assert_eq!(epochs.look(NAME, Some(&shown(1, "a", true))), Look::Fine);
        assert_eq!(epochs.granted(&lease(2, "b")), Look::Fine);
        assert_eq!(epochs.look(NAME, Some(&shown(2, "b", false))), Look::Fine);
        assert_eq!(epochs.look(NAME, Some(&shown(9, "c", false))), Look::Fine);
        assert_eq!((epochs.newest(NAME), epochs.newest("other")), (9, 0));
    }

    #[test]
    fn a_smaller_epoch_is_a_regression_until_the_floor_is_raised() {
        let epochs = Epochs::default();
        epochs.look(NAME, Some(&shown(9, "a", false)));
        assert_eq!(epochs.look(NAME, Some(&shown(3, "b", true))), regressed(9, 3, true));
        assert_eq!(epochs.look(NAME, None), regressed(9, 0, false));
        assert_eq!(epochs.granted(&lease(4, "me")), regressed(9, 4, false));
        assert!(epochs.is_regressed(NAME));
        assert_eq!(epochs.look(NAME, Some(&shown(9, "b", true))), Look::Mended, "raised to what was seen");
        assert_eq!(epochs.granted(&lease(10, "me")), Look::Fine);
        assert!(!epochs.is_regressed(NAME));
    }

    #[test]
    fn one_epoch_granted_twice_is_a_regression() {
        let epochs = Epochs::default();
        epochs.look(NAME, Some(&shown(9, "a", false)));
        assert_eq!(epochs.look(NAME, Some(&shown(9, "b", false))), regressed(9, 9, true));
        assert_eq!(epochs.granted(&lease(9, "me")), regressed(9, 9, false));
    }

    #[test]
    fn a_grant_whose_answer_was_lost_is_found_again_but_not_used_twice() {
        let epochs = Epochs::default();
        epochs.look(NAME, Some(&shown(9, "me", false)));
        assert_eq!(epochs.granted(&lease(9, "me")), Look::Fine);
        assert_eq!(epochs.granted(&lease(9, "me")), regressed(9, 9, true), "the store was set back during the term");
    }

    #[tokio::test]
    async fn a_node_remembers_over_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("state");
        let epochs = Epochs::open(Some(&dir)).unwrap();
        assert_eq!(epochs.granted(&lease(9, "me")), Look::Fine);
        epochs.keep().await;
        let later = Epochs::open(Some(&dir)).unwrap();
        assert_eq!(later.look(NAME, Some(&shown(8, "b", false))), regressed(9, 8, true));
        Epochs::open(Some(&dir)).unwrap().keep().await;
        assert_eq!(Epochs::open(Some(&dir)).unwrap().newest(NAME), 9);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "nothing is left lying about");

        fs::write(dir.join("leader-epochs.json"), "{").unwrap();
        assert_eq!(Epochs::open(Some(&dir)).unwrap_err().code(), "state_unreadable");
    }
}
