//! What a webhook target is told: where, how, and with which secrets.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certlib_core::error::{Error, Result};
use certlib_core::secret::SecretString;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::OPERATION;
use super::sign::SignatureScheme;
use crate::net::{AddressPolicy, Timeouts, TlsSettings};

/// Where to deliver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct WebhookLocation {
    /// The receiver's URL, as [`HttpUrl`](crate::net::HttpUrl) accepts it. Shown in plans, except for its query.
    pub url: String,
}

/// How to deliver. Everything has a default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct WebhookConfig {
    /// Headers to send along, such as a tenant's id. No secrets: those belong to the credential.
    pub headers: BTreeMap<String, String>,
    /// Sends the private key too. Needs https with a verified peer.
    pub include_private_key: bool,
    /// How deliveries are signed.
    pub signature: SignatureScheme,
    /// How long to wait.
    pub timeouts: Timeouts,
    /// Admits `http://` URLs.
    pub allow_http: bool,
    /// Which addresses the receiver may have, besides public ones.
    pub addresses: AddressPolicy,
    /// Whom to trust as the receiver.
    pub tls: TlsSettings,
}

/// With which secrets to deliver.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct WebhookCredentials {
    /// The secret that signs; see [`SignatureScheme`].
    pub secret: Option<SecretString>,
    /// The secret before, as long as receivers may not know the new one.
    pub previous_secret: Option<SecretString>,
    /// Sent as `Authorization: Bearer`.
    pub bearer: Option<SecretString>,
    /// Sent as `Authorization: Basic`; not together with `bearer`.
    pub basic: Option<Basic>,
}

/// A user name and a password.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Basic {
    /// The user name, without a colon.
    pub username: String,
    /// The password.
    pub password: SecretString,
}

/// Headers that say how a request is framed, routed or signed: never the configuration's to set.
const RESERVED: [&str; 18] = [
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "user-agent",
    "accept-encoding",
    "authorization",
    "proxy-authorization",
    "proxy-connection",
    "idempotency-key",
    "x-hub-signature-256",
];

/// The headers that are the same for every delivery.
///
/// # Errors
/// `Validation`: `header_invalid` with `field`, `credentials_invalid`.
pub(super) fn headers(config: &WebhookConfig, credentials: Option<&WebhookCredentials>) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in &config.headers {
        let invalid = |why| Error::validation(OPERATION, "header_invalid", why).with("field", name.escape_debug());
        let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid("not the name of a header"))?;
        if RESERVED.contains(&parsed.as_str()) || parsed.as_str().starts_with("webhook-") {
            return Err(invalid("this header is set by the module or by the credential"));
        }
        let value = printable(value)
            .ok_or_else(|| invalid("the value has characters other than printable ASCII, such as a line break"))?;
        if headers.insert(parsed, value).is_some() {
            return Err(invalid("the header is there twice, in upper and lower case"));
        }
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(value) = credentials.map(authorization).transpose()?.flatten() {
        headers.insert(AUTHORIZATION, value);
    }
    Ok(headers)
}

fn authorization(credentials: &WebhookCredentials) -> Result<Option<HeaderValue>> {
    let invalid = |why| Error::validation(OPERATION, "credentials_invalid", why);
    let text = match (&credentials.bearer, &credentials.basic) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => return Err(invalid("give either `bearer` or `basic`")),
        (Some(token), None) => Zeroizing::new(format!("Bearer {}", token.expose())),
        (None, Some(basic)) if basic.username.contains(':') => return Err(invalid("a user name has no colon")),
        (None, Some(basic)) => {
            let login = Zeroizing::new(format!("{}:{}", basic.username, basic.password.expose()));
            Zeroizing::new(format!("Basic {}", STANDARD.encode(login.as_bytes())))
        }
    };
    let mut value = printable(&text).ok_or_else(|| invalid("a token is printable ASCII"))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// `text` as a header, if it is printable ASCII: HTTP lets other bytes pass, but no two readers agree on them.
fn printable(text: &str) -> Option<HeaderValue> {
    let plain = text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    HeaderValue::from_str(text).ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_header(name: &str, value: &str) -> Result<HeaderMap> {
        let config = WebhookConfig { headers: [(name.into(), value.into())].into(), ..WebhookConfig::default() };
        headers(&config, None)
    }

    #[test]
    fn headers_that_inject_or_override_are_refused() {
        let values = ["a\r\nHost: bad", "a\n", "a\r", "a\0", "a\u{2028}b", "a\u{2029}", "line\r\n folded", "ü"];
        for value in values {
            assert_eq!(with_header("X-Tenant", value).unwrap_err().code(), "header_invalid", "{value:?}");
        }
        let names = ["", "X Tenant", "X-Tenant:", "X\r\nHost", "X\0", "Host", "content-LENGTH", "Transfer-Encoding"];
        for name in names.into_iter().chain(["Connection", "Authorization", "webhook-id", "Webhook-Signature"]) {
            let error = with_header(name, "a").unwrap_err();
            assert_eq!(error.code(), "header_invalid", "{name:?}");
            assert!(error.context().any(|(key, _)| key == "field"));
            assert!(!error.to_string().contains('\n'));
        }
        assert_eq!(with_header("X-Tenant", "a b").unwrap()["x-tenant"], "a b");
    }

    #[test]
    fn a_header_in_two_spellings_is_refused() {
        let config = WebhookConfig {
            headers: [("X-A".into(), "1".into()), ("x-a".into(), "2".into())].into(),
            ..WebhookConfig::default()
        };
        assert_eq!(headers(&config, None).unwrap_err().code(), "header_invalid");
    }

    #[test]
    fn logins_become_sensitive_headers() {
        let login = |text: &str| {
            let credentials: WebhookCredentials = serde_json::from_str(text).unwrap();
            headers(&WebhookConfig::default(), Some(&credentials))
        };
        let basic = login(r#"{"basic": {"username": "Aladdin", "password": "open sesame"}}"#).unwrap();
        assert_eq!(basic[AUTHORIZATION], "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        let bearer = login(r#"{"bearer": "canary"}"#).unwrap();
        assert_eq!(bearer[AUTHORIZATION], "Bearer canary");
        assert!(!format!("{bearer:?}").contains("canary"));
        for text in [
            r#"{"bearer": "a\nb"}"#,
            r#"{"bearer": "\u2028"}"#,
            r#"{"bearer": "a", "basic": {"username": "u", "password": "p"}}"#,
            r#"{"basic": {"username": "u:v", "password": "p"}}"#,
        ] {
            assert_eq!(login(text).unwrap_err().code(), "credentials_invalid", "{text}");
        }
    }

    #[test]
    fn time_outs_have_limits() {
        for text in [r#"{"connect_ms": 0}"#, r#"{"response_ms": 300001}"#, r#"{"total_ms": 18446744073709551615}"#] {
            let timeouts: Timeouts = serde_json::from_str(text).unwrap();
            assert_eq!(timeouts.check().unwrap_err().code(), "timeout_invalid", "{text}");
        }
        assert!(Timeouts::default().check().is_ok());
    }
}
