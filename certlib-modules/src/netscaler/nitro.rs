//! NITRO's answers: which are failures, and what those mean.
//!
//! Decided by number and status, never by text. Numbers differ between builds, so each meaning has several, and the
//! HTTP status is asked where the number is not known.
//! Source: <https://developer-docs.netscaler.com/en-us/adc-nitro-api/current-release.html>

use certlib_core::classify;
use certlib_core::error::{Effect, Error, ErrorClass};
use serde_json::Value;

use crate::net::Answer;

/// What a refusal is about, as far as the module acts on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// The session is over: log in again.
    SessionOver,
    /// There is no such object.
    Absent,
    /// There is such an object already.
    Exists,
    /// The login may not do this.
    NotAllowed,
    /// The appliance looked at the request and declines it.
    Declined,
    /// Anything else: no answer, or none from the appliance itself.
    Other,
}

/// A request that failed.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) why: Why,
    pub(super) error: Error,
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        failed.error
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { why: Why::Other, error }
    }
}

/// The body of an answer that is a success.
///
/// # Errors
/// As the table in [`meaning`]; `IoTransient` `answer_invalid` when a success is no JSON.
pub(super) fn body(answer: &Answer) -> Result<Value, Failed> {
    let parsed: Option<Value> = serde_json::from_slice(answer.body()).ok();
    let number = parsed.as_ref().and_then(errorcode);
    if answer.is_success() && number.unwrap_or(0) == 0 {
        // Some builds answer a change with nothing at all.
        return if answer.body().is_empty() { Ok(Value::Null) } else { Ok(answer.json()?) };
    }
    let Some(number) = number else {
        // Not from NITRO: a proxy, or the web server in front of it.
        let why = match answer.status() {
            404 => Why::Absent,
            _ => Why::Other,
        };
        return Err(Failed { why, error: answer.refused() });
    };
    let (why, class, code, message) = meaning(number, answer.status());
    let error = answer.error(class, code, message).with("errorcode", number);
    // The appliance says itself that it did not do it; only while it is busy nobody knows.
    let declined = !class.is_retryable();
    let error = if declined { error.with_effect(Effect::None) } else { error };
    Err(Failed { why, error })
}

/// The number in a body, written as a number or as text.
fn errorcode(body: &Value) -> Option<u64> {
    match body.get("errorcode")? {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

fn meaning(number: u64, status: u16) -> (Why, ErrorClass, &'static str, &'static str) {
    use ErrorClass::{Auth, IoPermanent, IoTransient, Validation};
    match (number, status) {
        (354, _) => (Why::NotAllowed, Auth, "login_refused", "the appliance does not accept this user and password"),
        (444 | 1027, _) => (Why::SessionOver, Auth, "session_over", "the session ended, and so did the one after it"),
        (2138 | 257, _) | (_, 403) => {
            (Why::NotAllowed, Auth, "not_authorised", "the login's command policy does not allow this request")
        }
        (258 | 1540, _) => (Why::Absent, Validation, "object_missing", "the appliance has no such object"),
        (273 | 1642, _) => (Why::Exists, Validation, "object_exists", "the appliance has this already"),
        (1537, _) => {
            let message = "the private key cannot be read: its pass phrase is missing or wrong, or the build wants one";
            (Why::Declined, Validation, "key_unusable", message)
        }
        (1573 | 1614, _) => (Why::Declined, Validation, "key_mismatch", "certificate and private key do not match"),
        (1647, _) => (Why::Declined, Validation, "file_missing", "a file of the pair is not on the appliance any more"),
        (1674, _) => {
            (Why::Declined, Validation, "domain_taken", "another SNI certificate for the same domain is bound there")
        }
        (278, _) => (Why::Declined, Validation, "argument_invalid", "the appliance does not accept an argument"),
        (_, 401) => (Why::SessionOver, Auth, "login_refused", "the appliance does not accept the login"),
        (_, 404) => (Why::Absent, Validation, "object_missing", "the appliance has no such object"),
        (_, 409) => (Why::Exists, Validation, "object_exists", "the appliance has this already"),
        (_, 200..=299 | 599) => {
            let message = "the appliance declines the request; look its `errorcode` up for this build";
            (Why::Declined, IoPermanent, "declined", message)
        }
        (_, status) => {
            let class = classify::http(status);
            let busy = "the appliance is busy with another change";
            match class {
                IoTransient => (Why::Other, class, "busy", busy),
                _ => (Why::Declined, class, "declined", "the appliance declines the request"),
            }
        }
    }
}

/// A text or number of an object, as text.
pub(super) fn text(object: &Value, field: &str) -> Option<String> {
    match object.get(field)? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A flag of an object, written as JSON or as text.
pub(super) fn flag(object: &Value, field: &str) -> bool {
    match object.get(field) {
        Some(Value::Bool(set)) => *set,
        Some(Value::String(text)) => text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("yes"),
        _ => false,
    }
}

/// The objects of a list, or the one object that stands in its place.
pub(super) fn items<'a>(body: &'a Value, resource: &str) -> &'a [Value] {
    match body.get(resource) {
        Some(Value::Array(items)) => items,
        Some(object @ Value::Object(_)) => std::slice::from_ref(object),
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_before_status() {
        for (number, status, why, code) in [
            (1540, 599, Why::Absent, "object_missing"),
            (258, 404, Why::Absent, "object_missing"),
            (9999, 404, Why::Absent, "object_missing"),
            (273, 409, Why::Exists, "object_exists"),
            (1642, 599, Why::Exists, "object_exists"),
            (444, 401, Why::SessionOver, "session_over"),
            (1027, 401, Why::SessionOver, "session_over"),
            (354, 401, Why::NotAllowed, "login_refused"),
            (2138, 599, Why::NotAllowed, "not_authorised"),
            (1, 403, Why::NotAllowed, "not_authorised"),
            (31_337, 599, Why::Declined, "declined"),
            (31_337, 200, Why::Declined, "declined"),
            (31_337, 503, Why::Other, "busy"),
        ] {
            let (found, _, found_code, _) = meaning(number, status);
            assert_eq!((found, found_code), (why, code), "{number} {status}");
        }
        assert!(meaning(1, 503).1.is_retryable() && !meaning(1, 599).1.is_retryable());
    }

    #[test]
    fn values_come_in_several_forms() {
        let object = json!({"id": 0, "name": "a", "empty": "", "on": "TRUE", "off": false, "errorcode": "273"});
        assert_eq!(text(&object, "id").as_deref(), Some("0"));
        assert_eq!((text(&object, "empty"), text(&object, "none")), (None, None));
        assert!(flag(&object, "on") && !flag(&object, "off") && !flag(&object, "none"));
        assert_eq!(errorcode(&object), Some(273));
        assert_eq!(items(&json!({"nsconfig": {"a": 1}}), "nsconfig").len(), 1);
        assert_eq!(items(&json!({"a": [1, 2]}), "a").len(), 2);
        assert!(items(&json!({}), "a").is_empty());
    }
}
