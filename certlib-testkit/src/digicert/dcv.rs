//! Control over the domains of an order.

use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use super::{
    answer::{Answer, Outcome, Refusal, moment},
    order::Status,
    state::{State, object},
};
use crate::api::{Call, random_hex};

/// How long a value can be used.
const VALUE_LASTS: Duration = Duration::days(30);
/// How long a domain counts as validated.
const VALIDATION_LASTS: Duration = Duration::days(200);

/// What is to be seen somewhere, to prove that a domain is controlled.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Proof {
    /// `dns-txt-token`, `dns-cname-token` or `http-token`.
    pub method: String,
    /// The domain, without `*.`.
    pub domain: String,
    /// The value: the content of a TXT record at the domain or at `_dnsauth` below it, the first label (after `_`) of
    /// a CNAME record, or the content of a file.
    pub value: String,
}

/// How control is to be proved.
#[derive(Clone, Debug)]
pub(super) struct Control {
    pub(super) method: String,
    pub(super) value: String,
    pub(super) expires: OffsetDateTime,
}

impl Control {
    pub(super) fn new(method: &str, now: OffsetDateTime) -> Result<Self, Refusal> {
        match method {
            "email" | "dns-txt-token" | "dns-cname-token" | "http-token" => {
                Ok(Self { method: method.to_owned(), value: random_hex(16), expires: now + VALUE_LASTS })
            }
            _ => Err(Refusal::bad("invalid_dcv_method", format!("There is no method {method}."))),
        }
    }

    /// Whether a value is to be published.
    pub(super) fn has_value(&self) -> bool {
        self.method != "email"
    }

    fn shown(&self) -> Value {
        json!({ "dcv_random_value": self.value, "expiration_date": moment(self.expires) })
    }

    /// The code for a value that is not where it should be.
    pub(super) fn complaint(&self) -> Refusal {
        match self.method.as_str() {
            "dns-txt-token" => Refusal::bad("invalid_dns_txt", "Unable to find the token in a TXT record."),
            "dns-cname-token" => Refusal::bad("invalid_dns_cname", "Unable to find the token in a CNAME record."),
            "http-token" => Refusal::bad("file_random_value_not_found", "Unable to find the token in the file."),
            _ => Refusal::bad("invalid_dns_method", "The method has nothing that could be checked."),
        }
    }
}

impl State {
    /// Whether a name counts as validated, by itself or by a domain above it.
    pub(super) fn controls(&self, name: &str) -> bool {
        let now = self.clock.now();
        let name = bare(name);
        self.settings.prevalidated
            || self.validated.iter().any(|(domain, until)| {
                let below =
                    name.strip_suffix(domain.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
                below && *until > now
            })
    }

    /// Takes a domain as validated from now on.
    pub(super) fn validate(&mut self, domain: &str) {
        let until = self.clock.now() + VALIDATION_LASTS;
        self.validated.insert(bare(domain).to_owned(), until);
    }

    /// Whether the proof can be seen.
    pub(super) fn sees(&self, control: &Control, domain: &str) -> bool {
        if !control.has_value() || control.expires <= self.clock.now() {
            return false;
        }
        let Control { method, value, .. } = control.clone();
        match &self.witness {
            Some(witness) => (witness.0)(&Proof { method, domain: bare(domain).to_owned(), value }),
            None => self.published.contains(&value),
        }
    }

    /// `PUT /order/certificate/{id}/dcv-method`.
    pub(super) fn set_method(&mut self, id: u64, call: &Call) -> Outcome {
        let body = object(call)?;
        let control = Control::new(body["dcv_method"].as_str().unwrap_or_default(), self.clock.now())?;
        let answer = if control.has_value() { control.shown() } else { json!({}) };
        self.pending_control(id, |kept| *kept = control)?;
        Ok(Answer::Json(200, answer))
    }

    /// `PUT /order/certificate/{id}/dcv-random-value`: the value, or another one when it has expired.
    pub(super) fn renew_value(&mut self, id: u64, _call: &Call) -> Outcome {
        let now = self.clock.now();
        let mut answer = Value::Null;
        self.pending_control(id, |kept| {
            if kept.expires <= now {
                (kept.value, kept.expires) = (random_hex(16), now + VALUE_LASTS);
            }
            answer = kept.shown();
        })?;
        Ok(Answer::Json(200, answer))
    }

    fn pending_control(&mut self, id: u64, change: impl FnOnce(&mut Control)) -> Result<(), Refusal> {
        let order = self.orders.get_mut(&id).ok_or_else(|| Refusal::absent("order"))?;
        if !matches!(order.status, Status::Pending | Status::ReissuePending) {
            return Err(Refusal::bad("order_status_invalid", "The order is not pending."));
        }
        change(&mut order.control);
        Ok(())
    }

    /// `PUT /order/certificate/{id}/check-dcv`.
    pub(super) fn check(&mut self, id: u64, _call: &Call) -> Outcome {
        let order = self.orders.get(&id).ok_or_else(|| Refusal::absent("order"))?;
        let control = order.control.clone();
        let of_order = self.certificates_of(id);
        let pending = |id: &u64| self.certificates.get(id).filter(|found| found.status == Status::Pending);
        let mut names: Vec<String> =
            of_order.iter().filter_map(pending).flat_map(|found| found.wanted.names.clone()).collect();
        names.dedup();
        let missing: Vec<&String> = names.iter().filter(|name| !self.controls(name)).collect();
        let seen: Vec<String> =
            missing.iter().filter(|name| self.sees(&control, name)).map(|name| (**name).clone()).collect();
        if seen.is_empty() && !missing.is_empty() {
            return Err(control.complaint());
        }
        seen.iter().for_each(|name| self.validate(name));
        of_order.into_iter().try_for_each(|id| self.settle(id, false))?;
        let validations: Vec<Value> = names
            .iter()
            .map(|name| json!({ "dns_name": name, "status": if self.controls(name) { "valid" } else { "pending" } }))
            .collect();
        let done = names.iter().all(|name| self.controls(name));
        let order = self.orders.get(&id).ok_or_else(|| Refusal::absent("order"))?;
        let certificate = self.certificates.get(&order.primary).ok_or_else(|| Refusal::absent("order"))?;
        Ok(Answer::Json(
            200,
            json!({
                "order_status": self.status(order, certificate, self.clock.now()),
                "certificate_id": order.primary,
                "dcv_status": if done { "valid" } else { "pending" },
                "dns_name_validations": validations,
            }),
        ))
    }
}

fn bare(name: &str) -> &str {
    name.strip_prefix("*.").unwrap_or(name)
}
