//! A request whose signature is good.

use serde_json::Value;
use time::OffsetDateTime;

use super::{answer::Refusal, sign::decode};

/// What a handler gets.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) method: String,
    /// The segments of the path, decoded.
    pub(super) path: Vec<String>,
    /// The pairs of the query, decoded.
    query: Vec<(String, String)>,
    pub(super) body: Value,
    pub(super) now: OffsetDateTime,
}

impl Call {
    pub(super) fn new(
        method: &str,
        path: &str,
        query: &str,
        body: &[u8],
        now: OffsetDateTime,
    ) -> Result<Self, Refusal> {
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(&name.replace('+', " ")), decode(&value.replace('+', " ")))
        };
        let body = if body.is_empty() {
            Value::Null
        } else {
            let bad = |_| Refusal::gateway(400, "APIGW.0103", "The request body is not JSON");
            serde_json::from_slice(body).map_err(bad)?
        };
        Ok(Self {
            method: method.to_owned(),
            path: path.trim_matches('/').split('/').map(decode).collect(),
            query: query.split('&').filter(|pair| !pair.is_empty()).map(pair).collect(),
            body,
            now,
        })
    }

    /// The first value of a name in the query.
    pub(super) fn param(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Every value of a name in the query.
    pub(super) fn params<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.query.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A number of the query, `default` when it is absent or none.
    pub(super) fn number(&self, name: &str, default: usize) -> usize {
        self.param(name).and_then(|value| value.parse().ok()).unwrap_or(default)
    }

    /// A text of the body, empty when it is absent.
    pub(super) fn text(&self, pointer: &str) -> &str {
        self.body.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }
}
