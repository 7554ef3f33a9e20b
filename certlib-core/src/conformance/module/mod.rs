//! What every [`DistributionModule`](crate::module::DistributionModule) must do, as tests.
//!
//! Implement [`ModuleHarness`] and [`ModuleFixture`] and call [`module_conformance!`](crate::module_conformance) in a file
//! of tests:
//!
//! ```
//! # use std::sync::{Arc, Mutex};
//! # use certlib_core::module::*;
//! # use certlib_core::{CertificateBundle, Context, Result, error::codes};
//! use certlib_core::conformance::module::{ModuleFixture, ModuleHarness};
//!
//! # #[derive(Debug, Clone, Default)]
//! # struct Shelf;
//! # struct ShelfHarness;
//! # struct Board;
//! #[async_trait::async_trait]
//! impl ModuleHarness for ShelfHarness {
//!     # fn module(&self) -> Arc<dyn ErasedModule> { unreachable!() }
//!     # fn tested_against(&self) -> &str { "a shelf" }
//!     async fn fresh(&self) -> Option<Box<dyn ModuleFixture>> {
//!         Some(Box::new(Board))
//!     }
//!     // ...
//! }
//! # #[async_trait::async_trait]
//! # impl ModuleFixture for Board {
//! #     fn target(&self) -> TargetSpec { unreachable!() }
//! #     fn refused(&self) -> Option<TargetSpec> { None }
//! #     fn secrets(&self) -> Vec<String> { Vec::new() }
//! #     fn bundle(&self, _: usize) -> CertificateBundle { unreachable!() }
//! #     async fn state(&self) -> String { String::new() }
//! #     async fn meddle(&self) {}
//! # }
//!
//! certlib_core::module_conformance!(ShelfHarness);
//! # fn main() {}
//! ```
//!
//! Where the environment variable `CERTLIB_CONFORMANCE` names a folder, each case leaves its result there; the support
//! matrix is made from them.

mod bench;
pub mod conflict;
pub mod crash;
pub mod deliver;
mod dying;
mod record;
pub mod rollback;
pub mod secrecy;

use std::sync::Arc;

use async_trait::async_trait;

pub use self::bench::Bench;
pub use self::record::RESULTS;
use crate::bundle::CertificateBundle;
use crate::module::{ErasedModule, TargetSpec};

/// How the suite gets at the module under test, and at targets for it.
#[async_trait]
pub trait ModuleHarness: Send + Sync {
    /// The module under test.
    fn module(&self) -> Arc<dyn ErasedModule>;

    /// A target that shares nothing with any other and holds bundle 0, put there without the module's help. `None` when
    /// what it needs was left out on purpose.
    async fn fresh(&self) -> Option<Box<dyn ModuleFixture>>;

    /// What the module is tested against here, with its version, such as `"OpenSSH 9.2"`.
    fn tested_against(&self) -> &str;

    /// Cases that this module cannot pass, by name, each with the reason.
    fn unsupported(&self) -> &[(&str, &str)] {
        &[]
    }
}

/// One target, and a way to look at it without the module.
#[async_trait]
pub trait ModuleFixture: Send + Sync {
    /// The target, as the engine would hand it to the module.
    fn target(&self) -> TargetSpec;

    /// The same target with a login that it refuses; `None` when it needs none.
    fn refused(&self) -> Option<TargetSpec>;

    /// The secrets in the credentials of [`target`](Self::target) and [`refused`](Self::refused): they must be seen
    /// nowhere.
    fn secrets(&self) -> Vec<String>;

    /// A bundle for this target, with key: 0 is what it holds at first. The same number gives the same bundle.
    fn bundle(&self, number: usize) -> CertificateBundle;

    /// All that the module may change, as text: two looks are equal if, and only if, nothing that matters changed between
    /// them. Fingerprints stand for keys, because it is printed when a case fails.
    async fn state(&self) -> String;

    /// Somebody else puts something of their own where the module delivers.
    async fn meddle(&self);
}

/// Runs `case` unless the harness does not support it or its needs were left out, and keeps the result.
pub async fn run<H: ModuleHarness>(harness: &H, case: &str, run: impl AsyncFnOnce(&H)) {
    let (module, against) = (harness.module(), harness.tested_against());
    if let Some((_, reason)) = harness.unsupported().iter().find(|(name, _)| *name == case) {
        eprintln!("{case} is not supported: {reason}");
        return record::keep(&*module, against, case, Some(reason));
    }
    // What is left out on purpose says so by itself, and is no result.
    if harness.fresh().await.is_none() {
        return;
    }
    run(harness).await;
    record::keep(&*module, against, case, None);
}

/// Expands to one `#[tokio::test]` for each case of the [module suite](crate::conformance::module).
///
/// Its argument is an expression for a [`ModuleHarness`](crate::conformance::module::ModuleHarness); each test evaluates
/// it anew. The calling crate needs `tokio` with the features `macros` and `rt-multi-thread`.
#[macro_export]
macro_rules! module_conformance {
    ($harness:expr) => {
        $crate::module_conformance! { @ $harness;
            deliver:
                dry_run_changes_nothing,
                dry_run_equals_execute,
                what_is_delivered_validates,
                execute_twice_is_once;
            rollback:
                rollback_after_nothing,
                rollback_after_half,
                rollback_after_everything,
                rollback_twice;
            conflict:
                stale_base_is_refused,
                foreign_change_is_refused;
            crash:
                a_crash_at_any_record_is_resumed;
            secrecy:
                secrets_are_seen_nowhere,
                bad_credentials_are_not_echoed,
                unknown_settings_are_refused;
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
                        $crate::conformance::module::run(
                            &$harness,
                            stringify!($case),
                            $crate::conformance::module::$group::$case,
                        )
                        .await;
                    }
                )+
            }
        )+
    };
}
