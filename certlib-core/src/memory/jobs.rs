//! The jobs of the store in memory, and their indexes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;

use crate::backoff::Jitter;
use crate::error::{Error, Result};
use crate::queue::{
    Claim, Enqueued, Extension, Job, JobFilter, JobState, Lane, NewJob, QueueDepth, QueueStats, RetryPolicy,
    Settlement, later,
};

#[derive(Default)]
pub(super) struct Jobs {
    by_id: HashMap<Arc<str>, Job>,
    by_age: BTreeSet<Position>,
    /// The active job of each kind and natural key.
    active: HashMap<String, HashMap<String, Arc<str>>>,
    /// Pending jobs by priority, due time and id.
    waiting: HashMap<Lane, BTreeMap<Reverse<i16>, BTreeSet<Position>>>,
    /// Jobs in progress by the end of their lease.
    leased: BTreeSet<Position>,
    stats: BTreeMap<String, QueueDepth>,
    became_due: bool,
}

/// A time and the id of a job.
type Position = (OffsetDateTime, Arc<str>);

impl Jobs {
    /// Whether a job became due since this was asked last.
    pub(super) fn take_became_due(&mut self) -> bool {
        std::mem::take(&mut self.became_due)
    }

    pub(super) fn get(&self, id: &str) -> Option<Job> {
        self.by_id.get(id).cloned()
    }

    /// `lease_lost` unless `claim` holds.
    pub(super) fn require(&self, claim: &Claim) -> Result<()> {
        match self.by_id.get(&*claim.job) {
            Some(job) if job.is_held_by(claim) => Ok(()),
            _ => Err(claim.lost()),
        }
    }

    pub(super) fn enqueue(&mut self, new: NewJob, now: OffsetDateTime) -> Enqueued {
        if self.by_id.contains_key(&*new.id) {
            return Enqueued { id: new.id, deduplicated: true };
        }
        if let Some(twin) = self.active_twin(&new.kind, new.key.as_deref()) {
            let run_at = later(now, new.delay);
            self.change(&twin, now, |job| job.meet(new.priority, run_at));
            return Enqueued { id: twin.to_string(), deduplicated: true };
        }
        let job = Job::from_new(new, now);
        let id: Arc<str> = job.id.as_str().into();
        let enqueued = Enqueued { id: job.id.clone(), deduplicated: false };
        self.by_age.insert((job.created_at, id.clone()));
        self.index(&id, &job, now);
        self.by_id.insert(id, job);
        enqueued
    }

    pub(super) fn claim(
        &mut self,
        lane: Lane,
        worker: &str,
        limit: usize,
        now: OffsetDateTime,
        lease: Duration,
    ) -> Vec<Job> {
        let due: Vec<Arc<str>> = self.waiting.get(&lane).map_or_else(Vec::new, |levels| {
            let due = |level: &BTreeSet<Position>| {
                level.iter().take_while(|(run_at, _)| *run_at <= now).take(limit).map(|(_, id)| id.clone()).collect()
            };
            let mut found = Vec::new();
            for level in levels.values() {
                if found.len() >= limit {
                    break;
                }
                let more: Vec<_> = due(level);
                found.extend(more);
            }
            found.truncate(limit);
            found
        });
        due.iter().filter_map(|id| self.change(id, now, |job| job.start(worker, later(now, lease))).cloned()).collect()
    }

    pub(super) fn extend(&mut self, claim: &Claim, until: OffsetDateTime) -> Extension {
        let Some((id, job)) = self.by_id.get_key_value(&*claim.job).filter(|(_, job)| job.is_held_by(claim)) else {
            return Extension::Lost;
        };
        let (id, cancel_requested) = (id.clone(), job.cancel_requested);
        if let Some(job) = self.by_id.get_mut(&id) {
            if let Some(former) = job.lease_until.replace(until) {
                self.leased.remove(&(former, id.clone()));
            }
            self.leased.insert((until, id));
        }
        Extension::Held { cancel_requested }
    }

    pub(super) fn settle(&mut self, settlement: &Settlement, now: OffsetDateTime) -> bool {
        self.require(&settlement.claim).is_ok()
            && self
                .change(&settlement.claim.job, now, |job| job.settle(&settlement.outcome, settlement.duration, now))
                .is_some()
    }

    pub(super) fn reap(&mut self, policy: &RetryPolicy, limit: usize, now: OffsetDateTime) -> Vec<Job> {
        let lost: Vec<_> =
            self.leased.iter().take_while(|(until, _)| *until <= now).take(limit).map(|(_, id)| id.clone()).collect();
        lost.iter()
            .filter_map(|id| self.change(id, now, |job| job.crash(policy, Jitter::random(), now)).cloned())
            .collect()
    }

    pub(super) fn cancel(&mut self, id: &str, now: OffsetDateTime) -> Result<Job> {
        let mut result = Ok(());
        let job = self.change(id, now, |job| result = job.stop(now)).cloned();
        result?;
        job.ok_or_else(|| Error::not_found("queue.cancel", format_args!("job {id}")))
    }

    pub(super) fn retry(&mut self, id: &str, now: OffsetDateTime) -> Result<Job> {
        let job = self.by_id.get(id).ok_or_else(|| Error::not_found("queue.retry", format_args!("job {id}")))?;
        let twin = self.active_twin(&job.kind, job.key.as_deref());
        if twin.is_some_and(|twin| *twin != *id) {
            return Err(job.active_already());
        }
        let mut result = Ok(());
        let job = self.change(id, now, |job| result = job.restart(now)).cloned();
        result?;
        job.ok_or_else(|| Error::not_found("queue.retry", format_args!("job {id}")))
    }

    /// Newest first; walks the jobs by age until it has enough.
    pub(super) fn list(&self, filter: &JobFilter) -> Vec<Job> {
        let limit = filter.effective_limit();
        let newer: Box<dyn Iterator<Item = &Position>> = match &filter.before {
            None => Box::new(self.by_age.iter().rev()),
            Some(id) => match self.by_id.get_key_value(id.as_str()) {
                Some((id, job)) => Box::new(self.by_age.range(..(job.created_at, id.clone())).rev()),
                None => return Vec::new(),
            },
        };
        newer.filter_map(|(_, id)| self.by_id.get(id)).filter(|job| filter.matches(job)).take(limit).cloned().collect()
    }

    pub(super) fn stats(&self) -> QueueStats {
        let mut stats = QueueStats::default();
        let waiting = self.stats.iter().filter(|(_, depth)| **depth != QueueDepth::default());
        stats.by_kind.extend(waiting.map(|(kind, depth)| (kind.clone(), *depth)));
        stats
    }

    fn active_twin(&self, kind: &str, key: Option<&str>) -> Option<Arc<str>> {
        self.active.get(kind)?.get(key?).cloned()
    }

    /// Changes a job and moves it to its new places in the indexes.
    fn change(&mut self, id: &str, now: OffsetDateTime, change: impl FnOnce(&mut Job)) -> Option<&Job> {
        let (id, mut job) = self.by_id.remove_entry(id)?;
        self.unindex(&id, &job);
        change(&mut job);
        self.index(&id, &job, now);
        Some(self.by_id.entry(id).insert_entry(job).into_mut())
    }

    fn index(&mut self, id: &Arc<str>, job: &Job, now: OffsetDateTime) {
        match job.state {
            JobState::Pending => {
                let level = self.waiting.entry(job.lane).or_default().entry(Reverse(job.priority)).or_default();
                level.insert((job.run_at, id.clone()));
                self.became_due |= job.run_at <= now;
            }
            JobState::InProgress => {
                self.leased.extend(job.lease_until.map(|until| (until, id.clone())));
            }
            _ => {}
        }
        if let (true, Some(key)) = (job.state.is_active(), &job.key) {
            match self.active.get_mut(&job.kind) {
                Some(keys) => keys.insert(key.clone(), id.clone()),
                None => self.active.entry(job.kind.clone()).or_default().insert(key.clone(), id.clone()),
            };
        }
        self.count(job, 1);
    }

    fn unindex(&mut self, id: &Arc<str>, job: &Job) {
        match job.state {
            JobState::Pending => {
                if let Some(levels) = self.waiting.get_mut(&job.lane)
                    && let Some(level) = levels.get_mut(&Reverse(job.priority))
                {
                    level.remove(&(job.run_at, id.clone()));
                    if level.is_empty() {
                        levels.remove(&Reverse(job.priority));
                    }
                }
            }
            JobState::InProgress => {
                if let Some(until) = job.lease_until {
                    self.leased.remove(&(until, id.clone()));
                }
            }
            _ => {}
        }
        if let (true, Some(key)) = (job.state.is_active(), &job.key)
            && let Some(keys) = self.active.get_mut(&job.kind)
        {
            keys.remove(key);
        }
        self.count(job, -1);
    }

    fn count(&mut self, job: &Job, by: i64) {
        let depth = match self.stats.get_mut(&job.kind) {
            Some(depth) => depth,
            None => self.stats.entry(job.kind.clone()).or_default(),
        };
        let counter = match job.state {
            JobState::Pending => &mut depth.pending,
            JobState::InProgress => &mut depth.in_progress,
            JobState::DeadLetter => &mut depth.dead_letter,
            _ => return,
        };
        *counter = counter.saturating_add_signed(by);
    }
}
