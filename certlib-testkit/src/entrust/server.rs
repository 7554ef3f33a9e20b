//! HTTP for both services: faults, then the service, then a record of what happened.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use time::OffsetDateTime;

use super::{call::Answer, history::Record, lock};
use crate::{
    Error, Result,
    api::{self, Fault, Injection},
    http_server::{Handler, Peer},
    pki::{Issued, TestCa},
};

const UNAVAILABLE: &str = "<html><head><title>503 Service Temporarily Unavailable</title></head><body><center><h1>503 \
                           Service Temporarily Unavailable</h1></center></body></html>";
const MALFORMED: &str = "{\"trackingId\": 12, <unexpected end";

/// What both services keep about themselves.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) root: TestCa,
    pub(super) issuing: TestCa,
    /// The certificate of the only client, DER.
    pub(super) client: Vec<u8>,
    pub(super) faults: Vec<Injection>,
    pub(super) history: Vec<Record>,
    /// How far the clock is ahead of the machine's.
    pub(super) ahead: time::Duration,
}

impl Desk {
    /// A new authority, and the certificate of its client.
    pub(super) fn new(name: &str) -> Result<(Self, Issued)> {
        let root = TestCa::new(&format!("{name} root"))?;
        let issuing = root.intermediate(&format!("{name} issuing authority"))?;
        let issued = TestCa::new(&format!("{name} clients"))?.issue(&["api-client.example"])?;
        let client = CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes())
            .map_err(|error| Error::Crypto(error.to_string()))?
            .to_vec();
        let (faults, history, ahead) = (Vec::new(), Vec::new(), time::Duration::ZERO);
        Ok((Self { root, issuing, client, faults, history, ahead }, issued))
    }

    pub(super) fn now(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc() + self.ahead
    }

    /// Whether the client showed its certificate.
    pub(super) fn knows(&self, peer: &Peer) -> bool {
        peer.certificate.as_deref() == Some(self.client.as_slice())
    }
}

/// One of the two services.
pub(super) trait Service: Send + 'static {
    fn desk(&mut self) -> &mut Desk;

    /// Checks who asks, and carries it out.
    fn handle(&mut self, peer: &Peer, request: &Request<Bytes>) -> Answer;

    /// An error in the service's words.
    fn refuse(status: u16, message: &str) -> Answer;
}

/// What all connections share.
#[derive(Debug)]
pub(super) struct Gateway<S>(pub(super) Arc<Mutex<S>>);

impl<S: Service> Handler for Gateway<S> {
    async fn answer(self: Arc<Self>, peer: Peer, request: Request<Bytes>) -> Option<Response<Bytes>> {
        let (method, path) = (request.method().as_str().to_owned(), request.uri().path().to_owned());
        let fault = api::meet(&mut lock(&self.0).desk().faults, &method, &path);
        if let Some(Fault::Slow(by)) = fault {
            tokio::time::sleep(by).await;
        }
        let half = fault == Some(Fault::Truncated);
        let mut service = lock(&self.0);
        let response = meet(&mut *service, &peer, &request, fault).map(render);
        let response = response.map(|response| if half { api::halved(response) } else { response });
        let desk = service.desk();
        let record = Record {
            method,
            path,
            query: request.uri().query().unwrap_or_default().to_owned(),
            with_basic: request.headers().contains_key(header::AUTHORIZATION),
            with_certificate: peer.certificate.is_some(),
            status: response.as_ref().map(|response| response.status().as_u16()),
            at: desk.now(),
        };
        desk.history.push(record);
        response
    }
}

/// The answer to a request that meets a fault, or none; `None` cuts the connection.
fn meet<S: Service>(service: &mut S, peer: &Peer, request: &Request<Bytes>, fault: Option<Fault>) -> Option<Answer> {
    Some(match fault {
        None | Some(Fault::Slow(_) | Fault::Truncated) => service.handle(peer, request),
        Some(Fault::RateLimited { retry_after }) => {
            let retry_after = retry_after.map(|after| after.as_secs());
            Answer { retry_after, ..S::refuse(429, "Too many requests") }
        }
        Some(Fault::Broken { status }) => S::refuse(status, "Internal error"),
        Some(Fault::Maintenance) => Answer::text(503, "text/html", UNAVAILABLE),
        Some(Fault::Garbled) => {
            service.handle(peer, request);
            Answer::text(200, "application/json", MALFORMED)
        }
        Some(Fault::Unauthorized) => S::refuse(401, "Authentication failed"),
        Some(Fault::Forbidden) => S::refuse(403, "The client certificate is not accepted"),
        Some(Fault::Answer { status, content_type, body }) => Answer::text(status, &content_type, &body),
        Some(Fault::LoseRequest) => return None,
        Some(Fault::LoseReply) => {
            service.handle(peer, request);
            return None;
        }
    })
}

fn render(Answer { status, content_type, body, retry_after, challenges }: Answer) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&content_type) {
        headers.insert(header::CONTENT_TYPE, value);
    }
    if challenges {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"Entrust\""));
    }
    if let Some(seconds) = retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
