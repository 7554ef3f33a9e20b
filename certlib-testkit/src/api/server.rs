//! HTTP: faults, then the API, then a record of what happened.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use rand::RngExt as _;
use time::OffsetDateTime;

use super::{
    Call, Record,
    fault::{self, Fault, Injection},
};
use crate::http_server::{Handler, Peer};

/// An API that is simulated.
pub(crate) trait Api: Send + 'static {
    /// What all its paths begin with, with a slash at the end.
    const ROOT: &'static str;

    /// The time that it lives in.
    fn now(&self) -> OffsetDateTime;

    /// Carries a request out.
    fn answer(&mut self, call: &Call) -> Response<Bytes>;

    /// A refusal in its own words, for a status that a [`Fault`] wants.
    fn refusal(status: u16) -> Response<Bytes>;
}

/// What all connections to an API share.
#[derive(Debug)]
pub(crate) struct Gateway<A> {
    api: Mutex<A>,
    faults: Mutex<Vec<Injection>>,
    history: Mutex<Vec<Record>>,
}

impl<A: Api> Gateway<A> {
    pub(crate) fn new(api: A) -> Arc<Self> {
        Arc::new(Self { api: Mutex::new(api), faults: Mutex::default(), history: Mutex::default() })
    }

    pub(crate) fn api(&self) -> MutexGuard<'_, A> {
        lock(&self.api)
    }

    pub(crate) fn inject(&self, injection: Injection) {
        lock(&self.faults).push(injection);
    }

    pub(crate) fn clear_faults(&self) {
        lock(&self.faults).clear();
    }

    pub(crate) fn history(&self) -> Vec<Record> {
        lock(&self.history).clone()
    }

    /// How many requests with this method had a path with this part.
    pub(crate) fn count(&self, method: &str, part: &str) -> usize {
        let history = lock(&self.history);
        history.iter().filter(|record| record.method == method && record.path.contains(part)).count()
    }

    fn carry_out(&self, call: Option<&Call>) -> Response<Bytes> {
        match call {
            Some(call) => self.api().answer(call),
            None => page(404, "Not Found"),
        }
    }
}

impl<A: Api> Handler for Gateway<A> {
    async fn answer(self: Arc<Self>, _peer: Peer, request: Request<Bytes>) -> Option<Response<Bytes>> {
        let (method, full) = (request.method().as_str().to_owned(), request.uri().path().to_owned());
        let call = Call::new(request, A::ROOT);
        let path = call.as_ref().map_or(full, |call| call.path.clone());
        let query = call.as_ref().map(|call| call.query_text.clone()).unwrap_or_default();
        let at = self.api().now();
        let fault = fault::meet(&mut lock(&self.faults), &method, &path);
        let response = match fault {
            None => Some(self.carry_out(call.as_ref())),
            Some(Fault::Slow(by)) => {
                tokio::time::sleep(by).await;
                Some(self.carry_out(call.as_ref()))
            }
            Some(Fault::LoseRequest) => None,
            Some(Fault::LoseReply) => {
                self.carry_out(call.as_ref());
                None
            }
            Some(Fault::Truncated) => Some(halved(self.carry_out(call.as_ref()))),
            Some(Fault::Garbled) => {
                let response = self.carry_out(call.as_ref());
                Some(response.map(|_| Bytes::from_static(b"upstream connect error or disconnect/reset before headers")))
            }
            Some(fault) => Some(instead::<A>(fault)),
        };
        let status = response.as_ref().map(|response| response.status().as_u16());
        lock(&self.history).push(Record { method, path, query, status, at });
        response
    }
}

/// What a fault that does nothing answers.
fn instead<A: Api>(fault: Fault) -> Response<Bytes> {
    match fault {
        Fault::RateLimited { retry_after } => {
            let mut response = A::refusal(429);
            if let Some(after) = retry_after {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs()));
            }
            response
        }
        Fault::Answer { status, content_type, body } => respond(status, &content_type, body),
        Fault::Broken { status } => A::refusal(status),
        Fault::Unauthorized => A::refusal(401),
        Fault::Forbidden => A::refusal(403),
        _ => page(503, "Service Unavailable"),
    }
}

/// An answer without the second half of its body.
pub(crate) fn halved(response: Response<Bytes>) -> Response<Bytes> {
    response.map(|body| body.slice(..body.len() / 2))
}

/// A page such as a proxy in front of an API makes.
fn page(status: u16, title: &str) -> Response<Bytes> {
    let body = format!("<html><head><title>{title}</title></head><body><h1>{status} {title}</h1></body></html>\n");
    respond(status, "text/html; charset=UTF-8", body)
}

fn respond(status: u16, content_type: &str, body: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Ok(value) = HeaderValue::from_str(content_type) {
        response.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    response
}

/// Locks a mutex; a test that panicked elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// So many random bytes, as hexadecimal digits.
pub(crate) fn random_hex(bytes: usize) -> String {
    let mut random = rand::rng();
    (0..bytes).map(|_| format!("{:02x}", random.random::<u8>())).collect()
}
