//! What a simulated certificate manager knows.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use http::Request;
use time::OffsetDateTime;

use super::{
    answer::{Outcome, Refusal},
    call::Call,
    domain::Domain,
    history::Record,
    order::Entry,
    profile::{CustomField, Organization, Profile},
};
use crate::{
    api::Injection,
    http_server::Peer,
    pki::{Flaw, TestCa},
};

/// In which order a format with several certificates has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChainOrder {
    /// `x509` begins with the root, `x509R` and `pem` with the leaf.
    #[default]
    Usual,
    /// These three begin with the issuer, and the leaf stands in the middle.
    Shuffled,
}

/// The authority that signs.
#[derive(Debug)]
pub(super) struct Authority {
    pub(super) root: TestCa,
    pub(super) issuing: TestCa,
}

/// Everything there is.
#[derive(Debug)]
pub(super) struct State {
    pub(super) authority: Authority,
    /// The certificate of a client that needs no password, DER.
    pub(super) client_certificate: Vec<u8>,
    pub(super) organizations: Vec<Organization>,
    pub(super) profiles: Vec<Profile>,
    pub(super) custom_fields: Vec<CustomField>,
    pub(super) domains: Vec<Domain>,
    /// The CNAME records that the service sees: name and target.
    pub(super) records: BTreeSet<(String, String)>,
    pub(super) orders: Vec<Entry>,
    /// Tokens, and until when they are good.
    pub(super) tokens: Vec<(String, OffsetDateTime)>,
    /// What is wrong with the next certificates.
    pub(super) flaws: VecDeque<Flaw>,
    /// How often one has to ask until a new order is issued.
    pub(super) polls: u32,
    /// How often one has to collect after that.
    pub(super) lag: u32,
    /// Whether a human has to approve new orders.
    pub(super) approvals: bool,
    /// Whether the authority rejects new orders.
    pub(super) rejects: bool,
    /// Whether names need a validated domain.
    pub(super) wants_proof: bool,
    pub(super) not_ready_code: i64,
    /// Whether lists show ids only, and find nothing by alternative names.
    pub(super) short_lists: bool,
    /// The most that a list gives at once, whatever it is asked for.
    pub(super) page: usize,
    pub(super) chain_order: ChainOrder,
    pub(super) faults: Vec<Injection>,
    pub(super) history: Vec<Record>,
    /// How far the clock is ahead of the machine's.
    pub(super) ahead: time::Duration,
    pub(super) last_id: i64,
}

impl State {
    pub(super) fn now(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc() + self.ahead
    }

    /// A number that was never given out before.
    pub(super) fn next_id(&mut self) -> i64 {
        self.last_id += 1;
        self.last_id
    }

    /// Checks who asks, and carries it out.
    pub(super) fn handle(&mut self, peer: &Peer, request: &Request<Bytes>) -> Outcome {
        let uri = request.uri();
        if request.method() == "POST" && uri.path() == super::auth::TOKEN_PATH {
            return Ok(self.token(request));
        }
        let (login, path) = self.authenticate(peer, request)?;
        let (method, query, now) = (request.method().as_str(), uri.query().unwrap_or_default(), self.now());
        let call = Call::new(method, path, query, request.body(), &login, now)?;
        let path: Vec<&str> = call.path.iter().map(String::as_str).collect();
        match &*path {
            ["ssl", "v1", rest @ ..] => self.ssl(&call, rest),
            ["organization", "v1", rest @ ..] => self.organizations(&call, rest),
            ["domain", "v1", rest @ ..] => self.domain(&call, rest),
            ["dcv", "v1", rest @ ..] => self.dcv(&call, rest),
            ["dcv", "v2", "validation", "status"] => self.dcv(&call, &path[2..]),
            _ => Err(Refusal::no_such_api()),
        }
    }
}
