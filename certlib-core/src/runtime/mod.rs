//! The runtime: puts store, envelope, issuers and modules together and keeps the work going.

mod beat;
mod builder;
mod engine;
mod handler;
mod issuers;
mod job_log;
mod node_name;
mod sealer;
mod settings;
mod vitals;
mod worker;

use std::fmt;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::builder::RuntimeBuilder;
pub(crate) use self::engine::Engine;
pub use self::handler::{Handled, JobContext, JobHandler};
pub use self::issuers::IssuerRegistry;
pub(crate) use self::job_log::Followed;
pub use self::settings::{Role, Settings};
use crate::client::Client;
use crate::scheduler::{Notify, Scheduler, Sweep, Watchdog};
use crate::secret::SecretEnvelope;
use crate::store::SharedStore;

/// certlib, put together but not started.
///
/// ```
/// use std::sync::Arc;
/// use certlib_core::clock::SystemClock;
/// use certlib_core::memory::MemoryStore;
/// use certlib_core::runtime::Runtime;
/// use certlib_core::secret::{Keyring, KeyringEnvelope};
///
/// # async fn example() -> certlib_core::Result<()> {
/// let store = Arc::new(MemoryStore::new(SystemClock::shared()));
/// let envelope = Arc::new(KeyringEnvelope::new(Keyring::generate()?));
/// let running = Runtime::builder(store, envelope).build()?.start();
/// let client = running.client();
/// client.create_project("shop").await?;
/// running.shutdown().await;
/// # Ok(())
/// # }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(example()).unwrap();
/// ```
pub struct Runtime {
    engine: Arc<Engine>,
    handlers: Vec<Arc<dyn JobHandler>>,
    sweeps: Vec<Arc<dyn Sweep>>,
    watchdog: Watchdog,
    notify: Notify,
}

impl Runtime {
    /// Starts to put a runtime together.
    pub fn builder(store: SharedStore, envelope: Arc<dyn SecretEnvelope>) -> RuntimeBuilder {
        RuntimeBuilder::new(store, envelope)
    }

    /// certlib's operations. Works without starting anything: other nodes may do the work.
    pub fn client(&self) -> Client {
        Client::new(self.engine.clone())
    }

    /// Starts the roles of this node on the current tokio runtime.
    pub fn start(self) -> RunningRuntime {
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        if self.engine.settings.roles.contains(&Role::Worker) {
            worker::spawn(&self.engine, self.handlers, &stop, &tasks);
        }
        if self.engine.settings.roles.contains(&Role::Scheduler) {
            let scheduler = Scheduler::new(self.engine.clone(), self.sweeps, self.watchdog, self.notify);
            tasks.spawn(scheduler.run(stop.clone()));
        }
        tasks.close();
        let heart = TaskTracker::new();
        heart.spawn(beat::beat(self.engine.clone(), stop.clone(), tasks));
        heart.close();
        RunningRuntime { engine: self.engine, stop, heart }
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").field("engine", &self.engine).finish_non_exhaustive()
    }
}

/// certlib at work. Dropping it stops claiming work but does not wait for what runs; prefer [`RunningRuntime::shutdown`].
pub struct RunningRuntime {
    engine: Arc<Engine>,
    stop: CancellationToken,
    /// Beats until everything else has ended.
    heart: TaskTracker,
}

impl RunningRuntime {
    /// certlib's operations.
    pub fn client(&self) -> Client {
        Client::new(self.engine.clone())
    }

    /// Whether this node may act as leader at this very moment. Computed from its own clock: it turns false when the
    /// lease is too old to be trusted, whatever hangs.
    pub fn is_leader(&self) -> bool {
        self.engine.vitals.is_leader()
    }

    /// Sets the gauges of [`metrics`](crate::metrics); call it right before they are rendered. Those of this process
    /// are set before anything is waited for, and so are true even while the store does not answer; then the depth of
    /// the queue is asked for. Cancel-safe.
    ///
    /// # Errors
    /// As [`JobQueue`](crate::queue::JobQueue); `Network` `timeout` when the store does not answer within 2 s.
    pub async fn record_metrics(&self) -> crate::Result<()> {
        self.client().record_metrics().await
    }

    /// Stops gracefully: claims nothing more, lets what runs go on for [`Settings::shutdown_grace`] and then asks it to
    /// stop at its next safe point, gives unfinished jobs back without counting an attempt, releases the leader's lease, and takes the node out of the cluster view.
    /// Returns when all of that is done.
    ///
    /// Not cancel-safe in the sense that a dropped future leaves the stopping tasks running on their own.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.heart.wait().await;
    }
}

impl Drop for RunningRuntime {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl fmt::Debug for RunningRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningRuntime").field("engine", &self.engine).finish_non_exhaustive()
    }
}
