//! Targets that say that they are gone for good: nothing more is delivered there until somebody lifts the pause.

use serde_json::json;

use super::fanout::Pass;
use crate::error::{Error, Result, codes};
use crate::model::{Event, LogLevel, Severity, Target, TargetRun};
use crate::store::StoreExt as _;

/// How often a target is read again that somebody else is changing.
const TRIES: usize = 5;

/// Whether `error` says that the target is gone for good.
pub(super) fn is_gone(error: &Error) -> bool {
    error.code() == codes::TARGET_GONE
}

/// Pauses the target and tells about it, in one commit; once, however often its module says so.
///
/// Comes before the end of the target run is written: after a crash in between, the module is asked again.
pub(super) async fn disable(pass: &Pass, target_run: &TargetRun, why: &Error) -> Result<()> {
    let engine = &pass.engine;
    for _ in 0..TRIES {
        let mut target = engine.store.load::<Target>(&target_run.target_id).await?;
        if target.paused {
            return Ok(());
        }
        target.paused = true;
        let data = json!({
            "certificate": pass.run.certificate_id,
            "run": pass.run.id,
            "error": why.to_record(),
            "severity": Severity::Error,
        });
        let event = Event::new(&target.project, "target.disabled", &target.id, data, engine.clock.now());
        match engine.store.commit(pass.context.batch().update(&target)?.insert(&event)?).await {
            Ok(_) => {
                let text = format!("target {}: paused, as it is gone for good: {why}", target.name);
                pass.context.log(LogLevel::Warn, text);
                return Ok(());
            }
            // Somebody edits the target at the same moment.
            Err(error) if error.is_conflict() => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::transient("distribution", "busy", "the target is being changed all the time"))
}
