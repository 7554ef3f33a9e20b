//! Delivery: the plan is kept, and it is proven.

use super::{Bench, ModuleHarness};
use crate::module::MemoryJournal;

/// A dry run changes nothing, and says the same again.
pub async fn dry_run_changes_nothing(harness: &impl ModuleHarness) {
    let bench = Bench::new(harness).await;
    let before = bench.state().await;
    let bundle = bench.new_bundle();
    let plan = bench.plan(&bundle).await;
    assert!(plan.changes_anything(), "there is something to do: {plan}");
    assert!(plan.steps.iter().all(|step| !step.subject.is_empty()), "{plan}");
    assert_eq!(plan, bench.plan(&bundle).await, "two dry runs of an unchanged target are equal");
    assert_eq!(plan.digest(), bench.plan(&bundle).await.digest());
    bench.plan(&bench.fixture.bundle(2)).await;
    assert_eq!(bench.state().await, before);
}

/// What the plan said is what happens: afterwards there is nothing left to do.
pub async fn dry_run_equals_execute(harness: &impl ModuleHarness) {
    let bench = Bench::new(harness).await;
    let before = bench.state().await;
    let bundle = bench.new_bundle();
    let plan = bench.plan(&bundle).await;
    let journal = MemoryJournal::new();
    bench.execute(&bundle, &plan, &journal).await.unwrap();
    assert!(!journal.steps().is_empty(), "something was changed without a way back");
    let after = bench.state().await;
    assert_ne!(after, before, "the plan said that something would change");
    let again = bench.plan(&bundle).await;
    assert!(!again.changes_anything(), "what was planned was not all done: {again}");
    assert_ne!(again.base, plan.base, "the base changes with the target");
    assert_eq!(bench.state().await, after);
}

/// The new certificate is proven to be there after delivery, and not before.
pub async fn what_is_delivered_validates(harness: &impl ModuleHarness) {
    let bench = Bench::new(harness).await;
    let (former, bundle) = (bench.fixture.bundle(0), bench.new_bundle());
    let verifies = bench.verifies();
    assert_eq!(bench.serves(&former).await, verifies.then_some(true));
    assert_eq!(bench.serves(&bundle).await, verifies.then_some(false));
    bench.deliver(&bundle).await;
    assert_eq!(bench.serves(&bundle).await, verifies.then_some(true));
    assert_eq!(bench.serves(&former).await, verifies.then_some(false));
    // A later renewal of the same target.
    let next = bench.fixture.bundle(2);
    bench.deliver(&next).await;
    assert_eq!(bench.serves(&next).await, verifies.then_some(true));
}

/// Executing again, with the same journal or after a new dry run, changes nothing more.
pub async fn execute_twice_is_once(harness: &impl ModuleHarness) {
    let bench = Bench::new(harness).await;
    let bundle = bench.new_bundle();
    let plan = bench.plan(&bundle).await;
    let journal = MemoryJournal::new();
    bench.execute(&bundle, &plan, &journal).await.unwrap();
    let once = bench.state().await;
    bench.execute(&bundle, &plan, &journal).await.unwrap();
    assert_eq!(bench.state().await, once, "the same journal");
    let plan = bench.plan(&bundle).await;
    let fresh = MemoryJournal::new();
    bench.execute(&bundle, &plan, &fresh).await.unwrap();
    assert_eq!(bench.state().await, once, "a new dry run");
}
