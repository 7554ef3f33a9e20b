//! HTTP: faults, then the state, then a record of what happened.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use time::{OffsetDateTime, macros::format_description};

use super::{
    answer::{Answer, Outcome, Refusal},
    fault::{self, Fault},
    history::Record,
    lock,
    sign::Authorization,
    state::State,
};
use crate::http_server::{Handler, Peer};

/// What all connections share.
#[derive(Debug)]
pub(super) struct Gateway(pub(super) Arc<Mutex<State>>);

impl Handler for Gateway {
    async fn answer(self: Arc<Self>, _peer: Peer, request: Request<Bytes>) -> Option<Response<Bytes>> {
        let (method, path) = (request.method().as_str().to_owned(), request.uri().path().to_owned());
        let fault = fault::meet(&mut lock(&self.0).faults, &method, &path);
        if let Some(Fault::Slow(by)) = fault {
            tokio::time::sleep(by).await;
        }
        let request_id = super::random_hex(16);
        let mut state = lock(&self.0);
        let response = match fault {
            Some(Fault::LoseRequest) => None,
            Some(Fault::LoseReply) => {
                let _ = state.handle(&request);
                None
            }
            Some(Fault::Answer { status, content_type, body }) => {
                let mut response = Response::new(Bytes::from(body));
                *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
                if let Ok(value) = HeaderValue::from_str(&content_type) {
                    response.headers_mut().insert(header::CONTENT_TYPE, value);
                }
                Some(response)
            }
            Some(fault) if !matches!(fault, Fault::Slow(_)) => Some(render(refuse(&fault), &request_id, &state)),
            _ => Some(render(state.handle(&request), &request_id, &state)),
        };
        state.history.push(Record {
            method,
            path,
            query: request.uri().query().unwrap_or_default().to_owned(),
            access_key: Authorization::read(&request).map(|read| read.access_key).unwrap_or_default(),
            status: response.as_ref().map(|response| response.status().as_u16()),
        });
        response
    }
}

/// What a fault that does nothing answers.
fn refuse(fault: &Fault) -> Outcome {
    match fault {
        Fault::Throttled { retry_after } => {
            let mut answer =
                Refusal::gateway(429, "APIGW.0308", "The throttling threshold has been reached").answer("");
            answer.retry_after = retry_after.map(|after| after.as_secs());
            Ok(answer)
        }
        Fault::Broken { status } => Err(Refusal::gateway(*status, "APIG.9999", "Internal error")),
        Fault::Forbidden => {
            Err(Refusal::gateway(403, "APIGW.0302", "Policy doesn't allow this request to be performed"))
        }
        Fault::Conflict => Err(Refusal::flat(409, "ELB.8907", "The load balancer is immutable and cannot be updated")),
        _ => {
            let why = "Incorrect IAM authentication information: decrypt token fail";
            Err(Refusal::gateway(401, "APIGW.0301", why))
        }
    }
}

fn render(outcome: Outcome, request_id: &str, state: &State) -> Response<Bytes> {
    let answer = outcome.unwrap_or_else(|refusal| refusal.answer(request_id));
    let Answer { status, mut body, retry_after } = answer;
    if let Some(serde_json::Value::Object(body)) = &mut body
        && body.get("request_id").is_some_and(|id| id == "")
    {
        body.insert("request_id".to_owned(), request_id.into());
    }
    let text = body.map(|body| body.to_string()).unwrap_or_default();
    let mut response = Response::new(Bytes::from(text));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in [("x-request-id", request_id.to_owned()), ("date", http_date(state.now()))] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
    if let Some(seconds) = retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn http_date(now: OffsetDateTime) -> String {
    let format =
        format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");
    now.format(format).unwrap_or_default()
}
