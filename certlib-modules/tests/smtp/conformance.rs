//! The module conformance suite, with a relay whose recipients drop doubles and heed notices.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use certlib_core::conformance::module::{ModuleFixture, ModuleHarness};
use certlib_core::module::{ErasedModule, TargetSpec};
use certlib_core::{CertificateBundle, Secret};
use certlib_testkit::counterpart::Aiosmtpd;

use super::{CONTAINER_PASSWORD, Parsed, RelayCertificate, merged, password};
use certlib_testkit::pki::TestCa;
use serde_json::json;

struct Mailing;

struct Mailbox {
    server: Aiosmtpd,
    certificate: RelayCertificate,
    bundles: Vec<String>,
}

const NO_LOOK: &str =
    "what recipients have cannot be seen from here, so a plan always delivers, and never notices others";

#[async_trait]
impl ModuleHarness for Mailing {
    fn module(&self) -> Arc<dyn ErasedModule> {
        certlib_modules::registry().unwrap().module("smtp").unwrap()
    }

    async fn fresh(&self) -> Option<Box<dyn ModuleFixture>> {
        let certificate = RelayCertificate::new();
        let started = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(super::misbehaving(&certificate))
        });
        let server = match started {
            Ok(server) => server,
            Err(certlib_testkit::Error::LeftOut { .. }) => return None,
            Err(error) => panic!("{error}"),
        };
        let ca = TestCa::new("test root").unwrap();
        let bundles = (0..3).map(|_| ca.issue(&["localhost"]).unwrap().combined()).collect();
        Some(Box::new(Mailbox { server, certificate, bundles }))
    }

    fn tested_against(&self) -> &str {
        "aiosmtpd 1.4.6"
    }

    fn unsupported(&self) -> &[(&str, &str)] {
        &[
            ("dry_run_equals_execute", NO_LOOK),
            ("stale_base_is_refused", NO_LOOK),
            ("foreign_change_is_refused", NO_LOOK),
            ("a_crash_at_any_record_is_resumed", NO_LOOK),
        ]
    }
}

#[async_trait]
impl ModuleFixture for Mailbox {
    fn target(&self) -> TargetSpec {
        let config = json!({
            "from": "certs@example.com",
            "addresses": { "allow_loopback": true },
            "tls": self.certificate.tls(),
            "include_private_key": true,
            "allow_unencrypted_key": true,
            "attachments": [{}, { "content": "combined" }, { "content": "pkcs12" }],
        });
        let location = json!({
            "host": "127.0.0.1",
            "port": self.server.addr().port(),
            "server_name": "mail.test",
            "to": ["ops@example.com"],
        });
        let credentials = merged(password(self.server.login()), json!({ "pkcs12_password": CONTAINER_PASSWORD }));
        TargetSpec::new("t-1", "mailbox", config, location, Some(Secret::new(credentials.to_string())))
    }

    fn refused(&self) -> Option<TargetSpec> {
        // A dry run sends nothing, so nobody can refuse it.
        None
    }

    fn secrets(&self) -> Vec<String> {
        vec![self.server.login().password().to_owned(), CONTAINER_PASSWORD.to_owned()]
    }

    fn bundle(&self, number: usize) -> CertificateBundle {
        CertificateBundle::from_pem(self.bundles[number].as_bytes()).unwrap()
    }

    /// The deliveries that count: each once, and not those that a notice took back.
    async fn state(&self) -> String {
        let mut deliveries = BTreeSet::new();
        for mail in self.server.mails().unwrap() {
            let mail = Parsed::read(&mail.bytes).await;
            match mail.header("in-reply-to") {
                Some(about) => drop(deliveries.remove(about)),
                None => drop(deliveries.insert(mail.header("message-id").unwrap().to_owned())),
            }
        }
        deliveries.into_iter().collect::<Vec<_>>().join("\n")
    }

    async fn meddle(&self) {}
}

certlib_core::module_conformance!(Mailing);
