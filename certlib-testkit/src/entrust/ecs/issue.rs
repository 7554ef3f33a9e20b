//! New certificates: orders, renewals, reissues, and what humans and the authority decide.

use aws_lc_rs::rand;
use rcgen::ExtendedKeyUsagePurpose;
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use super::{
    answer::{Outcome, Refusal},
    order::{EcsStatus, Entry, Wish},
    state::State,
};
use crate::{
    entrust::{
        call::{Answer, Call},
        period,
    },
    pki::{CertificateRequest, Subject, Terms},
};

/// The kinds of certificates that can be ordered.
const KINDS: [&str; 9] = [
    "STANDARD_SSL",
    "ADVANTAGE_SSL",
    "UC_SSL",
    "EV_SSL",
    "QWAC_SSL",
    "PSD2_SSL",
    "WILDCARD_SSL",
    "PRIVATE_SSL",
    "PD_SSL",
];
/// The longest lifetime of a public certificate.
const LIMIT_DAYS: i64 = 398;

/// What is decided about an order that waits.
#[derive(Clone, Copy, Debug)]
pub(super) enum Verdict<'a> {
    Approve,
    Decline(&'a str),
    Finish,
}

impl State {
    pub(super) fn order(&mut self, call: &Call) -> Outcome {
        let kind = match call.text("/certType") {
            "" => return Err(Refusal::bad("certType is required")),
            kind if KINDS.contains(&kind) => kind.to_owned(),
            other => return Err(Refusal::bad(format!("certType {other} is not supported"))),
        };
        let wish = self.read(call, kind, None)?;
        self.place(call, wish)
    }

    /// A later certificate for an order, or another one with the same end.
    pub(super) fn follow(&mut self, call: &Call, id: i64, renewed: bool) -> Outcome {
        let old = self.find(id)?;
        let fit = match old.status(call.now) {
            EcsStatus::Active => true,
            EcsStatus::Expired => renewed,
            _ => false,
        };
        if !fit {
            let status = old.status(call.now).as_str();
            return Err(Refusal::bad(format!("A certificate that is {status} cannot be renewed or reissued")));
        }
        let wish = if renewed {
            self.read(call, old.wish.kind.clone(), Some(&old.wish.clone()))?
        } else {
            if call.field("/certLifetime").is_some() || call.field("/certExpiryDate").is_some() {
                return Err(Refusal::bad("A reissued certificate keeps its expiry date"));
            }
            self.read_again(call, &old.wish.clone())?
        };
        let answer = self.place(call, wish)?;
        if !call.flag("/validateOnly") {
            let old = self.find_mut(id)?;
            old.status = if renewed { EcsStatus::Renewed } else { EcsStatus::Reissued };
        }
        Ok(answer)
    }

    /// What a human or the authority decides about an order that waits.
    pub(super) fn decide(&mut self, id: i64, verdict: Verdict<'_>) -> Result<(), Refusal> {
        let now = self.desk.now();
        let entry = self.find_mut(id)?;
        let wanted = !matches!(verdict, Verdict::Finish);
        if entry.status != EcsStatus::Pending || entry.waits != wanted {
            return Err(Refusal::bad(format!("The order is {}", entry.status(now).as_str())));
        }
        match verdict {
            Verdict::Approve => entry.waits = false,
            Verdict::Decline(reason) => {
                (entry.status, entry.reason) = (EcsStatus::Declined, Some(reason.to_owned()));
            }
            Verdict::Finish => entry.polls = 0,
        }
        if entry.status == EcsStatus::Pending && entry.polls == 0 {
            self.issue(id)?;
        }
        Ok(())
    }

    /// Somebody looks at an order that the authority works on: that is what moves it.
    pub(super) fn poll(&mut self, id: i64) -> Result<(), Refusal> {
        let entry = self.find_mut(id)?;
        if entry.status == EcsStatus::Pending && !entry.waits {
            if entry.polls == 0 {
                self.issue(id)?;
            } else {
                entry.polls -= 1;
            }
        }
        Ok(())
    }

    fn place(&mut self, call: &Call, wish: Wish) -> Outcome {
        let remaining = self.inventory.as_mut().filter(|remaining| **remaining == 0);
        if remaining.is_some() {
            return Err(Refusal::bad("There is no inventory left for this type of certificate"));
        }
        if call.flag("/validateOnly") {
            return Ok(Answer::json(200, &json!({})));
        }
        if let Some(remaining) = &mut self.inventory {
            *remaining -= 1;
        }
        self.last_id += 1;
        let id = self.last_id;
        let (waits, polls) = (wish.queued || self.approvals, self.polls);
        let status = if self.declines { EcsStatus::Declined } else { EcsStatus::Pending };
        self.orders.push(Entry { id, wish, status, waits, polls, certificate: None, issued: None, reason: None });
        if status == EcsStatus::Pending && !waits && polls == 0 {
            self.issue(id)?;
        }
        Ok(Answer::json(201, &self.find(id)?.receipt(&self.chain())))
    }

    fn issue(&mut self, id: i64) -> Result<(), Refusal> {
        let now = self.desk.now();
        let flaw = self.flaws.pop_front();
        let mut serial = vec![0; 16];
        let failed = |_| Refusal::new(500, "Internal error");
        rand::fill(&mut serial).map_err(failed)?;
        // The first digit is a zero, which this service does not show.
        serial[0] = serial[0] & 0x07 | 0x08;
        let wish = self.find(id)?.wish.clone();
        let (server, client) = (ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth);
        let terms = Terms {
            common_name: wish.names.first().cloned(),
            names: Some(wish.names.clone()),
            not_before: Some(now - Duration::hours(1)),
            not_after: Some(wish.expires),
            serial: Some(serial),
            purposes: match &*wish.eku {
                "CLIENT_AUTH" => vec![client],
                "SERVER_AND_CLIENT_AUTH" => vec![server, client],
                _ => vec![server],
            },
            ..Terms::default()
        };
        let signed = self.desk.issuing.sign_with(Subject::Request(&wish.asked.der), &terms, flaw);
        let entry = self.find_mut(id)?;
        match signed {
            Ok(signed) => {
                (entry.status, entry.issued, entry.certificate) = (EcsStatus::Active, Some(now), Some(signed));
            }
            Err(error) => {
                (entry.status, entry.reason) = (EcsStatus::Declined, Some(error.to_string()));
            }
        }
        Ok(())
    }

    /// A reissue: everything that is not given stays.
    fn read_again(&self, call: &Call, old: &Wish) -> Result<Wish, Refusal> {
        let (asked, csr) = match call.text("/csr") {
            "" => (old.asked.clone(), old.csr.clone()),
            csr => (read_request(csr)?, csr.to_owned()),
        };
        let listed = list(call.field("/subjectAltName"));
        let names = if listed.is_empty() { old.names.clone() } else { names(&asked, call.text("/cn"), listed)? };
        self.check_names(&names, old.client, &old.kind)?;
        Ok(Wish { asked, csr, names, queued: call.flag("/queueForApproval"), ..old.clone() })
    }

    fn read(&self, call: &Call, kind: String, old: Option<&Wish>) -> Result<Wish, Refusal> {
        let csr = call.text("/csr");
        let asked = read_request(csr)?;
        let client = match call.field("/clientId") {
            None => old.map_or(1, |old| old.client),
            Some(id) => id.as_i64().ok_or_else(|| Refusal::bad("clientId is no number"))?,
        };
        let of_client = |organization: &&super::state::Organization| organization.client == client;
        let owner = self.organizations.iter().find(of_client).ok_or_else(|| Refusal::bad("clientId is not known"))?;
        let organization = match call.text("/org") {
            "" => owner.name.clone(),
            name => {
                let known = self.organizations.iter().any(|known| known.name == name && known.approved);
                if !known {
                    return Err(Refusal::bad(format!("The organization {name} is not approved")));
                }
                name.to_owned()
            }
        };
        if !["", "SHA-2"].contains(&call.text("/signingAlg")) {
            return Err(Refusal::bad("signingAlg must be SHA-2"));
        }
        let eku = match call.text("/eku") {
            "" => old.map_or("SERVER_AND_CLIENT_AUTH", |old| &old.eku),
            eku @ ("SERVER_AUTH" | "CLIENT_AUTH" | "SERVER_AND_CLIENT_AUTH") => eku,
            _ => return Err(Refusal::bad("eku is not valid")),
        };
        let names = names(&asked, call.text("/cn"), list(call.field("/subjectAltName")))?;
        self.check_names(&names, client, &kind)?;
        let tracking = call.field("/tracking").or(old.map(|old| &old.tracking)).cloned();
        Ok(Wish {
            asked,
            csr: csr.to_owned(),
            names,
            client,
            organization,
            kind,
            eku: eku.to_owned(),
            expires: expiry(call)?,
            tracking: tracking.unwrap_or_else(|| json!({})),
            queued: call.flag("/queueForApproval"),
        })
    }

    /// Public certificates are for domains that belong to the client.
    fn check_names(&self, names: &[String], client: i64, kind: &str) -> Result<(), Refusal> {
        let approved = |name: &String| {
            let name = name.strip_prefix("*.").unwrap_or(name).to_ascii_lowercase();
            self.domains.iter().any(|domain| {
                let covers =
                    name == domain.name || name.strip_suffix(&*domain.name).is_some_and(|rest| rest.ends_with('.'));
                covers && domain.approved && domain.client == client
            })
        };
        match names.iter().find(|name| kind != "PRIVATE_SSL" && !approved(name)) {
            None => Ok(()),
            Some(name) => Err(Refusal::bad(format!("The domain of {name} is not approved for this client"))),
        }
    }
}

fn expiry(call: &Call) -> Result<OffsetDateTime, Refusal> {
    let expires = match (call.text("/certLifetime"), call.text("/certExpiryDate")) {
        ("", "") => return Err(Refusal::bad("One of certLifetime and certExpiryDate is required")),
        (lifetime, "") => period::duration(lifetime).map(|lifetime| call.now + lifetime),
        ("", date) => period::moment(date),
        _ => return Err(Refusal::bad("certLifetime and certExpiryDate exclude each other")),
    };
    let expires = expires.ok_or_else(|| Refusal::bad("certLifetime or certExpiryDate cannot be read"))?;
    let whole = expires.replace_nanosecond(0).unwrap_or(expires);
    if whole <= call.now || whole > call.now + Duration::days(LIMIT_DAYS) {
        return Err(Refusal::bad("The expiry date is out of range"));
    }
    Ok(whole)
}

fn read_request(text: &str) -> Result<CertificateRequest, Refusal> {
    if text.is_empty() {
        return Err(Refusal::bad("csr is required"));
    }
    // What stands between the lines of PEM will do.
    let asked = CertificateRequest::read(text).ok().filter(|asked| asked.key.is_usual());
    asked.ok_or_else(|| Refusal::bad("csr is no PKCS#10 request"))
}

fn list(value: Option<&Value>) -> Vec<String> {
    value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The names of a certificate, the common name first: those that are given, or else those of the request.
fn names(asked: &CertificateRequest, common_name: &str, listed: Vec<String>) -> Result<Vec<String>, Refusal> {
    let first = Some(common_name.to_owned()).filter(|name| !name.is_empty()).or_else(|| asked.common_name.clone());
    let more = if listed.is_empty() { asked.names.clone() } else { listed };
    let mut names: Vec<String> = Vec::new();
    for name in first.into_iter().chain(more) {
        if !names.iter().any(|known| known.eq_ignore_ascii_case(&name)) {
            names.push(name);
        }
    }
    if names.is_empty() { Err(Refusal::bad("There is no name in the request")) } else { Ok(names) }
}
