//! What a simulated account holds, and the way of a request through it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use bytes::Bytes;
use http::Response;
use serde_json::Value;
use time::{Duration, OffsetDateTime};

use super::{
    answer::{self, Answer, Outcome, Refusal},
    certificates::Certificate,
    claims::{Claim, Proof},
    course::Course,
};
use crate::{
    api::{Api, Call, Clock},
    pki::TestCa,
};

/// What never changes while the simulator runs.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) token_life: Duration,
    /// Whether names must be covered by verified claims.
    pub(super) needs_claims: bool,
    /// What a request is answered with when the quota is used up.
    pub(super) quota_status: u16,
    /// The most things on one page, however many are asked for.
    pub(super) page: usize,
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
pub(super) struct State {
    pub(super) clock: Clock,
    pub(super) settings: Settings,
    pub(super) root: TestCa,
    pub(super) intermediate: TestCa,
    pub(super) api_key: String,
    pub(super) api_secret: String,
    /// Whether the account may only read.
    pub(super) read_only: bool,
    pub(super) policy: Value,
    /// The tokens that were given out, and until when they count.
    pub(super) tokens: BTreeMap<String, OffsetDateTime>,
    pub(super) quota: u64,
    /// By serial number, upper-case hexadecimal.
    pub(super) certificates: BTreeMap<String, Certificate>,
    pub(super) claims: BTreeMap<String, Claim>,
    pub(super) published: BTreeSet<String>,
    pub(super) witness: Option<Witness>,
    pub(super) course: Course,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("certificates", &self.certificates.len()).finish_non_exhaustive()
    }
}

impl State {
    fn route(&mut self, call: &Call) -> Outcome {
        let path = call.segments();
        let method = call.method.as_str();
        if (method, path.as_slice()) == ("POST", ["login"].as_slice()) {
            return self.login(call);
        }
        self.authorize(call)?;
        if self.read_only && method != "GET" {
            return Err(Refusal::of_status(403));
        }
        match (method, path.as_slice()) {
            ("POST", ["certificates"]) => self.request(call),
            ("GET", ["certificates", serial]) => self.read(serial),
            ("PATCH" | "DELETE", ["certificates", serial]) => self.revoke(serial, call),
            ("GET", ["trustchain"]) => self.trust_chain(),
            ("GET", ["validationpolicy"]) => Ok(Answer::ok(self.policy.clone())),
            ("GET", ["quotas", "issuance"]) => Ok(Answer::ok(serde_json::json!({ "value": self.quota }))),
            ("GET", ["counters", "certificates", which]) => self.counter(which),
            ("GET", ["stats", which]) => self.stats(which, call),
            (_, ["claims", "domains", rest @ ..]) => self.claim_action(method, rest, call),
            _ => Err(Refusal::absent("resource")),
        }
    }

    /// The URL of something below the root, as this client calls the server.
    pub(super) fn place(&self, call: &Call, path: &str) -> String {
        format!("https://{}{}{path}", call.header("host").unwrap_or("localhost"), Self::ROOT)
    }
}

impl Api for State {
    const ROOT: &'static str = "/v2/";

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
