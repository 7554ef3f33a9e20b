//! The state machine of one target: plan, execute, validate, and the way back.
//!
//! ```text
//! queued -> executing -> executed -> done (validated | unverified)
//!                 \          \
//!                  +----------+-> rolling back -> done (rolled-back | failed)
//! ```
//! Each arrow is a commit under the job's claim, made before the work it announces.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;

use super::EXECUTE;
use super::fanout::{Pass, overruled};
use super::gone;
use super::journal::StoredJournal;
use crate::context::{Context, Subject};
use crate::error::{Effect, Error, ErrorRecord, Result, codes};
use crate::metrics;
use crate::model::{
    Certificate, CertificateVersion, Event, LogLevel, Run, Target, TargetPhase, TargetRun, TargetState, TargetStatus,
    VersionState, Waiting,
};
use crate::module::{ApprovedPlan, ErasedModule, JournalSink as _, Plan, RollbackOutcome, TargetSpec, Validation};
use crate::policy;
use crate::queue::JobFilter;
use crate::store::{StoreExt as _, Versioned, WriteBatch};

/// Works one target through. An error concerns the run as a whole, or is put into the record by the caller; a target's
/// own failure is in the record returned.
pub(super) async fn work(pass: Arc<Pass>, target_run: Versioned<TargetRun>) -> Result<TargetRun> {
    let Parts { module, spec, waiting, asks } = match parts(&pass, &target_run).await {
        Ok(parts) => parts,
        Err(error) => return unready(&pass, target_run, &error).await,
    };
    if asks && pass.approved.is_none() && !target_run.is_begun() {
        // Since this pass began.
        let error = Error::transient("distribution", "not_approved", "others have to agree by now; the next pass asks");
        return unready(&pass, target_run, &error).await;
    }
    if let Some(waiting) = waiting.filter(|_| !target_run.is_begun()) {
        return wait(&pass, target_run, waiting).await;
    }
    // The permit bounds how many targets of this module are worked on, over all runs of this node.
    let limit = pass.engine.module_limit(module.as_ref());
    let Ok(_permit) = limit.acquire_owned().await else {
        return Ok(target_run.record);
    };
    let work = Work { pass: &pass, module: module.as_ref(), spec: &spec, target_run };
    work.run().await
}

/// Says what would be done to a target, under the same limits as the doing.
pub(super) async fn dry_run(pass: &Arc<Pass>, target_run: &Versioned<TargetRun>) -> Result<Plan> {
    let Parts { module, spec, .. } = parts(pass, target_run).await?;
    let limit = pass.engine.module_limit(module.as_ref());
    let _permit = limit.acquire_owned().await;
    let work = Work { pass, module: module.as_ref(), spec: &spec, target_run: target_run.clone() };
    work.within(module.dry_run(&work.context(), &spec, &pass.bundle)).await
}

/// What is needed to work on a target.
struct Parts {
    module: Arc<dyn ErasedModule>,
    spec: TargetSpec,
    /// Why it must not be begun now.
    waiting: Option<Waiting>,
    /// Whether others have to agree.
    asks: bool,
}

async fn parts(pass: &Pass, target_run: &TargetRun) -> Result<Parts> {
    let record = pass.engine.store.load::<Target>(&target_run.target_id).await?.record;
    let module = pass.engine.modules.module(&record.module)?;
    let spec = pass.engine.target_spec(&record).await?;
    let now = pass.engine.clock.now();
    let closed = record.window.as_ref().filter(|_| !pass.run.urgent).map(|window| policy::opens_in(window, now));
    let waiting = match closed {
        _ if record.paused => Some(Waiting::Paused),
        Some(wait) if wait.is_positive() => Some(Waiting::Window { opens: now + wait }),
        _ => None,
    };
    Ok(Parts { module, spec, waiting, asks: record.approval.is_some() })
}

/// Leaves a target for later, without an attempt.
async fn wait(pass: &Pass, mut target_run: Versioned<TargetRun>, waiting: Waiting) -> Result<TargetRun> {
    if target_run.waiting == Some(waiting) {
        return Ok(target_run.record);
    }
    target_run.waiting = Some(waiting);
    target_run.updated_at = pass.engine.clock.now();
    pass.engine.store.commit(pass.context.batch().update(&target_run)?).await?;
    Ok(target_run.record)
}

/// Ends a target that cannot be worked on: its record, module or credential is missing, or its module panicked. One
/// that was left in the middle stays there, to be tried again.
pub(super) async fn unready(pass: &Pass, mut target_run: Versioned<TargetRun>, error: &Error) -> Result<TargetRun> {
    let begun = target_run.is_begun();
    if !begun {
        target_run.phase = TargetPhase::Done;
        target_run.attempt += 1;
    }
    target_run.status = TargetStatus::Failed;
    target_run.waiting = None;
    target_run.retryable = begun || error.class().is_retryable();
    target_run.error = Some(error.to_record());
    target_run.updated_at = pass.engine.clock.now();
    pass.engine.store.commit(pass.context.batch().update(&target_run)?).await?;
    Ok(target_run.record)
}

struct Work<'a> {
    pass: &'a Pass,
    module: &'a dyn ErasedModule,
    spec: &'a TargetSpec,
    target_run: Versioned<TargetRun>,
}

/// What happens next.
enum Next {
    Execute {
        resumed: bool,
    },
    Validate,
    RollBack {
        why: ErrorRecord,
        retryable: bool,
    },
    Done(End),
    /// Left as it is for the next pass: the run is to stop, or the way back failed.
    Parked,
}

/// How a target ends.
struct End {
    status: TargetStatus,
    error: Option<ErrorRecord>,
    retryable: bool,
    /// The target is as it was: its journal has served.
    restored: bool,
}

impl End {
    fn failed(error: ErrorRecord, retryable: bool, restored: bool) -> Self {
        Self { status: TargetStatus::Failed, error: Some(error), retryable, restored }
    }
}

impl Work<'_> {
    async fn run(mut self) -> Result<TargetRun> {
        let project = self.pass.run.project.clone();
        let id = self.target_run.id.clone();
        let (engine, context) = (&*self.pass.engine, &self.pass.context);
        // An earlier attempt may have left its way back: after a crash, or when it was refused.
        let journal = if self.target_run.attempt > 0 {
            StoredJournal::resume(engine, context, &project, &id).await?
        } else {
            StoredJournal::fresh(engine, context, &project, &id)
        };
        if self.target_run.is_begun() && !self.is_held().await? {
            let error = Error::validation("distribution", "superseded", "another run took the target over");
            return self.end(&journal, End::failed(error.to_record(), false, false)).await;
        }
        let withdrawn = self.pass.withdrawn.clone();
        let mut next = match (self.target_run.phase, withdrawn) {
            (TargetPhase::Queued | TargetPhase::Done, Some(why)) => Next::Done(End::failed(why, false, false)),
            (TargetPhase::Queued | TargetPhase::Done, None) => self.plan(&journal).await?,
            (TargetPhase::RollingBack, _) => {
                let why = self.target_run.error.clone().unwrap_or_else(|| interrupted().to_record());
                Next::RollBack { why, retryable: true }
            }
            (_, Some(why)) => Next::RollBack { why, retryable: false },
            (TargetPhase::Executing, None) => Next::Execute { resumed: true },
            (TargetPhase::Executed, None) => Next::Validate,
        };
        loop {
            next = match next {
                Next::Execute { resumed } => self.execute(&journal, resumed).await?,
                Next::Validate => self.validate().await?,
                Next::RollBack { why, retryable } => self.roll_back(&journal, why, retryable).await?,
                Next::Done(end) => return self.end(&journal, end).await,
                Next::Parked => return Ok(self.target_run.record),
            }
        }
    }

    /// Looks at the target and takes hold of it.
    async fn plan(&mut self, journal: &StoredJournal<'_>) -> Result<Next> {
        // Nothing was changed yet: here a request to stop is honoured at once.
        if self.pass.context.cx.cancel.is_cancelled() {
            return Ok(Next::Parked);
        }
        self.target_run.attempt += 1;
        self.target_run.waiting = None;
        self.target_run.error = None;
        self.target_run.endpoints.clear();
        self.target_run.facts = None;
        self.target_run.retry_after = None;
        let cx = self.context();
        let plan = match self.within(self.module.dry_run(&cx, self.spec, &self.pass.bundle)).await {
            Ok(plan) => plan,
            Err(error) if error.code() == codes::LEASE_LOST => return Err(error),
            Err(error) => return Ok(Next::Done(self.failed(&error))),
        };
        if let Some(refused) = self.not_approved(&plan) {
            return Ok(Next::Done(self.failed(&refused)));
        }
        let changes = plan.changes_anything();
        self.target_run.plan = Some(plan);
        self.target_run.status = TargetStatus::Running;
        self.target_run.phase = if changes { TargetPhase::Executing } else { TargetPhase::Executed };
        let held = match self.hold().await? {
            Ok(batch) => batch,
            Err(refused) => return Ok(Next::Done(self.failed(&refused))),
        };
        // With a new attempt the way back of the former one has had its time.
        match self.save(journal.forget(held)).await {
            Ok(()) => journal.reset(),
            // Another run was faster to take hold of the target.
            Err(error) if error.is_conflict() => return Ok(Next::Done(self.failed(&busy()))),
            Err(error) => return Err(error),
        }
        Ok(if changes { Next::Execute { resumed: false } } else { Next::Validate })
    }

    /// Why `plan` must not be executed, if others had to agree and did not agree to it.
    fn not_approved(&self, plan: &Plan) -> Option<Error> {
        let approved = self.pass.approved.as_ref()?;
        match approved.get(&self.target_run.target_id) {
            Some(digest) if *digest == plan.digest() => None,
            Some(_) => {
                let approved = self.target_run.plan.as_ref();
                let changes = approved.map(|approved| plan.differs_from(approved).join("; ")).unwrap_or_default();
                let why = format!("the target changed after its plan was approved, so it was left alone: {changes}");
                Some(Error::validation("distribution", codes::PLAN_STALE, why))
            }
            None => {
                let why = "there was no plan of this target to agree to when approval was asked for";
                Some(Error::validation("distribution", "not_approved", why))
            }
        }
    }

    /// How a target ends that was not changed. What an earlier attempt left to be undone stays there.
    fn failed(&mut self, error: &Error) -> End {
        self.target_run.retry_after = error.retry_after().map(|after| after.as_secs());
        End::failed(error.to_record(), error.class().is_retryable(), false)
    }

    /// A batch that makes this run the one at work on the target; an error when it must not be.
    async fn hold(&self) -> Result<std::result::Result<WriteBatch, Error>> {
        let store = &self.pass.engine.store;
        let run = &self.pass.run;
        let batch = self.pass.context.batch();
        // A pass may be long, and an operator may have decided otherwise since it began.
        let certificate = store.load::<Certificate>(&run.certificate_id).await?;
        if certificate.is_overruled(run.version, run.back) {
            return Ok(Err(overruled()));
        }
        let Some(mut state) = store.find::<TargetState>(&self.target_run.target_id).await? else {
            let versions = BTreeMap::new();
            let id = self.target_run.target_id.clone();
            return batch.insert(&TargetState { id, run_id: Some(run.id.clone()), versions }).map(Ok);
        };
        let holds = state.versions.get(&run.certificate_id).copied().unwrap_or(0);
        if holds > run.version && !run.back {
            let refused = Error::validation("distribution", "generation_older", "the target holds a newer version");
            return Ok(Err(refused.with("holds", holds).with("offered", run.version)));
        }
        if let Some(other) = state.run_id.as_deref().filter(|other| *other != run.id) {
            // Whether another run is at work is known by its job: the run itself may have been left behind.
            let filter =
                JobFilter { kind: Some(EXECUTE.to_owned()), key: Some(other.to_owned()), ..JobFilter::default() };
            if store.jobs(&JobFilter { limit: 5, ..filter }).await?.iter().any(|job| job.state.is_active()) {
                return Ok(Err(busy()));
            }
            // One that was cancelled halfway is still to be brought to an end: what it left here is no state to go back to.
            let left = store.find::<TargetRun>(&TargetRun::id_of(other, &self.target_run.target_id)).await?;
            if left.is_some_and(|left| left.is_begun())
                && store.find::<Run>(other).await?.is_some_and(|other| other.finished_at.is_none())
            {
                return Ok(Err(busy()));
            }
        }
        state.run_id = Some(run.id.clone());
        batch.update(&state).map(Ok)
    }

    /// Whether the target is still held by this run.
    async fn is_held(&self) -> Result<bool> {
        let state = self.pass.engine.store.find::<TargetState>(&self.target_run.target_id).await?;
        Ok(state.is_some_and(|state| state.run_id.as_deref() == Some(&*self.pass.run.id)))
    }

    async fn execute(&mut self, journal: &StoredJournal<'_>, resumed: bool) -> Result<Next> {
        let Some(plan) = self.target_run.plan.clone() else {
            return Err(Error::permanent("distribution", "record_unreadable", "a target was begun without a plan"));
        };
        let plan = ApprovedPlan::assertion(plan);
        let cx = self.context();
        let execution = self.module.execute(&cx, self.spec, &self.pass.bundle, &plan, journal);
        match self.within(execution).await {
            Ok(facts) => {
                self.target_run.facts = Some(facts);
                self.target_run.phase = TargetPhase::Executed;
                self.target_run.journal_entries = journal.len();
                self.save(self.pass.context.batch()).await?;
                Ok(Next::Validate)
            }
            // Not the target's failure: the store is away, or the job belongs to somebody else.
            Err(error) if journal.is_broken() || error.code() == codes::LEASE_LOST => Err(error),
            Err(error) => {
                tracing::info!(target = %self.spec.name, %error, resumed, "execution failed");
                let end = self.failed(&error);
                if error.effect() == Effect::None && journal.len() == 0 {
                    return Ok(Next::Done(end));
                }
                Ok(Next::RollBack { why: error.to_record(), retryable: end.retryable })
            }
        }
    }

    async fn validate(&mut self) -> Result<Next> {
        let cx = self.context();
        let validation = self.within(self.module.validate(&cx, self.spec, &self.pass.bundle)).await;
        let (why, retryable) = match validation {
            Ok(Validation::Served { endpoints }) => {
                self.target_run.endpoints = endpoints;
                let end = End { status: TargetStatus::Validated, error: None, retryable: false, restored: false };
                return Ok(Next::Done(end));
            }
            Ok(Validation::Skipped) => {
                let end = End { status: TargetStatus::Unverified, error: None, retryable: false, restored: false };
                return Ok(Next::Done(end));
            }
            Ok(Validation::NotServed { endpoints, reason }) => {
                self.target_run.endpoints = endpoints;
                (Error::transient("distribution.validate", "not_served", reason), true)
            }
            Err(error) if error.code() == codes::LEASE_LOST => return Err(error),
            Err(error) => {
                let retryable = error.class().is_retryable();
                (error, retryable)
            }
        };
        tracing::info!(target = %self.spec.name, %why, "not validated");
        Ok(Next::RollBack { why: why.to_record(), retryable })
    }

    async fn roll_back(&mut self, journal: &StoredJournal<'_>, why: ErrorRecord, retryable: bool) -> Result<Next> {
        if !self.module.capabilities().reversible {
            return Ok(Next::Done(End::failed(
                refused(&why, "irreversible", "this module cannot go back"),
                false,
                false,
            )));
        }
        if self.former_is_revoked().await? {
            let reason = "the former version was revoked";
            return Ok(Next::Done(End::failed(refused(&why, "backup_revoked", reason), retryable, false)));
        }
        self.target_run.phase = TargetPhase::RollingBack;
        self.target_run.error = Some(why.clone());
        self.target_run.journal_entries = journal.len();
        self.save(self.pass.context.batch()).await?;
        let undo = journal.entries().await?;
        let cx = self.context();
        match self.within(self.module.rollback(&cx, self.spec, &undo)).await {
            Ok(RollbackOutcome::RolledBack) => {
                Ok(Next::Done(End { status: TargetStatus::RolledBack, error: Some(why), retryable, restored: true }))
            }
            // It never left its former state: that is what an observer of the target sees, too.
            Ok(RollbackOutcome::NothingToDo) => Ok(Next::Done(End::failed(why, retryable, true))),
            Ok(RollbackOutcome::Refused { code, reason }) => {
                Ok(Next::Done(End::failed(refused(&why, &code, &reason), false, false)))
            }
            Err(error) if error.code() == codes::LEASE_LOST => Err(error),
            Err(error) if gone::is_gone(&error) => {
                let reason = "the target is gone for good";
                Ok(Next::Done(End::failed(refused(&why, codes::TARGET_GONE, reason), false, false)))
            }
            Err(error) => {
                // Still in the middle: the next pass goes on with the way back.
                let mut record = error.to_record();
                record.message = format!("{}; the way back failed as well: {}", why.message, record.message);
                self.target_run.status = TargetStatus::Failed;
                self.target_run.retryable = true;
                self.target_run.error = Some(record);
                self.save(self.pass.context.batch()).await?;
                Ok(Next::Parked)
            }
        }
    }

    /// Whether what rollback would bring back was revoked.
    async fn former_is_revoked(&self) -> Result<bool> {
        let store = &self.pass.engine.store;
        let certificate_id = &self.pass.run.certificate_id;
        let state = store.find::<TargetState>(&self.target_run.target_id).await?;
        let Some(held) = state.and_then(|state| state.versions.get(certificate_id).copied()) else {
            return Ok(false);
        };
        let former = store.find::<CertificateVersion>(&CertificateVersion::id_of(certificate_id, held)).await?;
        Ok(held != self.pass.run.version
            && former.is_some_and(|former| matches!(former.state, VersionState::Revoked { .. })))
    }

    /// Bounds a step of a module, and ends it when somebody else has taken over. A target that says that it is gone for
    /// good is paused here, whatever the step.
    async fn within<T>(&self, step: impl Future<Output = Result<T>>) -> Result<T> {
        let engine = &self.pass.engine;
        let result = tokio::select! {
            biased;
            () = self.pass.context.lost.cancelled() => {
                Err(Error::validation("distribution", codes::LEASE_LOST, "the job belongs to somebody else now"))
            }
            result = step => result,
            () = engine.clock.sleep(engine.settings.target_timeout) => {
                Err(Error::transient("distribution", "deadline", "the module took too long")
                    .with_effect(Effect::Possible))
            }
        };
        if let Err(error) = &result
            && gone::is_gone(error)
        {
            gone::disable(self.pass, &self.target_run, error).await?;
        }
        result
    }

    /// Writes the end down and lets go of the target.
    async fn end(mut self, journal: &StoredJournal<'_>, end: End) -> Result<TargetRun> {
        let now = self.pass.engine.clock.now();
        let run = &self.pass.run;
        self.target_run.status = end.status;
        self.target_run.phase = TargetPhase::Done;
        self.target_run.waiting = None;
        self.target_run.error = end.error;
        self.target_run.retryable = end.retryable;
        self.target_run.journal_entries = if end.restored { 0 } else { journal.len() };
        self.target_run.updated_at = now;
        let delivered = matches!(end.status, TargetStatus::Validated | TargetStatus::Unverified);
        let kind = match end.status {
            TargetStatus::Validated => "target.validated",
            TargetStatus::Unverified => "target.delivered",
            TargetStatus::RolledBack => "target.rolled_back",
            _ => "target.failed",
        };
        let data = json!({
            "certificate": run.certificate_id,
            "version": run.version,
            "run": run.id,
            "error": self.target_run.error,
        });
        let event = Event::new(&run.project, kind, &self.target_run.target_id, data, now);
        let held = self.pass.engine.store.find::<TargetState>(&self.target_run.target_id).await?;
        let held = held.filter(|held| held.run_id.as_deref() == Some(&*run.id)).map(|mut held| {
            held.run_id = None;
            if delivered {
                held.versions.insert(run.certificate_id.clone(), run.version);
            }
            held
        });
        let batch = || {
            let mut batch = self.pass.context.batch().update(&self.target_run)?.insert(&event)?;
            if let Some(held) = &held {
                batch = batch.update(held)?;
            }
            Ok(if end.restored { journal.forget(batch) } else { batch })
        };
        if end.status == TargetStatus::Validated {
            self.pass.commit_validated(batch).await?;
        } else {
            self.pass.engine.store.commit(batch()?).await?;
        }
        let status = kind.trim_start_matches("target.");
        metrics::target_done(&self.target_run.module, status);
        let (level, why) = match &self.target_run.error {
            Some(error) => (LogLevel::Warn, format!(": {error}")),
            None => (LogLevel::Info, String::new()),
        };
        self.pass.context.log(level, format!("target {}: {status}{why}", self.target_run.target_name));
        Ok(self.target_run.record)
    }

    async fn save(&mut self, batch: WriteBatch) -> Result<()> {
        self.target_run.updated_at = self.pass.engine.clock.now();
        self.pass.engine.store.commit(batch.update(&self.target_run)?).await?;
        self.target_run.revision += 1;
        Ok(())
    }

    /// Once begun, a target is brought to an end: between swap and proof a request to stop is not honoured, only the
    /// loss of the claim is.
    fn context(&self) -> Context {
        let run = &self.pass.run;
        let operation = format!("{}-{}", run.id, self.target_run.target_id);
        Context::with(self.pass.engine.clock.clone(), self.pass.context.lost.clone(), operation)
            .about(Subject::certificate(&run.project, &run.certificate_id, run.version))
    }
}

/// Another run is at work on the target.
fn busy() -> Error {
    Error::transient("distribution", "target_busy", "another run is at work on the target")
}

/// Why a target is rolled back that a crash left on its way.
fn interrupted() -> Error {
    Error::transient("distribution", "interrupted", "the delivery was interrupted")
}

/// The record of a target that failed and could not be taken back.
fn refused(why: &ErrorRecord, code: &str, reason: &str) -> ErrorRecord {
    ErrorRecord {
        code: format!("rollback_refused:{code}"),
        message: format!("{}; not rolled back: {reason}", why.message),
        ..why.clone()
    }
}
