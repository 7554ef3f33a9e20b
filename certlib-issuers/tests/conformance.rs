//! The issuer suite on the local CA, which has no login, loses nothing, and answers at once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::sync::Arc;

use async_trait::async_trait;
use certlib_core::CertificateBundle;
use certlib_core::conformance::issuer::{CaFault, CaFixture, IssuerHarness};
use certlib_core::issuer::IssuerFactory;
use certlib_core::secret::SecretString;
use certlib_issuers::local_ca::LocalCaFactory;
use serde_json::{Value, json};

const NOBODY: &str = "the CA is this process: there is nobody who could fail to answer, or answer something else";

struct LocalCa;

#[async_trait]
impl IssuerHarness for LocalCa {
    fn factory(&self) -> Arc<dyn IssuerFactory> {
        Arc::new(LocalCaFactory::new())
    }

    async fn fresh(&self) -> Option<Box<dyn CaFixture>> {
        Some(Box::new(Itself))
    }

    fn unsupported(&self) -> &[(&str, &str)] {
        &[
            ("submit_is_idempotent", NOBODY),
            ("a_lost_answer_orders_nothing_twice", NOBODY),
            ("pending_never_reorders", NOBODY),
            ("poll_schedule_exact", NOBODY),
            ("deadline_returns_still_pending", NOBODY),
            ("triage_table", NOBODY),
            ("a_rejected_order_ends", NOBODY),
            ("wrong_certificate_is_quarantined", NOBODY),
            ("revoke", "it publishes no revocation lists"),
        ]
    }
}

struct Itself;

#[async_trait]
impl CaFixture for Itself {
    fn config(&self) -> Value {
        json!({})
    }

    fn credentials(&self) -> Option<SecretString> {
        None
    }

    fn refused(&self) -> Option<(Value, Option<SecretString>)> {
        None
    }

    fn secrets(&self) -> Vec<String> {
        Vec::new()
    }

    async fn set(&self, fault: CaFault) {
        assert_eq!(fault, CaFault::None, "{NOBODY}");
    }

    /// An order is its handle: there is no memory that could hold two.
    async fn orders(&self) -> usize {
        1
    }

    async fn is_revoked(&self, _: &CertificateBundle) -> bool {
        false
    }
}

certlib_core::issuer_conformance!(LocalCa);
