//! The management address: HTTPS, with faults.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{
    answer::{Answer, Refusal},
    auth::Session,
    call::Call,
    fault::{self, Fault},
    history::Record,
    listener, lock,
    state::State,
};
use crate::http_server::{Handler, Peer};

/// What the management address and the virtual servers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    pub(super) stop: CancellationToken,
}

impl Handler for Shared {
    async fn answer(self: Arc<Self>, _peer: Peer, request: Request<Bytes>) -> Option<Response<Bytes>> {
        let path = request.uri().path().to_owned();
        let Some(call) = Call::of(request) else {
            return Some(render(Refusal::no_route(&path).into()));
        };
        let fault = fault::meet(&mut lock(&self.state).faults, &call.method, &call.path);
        if let Some(Fault::Slow(by)) = &fault {
            tokio::time::sleep(*by).await;
        }
        let response = {
            let mut state = lock(&self.state);
            let mut response = meet(&mut state, &call, fault);
            if let Some(response) = &mut response {
                invite(&call, response);
            }
            let status = response.as_ref().map(|response| response.status().as_u16());
            state.history.push(Record { status, ..Record::of(&call) });
            response
        };
        listener::open_missing(&self);
        response
    }
}

fn meet(state: &mut State, call: &Call, fault: Option<Fault>) -> Option<Response<Bytes>> {
    match fault {
        None | Some(Fault::Slow(_)) => {}
        Some(Fault::ExpireToken) => {
            if let Some(token) = &call.token {
                state.logins.end(token);
            }
        }
        Some(Fault::Error { status, message }) => return Some(render(Refusal::new(status, message).into())),
        Some(Fault::Busy) => {
            let message = "There is an active asynchronous task executing.";
            return Some(render(Refusal::new(503, message).into()));
        }
        Some(Fault::Answer { status, content_type, body }) => return Some(page(status, &content_type, body)),
        Some(Fault::LoseRequest) => return None,
        Some(Fault::LoseReply) => {
            state.handle(call, None);
            return None;
        }
        Some(Fault::HideReply { status }) => {
            state.handle(call, None);
            return Some(render(Refusal::new(status, "The answer was lost on the way.").into()));
        }
        Some(Fault::TransactionFails { message }) => return Some(render(state.handle(call, Some(&message)))),
        Some(Fault::Meanwhile { method, path, body }) => {
            let edit = Call::operated(&method, &path, &body);
            if let Err(refusal) = state.dispatch(&edit, &Session::operator(), None) {
                tracing::warn!(method, path, refusal = refusal.message, "what somebody else wanted was refused");
            }
        }
    }
    Some(render(state.handle(call, None)))
}

/// Who comes without any login is told that HTTP Basic is one.
fn invite(call: &Call, response: &mut Response<Bytes>) {
    if response.status() == StatusCode::UNAUTHORIZED && call.token.is_none() && call.path != "shared/authn/login" {
        let realm = HeaderValue::from_static("Basic realm=\"Enterprise Manager\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, realm);
    }
}

fn page(status: u16, content_type: &str, body: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    if let Ok(value) = HeaderValue::from_str(content_type) {
        response.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    response
}

fn render(Answer { status, body }: Answer) -> Response<Bytes> {
    let text = if matches!(body, Value::Null) { String::new() } else { body.to_string() };
    page(status, "application/json; charset=UTF-8", text)
}
