//! The HTTP server under the faked services: it keeps zones and records, writes down what it was asked, and misbehaves
//! on demand.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query as they came.
    pub(crate) target: String,
    /// Percent-decoded segments.
    pub(crate) path: Vec<String>,
    pub(crate) query: BTreeMap<String, String>,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub(crate) fn query(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    /// The body as a form.
    pub(crate) fn form(&self) -> BTreeMap<String, String> {
        url::form_urlencoded::parse(self.body.as_bytes()).into_owned().collect()
    }

    /// Method and path, for `match`.
    pub(crate) fn route(&self) -> (&str, Vec<&str>) {
        (&self.method, self.path.iter().map(String::as_str).collect())
    }

    pub(crate) fn writes(&self) -> bool {
        self.method != "GET"
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl ToString) -> Self {
        Self { status, headers: Vec::new(), body: body.to_string() }
    }

    /// To a request that no documentation knows.
    pub(crate) fn unexpected(request: &Request) -> Self {
        Self::new(400, format!("unexpected: {request:?}"))
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }
}

/// A TXT record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) id: u64,
    pub(crate) zone: String,
    pub(crate) fqdn: String,
    pub(crate) value: String,
}

/// A value as zone files write it.
pub(crate) fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

/// What [`quoted`] writes, read back; `None` when it is something else.
pub(crate) fn unquoted(text: &str) -> Option<String> {
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    let (mut value, mut escaped) = (String::new(), false);
    for character in inner.chars() {
        match character {
            '"' | '\\' if escaped => {
                value.push(character);
                escaped = false;
            }
            _ if escaped => return None,
            '\\' => escaped = true,
            '"' => return None,
            _ => value.push(character),
        }
    }
    (!escaped).then_some(value)
}

/// What a service has.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) zones: Vec<String>,
    pub(crate) records: Vec<Record>,
    /// Counts changes: ids and tags come from it.
    pub(crate) serial: u64,
    pub(crate) log: Vec<Request>,
    faults: VecDeque<(bool, Reply)>,
    /// Added by somebody else just before the next write.
    pub(crate) intruders: VecDeque<(String, String)>,
}

impl State {
    /// The zone that is called `name`.
    pub(crate) fn has_zone(&self, name: &str) -> bool {
        self.zones.iter().any(|zone| zone == name.trim_end_matches('.'))
    }

    /// The whole name of `relative` in `zone`.
    pub(crate) fn fqdn(zone: &str, relative: &str) -> String {
        if matches!(relative, "" | "@") { zone.to_owned() } else { format!("{relative}.{zone}") }
    }

    pub(crate) fn relative<'a>(record: &'a Record, apex: &'a str) -> &'a str {
        let relative = record.fqdn.strip_suffix(&record.zone).unwrap().trim_end_matches('.');
        if relative.is_empty() { apex } else { relative }
    }

    pub(crate) fn at(&self, zone: &str, fqdn: &str) -> Vec<&Record> {
        let fqdn = fqdn.trim_end_matches('.');
        self.records.iter().filter(|record| record.zone == zone && record.fqdn == fqdn).collect()
    }

    pub(crate) fn values(&self, zone: &str, fqdn: &str) -> Vec<String> {
        self.at(zone, fqdn).into_iter().map(|record| record.value.clone()).collect()
    }

    pub(crate) fn add(&mut self, zone: &str, fqdn: &str, value: &str) -> u64 {
        self.serial += 1;
        let (zone, fqdn) = (zone.to_owned(), fqdn.trim_end_matches('.').to_owned());
        self.records.push(Record { id: self.serial, zone, fqdn, value: value.to_owned() });
        self.serial
    }

    /// Whether there was such a record.
    pub(crate) fn delete(&mut self, id: u64) -> bool {
        self.serial += 1;
        let before = self.records.len();
        self.records.retain(|record| record.id != id);
        self.records.len() < before
    }

    /// Replaces the set at a name.
    pub(crate) fn replace(&mut self, zone: &str, fqdn: &str, values: &[String]) {
        let fqdn = fqdn.trim_end_matches('.');
        self.serial += 1;
        self.records.retain(|record| !(record.zone == zone && record.fqdn == fqdn));
        for value in values {
            self.add(zone, fqdn, value);
        }
    }
}

/// A service that is faked: answers a request, and keeps its state. What its documentation does not know is refused by
/// 400, which no case of the table expects.
pub(crate) type Service = fn(&mut State, &Request) -> Reply;

/// A faked service, on 127.0.0.1.
pub(crate) struct Fake {
    addr: SocketAddr,
    pub(crate) state: Arc<Mutex<State>>,
    _stop: DropGuard,
}

impl Fake {
    pub(crate) async fn start(service: Service, zones: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let state = State { zones: zones.iter().map(|zone| (*zone).to_owned()).collect(), ..State::default() };
        let state = Arc::new(Mutex::new(state));
        let stop = CancellationToken::new();
        let serving = serve(listener, service, state.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(serving));
        Self { addr, state, _stop: stop.drop_guard() }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The values at a name, sorted.
    pub(crate) fn values(&self, zone: &str, fqdn: &str) -> Vec<String> {
        let mut values = self.state.lock().unwrap().values(zone, fqdn);
        values.sort();
        values
    }

    pub(crate) fn add(&self, zone: &str, fqdn: &str, value: &str) {
        self.state.lock().unwrap().add(zone, fqdn, value);
    }

    /// Answers the next request, or the next that `writes`, with this instead.
    pub(crate) fn fail(&self, writes: bool, reply: Reply) {
        self.state.lock().unwrap().faults.push_back((writes, reply));
    }

    /// Adds a value behind the client's back, just before its next write.
    pub(crate) fn intrude(&self, fqdn: &str, value: &str) {
        self.state.lock().unwrap().intruders.push_back((fqdn.to_owned(), value.to_owned()));
    }

    pub(crate) fn log(&self) -> Vec<Request> {
        self.state.lock().unwrap().log.clone()
    }
}

async fn serve(listener: TcpListener, service: Service, state: Arc<Mutex<State>>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        tokio::spawn(converse(stream, service, state.clone()));
    }
}

async fn converse(mut stream: TcpStream, service: Service, state: Arc<Mutex<State>>) {
    while let Some(request) = read(&mut stream).await {
        let reply = answer(service, &mut state.lock().unwrap(), &request);
        let mut text = format!("HTTP/1.1 {} Faked\r\nContent-Length: {}\r\n", reply.status, reply.body.len());
        for (name, value) in &reply.headers {
            text += &format!("{name}: {value}\r\n");
        }
        text += &format!("\r\n{}", reply.body);
        if stream.write_all(text.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn answer(service: Service, state: &mut State, request: &Request) -> Reply {
    state.log.push(request.clone());
    // Logging in is not what faults are about.
    let is_login = request.path.iter().any(|segment| segment == "token" || segment == "time");
    if !is_login {
        let next = state.faults.front().is_some_and(|(writes, _)| !writes || is_write(request));
        if next && let Some((_, reply)) = state.faults.pop_front() {
            return reply;
        }
        if is_write(request)
            && let Some((fqdn, value)) = state.intruders.pop_front()
        {
            let zone = state.zones.iter().filter(|zone| fqdn.ends_with(zone.as_str())).max_by_key(|zone| zone.len());
            let zone = zone.unwrap().clone();
            state.add(&zone, &fqdn, &value);
        }
    }
    service(state, request)
}

/// Calls of an action are all `POST`.
fn is_write(request: &Request) -> bool {
    match request.form().get("Action") {
        Some(action) => !action.starts_with("Describe"),
        None => request.writes(),
    }
}

async fn read(stream: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        let mut chunk = [0; 4096];
        let length = stream.read(&mut chunk).await.ok().filter(|length| *length > 0)?;
        bytes.extend_from_slice(&chunk[..length]);
    };
    let head = String::from_utf8(bytes[..end].to_vec()).ok()?;
    let mut lines = head.lines();
    let mut words = lines.next()?.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?);
    let pairs = lines.filter_map(|line| line.split_once(':'));
    let headers: BTreeMap<String, String> =
        pairs.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = bytes[end..].to_vec();
    let start = body.len();
    body.resize(length, 0);
    stream.read_exact(&mut body[start..]).await.ok()?;
    let url = url::Url::parse(&format!("http://fake{target}")).ok()?;
    let decode = |segment: &str| {
        // A segment on its own is read like a value of a form, but for the plus sign.
        let pair = format!("x={}", segment.replace('+', "%2B"));
        url::form_urlencoded::parse(pair.as_bytes()).next().map(|(_, value)| value.into_owned())
    };
    let path = url.path_segments()?.map(decode).collect::<Option<Vec<_>>>()?;
    let query = url.query_pairs().into_owned().collect();
    let target = target.to_owned();
    Some(Request { method, target, path, query, headers, body: String::from_utf8(body).ok()? })
}
