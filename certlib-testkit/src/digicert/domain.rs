//! Domains that are validated ahead of orders.

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{
    answer::{Answer, Outcome, Refusal, moment},
    dcv::Control,
    state::{State, object},
};
use crate::api::Call;

/// A domain of the account.
#[derive(Debug)]
pub(super) struct Domain {
    name: String,
    organization: u64,
    control: Control,
    created: OffsetDateTime,
}

impl State {
    pub(super) fn domain_action(&mut self, method: &str, rest: &[&str], call: &Call) -> Outcome {
        let number = |id: &str| id.parse::<u64>().map_err(|_| Refusal::absent("domain"));
        match (method, rest) {
            ("POST", []) => self.add_domain(call),
            ("GET", []) => {
                let all: Vec<Value> = self.domains.iter().map(|(id, domain)| self.shown(*id, domain)).collect();
                let page = json!({ "total": all.len(), "limit": 1000, "offset": 0 });
                Ok(Answer::Json(200, json!({ "domains": all, "page": page })))
            }
            ("GET", [id]) => {
                let id = number(id)?;
                let domain = self.domains.get(&id).ok_or_else(|| Refusal::absent("domain"))?;
                let mut shown = self.shown(id, domain);
                if call.param("include_dcv") == Some("true") {
                    shown["dcv_token"] = self.token(domain);
                }
                Ok(Answer::Json(200, shown))
            }
            ("PUT", [id, "dcv", "method"]) => {
                let body = object(call)?;
                let control = Control::new(body["dcv_method"].as_str().unwrap_or_default(), self.clock.now())?;
                let id = number(id)?;
                self.domains.get_mut(&id).ok_or_else(|| Refusal::absent("domain"))?.control = control;
                let domain = self.domains.get(&id).ok_or_else(|| Refusal::absent("domain"))?;
                Ok(Answer::Json(200, json!({ "dcv_token": self.token(domain) })))
            }
            ("PUT", [id, "dcv", "validate-token"]) => {
                let domain = self.domains.get(&number(id)?).ok_or_else(|| Refusal::absent("domain"))?;
                if !self.sees(&domain.control, &domain.name) {
                    return Err(domain.control.complaint());
                }
                let name = domain.name.clone();
                self.validate(&name);
                Ok(Answer::Nothing)
            }
            _ => Err(Refusal::absent("route")),
        }
    }

    fn add_domain(&mut self, call: &Call) -> Outcome {
        let body = object(call)?;
        let name = body["name"].as_str().filter(|name| name.contains('.'));
        let name = name.ok_or_else(|| Refusal::bad("invalid_domain", "There is no name."))?.to_owned();
        if self.domains.values().any(|known| known.name == name) {
            return Err(Refusal::bad("domain_already_exists", "The account has this domain."));
        }
        let organization = body["organization"]["id"].as_u64().unwrap_or_default();
        if !self.organizations.iter().any(|known| known.id == organization) {
            return Err(Refusal::bad("invalid_organization", "No such organization."));
        }
        let now = self.clock.now();
        let control = Control::new(body["dcv_method"].as_str().unwrap_or("email"), now)?;
        let domain = Domain { name, organization, control, created: now };
        let mut answer = json!({ "id": self.next() });
        if domain.control.has_value() {
            answer["dcv_token"] = self.token(&domain);
        }
        self.domains.insert(self.counter, domain);
        Ok(Answer::Json(201, answer))
    }

    fn shown(&self, id: u64, domain: &Domain) -> Value {
        let status = if self.controls(&domain.name) { "active" } else { "pending" };
        json!({
            "id": id,
            "name": domain.name,
            "is_active": true,
            "status": status,
            "date_created": moment(domain.created),
            "organization": { "id": domain.organization },
            "dcv_method": domain.control.method,
            "validations": [{ "type": "ov", "name": "OV", "status": status }],
        })
    }

    fn token(&self, domain: &Domain) -> Value {
        let mut token = json!({
            "token": domain.control.value,
            "status": if self.controls(&domain.name) { "valid" } else { "pending" },
            "expiration_date": moment(domain.control.expires),
        });
        if domain.control.method == "dns-cname-token" {
            token["verification_value"] = json!("dcv.digicert.com");
        }
        token
    }
}
