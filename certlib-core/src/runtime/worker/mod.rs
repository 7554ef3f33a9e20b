//! Workers: claim jobs of a lane, keep their leases, run them, settle them.

mod execution;
mod lane;
mod leases;
mod logging;
mod running;
mod settling;
mod slots;
mod turns;

use std::collections::HashMap;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::lane::LaneWorker;
use self::running::{Running, StopReason};
use self::settling::Settler;
use self::slots::Slots;
use super::engine::Engine;
use super::handler::JobHandler;

/// Starts a claiming loop and a settler for each lane, and what keeps leases, writes logs, and takes back what crashed
/// workers left.
pub(super) fn spawn(
    engine: &Arc<Engine>,
    handlers: Vec<Arc<dyn JobHandler>>,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) {
    let handlers: Arc<HashMap<&'static str, Arc<dyn JobHandler>>> =
        Arc::new(handlers.into_iter().map(|handler| (handler.kind(), handler)).collect());
    let running = Arc::new(Running::default());
    let lanes = TaskTracker::new();
    for (lane, slots) in &engine.settings.lanes {
        let engine = engine.on(*lane);
        let slots = Slots::new(*slots);
        let (settler, settling) = Settler::new(engine.clone(), slots.clone());
        let worker = LaneWorker {
            engine,
            handlers: handlers.clone(),
            running: running.clone(),
            lane: *lane,
            slots,
            settler,
            jobs: lanes.clone(),
        };
        tasks.spawn(lanes.track_future(settling));
        tasks.spawn(lanes.track_future(worker.run(stop.clone())));
    }
    lanes.close();
    tasks.spawn(stop_after_grace(engine.clone(), running.clone(), lanes.clone(), stop.clone()));
    tasks.spawn(logging::write_logs(engine.clone(), running.clone(), lanes.clone()));
    tasks.spawn(leases::keep(engine.clone(), running, lanes));
    tasks.spawn(leases::reap(engine.clone(), stop.clone()));
}

/// When the node stops, lets what runs come to its end for a while, and then asks it to stop at its next safe point.
async fn stop_after_grace(engine: Arc<Engine>, running: Arc<Running>, lanes: TaskTracker, stop: CancellationToken) {
    stop.cancelled().await;
    tokio::select! {
        biased;
        () = lanes.wait() => return,
        () = engine.clock.sleep(engine.settings.shutdown_grace) => {}
    }
    for job in running.all() {
        job.stop(StopReason::Shutdown);
    }
}
