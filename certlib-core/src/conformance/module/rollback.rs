//! The way back: from anywhere, as often as one likes.

use super::dying::{Death, DyingJournal};
use super::{Bench, ModuleHarness};
use crate::module::{MemoryJournal, RollbackOutcome};

/// Nothing was recorded, so nothing is undone.
pub async fn rollback_after_nothing(harness: &impl ModuleHarness) {
    let bench = Bench::new(harness).await;
    let before = bench.state().await;
    let outcome = bench.roll_back(&MemoryJournal::new()).await.unwrap();
    assert_eq!(outcome, RollbackOutcome::NothingToDo);
    assert_eq!(bench.state().await, before);
}

/// Whichever record the process died at, the target becomes as it was.
pub async fn rollback_after_half(harness: &impl ModuleHarness) {
    let mut crashes = 0;
    for death in [Death::Before, Death::After] {
        for at in 1.. {
            let bench = Bench::new(harness).await;
            let before = bench.state().await;
            let bundle = bench.new_bundle();
            let plan = bench.plan(&bundle).await;
            let journal = MemoryJournal::new();
            let dying = DyingJournal::new(&journal, at, death);
            let result = bench.execute(&bundle, &plan, &dying).await;
            if !dying.died() {
                result.unwrap();
                break;
            }
            result.expect_err("it went on although its journal was gone");
            crashes += 1;
            let outcome = bench.roll_back(&journal).await.unwrap();
            let undone = matches!(outcome, RollbackOutcome::RolledBack | RollbackOutcome::NothingToDo);
            assert!(undone, "{death:?} record {at}: {outcome:?}");
            assert_eq!(bench.state().await, before, "{death:?} record {at}");
        }
    }
    assert!(crashes >= 2, "nothing was recorded");
}

/// A finished delivery is taken back, and the former certificate proven.
pub async fn rollback_after_everything(harness: &impl ModuleHarness) {
    let bench = Bench::new(harness).await;
    let before = bench.state().await;
    let bundle = bench.new_bundle();
    let journal = bench.deliver(&bundle).await;
    assert_eq!(bench.roll_back(&journal).await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!(bench.state().await, before);
    let verifies = bench.verifies();
    assert_eq!(bench.serves(&bench.fixture.bundle(0)).await, verifies.then_some(true));
    assert_eq!(bench.serves(&bundle).await, verifies.then_some(false));
    // And it can be delivered anew.
    bench.deliver(&bundle).await;
    assert_eq!(bench.serves(&bundle).await, verifies.then_some(true));
}

/// Undoing again changes nothing.
pub async fn rollback_twice(harness: &impl ModuleHarness) {
    let bench = Bench::new(harness).await;
    let before = bench.state().await;
    let journal = bench.deliver(&bench.new_bundle()).await;
    assert_eq!(bench.roll_back(&journal).await.unwrap(), RollbackOutcome::RolledBack);
    for _ in 0..2 {
        let outcome = bench.roll_back(&journal).await.unwrap();
        assert!(matches!(outcome, RollbackOutcome::RolledBack | RollbackOutcome::NothingToDo), "{outcome:?}");
        assert_eq!(bench.state().await, before);
    }
}
