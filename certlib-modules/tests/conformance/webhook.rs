//! `webhook`, with a receiver that keeps what it is told.

use std::sync::Arc;

use async_trait::async_trait;
use certlib_core::conformance::module::{ModuleFixture, ModuleHarness};
use certlib_core::module::{ErasedModule, TargetSpec};
use certlib_core::{CertificateBundle, Secret};
use serde_json::json;

use crate::receiver::Receiver;
use crate::{Certificates, module};

const BEARER: &str = "bearer-2f9a41";
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

struct Hook;

struct Listening {
    receiver: Receiver,
    certificates: Certificates,
}

const EVENTS: &str = "a webhook hands over events: the receiver's state cannot be seen, compared or restored from here";

#[async_trait]
impl ModuleHarness for Hook {
    fn module(&self) -> Arc<dyn ErasedModule> {
        module("webhook")
    }

    async fn fresh(&self) -> Option<Box<dyn ModuleFixture>> {
        Some(Box::new(Listening { receiver: Receiver::start().await, certificates: Certificates::new() }))
    }

    fn tested_against(&self) -> &str {
        "an HTTP receiver"
    }

    fn unsupported(&self) -> &[(&str, &str)] {
        &[
            ("dry_run_equals_execute", EVENTS),
            ("execute_twice_is_once", EVENTS),
            ("rollback_after_half", EVENTS),
            ("rollback_after_everything", EVENTS),
            ("rollback_twice", EVENTS),
            ("stale_base_is_refused", EVENTS),
            ("foreign_change_is_refused", EVENTS),
            ("a_crash_at_any_record_is_resumed", EVENTS),
        ]
    }
}

#[async_trait]
impl ModuleFixture for Listening {
    fn target(&self) -> TargetSpec {
        let config = json!({ "allow_http": true, "addresses": { "allow_loopback": true } });
        let location = json!({ "url": format!("http://{}/hook", self.receiver.addr) });
        let credentials = json!({ "bearer": BEARER, "secret": SECRET });
        TargetSpec::new("t-1", "hook", config, location, Some(Secret::new(credentials.to_string())))
    }

    fn refused(&self) -> Option<TargetSpec> {
        // A dry run sends nothing, so nobody can refuse it.
        None
    }

    fn secrets(&self) -> Vec<String> {
        vec![BEARER.to_owned(), SECRET.to_owned()]
    }

    fn bundle(&self, number: usize) -> CertificateBundle {
        self.certificates.bundle(number)
    }

    async fn state(&self) -> String {
        self.receiver.requests().iter().map(|request| format!("{}\n", request.line)).collect()
    }

    async fn meddle(&self) {}
}

certlib_core::module_conformance!(Hook);
