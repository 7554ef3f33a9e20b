//! Everything under `ssl`: routes, lists, approval, revocation.

use serde_json::{Value, json};

use super::{
    answer::{Answer, Outcome, Refusal},
    call::Call,
    enroll::{REASON_LIMIT, Verdict},
    order::{Entry, Status},
    state::State,
};

impl State {
    pub(super) fn ssl(&mut self, call: &Call, path: &[&str]) -> Outcome {
        match (call.method.as_str(), path) {
            ("GET" | "HEAD", []) => self.list(call),
            ("GET", ["types"]) => self.types(call),
            ("GET", ["customFields"]) => Ok(self.fields()),
            ("POST", ["enroll"]) => self.enroll(call),
            ("GET", ["collect", id, format]) => self.collect(call, number(id)?, format),
            ("POST", ["renewById", id]) => self.renew(call, number(id)?),
            ("POST", ["renew", renew_id]) => {
                let found = self.orders.iter().find(|entry| entry.renew_id == *renew_id).map(|entry| entry.id);
                self.renew(call, found.ok_or_else(|| wrong_id(renew_id))?)
            }
            ("POST", ["replace", id]) => self.replace(call, number(id)?),
            ("POST", ["revoke", "serial", serial]) => {
                let found = self.orders.iter().find(|entry| entry.has_serial(serial)).map(|entry| entry.id);
                self.revoke(call, found.ok_or_else(|| wrong_id(serial))?)
            }
            ("POST", ["revoke", id]) => self.revoke(call, number(id)?),
            ("POST", ["approve", id]) => self.answer_request(call, number(id)?, Verdict::Approve),
            ("POST", ["decline", id]) => self.answer_request(call, number(id)?, Verdict::Decline),
            ("POST", ["dcv", "recheck", id]) => self.recheck(call, number(id)?),
            ("GET", [id]) => {
                let id = number(id)?;
                self.poll(id)?;
                Ok(Answer::ok(self.find(id)?.detail(call.now)))
            }
            _ => Err(Refusal::no_such_api()),
        }
    }

    pub(super) fn find(&self, id: i64) -> Result<&Entry, Refusal> {
        self.orders.iter().find(|entry| entry.id == id).ok_or_else(|| wrong_id(&id.to_string()))
    }

    pub(super) fn find_mut(&mut self, id: i64) -> Result<&mut Entry, Refusal> {
        self.orders.iter_mut().find(|entry| entry.id == id).ok_or_else(|| wrong_id(&id.to_string()))
    }

    fn list(&self, call: &Call) -> Outcome {
        let number = |name: &str| call.param(name).map(|text| text.parse::<i64>().map_err(|_| Refusal::invalid(name)));
        let (organization, profile) = (number("orgId").transpose()?, number("sslTypeId").transpose()?);
        let matches = |entry: &&Entry| {
            let same =
                |name: &str, value: &str| call.param(name).is_none_or(|wanted| wanted.eq_ignore_ascii_case(value));
            let named = |wanted: &str| entry.names.iter().any(|name| name.eq_ignore_ascii_case(wanted));
            same("commonName", entry.common_name())
                && same("status", entry.status(call.now).as_str())
                && same("requester", &entry.requester)
                && same("externalRequester", &entry.external_requester)
                && (self.short_lists || call.param("subjectAlternativeName").is_none_or(named))
                && call.param("serialNumber").is_none_or(|serial| entry.has_serial(serial))
                && organization.is_none_or(|id| id == entry.organization)
                && profile.is_none_or(|id| id == entry.profile.id)
        };
        let (page, total) = call.page(self.orders.iter().filter(matches).collect(), self.page)?;
        Ok(Answer::page(
            page.into_iter().map(if self.short_lists { Entry::short } else { Entry::summary }).collect(),
            total,
        ))
    }

    fn revoke(&mut self, call: &Call, id: i64) -> Outcome {
        let now = call.now;
        let entry = self.find_mut(id)?;
        let reason = call.text("reason");
        if reason.is_empty() {
            return Err(Refusal::missing("reason"));
        }
        let code = match call.body.get("reasonCode") {
            None | Some(Value::Null) => Some(0),
            Some(_) => call.number("reasonCode").filter(|code| [0, 1, 3, 4, 5].contains(code)),
        };
        let code = code.ok_or_else(|| Refusal::invalid("reasonCode"))?;
        if reason.len() > REASON_LIMIT {
            return Err(Refusal::invalid("reason"));
        }
        match entry.status(now) {
            Status::Issued => {}
            Status::Revoked => return Err(Refusal::bad(-159, "Your certificate already revoked")),
            _ => return Err(Refusal::bad(-102, "Only issued certificates could be revoked.")),
        }
        (entry.status, entry.revoked, entry.reason_code) = (Status::Revoked, Some(now), Some(code));
        Ok(Answer::empty(204))
    }

    fn answer_request(&mut self, call: &Call, id: i64, verdict: Verdict) -> Outcome {
        match call.text("message") {
            "" => return Err(Refusal::missing("message")),
            long if long.len() > REASON_LIMIT => return Err(Refusal::invalid("message")),
            _ => {}
        }
        self.decide(id, verdict)?;
        Ok(Answer::empty(204))
    }

    fn recheck(&mut self, call: &Call, id: i64) -> Outcome {
        let entry = self.find(id)?;
        let log: Vec<_> = entry
            .names
            .iter()
            .map(|name| {
                let done = self.is_validated(name, call.now);
                let (last, next) = (super::order::date(call.now), super::order::date(call.now));
                let status = if done { "Validated" } else { "Awaiting Validation" };
                json!({ "dcvStatus": status, "domainName": name, "lastCheck": last, "nextCheck": next })
            })
            .collect();
        Ok(Answer::with(202, super::answer::Body::Json(json!({ "dcvLog": { "log": log } }))))
    }
}

fn number(text: &str) -> Result<i64, Refusal> {
    text.parse().map_err(|_| Refusal::no_such_api())
}

fn wrong_id(id: &str) -> Refusal {
    Refusal::new(404, -124, format!("Wrong SSL certificate id {id}."))
}
