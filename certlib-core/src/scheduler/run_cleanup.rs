//! Forgets runs, and ways back that nobody will go.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use time::OffsetDateTime;

use super::due::{Advance, Due, sweep_due};
use super::{Sweep, SweepContext};
use crate::error::Result;
use crate::model::{JournalEntry, Run, TargetRun};
use crate::queue::later;
use crate::store::{Condition, Record as _, StoreExt as _, TypedQuery, Versioned, WriteBatch};

/// Deletes what newer runs have made useless.
///
/// A day after a run has ended, the older runs of its distribution are looked at. The journal of a target is deleted
/// once the target proved, or acknowledged, two newer versions: the ways back from the version that it holds and from
/// the one before stay. A run without journals that is not the newest of its distribution is released, and deleted with
/// its targets when its retention has passed. Issued versions and their keys stay.
#[derive(Debug, Clone, Copy)]
pub struct RunCleanupSweep {
    retention: Duration,
}

/// How many generations of ways back a target keeps.
const GENERATIONS: usize = 2;

/// When to look again at a run that was taken up again.
const AT_WORK: Duration = Duration::from_secs(3600);

impl RunCleanupSweep {
    /// Keeps runs for this long after their end.
    pub fn new(retention: Duration) -> Self {
        Self { retention }
    }
}

#[async_trait]
impl Sweep for RunCleanupSweep {
    fn name(&self) -> &'static str {
        "run_cleanup"
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(3600)
    }

    async fn run(&self, cx: &SweepContext) -> Result<usize> {
        sweep_due(cx, self).await
    }
}

#[async_trait]
impl Due for RunCleanupSweep {
    type Record = Run;
    const FIELD: &'static str = "tidy_at";

    async fn advance(&self, cx: &SweepContext, run: &mut Versioned<Run>, now: OffsetDateTime) -> Result<Advance> {
        let Some(finished_at) = run.finished_at else {
            run.tidy_at = Some(now + AT_WORK);
            return Ok(Advance::alone());
        };
        run.tidy_at = None;
        let delete_at = later(finished_at, self.retention);
        if run.kept {
            if self.release_older(cx, run).await? {
                run.kept = false;
                run.tidy_at = Some(delete_at.max(now + time::Duration::MILLISECOND));
            }
        } else if delete_at > now {
            run.tidy_at = Some(delete_at);
        } else {
            delete_targets(cx, run).await?;
            return Ok(Advance::Delete);
        }
        Ok(Advance::alone())
    }
}

impl RunCleanupSweep {
    /// Looks at the runs that `run`'s distribution keeps; says whether `run` itself need not be kept.
    async fn release_older(&self, cx: &SweepContext, run: &Run) -> Result<bool> {
        let query = TypedQuery::<Run>::new().equal("kept", &*run.distribution_id);
        let mut kept = cx.store.list_all(query).await?;
        // The latest first, whatever its version: an operator may have gone back.
        kept.sort_by(|one, other| other.id.cmp(&one.id));
        let mut proven = Proven::default();
        let mut release_this = false;
        for (place, mut older) in kept.into_iter().enumerate() {
            let targets = cx.store.list_all(TypedQuery::<TargetRun>::new().equal("run", &*older.id)).await?;
            let (useless, useful): (Vec<_>, Vec<_>) = targets
                .into_iter()
                .filter(|target| target.journal_entries > 0 || target.is_begun() || !target.is_unfinished())
                .partition(|target| {
                    target.journal_entries > 0 && !target.is_begun() && proven.is_superseded(target, older.version)
                });
            for target in useless.iter().chain(&useful) {
                proven.note(target, older.version);
            }
            forget_journals(cx, useless).await?;
            let needed = useful.iter().any(|target| target.journal_entries > 0 || target.is_begun());
            if place == 0 || needed || older.due.is_some() {
                continue;
            }
            if older.id == run.id {
                release_this = true;
                continue;
            }
            older.kept = false;
            older.tidy_at = older.finished_at.map(|finished_at| later(finished_at, self.retention));
            cx.commit(cx.batch().update(&older)?).await?;
        }
        Ok(release_this)
    }
}

/// The versions that each target proved or acknowledged last, the latest first.
#[derive(Default)]
struct Proven(BTreeMap<String, Vec<u32>>);

impl Proven {
    /// Whether enough other versions than `version` were delivered to the target since.
    fn is_superseded(&self, target: &TargetRun, version: u32) -> bool {
        let others = |versions: &Vec<u32>| versions.iter().filter(|other| **other != version).count();
        self.0.get(&target.target_id).map_or(0, others) >= GENERATIONS
    }

    fn note(&mut self, target: &TargetRun, version: u32) {
        if target.is_unfinished() {
            return;
        }
        let versions = self.0.entry(target.target_id.clone()).or_default();
        if versions.len() < GENERATIONS && !versions.contains(&version) {
            versions.push(version);
        }
    }
}

async fn forget_journals(cx: &SweepContext, targets: Vec<Versioned<TargetRun>>) -> Result<()> {
    const CHUNK: usize = 50;
    let mut targets = targets.into_iter().peekable();
    while targets.peek().is_some() {
        let mut batch = cx.batch();
        for mut target in targets.by_ref().take(CHUNK) {
            batch = (1..=target.journal_entries).fold(batch, |batch, sequence| {
                batch.delete::<JournalEntry>(&JournalEntry::id_of(&target.id, sequence))
            });
            target.journal_entries = 0;
            batch = batch.update(&target)?;
        }
        cx.commit(batch).await?;
    }
    Ok(())
}

/// Deletes the targets of a run, unless somebody takes it up again.
async fn delete_targets(cx: &SweepContext, run: &Versioned<Run>) -> Result<()> {
    let as_read = Condition::Record { kind: Run::KIND, id: run.id.clone(), revision: Some(run.revision) };
    loop {
        let page = cx.store.list(TypedQuery::<TargetRun>::new().equal("run", &*run.id).limit(500)).await?;
        if page.records.is_empty() {
            return Ok(());
        }
        let batch = cx.batch().require(as_read.clone());
        let delete = |batch: WriteBatch, target: &Versioned<TargetRun>| batch.delete::<TargetRun>(&target.id);
        cx.commit(page.records.iter().fold(batch, delete)).await?;
    }
}
