//! A request whose sender is known, and how it is answered.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;
use time::OffsetDateTime;

/// What a handler gets.
#[derive(Debug)]
pub(super) struct Call {
    /// The segments of the path after the base.
    pub(super) path: Vec<String>,
    query: Vec<(String, String)>,
    /// `None` when it is no JSON.
    pub(super) body: Option<Value>,
    pub(super) now: OffsetDateTime,
}

/// An answer, before it becomes HTTP.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) content_type: String,
    pub(super) body: Vec<u8>,
    pub(super) retry_after: Option<u64>,
    /// Whether it asks for a user and a key.
    pub(super) challenges: bool,
}

impl Answer {
    /// JSON under a status.
    pub(super) fn json(status: u16, body: &Value) -> Self {
        let body = body.to_string().into_bytes();
        Self { status, content_type: "application/json".to_owned(), body, retry_after: None, challenges: false }
    }

    /// Any text.
    pub(super) fn text(status: u16, content_type: &str, body: &str) -> Self {
        let body = body.as_bytes().to_vec();
        Self { status, content_type: content_type.to_owned(), body, retry_after: None, challenges: false }
    }
}

impl Call {
    pub(super) fn new(path: &str, query: &str, body: &[u8], now: OffsetDateTime) -> Self {
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        };
        Self {
            path: path.trim_matches('/').split('/').map(decode).collect(),
            query: query.split('&').filter(|pair| !pair.is_empty()).map(pair).collect(),
            body: if body.is_empty() { Some(Value::Null) } else { serde_json::from_slice(body).ok() },
            now,
        }
    }

    /// The first value of a name in the query.
    pub(super) fn param(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A field of the body.
    pub(super) fn field(&self, pointer: &str) -> Option<&Value> {
        self.body.as_ref()?.pointer(pointer).filter(|value| !value.is_null())
    }

    /// A text of the body, empty when it is absent.
    pub(super) fn text(&self, pointer: &str) -> &str {
        self.field(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// Whether a field of the body is true, also when it is written as a text.
    pub(super) fn flag(&self, pointer: &str) -> bool {
        self.field(pointer).is_some_and(|value| *value == true || *value == "true")
    }
}

/// The user and the key of an `Authorization` header.
pub(super) fn basic(header: &str) -> Option<(String, String)> {
    let decoded = String::from_utf8(STANDARD.decode(header.strip_prefix("Basic ")?).ok()?).ok()?;
    decoded.split_once(':').map(|(user, key)| (user.to_owned(), key.to_owned()))
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let escaped = tail.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (first, escaped) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            (first, _) => {
                bytes.push(if *first == b'+' { b' ' } else { *first });
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_taken_apart() {
        let call =
            Call::new("/a/b%2Fc/", "%24fields=x&y=1+2", br#"{"on":"true","off":false}"#, OffsetDateTime::UNIX_EPOCH);
        assert_eq!(call.path, ["a", "b/c"]);
        assert_eq!((call.param("$fields"), call.param("y"), call.param("z")), (Some("x"), Some("1 2"), None));
        assert!(call.flag("/on") && !call.flag("/off") && !call.flag("/none"));
        assert_eq!(basic("Basic YTpiOmM="), Some(("a".to_owned(), "b:c".to_owned())));
        assert_eq!(basic("Bearer YTpiOmM="), None);
    }
}
