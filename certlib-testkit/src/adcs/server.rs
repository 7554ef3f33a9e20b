//! The web server: places, logins, faults, and what becomes of a request.

use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};

use super::{
    certsrv::{self, About, Call},
    endpoint::{Auth, Place, Settings, cep_path, ces_path, ces_url},
    fault::{self, Fault, Operation},
    form::{Form, decoded},
    history::Record,
    hresult::Hresult,
    lock, policy,
    reply::{Reply, raw, with_retry_after},
    soap,
    state::{State, is_valid},
    texts::Texts,
    wstep,
};
use crate::{
    http_server::{Handler, Peer},
    logins::{Identity, Link, Offer, Verdict},
    xml,
};

/// The largest message that the services read, as WCF has it.
const LARGEST: usize = 65_536;

/// Everything that the connections share.
pub(super) struct Service {
    pub(super) state: Mutex<State>,
    pub(super) settings: Settings,
    pub(super) texts: Texts,
    /// The hash of its certificate, to which logins may be tied.
    pub(super) certificate: Vec<u8>,
}

impl Handler for Service {
    async fn answer(self: Arc<Self>, peer: Peer, request: Request<Bytes>) -> Option<Response<Bytes>> {
        let (parts, body) = request.into_parts();
        let path = decoded(parts.uri.path(), false);
        let mut record = Record::new(&peer, &parts.method, &path);
        let exchange = Exchange {
            service: &self,
            link: (true, peer.connection),
            method: &parts.method,
            query: parts.uri.query().unwrap_or_default(),
            headers: &parts.headers,
            body: &body,
        };
        let response = match self.settings.place(&path) {
            None => Some(Reply::page(404).into_response()),
            Some(place) => match exchange.log_in(&place, peer.certificate.as_deref()) {
                Err(response) => Some(*response),
                Ok((identity, token)) => {
                    let mut response = exchange.at(&place, identity, &mut record).await;
                    if let (Some(response), Some(token)) = (&mut response, token) {
                        response.headers_mut().insert(header::WWW_AUTHENTICATE, token);
                    }
                    response
                }
            },
        };
        record.status = response.as_ref().map(|response| response.status().as_u16());
        lock(&self.state).history.push(record);
        response
    }
}

/// One request on its way.
struct Exchange<'a> {
    service: &'a Service,
    link: Link,
    method: &'a Method,
    query: &'a str,
    headers: &'a HeaderMap,
    body: &'a [u8],
}

/// Who is logged in, and the last token of the login. Nobody where messages bring their own.
type LoggedIn = (Option<Identity>, Option<HeaderValue>);

impl Exchange<'_> {
    /// Logs in by what HTTP has for it; otherwise the answer that says how.
    fn log_in(&self, place: &Place, certificate: Option<&[u8]>) -> Result<LoggedIn, Box<Response<Bytes>>> {
        let Some(offer) = self.service.settings.offer(place) else { return Ok((None, None)) };
        let state = &mut *lock(&self.service.state);
        let now = state.now();
        let valid = certificate.filter(|certificate| is_valid(certificate, now));
        match state.logins.judge(self.link, &offer, self.headers, valid, Some(&self.service.certificate)) {
            Verdict::In(identity, token) => {
                Ok((Some(identity), token.and_then(|token| HeaderValue::from_str(&token).ok())))
            }
            Verdict::Denied(lines) => Err(Box::new(denied(&offer, &lines))),
        }
    }

    async fn at(&self, place: &Place, identity: Option<Identity>, record: &mut Record) -> Option<Response<Bytes>> {
        match (place, identity) {
            (Place::CertSrv(page), Some(identity)) => self.page(page, &identity, record).await,
            (Place::CertSrv(_), None) => Some(Reply::page(401).into_response()),
            (Place::Cep(auth) | Place::Ces(auth), identity) => self.message(place, *auth, identity, record).await,
        }
    }

    /// The web pages.
    async fn page(&self, page: &str, identity: &Identity, record: &mut Record) -> Option<Response<Bytes>> {
        let form = match *self.method {
            Method::POST => Form::parse(&String::from_utf8_lossy(self.body)),
            _ => Form::parse(self.query),
        };
        let browser = self.header(header::USER_AGENT).starts_with("Mozilla");
        let call = Call { method: self.method, page, form, user: &identity.user, browser };
        record.met(call.operation(), identity);
        let service = self.service;
        let domain = lock(&service.state).logins.policy.domain.clone();
        let about = About { ca_name: &service.settings.ca_name, domain: &domain, texts: &service.texts };
        let fault = fault::meet(&mut lock(&service.state).faults, record.operation);
        if let Some(answered) = self.instead(fault.as_ref(), &Place::CertSrv(String::new())).await {
            return answered;
        }
        let refuse = |code: Hresult| certsrv::refused(about, code.into());
        let reply = match &fault {
            Some(Fault::Unreachable) => refuse(Hresult::RPC_UNAVAILABLE),
            Some(Fault::Soap { code, .. }) => refuse(code.unwrap_or(Hresult::RPC_UNAVAILABLE)),
            _ => call.answer(&mut lock(&service.state), about, fault.as_ref()),
        };
        record.answered(&reply);
        self.finish(reply, fault.as_ref())
    }

    /// The services of SOAP.
    async fn message(
        &self,
        place: &Place,
        auth: Auth,
        identity: Option<Identity>,
        record: &mut Record,
    ) -> Option<Response<Bytes>> {
        if *self.method != Method::POST {
            return Some(Reply::page(405).into_response());
        }
        if !self.header(header::CONTENT_TYPE).to_lowercase().starts_with("application/soap+xml") {
            return Some(Reply::page(415).into_response());
        }
        if self.body.len() > LARGEST {
            return Some(Reply::page(413).into_response());
        }
        let action = if matches!(place, Place::Cep(_)) { policy::ACTION } else { wstep::ACTION };
        let ours = self.own_url(place, auth);
        let secured = auth == Auth::UsernamePassword;
        let parsed = soap::Request::parse(&xml::decode(self.body), &[action], secured, |to| {
            decoded(to, false).eq_ignore_ascii_case(&decoded(&ours, false))
        });
        let request = match parsed.and_then(|request| Ok((self.who(&request, identity)?, request))) {
            Ok((identity, request)) => {
                let operation = match place {
                    Place::Cep(_) => Operation::GetPolicies,
                    _ => wstep::operation(&request),
                };
                record.met(operation, &identity);
                (request, identity)
            }
            Err(fault) => return self.finish(broken(&fault, record), None),
        };
        let (request, identity) = request;
        let fault = fault::meet(&mut lock(&self.service.state).faults, record.operation);
        if let Some(answered) = self.instead(fault.as_ref(), place).await {
            return answered;
        }
        let outcome = match &fault {
            Some(Fault::BadCredentials) => Err(soap::Fault::failed_authentication(&request.message_id)),
            Some(Fault::Unreachable) => Err(wstep::refused(&request, Hresult::RPC_UNAVAILABLE.into())),
            Some(Fault::Soap { code, reason, invalid_request }) => {
                let mut fault = request.fault(*code, reason.clone());
                fault.invalid_request = *invalid_request;
                Err(fault)
            }
            _ => self.perform(place, auth, &request, &identity.user, fault.as_ref()),
        };
        let reply = match outcome {
            Ok((body, id)) => Reply::new(200, soap::CONTENT_TYPE, body).about(id),
            Err(fault) => broken(&fault, record),
        };
        record.answered(&reply);
        self.finish(reply, fault.as_ref())
    }

    fn perform(
        &self,
        place: &Place,
        auth: Auth,
        request: &soap::Request,
        user: &str,
        fault: Option<&Fault>,
    ) -> Result<(String, Option<u32>), Box<soap::Fault>> {
        let Service { settings, texts, .. } = self.service;
        let state = &mut *lock(&self.service.state);
        if matches!(place, Place::Cep(_)) {
            return policy::answer(request, state, user, settings, &self.base()).map(|body| (body, None));
        }
        let renewal_only = settings.renewal_only.contains(&auth);
        let url = ces_url(&self.base(), &settings.ca_name, auth);
        wstep::answer(request, state, wstep::Context { user, url: &url, texts, renewal_only, fault })
    }

    /// Who is asking: whoever is logged in, or whom the message names with the right password.
    fn who(&self, request: &soap::Request, identity: Option<Identity>) -> Result<Identity, Box<soap::Fault>> {
        if let Some(identity) = identity {
            return Ok(identity);
        }
        let state = &mut *lock(&self.service.state);
        let now = state.now();
        let token = request.token.as_ref().filter(|token| token.is_fresh(now));
        let token = token.ok_or_else(|| soap::Fault::invalid_security(&request.message_id))?;
        let known = state.logins.by_password(&token.user, &token.password, "UsernameToken");
        known.ok_or_else(|| soap::Fault::failed_authentication(&request.message_id))
    }

    /// What a fault does before anything is carried out; the inner `None` cuts the connection.
    async fn instead(&self, fault: Option<&Fault>, place: &Place) -> Option<Option<Response<Bytes>>> {
        match fault? {
            Fault::Slow(by) => {
                tokio::time::sleep(*by).await;
                None
            }
            Fault::LoseRequest => Some(None),
            Fault::Throttled { retry_after } => {
                Some(Some(with_retry_after(Reply::page(429).into_response(), *retry_after)))
            }
            Fault::Broken { status, retry_after } => {
                Some(Some(with_retry_after(Reply::page(*status).into_response(), *retry_after)))
            }
            Fault::Answer { status, content_type, body } => {
                Some(Some(raw(*status, content_type, body.clone().into_bytes())))
            }
            Fault::BadCredentials => {
                let offer = self.service.settings.offer(place)?;
                lock(&self.service.state).logins.forget(Some(self.link));
                Some(Some(denied(&offer, &offer.lines())))
            }
            _ => None,
        }
    }

    /// What a fault does to an answer; `None` cuts the connection.
    fn finish(&self, mut reply: Reply, fault: Option<&Fault>) -> Option<Response<Bytes>> {
        match fault {
            Some(Fault::LoseReply) => return None,
            Some(Fault::Truncated) => reply.body.truncate(reply.body.len() / 2),
            _ => {}
        }
        Some(reply.into_response())
    }

    fn header(&self, name: header::HeaderName) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The beginning of its URLs, as the client sees them.
    fn base(&self) -> String {
        format!("https://{}", self.header(header::HOST))
    }

    fn own_url(&self, place: &Place, auth: Auth) -> String {
        let path = match place {
            Place::Cep(_) => cep_path(auth),
            _ => ces_path(&self.service.settings.ca_name, auth),
        };
        format!("{}{path}", self.base())
    }
}

/// The answer with a fault; notes its code.
fn broken(fault: &soap::Fault, record: &mut Record) -> Reply {
    record.code = fault.code;
    Reply::new(500, soap::CONTENT_TYPE, fault.envelope()).with_code(fault.code).about(fault.request_id)
}

/// `401` with the ways to log in, or `403` where only a certificate would do.
fn denied(offer: &Offer, lines: &[String]) -> Response<Bytes> {
    let only_certificates = offer.certificate.is_some() && offer.basic.is_none() && !offer.negotiate;
    let mut response = Reply::page(if only_certificates { 403 } else { 401 }).into_response();
    for line in lines {
        if let Ok(value) = HeaderValue::from_str(line) {
            response.headers_mut().append(header::WWW_AUTHENTICATE, value);
        }
    }
    response
}

impl Record {
    fn new(peer: &Peer, method: &Method, path: &str) -> Self {
        Self {
            connection: peer.connection,
            method: method.to_string(),
            path: path.to_owned(),
            operation: Operation::Other,
            user: None,
            scheme: None,
            request_id: None,
            status: None,
            code: None,
        }
    }

    fn met(&mut self, operation: Operation, identity: &Identity) {
        self.operation = operation;
        self.user = Some(identity.user.clone());
        self.scheme = Some(identity.scheme);
    }

    fn answered(&mut self, reply: &Reply) {
        self.request_id = reply.request_id;
        self.code = reply.code;
    }
}

/// The state of a service, locked; for those who hold it by its simulator.
pub(super) fn state(service: &Service) -> MutexGuard<'_, State> {
    lock(&service.state)
}
