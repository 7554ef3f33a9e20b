//! HTTP: faults, then the state, then a record of what happened.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};

use super::{
    answer::{Answer, Body, Refusal},
    history::Record,
    lock,
    state::State,
};
use crate::{
    api::{self, Fault},
    http_server::{Handler, Peer},
};

const UNAVAILABLE: &str = "<html><head><title>503 Service Temporarily Unavailable</title></head><body><center><h1>503 \
                           Service Temporarily Unavailable</h1></center></body></html>";
const MALFORMED: &str = "{\"sslId\": 12, <unexpected end";

/// What all connections share.
#[derive(Debug)]
pub(super) struct Gateway(pub(super) Arc<Mutex<State>>);

impl Handler for Gateway {
    async fn answer(self: Arc<Self>, peer: Peer, request: Request<Bytes>) -> Option<Response<Bytes>> {
        let (method, path) = (request.method().as_str().to_owned(), request.uri().path().to_owned());
        let fault = api::meet(&mut lock(&self.0).faults, &method, &path);
        if let Some(Fault::Slow(by)) = fault {
            tokio::time::sleep(by).await;
        }
        let half = fault == Some(Fault::Truncated);
        let mut state = lock(&self.0);
        let response = meet(&mut state, &peer, &request, fault).map(render);
        let response = response.map(|response| if half { api::halved(response) } else { response });
        let login = request.headers().get("login").and_then(|login| login.to_str().ok()).unwrap_or_default().to_owned();
        let record = Record {
            method,
            path,
            query: request.uri().query().unwrap_or_default().to_owned(),
            login,
            status: response.as_ref().map(|response| response.status().as_u16()),
            at: state.now(),
        };
        state.history.push(record);
        response
    }
}

/// The answer to a request that meets a fault, or none; `None` cuts the connection.
fn meet(state: &mut State, peer: &Peer, request: &Request<Bytes>, fault: Option<Fault>) -> Option<Answer> {
    let page = |status, content_type: &str, body: &str| {
        Answer::with(status, Body::Raw { content_type: content_type.to_owned(), bytes: body.as_bytes().to_vec() })
    };
    Some(match fault {
        None | Some(Fault::Slow(_) | Fault::Truncated) => state.handle(peer, request).unwrap_or_else(Answer::from),
        Some(Fault::RateLimited { retry_after }) => {
            let answer = Answer::from(Refusal::new(429, -1, "Too many requests"));
            match retry_after {
                Some(after) => answer.header("retry-after", after.as_secs().to_string()),
                None => answer,
            }
        }
        Some(Fault::Broken { status }) => {
            Refusal::new(status, -2, "Internal error. Please contact Support for details.").into()
        }
        Some(Fault::Maintenance) => page(503, "text/html", UNAVAILABLE),
        Some(Fault::Garbled) => {
            let _ = state.handle(peer, request);
            page(200, "application/json", MALFORMED)
        }
        Some(Fault::Unauthorized) => Refusal::unknown_user().into(),
        Some(Fault::Forbidden) => Refusal::new(403, -37, "Access denied.").into(),
        Some(Fault::Answer { status, content_type, body }) => page(status, &content_type, &body),
        Some(Fault::LoseRequest) => return None,
        Some(Fault::LoseReply) => {
            let _ = state.handle(peer, request);
            return None;
        }
    })
}

fn render(Answer { status, body, headers }: Answer) -> Response<Bytes> {
    let (content_type, bytes) = match body {
        Body::Empty => (None, Vec::new()),
        Body::Json(body) => (Some("application/json;charset=UTF-8".to_owned()), body.to_string().into_bytes()),
        Body::Raw { content_type, bytes } => (Some(content_type), bytes),
    };
    let mut response = Response::new(Bytes::from(bytes));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    let map = response.headers_mut();
    if let Some(value) = content_type.and_then(|text| HeaderValue::from_str(&text).ok()) {
        map.insert(header::CONTENT_TYPE, value);
    }
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::from_str(&value) {
            map.insert(HeaderName::from_static(name), value);
        }
    }
    response
}
