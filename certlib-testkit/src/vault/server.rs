//! Requests to a node, and to its standby: what they meet, and what comes back.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, header};

use super::{
    answer::{Answer, Refusal},
    fault::{self, Fault},
    history::Record,
    lock,
    state::{Incoming, State},
};
use crate::http_server::{Handler, Peer};

/// The largest body, as Vault's own limit.
const BODY_LIMIT: usize = 32 * 1024 * 1024;

/// What all connections of a node share.
pub(super) struct Node {
    pub(super) state: Arc<Mutex<State>>,
    /// Set on a standby: where the active node is.
    pub(super) active: Option<String>,
}

impl Handler for Node {
    async fn answer(self: Arc<Self>, peer: Peer, request: Request<Bytes>) -> Option<Response<Bytes>> {
        let (parts, body) = request.into_parts();
        let head = parts.method.as_str() == "HEAD";
        let path = parts.uri.path().to_owned();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let Some(below) = path.strip_prefix("/v1/").map(|path| decoded(path.trim_matches('/'))) else {
            return Some(render(Refusal::absent().into(), head));
        };
        if body.len() > BODY_LIMIT {
            return Some(render(Refusal::new(413, "http: request body too large").into(), head));
        }
        let received = Incoming {
            method: parts.method.as_str().to_owned(),
            namespace: text(&parts.headers, "x-vault-namespace").unwrap_or_default(),
            path: below.clone(),
            query: query.clone(),
            token: token(&parts.headers),
            content_type: text(&parts.headers, "content-type").unwrap_or_default(),
            certificate: peer.certificate,
            body,
        };
        let record = Record::of(&received, self.active.is_some());
        let fault = match &self.active {
            Some(active) => {
                let answer = standby(active, &path, &query, &below);
                lock(&self.state).remember(record, Some(answer.status));
                return Some(render(answer, head));
            }
            None => fault::meet(&mut lock(&self.state).faults, &received.method, &below),
        };
        if let Some(Fault::Slow(by)) = fault {
            tokio::time::sleep(by).await;
        }
        let mut state = lock(&self.state);
        let answer = match &fault {
            None | Some(Fault::Slow(_)) => Some(state.handle(received)),
            Some(Fault::LoseRequest) => None,
            Some(Fault::LoseReply) => {
                state.handle(received);
                None
            }
            Some(Fault::ReplaceData(data)) => {
                let mut answer = state.handle(received);
                if let Some(serde_json::Value::Object(body)) = &mut answer.body {
                    body.insert("data".to_owned(), data.clone());
                }
                Some(answer)
            }
            Some(Fault::Answer { status, content_type, body }) => {
                state.remember(record, Some(*status));
                let response = Response::builder().status(*status).header(header::CONTENT_TYPE, content_type);
                return response.body(Bytes::from(body.clone())).ok();
            }
            Some(fault) => refusal(fault, &below),
        };
        state.remember(record, answer.as_ref().map(|answer| answer.status));
        answer.map(|answer| render(answer, head))
    }
}

/// What a fault that does nothing answers.
fn refusal(fault: &Fault, path: &str) -> Option<Answer> {
    Some(match fault {
        Fault::Stale => Refusal::new(412, "1 error occurred:\n\t* required index state not present\n\n").into(),
        Fault::RateLimited { retry_after } => {
            let answer = Answer::from(Refusal::new(429, format!("request path {path:?}: rate limit quota exceeded")));
            match retry_after {
                Some(after) => answer.header("retry-after", after.as_secs().to_string()),
                None => answer,
            }
        }
        Fault::InternalError => Refusal::new(500, "1 error occurred:\n\t* internal error\n\n").into(),
        Fault::Redirect { location } => {
            Answer { status: 307, headers: Vec::new(), body: None }.header("location", location)
        }
        _ => return None,
    })
}

/// A standby knows how it is, and where the active node is.
fn standby(active: &str, path: &str, query: &str, below: &str) -> Answer {
    if below == "sys/health" {
        return super::sys::health(false, true).status(429);
    }
    let query = if query.is_empty() { String::new() } else { format!("?{query}") };
    Answer { status: 307, headers: Vec::new(), body: None }.header("location", format!("{active}{path}{query}"))
}

fn token(headers: &HeaderMap) -> Option<String> {
    text(headers, "x-vault-token")
        .or_else(|| text(headers, "authorization")?.strip_prefix("Bearer ").map(str::to_owned))
        .filter(|token| !token.is_empty())
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// Percent-encoded bytes as what they stand for.
pub(super) fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let pair = after.get(..2).filter(|_| *first == b'%').and_then(|pair| str::from_utf8(pair).ok());
        match pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn render(answer: Answer, head: bool) -> Response<Bytes> {
    let body = answer.body.filter(|_| !head).map(|body| format!("{body}\n")).unwrap_or_default();
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = http::StatusCode::from_u16(answer.status).unwrap_or_default();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    for (name, value) in answer.headers {
        if let Ok(value) = header::HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::decoded;

    #[test]
    fn percent_signs_that_encode_nothing_stay() {
        assert_eq!(decoded("a%20b%2Fc%C3%A4"), "a b/cä");
        assert_eq!(decoded("100%/%zz%4"), "100%/%zz%4");
    }
}
