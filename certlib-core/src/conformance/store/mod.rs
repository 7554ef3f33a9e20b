//! What every [`Store`](crate::store::Store) must do, as tests.
//!
//! Implement [`StoreHarness`] and call [`store_conformance!`](crate::store_conformance) in a file of tests:
//!
//! ```
//! use std::sync::Arc;
//!
//! use certlib_core::clock::Clock;
//! use certlib_core::conformance::store::StoreHarness;
//! use certlib_core::memory::MemoryStore;
//! use certlib_core::store::SharedStore;
//!
//! struct Memory;
//!
//! #[async_trait::async_trait]
//! impl StoreHarness for Memory {
//!     async fn open(&self, clock: Arc<dyn Clock>) -> SharedStore {
//!         Arc::new(MemoryStore::new(clock))
//!     }
//! }
//!
//! certlib_core::store_conformance!(Memory);
//! # fn main() {}
//! ```
//!
//! No case sleeps: time moves only by the [`ManualClock`] that the store is opened with.

pub mod claim;
pub mod enqueue;
pub mod fencing;
mod fixture;
pub mod lock;
pub mod operate;
pub mod query;
pub mod reap;
pub mod records;
pub mod settle;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::clock::Clock;
#[cfg(doc)]
use crate::clock::ManualClock;
use crate::store::SharedStore;

/// How the suite gets at the store under test.
#[async_trait]
pub trait StoreHarness: Send + Sync {
    /// An empty store that shares nothing with any opened before, and that measures `run_at` and leases by `clock`.
    /// Whatever it needs must live as long as the store.
    async fn open(&self, clock: Arc<dyn Clock>) -> SharedStore;

    /// How finely the store keeps time.
    fn time_precision(&self) -> Duration {
        Duration::from_millis(1)
    }

    /// Cases that this store cannot pass, by name, each with the reason; they are skipped with that reason on standard
    /// error.
    fn unsupported(&self) -> &[(&str, &str)] {
        &[]
    }
}

/// Why `harness` does not support `case`, said aloud, if it does not.
pub fn skipped(harness: &impl StoreHarness, case: &str) -> bool {
    let reason = harness.unsupported().iter().find(|(name, _)| *name == case);
    if let Some((_, reason)) = reason {
        eprintln!("{case} is not supported: {reason}");
    }
    reason.is_some()
}

/// Expands to one `#[tokio::test]` for each case of the [store suite](crate::conformance::store).
///
/// Its argument is an expression for a [`StoreHarness`](crate::conformance::store::StoreHarness); each test evaluates
/// it anew. The calling crate needs `tokio` with the features `macros` and `rt-multi-thread`.
#[macro_export]
macro_rules! store_conformance {
    ($harness:expr) => {
        $crate::store_conformance! { @ $harness;
            records:
                a_record_reads_as_it_was_written,
                a_revision_grows_by_one_with_each_put,
                an_insert_needs_an_absent_record,
                a_stale_update_is_refused,
                a_batch_is_applied_whole_or_not_at_all,
                writes_take_effect_in_order,
                a_deleted_record_is_gone,
                kinds_do_not_mix,
                an_invalid_record_is_refused,
                concurrent_writers_lose_no_update;
            query:
                equality_finds_exactly_that_value,
                ranges_include_their_ends_and_keep_to_their_type,
                order_is_by_value_and_then_by_id,
                text_sorts_by_bytes_and_numbers_by_value,
                a_record_without_the_sort_field_is_left_out,
                pages_visit_every_record_once,
                an_index_follows_its_record,
                an_undeclared_field_is_refused,
                any_query_answers_like_the_model;
            fencing:
                a_stale_claim_writes_nothing,
                a_settlement_commits_with_its_writes,
                a_settlement_needs_its_claim,
                a_stale_leader_writes_nothing,
                a_released_lease_writes_nothing,
                an_expired_lease_that_nobody_took_still_writes,
                a_lease_of_another_holder_writes_nothing,
                every_condition_counts,
                a_batch_settles_before_it_enqueues;
            enqueue:
                a_job_reads_as_it_was_enqueued,
                one_active_job_for_each_key,
                an_urgent_enqueue_hurries_a_waiting_job,
                an_enqueue_during_the_run_runs_it_again,
                concurrent_enqueues_of_a_key_make_one_job,
                an_id_is_enqueued_once,
                an_invalid_job_is_refused,
                payloads_have_limits,
                workers_are_woken;
            claim:
                a_claim_leases_the_job,
                claims_go_by_priority_due_time_and_id,
                lanes_are_apart,
                a_delay_is_honoured_exactly,
                what_is_not_due_hides_nothing_that_is,
                a_job_has_one_winner,
                parents_can_be_passed_over;
            settle:
                each_outcome_leads_to_its_state,
                a_retry_waits_and_is_remembered,
                snooze_and_release_do_not_count,
                a_claim_is_settled_once,
                each_settlement_is_answered_for_itself,
                a_late_settlement_is_lost,
                a_settlement_before_the_reaper_counts,
                racing_settlements_have_one_winner,
                a_given_up_job_leaves_one_event;
            reap:
                an_extended_lease_is_not_reaped,
                only_passed_leases_are_reaped,
                the_reaper_keeps_to_its_limit,
                a_crashed_job_waits_for_its_ladder,
                a_job_that_kills_its_workers_is_isolated,
                a_crash_after_a_cancel_ends_the_job,
                settling_and_reaping_have_one_winner,
                extending_and_reaping_have_one_winner,
                a_poisoned_job_leaves_one_event;
            operate:
                a_pending_job_is_cancelled_at_once,
                a_running_job_is_asked_to_stop,
                a_cancelled_job_is_not_tried_again,
                what_is_over_cannot_be_cancelled,
                a_retried_job_starts_afresh_under_a_newer_epoch,
                a_retry_needs_an_ended_job,
                stats_count_by_kind,
                jobs_are_listed_newest_first,
                job_filters_combine,
                a_retry_may_wait,
                old_jobs_are_purged;
            lock:
                a_lease_has_one_holder,
                a_lease_expires_exactly,
                epochs_only_grow,
                racing_for_a_lease_has_one_winner,
                a_renewed_lease_lasts,
                an_expired_lease_is_revived_unless_taken,
                a_late_release_frees_nothing,
                leases_can_be_inspected,
                a_repeated_request_finds_its_grant,
                a_floor_lifts_the_epoch,
                candidates_hear_of_a_release;
        }
    };
    (@ $harness:expr; $($group:ident: $($case:ident),+;)+) => {
        $(
            mod $group {
                #[allow(unused_imports)]
                use super::*;
                $(
                    #[::tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn $case() {
                        let harness = $harness;
                        if !$crate::conformance::store::skipped(&harness, stringify!($case)) {
                            $crate::conformance::store::$group::$case(&harness).await;
                        }
                    }
                )+
            }
        )+
    };
}
