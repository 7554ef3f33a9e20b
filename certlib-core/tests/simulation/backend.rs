//! The one store all nodes share, with the account that is kept beside it; and the places where mutants bite.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use certlib_core::Result;
use certlib_core::clock::Clock as _;
use certlib_core::lock::{LeaderLock as _, Lease, LeaseInfo, LeaseRequest};
use certlib_core::memory::MemoryStore;
use certlib_core::model::Event;
use certlib_core::queue::{
    Claim, ClaimRequest, DEAD_LETTER_EVENT, Enqueued, Extension, Job, JobQueue as _, JobState, NewJob, Outcome,
    RetryPolicy, Settlement,
};
use certlib_core::store::{Commit, Condition, Store as _, StoreExt as _, TypedQuery, Versioned, Write, WriteBatch};
use futures::FutureExt as _;
use tokio::sync::watch;

use crate::checks::Ledger;
use crate::clock::StoreClock;
use crate::history::{Stage, Verdict, demand};
use crate::keys;
use crate::mutants::Mutant;

pub struct Backend {
    pub stage: Arc<Stage>,
    pub memory: MemoryStore,
    pub clock: Arc<StoreClock>,
    pub ledger: Mutex<Ledger>,
    pub mutant: Option<Mutant>,
    due: Mutex<watch::Receiver<u64>>,
    vacant: Mutex<watch::Receiver<u64>>,
}

/// The answer of the store in memory, which never waits.
pub fn at_once<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("the store in memory answers at once")
}

impl Backend {
    pub fn new(stage: Arc<Stage>, mutant: Option<Mutant>) -> Self {
        let clock = Arc::new(StoreClock::new());
        let memory = MemoryStore::new(clock.clone());
        let due = Mutex::new(memory.wakeups());
        let vacant = Mutex::new(memory.vacancies());
        Self { stage, memory, clock, ledger: Mutex::default(), mutant, due, vacant }
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Whether jobs, and whether leases, may have become free since this was asked last.
    pub fn take_news(&self) -> (bool, bool) {
        let changed = |receiver: &Mutex<watch::Receiver<u64>>| {
            let mut receiver = receiver.lock().unwrap();
            let changed = receiver.has_changed().unwrap_or(false);
            receiver.mark_unchanged();
            changed
        };
        (changed(&self.due), changed(&self.vacant))
    }

    /// Looks at the jobs that a request was about.
    fn settle_accounts<'a>(&self, ids: impl IntoIterator<Item = &'a str>, so_far: Verdict) {
        let verdict = so_far.and_then(|()| {
            for id in ids {
                let job = at_once(self.memory.job(id)).unwrap();
                self.ledger.lock().unwrap().agree(id, job.as_ref())?;
                self.look_for_the_event(job.as_ref())?;
            }
            Ok(())
        });
        self.stage.judge(verdict);
    }

    /// A job that was given up must not be silent.
    fn look_for_the_event(&self, job: Option<&Job>) -> Verdict {
        let Some(job) = job.filter(|job| job.state == JobState::DeadLetter) else { return Ok(()) };
        let query = TypedQuery::<Event>::new().equal("subject", &*job.id).equal("kind", DEAD_LETTER_EVENT);
        let events = at_once(self.memory.list_all(query)).unwrap();
        if self.is(Mutant::SilentDeadLetter) && !events.is_empty() {
            let silence = |batch: WriteBatch, event: &Versioned<Event>| batch.delete::<Event>(&event.id);
            at_once(self.memory.commit(events.iter().fold(WriteBatch::new(), silence))).unwrap();
            return self.look_for_the_event(Some(job));
        }
        demand(!events.is_empty(), "G10", || format!("{} was given up without an event", job.id))
    }

    fn present_epoch(&self, job: &str) -> Option<u64> {
        at_once(self.memory.job(job)).unwrap().map(|job| job.claim_epoch)
    }

    fn is_running(&self, kind: &str, key: Option<&str>) -> Option<String> {
        let ledger = self.ledger.lock().unwrap();
        let twin = ledger.jobs.iter().find(|(_, job)| job.kind == kind && job.key.as_deref() == key)?;
        (key.is_some() && twin.1.state == JobState::InProgress).then(|| twin.0.clone())
    }

    pub fn commit(&self, batch: WriteBatch) -> Result<Commit> {
        let now = self.clock.now();
        let mut sent = batch.clone();
        match self.mutant {
            Some(Mutant::NoLeaseCondition) => sent.conditions.retain(|one| !matches!(one, Condition::Lease(_))),
            Some(Mutant::NoClaimCondition) => sent.conditions.retain(|one| !matches!(one, Condition::Claim(_))),
            Some(Mutant::NoFence) => {
                sent.conditions.retain(|one| !matches!(one, Condition::Record { kind: "kek_fence", .. }));
            }
            Some(Mutant::NoJournal) => {
                sent.writes.retain(|write| !matches!(write, Write::Put { kind: "journal_entry", .. }));
            }
            Some(Mutant::SettleByState) => {
                if let Some(settlement) = &mut sent.settlement
                    && let Some(epoch) = self.present_epoch(&settlement.claim.job)
                {
                    settlement.claim.epoch = epoch;
                    sent.conditions.retain(|one| !matches!(one, Condition::Claim(_)));
                }
            }
            Some(Mutant::HastyRetry) => {
                if let Some(Settlement { outcome: Outcome::Retry { delay, .. }, .. }) = &mut sent.settlement {
                    *delay = Duration::ZERO;
                }
            }
            Some(Mutant::LostSettlement) if sent.settlement.is_some() && self.stage.happens(0.05) => {
                let answers = batch.jobs.iter().map(|job| Enqueued { id: job.id.clone(), deduplicated: false });
                let commit = Commit::new(vec![1; batch.writes.len()], answers.collect());
                self.audit(&batch, &commit, now);
                return Ok(commit);
            }
            Some(Mutant::NoDedupe | Mutant::ForgetRerun) => {
                let jobs = std::mem::take(&mut sent.jobs);
                let result = at_once(self.memory.commit(sent));
                let mut commit = result?;
                commit.jobs = self.enqueue_badly(jobs)?;
                self.audit(&batch, &commit, now);
                return Ok(commit);
            }
            _ => {}
        }
        let commit = at_once(self.memory.commit(sent))?;
        self.audit(&batch, &commit, now);
        Ok(commit)
    }

    fn audit(&self, batch: &WriteBatch, commit: &Commit, now: time::OffsetDateTime) {
        let verdict = self.ledger.lock().unwrap().commit(batch, commit, now);
        let verdict = verdict.and_then(|()| keys::check_commit(&self.memory, batch));
        let settled = batch.settlement.iter().map(|settlement| &*settlement.claim.job);
        self.settle_accounts(settled.chain(commit.jobs.iter().map(|job| &*job.id)), verdict);
    }

    /// The store's `enqueue` as the mutants have it.
    fn enqueue_badly(&self, jobs: Vec<NewJob>) -> Result<Vec<Enqueued>> {
        let mut answers = Vec::new();
        for mut job in jobs {
            match self.is_running(&job.kind, job.key.as_deref()) {
                Some(twin) if self.is(Mutant::ForgetRerun) => {
                    answers.push(Enqueued { id: twin, deduplicated: true });
                }
                _ => {
                    if self.is(Mutant::NoDedupe) {
                        job.key = job.key.map(|key| format!("{key} {}", job.id));
                    }
                    answers.extend(at_once(self.memory.enqueue(vec![job]))?);
                }
            }
        }
        Ok(answers)
    }

    pub fn enqueue(&self, jobs: Vec<NewJob>) -> Result<Vec<Enqueued>> {
        let now = self.clock.now();
        let asked = jobs.clone();
        let answers = if self.is(Mutant::NoDedupe) || self.is(Mutant::ForgetRerun) {
            self.enqueue_badly(jobs)?
        } else {
            at_once(self.memory.enqueue(jobs))?
        };
        let verdict = {
            let mut ledger = self.ledger.lock().unwrap();
            asked.iter().zip(&answers).try_for_each(|(job, answer)| ledger.enqueue(job, answer, now))
        };
        self.settle_accounts(answers.iter().map(|answer| &*answer.id), verdict);
        Ok(answers)
    }

    pub fn claim(&self, request: &ClaimRequest) -> Result<Vec<Job>> {
        let now = self.clock.now();
        let claim = || at_once(self.memory.claim(request));
        let early = Duration::from_secs(20);
        let jobs = if self.is(Mutant::ClaimTooEarly) { self.clock.while_ahead(early, claim) } else { claim() }?;
        let verdict = {
            let mut ledger = self.ledger.lock().unwrap();
            jobs.iter().try_for_each(|job| ledger.claim(job, request.lease, now))
        };
        self.settle_accounts(jobs.iter().map(|job| &*job.id), verdict);
        Ok(jobs)
    }

    pub fn extend(&self, claims: &[Claim], lease: Duration) -> Result<Vec<Extension>> {
        let now = self.clock.now();
        let mut sent = claims.to_vec();
        if self.is(Mutant::ExtendWithoutEpoch) {
            for claim in &mut sent {
                claim.epoch = self.present_epoch(&claim.job).unwrap_or(claim.epoch);
            }
        }
        let answers = at_once(self.memory.extend(&sent, lease))?;
        let verdict = {
            let mut ledger = self.ledger.lock().unwrap();
            claims.iter().zip(&answers).try_for_each(|(claim, answer)| ledger.extend(claim, *answer, lease, now))
        };
        self.stage.judge(verdict);
        Ok(answers)
    }

    pub fn settle(&self, settlements: Vec<Settlement>) -> Result<Vec<bool>> {
        let now = self.clock.now();
        let mut sent = settlements.clone();
        for settlement in &mut sent {
            if self.is(Mutant::SettleByState) {
                settlement.claim.epoch = self.present_epoch(&settlement.claim.job).unwrap_or_default();
            }
            if let (true, Outcome::Retry { delay, .. }) = (self.is(Mutant::HastyRetry), &mut settlement.outcome) {
                *delay = Duration::ZERO;
            }
        }
        let answers = at_once(self.memory.settle(sent))?;
        let accepted: Vec<_> = settlements.iter().zip(&answers).filter(|(_, accepted)| **accepted).collect();
        let verdict = {
            let mut ledger = self.ledger.lock().unwrap();
            accepted.iter().try_for_each(|(settlement, _)| ledger.settle(settlement, now))
        };
        self.settle_accounts(accepted.iter().map(|(settlement, _)| &*settlement.claim.job), verdict);
        Ok(answers)
    }

    pub fn reap(&self, policy: &RetryPolicy, limit: usize) -> Result<Vec<Job>> {
        let now = self.clock.now();
        let mut lenient = policy.clone();
        lenient.poison_after = 1_000;
        let used = if self.is(Mutant::NoPoison) { &lenient } else { policy };
        let reap = || at_once(self.memory.reap(used, limit));
        let early = Duration::from_secs(10);
        let jobs = if self.is(Mutant::ReapTooEarly) { self.clock.while_ahead(early, reap) } else { reap() }?;
        let verdict = {
            let mut ledger = self.ledger.lock().unwrap();
            jobs.iter().try_for_each(|job| ledger.reap(job, policy, now))
        };
        self.settle_accounts(jobs.iter().map(|job| &*job.id), verdict);
        Ok(jobs)
    }

    pub fn cancel(&self, id: &str) -> Result<Job> {
        let now = self.clock.now();
        let job = at_once(self.memory.cancel(id))?;
        let verdict = self.ledger.lock().unwrap().cancel(id, now);
        self.settle_accounts([id], verdict);
        Ok(job)
    }

    pub fn retry(&self, id: &str, delay: Duration) -> Result<Job> {
        let now = self.clock.now();
        let job = at_once(self.memory.retry(id, delay))?;
        let verdict = self.ledger.lock().unwrap().retry(id, delay, now);
        self.settle_accounts([id], verdict);
        Ok(job)
    }

    pub fn purge(&self, state: JobState, older_than: Duration, limit: usize) -> Result<Vec<String>> {
        let ids = at_once(self.memory.purge(state, older_than, limit))?;
        self.stage.judge(self.ledger.lock().unwrap().purge(&ids));
        Ok(ids)
    }

    pub fn acquire(&self, request: &LeaseRequest) -> Result<Option<Lease>> {
        let now = self.clock.monotonic();
        let acquire = || at_once(self.memory.acquire(request));
        let early = request.ttl / 2;
        let granted = if self.is(Mutant::GrantTooEarly) { self.clock.while_ahead(early, acquire) } else { acquire() }?;
        self.stage.judge(self.ledger.lock().unwrap().acquire(request, granted.as_ref(), now));
        Ok(granted)
    }

    pub fn renew(&self, lease: &Lease, ttl: Duration) -> Result<bool> {
        let until = self.clock.monotonic() + ttl;
        let sent = if self.is(Mutant::RenewWithoutEpoch) { self.present(lease)? } else { lease.clone() };
        let answer = at_once(self.memory.renew(&sent, ttl))?;
        self.stage.judge(self.ledger.lock().unwrap().renew(lease, answer, until));
        Ok(answer)
    }

    pub fn release(&self, lease: &Lease) -> Result<bool> {
        let sent = if self.is(Mutant::ReleaseWithoutOwner) { self.present(lease)? } else { lease.clone() };
        let answer = at_once(self.memory.release(&sent))?;
        self.stage.judge(self.ledger.lock().unwrap().release(lease, answer));
        Ok(answer)
    }

    /// The lease of this name, whoever has it.
    fn present(&self, lease: &Lease) -> Result<Lease> {
        let info = at_once(self.memory.inspect(&lease.name))?;
        Ok(info.map_or(lease.clone(), |info| Lease { name: info.name, holder: info.holder, epoch: info.epoch }))
    }

    pub fn inspect(&self, name: &str) -> Result<Option<LeaseInfo>> {
        let info = at_once(self.memory.inspect(name))?;
        if let Some(info) = &info {
            self.stage.judge(self.ledger.lock().unwrap().inspect(name, info.epoch, &info.holder));
        }
        Ok(info)
    }
}
