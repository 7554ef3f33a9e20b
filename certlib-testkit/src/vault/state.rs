//! Everything a simulated Vault knows, and the way of a request through it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use time::OffsetDateTime;

use super::{
    acl::{self, Policy},
    answer::{Answer, Outcome, Refusal},
    auth::{Identity, Login, Token, Tokens, tokens},
    call::{Body, Call, Operation},
    engines::{Engine, Settings},
    fault::Injection,
    history::Record,
    random, sys,
};
use crate::Result;

/// What the body of a `PATCH` is.
pub(super) const MERGE_PATCH: &str = "application/merge-patch+json";

/// A request as it came.
#[derive(Clone, Default)]
pub(super) struct Incoming {
    pub(super) method: String,
    pub(super) namespace: String,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) token: Option<String>,
    pub(super) content_type: String,
    /// The certificate that the client showed, DER.
    pub(super) certificate: Option<Vec<u8>>,
    pub(super) body: Bytes,
}

/// Everything a simulated Vault knows.
pub(super) struct State {
    pub(super) sealed: bool,
    pub(super) unseal_key: String,
    /// By path: empty for the root, `team/a/` for others.
    pub(super) namespaces: BTreeMap<String, Namespace>,
    pub(super) tokens: Tokens,
    pub(super) identity: Identity,
    pub(super) settings: Settings,
    pub(super) faults: Vec<Injection>,
    pub(super) history: Vec<Record>,
    /// How far its clock is ahead of the system's.
    pub(super) ahead: Duration,
}

/// What a namespace has of its own.
pub(super) struct Namespace {
    /// Engines, by mount path with a slash at its end.
    pub(super) mounts: BTreeMap<String, Mount>,
    /// Ways to log in, by mount path with a slash at its end.
    pub(super) logins: BTreeMap<String, Box<dyn Login>>,
    pub(super) policies: BTreeMap<String, Policy>,
}

/// An engine at its path.
pub(super) struct Mount {
    pub(super) engine: Box<dyn Engine>,
    pub(super) description: String,
    pub(super) accessor: String,
    pub(super) uuid: String,
}

/// Who asks, with which rights, in which namespace.
pub(super) struct Caller {
    pub(super) token: Token,
    pub(super) namespace: String,
    pub(super) now: OffsetDateTime,
}

impl Namespace {
    pub(super) fn new() -> Self {
        let policies = BTreeMap::from([(acl::DEFAULT.to_owned(), Policy::default_one())]);
        Self { mounts: BTreeMap::new(), logins: BTreeMap::new(), policies }
    }
}

impl Mount {
    pub(super) fn new(engine: Box<dyn Engine>, description: &str) -> Self {
        let accessor = format!("{}_{}", engine.kind(), random::hex::<4>());
        Self { engine, description: description.to_owned(), accessor, uuid: random::uuid() }
    }
}

impl State {
    /// An empty one, with the token of its operator.
    pub(super) fn new(root: &str, settings: Settings) -> Result<Self> {
        // Fails here if at all: later identifiers have nowhere to report it.
        random::bytes::<1>()?;
        Ok(Self {
            sealed: false,
            unseal_key: random::hex::<32>(),
            namespaces: BTreeMap::from([(String::new(), Namespace::new())]),
            tokens: Tokens::new(root, OffsetDateTime::now_utc()),
            identity: Identity::new()?,
            settings,
            faults: Vec::new(),
            history: Vec::new(),
            ahead: Duration::ZERO,
        })
    }

    pub(super) fn now(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc() + self.ahead
    }

    pub(super) fn remember(&mut self, record: Record, status: Option<u16>) {
        self.history.push(Record { status, ..record });
    }

    /// The namespace with this name, slashes at its ends or not.
    pub(super) fn namespace_mut(&mut self, name: &str) -> Option<&mut Namespace> {
        self.namespaces.get_mut(&namespace_key(name))
    }

    pub(super) fn handle(&mut self, received: Incoming) -> Answer {
        self.route(received).unwrap_or_else(Answer::from)
    }

    fn route(&mut self, received: Incoming) -> Outcome {
        let operation = Operation::of(&received.method, &received.query).ok_or_else(Refusal::unsupported_operation)?;
        let full = format!("{}{}", namespace_key(&received.namespace), received.path);
        let (namespace, path) = self.split(&full);
        if operation == Operation::Patch && received.content_type != MERGE_PATCH {
            return Err(Refusal::new(415, format!("PATCH requires Content-Type {MERGE_PATCH}")));
        }
        let body = match operation {
            Operation::Update | Operation::Patch => Body::read(&received.body)?,
            Operation::Read | Operation::List | Operation::Delete => Body::query(&received.query),
        };
        let call = Call { operation, path, body, certificate: received.certificate };
        if namespace.is_empty()
            && let Some(answer) = sys::open_to_all(self, &call)
        {
            return answer;
        }
        if self.sealed {
            return Err(Refusal::sealed());
        }
        if let Some(answer) = self.login(&namespace, &call) {
            return answer;
        }
        let token = received.token.ok_or_else(Refusal::denied)?;
        let caller = self.caller(&token, namespace)?;
        let exists = self.exists(&caller.namespace, &call);
        let rights = self.capabilities(&caller.token, &caller.namespace, &call.path);
        if !acl::allows(&rights, call.operation, exists) {
            return Err(Refusal::denied());
        }
        self.carry_out(&caller, call)
    }

    fn carry_out(&mut self, caller: &Caller, call: Call) -> Outcome {
        if let Some(path) = call.path.strip_prefix("sys/") {
            let call = Call { path: path.to_owned(), ..call };
            return sys::handle(self, caller, &call);
        }
        if let Some(path) = call.path.strip_prefix("auth/token/") {
            let call = Call { path: path.to_owned(), ..call };
            return tokens::handle(self, caller, &call);
        }
        let settings = self.settings;
        let now = caller.now;
        let namespace = self.namespaces.get_mut(&caller.namespace).ok_or_else(Refusal::absent)?;
        if let Some(path) = call.path.strip_prefix("auth/") {
            let (mount, below) = longest(&namespace.logins, path).ok_or_else(|| Refusal::no_route(&call.path))?;
            let login = namespace.logins.get_mut(&mount).ok_or_else(Refusal::absent)?;
            return login.handle(&Call { path: below, ..call }, now);
        }
        let (mount, below) = longest(&namespace.mounts, &call.path).ok_or_else(|| Refusal::no_route(&call.path))?;
        let mount = namespace.mounts.get_mut(&mount).ok_or_else(Refusal::absent)?;
        mount.engine.handle(&Call { path: below, ..call }, &settings, now)
    }

    /// A login, which needs no token; `None` when the call is none.
    fn login(&mut self, namespace: &str, call: &Call) -> Option<Outcome> {
        let path = call.path.strip_prefix("auth/")?;
        let now = self.now();
        let logins = &mut self.namespaces.get_mut(namespace)?.logins;
        let (mount, below) = longest(logins, path)?;
        if below != "login" || call.operation != Operation::Update {
            return None;
        }
        let granted = match logins.get_mut(&mount)?.login(call, now) {
            Ok(granted) => granted,
            Err(refusal) => return Some(Err(refusal)),
        };
        let (text, token) = self.tokens.issue(granted, namespace, &format!("auth/{mount}login"), now);
        Some(Ok(Answer::auth(token.auth(&text, now))))
    }

    fn caller(&mut self, text: &str, namespace: String) -> Result<Caller, Refusal> {
        let now = self.now();
        let token = self.tokens.use_once(text, now)?;
        // A token is good for its own namespace and the ones below.
        if !namespace.starts_with(&token.namespace) {
            return Err(Refusal::denied());
        }
        Ok(Caller { token, namespace, now })
    }

    /// What `token` may do to `path` of `namespace`.
    pub(super) fn capabilities(&self, token: &Token, namespace: &str, path: &str) -> BTreeSet<String> {
        if token.policies.iter().any(|policy| policy == acl::ROOT) {
            return BTreeSet::from([acl::ROOT.to_owned()]);
        }
        let full = format!("{namespace}{path}");
        let path = full.strip_prefix(&token.namespace).unwrap_or(&full);
        let known = self.namespaces.get(&token.namespace).map(|namespace| &namespace.policies);
        let policies = token.policies.iter().filter_map(|name| known?.get(name));
        acl::capabilities(policies, path)
    }

    /// Whether what a write goes to is there; `None` where that makes no difference.
    fn exists(&self, namespace: &str, call: &Call) -> Option<bool> {
        let mounts = &self.namespaces.get(namespace)?.mounts;
        let (mount, below) = longest(mounts, &call.path)?;
        mounts.get(&mount)?.engine.exists(&below)
    }

    /// The namespace that a path begins with, and the rest.
    fn split(&self, full: &str) -> (String, String) {
        let name = self.namespaces.keys().rev().filter(|name| full.starts_with(*name)).max_by_key(|name| name.len());
        let name = name.cloned().unwrap_or_default();
        let rest = full[name.len()..].trim_matches('/').to_owned();
        (name, rest)
    }
}

/// `team/a` as `team/a/`, and the root as nothing.
pub(super) fn namespace_key(name: &str) -> String {
    match name.trim_matches('/') {
        "" | "root" => String::new(),
        name => format!("{name}/"),
    }
}

/// The longest mount that `path` begins with, and what is below it.
pub(super) fn longest<T>(mounts: &BTreeMap<String, T>, path: &str) -> Option<(String, String)> {
    let whole = format!("{path}/");
    let mount = mounts.keys().filter(|mount| whole.starts_with(*mount)).max_by_key(|mount| mount.len())?;
    Some((mount.clone(), whole[mount.len()..].trim_end_matches('/').to_owned()))
}
