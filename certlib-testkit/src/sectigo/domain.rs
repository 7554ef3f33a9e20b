//! Domains, and the proof that the customer controls them.

use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use super::{
    answer::{Answer, Body, Outcome, Refusal},
    call::Call,
    state::State,
};

/// How long a proof is good.
const PROOF_DAYS: i64 = 198;

/// A domain of the customer.
#[derive(Debug)]
pub(super) struct Domain {
    id: i64,
    pub(super) name: String,
    delegations: Vec<Value>,
    /// The record that is to be seen: name and target.
    wanted: Option<(String, String)>,
    submitted: bool,
    /// Until when control is proven.
    pub(super) proven: Option<OffsetDateTime>,
}

impl Domain {
    pub(super) fn new(id: i64, name: &str, delegations: Vec<Value>) -> Self {
        let name = name.to_ascii_lowercase();
        Self { id, name, delegations, wanted: None, submitted: false, proven: None }
    }

    fn status(&self, now: OffsetDateTime) -> &'static str {
        match self.proven {
            Some(until) if until > now => "VALIDATED",
            Some(_) => "EXPIRED",
            None => "NOT_VALIDATED",
        }
    }

    fn order_status(&self) -> &'static str {
        match (&self.wanted, self.submitted) {
            (None, _) => "NOT_INITIATED",
            (Some(_), false) => "AWAITING_SUBMITTAL",
            (Some(_), true) => "SUBMITTED",
        }
    }

    fn state(&self, now: OffsetDateTime) -> Value {
        let mut state = json!({ "status": self.status(now), "orderStatus": self.order_status() });
        if let (Value::Object(map), Some(until)) = (&mut state, self.proven) {
            map.insert("expirationDate".to_owned(), until.date().to_string().into());
        }
        state
    }

    fn detail(&self, now: OffsetDateTime) -> Value {
        json!({
            "id": self.id,
            "name": self.name,
            "delegationStatus": "ACTIVE",
            "state": "ACTIVE",
            "validationStatus": self.status(now),
            "delegations": self.delegations,
        })
    }

    fn listed(&self, now: OffsetDateTime) -> Value {
        json!({
            "domain": self.name,
            "dcvStatus": self.status(now),
            "dcvOrderStatus": self.order_status(),
            "dcvMethod": self.wanted.as_ref().map(|_| "CNAME"),
            "expirationDate": self.proven.map(|until| until.date().to_string()),
        })
    }
}

impl State {
    pub(super) fn domain(&mut self, call: &Call, path: &[&str]) -> Outcome {
        let wanted = |domain: &&Domain| call.param("name").is_none_or(|part| domain.name.contains(part));
        match (call.method.as_str(), path) {
            ("GET", []) => {
                let (page, total) = call.page(self.domains.iter().filter(wanted).collect(), self.page)?;
                let entries = page.into_iter().map(|domain| json!({ "id": domain.id, "name": domain.name }));
                Ok(Answer::page(entries.collect(), total))
            }
            ("GET", ["count"]) => Ok(Answer::ok(json!({ "count": self.domains.iter().filter(wanted).count() }))),
            ("POST", []) => self.create_domain(call),
            ("GET", [id]) => {
                let found = self.domains.iter().find(|domain| domain.id.to_string() == *id);
                let absent = || Refusal::new(404, -727, format!("The domain '{id}' does not exist."));
                Ok(Answer::ok(found.ok_or_else(absent)?.detail(call.now)))
            }
            _ => Err(Refusal::no_such_api()),
        }
    }

    fn create_domain(&mut self, call: &Call) -> Outcome {
        let name = call.text("name");
        if name.is_empty() {
            return Err(Refusal::missing("name"));
        }
        let delegations = call.body["delegations"].as_array().cloned().unwrap_or_default();
        if delegations.is_empty() {
            let why = "Please delegate domain to at least one organization or department.";
            return Err(Refusal::bad(-709, why));
        }
        for delegation in &delegations {
            self.check_organization(delegation["orgId"].as_i64())?;
        }
        if self.domains.iter().any(|domain| domain.name.eq_ignore_ascii_case(name)) {
            return Err(Refusal::bad(-700, "Such domain already exists"));
        }
        let id = self.next_id();
        self.domains.push(Domain::new(id, name, delegations));
        Ok(Answer::with(201, Body::Empty).header("location", format!("/api/domain/v1/{id}")))
    }

    /// Under `dcv/v1`; `dcv/v2` has the status alone.
    pub(super) fn dcv(&mut self, call: &Call, path: &[&str]) -> Outcome {
        let now = call.now;
        match (call.method.as_str(), path) {
            ("GET", ["validation"]) => {
                let wanted = |domain: &&Domain| {
                    call.param("domain").is_none_or(|part| domain.name.contains(part))
                        && call.param("dcvStatus").is_none_or(|status| status == domain.status(now))
                        && call.param("orderStatus").is_none_or(|status| status == domain.order_status())
                };
                let (page, total) = call.page(self.domains.iter().filter(wanted).collect(), self.page)?;
                Ok(Answer::page(page.into_iter().map(|domain| domain.listed(now)).collect(), total))
            }
            ("POST", ["validation", "status"]) => Ok(Answer::ok(self.named(call)?.state(now))),
            ("POST", ["validation", "clear"]) => {
                let domain = self.named(call)?;
                (domain.wanted, domain.submitted, domain.proven) = (None, false, None);
                Ok(Answer::ok(domain.state(now)))
            }
            ("POST", ["validation", "start", "domain", "cname"]) => {
                let token = [super::random_hex(16), super::random_hex(16), super::random_hex(16), super::random_hex(8)];
                let domain = self.named(call)?;
                let [label, one, two, three] = token;
                let host = format!("_{label}.{}.", domain.name);
                let point = format!("{one}.{two}.{three}.sectigo.com.");
                (domain.wanted, domain.submitted) = (Some((host.clone(), point.clone())), false);
                Ok(Answer::ok(json!({ "host": host, "point": point })))
            }
            ("POST", ["validation", "submit", "domain", "cname"]) => self.submit(call),
            _ => Err(Refusal::no_such_api()),
        }
    }

    fn submit(&mut self, call: &Call) -> Outcome {
        let now = call.now;
        let records = self.records.clone();
        let domain = self.named(call)?;
        let Some(wanted) = &domain.wanted else {
            let (name, status) = (&domain.name, domain.status(now));
            let why = format!(
                "The request for '{name}' cannot be processed since it's domain validation status is {status}."
            );
            return Err(Refusal::bad(-724, why));
        };
        domain.submitted = true;
        if records.contains(wanted) {
            domain.proven = Some(now + Duration::days(PROOF_DAYS));
        }
        let mut state = domain.state(now);
        if let Value::Object(map) = &mut state {
            map.insert("message".to_owned(), "Submitted successfully".into());
        }
        Ok(Answer::ok(state))
    }

    fn named(&mut self, call: &Call) -> Result<&mut Domain, Refusal> {
        let name = call.text("domain");
        let found = self.domains.iter_mut().find(|domain| domain.name.eq_ignore_ascii_case(name));
        found.ok_or_else(|| Refusal::bad(-727, format!("The domain '{name}' does not exist.")))
    }

    /// Whether control of a name is proven, by its own domain or one above.
    pub(super) fn is_validated(&self, name: &str, now: OffsetDateTime) -> bool {
        let name = name.strip_prefix("*.").unwrap_or(name).to_ascii_lowercase();
        let covers = |domain: &Domain| {
            name == domain.name || name.strip_suffix(&domain.name).is_some_and(|rest| rest.ends_with('.'))
        };
        self.domains.iter().any(|domain| covers(domain) && domain.status(now) == "VALIDATED")
    }

    /// Refuses names whose domain is not validated, where that is the rule.
    pub(super) fn check_domains(&self, names: &[String], now: OffsetDateTime) -> Result<(), Refusal> {
        let open = names.iter().find(|name| self.wants_proof && !self.is_validated(name, now));
        match open {
            None => Ok(()),
            Some(name) => Err(Refusal::bad(
                -107,
                format!(
                    "Domain Control Validation is either incomplete or expired for {name}. Please complete it before \
                     requesting a certificate."
                ),
            )),
        }
    }
}
