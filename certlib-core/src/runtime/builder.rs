//! Putting a runtime together.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use uuid::Uuid;

use super::Runtime;
use super::engine::Engine;
use super::handler::JobHandler;
use super::issuers::{IssuerCache, IssuerRegistry};
use super::settings::Settings;
use crate::clock::{Clock, SystemClock};
use crate::distribution::DistributionHandler;
use crate::error::{Error, Result};
use crate::issuance::{HintHandler, IssuanceHandler, RevocationHandler};
use crate::module::ModuleRegistry;
use crate::scheduler::{ChallengeSweep, HintSweep, RenewalSweep, RunSweep, Sweep};
use crate::secret::SecretEnvelope;
use crate::store::SharedStore;

/// What goes into a [`Runtime`].
#[derive(Debug)]
pub struct RuntimeBuilder {
    store: SharedStore,
    envelope: Arc<dyn SecretEnvelope>,
    clock: Arc<dyn Clock>,
    modules: ModuleRegistry,
    issuers: IssuerRegistry,
    settings: Settings,
    handlers: Vec<Arc<dyn JobHandler>>,
    sweeps: Vec<Arc<dyn Sweep>>,
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
            handlers: Vec::new(),
            sweeps: Vec::new(),
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

    /// The runtime.
    ///
    /// # Errors
    /// `Validation` `settings_invalid`; `handler_duplicate` when two handlers claim one type of job.
    pub fn build(self) -> Result<Runtime> {
        self.settings.check()?;
        let unique = Uuid::new_v4().simple().to_string();
        let engine = Arc::new(Engine {
            store: self.store,
            envelope: self.envelope,
            clock: self.clock,
            modules: self.modules,
            issuers: self.issuers,
            node_id: format!("{}/{}", self.settings.node_name, &unique[..12]),
            settings: self.settings,
            made: IssuerCache::default(),
            limits: Mutex::default(),
        });
        let mut handlers: Vec<Arc<dyn JobHandler>> = vec![
            Arc::new(IssuanceHandler::first(engine.clone())),
            Arc::new(IssuanceHandler::renewal(engine.clone())),
            Arc::new(RevocationHandler::new(engine.clone())),
            Arc::new(HintHandler::new(engine.clone())),
            Arc::new(DistributionHandler::new(engine.clone())),
        ];
        handlers.extend(self.handlers);
        let mut kinds = HashSet::new();
        if let Some(twice) = handlers.iter().find(|handler| !kinds.insert(handler.kind())) {
            return Err(Error::validation("runtime.build", "handler_duplicate", "two handlers claim one type of job")
                .with("kind", twice.kind()));
        }
        let mut sweeps: Vec<Arc<dyn Sweep>> =
            vec![Arc::new(RenewalSweep), Arc::new(HintSweep), Arc::new(RunSweep), Arc::new(ChallengeSweep)];
        sweeps.extend(self.sweeps);
        Ok(Runtime { engine, handlers, sweeps })
    }
}
