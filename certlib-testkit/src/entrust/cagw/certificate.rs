//! Certificates, what is done with them, and what has happened to them.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{
    answer::{Outcome, Refusal, told},
    state::State,
};
use crate::{
    entrust::{call::Call, period},
    pki::Signed,
};

/// Why certificates can be revoked.
const REASONS: [&str; 6] =
    ["unspecified", "keyCompromise", "affiliationChanged", "superseded", "cessationOfOperation", "privilegeWithdrawn"];

/// Whether a certificate is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Normal,
    Held,
    Revoked,
}

/// A certificate that was issued.
#[derive(Debug)]
pub(super) struct Certificate {
    pub(super) signed: Signed,
    pub(super) names: Vec<String>,
    pub(super) from: OffsetDateTime,
    pub(super) until: OffsetDateTime,
    pub(super) standing: Standing,
    pub(super) reason: Option<String>,
    pub(super) revoked: Option<OffsetDateTime>,
}

/// Something that is done with a certificate.
#[derive(Debug)]
pub(super) struct Action {
    id: String,
    kind: String,
    serial: String,
    reason: String,
    /// How often one has to ask until it is done.
    polls: u32,
    status: &'static str,
}

/// Something that happened.
#[derive(Debug)]
pub(super) struct Event {
    action: &'static str,
    serial: String,
    at: OffsetDateTime,
}

impl Certificate {
    fn shown(&self) -> Value {
        let name = self.names.first().map_or("", String::as_str);
        let status = match self.standing {
            Standing::Normal => "normal",
            Standing::Held => "held",
            Standing::Revoked => "revoked",
        };
        let mut body = json!({
            "status": status,
            "serialNumber": self.signed.padded_serial(),
            "issuerName": "CN=Simulated CA Gateway issuing authority",
            "subjectName": format!("CN={name}"),
            "validityPeriod": format!("{}/{}", period::shown(self.from), period::shown(self.until)),
            "certificateData": STANDARD.encode(&self.signed.certificate_der),
        });
        if let (Value::Object(map), Some(reason), Some(at)) = (&mut body, &self.reason, self.revoked) {
            let info = json!({ "reason": reason, "revocationDate": period::shown(at) });
            map.insert("revocationInfo".to_owned(), info);
        }
        body
    }
}

impl State {
    pub(super) fn certificate(&self, serial: &str) -> Outcome {
        let at = self.position(serial)?;
        let shown = self.certificates[at].shown();
        Ok(json!({ "type": "CertificateResponse", "certificate": shown, "chain": self.chain(), "message": told("") }))
    }

    pub(super) fn is_revoked(&self, serial: &str) -> bool {
        let plain = |text: &str| text.trim_start_matches('0').to_ascii_uppercase();
        let found = self.certificates.iter().find(|known| plain(&known.signed.serial) == plain(serial));
        found.is_some_and(|known| known.standing == Standing::Revoked)
    }

    /// Serial numbers may be written in both cases; a zero in front counts.
    fn position(&self, serial: &str) -> Result<usize, Refusal> {
        let serial = serial.to_ascii_uppercase();
        let found = self.certificates.iter().position(|known| known.signed.padded_serial() == serial);
        found.ok_or_else(|| Refusal::not_found("The certificate"))
    }

    pub(super) fn act(&mut self, call: &Call, serial: &str) -> Outcome {
        let at = self.position(serial)?;
        let (kind, reason) = (call.text("/action/type"), call.text("/action/reason"));
        let standing = self.certificates[at].standing;
        let (reached, possible) = match kind {
            "RevokeAction" if !REASONS.contains(&reason) => {
                return Err(Refusal::bad("action.reason", format!("The reason {reason} is not valid")));
            }
            "RevokeAction" => (standing == Standing::Revoked, true),
            "HoldAction" => (standing == Standing::Held, standing == Standing::Normal),
            "UnholdAction" | "ReactivateAction" => (standing == Standing::Normal, standing == Standing::Held),
            _ => return Err(Refusal::bad("action.type", format!("The action {kind} is not known"))),
        };
        let refused = std::mem::take(&mut self.rejects_next_action);
        let excused = reached && call.flag("/action/succeedIfAlreadyInRequestedState");
        self.last_id += 1;
        let id = format!("action-{}", self.last_id);
        let status = if !refused && (excused || possible && !reached) { "ACCEPTED" } else { "REJECTED" };
        let (kind, reason) = (kind.to_owned(), reason.to_owned());
        let serial = self.certificates[at].signed.padded_serial();
        let polls = self.action_polls;
        self.actions.push(Action { id: id.clone(), kind, serial, reason, polls, status });
        if status == "ACCEPTED" && polls == 0 {
            self.complete(&id, excused)?;
        }
        self.action(&id)
    }

    /// Somebody asks for an action: that is what moves it.
    pub(super) fn look_at_action(&mut self, id: &str) -> Outcome {
        let entry = self.actions.iter_mut().find(|entry| entry.id == id);
        let entry = entry.ok_or_else(|| Refusal::not_found("The action"))?;
        if entry.status == "ACCEPTED" {
            if entry.polls == 0 {
                self.complete(id, false)?;
            } else {
                entry.polls -= 1;
            }
        }
        self.action(id)
    }

    fn action(&self, id: &str) -> Outcome {
        let entry = self.actions.iter().find(|entry| entry.id == id);
        let Action { kind, serial, reason, status, .. } = entry.ok_or_else(|| Refusal::not_found("The action"))?;
        let action = json!({ "id": id, "type": kind, "status": status, "reason": reason, "serialNumber": serial });
        Ok(json!({ "type": "ActionResponse", "action": action, "message": told("") }))
    }

    fn complete(&mut self, id: &str, already: bool) -> Result<(), Refusal> {
        let now = self.desk.now();
        let entry = self.actions.iter_mut().find(|entry| entry.id == id);
        let entry = entry.ok_or_else(|| Refusal::not_found("The action"))?;
        entry.status = "COMPLETED";
        if already {
            return Ok(());
        }
        let (kind, serial, reason) = (entry.kind.clone(), entry.serial.clone(), entry.reason.clone());
        let at = self.position(&serial)?;
        let certificate = &mut self.certificates[at];
        let event = match &*kind {
            "RevokeAction" => {
                (certificate.standing, certificate.reason, certificate.revoked) =
                    (Standing::Revoked, Some(reason), Some(now));
                "revoked"
            }
            "HoldAction" => {
                certificate.standing = Standing::Held;
                "held"
            }
            _ => {
                certificate.standing = Standing::Normal;
                "unheld"
            }
        };
        self.note(event, &serial, now);
        Ok(())
    }

    pub(super) fn note(&mut self, action: &'static str, serial: &str, at: OffsetDateTime) {
        self.events.push(Event { action, serial: serial.to_owned(), at });
    }

    /// What happened since a moment, page by page.
    pub(super) fn list_events(&self, call: &Call) -> Outcome {
        let bad = |name: &str| Refusal::bad(name, format!("{name} cannot be read"));
        let since = match call.param("startDate") {
            None => OffsetDateTime::UNIX_EPOCH,
            Some(text) => period::moment(text).ok_or_else(|| bad("startDate"))?,
        };
        let begin: usize = match call.param("nextPageIndex") {
            None => 0,
            Some(text) => text.parse().map_err(|_| bad("nextPageIndex"))?,
        };
        let without = call.param("$fields").is_some_and(|fields| fields.contains("-events.certificate"));
        let found: Vec<&Event> = self.events.iter().filter(|event| event.at >= since).collect();
        let shown = found.iter().skip(begin).take(self.page).map(|event| {
            let date = period::shown(event.at);
            let mut body = json!({ "action": event.action, "eventDate": date, "serialNumber": event.serial });
            let certificate = self.certificates.iter().find(|known| known.signed.padded_serial() == event.serial);
            if let (Value::Object(map), Some(certificate), false) = (&mut body, certificate, without) {
                map.insert("certificate".to_owned(), STANDARD.encode(&certificate.signed.certificate_der).into());
            }
            body
        });
        let events: Vec<Value> = shown.collect();
        let end = begin + events.len();
        let more = end < found.len();
        let mut body = json!({ "type": "CertificateEventsResponse", "events": events, "morePages": more });
        if let (Value::Object(map), true) = (&mut body, more) {
            map.insert("nextPageIndex".to_owned(), end.to_string().into());
        }
        Ok(body)
    }
}
