//! What every [`AsyncIssuer`](crate::issuer::AsyncIssuer) must do, as tests.
//!
//! Implement [`IssuerHarness`] and [`CaFixture`] and call [`issuer_conformance!`](crate::issuer_conformance) in a file of
//! tests. Each case runs the engine, with a store in memory and a clock that jumps to what is due next, against a CA of
//! its own: so it shows what the issuer does at the CA, and what certlib makes of its answers.

mod lab;
pub mod once;
pub mod outcome;
pub mod polling;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

pub use self::lab::{Call, Called, Lab};
use crate::bundle::CertificateBundle;
use crate::issuer::IssuerFactory;
use crate::secret::SecretString;

/// How the suite gets at the issuer under test, and at CAs for it.
#[async_trait]
pub trait IssuerHarness: Send + Sync {
    /// Makes the issuers under test.
    fn factory(&self) -> Arc<dyn IssuerFactory>;

    /// A CA that shares nothing with any other and has issued nothing. `None` when what it needs was left out on
    /// purpose.
    async fn fresh(&self) -> Option<Box<dyn CaFixture>>;

    /// Cases that this issuer, or this CA, cannot pass, by name, each with the reason.
    fn unsupported(&self) -> &[(&str, &str)] {
        &[]
    }
}

/// One CA, a way to look at it without the issuer, and a hand on what goes wrong there.
#[async_trait]
pub trait CaFixture: Send + Sync {
    /// The issuer's configuration for it.
    fn config(&self) -> Value;

    /// The issuer's credential, as JSON text.
    fn credentials(&self) -> Option<SecretString>;

    /// Configuration and credential of a login that the CA refuses; `None` when it needs none.
    fn refused(&self) -> Option<(Value, Option<SecretString>)>;

    /// The secrets in these credentials: they must be seen nowhere.
    fn secrets(&self) -> Vec<String>;

    /// The names to ask for.
    fn names(&self) -> Vec<String> {
        vec!["www.shop.example".to_owned()]
    }

    /// From now on this goes wrong, and nothing else.
    async fn set(&self, fault: CaFault);

    /// How many orders the CA has accepted.
    async fn orders(&self) -> usize;

    /// Whether the CA says that this certificate is revoked.
    async fn is_revoked(&self, bundle: &CertificateBundle) -> bool;
}

/// What goes wrong at a CA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CaFault {
    /// Nothing.
    None,
    /// Orders are accepted, and stay pending as long as this lasts.
    Pending,
    /// Orders are accepted, but who placed them gets no answer.
    LoseAnswers,
    /// Every question about an order, and nothing else, is answered with this status.
    Status {
        /// The HTTP status.
        status: u16,
        /// The `Retry-After` that comes with it.
        retry_after: Option<Duration>,
    },
    /// Every question about an order is answered with success and the page of a proxy.
    Garbage,
    /// It refuses every order for good, after it accepted it.
    Reject,
    /// It issues for other names than it was asked for.
    WrongNames,
}

/// Runs `case` unless the harness does not support it or its needs were left out.
pub async fn run<H: IssuerHarness>(harness: &H, case: &str, run: impl AsyncFnOnce(&H)) {
    if let Some((_, reason)) = harness.unsupported().iter().find(|(name, _)| *name == case) {
        eprintln!("{case} is not supported: {reason}");
        return;
    }
    // What is left out on purpose says so by itself.
    if harness.fresh().await.is_some() {
        run(harness).await;
    }
}

/// Expands to one `#[tokio::test]` for each case of the [issuer suite](crate::conformance::issuer).
///
/// Its argument is an expression for an [`IssuerHarness`](crate::conformance::issuer::IssuerHarness); each test evaluates
/// it anew. The calling crate needs `tokio` with the features `macros` and `rt-multi-thread`.
#[macro_export]
macro_rules! issuer_conformance {
    ($harness:expr) => {
        $crate::issuer_conformance! { @ $harness;
            once:
                submit_is_idempotent,
                crash_between_submit_and_save,
                a_lost_answer_orders_nothing_twice,
                pending_never_reorders;
            polling:
                poll_schedule_exact,
                deadline_returns_still_pending,
                triage_table;
            outcome:
                what_is_issued_is_what_was_asked_for,
                a_rejected_order_ends,
                wrong_certificate_is_quarantined,
                revoke,
                bad_credentials,
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
                        $crate::conformance::issuer::run(
                            &$harness,
                            stringify!($case),
                            $crate::conformance::issuer::$group::$case,
                        )
                        .await;
                    }
                )+
            }
        )+
    };
}
