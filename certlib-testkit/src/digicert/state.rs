//! What a simulated account holds, and the way of a request through it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use bytes::Bytes;
use http::Response;
use time::OffsetDateTime;

use super::{
    account::{KeyRole, Organization},
    answer::{self, Answer, Outcome, Refusal},
    course::{Approvals, Course},
    dcv::Proof,
    domain::Domain,
    order::{Certificate, Order},
    product,
    request::Request,
};
use crate::{
    api::{Api, Call, Clock},
    pki::TestCa,
};

/// What never changes while the simulator runs.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) approvals: Approvals,
    /// Whether all domains count as validated.
    pub(super) prevalidated: bool,
    /// The longest life of a public certificate, in days.
    pub(super) longest_days: i64,
    /// Whether revoking the only certificate of an order revokes the order.
    pub(super) revokes_orders: bool,
}

/// Says whether a proof of control over a domain can be seen.
#[derive(Clone)]
pub(super) struct Witness(pub(super) Arc<dyn Fn(&Proof) -> bool + Send + Sync>);

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Witness")
    }
}

/// Everything there is.
#[derive(Debug)]
pub(super) struct State {
    pub(super) clock: Clock,
    pub(super) settings: Settings,
    pub(super) root: TestCa,
    pub(super) intermediate: TestCa,
    pub(super) keys: BTreeMap<String, KeyRole>,
    pub(super) organizations: Vec<Organization>,
    pub(super) orders: BTreeMap<u64, Order>,
    pub(super) certificates: BTreeMap<u64, Certificate>,
    pub(super) requests: BTreeMap<u64, Request>,
    pub(super) domains: BTreeMap<u64, Domain>,
    /// Until when names count as validated.
    pub(super) validated: BTreeMap<String, OffsetDateTime>,
    /// The values that can be seen where they belong.
    pub(super) published: BTreeSet<String>,
    pub(super) witness: Option<Witness>,
    pub(super) course: Course,
    pub(super) counter: u64,
}

impl State {
    /// A number that was never given out before.
    pub(super) fn next(&mut self) -> u64 {
        self.counter += 7;
        self.counter
    }

    fn route(&mut self, call: &Call) -> Outcome {
        let role = self.authenticate(call)?;
        let path = call.segments();
        if !role.permits(&call.method, path[0]) {
            return Err(Refusal::denied());
        }
        match (call.method.as_str(), path.as_slice()) {
            ("GET", ["user", "me"]) => Self::me(role),
            ("GET", ["product"]) => product::list(),
            ("GET", ["product", name_id]) => product::read(name_id),
            ("GET", ["organization"]) => self.organizations(),
            ("GET", ["organization", id, part @ ..]) => self.organization(id, part),
            ("GET", ["container"]) => Self::containers(),
            ("GET", ["account", "metadata"]) => Ok(Answer::Json(200, serde_json::json!({ "metadata": [] }))),
            ("GET", ["order", "certificate"]) => self.list(call),
            ("GET", ["order", "certificate", "status-changes"]) => self.changes(call),
            ("POST", ["order", "certificate", name_id]) => self.place(name_id, call, role),
            ("GET", ["order", "certificate", id]) => self.read_order(id),
            (method, ["order", "certificate", id, action]) => self.order_action(method, id, action, call, role),
            (method, ["certificate", id, action @ ..]) => self.certificate_action(method, id, action, call, role),
            (method, ["request", rest @ ..]) => self.request_action(method, rest, call, role),
            (method, ["domain", rest @ ..]) => self.domain_action(method, rest, call),
            _ => Err(Refusal::absent("route")),
        }
    }

    fn order_action(&mut self, method: &str, id: &str, action: &str, call: &Call, role: KeyRole) -> Outcome {
        let id = self.order_id(id)?;
        match (method, action) {
            ("POST", "reissue" | "duplicate") => self.again(id, action, call, role),
            ("GET", "reissue" | "duplicate") => self.others(id, action),
            ("PUT", "revoke") => self.revoke_order(id, call, role),
            ("PUT", "status") => self.set_status(id, call),
            ("PUT", "dcv-method") => self.set_method(id, call),
            ("PUT", "dcv-random-value") => self.renew_value(id, call),
            ("PUT", "check-dcv") => self.check(id, call),
            _ => Err(Refusal::absent("route")),
        }
    }
}

impl Api for State {
    const ROOT: &'static str = "/services/v2/";

    fn now(&self) -> OffsetDateTime {
        self.clock.now()
    }

    fn answer(&mut self, call: &Call) -> Response<Bytes> {
        answer::render(self.route(call))
    }

    fn refusal(status: u16) -> Response<Bytes> {
        answer::render(Err(Refusal::of_status(status)))
    }
}

/// The body of a request, which must be a JSON object.
pub(super) fn object(call: &Call) -> Result<serde_json::Value, Refusal> {
    call.object().ok_or_else(|| Refusal::bad("bad_request_format", "The request body is malformed."))
}
