//! An issuer for a simulated account.

use std::sync::Arc;

use certlib_core::Context;
use certlib_core::issuer::{AsyncIssuer, IssuerFactory as _, OrderHandle, OrderSearch, OrderState, Recovery};
use certlib_core::secret::SecretString;
use certlib_issuers::globalsign::GlobalSignFactory;
use certlib_testkit::globalsign::GlobalSignSim;
use certlib_testkit::pki::Issued;
use serde_json::{Value, json};

use crate::common::{MemoryState, spec};

pub(crate) fn config(ca: &GlobalSignSim) -> Value {
    json!({
        "url": ca.url(),
        "connection": {
            "tls": { "ca_pem": ca.ca_pem() },
            "addresses": { "allow_loopback": true },
            "timeouts": { "connect_ms": 5000, "response_ms": 20_000, "total_ms": 30_000 },
        },
    })
}

/// The account's credential, with this secret.
pub(crate) fn credentials(ca: &GlobalSignSim, secret: &str) -> SecretString {
    credentials_with(ca, secret, ca.client())
}

/// The same with another client certificate.
pub(crate) fn credentials_with(ca: &GlobalSignSim, secret: &str, client: &Issued) -> SecretString {
    let client = json!({ "certificate_pem": client.certificate_pem, "private_key_pem": *client.key_pem });
    json!({ "api_key": ca.api_key(), "api_secret": secret, "client": client }).to_string().into()
}

/// An issuer with some settings of its own.
pub(crate) async fn issuer(ca: &GlobalSignSim, settings: Value) -> Arc<dyn AsyncIssuer> {
    issuer_with(ca, credentials(ca, ca.api_secret()), settings).await
}

/// The same with another credential.
pub(crate) async fn issuer_with(
    ca: &GlobalSignSim,
    credentials: SecretString,
    settings: Value,
) -> Arc<dyn AsyncIssuer> {
    let mut config = config(ca);
    for (name, value) in settings.as_object().unwrap() {
        config[name] = value.clone();
    }
    let mut spec = spec(config, &Arc::new(MemoryState::default()));
    spec.credentials = Some(credentials);
    GlobalSignFactory.build(&Context::new("test"), spec).await.unwrap()
}

pub(crate) fn search(issuer: &dyn AsyncIssuer) -> &dyn OrderSearch {
    match issuer.recovery() {
        Recovery::Search(search) => search,
        other => panic!("no search: {other:?}"),
    }
}

/// Asks once; the order must be pending.
pub(crate) async fn pending(issuer: &dyn AsyncIssuer, cx: &Context, handle: &OrderHandle) {
    match issuer.poll(cx, handle).await.unwrap() {
        OrderState::Pending { .. } => {}
        other => panic!("not pending: {other:?}"),
    }
}
