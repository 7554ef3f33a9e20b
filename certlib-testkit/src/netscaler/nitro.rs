//! NITRO on the wire: what is asked, and the shapes of what is answered.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use serde_json::{Map, Value, json};

/// Numbers of errors that the vendor's pages or the clients of others name.
pub(super) mod code {
    pub(in super::super) const NO_SUCH_RESOURCE: u32 = 258;
    pub(in super::super) const EXISTS: u32 = 273;
    pub(in super::super) const INVALID_ARGUMENT: u32 = 278;
    pub(in super::super) const BAD_LOGIN: u32 = 354;
    pub(in super::super) const SESSION_EXPIRED: u32 = 444;
    pub(in super::super) const NOT_LOGGED_IN: u32 = 1027;
    pub(in super::super) const BAD_KEY: u32 = 1537;
    pub(in super::super) const NO_CERTIFICATE: u32 = 1540;
    pub(in super::super) const FILE_EXISTS: u32 = 1642;
    pub(in super::super) const NO_FILE: u32 = 1647;
    pub(in super::super) const DUPLICATE_DOMAIN: u32 = 1674;
    pub(in super::super) const NOT_AUTHORISED: u32 = 2138;
    // The errors are real, their numbers are not known: these are this simulator's own.
    pub(in super::super) const KEY_MISMATCH: u32 = 1614;
    pub(in super::super) const OTHER_DOMAIN: u32 = 19_001;
    pub(in super::super) const ALREADY_LINKED: u32 = 19_002;
    pub(in super::super) const NOT_LINKED: u32 = 19_003;
    pub(in super::super) const NOT_THE_ISSUER: u32 = 19_004;
    pub(in super::super) const IN_USE: u32 = 19_005;
    pub(in super::super) const BUSY: u32 = 19_006;
}

/// What every resource path begins with.
const PREFIX: &str = "/nitro/v1/config/";

/// A request, read.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) method: Method,
    /// Such as `sslcertkey`.
    pub(super) resource: String,
    /// What stands behind the resource in the path.
    pub(super) name: Option<String>,
    /// The query as it was sent.
    pub(super) query: String,
    parameters: BTreeMap<String, String>,
    /// The fields of the body, below the name of the resource.
    pub(super) fields: Map<String, Value>,
}

impl Call {
    /// Reads a request; `None` when it is not one of NITRO's configuration API.
    pub(super) fn read(request: &Request<Bytes>) -> Option<Result<Self, Refusal>> {
        let path = request.uri().path().strip_prefix(PREFIX)?.trim_end_matches('/');
        let query = request.uri().query().unwrap_or_default();
        let body = std::str::from_utf8(request.body()).unwrap_or_default();
        Some(Self::new(request.method().clone(), path, query, body))
    }

    pub(super) fn new(method: Method, path: &str, query: &str, body: &str) -> Result<Self, Refusal> {
        let (resource, name) = match path.split_once('/') {
            Some((resource, name)) => (decode(resource), Some(decode(name))),
            None => (decode(path), None),
        };
        let parameters = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| match pair.split_once('=') {
            // Not decoded: `args` and `filter` are taken apart before their values are.
            Some((key, value)) => (key.to_ascii_lowercase(), value.to_owned()),
            None => (pair.to_ascii_lowercase(), String::new()),
        });
        let parameters = parameters.collect();
        let fields = if body.trim().is_empty() { Map::new() } else { fields(&resource, body)? };
        Ok(Self { method, resource, name, query: query.to_owned(), parameters, fields })
    }

    /// A query parameter, decoded.
    pub(super) fn parameter(&self, name: &str) -> Option<String> {
        self.parameters.get(name).map(|value| decode(value))
    }

    /// What `?action=` says, lower case.
    pub(super) fn action(&self) -> Option<String> {
        self.parameter("action").map(|action| action.to_ascii_lowercase())
    }

    /// Whether a query parameter is `yes` or `true`.
    pub(super) fn is_set(&self, name: &str) -> bool {
        self.parameter(name).is_some_and(|value| matches!(value.as_str(), "yes" | "true" | "YES"))
    }

    /// The pairs of `?args=` or `?filter=`.
    pub(super) fn pairs(&self, name: &str) -> BTreeMap<String, String> {
        let text = self.parameters.get(name).map(String::as_str).unwrap_or_default();
        let pairs = text.split(',').filter_map(|pair| pair.split_once(':'));
        pairs.map(|(key, value)| (decode(key), decode(value))).collect()
    }

    /// A text field of the body.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.fields.get(name).and_then(Value::as_str)
    }

    /// A text field that has to be there.
    pub(super) fn required(&self, name: &'static str) -> Result<&str, Refusal> {
        self.text(name).filter(|text| !text.is_empty()).ok_or_else(|| missing(name))
    }

    /// A flag of the body: JSON or text.
    pub(super) fn flag(&self, name: &str) -> bool {
        match self.fields.get(name) {
            Some(Value::Bool(set)) => *set,
            Some(Value::String(text)) => text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("yes"),
            _ => false,
        }
    }
}

pub(super) fn missing(name: &str) -> Refusal {
    Refusal::new(400, code::INVALID_ARGUMENT, format!("Required argument missing [{name}]"))
}

fn fields(resource: &str, body: &str) -> Result<Map<String, Value>, Refusal> {
    let malformed = || Refusal::new(400, code::INVALID_ARGUMENT, "Invalid JSON, or not an object of this resource");
    let mut body: Map<String, Value> = serde_json::from_str(body).map_err(|_| malformed())?;
    match body.remove(resource) {
        Some(Value::Object(fields)) => Ok(fields),
        _ => Err(malformed()),
    }
}

/// Percent-decodes; what is no valid escape stays as it is.
pub(super) fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escape = (*first == b'%').then(|| after.get(..2)).flatten();
        let byte = escape.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An answer, before it becomes HTTP.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Value,
}

/// Why a request is not carried out.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) code: u32,
    pub(super) message: String,
}

/// How every handler ends.
pub(super) type Outcome = Result<Answer, Refusal>;

impl Answer {
    /// `201`: made.
    pub(super) fn created() -> Self {
        Self::done(201)
    }

    /// `200`: done.
    pub(super) fn ok() -> Self {
        Self::done(200)
    }

    fn done(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: json!({ "errorcode": 0, "message": "Done", "severity": "NONE" }) }
    }

    /// `200` with what was asked for.
    pub(super) fn with(mut self, field: &str, value: Value) -> Self {
        if let Value::Object(body) = &mut self.body {
            body.insert(field.to_owned(), value);
        }
        self
    }

    /// `200` with a list; none at all when it is empty, as the appliance does.
    pub(super) fn list(call: &Call, resource: &str, mut items: Vec<Value>) -> Self {
        let filter = call.pairs("filter");
        items.retain(|item| filter.iter().all(|(field, wanted)| text(&item[field]).as_ref() == Some(wanted)));
        if call.is_set("count") {
            return Self::ok().with(resource, json!([{ "__count": items.len() }]));
        }
        let number = |name| call.parameter(name).and_then(|value| value.parse::<usize>().ok());
        if let Some(size) = number("pagesize") {
            let page = number("pageno").unwrap_or(1).max(1);
            items = items.into_iter().skip((page - 1) * size).take(size).collect();
        }
        if let Some(attributes) = call.parameter("attrs") {
            let wanted: Vec<_> = attributes.split(',').collect();
            for item in items.iter_mut().filter_map(Value::as_object_mut) {
                item.retain(|field, _| wanted.contains(&field.as_str()));
            }
        }
        if items.is_empty() { Self::ok() } else { Self::ok().with(resource, Value::Array(items)) }
    }

    pub(super) fn render(self) -> Response<Bytes> {
        let mut response = Response::new(Bytes::from(self.body.to_string()));
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or_default();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json; charset=utf-8"));
        for (name, value) in self.headers {
            if let Ok(value) = header::HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
        response
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Null => None,
        other => Some(other.to_string()),
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        let Refusal { status, code, message } = refusal;
        let body = json!({ "errorcode": code, "message": message, "severity": "ERROR" });
        Self { status, headers: Vec::new(), body }
    }
}

impl Refusal {
    pub(super) fn new(status: u16, code: u32, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    /// `599`, "NetScaler specific error".
    pub(super) fn own(code: u32, message: impl Into<String>) -> Self {
        Self::new(599, code, message)
    }

    pub(super) fn absent(what: &str, name: &str) -> Self {
        Self::new(404, code::NO_SUCH_RESOURCE, format!("No such resource [{what}, {name}]"))
    }

    pub(super) fn exists(what: &str) -> Self {
        Self::new(409, code::EXISTS, format!("Resource already exists [{what}]"))
    }

    pub(super) fn invalid(what: &str) -> Self {
        Self::new(400, code::INVALID_ARGUMENT, format!("Invalid argument [{what}]"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_after_the_pairs_are_taken_apart() {
        let query = "args=certkeyname:a%3Ab%2Cc,snicert:true&override=yes";
        let call = Call::new(Method::DELETE, "sslvserver_sslcertkey_binding/vs%201", query, "").unwrap();
        assert_eq!((call.resource.as_str(), call.name.as_deref()), ("sslvserver_sslcertkey_binding", Some("vs 1")));
        let args = call.pairs("args");
        assert_eq!((args["certkeyname"].as_str(), args["snicert"].as_str()), ("a:b,c", "true"));
        assert!(call.is_set("override") && !call.is_set("idempotent"));
    }

    #[test]
    fn a_body_belongs_to_its_resource() {
        assert!(Call::new(Method::POST, "nsconfig", "", r#"{"other": {}}"#).is_err());
        assert!(Call::new(Method::POST, "nsconfig", "", "[1]").is_err());
        let call = Call::new(Method::POST, "nsconfig", "action=Save", r#"{"nsconfig": {"all": "true"}}"#).unwrap();
        assert_eq!(call.action().as_deref(), Some("save"));
        assert!(call.flag("all"));
    }

    #[test]
    fn lists_are_filtered_counted_and_cut() {
        let items = || vec![json!({"certkey": "a", "n": 1}), json!({"certkey": "b", "n": 2})];
        let list = |query| {
            let call = Call::new(Method::GET, "sslcertkey", query, "").unwrap();
            Answer::list(&call, "sslcertkey", items()).body["sslcertkey"].clone()
        };
        assert_eq!(list("filter=certkey:b")[0]["n"], 2);
        assert_eq!(list("filter=certkey:c"), Value::Null);
        assert_eq!(list("count=yes")[0]["__count"], 2);
        assert_eq!(list("pagesize=1&pageno=2"), json!([{"certkey": "b", "n": 2}]));
        assert_eq!(list("attrs=n"), json!([{"n": 1}, {"n": 2}]));
    }
}
