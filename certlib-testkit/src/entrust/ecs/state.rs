//! What a simulated Enterprise API knows, who may ask, and what for.

use std::collections::VecDeque;

use bytes::Bytes;
use http::{Request, header};
use serde_json::{Value, json};

use super::{
    EcsSim,
    answer::{Outcome, Refusal},
    issue::Verdict,
    order::{EcsStatus, Entry},
};
use crate::{
    entrust::{
        call::{Answer, Call, basic},
        period,
        server::{Desk, Service},
    },
    http_server::Peer,
    pki::Flaw,
    tls::fingerprint,
};

/// The most that a list gives at once.
pub(super) const PAGE: usize = 1_000;
/// Why certificates can be revoked.
const REASONS: [&str; 4] = ["keyCompromise", "affiliationChanged", "superseded", "cessationOfOperation"];

/// An organisation; each has a client of its own.
#[derive(Debug)]
pub(super) struct Organization {
    pub(super) name: String,
    pub(super) client: i64,
    pub(super) approved: bool,
}

/// A domain of a client.
#[derive(Debug)]
pub(super) struct Domain {
    pub(super) name: String,
    pub(super) client: i64,
    pub(super) approved: bool,
}

impl Domain {
    fn shown(&self) -> Value {
        let status = if self.approved { "APPROVED" } else { "INITIAL_VERIFICATION" };
        json!({
            "clientId": self.client,
            "domainName": self.name,
            "verificationStatus": status,
            "ovEligible": self.approved,
            "evEligible": false,
        })
    }
}

/// Everything there is.
#[derive(Debug)]
pub(super) struct State {
    pub(super) desk: Desk,
    pub(super) organizations: Vec<Organization>,
    pub(super) domains: Vec<Domain>,
    pub(super) orders: Vec<Entry>,
    /// What is wrong with the next certificates.
    pub(super) flaws: VecDeque<Flaw>,
    /// How many certificates may still be ordered, if that is limited.
    pub(super) inventory: Option<u32>,
    /// How often one has to ask until a new order is issued.
    pub(super) polls: u32,
    /// Whether a human has to approve new orders.
    pub(super) approvals: bool,
    /// Whether new orders are declined.
    pub(super) declines: bool,
    /// The most that a list gives at once, whatever it is asked for.
    pub(super) page: usize,
    pub(super) last_id: i64,
}

impl Service for State {
    fn desk(&mut self) -> &mut Desk {
        &mut self.desk
    }

    fn handle(&mut self, peer: &Peer, request: &Request<Bytes>) -> Answer {
        self.route(peer, request).unwrap_or_else(Answer::from)
    }

    fn refuse(status: u16, message: &str) -> Answer {
        Refusal::new(status, message).into()
    }
}

impl State {
    fn route(&mut self, peer: &Peer, request: &Request<Bytes>) -> Outcome {
        let header = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let login = header.and_then(basic);
        let known = login.is_some_and(|(user, key)| user == EcsSim::USER && key == EcsSim::KEY);
        if !known {
            return Err(Refusal::new(401, "The user or the API key is not valid"));
        }
        if !self.desk.knows(peer) {
            return Err(Refusal::new(403, "The client certificate is not accepted"));
        }
        let uri = request.uri();
        let path = uri.path().strip_prefix("/enterprise/v2/").ok_or_else(Refusal::not_found)?;
        let (method, query) = (request.method().as_str(), uri.query().unwrap_or_default());
        let call = Call::new(path, query, request.body(), self.desk.now());
        if call.body.is_none() {
            return Err(Refusal::bad("The body is not JSON"));
        }
        let path: Vec<&str> = call.path.iter().map(String::as_str).collect();
        match (method, &*path) {
            ("GET", ["application", "version"]) => Ok(Answer::json(200, &json!({ "version": "12.4.0" }))),
            ("GET", ["certificates"]) => self.list(&call),
            ("POST", ["certificates"]) => self.order(&call),
            ("GET", ["certificates", "thumbprints", thumbprint]) => {
                let id = self.by_thumbprint(thumbprint).ok_or_else(Refusal::not_found)?;
                self.show(&call, id)
            }
            ("GET", ["certificates", id]) => {
                let id = number(id)?;
                self.poll(id)?;
                self.show(&call, id)
            }
            ("PATCH", ["certificates", id]) => self.patch(&call, number(id)?),
            ("POST", ["certificates", id, "renewals"]) => self.follow(&call, number(id)?, true),
            ("POST", ["certificates", id, "reissues"]) => self.follow(&call, number(id)?, false),
            ("POST", ["certificates", id, "revocations"]) => self.revoke(&call, number(id)?),
            ("GET", path) => self.account(path),
            _ => Err(Refusal::not_found()),
        }
    }

    /// What the account has: organisations, clients, domains, inventory.
    fn account(&self, path: &[&str]) -> Outcome {
        let domains = |client: Option<i64>| {
            let of_client = self.domains.iter().filter(move |domain| client.is_none_or(|id| id == domain.client));
            of_client.map(Domain::shown).collect::<Vec<_>>()
        };
        let body = match path {
            ["organizations"] => {
                let shown = self.organizations.iter().map(|organization| {
                    let status = if organization.approved { "APPROVED" } else { "PENDING" };
                    json!({ "name": organization.name, "verificationStatus": status, "clientId": organization.client })
                });
                json!({ "organizations": shown.collect::<Vec<_>>() })
            }
            ["clients"] => {
                let shown = self.organizations.iter();
                let shown = shown.map(|known| json!({ "clientId": known.client, "clientName": known.name }));
                json!({ "clients": shown.collect::<Vec<_>>() })
            }
            ["domains"] => json!({ "domains": domains(None) }),
            ["clients", id, "domains"] => {
                let id = number(id)?;
                if !self.organizations.iter().any(|known| known.client == id) {
                    return Err(Refusal::not_found());
                }
                json!({ "domains": domains(Some(id)) })
            }
            ["clients", id, "domains", name] => {
                let id = number(id)?;
                let found = self.domains.iter().find(|domain| domain.client == id && domain.name == *name);
                found.ok_or_else(Refusal::not_found)?.shown()
            }
            ["inventories"] => {
                let used = self.orders.len();
                let remaining = self.inventory.map_or(1_000, |remaining| remaining as usize);
                let total = used + remaining;
                let flex = json!({ "productType": "FLEX", "totalCount": total, "remainingCount": remaining, "usedCount": used });
                json!({ "inventories": [flex] })
            }
            _ => return Err(Refusal::not_found()),
        };
        Ok(Answer::json(200, &body))
    }

    fn list(&self, call: &Call) -> Outcome {
        let number = |name: &str, default: usize| match call.param(name) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| Refusal::bad(format!("{name} is not a number"))),
        };
        let (offset, limit) = (number("offset", 0)?, number("limit", 100)?);
        if limit > PAGE {
            return Err(Refusal::bad(format!("limit must not exceed {PAGE}")));
        }
        let wanted = |entry: &&Entry| {
            let same =
                |name: &str, value: &str| call.param(name).is_none_or(|wanted| wanted.eq_ignore_ascii_case(value));
            same("serialNumber", &entry.serial().unwrap_or_default())
                && same("status", entry.status(call.now).as_str())
                && same("certType", &entry.wish.kind)
        };
        let found: Vec<&Entry> = self.orders.iter().filter(wanted).collect();
        let page: Vec<Value> =
            found.iter().skip(offset).take(limit.min(self.page)).map(|entry| entry.summary(call.now)).collect();
        let summary = json!({
            "timestamp": period::shown(call.now),
            "elapsed": 7,
            "offset": offset,
            "limit": limit,
            "total": found.len(),
            "sort": "trackingId",
        });
        Ok(Answer::json(200, &json!({ "summary": summary, "certificates": page })))
    }

    fn show(&self, call: &Call, id: i64) -> Outcome {
        Ok(Answer::json(200, &self.find(id)?.detail(&self.chain(), call.now)))
    }

    fn patch(&mut self, call: &Call, id: i64) -> Outcome {
        let status = self.find(id)?.status(call.now);
        let to = match (call.text("/operation"), status) {
            ("APPROVE", _) => {
                self.decide(id, Verdict::Approve)?;
                return self.show(call, id);
            }
            ("DECLINE", _) => {
                let reason = call.text("/declineReason").to_owned();
                self.decide(id, Verdict::Decline(&reason))?;
                return self.show(call, id);
            }
            ("SUSPEND", EcsStatus::Active) => EcsStatus::Suspended,
            ("UNSUSPEND", EcsStatus::Suspended) => EcsStatus::Active,
            ("SUSPEND" | "UNSUSPEND", _) => {
                return Err(Refusal::bad(format!("The certificate is {}", status.as_str())));
            }
            _ => return Err(Refusal::bad("operation is not valid")),
        };
        self.find_mut(id)?.status = to;
        self.show(call, id)
    }

    fn revoke(&mut self, call: &Call, id: i64) -> Outcome {
        let now = call.now;
        let entry = self.find_mut(id)?;
        let reason = call.text("/crlReason");
        if !REASONS.contains(&reason) {
            return Err(Refusal::bad("crlReason is not valid"));
        }
        if entry.certificate.is_none() || matches!(entry.status(now), EcsStatus::Revoked | EcsStatus::Expired) {
            return Err(Refusal::bad(format!("The certificate is {}", entry.status(now).as_str())));
        }
        (entry.status, entry.reason) = (EcsStatus::Revoked, Some(reason.to_owned()));
        Ok(Answer::json(200, &json!({})))
    }

    pub(super) fn find(&self, id: i64) -> Result<&Entry, Refusal> {
        self.orders.iter().find(|entry| entry.id == id).ok_or_else(Refusal::not_found)
    }

    pub(super) fn find_mut(&mut self, id: i64) -> Result<&mut Entry, Refusal> {
        self.orders.iter_mut().find(|entry| entry.id == id).ok_or_else(Refusal::not_found)
    }

    /// A thumbprint is the SHA-1 or the SHA-256 of a certificate.
    fn by_thumbprint(&self, thumbprint: &str) -> Option<i64> {
        let wanted = thumbprint.replace(':', "").to_ascii_lowercase();
        let has = |entry: &&Entry| {
            entry.certificate.as_ref().is_some_and(|certificate| {
                let der = &certificate.certificate_der;
                let sha1 = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, der);
                let sha1: String = sha1.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
                wanted == sha1 || wanted == fingerprint(der)
            })
        };
        self.orders.iter().find(has).map(|entry| entry.id)
    }

    /// What stands between a certificate and the root, PEM.
    pub(super) fn chain(&self) -> Vec<String> {
        vec![self.desk.issuing.certificate_pem().to_owned()]
    }
}

fn number(text: &str) -> Result<i64, Refusal> {
    text.parse().map_err(|_| Refusal::not_found())
}
