//! The issuer suite on a simulated Vault.

use std::sync::Arc;

use async_trait::async_trait;
use certlib_core::CertificateBundle;
use certlib_core::conformance::issuer::{CaFault, CaFixture, IssuerHarness};
use certlib_core::issuer::IssuerFactory;
use certlib_core::secret::SecretString;
use certlib_issuers::vault_pki::VaultPkiFactory;
use certlib_testkit::vault::{Fault, Injection};
use serde_json::{Value, json};

use super::support::{Server, approle};

/// Polls are shown nowhere else because there are none.
const AT_ONCE: &str =
    "the certificate comes with the answer to the order: there is nothing to wait for, and nothing to ask";

struct VaultPki;

#[async_trait]
impl IssuerHarness for VaultPki {
    fn factory(&self) -> Arc<dyn IssuerFactory> {
        Arc::new(VaultPkiFactory)
    }

    async fn fresh(&self) -> Option<Box<dyn CaFixture>> {
        let server = Server::simulated().await;
        server.role("web", json!({ "ttl": "24h" })).await;
        let sim = server.sim();
        sim.write("sys/policies/acl/signs", json!({ "policy": POLICY })).unwrap();
        let (role, secret) = sim.create_approle("certlib", json!({ "token_policies": ["signs"] })).unwrap();
        Some(Box::new(Mount { server, role, secret }))
    }

    fn unsupported(&self) -> &[(&str, &str)] {
        &[
            ("submit_is_idempotent", AT_ONCE),
            ("pending_never_reorders", AT_ONCE),
            ("poll_schedule_exact", AT_ONCE),
            ("deadline_returns_still_pending", AT_ONCE),
            ("triage_table", AT_ONCE),
        ]
    }
}

/// What the documentation says that a login needs, and no more.
const POLICY: &str = r#"{"path": {
    "pki/sign/web": {"capabilities": ["update"]},
    "pki/revoke": {"capabilities": ["update"]}
}}"#;

struct Mount {
    server: Server,
    role: String,
    secret: String,
}

#[async_trait]
impl CaFixture for Mount {
    fn config(&self) -> Value {
        self.server.config(json!({}))
    }

    fn credentials(&self) -> Option<SecretString> {
        Some(approle(&self.role, &self.secret))
    }

    fn refused(&self) -> Option<(Value, Option<SecretString>)> {
        Some((self.config(), Some(approle(&self.role, "CANARY-SECRET"))))
    }

    fn secrets(&self) -> Vec<String> {
        vec![self.secret.clone(), "CANARY-SECRET".to_owned()]
    }

    async fn set(&self, fault: CaFault) {
        let (server, sim) = (&self.server, self.server.sim());
        sim.clear_faults();
        // The lab's clock jumps, and Vault's does not.
        server.role("web", json!({ "ttl": "24h" })).await;
        let sign = |fault| sim.inject(Injection::new(fault).on("pki/sign/web"));
        match fault {
            CaFault::None => {}
            CaFault::LoseAnswers => sign(Fault::LoseReply),
            CaFault::Reject => {
                server.role("web", json!({ "allow_any_name": false, "allowed_domains": "other.example" })).await;
            }
            CaFault::WrongNames => {
                sign(Fault::ReplaceData(
                    sim.write("pki/issue/web", json!({ "common_name": "other.example" })).unwrap(),
                ));
            }
            other => panic!("{other:?}: {AT_ONCE}"),
        }
    }

    async fn orders(&self) -> usize {
        self.server.serials().await.len()
    }

    async fn is_revoked(&self, bundle: &CertificateBundle) -> bool {
        self.server.is_revoked(bundle).await
    }
}

certlib_core::issuer_conformance!(VaultPki);
