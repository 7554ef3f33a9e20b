//! Others change the target, too: what they did is never overwritten.

use super::{Bench, ModuleHarness};
use crate::error::{Effect, ErrorClass, codes};
use crate::module::{MemoryJournal, RollbackOutcome};

/// A target that changed after the dry run is left alone.
pub async fn stale_base_is_refused(harness: &impl ModuleHarness) {
    let bench = Bench::new(harness).await;
    let bundle = bench.new_bundle();
    let plan = bench.plan(&bundle).await;
    bench.fixture.meddle().await;
    let theirs = bench.state().await;
    let journal = MemoryJournal::new();
    let error = bench.execute(&bundle, &plan, &journal).await.unwrap_err();
    assert_eq!((error.code(), error.class()), (codes::PLAN_STALE, ErrorClass::Validation), "{error:?}");
    assert_eq!(error.effect(), Effect::None, "{error:?}");
    assert!(journal.steps().is_empty(), "nothing was to be undone: {:?}", journal.steps());
    assert_eq!(bench.state().await, theirs);
    let new = bench.try_plan(&bench.fixture.target(), &bundle).await;
    assert!(new.is_err() || new.unwrap().base != plan.base, "a new dry run sees the change");
}

/// What somebody else put there after the delivery is not taken back.
pub async fn foreign_change_is_refused(harness: &impl ModuleHarness) {
    let bench = Bench::new(harness).await;
    let journal = bench.deliver(&bench.new_bundle()).await;
    bench.fixture.meddle().await;
    let theirs = bench.state().await;
    for _ in 0..2 {
        match bench.roll_back(&journal).await.unwrap() {
            RollbackOutcome::Refused { code, reason } => {
                assert_eq!(code, codes::FOREIGN_CHANGE, "{reason}");
                assert!(!reason.is_empty());
            }
            outcome => panic!("{outcome:?}"),
        }
        assert_eq!(bench.state().await, theirs);
    }
}
