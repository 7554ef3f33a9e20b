//! The jobs of the store in memory, and their indexes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;

use crate::backoff::Jitter;
use crate::error::{Error, Result};
use crate::model::Event;
use crate::queue::{
    Claim, ClaimRequest, Enqueued, Extension, Job, JobFilter, JobState, Lane, NewJob, QueueDepth, QueueStats,
    RetryPolicy, Settlement, later,
};

#[derive(Clone, Default)]
pub(super) struct Jobs {
    by_id: HashMap<Arc<str>, Job>,
    by_age: BTreeSet<Position>,
    /// By natural key, whatever their kind and state.
    by_key: HashMap<String, BTreeSet<Position>>,
    /// The active job of each kind and natural key.
    active: HashMap<String, HashMap<String, Arc<str>>>,
    /// Pending jobs by priority, due time and id.
    waiting: HashMap<Lane, BTreeMap<Reverse<i16>, BTreeSet<Position>>>,
    /// Jobs in progress by the end of their lease.
    leased: BTreeSet<Position>,
    /// Finished jobs by their state and end.
    ended: HashMap<JobState, BTreeSet<Position>>,
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
        if let Some(key) = &job.key {
            self.by_key.entry(key.clone()).or_default().insert((job.created_at, id.clone()));
        }
        self.index(&id, &job, now);
        self.by_id.insert(id, job);
        enqueued
    }

    pub(super) fn claim(&mut self, request: &ClaimRequest, now: OffsetDateTime) -> Vec<Job> {
        let wanted = |id: &Arc<str>| {
            request.avoid.is_empty() || self.by_id.get(id).is_some_and(|job| !request.avoid.contains(&job.parent))
        };
        let levels = self.waiting.get(&request.lane).into_iter().flat_map(BTreeMap::values);
        let due: Vec<Arc<str>> = levels
            .flat_map(|level| level.iter().take_while(|(run_at, _)| *run_at <= now))
            .map(|(_, id)| id)
            .filter(|id| wanted(id))
            .take(request.limit)
            .cloned()
            .collect();
        let until = later(now, request.lease);
        due.iter().filter_map(|id| self.change(id, now, |job| job.start(&request.worker, until)).cloned()).collect()
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

    /// `None` if the claim was lost; otherwise the event, if there is one.
    pub(super) fn settle(&mut self, settlement: &Settlement, now: OffsetDateTime) -> Option<Option<Event>> {
        self.require(&settlement.claim).ok()?;
        let mut event = None;
        self.change(&settlement.claim.job, now, |job| {
            event = job.settle(&settlement.outcome, settlement.duration, now);
        })?;
        Some(event)
    }

    pub(super) fn reap(&mut self, policy: &RetryPolicy, limit: usize, now: OffsetDateTime) -> (Vec<Job>, Vec<Event>) {
        let lost: Vec<_> =
            self.leased.iter().take_while(|(until, _)| *until <= now).take(limit).map(|(_, id)| id.clone()).collect();
        let mut events = Vec::new();
        let mut crash = |job: &mut Job| events.extend(job.crash(policy, Jitter::random(), now));
        let jobs = lost.iter().filter_map(|id| self.change(id, now, &mut crash).cloned()).collect();
        (jobs, events)
    }

    pub(super) fn cancel(&mut self, id: &str, now: OffsetDateTime) -> Result<Job> {
        let mut result = Ok(());
        let job = self.change(id, now, |job| result = job.stop(now)).cloned();
        result?;
        job.ok_or_else(|| Error::not_found("queue.cancel", format_args!("job {id}")))
    }

    pub(super) fn retry(&mut self, id: &str, now: OffsetDateTime, delay: Duration) -> Result<Job> {
        let job = self.by_id.get(id).ok_or_else(|| Error::not_found("queue.retry", format_args!("job {id}")))?;
        let twin = self.active_twin(&job.kind, job.key.as_deref());
        if twin.is_some_and(|twin| *twin != *id) {
            return Err(job.active_already());
        }
        let mut result = Ok(());
        let job = self.change(id, now, |job| result = job.restart(later(now, delay))).cloned();
        result?;
        job.ok_or_else(|| Error::not_found("queue.retry", format_args!("job {id}")))
    }

    pub(super) fn purge(
        &mut self,
        state: JobState,
        now: OffsetDateTime,
        older_than: Duration,
        limit: usize,
    ) -> Vec<String> {
        let Some(ended) = self.ended.get(&state) else { return Vec::new() };
        let is_old = |at: OffsetDateTime| later(at, older_than) < now;
        let old: Vec<_> =
            ended.iter().take_while(|(at, _)| is_old(*at)).take(limit).map(|(_, id)| id.clone()).collect();
        for id in &old {
            if let Some((id, job)) = self.by_id.remove_entry(id) {
                self.unindex(&id, &job);
                let position = (job.created_at, id);
                self.by_age.remove(&position);
                if let Some(key) = &job.key
                    && let Some(positions) = self.by_key.get_mut(key)
                {
                    positions.remove(&position);
                    if positions.is_empty() {
                        self.by_key.remove(key);
                    }
                }
            }
        }
        old.iter().map(|id| id.to_string()).collect()
    }

    /// Newest first; walks the jobs by age until it has enough.
    pub(super) fn list(&self, filter: &JobFilter) -> Vec<Job> {
        let limit = filter.effective_limit();
        let ages = match &filter.key {
            None => Some(&self.by_age),
            Some(key) => self.by_key.get(key),
        };
        let Some(ages) = ages else { return Vec::new() };
        let newer: Box<dyn Iterator<Item = &Position>> = match &filter.before {
            None => Box::new(ages.iter().rev()),
            Some(id) => match self.by_id.get_key_value(id.as_str()) {
                Some((id, job)) => Box::new(ages.range(..(job.created_at, id.clone())).rev()),
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
            state => self.ended.entry(state).or_default().extend(job.finished_at.map(|at| (at, id.clone()))),
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
            state => {
                if let (Some(ended), Some(at)) = (self.ended.get_mut(&state), job.finished_at) {
                    ended.remove(&(at, id.clone()));
                }
            }
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
