//! `distribution_execute`: works a run through, many targets at a time.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt as _;
use serde::Deserialize;
use serde_json::json;
use time::OffsetDateTime;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tracing::Instrument as _;

use super::gate::{Admission, admit};
use super::outcome::{TargetResult, judge, summarize};
use super::{EXECUTE, LOOK_AFTER, TAKE_UP_AGAIN};
use super::{approval, target};
use crate::backoff::Jitter;
use crate::bundle::CertificateBundle;
use crate::error::{Error, ErrorClass, ErrorRecord, Result, codes};
use crate::issuance::payload;
use crate::model::{
    Certificate, CertificateState, CertificateVersion, Distribution, Event, LogLevel, Run, RunState, Target,
    TargetPhase, TargetRun, TargetStatus, VersionState, Waiting,
};
use crate::policy::{self, Pace};
use crate::queue::{Job, Lane, Outcome, after_failure, later};
use crate::runtime::{Engine, Handled, JobContext, JobHandler};
use crate::store::{StoreExt as _, TypedQuery, Versioned, WriteBatch};

/// Works runs through.
#[derive(Debug)]
pub(crate) struct DistributionHandler {
    engine: Arc<Engine>,
}

impl DistributionHandler {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }
}

#[derive(Deserialize)]
struct Payload {
    run_id: String,
}

/// What all targets of a pass share.
#[derive(Debug)]
pub(super) struct Pass {
    pub(super) engine: Arc<Engine>,
    pub(super) context: JobContext,
    pub(super) run: Run,
    pub(super) bundle: CertificateBundle,
    /// Why no target may be given this version any more; what was begun is taken back.
    pub(super) withdrawn: Option<ErrorRecord>,
    /// The digests of the plans that others agreed to, by target; `None` when nobody had to.
    pub(super) approved: Option<HashMap<String, String>>,
    live: AtomicBool,
    going_live: Mutex<()>,
}

#[async_trait]
impl JobHandler for DistributionHandler {
    fn kind(&self) -> &'static str {
        EXECUTE
    }

    fn lane(&self) -> Lane {
        Lane::Distribution
    }

    async fn run(&self, job: &Job, context: &JobContext) -> Result<Handled> {
        match self.work(job, context).await {
            Err(error) if error.code() != codes::LEASE_LOST && error.code() != codes::CANCELLED => {
                self.give_up(job, error).await
            }
            result => result,
        }
    }
}

impl DistributionHandler {
    async fn work(&self, job: &Job, context: &JobContext) -> Result<Handled> {
        let Payload { run_id } = payload(job)?;
        let mut run = self.engine.store.load::<Run>(&run_id).await?;
        if run.state == RunState::AwaitingApproval {
            return Ok(Handled::Succeeded);
        }
        let mut targets = self.target_runs(&run, context).await?;
        // A run ends together with its job, so whoever made the job run again wants the rest to be tried again.
        if run.finished_at.take().is_some() {
            run.retry_at = None;
            targets.iter_mut().for_each(|target| target.retryable = target.is_unfinished());
            // An approval is for one time. What is left in the middle is brought to an end without asking.
            if !targets.iter().any(|target| target.is_begun()) {
                run.approval_id = None;
            }
            run.state = RunState::Running;
        }
        // Its job was cancelled while it waited: only what was begun is brought to an end.
        let stopping = run.state == RunState::Cancelled;
        let (approved, closed) = match admit(&self.engine, &run, targets.iter().map(|target| &target.record)).await? {
            _ if stopping => (None, None),
            Admission::Open => (None, None),
            Admission::Approved(plans) => (Some(plans), None),
            Admission::Closed(error) => (None, Some(error)),
            Admission::Ask(rule) if !targets.iter().any(|target| target.is_begun()) => {
                let pass = Arc::new(self.pass(&run, context, None).await?);
                return approval::ask(pass, run, targets, &rule).await;
            }
            // The rule came after the run had begun: what is in the middle is brought to an end, and then it asks.
            Admission::Ask(_) => {
                let why = "others have to agree by now; what was begun was brought to an end";
                (None, Some(Error::transient("distribution.admit", "not_approved", why)))
            }
        };
        run.due = Some(self.engine.clock.now() + LOOK_AFTER);
        update(&self.engine, context, &mut run).await?;

        let pass = Arc::new(self.pass(&run, context, approved).await?);
        let message =
            format!("pass {} of run {}: version {} to {} targets", run.passes + 1, run.id, run.version, targets.len());
        context.log(LogLevel::Info, message);
        let tries = run.retry_at.is_none_or(|at| at <= self.engine.clock.now());
        let targets = pass.clone().work_through(targets, stopping || closed.is_some(), tries).await?;
        if let Some(error) = closed {
            return Err(error);
        }
        if stopping || (context.cx.cancel.is_cancelled() && targets.iter().any(TargetRun::is_unfinished)) {
            return self.stopped(run, &targets, context, stopping).await;
        }
        self.conclude(job, run, &targets, tries).await
    }

    async fn pass(&self, run: &Run, context: &JobContext, approved: Option<HashMap<String, String>>) -> Result<Pass> {
        let certificate = self.engine.store.load::<Certificate>(&run.certificate_id).await?;
        let id = CertificateVersion::id_of(&run.certificate_id, run.version);
        let version = self.engine.store.load::<CertificateVersion>(&id).await?.record;
        let withdrawn = if matches!(version.state, VersionState::Revoked { .. }) {
            Some(Error::validation("distribution", "version_revoked", "this version was revoked").to_record())
        } else {
            certificate.is_overruled(run.version, run.back).then(|| overruled().to_record())
        };
        Ok(Pass {
            bundle: self.engine.open_bundle(&version).await?,
            engine: self.engine.clone(),
            context: context.clone(),
            run: run.clone(),
            withdrawn,
            approved,
            live: AtomicBool::new(certificate.active_version == Some(run.version)),
            going_live: Mutex::default(),
        })
    }

    /// Ends a run that an error of its own keeps from going on, unless the ladder allows another attempt.
    async fn give_up(&self, job: &Job, error: Error) -> Result<Handled> {
        let policy = &self.engine.settings.retry;
        let outcome = match after_failure(policy, job.attempt, &error, Jitter::random()) {
            Outcome::Retry { .. } => return Err(error),
            // The worker tries again what only met another write.
            _ if error.is_conflict() => return Err(error),
            outcome => outcome,
        };
        let Ok(Payload { run_id }) = payload(job) else { return Err(error) };
        let Some(mut run) = self.engine.store.find::<Run>(&run_id).await? else { return Err(error) };
        let now = self.engine.clock.now();
        run.finish(RunState::Failed, now, Some(now + TAKE_UP_AGAIN));
        let data = json!({ "run": run.id, "version": run.version, "error": error.to_record() });
        let event = Event::new(&run.project, "distribution.failed", &run.certificate_id, data, now);
        let mut batch = WriteBatch::new().update(&run)?.insert(&event)?;
        if let Some(mut certificate) = self.engine.store.find::<Certificate>(&run.certificate_id).await?
            && certificate.wanted_version() == run.version
        {
            certificate.state = self.certificate_state(&certificate, &run, RunState::Failed).await?;
            certificate.last_error = Some(error.to_record());
            certificate.updated_at = now;
            batch = batch.update(&certificate)?;
        }
        Ok(Handled::Commit { batch: Box::new(batch), outcome })
    }

    /// The run's targets; those that have no record yet get one.
    async fn target_runs(&self, run: &Run, context: &JobContext) -> Result<Vec<Versioned<TargetRun>>> {
        const CHUNK: usize = 500;
        let store = &self.engine.store;
        let mut known = store.list_all(TypedQuery::<TargetRun>::new().equal("run", &*run.id)).await?;
        let complete = known.len() == run.summary.targets;
        if complete && run.rollout.canary == 0 {
            return Ok(known);
        }
        let distribution = store.load::<Distribution>(&run.distribution_id).await?;
        if complete {
            // The same go first every time.
            let place = |target: &TargetRun| distribution.targets.iter().position(|id| *id == target.target_id);
            known.sort_by_cached_key(|target| place(target));
            return Ok(known);
        }
        let there: HashMap<_, _> = known.iter().map(|target| (target.target_id.clone(), ())).collect();
        let missing: Vec<_> = distribution.targets.iter().filter(|id| !there.contains_key(*id)).collect();
        let now = self.engine.clock.now();
        for chunk in missing.chunks(CHUNK) {
            let mut batch = context.batch();
            let mut added = Vec::new();
            for target_id in chunk {
                // A target that is gone fails by itself, later, like any other.
                let target = store.find::<Target>(target_id).await?.map(|target| target.record);
                let (target_name, module) = target.map_or_else(Default::default, |target| (target.name, target.module));
                let record = TargetRun {
                    id: TargetRun::id_of(&run.id, target_id),
                    run_id: run.id.clone(),
                    target_id: (*target_id).clone(),
                    target_name,
                    module,
                    status: TargetStatus::Queued,
                    phase: TargetPhase::Queued,
                    attempt: 0,
                    plan: None,
                    facts: None,
                    endpoints: Vec::new(),
                    error: None,
                    retryable: false,
                    retry_after: None,
                    waiting: None,
                    journal_entries: 0,
                    updated_at: now,
                };
                batch = batch.insert(&record)?;
                added.push(Versioned { record, revision: 1 });
            }
            store.commit(batch).await?;
            known.extend(added);
        }
        Ok(known)
    }

    /// Stopped by request or shutdown: nothing is left between swap and proof, the rest stays as it was.
    async fn stopped(
        &self,
        mut run: Versioned<Run>,
        targets: &[TargetRun],
        context: &JobContext,
        cancelled: bool,
    ) -> Result<Handled> {
        run.summary = summarize(targets.iter().map(|target| target.status));
        let job = self.engine.store.job(&context.claim.job).await?;
        let between = targets.iter().any(TargetRun::is_begun);
        if !between && (cancelled || job.is_some_and(|job| job.cancel_requested)) {
            let now = self.engine.clock.now();
            run.finish(RunState::Cancelled, now, None);
            let data = json!({ "run": run.id, "summary": run.summary });
            let event = Event::new(&run.project, "distribution.cancelled", &run.certificate_id, data, now);
            let batch = Box::new(WriteBatch::new().update(&run)?.insert(&event)?);
            return Ok(Handled::Commit { batch, outcome: Outcome::Cancelled });
        }
        update(&self.engine, context, &mut run).await?;
        Err(Error::transient("distribution", codes::CANCELLED, "stopped before all targets were done"))
    }

    /// Judges the pass and ends the run, or has it go on later: one commit.
    ///
    /// `tried`: those that failed before had their turn in this pass; otherwise it was about those that waited for their time.
    async fn conclude(
        &self,
        job: &Job,
        mut run: Versioned<Run>,
        targets: &[TargetRun],
        tried: bool,
    ) -> Result<Handled> {
        let results: Vec<_> = targets.iter().map(|target| self.result(target)).collect();
        let mut judgement = judge(&results);
        let now = self.engine.clock.now();
        let wait = wait_of(targets, now);
        let failed = targets.iter().any(|target| target.is_unfinished() && target.waiting.is_none());
        if wait.is_some() && !failed {
            // Nothing went wrong: it is not over.
            judgement.state = RunState::Running;
        }
        let outcome = if judgement.retry && !tried {
            let left = run.retry_at.map_or(Duration::ZERO, |at| Duration::try_from(at - now).unwrap_or_default());
            Outcome::Snooze { delay: wait.map_or(left, |wait| wait.min(left)) }
        } else if judgement.retry {
            let policy = &self.engine.settings.retry;
            match (after_failure(policy, job.attempt, &retry_error(targets), Jitter::random()), wait) {
                // Those that wait for their time are looked at in between; what failed keeps to its ladder.
                (Outcome::Retry { error, delay }, _) => {
                    run.retry_at = Some(later(now, delay));
                    Outcome::Retry { error, delay: wait.map_or(delay, |wait| wait.min(delay)) }
                }
                (_, Some(wait)) => {
                    run.retry_at = Some(now + TAKE_UP_AGAIN);
                    Outcome::Snooze { delay: wait }
                }
                (outcome, None) => outcome,
            }
        } else if let Some(delay) = wait {
            Outcome::Snooze { delay }
        } else {
            match judgement.state {
                RunState::Succeeded | RunState::SucceededUnverified => Outcome::Succeeded,
                RunState::PartialFailure => Outcome::Partial { error: lasting_error(targets) },
                _ => Outcome::Failed { error: lasting_error(targets) },
            }
        };
        let over = !matches!(outcome, Outcome::Retry { .. } | Outcome::Snooze { .. });
        run.passes += 1;
        run.summary = summarize(targets.iter().map(|target| target.status));
        if over {
            let unfinished = targets.iter().any(TargetRun::is_unfinished);
            run.finish(judgement.state, now, unfinished.then(|| now + TAKE_UP_AGAIN));
        } else {
            // Where nothing failed, nothing but the time is waited for.
            run.state = if judgement.state == RunState::Running { RunState::Running } else { RunState::Waiting };
            run.finished_at = None;
            run.due = Some(now + outcome.delay() + LOOK_AFTER);
        }

        let mut certificate = self.engine.store.load::<Certificate>(&run.certificate_id).await?;
        let mut batch = WriteBatch::new().update(&run)?;
        // A later version may have been issued meanwhile: then this run no longer speaks for the certificate.
        if certificate.wanted_version() == run.version {
            certificate.state = self.certificate_state(&certificate, &run, judgement.state).await?;
            if judgement.live && certificate.active_version != Some(run.version) {
                let id = CertificateVersion::id_of(&run.certificate_id, run.version);
                let version = self.engine.store.load::<CertificateVersion>(&id).await?;
                let thresholds = &self.engine.settings.expiry_thresholds;
                policy::goes_live(&mut certificate, run.version, &version.leaf, thresholds);
            }
            certificate.last_error = outcome.error().cloned();
            certificate.updated_at = now;
            batch = batch.update(&certificate)?;
        }
        let kind = match judgement.state {
            RunState::Succeeded | RunState::SucceededUnverified => "distribution.succeeded",
            RunState::Running => "distribution.waiting",
            RunState::PartialFailure => "distribution.partial_failure",
            _ => "distribution.failed",
        };
        let data = json!({ "run": run.id, "version": run.version, "summary": run.summary, "over": over });
        // A run that waits for a window is looked at every few minutes: that is told once.
        if tried && (judgement.state != RunState::Running || run.passes == 1) {
            batch = batch.insert(&Event::new(&run.project, kind, &run.certificate_id, data, now))?;
        }
        tracing::info!(run = %run.id, state = ?run.state, summary = ?run.summary, "pass done");
        Ok(Handled::Commit { batch: Box::new(batch), outcome })
    }

    /// What `outcome` of `run` means for its certificate, together with the other runs of the same version.
    async fn certificate_state(
        &self,
        certificate: &Certificate,
        run: &Run,
        outcome: RunState,
    ) -> Result<CertificateState> {
        let id = CertificateVersion::id_of(&run.certificate_id, run.version);
        let version = self.engine.store.load::<CertificateVersion>(&id).await?;
        if matches!(version.state, VersionState::Revoked { .. }) {
            return Ok(CertificateState::Revoked);
        }
        let query = TypedQuery::<Run>::new().equal("certificate", &*run.certificate_id).descending().limit(20);
        let others = self.engine.store.list(query).await?.records;
        let others = others.iter().filter(|other| other.version == run.version && other.id != run.id);
        // Of each distribution, the latest run counts.
        let mut seen = vec![&*run.distribution_id];
        let mut states = vec![outcome];
        for other in others {
            if !seen.contains(&&*other.distribution_id) {
                seen.push(&other.distribution_id);
                states.push(other.state);
            }
        }
        let live = certificate.active_version == Some(run.version);
        Ok(combine(&states, live))
    }

    fn result(&self, target: &TargetRun) -> TargetResult {
        let verifiable =
            self.engine.modules.module(&target.module).is_ok_and(|module| module.capabilities().verifiable);
        TargetResult { status: target.status, verifiable, retryable: target.retryable }
    }
}

impl Pass {
    /// Works all targets through that are not done, in a sliding window; returns them all as they then are.
    /// With `only_begun`, those that a crash or a failed way back left in the middle, and no others; without `again`, not
    /// those that failed before.
    async fn work_through(
        self: Arc<Self>,
        targets: Vec<Versioned<TargetRun>>,
        only_begun: bool,
        again: bool,
    ) -> Result<Vec<TargetRun>> {
        let mut done = Vec::with_capacity(targets.len());
        let mut open = Vec::new();
        for target in targets {
            let wanted = !only_begun && (target.phase == TargetPhase::Queued || (target.retryable && again));
            if target.is_begun() || wanted { open.push(target) } else { done.push(target.record) }
        }
        // Those in the middle go first: they are the ones at risk.
        open.sort_by_key(|target| !target.is_begun());
        let mut open = open.into_iter().peekable();
        let mut window = JoinSet::new();
        let mut lost = None;
        loop {
            // What was begun is brought to an end even when the run is to stop.
            while window.len() < self.run.batch_size && lost.is_none() {
                let Some(next) = open.peek() else { break };
                let begun = next.is_begun();
                let pace = if begun { Pace::Go } else { self.pace(&done, window.len()) };
                if pace == Pace::Wait {
                    break;
                }
                let Some(mut target) = open.next() else { break };
                if !begun && self.context.cx.cancel.is_cancelled() {
                    done.push(target.record);
                } else if let Pace::Stop(why) = pace {
                    match self.leave(&mut target, why).await {
                        Ok(()) => done.push(target.record),
                        // Those under way are brought to an end first.
                        Err(error) => lost = Some(error),
                    }
                } else {
                    window.spawn(self.clone().guarded(target).in_current_span());
                }
            }
            match window.join_next().await {
                None => break,
                Some(Ok(Ok(target))) => done.push(target),
                Some(Ok(Err(error))) => lost = Some(error),
                Some(Err(panic)) => {
                    lost = Some(Error::transient("distribution", "panic", "a task was lost").with_source(panic));
                }
            }
        }
        match lost {
            Some(error) => Err(error),
            None => Ok(done),
        }
    }

    /// Whether another target may be begun, after those in `done` and with `at_work` others under way.
    fn pace(&self, done: &[TargetRun], at_work: usize) -> Pace {
        let fine = done.iter().filter(|target| !target.is_unfinished()).count();
        let failed = done.iter().filter(|target| target.is_unfinished() && target.waiting.is_none()).count();
        policy::pace(&self.run.rollout, fine, failed, at_work)
    }

    /// Leaves a target alone because others failed.
    async fn leave(&self, target: &mut Versioned<TargetRun>, why: &'static str) -> Result<()> {
        if target.waiting == Some(Waiting::Stopped) {
            return Ok(());
        }
        target.waiting = Some(Waiting::Stopped);
        target.updated_at = self.engine.clock.now();
        self.engine.store.commit(self.context.batch().update(target)?).await?;
        target.revision += 1;
        self.context.log(LogLevel::Warn, format!("target {}: not begun, as others failed ({why})", target.target_name));
        Ok(())
    }

    /// Works one target through so that no failure of its own reaches the others: only an absent store or a lost claim
    /// ends the run.
    async fn guarded(self: Arc<Self>, target: Versioned<TargetRun>) -> Result<TargetRun> {
        let id = target.id.clone();
        let error = match AssertUnwindSafe(target::work(self.clone(), target)).catch_unwind().await {
            Ok(Ok(target)) => return Ok(target),
            Ok(Err(error)) if error.class().is_retryable() || error.code() == codes::LEASE_LOST => return Err(error),
            Ok(Err(error)) => error,
            Err(_) => Error::transient("distribution", "panic", "the module panicked; see the log of this node"),
        };
        let target = self.engine.store.load::<TargetRun>(&id).await?;
        target::unready(&self, target, &error).await
    }

    pub(super) fn is_live(&self) -> bool {
        self.live.load(Ordering::Acquire)
    }

    /// Commits a target's validation; with the first one, in the same transaction, the version goes live.
    pub(super) async fn commit_validated(&self, batch: impl Fn() -> Result<WriteBatch> + Send + Sync) -> Result<()> {
        const TRIES: usize = 5;
        let store = &self.engine.store;
        if self.is_live() {
            store.commit(batch()?).await?;
            return Ok(());
        }
        let _one_at_a_time = self.going_live.lock().await;
        for _ in 0..TRIES {
            let mut certificate = store.load::<Certificate>(&self.run.certificate_id).await?;
            let newer = certificate.active_version >= Some(self.run.version) && !self.run.back;
            if self.is_live() || newer || certificate.is_overruled(self.run.version, self.run.back) {
                store.commit(batch()?).await?;
                return Ok(());
            }
            let now = self.engine.clock.now();
            let thresholds = &self.engine.settings.expiry_thresholds;
            policy::goes_live(&mut certificate, self.run.version, self.bundle.leaf(), thresholds);
            certificate.updated_at = now;
            let data = json!({ "version": self.run.version, "run": self.run.id });
            let event = Event::new(&self.run.project, "certificate.live", &self.run.certificate_id, data, now);
            match store.commit(batch()?.update(&certificate)?.insert(&event)?).await {
                Ok(_) => {
                    self.live.store(true, Ordering::Release);
                    return Ok(());
                }
                // Somebody edited the certificate at the same moment.
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::transient("distribution", "busy", "the certificate is being changed all the time"))
    }
}

/// When those of `targets` can be looked at that wait for their time; `None`: none does.
fn wait_of(targets: &[TargetRun], now: OffsetDateTime) -> Option<Duration> {
    /// Somebody may lift a pause, or change a window, at any time.
    const LOOK: Duration = Duration::from_secs(5 * 60);
    const SOON: Duration = Duration::from_secs(1);
    let until = |waiting: Waiting| match waiting {
        Waiting::Paused => Some(LOOK),
        Waiting::Window { opens } => Some(Duration::try_from(opens - now).unwrap_or_default().clamp(SOON, LOOK)),
        _ => None,
    };
    targets.iter().filter(|target| target.is_unfinished()).filter_map(|target| until(target.waiting?)).min()
}

/// An operator decided otherwise while the run was under way.
pub(super) fn overruled() -> Error {
    Error::validation("distribution", "overruled", "an operator wants another version than this run delivers")
}

/// Writes a run back under the job's claim.
async fn update(engine: &Engine, context: &JobContext, run: &mut Versioned<Run>) -> Result<()> {
    engine.store.commit(context.batch().update(run)?).await?;
    run.revision += 1;
    Ok(())
}

/// The certificate's state after runs of its newest version ended like this; `live`: the version is in use.
fn combine(runs: &[RunState], live: bool) -> CertificateState {
    let fine = |state: &RunState| matches!(state, RunState::Succeeded | RunState::SucceededUnverified);
    let under_way = |state: &RunState| matches!(state, RunState::Running | RunState::AwaitingApproval);
    if runs.iter().all(|state| *state == RunState::SucceededUnverified) {
        CertificateState::SucceededUnverified
    } else if runs.iter().all(fine) {
        CertificateState::Active
    } else if runs.iter().any(under_way) && runs.iter().all(|state| fine(state) || under_way(state)) {
        CertificateState::Distributing
    } else if live || runs.iter().any(|state| fine(state) || *state == RunState::PartialFailure) {
        CertificateState::PartialFailure
    } else {
        CertificateState::DistributionFailed
    }
}

/// The failure that has the run go on later.
fn retry_error(targets: &[TargetRun]) -> Error {
    let waiting = targets.iter().filter(|target| target.retryable);
    let first = waiting.clone().find_map(|target| target.error.as_ref().map(|error| (target, error)));
    let longest = waiting.clone().filter_map(|target| target.retry_after).max();
    let error = Error::transient("distribution", "targets_failed", "some targets failed and will be tried again")
        .with_retry_after(longest.map(Duration::from_secs))
        .with("targets", waiting.count());
    match first {
        Some((target, first)) => error.with("first", format_args!("{}: {first}", target.target_name)),
        None => error,
    }
}

/// Why a run could not do everything.
fn lasting_error(targets: &[TargetRun]) -> ErrorRecord {
    let failed = targets.iter().filter(|target| target.is_unfinished());
    let first = failed.clone().find_map(|target| target.error.as_ref().map(|error| (target, error)));
    let class = first.map_or(ErrorClass::IoPermanent, |(_, error)| error.class);
    let error = Error::new(class, "distribution", "targets_failed", "some targets failed for good")
        .with("targets", failed.count());
    match first {
        Some((target, first)) => error.with("first", format_args!("{}: {first}", target.target_name)).to_record(),
        None => error.to_record(),
    }
}
