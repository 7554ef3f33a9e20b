//! A request, taken apart.

use bytes::Bytes;
use http::{HeaderMap, Request};
use reqwest::Url;
use serde_json::Value;

/// What a simulator gets to judge.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) method: String,
    /// The path below the root of the API, without slashes around it.
    pub(crate) path: String,
    /// The query as it came, empty without one.
    pub(crate) query_text: String,
    query: Vec<(String, String)>,
    headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Call {
    /// Takes a request apart; `None` when its path is not below `root`.
    pub(crate) fn new(request: Request<Bytes>, root: &str) -> Option<Self> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().strip_prefix(root)?.trim_matches('/').to_owned();
        let query_text = parts.uri.query().unwrap_or_default().to_owned();
        let query = Url::parse(&format!("http://simulator/?{query_text}"))
            .map(|url| url.query_pairs().into_owned().collect())
            .unwrap_or_default();
        Some(Self { method: parts.method.as_str().to_owned(), path, query_text, query, headers: parts.headers, body })
    }

    /// The segments of the path.
    pub(crate) fn segments(&self) -> Vec<&str> {
        self.path.split('/').collect()
    }

    /// The first value of a name in the query.
    pub(crate) fn param(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The pairs of the query, decoded.
    pub(crate) fn params(&self) -> impl Iterator<Item = (&str, &str)> {
        self.query.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// A number of the query, `default` when it is absent or none.
    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str, default: T) -> T {
        self.param(name).and_then(|value| value.parse().ok()).unwrap_or(default)
    }

    /// A header that is text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as a JSON object; an empty body is an empty object. `None` when it is anything else.
    pub(crate) fn object(&self) -> Option<Value> {
        if self.body.is_empty() {
            return Some(Value::Object(serde_json::Map::new()));
        }
        serde_json::from_slice(&self.body).ok().filter(Value::is_object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_taken_apart() {
        let request = |uri: &str| Request::builder().uri(uri).header("x-key", "k").body(Bytes::new()).unwrap();
        let uri = "/services/v2/order/certificate?filters%5Bcommon_name%5D=a+b&limit=5&offset=x";
        let call = Call::new(request(uri), "/services/v2/").unwrap();
        assert_eq!(call.segments(), ["order", "certificate"]);
        assert_eq!(call.param("filters[common_name]"), Some("a b"));
        assert_eq!((call.number("limit", 0), call.number("offset", 7), call.header("X-Key")), (5, 7, Some("k")));
        assert_eq!(call.object(), Some(serde_json::json!({})));
        assert!(Call::new(request("/other"), "/services/v2/").is_none());
    }
}
