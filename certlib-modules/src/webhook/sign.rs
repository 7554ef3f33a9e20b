//! Signatures over what is sent, and their check for receivers.

use std::fmt;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use certlib_core::error::{Error, Result};
use certlib_core::secret::{Secret, SecretBytes, SecretString};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use super::OPERATION;

/// How far the clocks of sender and receiver may be apart, and how old a delivery may be.
pub const TOLERANCE: Duration = Duration::minutes(5);

/// The header with the delivery's id: the same for every attempt.
pub(super) const ID: HeaderName = HeaderName::from_static("webhook-id");
/// The header with the time of the attempt, in seconds since 1970.
pub(super) const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const STANDARD_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const HUB_SIGNATURE: HeaderName = HeaderName::from_static("x-hub-signature-256");

/// How a delivery is signed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum SignatureScheme {
    /// "Standard Webhooks" 1.0.0: `webhook-signature: v1,<base64>` over id, time and body. The secret is
    /// `whsec_` and the base64 of 24 to 512 bytes.
    #[default]
    StandardWebhooks,
    /// As GitHub does: `X-Hub-Signature-256: sha256=<hex>` over the body. The secret is used as it is written.
    HubSha256,
    /// Not signed.
    None,
}

/// A scheme with its keys.
pub(super) struct Signer {
    scheme: SignatureScheme,
    /// The current one first.
    keys: Vec<hmac::Key>,
}

impl Signer {
    /// A signer. While a secret is rotated, the standard scheme signs with the previous one too; the other has room
    /// for one signature only.
    pub(super) fn new(
        scheme: SignatureScheme,
        secret: Option<&SecretString>,
        previous: Option<&SecretString>,
    ) -> Result<Self> {
        let secret = || {
            secret.filter(|secret| !secret.expose().is_empty()).ok_or_else(|| {
                Error::validation(
                    OPERATION,
                    "secret_missing",
                    "the credential needs a `secret` to sign with; `signature: none` sends without",
                )
            })
        };
        let keys = match scheme {
            SignatureScheme::StandardWebhooks => {
                [Some(secret()?), previous].into_iter().flatten().map(standard_key).collect::<Result<_>>()?
            }
            SignatureScheme::HubSha256 => vec![hmac::Key::new(hmac::HMAC_SHA256, secret()?.expose().as_bytes())],
            SignatureScheme::None => Vec::new(),
        };
        Ok(Self { scheme, keys })
    }

    /// Adds id, time and signature of one attempt to `headers`.
    pub(super) fn sign(&self, headers: &mut HeaderMap, id: &str, now: OffsetDateTime, body: &[u8]) -> Result<()> {
        let timestamp = now.unix_timestamp();
        headers.insert(ID, value(id)?);
        headers.insert(TIMESTAMP, HeaderValue::from(timestamp));
        let (name, signatures): (_, Vec<String>) = match self.scheme {
            SignatureScheme::StandardWebhooks => {
                (STANDARD_SIGNATURE, self.keys.iter().map(|key| standard(key, id, timestamp, body)).collect())
            }
            SignatureScheme::HubSha256 => (HUB_SIGNATURE, self.keys.iter().map(|key| hub(key, body)).collect()),
            SignatureScheme::None => return Ok(()),
        };
        headers.insert(name, value(&signatures.join(" "))?);
        Ok(())
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("scheme", &self.scheme).finish_non_exhaustive()
    }
}

/// Checks a delivery signed by [`SignatureScheme::StandardWebhooks`], as a receiver does: `id`, `timestamp` and
/// `signatures` are the values of the headers `webhook-id`, `webhook-timestamp` and `webhook-signature`, `body` the
/// bytes as they came. Signatures are compared in constant time.
///
/// What is left to the receiver is to remember the ids it has seen for [`TOLERANCE`], and to answer 200 to a known one
/// without acting again.
///
/// ```
/// use certlib_core::Secret;
/// use certlib_modules::webhook::verify;
///
/// let secret = Secret::new("whsec_Y2VydGxpYi1leGFtcGxlLXNlY3JldC0zMi1ieXRlcyE=".to_owned());
/// let now = time::OffsetDateTime::from_unix_timestamp(1_767_225_630)?;
/// let signature = "v1,ZFljUS/Q5gf2cogHZHJg/rDFcwFAfOYDoyG2SGBApVI=";
/// verify(&secret, "evt_01", "1767225600", signature, br#"{"type":"certificate.deployed"}"#, now)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// `Auth`: `signature_invalid`, `timestamp_invalid`; `Validation` `secret_invalid`.
pub fn verify(
    secret: &SecretString,
    id: &str,
    timestamp: &str,
    signatures: &str,
    body: &[u8],
    now: OffsetDateTime,
) -> Result<()> {
    let operation = "webhook.verify";
    let key = standard_key(secret)?;
    let wrong_time = || Error::auth(operation, "timestamp_invalid", "the delivery is too old, or from the future");
    let sent: i64 = timestamp.parse().map_err(|_| wrong_time())?;
    let message = standard_message(id, sent, body);
    let genuine = signatures
        .split(' ')
        .filter_map(|signature| signature.strip_prefix("v1,"))
        .any(|signature| STANDARD.decode(signature).is_ok_and(|tag| hmac::verify(&key, &message, &tag).is_ok()));
    if !genuine {
        return Err(Error::auth(operation, "signature_invalid", "none of the signatures is by this secret"));
    }
    if now.unix_timestamp().abs_diff(sent) > TOLERANCE.whole_seconds().unsigned_abs() {
        return Err(wrong_time());
    }
    Ok(())
}

fn standard_key(secret: &SecretString) -> Result<hmac::Key> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let base64 = GeneralPurpose::new(&ALPHABET, config);
    let key: Option<SecretBytes> = secret
        .expose()
        .strip_prefix("whsec_")
        .and_then(|text| base64.decode(text).ok())
        .map(Secret::new)
        .filter(|key| (24..=512).contains(&key.expose().len()));
    let key = key.ok_or_else(|| {
        Error::validation(OPERATION, "secret_invalid", "a secret is `whsec_` and the base64 of 24 to 512 random bytes")
    })?;
    Ok(hmac::Key::new(hmac::HMAC_SHA256, key.expose()))
}

fn standard(key: &hmac::Key, id: &str, timestamp: i64, body: &[u8]) -> String {
    format!("v1,{}", STANDARD.encode(hmac::sign(key, &standard_message(id, timestamp, body))))
}

/// The body may hold a private key, so the copy of it is wiped.
fn standard_message(id: &str, timestamp: i64, body: &[u8]) -> Zeroizing<Vec<u8>> {
    let head = format!("{id}.{timestamp}.");
    let mut message = Zeroizing::new(Vec::with_capacity(head.len() + body.len()));
    message.extend_from_slice(head.as_bytes());
    message.extend_from_slice(body);
    message
}

fn hub(key: &hmac::Key, body: &[u8]) -> String {
    let tag = hmac::sign(key, body);
    let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={hex}")
}

fn value(text: &str) -> Result<HeaderValue> {
    HeaderValue::from_str(text)
        .map_err(|_| Error::validation(OPERATION, "header_invalid", "a value cannot be sent as a header"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> SecretString {
        Secret::new(text.to_owned())
    }

    fn signed(signer: &Signer, id: &str, timestamp: i64, body: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let now = OffsetDateTime::from_unix_timestamp(timestamp).unwrap();
        signer.sign(&mut headers, id, now, body.as_bytes()).unwrap();
        headers
    }

    const OURS: &str = "whsec_Y2VydGxpYi1leGFtcGxlLXNlY3JldC0zMi1ieXRlcyE=";
    const THEIRS: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn standard_vectors() {
        let table = [
            (
                THEIRS,
                "msg_p5jXN8AQM9LWM0D4loKWxJek",
                1_614_265_330,
                r#"{"test": 2432232314}"#,
                "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
            ),
            (
                OURS,
                "evt_01",
                1_767_225_600,
                r#"{"type":"certificate.deployed"}"#,
                "v1,ZFljUS/Q5gf2cogHZHJg/rDFcwFAfOYDoyG2SGBApVI=",
            ),
        ];
        for (key, id, timestamp, body, expected) in table {
            let signer = Signer::new(SignatureScheme::StandardWebhooks, Some(&secret(key)), None).unwrap();
            let headers = signed(&signer, id, timestamp, body);
            assert_eq!(headers["webhook-signature"], expected);
            assert_eq!(headers["webhook-id"], id);
            assert_eq!(headers["webhook-timestamp"], timestamp.to_string());
        }
    }

    #[test]
    fn hub_vector() {
        let signer = Signer::new(SignatureScheme::HubSha256, Some(&secret("certlib-secret")), None).unwrap();
        let headers = signed(&signer, "evt_01", 0, r#"{"type":"certificate.deployed"}"#);
        assert_eq!(
            headers["x-hub-signature-256"],
            "sha256=367de46d6e5df943ecc2170719d3860c1d8f83954edb39791ef17dde5f953c88"
        );
    }

    #[test]
    fn rotation_signs_with_both_and_either_verifies() {
        let (new, old) = (secret(OURS), secret(THEIRS));
        let signer = Signer::new(SignatureScheme::StandardWebhooks, Some(&new), Some(&old)).unwrap();
        let headers = signed(&signer, "evt_01", 1_767_225_600, "{}");
        let signatures = headers["webhook-signature"].to_str().unwrap();
        assert_eq!(signatures.split(' ').count(), 2);
        let now = OffsetDateTime::from_unix_timestamp(1_767_225_600).unwrap();
        for key in [&new, &old] {
            verify(key, "evt_01", "1767225600", signatures, b"{}", now).unwrap();
        }
    }

    #[test]
    fn receivers_refuse_what_is_not_genuine_or_not_fresh() {
        let key = secret(OURS);
        let signer = Signer::new(SignatureScheme::StandardWebhooks, Some(&key), None).unwrap();
        let headers = signed(&signer, "evt_01", 1_767_225_600, "{}");
        let signature = headers["webhook-signature"].to_str().unwrap();
        let at = |offset: i64| OffsetDateTime::from_unix_timestamp(1_767_225_600 + offset).unwrap();
        let check = |key: &SecretString, id: &str, timestamp: &str, body: &[u8], now| {
            verify(key, id, timestamp, signature, body, now).map_err(|error| error.code().to_owned())
        };
        for offset in [-300, 0, 300] {
            assert_eq!(check(&key, "evt_01", "1767225600", b"{}", at(offset)), Ok(()));
        }
        let forged = Err("signature_invalid".to_owned());
        assert_eq!(check(&secret(THEIRS), "evt_01", "1767225600", b"{}", at(0)), forged);
        assert_eq!(check(&key, "evt_02", "1767225600", b"{}", at(0)), forged);
        assert_eq!(check(&key, "evt_01", "1767225601", b"{}", at(0)), forged);
        assert_eq!(check(&key, "evt_01", "1767225600", b"{ }", at(0)), forged);
        assert_eq!(verify(&key, "evt_01", "1767225600", "v1,", b"{}", at(0)).unwrap_err().code(), "signature_invalid");
        let stale = Err("timestamp_invalid".to_owned());
        assert_eq!(check(&key, "evt_01", "1767225600", b"{}", at(301)), stale);
        assert_eq!(check(&key, "evt_01", "1767225600", b"{}", at(-600)), stale);
        assert_eq!(check(&key, "evt_01", "soon", b"{}", at(0)), stale);
    }

    #[test]
    fn weak_or_broken_secrets_are_refused_without_being_quoted() {
        for text in
            ["", "whsec_", "canary", "whsec_Y2FuYXJ5", "whsec_!canary!", "WHSEC_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]
        {
            let error = Signer::new(SignatureScheme::StandardWebhooks, Some(&secret(text)), None).unwrap_err();
            assert!(["secret_invalid", "secret_missing"].contains(&error.code()), "{text}");
            assert!(!format!("{error:?}").contains("canary"));
        }
        for scheme in [SignatureScheme::StandardWebhooks, SignatureScheme::HubSha256] {
            assert_eq!(Signer::new(scheme, None, None).unwrap_err().code(), "secret_missing");
        }
        assert!(Signer::new(SignatureScheme::None, None, None).is_ok());
    }
}
