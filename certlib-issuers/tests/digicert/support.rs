//! An issuer for a simulated account.

use std::sync::Arc;

use certlib_core::Context;
use certlib_core::issuer::{AsyncIssuer, IssuerFactory as _, OrderHandle, OrderSearch, OrderState, Recovery};
use certlib_core::secret::SecretString;
use certlib_issuers::digicert::DigiCertFactory;
use certlib_testkit::digicert::DigiCertSim;
use serde_json::{Value, json};

use crate::common::{MemoryState, spec};

/// The configuration for an administrator's key.
pub(crate) fn config(ca: &DigiCertSim) -> Value {
    json!({
        "url": ca.url(),
        "product": "ssl_basic",
        "organization_id": DigiCertSim::ORGANIZATION,
        "skip_approval": true,
        "connection": {
            "tls": { "ca_pem": ca.ca_pem() },
            "addresses": { "allow_loopback": true },
            "timeouts": { "connect_ms": 5000, "response_ms": 20_000, "total_ms": 30_000 },
        },
    })
}

pub(crate) fn credentials(key: &str) -> SecretString {
    json!({ "api_key": key }).to_string().into()
}

/// An issuer with an administrator's key, and some settings of its own.
pub(crate) async fn issuer(ca: &DigiCertSim, settings: Value) -> Arc<dyn AsyncIssuer> {
    issuer_with(ca, ca.api_key(), settings).await
}

/// The same with another key.
pub(crate) async fn issuer_with(ca: &DigiCertSim, key: &str, settings: Value) -> Arc<dyn AsyncIssuer> {
    let mut config = config(ca);
    for (name, value) in settings.as_object().unwrap() {
        config[name] = value.clone();
    }
    let mut spec = spec(config, &Arc::new(MemoryState::default()));
    spec.credentials = Some(credentials(key));
    DigiCertFactory.build(&Context::new("test"), spec).await.unwrap()
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
