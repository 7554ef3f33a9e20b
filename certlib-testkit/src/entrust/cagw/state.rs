//! What a simulated gateway knows, who may ask, and what for.

use std::collections::VecDeque;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::Request;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::{Value, json};

use super::{
    CagwSim,
    answer::{Outcome, Refusal, told},
    certificate::{Action, Certificate, Event},
    enrollment::Entry,
};
use crate::{
    entrust::{
        call::{Answer, Call},
        server::{Desk, Service},
    },
    http_server::Peer,
    pki::Flaw,
};

/// What kinds of certificates there are.
pub(super) const PROFILES: [Profile; 2] = [
    Profile { id: "tls-server", name: "TLS server", needs_name: false },
    Profile { id: "tls-server-san", name: "TLS server with alternative names", needs_name: true },
];

/// A kind of certificates.
#[derive(Debug)]
pub(super) struct Profile {
    pub(super) id: &'static str,
    name: &'static str,
    /// Whether an alternative name is required.
    pub(super) needs_name: bool,
}

impl Profile {
    fn shown(&self) -> Value {
        json!({
            "id": self.id,
            "name": self.name,
            "subjectVariableRequirements": [{ "name": "cn", "required": true }],
            "subjectAltNameRequirements": [{ "type": "dNSName", "required": self.needs_name }],
        })
    }
}

/// Everything there is.
#[derive(Debug)]
pub(super) struct State {
    pub(super) desk: Desk,
    pub(super) enrollments: Vec<Entry>,
    pub(super) certificates: Vec<Certificate>,
    pub(super) actions: Vec<Action>,
    pub(super) events: Vec<Event>,
    /// What is wrong with the next certificates.
    pub(super) flaws: VecDeque<Flaw>,
    /// How often one has to ask until a new enrolment is issued.
    pub(super) polls: u32,
    /// How often one has to ask until an action is done.
    pub(super) action_polls: u32,
    /// Whether a human has to approve new enrolments.
    pub(super) approvals: bool,
    /// Whether new enrolments are rejected.
    pub(super) rejects: bool,
    /// Whether one can ask for an enrolment.
    pub(super) shows_enrollments: bool,
    pub(super) rejects_next_action: bool,
    /// How many events a page has.
    pub(super) page: usize,
    pub(super) last_id: u64,
}

impl Service for State {
    fn desk(&mut self) -> &mut Desk {
        &mut self.desk
    }

    fn handle(&mut self, peer: &Peer, request: &Request<Bytes>) -> Answer {
        match self.route(peer, request) {
            Ok(body) => Answer::json(200, &body),
            Err(refusal) => refusal.into(),
        }
    }

    fn refuse(status: u16, message: &str) -> Answer {
        Refusal::new(status, message).into()
    }
}

impl State {
    fn route(&mut self, peer: &Peer, request: &Request<Bytes>) -> Outcome {
        if !self.desk.knows(peer) {
            return Err(Refusal::new(403, "The client certificate is not accepted"));
        }
        let uri = request.uri();
        let absent = || Refusal::not_found("The resource");
        let path = uri.path().strip_prefix("/cagw/v1/certificate-authorities").ok_or_else(absent)?;
        let call = Call::new(path, uri.query().unwrap_or_default(), request.body(), self.desk.now());
        if call.body.is_none() {
            return Err(Refusal::new(400, "The body is not JSON"));
        }
        let path: Vec<&str> = call.path.iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
        let Some((authority, path)) = path.split_first() else {
            return Ok(json!({ "type": "CAListResponse", "caList": [self.authority()], "message": told("") }));
        };
        if *authority != CagwSim::AUTHORITY {
            return Err(Refusal::not_found("The certificate authority"));
        }
        match (request.method().as_str(), path) {
            ("GET", []) => {
                let chain = self.chain();
                Ok(json!({ "type": "CAResponse", "ca": self.authority(), "chain": chain, "message": told("") }))
            }
            ("GET", ["profiles"]) => {
                let shown: Vec<Value> = PROFILES.iter().map(Profile::shown).collect();
                Ok(json!({ "type": "ProfilesResponse", "profiles": shown, "message": told("") }))
            }
            ("GET", ["profiles", id]) => {
                let found = PROFILES.iter().find(|profile| profile.id == *id);
                let shown = found.ok_or_else(|| Refusal::not_found("The profile"))?.shown();
                Ok(json!({ "type": "ProfileResponse", "profile": shown, "message": told("") }))
            }
            ("POST", ["enrollments"]) => self.enroll(&call),
            ("GET", ["enrollments", id]) => self.look(id),
            ("GET", ["certificates", serial]) => self.certificate(serial),
            ("POST", ["certificates", serial, "actions"]) => self.act(&call, serial),
            ("GET", ["actions", id] | ["certificates", _, "actions", id]) => self.look_at_action(id),
            ("GET", ["certificate-events"]) => {
                self.go_on()?;
                self.list_events(&call)
            }
            _ => Err(absent()),
        }
    }

    fn authority(&self) -> Value {
        let data = der(self.desk.issuing.certificate_pem());
        json!({ "id": CagwSim::AUTHORITY, "name": "Example Issuing", "certificate": { "certificateData": data } })
    }

    /// The issuing authority and the root, DER in base64.
    pub(super) fn chain(&self) -> Vec<String> {
        [&self.desk.issuing, &self.desk.root].map(|authority| der(authority.certificate_pem())).to_vec()
    }
}

fn der(pem: &str) -> String {
    CertificateDer::from_pem_slice(pem.as_bytes()).map(|der| STANDARD.encode(der)).unwrap_or_default()
}
