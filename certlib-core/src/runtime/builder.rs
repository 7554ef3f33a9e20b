//! Putting a runtime together.

use std::collections::HashSet;
use std::sync::Arc;

use super::Runtime;
use super::engine::Engine;
use super::handler::JobHandler;
use super::issuers::IssuerRegistry;
use super::job_log::JobLogs;
use super::node_name;
use super::sealer::Sealer;
use super::settings::Settings;
use super::vitals::Vitals;
use crate::clock::{Clock, SystemClock};
use crate::distribution::DistributionHandler;
use crate::error::{Error, Result};
use crate::issuance::{HintHandler, IssuanceHandler, RevocationHandler};
use crate::model::record_kinds;
use crate::module::ModuleRegistry;
use crate::queue::Lane;
use crate::random;
use crate::scheduler::{
    ApprovalSweep, AutoDistributionSweep, ChallengeSweep, DownloadSweep, Epochs, EventSweep, ExpirationSweep,
    HintSweep, JobCleanupSweep, Leadership, NodeSweep, Notify, RateWindowSweep, RenewalSweep, RotationSweep,
    RunCleanupSweep, RunSweep, Sweep, Watchdog,
};
use crate::secret::SecretEnvelope;
use crate::store::{Record, RecordKinds, SharedStore};

/// What goes into a [`Runtime`].
#[derive(Debug)]
pub struct RuntimeBuilder {
    store: SharedStore,
    envelope: Arc<dyn SecretEnvelope>,
    clock: Arc<dyn Clock>,
    modules: ModuleRegistry,
    issuers: IssuerRegistry,
    settings: Settings,
    kinds: RecordKinds,
    handlers: Vec<Arc<dyn JobHandler>>,
    sweeps: Vec<Arc<dyn Sweep>>,
    watchdog: Watchdog,
    notify: Notify,
}

impl RuntimeBuilder {
    pub(super) fn new(store: SharedStore, envelope: Arc<dyn SecretEnvelope>) -> Self {
        Self {
            store,
            envelope,
            clock: SystemClock::shared(),
            modules: ModuleRegistry::new(),
            issuers: IssuerRegistry::new(),
            settings: Settings::default(),
            kinds: record_kinds(),
            handlers: Vec::new(),
            sweeps: Vec::new(),
            watchdog: Watchdog::default(),
            notify: Notify::default(),
        }
    }

    /// Uses another clock than the system's.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The ways of delivery.
    #[must_use]
    pub fn modules(mut self, modules: ModuleRegistry) -> Self {
        self.modules = modules;
        self
    }

    /// The kinds of CA.
    #[must_use]
    pub fn issuers(mut self, issuers: IssuerRegistry) -> Self {
        self.issuers = issuers;
        self
    }

    /// Changes the settings.
    #[must_use]
    pub fn settings(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }

    /// Adds a kind of record of your own: it is part of backups, and the key under its [secret](Record::sealed) is
    /// rotated with the others.
    #[must_use]
    pub fn record<R: Record>(mut self) -> Self {
        self.kinds = self.kinds.with::<R>();
        self
    }

    /// Adds a type of job of your own.
    #[must_use]
    pub fn handler(mut self, handler: impl JobHandler) -> Self {
        self.handlers.push(Arc::new(handler));
        self
    }

    /// Adds a sweep of your own.
    #[must_use]
    pub fn sweep(mut self, sweep: impl Sweep) -> Self {
        self.sweeps.push(Arc::new(sweep));
        self
    }

    /// Where the watchdog of a leader runs: on a thread of its own, unless the clock is simulated.
    #[must_use]
    pub fn watchdog(mut self, watchdog: Watchdog) -> Self {
        self.watchdog = watchdog;
        self
    }

    /// Calls `callback` whenever this node gains or loses leadership, or must not lead. It is called from within, so
    /// it must return soon; it may be called on any thread, but never twice at the same time for the same reason.
    #[must_use]
    pub fn on_leadership(mut self, callback: impl Fn(&Leadership) + Send + Sync + 'static) -> Self {
        self.notify.add(callback);
        self
    }

    /// Calls `callback` with the epoch when the work of a former leader cannot be stopped: see [`Leadership::Stuck`].
    /// certlib never ends the process of its host; this is where the host can.
    #[must_use]
    pub fn on_leadership_stuck(self, callback: impl Fn(u64) + Send + Sync + 'static) -> Self {
        self.on_leadership(move |what| {
            if let Leadership::Stuck { epoch } = what {
                callback(*epoch);
            }
        })
    }

    /// The runtime.
    ///
    /// # Errors
    /// `Validation` `settings_invalid`; `handler_duplicate` when two handlers claim one type of job;
    /// `state_unreadable` when `state_dir` is set and cannot be read.
    pub fn build(mut self) -> Result<Runtime> {
        self.settings.check()?;
        self.settings.node_name = node_name::from_environment(&self.settings.node_name);
        let epochs = Epochs::open(self.settings.state_dir.as_deref())?;
        let unique = random::id().simple().to_string();
        let node_id = format!("{}/{}", self.settings.node_name, &unique[20..]);
        let logs = JobLogs::new(self.clock.clone(), &node_id, self.settings.failed_job_retention);
        let engine = Arc::new(Engine {
            job_logs: Arc::new(logs),
            sealer: Arc::new(Sealer::new(self.envelope, self.store.clone(), self.clock.clone(), &self.kinds)),
            store: self.store,
            kinds: self.kinds,
            clock: self.clock,
            modules: self.modules,
            issuers: self.issuers,
            node_id,
            vitals: Arc::new(Vitals::new(epochs)),
            settings: self.settings,
            made: Arc::default(),
            limits: Arc::default(),
        });
        let mut handlers: Vec<Arc<dyn JobHandler>> = vec![
            Arc::new(IssuanceHandler::first(engine.on(Lane::Issuance))),
            Arc::new(IssuanceHandler::renewal(engine.on(Lane::Issuance))),
            Arc::new(RevocationHandler::new(engine.on(Lane::Issuance))),
            Arc::new(HintHandler::new(engine.on(Lane::Maintenance))),
            Arc::new(DistributionHandler::new(engine.on(Lane::Distribution))),
        ];
        handlers.extend(self.handlers);
        let mut kinds = HashSet::new();
        if let Some(twice) = handlers.iter().find(|handler| !kinds.insert(handler.kind())) {
            return Err(Error::validation("runtime.build", "handler_duplicate", "two handlers claim one type of job")
                .with("kind", twice.kind()));
        }
        // Their gauges are there, at zero, before the first job is.
        engine.vitals.kinds(handlers.iter().map(|handler| handler.kind()));
        let settings = &engine.settings;
        // First what keeps certificates alive, last what only saves room.
        let mut sweeps: Vec<Arc<dyn Sweep>> = vec![
            Arc::new(RenewalSweep),
            Arc::new(ExpirationSweep::new(settings.expiry_thresholds.clone())),
            Arc::new(HintSweep),
            Arc::new(RunSweep),
            Arc::new(AutoDistributionSweep),
            Arc::new(ApprovalSweep),
            Arc::new(ChallengeSweep),
            Arc::new(DownloadSweep),
            Arc::new(RateWindowSweep),
            Arc::new(RotationSweep::new(engine.sealer.envelope().clone(), engine.kinds.clone())),
            Arc::new(RunCleanupSweep::new(settings.run_retention)),
            Arc::new(EventSweep::new(settings.event_retention)),
            Arc::new(NodeSweep),
        ];
        sweeps.push(Arc::new(JobCleanupSweep::new(&engine.settings)));
        sweeps.extend(self.sweeps);
        Ok(Runtime { engine, handlers, sweeps, watchdog: self.watchdog, notify: self.notify })
    }
}
