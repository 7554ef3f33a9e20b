//! A request, taken apart.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, Request};
use serde_json::{Map, Value};

use super::answer::Refusal;

/// What the simulator looks at in a request.
#[derive(Clone, Debug, Default)]
pub(super) struct Call {
    pub(super) method: String,
    /// After `/mgmt/`, without slashes around it.
    pub(super) path: String,
    /// `path`, split and decoded.
    pub(super) segments: Vec<String>,
    pub(super) query: BTreeMap<String, String>,
    pub(super) body: Bytes,
    pub(super) token: Option<String>,
    pub(super) basic: Option<(String, String)>,
    /// `X-F5-REST-Coordination-Id`.
    pub(super) coordination: Option<String>,
    pub(super) content_range: Option<String>,
    pub(super) content_type: String,
}

impl Call {
    /// The request, or `None` when it is for something other than `/mgmt/`.
    pub(super) fn of(request: Request<Bytes>) -> Option<Self> {
        let (parts, body) = request.into_parts();
        let mut call = Self::new(parts.method.as_str(), parts.uri.path().strip_prefix("/mgmt/")?, body);
        call.query = parts.uri.query().map(query).unwrap_or_default();
        call.token = text(&parts.headers, "x-f5-auth-token");
        call.basic = text(&parts.headers, "authorization").and_then(|value| basic(&value));
        call.coordination = text(&parts.headers, "x-f5-rest-coordination-id");
        call.content_range = text(&parts.headers, "content-range");
        call.content_type = text(&parts.headers, "content-type").unwrap_or_default();
        Some(call)
    }

    /// A call without query and headers.
    pub(super) fn new(method: &str, path: &str, body: Bytes) -> Self {
        let path = path.trim_matches('/').to_owned();
        let segments = path.split('/').map(decode).collect();
        Self { method: method.to_owned(), path, segments, body, ..Self::default() }
    }

    /// A call of the operator; `null` is no body.
    pub(super) fn operated(method: &str, path: &str, body: &Value) -> Self {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        Self::new(method, path, body.into())
    }

    /// The segments as they can be matched on.
    pub(super) fn route(&self) -> Vec<&str> {
        self.segments.iter().map(String::as_str).collect()
    }

    /// The body as a JSON object; an empty body is an empty object.
    pub(super) fn object(&self) -> Result<Map<String, Value>, Refusal> {
        if self.body.is_empty() {
            return Ok(Map::new());
        }
        if !self.content_type.is_empty() && !self.content_type.starts_with("application/json") {
            let message = format!("Found unexpected content type: {}", self.content_type);
            return Err(Refusal::new(415, message));
        }
        match serde_json::from_slice(&self.body) {
            Ok(Value::Object(body)) => Ok(body),
            _ => Err(Refusal::invalid("Found invalid JSON body in the request")),
        }
    }

    /// What a history shows of the path: the token in a token's own path is left out.
    pub(super) fn shown_path(&self) -> String {
        const TOKENS: &str = "shared/authz/tokens/";
        if self.path.starts_with(TOKENS) { format!("{TOKENS}*") } else { self.path.clone() }
    }
}

/// A field that must be a text if it is there.
pub(super) fn field<'a>(body: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, Refusal> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Refusal::invalid(format!("invalid property value \"{name}\":not a string"))),
    }
}

/// A field that is true or false. It is shown as a text, and taken as that or as what it is.
pub(super) fn flag(body: &Map<String, Value>, name: &str) -> Result<Option<bool>, Refusal> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(Value::String(text)) if text == "true" => Ok(Some(true)),
        Some(Value::String(text)) if text == "false" => Ok(Some(false)),
        Some(_) => Err(Refusal::invalid(format!("invalid property value \"{name}\":not true or false"))),
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned).filter(|text| !text.is_empty())
}

fn basic(value: &str) -> Option<(String, String)> {
    let pair = STANDARD.decode(value.strip_prefix("Basic ")?).ok()?;
    let (user, password) = std::str::from_utf8(&pair).ok()?.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

fn query(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(&name.replace('+', " ")), decode(&value.replace('+', " ")))
        })
        .collect()
}

/// Undoes percent-encoding. What is no encoding stays.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let pair = text.get(at + 1..at + 3).filter(|_| byte == b'%');
        if let Some(value) = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            decoded.push(value);
            at += 3;
        } else {
            decoded.push(byte);
            at += 1;
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_taken_apart() {
        let request = Request::builder()
            .method("GET")
            .uri("/mgmt/tm/ltm/pool/~Common~a%20b?%24top=5&$filter=partition+eq+X")
            .header("authorization", "Basic YWRtaW46YTpi")
            .body(Bytes::new())
            .unwrap();
        let call = Call::of(request).unwrap();
        assert_eq!(call.segments, ["tm", "ltm", "pool", "~Common~a b"]);
        assert_eq!(call.query["$top"], "5");
        assert_eq!(call.query["$filter"], "partition eq X");
        assert_eq!(call.basic.unwrap(), ("admin".to_owned(), "a:b".to_owned()));
        assert!(Call::of(Request::builder().uri("/other").body(Bytes::new()).unwrap()).is_none());
    }

    #[test]
    fn tokens_stay_out_of_histories() {
        let call = Call::new("DELETE", "shared/authz/tokens/SECRET", Bytes::new());
        assert_eq!(call.shown_path(), "shared/authz/tokens/*");
    }
}
