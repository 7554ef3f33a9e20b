//! The service: HTTP, logins, encryption, and what becomes of a request.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use tokio::sync::Notify;

use super::{
    auth::Settings,
    command::{self, Host},
    config,
    envelope::{self, Fault},
    fault::{self, Fault as Misbehaviour, Injection, Operation},
    history::{Executed, Record},
    lock,
    script::Scripts,
    sealed,
    shells::{Due, Found, Shells},
    windows::Windows,
};
use crate::{
    http_server::{Handler, Peer},
    logins::{Identity, Link, Logins, Verdict},
    xml,
};

const SOAP: &str = "application/soap+xml;charset=UTF-8";

/// The smallest envelope that a client may ask for.
const SMALLEST: usize = 8192;

/// The longest that the service holds a request: `MaxTimeoutms`.
const LONGEST: Duration = Duration::from_secs(60);

/// Everything that the listeners share.
pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    /// Told whenever a command has moved on.
    pub(super) changed: Notify,
    /// How many requests are held until there is output.
    pub(super) waiting: AtomicUsize,
    pub(super) settings: Settings,
    pub(super) max_envelope: usize,
    pub(super) progress: bool,
}

pub(super) struct State {
    pub(super) windows: Windows,
    pub(super) scripts: Scripts,
    pub(super) logins: Logins,
    pub(super) shells: Shells,
    pub(super) faults: Vec<Injection>,
    pub(super) history: Vec<Record>,
    pub(super) executed: Vec<Executed>,
}

/// One address that WinRM listens on.
pub(super) struct Listener {
    pub(super) shared: Arc<Shared>,
    /// The hash of its certificate; `None` over plain HTTP.
    pub(super) certificate: Option<Vec<u8>>,
}

/// An answer before it becomes HTTP.
struct Reply {
    status: u16,
    content_type: String,
    body: String,
    fault: Option<u32>,
}

impl Reply {
    fn soap(body: String) -> Self {
        Self { status: 200, content_type: SOAP.to_owned(), body, fault: None }
    }

    fn fault(fault: &Fault, relates_to: &str, machine: &str) -> Self {
        let body = fault.envelope(relates_to, machine);
        Self { status: 500, content_type: SOAP.to_owned(), body, fault: Some(fault.code) }
    }
}

impl Handler for Listener {
    async fn answer(self: Arc<Self>, peer: Peer, request: Request<Bytes>) -> Option<Response<Bytes>> {
        let (parts, body) = request.into_parts();
        if parts.uri.path().trim_end_matches('/') != "/wsman" {
            return Some(bare(StatusCode::NOT_FOUND));
        }
        if parts.method != Method::POST {
            return Some(bare(StatusCode::METHOD_NOT_ALLOWED));
        }
        let link = (self.certificate.is_some(), peer.connection);
        let mut record = Record::of(link);
        if parts.headers.contains_key("wsmanidentify") {
            record.operation = Operation::Identify;
            record.status = Some(200);
            let state = &mut *lock(&self.shared.state);
            state.history.push(record);
            return Some(render(200, SOAP, config::identify(state.windows.build()).into_bytes()));
        }
        let verdict = lock(&self.shared.state).logins.judge(
            link,
            &self.shared.settings.offer(link.0),
            &parts.headers,
            peer.certificate.as_deref(),
            self.certificate.as_deref(),
        );
        let (identity, token) = match verdict {
            Verdict::In(identity, token) => (identity, token),
            Verdict::Denied(lines) => {
                record.status = Some(401);
                lock(&self.shared.state).history.push(record);
                return Some(denied(&lines));
            }
        };
        record.user = Some(identity.user.clone());
        record.scheme = Some(identity.scheme);
        let mut response = self.converse(link, &parts.headers, &body, &identity, &mut record).await;
        record.status = response.as_ref().map(|response| response.status().as_u16());
        lock(&self.shared.state).history.push(record);
        if let (Some(response), Some(value)) = (&mut response, token.and_then(|token| token.parse().ok())) {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
        }
        response
    }
}

impl Listener {
    /// Answers somebody who is logged in.
    async fn converse(
        &self,
        link: Link,
        headers: &HeaderMap,
        body: &[u8],
        identity: &Identity,
        record: &mut Record,
    ) -> Option<Response<Bytes>> {
        if body.is_empty() {
            return Some(render(200, SOAP, Vec::new()));
        }
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        record.sealed = sealed::is_sealed(content_type);
        let plain = if record.sealed {
            let state = &mut *lock(&self.shared.state);
            let opened = state.logins.seal(link).and_then(|seal| sealed::open(body, seal));
            let Some(opened) = opened else {
                // What cannot be opened ends the session, as a broken stream cannot be mended.
                state.logins.forget(Some(link));
                return Some(bare(StatusCode::BAD_REQUEST));
            };
            opened
        } else if link.0 || self.shared.settings.allow_unencrypted {
            body.to_vec()
        } else {
            return Some(bare(StatusCode::INTERNAL_SERVER_ERROR));
        };
        if plain.len() > self.shared.max_envelope {
            return Some(bare(StatusCode::PAYLOAD_TOO_LARGE));
        }
        let text = xml::decode(&plain);
        let parsed = envelope::Request::parse(&text);
        record.operation = parsed.as_ref().map_or(Operation::Other, |request| request.operation);
        let fault = match &parsed {
            Ok(request) => self.meet(request, &identity.user),
            Err(_) => None,
        };
        let spoil = matches!(fault, Some(Misbehaviour::BadSeal));
        let reply = match parsed {
            Ok(request) => self.respond(link, request, identity, fault).await?,
            Err(fault) => Reply::fault(&fault, "", &self.machine()),
        };
        record.fault = reply.fault;
        if reply.status == 401 {
            return Some(denied(&["Negotiate".to_owned()]));
        }
        let state = &mut *lock(&self.shared.state);
        match state.logins.seal(link).filter(|_| record.sealed && reply.content_type == SOAP) {
            Some(seal) => {
                let body = sealed::close(reply.body.as_bytes(), seal, spoil);
                Some(render(reply.status, sealed::CONTENT_TYPE, body))
            }
            None => Some(render(reply.status, &reply.content_type, reply.body.into_bytes())),
        }
    }

    /// The fault that a request meets, if any.
    fn meet(&self, request: &envelope::Request, user: &str) -> Option<Misbehaviour> {
        let State { faults, shells, scripts, .. } = &mut *lock(&self.shared.state);
        if faults.is_empty() {
            return None;
        }
        let script = shells.peek(request, user).and_then(|call| scripts.open(call).call.marker);
        fault::meet(faults, request.operation, script.as_ref().map(|marker| marker.name.as_str()))
    }

    /// What is answered, faults included; `None` cuts the connection.
    async fn respond(
        &self,
        link: Link,
        request: envelope::Request,
        identity: &Identity,
        fault: Option<Misbehaviour>,
    ) -> Option<Reply> {
        let machine = self.machine();
        let refuse = |fault: &Fault| Some(Reply::fault(fault, &request.message_id, &machine));
        let limits = lock(&self.shared.state).shells.limits;
        match &fault {
            Some(Misbehaviour::LoginExpired) => {
                lock(&self.shared.state).logins.forget(Some(link));
                return Some(Reply { status: 401, ..Reply::soap(String::new()) });
            }
            Some(Misbehaviour::AccessDenied) => return refuse(&Fault::access_denied()),
            Some(Misbehaviour::TimedOut) => return refuse(&Fault::timed_out()),
            Some(Misbehaviour::ShellQuota) => return refuse(&Fault::shell_quota(limits.shells)),
            Some(Misbehaviour::OperationQuota) => return refuse(&Fault::operation_quota(limits.commands)),
            Some(Misbehaviour::Wsman { code, subcode, reason }) => {
                return refuse(&Fault::new(*code, "s:Receiver", subcode, reason.clone()));
            }
            Some(Misbehaviour::Answer { status, content_type, body }) => {
                let (content_type, body) = (content_type.clone(), body.clone());
                return Some(Reply { status: *status, content_type, body, fault: None });
            }
            Some(Misbehaviour::LoseRequest) => return None,
            Some(Misbehaviour::Slow(by)) => tokio::time::sleep(*by).await,
            Some(Misbehaviour::ShellsLost) => lock(&self.shared.state).shells.clear(),
            Some(Misbehaviour::Meanwhile(change)) => change.apply(&mut lock(&self.shared.state).windows),
            Some(Misbehaviour::LoseReply | Misbehaviour::BadSeal) | None => {}
        }
        let outcome = if !identity.allowed {
            Err(Fault::access_denied())
        } else if request.envelope_size < SMALLEST {
            Err(Fault::small_envelope())
        } else {
            self.perform(&request, &identity.user).await
        };
        if matches!(fault, Some(Misbehaviour::LoseReply)) {
            return None;
        }
        match outcome {
            Ok(body) => Some(Reply::soap(request.answer(&body))),
            Err(fault) => refuse(&fault),
        }
    }

    async fn perform(&self, request: &envelope::Request, user: &str) -> Result<String, Fault> {
        if request.operation == Operation::Receive {
            return self.receive(request, user).await;
        }
        let state = &mut *lock(&self.shared.state);
        match request.operation {
            Operation::Create => state.shells.create(request, user, &state.windows),
            Operation::Delete => {
                let body = state.shells.delete(request, user);
                self.shared.changed.notify_waiters();
                body
            }
            Operation::Command => {
                let (body, due) = state.shells.command(request, user)?;
                self.run(state, due);
                Ok(body)
            }
            Operation::Send => {
                let (body, due) = state.shells.send(request, user)?;
                self.run(state, due);
                Ok(body)
            }
            Operation::Signal => {
                let body = state.shells.signal(request, user);
                self.shared.changed.notify_waiters();
                body
            }
            Operation::Get if request.shell_id.is_some() => state.shells.show(request, user),
            Operation::Get => {
                let Shared { max_envelope, settings, .. } = &*self.shared;
                let hardening = state.logins.policy.hardening;
                config::get(&request.resource, *max_envelope, state.shells.limits, settings, hardening)
                    .ok_or_else(|| Fault::unknown_resource(&request.resource))
            }
            Operation::Enumerate if request.resource == envelope::SHELL || request.resource == envelope::CMD => {
                Ok(state.shells.list(user))
            }
            Operation::Enumerate => Err(Fault::unknown_resource(&request.resource)),
            _ => Err(Fault::unsupported(&request.action)),
        }
    }

    /// Runs what is due. It takes no time of its own: what takes time says so.
    fn run(&self, state: &mut State, due: Option<Due>) {
        let Some(due) = due else { return };
        let mut host = Host {
            windows: &mut state.windows,
            scripts: &state.scripts,
            executed: &mut state.executed,
            progress: self.shared.progress,
        };
        let output = command::run(&mut host, &due.call);
        state.shells.ran(&due, output);
        self.shared.changed.notify_waiters();
    }

    /// Waits for output, but no longer than the client wants.
    async fn receive(&self, request: &envelope::Request, user: &str) -> Result<String, Fault> {
        let deadline = Instant::now() + request.timeout.min(LONGEST);
        let mut waited = false;
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let found = lock(&self.shared.state).shells.receive(request, user, waited)?;
            let until = match found {
                Found::Now(body) => return Ok(body),
                Found::Later(at) => at.map_or(deadline, |at| at.min(deadline)),
            };
            if Instant::now() >= deadline {
                return Err(Fault::timed_out());
            }
            waited = true;
            let _held = Held::new(&self.shared.waiting);
            tokio::select! {
                () = &mut changed => {}
                () = tokio::time::sleep_until(until.into()) => {}
            }
        }
    }

    fn machine(&self) -> String {
        lock(&self.shared.state).windows.computer_name.clone()
    }
}

/// Counts a request while it is held, and no longer, even if its client goes away.
struct Held<'a>(&'a AtomicUsize);

impl<'a> Held<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn denied(lines: &[String]) -> Response<Bytes> {
    let mut response = bare(StatusCode::UNAUTHORIZED);
    for line in lines {
        if let Ok(value) = line.parse() {
            response.headers_mut().append(header::WWW_AUTHENTICATE, value);
        }
    }
    response
}

fn bare(status: StatusCode) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    response.headers_mut().insert(header::SERVER, header::HeaderValue::from_static("Microsoft-HTTPAPI/2.0"));
    response
}

fn render(status: u16, content_type: &str, body: Vec<u8>) -> Response<Bytes> {
    let mut response = bare(StatusCode::from_u16(status).unwrap_or_default());
    if let Ok(value) = content_type.parse() {
        response.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    *response.body_mut() = body.into();
    response
}

impl Record {
    fn of(link: Link) -> Self {
        Self {
            https: link.0,
            connection: link.1,
            operation: Operation::Login,
            user: None,
            scheme: None,
            sealed: false,
            status: None,
            fault: None,
        }
    }
}
