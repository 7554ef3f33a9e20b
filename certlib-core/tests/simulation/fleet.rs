//! Targets that remember all that was done to them: each has a file and what it serves, which a reload makes equal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use certlib_core::bundle::CertificateBundle;
use certlib_core::distribution::EXECUTE;
use certlib_core::error::codes;
use certlib_core::module::{
    ApprovedPlan, Capabilities, DistributionModule, EndpointCheck, Facts, Journal, Plan, RollbackOutcome, Step, Target,
    Validation, Verb,
};
use certlib_core::queue::JobState;
use certlib_core::{Context, Effect, Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::backend::Backend;
use crate::history::{Verdict, demand};
use crate::network::Node;

pub struct Fleet {
    pub backend: Arc<Backend>,
    pub targets: Mutex<BTreeMap<String, TargetView>>,
    /// How often a step fails.
    pub failures: f64,
    /// How often a step never ends.
    pub hangs: f64,
}

/// A target and its past.
#[derive(Debug, Clone, Default)]
pub struct TargetView {
    /// The version in its file.
    pub file: Option<u32>,
    /// The version it serves.
    pub served: Option<u32>,
    /// The highest version it was ever given.
    generation: u32,
    /// What it was ever seen to serve properly.
    proven: BTreeSet<u32>,
    /// Whether what it has now was proven, or put back.
    pub settled: bool,
    /// What it went back to is what an interrupted run had left, and nobody ever proved.
    pub unproven: bool,
    /// The run that swapped last.
    run: String,
    /// A worker that had lost its job without knowing touched it: what no store can prevent.
    pub disturbed: bool,
}

pub struct SimModule {
    pub fleet: Arc<Fleet>,
    pub node: Arc<Node>,
}

impl std::fmt::Debug for SimModule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimModule").field("node", &self.node.name).finish_non_exhaustive()
    }
}

#[derive(Serialize, Deserialize)]
pub struct Undo {
    file: Option<u32>,
    new: u32,
    /// Another run was interrupted here, and left what it could not prove.
    unproven: bool,
}

fn text(version: Option<u32>) -> String {
    version.map_or_else(|| "absent".to_owned(), |version| format!("version {version}"))
}

/// An operation is named after its run and its target.
fn run_of(cx: &Context) -> &str {
    cx.operation_id.get(..36).unwrap_or_default()
}

impl SimModule {
    fn with<T>(&self, name: &str, f: impl FnOnce(&mut TargetView) -> T) -> T {
        f(self.fleet.targets.lock().unwrap().entry(name.to_owned()).or_default())
    }

    /// The way to the target; it may take for ever.
    async fn travel(&self) {
        let stage = &self.node.stage;
        if !stage.is_healed() && stage.happens(self.fleet.hangs) {
            tokio::time::sleep(Duration::from_secs(3600)).await;
        }
        tokio::time::sleep(stage.millis(1..=60)).await;
        if !stage.is_healed() && stage.happens(0.1) {
            tokio::time::sleep(stage.millis(1_000..=30_000)).await;
        }
        self.node.gate().await;
    }

    fn fails(&self) -> bool {
        !self.node.stage.is_healed() && self.node.stage.happens(self.fleet.failures)
    }

    /// Something is done to a target, in the name of a run.
    fn touch(&self, cx: &Context, name: &str, what: &str, change: impl FnOnce(&mut TargetView) -> Verdict) {
        let run = run_of(cx);
        let own = {
            let ledger = self.fleet.backend.ledger.lock().unwrap();
            let job = ledger.active(EXECUTE, run);
            job.is_some_and(|job| {
                job.state == JobState::InProgress && Some(&*job.worker) == self.node.engine().as_deref()
            })
        };
        let stage = &self.node.stage;
        let stale = if own { "" } else { " by a stale worker" };
        stage.note(&self.node.name, format!("target {name}: {what} version {}{stale}", cx.subject.version));
        let excused = own || self.node.is_hampered();
        stage.judge(demand(excused, "G8", || {
            format!("{name} was touched by a worker that lost its job and could know")
        }));
        let verdict = self.with(name, |target| {
            target.disturbed |= !own;
            change(target)
        });
        if own {
            stage.judge(verdict);
        }
    }
}

impl DistributionModule for SimModule {
    const KIND: &'static str = "simulated";
    type Config = BTreeMap<String, Value>;
    type Credentials = Option<String>;
    type Location = BTreeMap<String, Value>;
    type Undo = Undo;

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    fn check(&self, _: Target<'_, Self>) -> Result<()> {
        Ok(())
    }

    async fn dry_run(&self, cx: &Context, target: Target<'_, Self>, _: &CertificateBundle) -> Result<Plan> {
        self.travel().await;
        if self.fails() {
            let refuses = self.node.stage.happens(0.2);
            return Err(if refuses {
                Error::auth("target", "login_refused", "wrong password")
            } else {
                Error::network("target", "connect_refused", "nobody there")
            });
        }
        let now = self.with(target.name, |target| target.clone());
        let new = Some(cx.subject.version);
        let verb = if now.file == new && now.served == new { Verb::Keep } else { Verb::Replace };
        let step = Step::new(verb, "file").before(text(now.file)).after(text(new));
        Ok(Plan::new(Self::KIND, target.name, text(now.file), vec![step]))
    }

    async fn execute(
        &self,
        cx: &Context,
        target: Target<'_, Self>,
        _: &CertificateBundle,
        plan: &ApprovedPlan,
        undo: &Journal<'_, Undo>,
    ) -> Result<Facts> {
        self.travel().await;
        let new = cx.subject.version;
        let now = self.with(target.name, |target| target.clone());
        if now.generation > new {
            return Err(Error::validation("target", "generation_older", "the target was given a newer version"));
        }
        if undo.entries().await?.is_empty() {
            if text(now.file) != plan.plan().base {
                return Err(Error::validation("target", codes::PLAN_STALE, "the target changed"));
            }
            let left = now.file.is_some() && !now.settled;
            let own = left && now.run == run_of(cx) && !now.disturbed;
            let why = || format!("the way back of {} would lead to what the same run put there", target.name);
            self.node.stage.judge(demand(!own, "G15", why));
            let unproven = left || now.unproven;
            undo.record("swap", &Undo { file: now.file, new, unproven }).await?;
        }
        cx.check_cancelled("target.execute")?;
        self.touch(cx, target.name, "swaps in", |target| {
            target.file = Some(new);
            target.generation = target.generation.max(new);
            target.settled = false;
            target.unproven = false;
            target.run = run_of(cx).to_owned();
            Ok(())
        });
        self.travel().await;
        cx.check_cancelled("target.execute")?;
        if self.fails() {
            return Err(Error::network("target", "reset", "gone").with_effect(Effect::Possible));
        }
        if !self.fails() {
            self.touch(cx, target.name, "reloads", |target| {
                target.served = target.file;
                Ok(())
            });
        }
        Ok(Facts::new())
    }

    async fn validate(&self, cx: &Context, target: Target<'_, Self>, _: &CertificateBundle) -> Result<Validation> {
        self.travel().await;
        if self.fails() {
            return Err(Error::network("target.validate", "timeout", "no answer"));
        }
        let new = cx.subject.version;
        let served = self.with(target.name, |target| {
            let served = target.served == Some(new) && target.file == target.served;
            if served {
                target.proven.insert(new);
                target.settled = true;
            }
            served
        });
        self.node.stage.note(&self.node.name, format!("target {}: serves version {new}: {served}", target.name));
        let endpoints = vec![EndpointCheck::new(target.name, None, 1, None)];
        if served {
            Ok(Validation::Served { endpoints })
        } else {
            Ok(Validation::NotServed { endpoints, reason: "another certificate is served".to_owned() })
        }
    }

    async fn rollback(&self, cx: &Context, target: Target<'_, Self>, undo: Vec<Undo>) -> Result<RollbackOutcome> {
        self.travel().await;
        if self.fails() {
            return Err(Error::network("target.rollback", "reset", "gone").with_effect(Effect::Possible));
        }
        let Some(first) = undo.first() else { return Ok(RollbackOutcome::NothingToDo) };
        let now = self.with(target.name, |target| target.clone());
        if now.file == first.file && now.served == first.file {
            return Ok(RollbackOutcome::NothingToDo);
        }
        if now.file != Some(first.new) && now.file != first.file {
            return Ok(RollbackOutcome::Refused { code: "foreign_change".to_owned(), reason: "not ours".to_owned() });
        }
        cx.check_cancelled("target.rollback")?;
        self.touch(cx, target.name, "goes back from", |target| {
            let good = first.unproven || first.file.is_none_or(|file| target.proven.contains(&file));
            target.file = first.file;
            target.served = first.file;
            target.settled = true;
            target.unproven = first.unproven;
            demand(good || target.disturbed, "G15", || format!("put back {:?}, which never worked", first.file))
        });
        Ok(RollbackOutcome::RolledBack)
    }
}

impl Fleet {
    /// What must hold of every target once everything is quiet.
    pub fn at_the_end(&self) -> Verdict {
        for (name, target) in self.targets.lock().unwrap().iter().filter(|(_, target)| !target.disturbed) {
            demand(target.file == target.served, "G15", || {
                format!("{name} holds {:?} and serves {:?}", target.file, target.served)
            })?;
            demand(target.settled || target.file.is_none(), "G12", || {
                format!("{name} was left with version {:?}, swapped in and never proven", target.file)
            })?;
        }
        Ok(())
    }
}
