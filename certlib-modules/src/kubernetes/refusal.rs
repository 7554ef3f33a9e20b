//! What it means that the API server refuses a request.

use certlib_core::classify;
use certlib_core::error::{Error, ErrorClass, codes};
use kube::core::response::Status;

use super::cluster::Place;
use crate::net::Answer;

/// How many fields of a refusal an error names.
const FIELDS_MAX: usize = 8;

/// What an answer without success means, by its status, its reason and the causes in its details. Messages are not
/// quoted: admission webhooks write what they like.
///
/// # Errors
/// Gives the error: `Auth` `unauthorized`, `forbidden`; `Validation` `namespace_missing`, `namespace_terminating`,
/// [`codes::NOT_FOUND`], [`codes::CONFLICT`], `field_conflict`, `invalid`; `IoTransient` `too_many_requests`,
/// `server_error`; otherwise `refused` with the class of its status.
pub(super) fn refusal(answer: &Answer, verb: &'static str, place: &Place) -> Error {
    let status = answer.json::<Status>().unwrap_or_default();
    let details = status.details.as_ref();
    let kind = details.map(|details| details.kind.as_str());
    let causes = details.map(|details| details.causes.as_slice()).unwrap_or_default();
    let has_cause = |reason: &str| causes.iter().any(|cause| cause.reason == reason);
    let (class, code, message) = match (answer.status(), status.reason.as_str()) {
        (401, _) => (ErrorClass::Auth, "unauthorized", "the API server does not accept the login; it may have expired"),
        (403, _) if has_cause("NamespaceTerminating") => {
            (ErrorClass::Validation, "namespace_terminating", "the namespace is being deleted")
        }
        (403, _) => (ErrorClass::Auth, "forbidden", "the login may not do this; grant it the verb on this Secret"),
        (404, _) if kind == Some("namespaces") => {
            (ErrorClass::Validation, "namespace_missing", "the namespace does not exist")
        }
        (404, _) => (ErrorClass::Validation, codes::NOT_FOUND, "the API server knows no such object"),
        (409, _) if has_cause("FieldManagerConflict") => {
            (ErrorClass::Validation, "field_conflict", "fields of the Secret belong to another field manager")
        }
        (409, _) => (ErrorClass::Validation, codes::CONFLICT, "the Secret changed meanwhile"),
        (422, _) => (ErrorClass::Validation, "invalid", "the API server refuses the Secret as invalid"),
        (429, _) => (ErrorClass::IoTransient, "too_many_requests", "the API server is asked too much"),
        (500.., _) => (ErrorClass::IoTransient, "server_error", "the API server failed"),
        (other, _) => (classify::http(other), "refused", "the API server refuses the request"),
    };
    let wait = details.map_or(0, |details| details.retry_after_seconds);
    let mut error = answer.error(class, code, message).with("verb", verb).with("secret", place);
    if error.retry_after().is_none() && class.is_retryable() && wait > 0 {
        error = error.with_retry_after(classify::retry_after(&wait.to_string(), time::OffsetDateTime::UNIX_EPOCH));
    }
    if let Some(reason) = word(&status.reason) {
        error = error.with("reason", reason);
    }
    let fields: Vec<&str> = causes.iter().filter_map(|cause| word(&cause.field)).take(FIELDS_MAX).collect();
    if fields.is_empty() { error } else { error.with("fields", fields.join(" ")) }
}

/// A name that an error may repeat: short, and without anything that could be a value.
fn word(text: &str) -> Option<&str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".[]-_/".contains(&byte);
    ((1..=128).contains(&text.len()) && text.bytes().all(plain)).then_some(text)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use certlib_core::Context;
    use certlib_core::error::Effect;
    use kube::core::params::PatchParams;
    use serde_json::{Value, json};

    use super::super::cluster::tests::{cluster, place};
    use super::*;

    #[tokio::test]
    async fn refusals_are_told_by_status_reason_and_cause() {
        use ErrorClass::{Auth, IoPermanent, IoTransient, Validation};
        let status = |reason: &str, details: Value| {
            json!({"kind": "Status", "status": "Failure", "reason": reason, "details": details,
                "message": "admission webhook \"x\" denied the request: canary"})
            .to_string()
        };
        let cause =
            |reason: &str, field: &str| json!({"causes": [{"reason": reason, "field": field, "message": "canary"}]});
        let wait = json!({"retryAfterSeconds": 7});
        let table = [
            (401, "", status("Unauthorized", json!({})), Auth, "unauthorized", Effect::None, None),
            (403, "", status("Forbidden", json!({})), Auth, "forbidden", Effect::None, None),
            (403, "", "canary".to_owned(), Auth, "forbidden", Effect::None, None),
            (
                403,
                "",
                status("Forbidden", cause("NamespaceTerminating", "")),
                Validation,
                "namespace_terminating",
                Effect::None,
                None,
            ),
            (
                404,
                "",
                status("NotFound", json!({"kind": "namespaces"})),
                Validation,
                "namespace_missing",
                Effect::None,
                None,
            ),
            (404, "", status("NotFound", json!({"kind": "secrets"})), Validation, "not_found", Effect::None, None),
            (409, "", status("Conflict", json!({})), Validation, "conflict", Effect::None, None),
            (
                409,
                "",
                status("Conflict", cause("FieldManagerConflict", ".data.tls.crt")),
                Validation,
                "field_conflict",
                Effect::None,
                None,
            ),
            (413, "", status("RequestEntityTooLarge", json!({})), IoPermanent, "refused", Effect::None, None),
            (
                422,
                "",
                status("Invalid", cause("FieldValueInvalid", "data[tls.key]")),
                Validation,
                "invalid",
                Effect::None,
                None,
            ),
            (
                429,
                "retry-after: 3\r\n",
                status("TooManyRequests", wait.clone()),
                IoTransient,
                "too_many_requests",
                Effect::None,
                Some(3),
            ),
            (429, "", status("TooManyRequests", wait), IoTransient, "too_many_requests", Effect::None, Some(7)),
            (500, "", status("InternalError", json!({})), IoTransient, "server_error", Effect::Possible, None),
            (503, "retry-after: 5\r\n", "canary".to_owned(), IoTransient, "server_error", Effect::Possible, Some(5)),
            (504, "", status("Timeout", json!({})), IoTransient, "server_error", Effect::Possible, None),
            (400, "", status("canary: 1", cause("x", "a canary\n")), Validation, "refused", Effect::None, None),
        ];
        for (code, headers, body, class, name, effect, wait) in table {
            let cluster = cluster(code, headers, body).await;
            let params = PatchParams::apply("certlib");
            let error = cluster.apply(&Context::new("t"), &place(), &json!({}), &params).await.unwrap_err();
            assert_eq!((error.class(), error.code(), error.effect()), (class, name, effect), "{code}: {error:?}");
            assert_eq!(error.retry_after(), wait.map(Duration::from_secs), "{code}: {error:?}");
            assert!(!format!("{error:?}").contains("canary"), "{error:?}");
            assert!(error.context().any(|pair| pair == ("secret", "shop/www")), "{error:?}");
        }
    }
}
