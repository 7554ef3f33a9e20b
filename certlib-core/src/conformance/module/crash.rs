//! The process dies, and another goes on.

use super::dying::{Death, DyingJournal};
use super::{Bench, ModuleHarness};
use crate::module::{MemoryJournal, RollbackOutcome};

/// Whichever record the process died at, once or twice, the next attempt delivers; and the way back still leads to how the
/// target was before the first.
pub async fn a_crash_at_any_record_is_resumed(harness: &impl ModuleHarness) {
    for (death, deaths) in [(Death::Before, 1), (Death::After, 1), (Death::After, 2)] {
        for at in 1.. {
            let bench = Bench::new(harness).await;
            let before = bench.state().await;
            let bundle = bench.new_bundle();
            let plan = bench.plan(&bundle).await;
            let journal = MemoryJournal::new();
            let mut died = false;
            for _ in 0..deaths {
                let dying = DyingJournal::new(&journal, at, death);
                let result = bench.execute(&bundle, &plan, &dying).await;
                died |= dying.died();
                assert!(dying.died() || result.is_ok(), "{death:?} record {at}: {result:?}");
            }
            if !died {
                break;
            }
            let resumed = bench.execute(&bundle, &plan, &journal).await;
            assert!(resumed.is_ok(), "{death:?} record {at}: {resumed:?}");
            assert_eq!(bench.serves(&bundle).await, bench.verifies().then_some(true), "{death:?} record {at}");
            assert!(!bench.plan(&bundle).await.changes_anything(), "{death:?} record {at}: not all was done");
            assert_eq!(bench.roll_back(&journal).await.unwrap(), RollbackOutcome::RolledBack, "{death:?} record {at}");
            assert_eq!(bench.state().await, before, "{death:?} record {at}");
        }
    }
}
