//! Writes the logs of running jobs in the background.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::TaskTracker;

use super::running::Running;
use super::settling::write;
use crate::runtime::engine::Engine;
use crate::runtime::job_log::JobLogger;
use crate::store::Write;

/// How long a line waits at most, and how long a job runs before its log says so.
const DELAY: Duration = Duration::from_secs(1);

/// How many pieces go into one commit.
const PIECES_MAX: usize = 100;

/// Writes what running jobs have said, a moment after they said it, until all lanes have ended. What a job says last is
/// written with its outcome.
pub(super) async fn write_logs(engine: Arc<Engine>, running: Arc<Running>, lanes: TaskTracker) {
    loop {
        tokio::select! {
            biased;
            () = lanes.wait() => return,
            () = engine.job_logs.stirred() => {}
        }
        tokio::select! {
            biased;
            () = lanes.wait() => return,
            () = engine.job_logs.hurried() => {}
            () = engine.clock.sleep(DELAY) => {}
        }
        let mut again = false;
        let mut pieces = Vec::new();
        let mut held = Vec::new();
        for job in running.all() {
            again |= job.log.is_silent_after(DELAY);
            // One that is being settled sees to its log itself.
            let Some(guard) = job.log.try_hold() else { continue };
            match job.log.unwritten(&engine.store).await {
                Ok(writes) if writes.is_empty() => {}
                Ok(writes) => {
                    held.push((job.log, writes.len(), guard));
                    pieces.extend(writes);
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot write the log of a job, trying again");
                    again = true;
                }
            }
            if pieces.len() >= PIECES_MAX {
                again |= !commit(&engine, &mut pieces, &mut held).await;
            }
        }
        again |= !commit(&engine, &mut pieces, &mut held).await;
        if again {
            engine.job_logs.stir();
        }
    }
}

/// Writes the pieces, and lets go of the logs they are from; says whether it could.
async fn commit<G>(engine: &Engine, pieces: &mut Vec<Write>, held: &mut Vec<(JobLogger, usize, G)>) -> bool {
    if pieces.is_empty() {
        return true;
    }
    let result = write(engine, std::mem::take(pieces)).await;
    for (log, count, _guard) in held.drain(..) {
        if result.is_ok() {
            log.written(count);
        }
    }
    if let Err(error) = &result {
        tracing::warn!(%error, "cannot write the logs of jobs, trying again");
    }
    engine.job_logs.tell();
    result.is_ok()
}
