//! A logged-in conversation: connects, logs in, seals and opens messages, and starts over when the connection is lost.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certlib_core::error::{Error, Result};
use certlib_core::{ErrorClass, classify};
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use tokio::task::spawn_blocking;
use zeroize::Zeroizing;

use super::auth::{Kdc, Package, SecurityContext};
use super::envelope::{Envelope, ns};
use super::fault::Fault;
use super::login::Login;
use super::wire::{Reply, Wire};
use super::xml::Element;
use super::{channel, seal};
use crate::net::{ClientIdentity, Connection, Guard, HttpUrl};

const OPERATION: &str = "winrm.request";

/// What a login by client certificate is announced with.
const MUTUAL: &str = "http://schemas.dmtf.org/wbem/wsman/1/wsman/secprofile/https/mutual";

/// How many times a login goes back and forth at most.
const MAX_LEGS: usize = 6;

/// The largest token of a server, in characters.
const MAX_TOKEN: usize = 64 * 1024;

/// A conversation with one machine.
pub(super) struct Session<'a> {
    pub(super) url: &'a HttpUrl,
    pub(super) guard: &'a Guard,
    pub(super) connection: &'a Connection,
    pub(super) login: &'a Login,
    /// The largest answer, in bytes.
    pub(super) max_answer: usize,
    state: Option<State>,
}

/// A connection that is logged in.
struct State {
    wire: Wire,
    /// Sealed messages, if there is no TLS.
    context: Option<SecurityContext>,
    /// Sent with every request.
    authorization: Option<HeaderValue>,
}

/// An answer: a fault, or the envelope.
pub(super) type Answer = Result<Element, Fault>;

impl fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("url", self.url).field("connected", &self.state.is_some()).finish()
    }
}

impl<'a> Session<'a> {
    /// A conversation that has not begun.
    pub(super) fn new(
        url: &'a HttpUrl,
        guard: &'a Guard,
        connection: &'a Connection,
        login: &'a Login,
        max_answer: usize,
    ) -> Self {
        Self { url, guard, connection, login, max_answer, state: None }
    }

    /// Sends a request, on a new connection if the one there was is gone, and waits `limit` for the answer.
    ///
    /// A request whose answer is lost is sent again only when it is `repeatable`. One that is refused because the login
    /// has expired was not looked at, so it is always sent again, once.
    ///
    /// # Errors
    /// `Network` when the machine cannot be reached or its answer is lost; `Auth` `login_refused`; `IoPermanent`
    /// `answer_not_sealed`, `protocol_error`; as [`classify::http`] says of a status, code `http_status`.
    pub(super) async fn ask(&mut self, envelope: &Envelope, limit: Duration, repeatable: bool) -> Result<Answer> {
        let mut again = true;
        loop {
            let fresh = self.prepare().await?;
            let reply = match self.send(envelope, limit).await {
                Ok(reply) => reply,
                Err(error) => {
                    // Both sides may have lost count of the messages on it.
                    self.state = None;
                    let lost = error.class() == ErrorClass::Network && error.code() != "timeout";
                    if again && repeatable && lost {
                        again = false;
                        continue;
                    }
                    return Err(error);
                }
            };
            if reply.status == 401 {
                self.state = None;
                if again && !fresh {
                    again = false;
                    continue;
                }
                return Err(refused(&reply, self.login));
            }
            return self.read(envelope, reply);
        }
    }

    /// Hangs up.
    pub(super) fn close(&mut self) {
        self.state = None;
    }

    /// Makes sure that there is a connection that is logged in; tells whether it is a new one.
    async fn prepare(&mut self) -> Result<bool> {
        if self.state.as_ref().is_some_and(|state| !state.wire.is_closed()) {
            return Ok(false);
        }
        self.state = Some(self.connect().await?);
        Ok(true)
    }

    async fn connect(&self) -> Result<State> {
        let identity = match self.login {
            Login::Certificate { identity } => Some(identity),
            _ => None,
        };
        let tls = if self.url.is_https() { Some(self.tls(identity)?) } else { None };
        let wire = Wire::dial(self.url, self.guard, tls, self.connection.timeouts.connect()).await?;
        match self.login {
            Login::Basic { user, password } => {
                let pair = Zeroizing::new(format!("{user}:{}", password.expose()));
                let value = header(&format!("Basic {}", Zeroizing::new(STANDARD.encode(pair.as_bytes())).as_str()))?;
                Ok(State { wire, context: None, authorization: Some(value) })
            }
            Login::Certificate { .. } => {
                Ok(State { wire, context: None, authorization: Some(HeaderValue::from_static(MUTUAL)) })
            }
            Login::Ntlm { .. } | Login::Negotiate { .. } | Login::Kerberos { .. } => self.log_in(wire).await,
        }
    }

    fn tls(&self, identity: Option<&ClientIdentity>) -> Result<rustls::ClientConfig> {
        self.connection.tls.client_config(identity)
    }

    /// The legs of NTLM or Kerberos, each an empty request.
    async fn log_in(&self, mut wire: Wire) -> Result<State> {
        let offer = self.leg(&mut wire, None).await?;
        if offer.status != 401 {
            return Err(unexpected(offer.status));
        }
        let scheme = match self.login {
            _ if offer.challenge("Negotiate").is_some() => "Negotiate",
            Login::Ntlm { .. } if offer.challenge("NTLM").is_some() => "NTLM",
            Login::Kerberos { .. } if offer.challenge("Kerberos").is_some() => "Kerberos",
            _ => {
                let offered: Vec<_> = offer.challenges().map(|(name, _)| name.escape_debug().to_string()).collect();
                let message = "the machine's WinRM does not offer this way to log in";
                return Err(
                    Error::auth("winrm.login", "scheme_not_offered", message).with("offered", offered.join(" "))
                );
            }
        };
        let bindings = wire.certificate.as_deref().map(channel::bindings);
        let mut context = self.context(bindings).await?;
        let mut token = Vec::new();
        for _ in 0..MAX_LEGS {
            let answered: Vec<u8>;
            (context, answered) = step(context, token).await?;
            let value = header(&format!("{scheme} {}", STANDARD.encode(&answered)))?;
            let reply = self.leg(&mut wire, Some(value)).await?;
            let challenge = reply.challenge(scheme).filter(|token| !token.is_empty());
            token = match (reply.status, challenge) {
                (200..=299 | 401, Some(challenge)) => decode(challenge)?,
                (200..=299, None) => Vec::new(),
                (401, None) => return Err(refused(&reply, self.login)),
                (status, _) => return Err(unexpected(status)),
            };
            if reply.status != 401 {
                // Kerberos proves the machine's side with a last token.
                if !context.is_established() && !token.is_empty() {
                    (context, _) = step(context, token).await?;
                }
                if !context.is_established() {
                    return Err(disagreed());
                }
                let context = (!self.url.is_https()).then_some(context);
                return Ok(State { wire, context, authorization: None });
            }
            if context.is_established() {
                return Err(refused(&reply, self.login));
            }
        }
        Err(disagreed())
    }

    async fn leg(&self, wire: &mut Wire, authorization: Option<HeaderValue>) -> Result<Reply> {
        let limit = Duration::from_millis(self.connection.timeouts.response_ms);
        wire.post(self.url, authorization, seal::PLAIN, Vec::new(), MAX_TOKEN, limit).await
    }

    async fn context(&self, bindings: Option<Vec<u8>>) -> Result<SecurityContext> {
        let target = format!("HTTP/{}", self.url.host());
        match self.login {
            Login::Ntlm { user, password } => {
                SecurityContext::new(Package::Ntlm, user, password, target, bindings, None)
            }
            Login::Negotiate { user, password } => {
                SecurityContext::new(Package::Negotiate, user, password, target, bindings, None)
            }
            Login::Kerberos { user, password, kdc, service } => {
                let (host, port) = super::login::kdc_parts(kdc)?;
                let addresses = self.guard.resolve(host).await?;
                let addresses = addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect();
                let kdc = Kdc { url: format!("tcp://{kdc}"), addresses };
                let target = service.clone().unwrap_or(target);
                SecurityContext::new(Package::Kerberos, user, password, target, bindings, Some(kdc))
            }
            Login::Basic { .. } | Login::Certificate { .. } => Err(disagreed()),
        }
    }

    async fn send(&mut self, envelope: &Envelope, limit: Duration) -> Result<Reply> {
        let Some(state) = self.state.as_mut() else { return Err(disagreed()) };
        let plain = envelope.xml.as_bytes();
        let (content_type, body) = match &mut state.context {
            Some(context) => (seal::SEALED, seal::seal(context, plain)?),
            None => (seal::PLAIN, plain.to_vec()),
        };
        let authorization = state.authorization.clone();
        state.wire.post(self.url, authorization, content_type, body, self.max_answer, limit).await
    }

    fn read(&mut self, envelope: &Envelope, reply: Reply) -> Result<Answer> {
        let content_type = reply.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let sealed = seal::is_sealed(content_type);
        let body = match self.state.as_mut().and_then(|state| state.context.as_mut()) {
            Some(context) if sealed => seal::unseal(context, &reply.body),
            // An answer in the clear could be anybody's. Its status is believed when it is bad news.
            Some(_) if matches!(reply.status, 200 | 500) => Err(seal::not_sealed()),
            _ => Ok(reply.body),
        };
        let body = match body {
            Ok(body) => body,
            Err(error) => {
                self.state = None;
                return Err(error);
            }
        };
        if !matches!(reply.status, 200 | 500) {
            return Err(unexpected(reply.status));
        }
        let answer = std::str::from_utf8(&body).ok().and_then(Element::parse);
        let answer = answer.filter(|root| root.namespace == ns::SOAP && root.name == "Envelope");
        let Some(answer) = answer else {
            return Err(if reply.status == 500 { unexpected(500) } else { nonsense() });
        };
        let relates = answer
            .child(ns::SOAP, "Header")
            .and_then(|header| header.child(ns::ADDRESSING, "RelatesTo"))
            .map_or("", Element::text);
        let id =
            relates.get(..5).filter(|prefix| prefix.eq_ignore_ascii_case("uuid:")).map_or(relates, |_| &relates[5..]);
        let fault = Fault::of(&answer);
        // A fault about a header that could not be read may not know what it is about.
        let matches = id.eq_ignore_ascii_case(&envelope.message.to_string()) || (fault.is_some() && relates.is_empty());
        if !matches {
            self.state = None;
            return Err(nonsense());
        }
        match fault {
            Some(fault) => Ok(Err(fault)),
            None if reply.status == 500 => Err(unexpected(500)),
            None => Ok(Ok(answer)),
        }
    }
}

/// One leg on our side. It may wait for a key distribution centre.
async fn step(mut context: SecurityContext, token: Vec<u8>) -> Result<(SecurityContext, Vec<u8>)> {
    let joined = spawn_blocking(move || context.step(token).map(|answer| (context, answer))).await;
    joined.map_err(|_| disagreed())?
}

fn header(text: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(text).map_err(|_| disagreed())?;
    value.set_sensitive(true);
    Ok(value)
}

fn decode(token: &str) -> Result<Vec<u8>> {
    STANDARD.decode(token).map_err(|_| disagreed())
}

fn refused(reply: &Reply, login: &Login) -> Error {
    let offered: Vec<_> = reply.challenges().map(|(name, _)| name.escape_debug().to_string()).collect();
    let message = "the machine refuses the login: is the password right, may the user use WinRM, and does the machine \
                   allow this way to log in?";
    Error::auth("winrm.login", "login_refused", message).with("scheme", login.name()).with("offered", offered.join(" "))
}

fn unexpected(status: u16) -> Error {
    let message = "WinRM answers with an HTTP status that means failure; is the URL right?";
    Error::new(classify::http(status), OPERATION, "http_status", message).with("status", status)
}

fn nonsense() -> Error {
    Error::permanent(OPERATION, "protocol_error", "the answer is not one of WS-Management to this request")
}

fn disagreed() -> Error {
    Error::permanent("winrm.login", "login_failed", "the login cannot be made: the two sides do not agree on how")
}
