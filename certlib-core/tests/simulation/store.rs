//! The store as one node sees it: through a network that delays, loses and repeats nothing that the sender knows about.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use certlib_core::lock::{LeaderLock, Lease, LeaseInfo, LeaseRequest};
use certlib_core::queue::{
    Claim, ClaimRequest, Enqueued, Extension, Job, JobFilter, JobQueue, JobState, NewJob, QueueStats, RetryPolicy,
    Settlement,
};
use certlib_core::runtime::Settings;
use certlib_core::store::{Commit, Condition, Page, Query, RawRecord, Store, WriteBatch};
use certlib_core::{Effect, Error, Result};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::backend::{Backend, at_once};
use crate::history::demand;
use crate::mutants::Mutant;
use crate::network::{Node, Tenure};
use crate::world::LEADER_TTL;

#[derive(Clone)]
pub struct SimStore {
    pub backend: Arc<Backend>,
    pub node: Arc<Node>,
    /// All nodes that hear of news.
    pub nodes: Arc<dyn Fn() -> Vec<Arc<Node>> + Send + Sync>,
}

impl fmt::Debug for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimStore").field("node", &self.node.name).finish_non_exhaustive()
    }
}

/// How a result looks in the history.
type Show<T> = fn(&T) -> Option<String>;

impl SimStore {
    /// Sends a request. Once sent it travels on its own: dropping this future, or losing patience, does not call it back.
    async fn call<T: Send + 'static>(
        &self,
        what: String,
        show: Show<T>,
        request: impl FnOnce(&Backend) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.node.gate().await;
        let trip = self.node.trip();
        if trip.certain {
            // Nothing can go wrong on the way, so nothing has to travel on its own.
            tokio::time::sleep(trip.there).await;
            let result = request(&self.backend);
            self.note(&what, false, show, &result);
            self.spread_news();
            tokio::time::sleep(trip.back).await;
            self.node.gate().await;
            return result;
        }
        let sent = Instant::now();
        let name = what.clone();
        let (answer, answered) = oneshot::channel();
        let journey = {
            let this = self.clone();
            async move {
                tokio::time::sleep(trip.there).await;
                if trip.lost || this.node.is_cut() {
                    return;
                }
                let result = request(&this.backend);
                this.note(&what, trip.reply_lost, show, &result);
                this.spread_news();
                tokio::time::sleep(trip.back).await;
                if !trip.reply_lost && !this.node.is_cut() {
                    let _ = answer.send(result);
                }
            }
        };
        tokio::spawn(journey);
        let result = match tokio::time::timeout_at(sent + trip.patience, answered).await {
            Ok(Ok(result)) => result,
            // The answer will never come; the sender cannot know.
            Ok(Err(_)) => {
                tokio::time::sleep_until(sent + trip.patience).await;
                Err(silence(&name))
            }
            Err(_) => Err(silence(&name)),
        };
        self.node.gate().await;
        result
    }

    fn note<T>(&self, what: &str, reply_lost: bool, show: Show<T>, result: &Result<T>) {
        let lost = if reply_lost { " (reply lost)" } else { "" };
        match result {
            Ok(value) => {
                if let Some(shown) = show(value) {
                    self.node.stage.note(&self.node.name, format!("{what}: {shown}{lost}"));
                }
            }
            Err(error) => self.node.stage.note(&self.node.name, format!("{what}: refused, {}{lost}", error.code())),
        }
    }

    fn spread_news(&self) {
        let (due, vacant) = self.backend.take_news();
        for lease in [due.then_some(false), vacant.then_some(true)].into_iter().flatten() {
            for node in (self.nodes)() {
                // Missing a change is harmless.
                if node.is_dead() || node.stage.happens(0.2) {
                    continue;
                }
                let delay = node.stage.millis(1..=30);
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    node.gate().await;
                    node.ring(lease);
                });
            }
        }
    }

    /// How long the lease really is that the engine asks for.
    fn true_ttl(&self, asked: Duration) -> Duration {
        if self.backend.mutant == Some(Mutant::TrustTooLong) { LEADER_TTL } else { asked }
    }

    /// A request about the lease was answered well: until when may the node trust it?
    fn trust(&self, epoch: u64, sent: Duration, ttl: Duration) {
        let deadline = sent + ttl.mul_f64(Settings::STEP_DOWN);
        let released = false;
        *self.node.tenure.lock().unwrap() = Some(Tenure { epoch, deadline, released });
    }

    /// A leader's commit begins: it must be one whose time is not over.
    fn check_begin(&self, batch: &WriteBatch) {
        for condition in &batch.conditions {
            let Condition::Lease(lease) = condition else { continue };
            let now = self.node.monotonic();
            let tenure = self.node.tenure.lock().unwrap().clone();
            let tenure = tenure.filter(|tenure| tenure.epoch == lease.epoch);
            let verdict = match tenure {
                None => demand(false, "G2", || format!("a commit under epoch {}, which is not held", lease.epoch)),
                Some(tenure) => demand(now <= tenure.deadline, "G2", || {
                    format!("a commit under epoch {} began {:?} too late", lease.epoch, now - tenure.deadline)
                })
                .and_then(|()| {
                    demand(!tenure.released, "G3", || {
                        format!("a commit under epoch {} began after its release", lease.epoch)
                    })
                }),
            };
            self.node.stage.judge(verdict);
        }
    }
}

fn silence(what: &str) -> Error {
    Error::network("simulation.store", "timeout", "the store is silent")
        .with_effect(Effect::Possible)
        .with("what", what)
}

fn short(id: &str) -> &str {
    id.get(..18).unwrap_or(id)
}

fn describe(batch: &WriteBatch) -> String {
    let mut text = "commit".to_owned();
    for condition in &batch.conditions {
        match condition {
            Condition::Lease(lease) => text += &format!(" lease={}", lease.epoch),
            Condition::Claim(claim) => text += &format!(" claim={}/{}", short(&claim.job), claim.epoch),
            _ => {}
        }
    }
    for write in &batch.writes {
        text += match write {
            certlib_core::store::Write::Put { kind, .. } => kind_note(kind),
            _ => " -",
        };
    }
    for job in &batch.jobs {
        text += &format!(" +{}", job.kind);
    }
    if let Some(settlement) = &batch.settlement {
        text += &format!(
            " settle={}/{} {}",
            short(&settlement.claim.job),
            settlement.claim.epoch,
            settlement.outcome.state().as_str()
        );
    }
    text
}

fn kind_note(kind: &'static str) -> &'static str {
    match kind {
        "certificate" => " certificate",
        "certificate_version" => " version",
        "order" => " order",
        "run" => " run",
        "target_run" => " target_run",
        "target_state" => " target_state",
        "journal_entry" => " journal",
        "event" => " event",
        _ => " other",
    }
}

#[allow(clippy::ptr_arg)] // The same shape as for every other answer.
fn jobs_shown(jobs: &Vec<Job>) -> Option<String> {
    let show = |job: &Job| format!("{} {}/{} {}", job.kind, short(&job.id), job.claim_epoch, job.state.as_str());
    (!jobs.is_empty()).then(|| jobs.iter().map(show).collect::<Vec<_>>().join(", "))
}

fn silent<T>(_: &T) -> Option<String> {
    None
}

fn debug<T: fmt::Debug>(value: &T) -> Option<String> {
    Some(format!("{value:?}"))
}

#[async_trait]
impl Store for SimStore {
    async fn get(&self, kind: &str, id: &str) -> Result<Option<RawRecord>> {
        let (kind, id) = (kind.to_owned(), id.to_owned());
        self.call("get".into(), silent, move |store| at_once(store.memory.get(&kind, &id))).await
    }

    async fn query(&self, query: &Query) -> Result<Page> {
        let query = query.clone();
        self.call("query".into(), silent, move |store| at_once(store.memory.query(&query))).await
    }

    async fn commit(&self, batch: WriteBatch) -> Result<Commit> {
        self.check_begin(&batch);
        self.call(describe(&batch), |_| Some("ok".to_owned()), move |store| store.commit(batch)).await
    }
}

#[async_trait]
impl JobQueue for SimStore {
    async fn enqueue(&self, jobs: Vec<NewJob>) -> Result<Vec<Enqueued>> {
        let show: Show<Vec<Enqueued>> = |answers| {
            let show = |one: &Enqueued| format!("{}{}", short(&one.id), if one.deduplicated { " again" } else { "" });
            Some(answers.iter().map(show).collect::<Vec<_>>().join(", "))
        };
        self.call("enqueue".into(), show, move |store| store.enqueue(jobs)).await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Vec<Job>> {
        self.node.call_it(&request.worker);
        let request = request.clone();
        self.call("claim".into(), jobs_shown, move |store| store.claim(&request)).await
    }

    async fn extend(&self, claims: &[Claim], lease: Duration) -> Result<Vec<Extension>> {
        let claims = claims.to_vec();
        let what = claims.iter().map(|claim| format!(" {}/{}", short(&claim.job), claim.epoch)).collect::<String>();
        self.call(format!("extend{what}"), debug, move |store| store.extend(&claims, lease)).await
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<Vec<bool>> {
        let what = settlements.iter().map(|one| {
            let claim = &one.claim;
            format!(" {}/{} {}", short(&claim.job), claim.epoch, one.outcome.state().as_str())
        });
        let what = format!("settle{}", what.collect::<String>());
        self.call(what, debug, move |store| store.settle(settlements)).await
    }

    async fn reap(&self, policy: &RetryPolicy, limit: usize) -> Result<Vec<Job>> {
        let policy = policy.clone();
        self.call("reap".into(), jobs_shown, move |store| store.reap(&policy, limit)).await
    }

    async fn cancel(&self, id: &str) -> Result<Job> {
        let id = id.to_owned();
        let show: Show<Job> = |job| Some(job.state.as_str().to_owned());
        self.call(format!("cancel {}", short(&id)), show, move |store| store.cancel(&id)).await
    }

    async fn retry(&self, id: &str, delay: Duration) -> Result<Job> {
        let id = id.to_owned();
        let show: Show<Job> = |job| Some(job.state.as_str().to_owned());
        self.call(format!("retry {}", short(&id)), show, move |store| store.retry(&id, delay)).await
    }

    async fn purge(&self, state: JobState, older_than: Duration, limit: usize) -> Result<Vec<String>> {
        let show: Show<Vec<String>> = |ids| (!ids.is_empty()).then(|| ids.join(" "));
        self.call("purge".into(), show, move |store| store.purge(state, older_than, limit)).await
    }

    async fn job(&self, id: &str) -> Result<Option<Job>> {
        let id = id.to_owned();
        self.call("job".into(), silent, move |store| at_once(store.memory.job(&id))).await
    }

    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<Job>> {
        let filter = filter.clone();
        self.call("jobs".into(), silent, move |store| at_once(store.memory.jobs(&filter))).await
    }

    async fn stats(&self) -> Result<QueueStats> {
        self.call("stats".into(), silent, move |store| at_once(store.memory.stats())).await
    }

    fn wakeups(&self) -> watch::Receiver<u64> {
        self.node.listen()
    }
}

#[async_trait]
impl LeaderLock for SimStore {
    async fn acquire(&self, request: &LeaseRequest) -> Result<Option<Lease>> {
        let sent = self.node.monotonic();
        let mut request = request.clone();
        request.ttl = self.true_ttl(request.ttl);
        let ttl = request.ttl;
        let show: Show<Option<Lease>> = |lease| lease.as_ref().map(|lease| format!("epoch {}", lease.epoch));
        let granted = self.call("acquire".into(), show, move |store| store.acquire(&request)).await?;
        if let Some(lease) = &granted {
            self.trust(lease.epoch, sent, ttl);
        }
        Ok(granted)
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<bool> {
        let sent = self.node.monotonic();
        let ttl = self.true_ttl(ttl);
        let (name, request) = (format!("renew {}", lease.epoch), lease.clone());
        let renewed = self.call(name, debug, move |store| store.renew(&request, ttl)).await?;
        if renewed {
            self.trust(lease.epoch, sent, ttl);
        }
        Ok(renewed)
    }

    async fn release(&self, lease: &Lease) -> Result<bool> {
        if let Some(tenure) = self.node.tenure.lock().unwrap().as_mut().filter(|one| one.epoch == lease.epoch) {
            tenure.released = true;
        }
        let (name, request) = (format!("release {}", lease.epoch), lease.clone());
        self.call(name, debug, move |store| store.release(&request)).await
    }

    async fn inspect(&self, name: &str) -> Result<Option<LeaseInfo>> {
        let name = name.to_owned();
        self.call("inspect".into(), silent, move |store| store.inspect(&name)).await
    }

    async fn raise(&self, name: &str, floor: u64) -> Result<u64> {
        let name = name.to_owned();
        self.call("raise".into(), debug, move |store| at_once(store.memory.raise(&name, floor))).await
    }

    fn vacancies(&self) -> watch::Receiver<u64> {
        self.node.stand()
    }
}
