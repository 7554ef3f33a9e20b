//! What must be true of the store: a second account of jobs and leases, kept from the requests alone, and compared with
//! what the store says after each of them.
//!
//! To add a check, extend the method of the request it is about (or [`Ledger::at_the_end`]) by a `demand`, named after the
//! promise it is about.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use certlib_core::lock::{Lease, LeaseRequest};
use certlib_core::queue::{Claim, Enqueued, Extension, Job, JobState, NewJob, Outcome, RetryPolicy, Settlement, later};
use certlib_core::scheduler::LEASE;
use certlib_core::store::{Commit, Condition, WriteBatch};
use time::OffsetDateTime;

use crate::history::{Verdict, Violation, demand};

/// A job as the requests made it.
#[derive(Debug, Clone)]
pub struct JobView {
    pub kind: String,
    pub key: Option<String>,
    pub state: JobState,
    pub epoch: u64,
    pub run_at: OffsetDateTime,
    lease_until: OffsetDateTime,
    pub worker: String,
    cancel: bool,
    rerun: bool,
    /// How often in a row its lease passed.
    crashes: u32,
    /// How often it was claimed.
    pub claims: u32,
    /// How often somebody asked for it again.
    pub revivals: u32,
    /// How often a settlement was accepted.
    pub settlements: u32,
    settled: Option<u64>,
    /// When it was last asked for, started, and stopped on request; as numbers of requests.
    wanted: u64,
    started: u64,
    stopped: u64,
}

/// A lease as the requests made it.
#[derive(Debug, Clone)]
struct LeaseView {
    holder: String,
    nonce: String,
    epoch: u64,
    expires_at: Duration,
    released: bool,
}

#[derive(Debug, Default)]
pub struct Ledger {
    pub jobs: BTreeMap<String, JobView>,
    active: BTreeMap<(String, String), String>,
    leases: BTreeMap<String, LeaseView>,
    /// The highest epoch that committed, of each lease.
    committed: BTreeMap<String, u64>,
    /// What a handler asked to wait for at least, by claim.
    asked: BTreeMap<(String, u64), Duration>,
    /// Claims whose handler was started.
    begun: BTreeSet<(String, u64)>,
    requests: u64,
}

impl Ledger {
    /// The active job of this kind and key.
    pub fn active(&self, kind: &str, key: &str) -> Option<&JobView> {
        self.jobs.get(self.active.get(&(kind.to_owned(), key.to_owned()))?)
    }

    pub fn is_quiet(&self) -> bool {
        self.jobs.values().all(|job| !job.state.is_active())
    }

    /// A handler was started for `claim`.
    pub fn begin(&mut self, claim: &Claim) -> Verdict {
        let first = self.begun.insert((claim.job.clone(), claim.epoch));
        demand(first, "G8", || format!("{} was started twice under claim epoch {}", claim.job, claim.epoch))
    }

    /// A handler wants its next attempt to wait.
    pub fn ask(&mut self, claim: &Claim, wait: Duration) {
        self.asked.insert((claim.job.clone(), claim.epoch), wait);
    }

    pub fn enqueue(&mut self, new: &NewJob, answer: &Enqueued, now: OffsetDateTime) -> Verdict {
        self.requests += 1;
        if self.jobs.contains_key(&new.id) {
            return demand(answer.id == new.id && answer.deduplicated, "G6", || {
                format!("the repeated enqueue of {} was answered {answer:?}", new.id)
            });
        }
        let slot = new.key.clone().map(|key| (new.kind.clone(), key));
        let twin = slot.as_ref().and_then(|slot| self.active.get(slot)).cloned();
        if let Some(twin) = twin {
            demand(answer.id == twin && answer.deduplicated, "G6", || {
                format!("{twin} of {} {:?} is active, but the answer was {answer:?}", new.kind, new.key)
            })?;
            let run_at = later(now, new.delay);
            let requests = self.requests;
            let job = self.job(&twin)?;
            job.wanted = requests;
            if job.state == JobState::InProgress {
                job.rerun = true;
            } else {
                job.run_at = job.run_at.min(run_at);
            }
            return Ok(());
        }
        demand(answer.id == new.id && !answer.deduplicated, "G6", || {
            format!("no twin of {} is active, but the answer was {answer:?}", new.id)
        })?;
        let job = JobView {
            kind: new.kind.clone(),
            key: new.key.clone(),
            state: JobState::Pending,
            epoch: 0,
            run_at: later(now, new.delay),
            lease_until: now,
            worker: String::new(),
            cancel: false,
            rerun: false,
            crashes: 0,
            claims: 0,
            revivals: 0,
            settlements: 0,
            settled: None,
            wanted: self.requests,
            started: 0,
            stopped: 0,
        };
        self.active.extend(slot.map(|slot| (slot, new.id.clone())));
        self.jobs.insert(new.id.clone(), job);
        Ok(())
    }

    pub fn claim(&mut self, actual: &Job, lease: Duration, now: OffsetDateTime) -> Verdict {
        self.requests += 1;
        let requests = self.requests;
        let job = self.job(&actual.id)?;
        demand(job.state == JobState::Pending, "G8", || {
            format!("{} was handed out while {}", actual.id, job.state.as_str())
        })?;
        demand(job.run_at <= now, "G11", || format!("{} was handed out {} early", actual.id, job.run_at - now))?;
        demand(actual.claim_epoch == job.epoch + 1, "G8", || {
            format!("{}: epoch {} follows {}", actual.id, actual.claim_epoch, job.epoch)
        })?;
        demand(job.crashes < 3, "G10", || {
            format!("{} was started again after {} crashes in a row", actual.id, job.crashes)
        })?;
        job.state = JobState::InProgress;
        job.epoch += 1;
        job.claims += 1;
        job.lease_until = later(now, lease);
        job.worker = actual.worker.clone().unwrap_or_default();
        job.started = requests;
        Ok(())
    }

    pub fn extend(&mut self, claim: &Claim, answer: Extension, lease: Duration, now: OffsetDateTime) -> Verdict {
        let holds = self.holds(claim);
        match answer {
            Extension::Held { cancel_requested } => {
                demand(holds, "G8", || format!("{claim:?} was extended though it was lost"))?;
                let job = self.job(&claim.job)?;
                job.lease_until = later(now, lease);
                demand(job.cancel == cancel_requested, "G12", || {
                    format!("{}: cancel_requested is {}, the heartbeat said otherwise", claim.job, job.cancel)
                })
            }
            _ => demand(!holds, "G7", || format!("{claim:?} holds, but was called lost")),
        }
    }

    /// A batch that was accepted.
    pub fn commit(&mut self, batch: &WriteBatch, answer: &Commit, now: OffsetDateTime) -> Verdict {
        for condition in &batch.conditions {
            match condition {
                Condition::Lease(lease) => self.lead(lease)?,
                Condition::Claim(claim) => {
                    demand(self.holds(claim), "G8", || format!("a write under the lost {claim:?} was accepted"))?;
                }
                _ => {}
            }
        }
        if let Some(settlement) = &batch.settlement {
            self.settle(settlement, now)?;
        }
        demand(answer.jobs.len() == batch.jobs.len(), "G7", || "a commit did not answer for each job".to_owned())?;
        batch.jobs.iter().zip(&answer.jobs).try_for_each(|(job, answer)| self.enqueue(job, answer, now))
    }

    fn lead(&mut self, lease: &Lease) -> Verdict {
        let highest = self.committed.entry(lease.name.clone()).or_default();
        demand(lease.epoch >= *highest, "G1", || {
            format!("epoch {} of {} committed after epoch {highest}", lease.epoch, lease.name)
        })?;
        *highest = lease.epoch;
        Ok(())
    }

    /// A settlement that was accepted.
    pub fn settle(&mut self, settlement: &Settlement, now: OffsetDateTime) -> Verdict {
        self.requests += 1;
        let claim = &settlement.claim;
        let asked = self.asked.remove(&(claim.job.clone(), claim.epoch));
        let holds = self.holds(claim);
        let job = self.job(&claim.job)?;
        demand(holds, "G8", || {
            format!("{claim:?} was settled; the job is {} under epoch {}", job.state.as_str(), job.epoch)
        })?;
        demand(job.settled != Some(claim.epoch), "G8", || format!("{claim:?} was settled twice"))?;
        if let (Some(asked), Outcome::Retry { delay, .. }) = (asked, &settlement.outcome) {
            demand(*delay >= asked, "G11", || format!("{} comes back after {delay:?}, not {asked:?}", claim.job))?;
        }
        job.settled = Some(claim.epoch);
        job.settlements += 1;
        job.crashes = 0;
        match settlement.outcome.state() {
            JobState::Pending if !job.cancel => {
                job.state = JobState::Pending;
                job.run_at = later(now, settlement.outcome.delay());
                job.rerun = false;
            }
            state => job.end(if state == JobState::Pending { JobState::Cancelled } else { state }, now),
        }
        self.let_go(&claim.job);
        Ok(())
    }

    /// A job that was taken back, as it now is.
    pub fn reap(&mut self, actual: &Job, policy: &RetryPolicy, now: OffsetDateTime) -> Verdict {
        self.requests += 1;
        let poison_after = policy.poison_after;
        let job = self.job(&actual.id)?;
        demand(job.state == JobState::InProgress, "G9", || {
            format!("{} was taken back while {}", actual.id, job.state.as_str())
        })?;
        demand(job.lease_until <= now, "G8", || {
            format!("{} was taken back {} before its lease ended", actual.id, job.lease_until - now)
        })?;
        job.crashes += 1;
        if job.cancel {
            job.end(JobState::Cancelled, now);
        } else if job.crashes >= poison_after {
            job.end(JobState::DeadLetter, now);
        } else {
            demand(actual.run_at >= now, "G11", || format!("{} is due before it was taken back", actual.id))?;
            job.state = JobState::Pending;
            job.run_at = actual.run_at;
            job.rerun = false;
        }
        self.let_go(&actual.id);
        Ok(())
    }

    /// A request to stop that was accepted.
    pub fn cancel(&mut self, id: &str, now: OffsetDateTime) -> Verdict {
        self.requests += 1;
        let requests = self.requests;
        let job = self.job(id)?;
        demand(job.state.is_active(), "G12", || format!("{id} was cancelled while {}", job.state.as_str()))?;
        job.stopped = requests;
        if job.state == JobState::Pending {
            job.end(JobState::Cancelled, now);
        } else {
            job.cancel = true;
            job.rerun = false;
        }
        self.let_go(id);
        Ok(())
    }

    /// A request to run again that was accepted.
    pub fn retry(&mut self, id: &str, delay: Duration, now: OffsetDateTime) -> Verdict {
        self.requests += 1;
        let requests = self.requests;
        let job = self.job(id)?;
        demand(!job.state.is_active() && job.state != JobState::Succeeded, "G9", || {
            format!("{id} was retried while {}", job.state.as_str())
        })?;
        job.wanted = requests;
        job.revive(later(now, delay));
        let slot = job.key.clone().map(|key| (job.kind.clone(), key));
        if let Some(slot) = slot {
            let twin = self.active.insert(slot, id.to_owned());
            return demand(twin.is_none(), "G6", || format!("{id} was retried while {twin:?} has its key"));
        }
        Ok(())
    }

    pub fn purge(&mut self, ids: &[String]) -> Verdict {
        ids.iter().try_for_each(|id| {
            let job = self.job(id)?;
            let over = !job.state.is_active();
            demand(over, "G7", || format!("{id} was deleted while active"))?;
            self.jobs.remove(id);
            Ok(())
        })
    }

    /// Compares the account of a job with what the store says about it.
    pub fn agree(&mut self, id: &str, actual: Option<&Job>) -> Verdict {
        let Some(actual) = actual else {
            return demand(!self.jobs.contains_key(id), "G7", || format!("{id} is gone"));
        };
        let job = self.job(id)?;
        let ours = (job.state, job.epoch, job.cancel, job.rerun);
        let theirs = (actual.state, actual.claim_epoch, actual.cancel_requested, actual.rerun_requested);
        demand(ours == theirs, "G9", || {
            format!("{id} should be {ours:?} (state, epoch, cancel, rerun), and is {theirs:?}")
        })?;
        let waits = job.state == JobState::Pending && job.run_at != actual.run_at;
        demand(!waits, "G11", || format!("{id} should be due at {}, and is at {}", job.run_at, actual.run_at))
    }

    pub fn acquire(&mut self, request: &LeaseRequest, granted: Option<&Lease>, now: Duration) -> Verdict {
        let former = self.leases.get(&request.name);
        let repeated = former
            .is_some_and(|lease| !lease.released && lease.holder == request.holder && lease.nonce == request.nonce);
        let free = former.is_none_or(|lease| lease.released || lease.expires_at <= now);
        let Some(granted) = granted else {
            return demand(!free && !repeated, "G35", || format!("the free lease {} was refused", request.name));
        };
        demand(free || repeated, "G1", || {
            format!("{} was granted to {} while {former:?} holds it", request.name, request.holder)
        })?;
        let epoch = former.map_or(0, |lease| lease.epoch) + u64::from(!repeated);
        demand(granted.epoch == epoch, "G4", || format!("epoch {} instead of {epoch}", granted.epoch))?;
        let view = LeaseView {
            holder: request.holder.clone(),
            nonce: request.nonce.clone(),
            epoch,
            expires_at: now + request.ttl,
            released: false,
        };
        self.leases.insert(request.name.clone(), view);
        Ok(())
    }

    pub fn renew(&mut self, lease: &Lease, answer: bool, until: Duration) -> Verdict {
        let held = self.held(lease);
        demand(held.is_some() == answer, "G1", || format!("the renewal of {lease:?} was answered {answer}"))?;
        if let Some(view) = self.held(lease) {
            view.expires_at = until;
        }
        Ok(())
    }

    pub fn release(&mut self, lease: &Lease, answer: bool) -> Verdict {
        let held = self.held(lease);
        demand(held.is_some() == answer, "G3", || format!("the release of {lease:?} was answered {answer}"))?;
        if let Some(view) = self.held(lease) {
            view.released = true;
        }
        Ok(())
    }

    /// The present epoch of a lease and who holds it, by this account.
    pub fn inspect(&mut self, name: &str, epoch: u64, holder: &str) -> Verdict {
        let view = self.leases.get(name);
        let same = view.is_some_and(|view| view.epoch == epoch && view.holder == holder);
        demand(same, "G4", || format!("the lease is {view:?}, and the store says {holder} under {epoch}"))
    }

    /// Whether somebody holds the scheduler's lease, or is about to: it ended only just now.
    pub fn is_led(&self, now: Duration) -> bool {
        const HANDOVER: Duration = Duration::from_secs(15);
        self.leases.get(LEASE).is_some_and(|lease| !lease.released && lease.expires_at + HANDOVER > now)
    }

    /// What must hold of jobs once everything is quiet.
    pub fn at_the_end(&self) -> Verdict {
        for (id, job) in &self.jobs {
            demand(!job.state.is_active(), "G7", || format!("{id} ({}) is still {}", job.kind, job.state.as_str()))?;
            let served = job.started > job.wanted || job.stopped > job.wanted;
            demand(served, "G6", || format!("{id} ({}) was not started after it was asked for", job.kind))?;
            let poison = job.state == JobState::DeadLetter && job.settlements + job.revivals == 0;
            demand(!poison || job.claims == 3, "G10", || {
                format!("{id} was given up as poison after {} starts", job.claims)
            })?;
            demand(job.claims > 0 || job.state == JobState::Cancelled, "G7", || format!("{id} was never executed"))?;
        }
        Ok(())
    }

    fn job(&mut self, id: &str) -> Result<&mut JobView, Violation> {
        let unknown = || Violation { promise: "G7", why: format!("nobody enqueued {id}") };
        self.jobs.get_mut(id).ok_or_else(unknown)
    }

    pub fn holds(&self, claim: &Claim) -> bool {
        let job = self.jobs.get(&claim.job);
        job.is_some_and(|job| job.state == JobState::InProgress && job.epoch == claim.epoch)
    }

    fn held(&mut self, lease: &Lease) -> Option<&mut LeaseView> {
        let view = self.leases.get_mut(&lease.name)?;
        (view.epoch == lease.epoch && view.holder == lease.holder && !view.released).then_some(view)
    }

    /// Frees the natural key of a job that is over.
    fn let_go(&mut self, id: &str) {
        if let Some(JobView { kind, key: Some(key), state, .. }) = self.jobs.get(id)
            && !state.is_active()
        {
            self.active.remove(&(kind.clone(), key.clone()));
        }
    }
}

impl JobView {
    fn end(&mut self, state: JobState, now: OffsetDateTime) {
        if self.rerun {
            self.revive(now);
        } else {
            self.state = state;
        }
    }

    fn revive(&mut self, run_at: OffsetDateTime) {
        self.state = JobState::Pending;
        self.run_at = run_at;
        self.cancel = false;
        self.rerun = false;
        self.crashes = 0;
        self.revivals += 1;
    }
}
