//! One run: three nodes with the real engine on one store, a CA, targets, an operator, and a nemesis.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use certlib_core::backoff::Ladder;
use certlib_core::client::{Client, NewCertificate, NewIssuer, NewTarget};
use certlib_core::model::{CertificateState, Run, RunState, TargetRun, TargetState};
use certlib_core::module::ModuleRegistry;
use certlib_core::queue::{Lane, RetryPolicy};
use certlib_core::random::seed_this_thread;
use certlib_core::runtime::{IssuerRegistry, RunningRuntime, Runtime, Settings};
use certlib_core::scheduler::Watchdog;
use certlib_core::store::{StoreExt as _, TypedQuery, Versioned};

use crate::backend::{Backend, at_once};
use crate::ca::{self, Ca, LIFETIME, SimFactory};
use crate::clock::NodeClock;
use crate::fleet::{Fleet, SimModule};
use crate::history::{History, Stage, Verdict, Violation, demand};
use crate::keys;
use crate::mutants::Mutant;
use crate::nemesis;
use crate::network::{Link, Node};
use crate::operator;
use crate::store::SimStore;
use crate::tasks::{Heartbeat, TASK, Tasks};

pub const NODES: usize = 3;
pub const LEADER_TTL: Duration = Duration::from_secs(30);
pub const JOB_LEASE: Duration = Duration::from_secs(24);
const LADDER: [u64; 6] = [1, 2, 4, 8, 15, 30];
/// The longest that a task asks to wait, in seconds.
pub const ASKED_MAX: u64 = 40;

/// What a seed makes of a run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Nothing goes wrong at all: the strict checks hold.
    pub calm: bool,
    pub pauses: bool,
    pub crashes: bool,
    pub stops: bool,
    pub cuts: bool,
    pub steps: bool,
    pub rates: bool,
    pub lossy: bool,
    pub late: bool,
    pub killers: bool,
    /// Whether a certificate was issued before, and is due for renewal by now.
    pub night: bool,
    /// Whether keys are rotated and removed.
    pub rotates: bool,
    pub targets: u64,
    /// How long things go wrong.
    pub span: Duration,
    ca_failures: f64,
    ca_strict: f64,
    ca_slow: u64,
    target_failures: f64,
    target_hangs: f64,
}

impl Plan {
    fn draw(stage: &Stage) -> Self {
        let calm = stage.happens(0.08);
        let trouble = |odds: f64| !calm && stage.happens(odds);
        let share = |odds: f64, permille: u64| {
            if trouble(odds) { stage.draw(1..=permille) as f64 / 1_000.0 } else { 0.0 }
        };
        Self {
            calm,
            pauses: trouble(0.6),
            crashes: trouble(0.5),
            stops: trouble(0.4),
            cuts: trouble(0.5),
            steps: trouble(0.4),
            rates: trouble(0.3),
            lossy: trouble(0.5),
            late: trouble(0.4),
            killers: trouble(0.3),
            night: stage.happens(0.6),
            targets: stage.draw(0..=3),
            span: stage.millis(120_000..=300_000),
            ca_failures: share(0.5, 300),
            ca_strict: share(0.2, 300),
            ca_slow: if stage.happens(0.2) { 14 } else { 3 },
            target_failures: share(0.5, 250),
            target_hangs: share(0.3, 40),
            rotates: stage.happens(0.5),
        }
    }
}

/// How a run ended.
pub struct Report {
    pub violation: Option<Violation>,
    pub history: History,
}

struct Slot {
    node: Arc<Node>,
    running: Option<RunningRuntime>,
    incarnation: u32,
}

pub struct World {
    pub stage: Arc<Stage>,
    pub backend: Arc<Backend>,
    pub plan: Plan,
    pub ca: Arc<Ca>,
    fleet: Arc<Fleet>,
    slots: Mutex<Vec<Slot>>,
    /// What is left of crashed processes: to drop it would tell it to stop.
    graveyard: Mutex<Vec<RunningRuntime>>,
    stopping: AtomicUsize,
}

/// Runs `seed` from beginning to end.
pub fn run(seed: u64, mutant: Option<Mutant>) -> Report {
    seed_this_thread(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let stage = runtime.block_on(async {
        let world = World::new(seed, mutant);
        tokio::select! {
            biased;
            () = world.stage.broken() => {}
            () = world.play() => {}
        }
        world.bury();
        world.stage.clone()
    });
    drop(runtime);
    let (violation, history) = stage.finish();
    Report { violation, history }
}

impl World {
    fn new(seed: u64, mutant: Option<Mutant>) -> Arc<Self> {
        let stage = Arc::new(Stage::new(seed));
        let plan = Plan::draw(&stage);
        stage.note(&"world".into(), format!("{plan:?}"));
        let backend = Arc::new(Backend::new(stage.clone(), mutant));
        Arc::new(Self {
            ca: Arc::new(Ca {
                backend: backend.clone(),
                orders: Mutex::default(),
                asked: Mutex::default(),
                failures: plan.ca_failures,
                strict: plan.ca_strict,
                slow: plan.ca_slow,
                asks_to_wait: !plan.calm,
            }),
            fleet: Arc::new(Fleet {
                backend: backend.clone(),
                targets: Mutex::default(),
                failures: plan.target_failures,
                hangs: plan.target_hangs,
            }),
            slots: Mutex::default(),
            graveyard: Mutex::default(),
            stopping: AtomicUsize::new(0),
            stage,
            backend,
            plan,
        })
    }

    async fn play(self: &Arc<Self>) {
        let operator = self.operator();
        let client = operator.client();
        let certificate = self.found(&client).await;
        (0..NODES).for_each(|index| self.start(index));
        if self.plan.night {
            client.issue("shop", &certificate).await.unwrap();
            self.first_delivery(&client, &certificate).await;
            self.sleep_through_the_night().await;
        }
        self.stage.break_loose();
        self.slots.lock().unwrap().iter().for_each(|slot| slot.node.set_link(self.link()));
        tokio::join!(
            nemesis::rage(self),
            operator::operate(self, &operator, &certificate),
            operator::change_keys(self, &operator)
        );
        self.stage.heal();
        self.stage.note(&"world".into(), "all faults end".to_owned());
        self.slots.lock().unwrap().iter().for_each(|slot| slot.node.heal());
        self.come_to_rest().await;
        self.stage.judge(self.at_the_end());
    }

    /// A project with a CA, targets, and a certificate that is not issued yet.
    async fn found(&self, client: &Client) -> String {
        client.create_project("shop").await.unwrap();
        let issuer = client.create_issuer("shop", NewIssuer::new("ca", "simulated", ca::config())).await.unwrap();
        let mut targets = Vec::new();
        for number in 0..self.plan.targets {
            let target = NewTarget::new(format!("t{number}"), "simulated", serde_json::Value::Null);
            targets.push(client.create_target("shop", target).await.unwrap().id);
        }
        let new = NewCertificate::new(["www.shop.example"], issuer.id).deliver_to(targets);
        client.create_certificate("shop", new).await.unwrap().id
    }

    async fn first_delivery(&self, client: &Client, certificate: &str) {
        let deadline = self.stage.now() + Duration::from_secs(1_800);
        loop {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let state = client.certificate("shop", certificate).await.unwrap().state;
            if state == CertificateState::Active && self.backend.ledger.lock().unwrap().is_quiet() {
                return;
            }
            if self.stage.now() > deadline {
                let why = || format!("undisturbed, the first version does not go live: {}", state.as_str());
                return self.stage.judge(demand(false, "G35", why));
            }
        }
    }

    /// All nodes stop, and start again when the renewal is due.
    async fn sleep_through_the_night(self: &Arc<Self>) {
        let running: Vec<_> = self.slots.lock().unwrap().iter_mut().filter_map(|slot| slot.running.take()).collect();
        for running in running {
            running.shutdown().await;
        }
        self.slots.lock().unwrap().iter().for_each(|slot| slot.node.crash());
        tokio::time::sleep(LIFETIME.mul_f64(0.7)).await;
        (0..NODES).for_each(|index| self.start(index));
    }

    /// How bad the network of a node is.
    pub fn link(&self) -> Link {
        if self.stage.is_healed() {
            return Link::GOOD;
        }
        let stage = &self.stage;
        let share = |on: bool, permille: u64| if on { stage.draw(0..=permille) as f64 / 1_000.0 } else { 0.0 };
        let slow = !self.plan.calm && stage.happens(0.3);
        Link {
            delay: if slow { Duration::from_millis(900) } else { Link::GOOD.delay },
            lost: share(self.plan.lossy, 80),
            reply_lost: share(self.plan.lossy, 80),
            late: share(self.plan.late, 60),
            hang: share(self.plan.lossy, 30),
        }
    }

    pub fn nodes(&self) -> Vec<Arc<Node>> {
        self.slots.lock().unwrap().iter().map(|slot| slot.node.clone()).collect()
    }

    /// The store as `node` sees it.
    fn store(self: &Arc<Self>, node: &Arc<Node>) -> Arc<SimStore> {
        let world = Arc::downgrade(self);
        let nodes = move || world.upgrade().map(|world| world.nodes()).unwrap_or_default();
        Arc::new(SimStore { backend: self.backend.clone(), node: node.clone(), nodes: Arc::new(nodes) })
    }

    /// People: a client on a good network that never dies.
    fn operator(self: &Arc<Self>) -> operator::Operator {
        let node = Node::new("people".to_owned(), self.stage.clone(), 1.0, Link::GOOD, time::Duration::ZERO);
        let node = Arc::new(node);
        operator::Operator { store: self.store(&node), runtime: self.runtime(&node, 9) }
    }

    fn runtime(self: &Arc<Self>, node: &Arc<Node>, index: usize) -> Runtime {
        let world: Weak<Self> = Arc::downgrade(self);
        let kill = move || {
            if let Some(world) = world.upgrade() {
                world.crash(index);
            }
        };
        let trust = if self.backend.mutant == Some(Mutant::TrustTooLong) { 2.0 / Settings::STEP_DOWN } else { 1.0 };
        Runtime::builder(self.store(node), keys::envelope(&keys::VERSIONS))
            .clock(Arc::new(NodeClock { node: node.clone() }))
            .modules(
                ModuleRegistry::new().register(SimModule { fleet: self.fleet.clone(), node: node.clone() }).unwrap(),
            )
            .issuers(IssuerRegistry::new().register(SimFactory { ca: self.ca.clone(), node: node.clone() }).unwrap())
            .handler(Tasks { backend: self.backend.clone(), node: node.clone(), kill: Arc::new(kill) })
            .sweep(Heartbeat)
            .watchdog(Watchdog::Task)
            .settings(|settings| {
                let ladder = || Ladder::new(LADDER.map(Duration::from_secs).to_vec(), 0.1);
                settings.node_name = format!("n{index}");
                settings.node_heartbeat = Duration::from_secs(10);
                settings.lanes =
                    [(Lane::Issuance, 4), (Lane::Distribution, 2), (Lane::Notification, 3), (Lane::Maintenance, 2)]
                        .into();
                settings.job_lease = JOB_LEASE;
                settings.poll_interval = Duration::from_secs(15);
                settings.retry = RetryPolicy::with_ladder(ladder());
                settings.renewal_retry = RetryPolicy::with_ladder(ladder());
                settings.leader_ttl = LEADER_TTL.mul_f64(trust);
                settings.leader_heartbeat = LEADER_TTL / 3;
                settings.leader_poll = Duration::from_secs(5);
                settings.sweep_interval = Duration::from_secs(15);
                settings.target_timeout = Duration::from_secs(40);
                settings.order_rest = Duration::from_secs(300);
            })
            .build()
            .unwrap()
    }

    /// Starts a new process in place `index`.
    fn start(self: &Arc<Self>, index: usize) {
        let incarnation = self.slots.lock().unwrap().get(index).map_or(0, |slot| slot.incarnation + 1);
        let rate = if self.plan.rates { self.stage.draw(50..=200) as f64 / 100.0 } else { 1.0 };
        let name = format!("n{index}.{incarnation}");
        let node = Arc::new(Node::new(name, self.stage.clone(), rate, self.link(), time::Duration::ZERO));
        self.stage.note(&node.name, format!("starts, rate {rate}"));
        let running = Some(self.runtime(&node, index).start());
        let slot = Slot { node, running, incarnation };
        let mut slots = self.slots.lock().unwrap();
        if index < slots.len() { slots[index] = slot } else { slots.push(slot) }
    }

    /// The process in place `index` dies; another starts there later.
    pub fn crash(self: &Arc<Self>, index: usize) {
        let (node, running) = {
            let mut slots = self.slots.lock().unwrap();
            (slots[index].node.clone(), slots[index].running.take())
        };
        if node.is_dead() {
            return;
        }
        node.crash();
        self.stage.note(&node.name, "crashes".to_owned());
        self.graveyard.lock().unwrap().extend(running);
        let delay = self.stage.millis(200..=if self.stage.is_healed() { 1_000 } else { 15_000 });
        let world = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            world.start(index);
        });
    }

    /// The process in place `index` is asked to stop; another starts there when it has.
    pub fn stop(self: &Arc<Self>, index: usize) {
        let (node, running) = {
            let mut slots = self.slots.lock().unwrap();
            (slots[index].node.clone(), slots[index].running.take())
        };
        let Some(running) = running else { return };
        self.stage.note(&node.name, "is asked to stop".to_owned());
        self.stopping.fetch_add(1, Ordering::Relaxed);
        let world = self.clone();
        tokio::spawn(async move {
            // A process that dies while it stops never gets to the end of this.
            tokio::select! {
                biased;
                () = running.shutdown() => {}
                () = until_dead(&node) => {}
            }
            world.stopping.fetch_sub(1, Ordering::Relaxed);
            if !node.is_dead() {
                world.stage.note(&node.name, "has stopped".to_owned());
                node.crash();
                world.start(index);
            }
        });
    }

    /// Waits until everything is over; it has to be, in time.
    async fn come_to_rest(&self) {
        let healed = self.stage.now();
        // Clocks that run at half the rate make everything take twice as long.
        let slow = if self.plan.rates { 2 } else { 1 };
        let tasks = (LEADER_TTL * 2 + Duration::from_secs(LADDER.iter().sum::<u64>() + 6 * ASKED_MAX + 180)) * slow;
        // A run that nobody works on is looked at after a quarter of an hour, by clocks that may have been an hour ahead.
        let all = Duration::from_secs(3 * 3600) * slow;
        let mut quiet_since = None;
        loop {
            tokio::time::sleep(Duration::from_secs(3)).await;
            let waited = self.stage.now() - healed;
            let open = self.open();
            if let (Some(what), true) = (&open, waited > all) {
                let why = || format!("{waited:?} after the last fault, {what}");
                return self.stage.judge(demand(false, "G35", why));
            }
            if waited > LEADER_TTL * 2 * slow {
                let led = self.backend.ledger.lock().unwrap().is_led(self.stage.now());
                let verdict = demand(led, "G35", || format!("nobody leads {waited:?} after the last fault"));
                if verdict.is_err() {
                    return self.stage.judge(verdict);
                }
            }
            if waited > tasks {
                let ledger = self.backend.ledger.lock().unwrap();
                let late = ledger.jobs.iter().find(|(_, job)| job.kind == TASK && job.state.is_active());
                let verdict = demand(late.is_none(), "G35", || format!("{late:?} is not over after {waited:?}"));
                if verdict.is_err() {
                    return self.stage.judge(verdict);
                }
            }
            let now = self.stage.now();
            let since = quiet_since.get_or_insert(now);
            if open.is_some() {
                quiet_since = None;
            } else if now - *since > Duration::from_secs(25) {
                return;
            }
        }
    }

    /// Something that is not over yet.
    fn open(&self) -> Option<String> {
        if self.stopping.load(Ordering::Relaxed) > 0 {
            return Some("a node is still stopping".to_owned());
        }
        let ledger = self.backend.ledger.lock().unwrap();
        if let Some((id, job)) = ledger.jobs.iter().find(|(_, job)| job.state.is_active()) {
            return Some(format!("{id} ({}) is {}", job.kind, job.state.as_str()));
        }
        let memory = &self.backend.memory;
        if let Some(rotation) = keys::state(memory).and_then(|state| state.rotation) {
            return Some(format!("keys are rotated: {rotation:?}"));
        }
        let runs = at_once(memory.list_all(TypedQuery::<Run>::new())).unwrap();
        if let Some(run) = runs.iter().find(|run| matches!(run.state, RunState::Running | RunState::Waiting)) {
            return Some(format!("run {} of version {} is {:?}", run.id, run.version, run.state));
        }
        let targets = at_once(memory.list_all(TypedQuery::<TargetRun>::new())).unwrap();
        let begun = targets.iter().find(|target| target.is_begun() && !is_left(target, &runs))?;
        Some(format!("target {} of run {} is {:?}", begun.target_name, begun.run_id, begun.phase))
    }

    fn at_the_end(&self) -> Verdict {
        self.backend.ledger.lock().unwrap().at_the_end()?;
        self.fleet.at_the_end()?;
        self.targets_are_what_the_store_says()?;
        keys::at_the_end(&self.backend.memory)?;
        if self.plan.calm { self.ca.check_calm() } else { Ok(()) }
    }

    fn targets_are_what_the_store_says(&self) -> Verdict {
        let memory = &self.backend.memory;
        let states = at_once(memory.list_all(TypedQuery::<TargetState>::new())).unwrap();
        let runs = at_once(memory.list_all(TypedQuery::<Run>::new())).unwrap();
        let targets = at_once(memory.list_all(TypedQuery::<TargetRun>::new())).unwrap();
        let views = self.fleet.targets.lock().unwrap();
        for state in states {
            let target = at_once(memory.load::<certlib_core::model::Target>(&state.id)).unwrap();
            let Some(view) = views.get(&target.name).filter(|view| !view.disturbed) else { continue };
            if targets.iter().any(|one| one.target_id == state.id && is_left(one, &runs)) {
                continue;
            }
            let kept = state.versions.values().next().copied();
            demand(kept == view.served, "G15", || {
                format!("{} serves {:?}, and the store says {kept:?}", target.name, view.served)
            })?;
        }
        Ok(())
    }

    /// Lets go of everything that holds on to the world.
    fn bury(&self) {
        self.slots.lock().unwrap().clear();
        self.graveyard.lock().unwrap().clear();
    }
}

/// Whether its run was given up with the target in the middle: that leaves it to people, and to the next run.
fn is_left(target: &TargetRun, runs: &[Versioned<Run>]) -> bool {
    target.is_begun() && runs.iter().any(|run| run.id == target.run_id && run.finished_at.is_some())
}

async fn until_dead(node: &Node) {
    while !node.is_dead() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
