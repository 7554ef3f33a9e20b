//! Tokens and data keys are in requests only: not in URLs, errors, logs and debug output.

use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certlib_core::secret::{KeyProvider as _, SecretString};
use certlib_keys::vault_transit::VaultAuth;
use certlib_testkit::vault::{Fault, Injection};
use serde_json::json;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::support::{AAD, KEY, Server, dek, only};

/// Writes down everything that is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<String>>);

struct Line<'a>(&'a mut String);

impl Visit for Line<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = write!(self.0, " {field}={value:?}");
    }
}

impl Subscriber for Log {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        attributes.record(&mut Line(&mut self.0.lock().unwrap()));
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        values.record(&mut Line(&mut self.0.lock().unwrap()));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        event.record(&mut Line(&mut self.0.lock().unwrap()));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[tokio::test]
async fn nothing_secret_is_shown() {
    let log = Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let server = Server::simulated().await;
    server.configure(KEY, json!({ "exportable": true })).await;
    let (role_id, secret) = server.sim().create_approle("r", json!({ "token_policies": "root" })).unwrap();
    let secret_id = Some(SecretString::new(secret.clone()));
    let provider = server.provider_with(VaultAuth::AppRole { mount: "approle".to_owned(), role_id, secret_id });
    let mut shown = format!("{provider:?} {:?}", server.config(1));
    let kek = only(&provider).await;
    let dek = dek(0x5a);
    let wrapped = provider.wrap(&kek, &dek, AAD).await.unwrap();
    let plain = STANDARD.encode(dek.expose());

    // What a careless server could repeat.
    let canaries =
        format!(r#"{{"errors": ["{secret} {plain}"], "data": {{"plaintext": 1, "x": "{secret} {plain}"}}}}"#);
    for status in [200, 400, 403, 404, 500] {
        let fault = Fault::Answer { status, content_type: "text/plain".to_owned(), body: canaries.clone() };
        for path in ["transit/encrypt/", "transit/decrypt/", "transit/hmac/", "transit/keys/"] {
            server.sim().inject(Injection::new(fault.clone()).on(path));
        }
        for error in [
            provider.wrap(&kek, &dek, AAD).await.unwrap_err(),
            provider.unwrap(&kek, &wrapped, AAD).await.unwrap_err(),
            provider.keys().await.unwrap_err(),
        ] {
            let _ = write!(shown, "{error} {error:?}");
        }
        server.sim().clear_faults();
    }
    server.sim().expire_tokens();
    let fault = Fault::Answer { status: 400, content_type: "text/plain".to_owned(), body: canaries };
    server.sim().inject(Injection::new(fault).on("auth/approle/login"));
    let error = provider.wrap(&kek, &dek, AAD).await.unwrap_err();
    let _ = write!(shown, "{error} {error:?} {provider:?} {wrapped:?}");
    let _ = write!(shown, "{:?}", server.sim().history());
    shown.push_str(&log.0.lock().unwrap());
    assert!(shown.contains("this key can be taken out of Vault"), "the log is listened to");
    let raw = dek.expose().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    for (what, canary) in [("the secret id", &secret), ("the data key", &plain), ("its digits", &raw)] {
        assert!(!shown.contains(canary.as_str()), "{what} is shown");
    }
    assert!(!shown.contains("hvs."), "a token is shown");
}
