//! What these tests share.

use std::sync::Arc;

use certlib_core::Context;
use certlib_core::issuer::{AsyncIssuer, IssuerFactory, OrderHandle, OrderState};
use certlib_issuers::adcs::AdcsFactory;
use certlib_testkit::adcs::{AdcsSim, AdcsSimBuilder, Auth, Template};
use certlib_testkit::pki::{Issued, TestCa};
use serde_json::{Value, json};

use super::common::{MemoryState, spec};

pub(super) const USER: &str = "svc-certs";
pub(super) const PASSWORD: &str = "CANARY-P<&\"ässw0rd!";
pub(super) const OTHER: &str = "somebody";
pub(super) const OTHER_PASSWORD: &str = "CANARY-el5e";

/// A way to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// The web services, with name and password in the message.
    Token,
    /// The web services, with HTTP Basic.
    Basic,
    /// The web services, with a client certificate.
    Certificate,
    /// The web pages, with HTTP Basic.
    Pages,
}

pub(super) const ALL: [Way; 4] = [Way::Token, Way::Basic, Way::Certificate, Way::Pages];

impl Way {
    pub(super) fn auth(self) -> Auth {
        match self {
            Self::Token | Self::Pages => Auth::UsernamePassword,
            Self::Basic => Auth::Kerberos,
            Self::Certificate => Auth::Certificate,
        }
    }
}

/// Services, and a certificate that may log in.
pub(super) struct Pki {
    pub(super) sim: AdcsSim,
    pub(super) client: Issued,
}

/// Services with two accounts and a template for every outcome.
pub(super) fn builder() -> AdcsSimBuilder {
    AdcsSim::builder()
        .user(USER, PASSWORD)
        .user(OTHER, OTHER_PASSWORD)
        .template(Template::new("WebServer"))
        .template(Template::new("Approved").manager_approval())
        .template(Template::new("OthersOnly").only_for(&[OTHER]))
        .template(Template::new("Agents").signatures(1))
        .template(Template::new("Machine").subject_from_directory())
        .template(Template::new("LongKeys").minimal_key_length(4096))
}

pub(super) async fn start(builder: AdcsSimBuilder) -> Pki {
    let client = TestCa::new("clients").unwrap().issue(&["client"]).unwrap();
    let sim = builder.certificate_user(&client.certificate_pem, USER).start().await.unwrap();
    Pki { sim, client }
}

impl Pki {
    pub(super) fn config(&self, way: Way) -> Value {
        let connection = json!({ "tls": { "ca_pem": self.sim.ca_pem() }, "addresses": { "allow_loopback": true } });
        let mut config = json!({ "template": "WebServer", "connection": connection });
        let settings = match way {
            Way::Pages => json!({ "enrolment": "certsrv", "certsrv_url": self.sim.certsrv_url() }),
            way => json!({
                "enrolment": "ces",
                "cep_url": self.sim.cep_url(way.auth()),
                "http_basic": way == Way::Basic,
            }),
        };
        merge(&mut config, &settings);
        config
    }

    pub(super) fn credentials(&self, way: Way) -> String {
        match way {
            Way::Certificate => identity(&self.client),
            _ => login(USER, PASSWORD),
        }
    }

    pub(super) async fn issuer(&self, way: Way, settings: Value) -> Arc<dyn AsyncIssuer> {
        self.issuer_as(way, &self.credentials(way), settings).await
    }

    pub(super) async fn issuer_as(&self, way: Way, credentials: &str, settings: Value) -> Arc<dyn AsyncIssuer> {
        let mut config = self.config(way);
        merge(&mut config, &settings);
        let mut spec = spec(config, &Arc::<MemoryState>::default());
        spec.credentials = Some(credentials.to_owned().into());
        AdcsFactory.build(&Context::new("test"), spec).await.unwrap()
    }
}

pub(super) fn login(user: &str, password: &str) -> String {
    json!({ "username": user, "password": password }).to_string()
}

pub(super) fn identity(signed: &Issued) -> String {
    json!({ "certificate_pem": signed.certificate_pem, "private_key_pem": *signed.key_pem }).to_string()
}

fn merge(config: &mut Value, settings: &Value) {
    for (key, value) in settings.as_object().unwrap() {
        config[key] = value.clone();
    }
}

/// Polls once, and wants the order to be pending.
pub(super) async fn pending(issuer: &dyn AsyncIssuer, cx: &Context, handle: &OrderHandle) {
    let state = issuer.poll(cx, handle).await.unwrap();
    assert!(matches!(state, OrderState::Pending { .. }), "{state:?}");
}
