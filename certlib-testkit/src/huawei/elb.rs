//! Load balancers: certificates, and listeners that refer to them.

use std::net::SocketAddr;

use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::{
    answer::{Answer, Outcome, Refusal},
    call::Call,
    material::{Material, serves},
    state::State,
};

/// A certificate of the load balancers' store.
#[derive(Debug, Clone)]
pub(super) struct ElbCertificate {
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) material: Material,
    /// The names that it is chosen by.
    pub(super) domains: Vec<String>,
    pub(super) scm_id: Option<String>,
    description: String,
    enterprise_project: String,
    created: OffsetDateTime,
    updated: OffsetDateTime,
}

/// A listener. It serves TLS for real.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) name: String,
    pub(super) protocol: String,
    pub(super) default: Option<String>,
    pub(super) sni: Vec<String>,
    pub(super) address: SocketAddr,
}

impl Listener {
    /// The certificates that it refers to.
    pub(super) fn refs(&self) -> impl Iterator<Item = &str> {
        self.default.iter().chain(&self.sni).map(String::as_str)
    }
}

fn bad(message: &str) -> Refusal {
    Refusal::flat(400, "ELB.8902", message)
}

fn absent(what: &str, id: &str) -> Refusal {
    Refusal::flat(404, "ELB.8904", format!("{what} {id} could not be found"))
}

pub(super) fn handle(state: &mut State, call: &Call, project: &str, path: &[&str]) -> Outcome {
    match (call.method.as_str(), path) {
        ("POST", ["certificates"]) => create(state, call, project),
        ("GET", ["certificates"]) => list(state, call, project),
        ("GET", ["certificates", id]) => {
            let found = certificate(state, id)?;
            Ok(Answer::ok(json!({ "certificate": found.render(state, id, project) })))
        }
        ("PUT", ["certificates", id]) => update(state, call, id, project),
        ("DELETE", ["certificates", id]) => {
            certificate(state, id)?;
            if state.listeners.values().any(|listener| listener.refs().any(|used| used == *id)) {
                return Err(Refusal::flat(409, "ELB.8907", format!("Certificate {id} is in use by a listener")));
            }
            state.elb_certificates.remove(*id);
            Ok(Answer::empty(204))
        }
        ("GET", ["listeners"]) => {
            let protocols: Vec<_> = call.params("protocol").collect();
            let ids: Vec<_> = call.params("id").collect();
            let found: Vec<_> = state
                .listeners
                .iter()
                .filter(|(_, listener)| protocols.is_empty() || protocols.contains(&listener.protocol.as_str()))
                .filter(|(id, _)| ids.is_empty() || ids.contains(&id.as_str()))
                .map(|(id, listener)| render_listener(id, listener, project))
                .collect();
            Ok(Answer::ok(page("listeners", found)))
        }
        ("GET", ["listeners", id]) => {
            let listener = state.listeners.get(*id).ok_or_else(|| absent("Listener", id))?;
            Ok(Answer::ok(json!({ "listener": render_listener(id, listener, project) })))
        }
        ("PUT", ["listeners", id]) => point(state, call, id, project),
        _ => Err(Refusal::no_such_api()),
    }
}

fn certificate<'a>(state: &'a State, id: &str) -> Result<&'a ElbCertificate, Refusal> {
    state.elb_certificates.get(id).ok_or_else(|| absent("Certificate", id))
}

/// What a request says about a certificate.
fn material(certificate: &str, key: &str) -> Result<Material, Refusal> {
    if certificate.len() > 65_536 || key.len() > 8_192 {
        return Err(bad("The certificate or the private key is too long"));
    }
    Material::read(certificate, "", key).map_err(bad)
}

fn domains(text: &str) -> Vec<String> {
    text.split(',').filter(|name| !name.is_empty()).map(str::to_ascii_lowercase).collect()
}

fn create(state: &mut State, call: &Call, project: &str) -> Outcome {
    let kind = match call.text("/certificate/type") {
        "" => "server",
        kind => kind,
    };
    if kind != "server" {
        return Err(bad("The simulator keeps certificates of type server only"));
    }
    let enterprise = call.body.pointer("/certificate/enterprise_project_id").and_then(Value::as_str);
    if enterprise.is_some_and(|id| id.is_empty() || id == "0") {
        return Err(bad("enterprise_project_id must not be empty or 0"));
    }
    let material = material(call.text("/certificate/certificate"), call.text("/certificate/private_key"))?;
    let scm_id = call.text("/certificate/scm_certificate_id");
    let certificate = ElbCertificate {
        name: call.text("/certificate/name").to_owned(),
        kind: kind.to_owned(),
        material,
        domains: domains(call.text("/certificate/domain")),
        scm_id: (!scm_id.is_empty()).then(|| scm_id.to_owned()),
        description: call.text("/certificate/description").to_owned(),
        enterprise_project: enterprise.unwrap_or("0").to_owned(),
        created: call.now,
        updated: call.now,
    };
    let id = state.id();
    let body = certificate.render(state, &id, project);
    state.elb_certificates.insert(id, certificate);
    Ok(Answer::with(201, json!({ "certificate": body })))
}

/// Changes a certificate in place: whoever refers to it serves the new content at once.
fn update(state: &mut State, call: &Call, id: &str, project: &str) -> Outcome {
    let mut changed = certificate(state, id)?.clone();
    let field = |name: &str| call.body.pointer(&format!("/certificate/{name}")).and_then(Value::as_str);
    if let Some(text) = field("certificate") {
        changed.material = material(text, field("private_key").unwrap_or(&changed.material.key))?;
    }
    if let Some(name) = field("name") {
        name.clone_into(&mut changed.name);
    }
    if let Some(names) = field("domain") {
        changed.domains = domains(names);
    }
    if let Some(text) = field("description") {
        text.clone_into(&mut changed.description);
    }
    changed.updated = call.now;
    let body = changed.render(state, id, project);
    state.elb_certificates.insert(id.to_owned(), changed);
    Ok(Answer::ok(json!({ "certificate": body })))
}

fn list(state: &State, call: &Call, project: &str) -> Outcome {
    let limit = call.number("limit", 2_000);
    if limit > 2_000 {
        return Err(bad("limit must be from 0 to 2000"));
    }
    let matches = |name: &str, value: &str| {
        let mut wanted = call.params(name).peekable();
        wanted.peek().is_none() || wanted.any(|wanted| wanted == value)
    };
    let marker = call.param("marker");
    if marker.is_some_and(|marker| !state.elb_certificates.contains_key(marker)) {
        return Err(bad("marker is not the id of a certificate"));
    }
    let found: Vec<_> = state
        .elb_certificates
        .iter()
        .filter(|(id, found)| {
            matches("id", id)
                && matches("name", &found.name)
                && matches("type", &found.kind)
                && matches("common_name", &found.material.common_name)
                && matches("fingerprint", &found.material.sha1)
                && matches("scm_certificate_id", found.scm_id.as_deref().unwrap_or_default())
        })
        .filter(|(id, _)| marker.is_none_or(|marker| id.as_str() > marker))
        .take(limit)
        .map(|(id, found)| found.render(state, id, project))
        .collect();
    Ok(Answer::ok(page("certificates", found)))
}

fn page(name: &str, found: Vec<Value>) -> Value {
    let id = |value: Option<&Value>| value.map(|value| value["id"].clone()).unwrap_or_default();
    let info = json!({
        "previous_marker": id(found.first()),
        "next_marker": id(found.last()),
        "current_count": found.len(),
    });
    let mut body = Map::new();
    body.insert(name.to_owned(), found.into());
    body.insert("page_info".to_owned(), info);
    body.into()
}

fn point(state: &mut State, call: &Call, id: &str, project: &str) -> Outcome {
    let listener = state.listeners.get(id).ok_or_else(|| absent("Listener", id))?;
    let field = |name: &str| call.body.pointer(&format!("/listener/{name}"));
    let default = match field("default_tls_container_ref") {
        None => listener.default.clone(),
        Some(value) => Some(
            value.as_str().filter(|id| !id.is_empty()).ok_or_else(|| bad("a listener needs a certificate"))?.to_owned(),
        ),
    };
    let sni: Vec<String> = match field("sni_container_refs") {
        None => listener.sni.clone(),
        Some(value) => value
            .as_array()
            .map(|ids| ids.iter().filter_map(Value::as_str).map(str::to_owned).collect())
            .ok_or_else(|| bad("sni_container_refs must be a list"))?,
    };
    if sni.len() > 50 {
        return Err(bad("sni_container_refs has more than 50 entries"));
    }
    for used in default.iter().chain(&sni) {
        certificate(state, used)?;
    }
    let mut names: Vec<&String> = Vec::new();
    for used in &sni {
        let found = certificate(state, used)?;
        if found.domains.is_empty() {
            return Err(bad("a certificate that is chosen by name needs a domain"));
        }
        if found.domains.iter().any(|name| names.contains(&name)) {
            return Err(bad("two certificates that are chosen by name have the same domain"));
        }
        names.extend(&found.domains);
    }
    if names.len() > 200 {
        return Err(bad("the certificates that are chosen by name have more than 200 domains"));
    }
    let listener = state.listeners.get_mut(id).ok_or_else(|| absent("Listener", id))?;
    (listener.default, listener.sni) = (default, sni);
    Ok(Answer::ok(json!({ "listener": render_listener(id, listener, project) })))
}

fn render_listener(id: &str, listener: &Listener, project: &str) -> Value {
    json!({
        "id": id,
        "name": listener.name,
        "description": "",
        "protocol": listener.protocol,
        "protocol_port": listener.address.port(),
        "default_tls_container_ref": listener.default,
        "sni_container_refs": listener.sni,
        "sni_match_algo": "wildcard",
        "client_ca_tls_container_ref": null,
        "default_pool_id": null,
        "loadbalancers": [{ "id": "098b2f68-af1c-41a9-8efd-69958722af62" }],
        "admin_state_up": true,
        "connection_limit": -1,
        "http2_enable": true,
        "project_id": project,
        "tags": [],
    })
}

impl ElbCertificate {
    /// A certificate as its operator puts it there.
    pub(super) fn new(name: &str, material: Material, now: OffsetDateTime) -> Self {
        Self {
            name: name.to_owned(),
            kind: "server".to_owned(),
            domains: material.names.clone(),
            material,
            scm_id: None,
            description: String::new(),
            enterprise_project: "0".to_owned(),
            created: now,
            updated: now,
        }
    }

    /// Whether it is chosen for a name.
    pub(super) fn is_for(&self, name: &str) -> bool {
        self.domains.iter().any(|pattern| serves(pattern, name))
    }

    fn render(&self, state: &State, id: &str, project: &str) -> Value {
        let format = time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
        let time = |time: OffsetDateTime| time.format(format).unwrap_or_default();
        json!({
            "id": id,
            "name": self.name,
            "description": self.description,
            "type": self.kind,
            "domain": self.domains.join(","),
            "certificate": self.material.certificate,
            "private_key": if state.shows_private_keys { self.material.key.as_str() } else { "" },
            "common_name": self.material.common_name,
            "subject_alternative_names": self.material.names,
            "fingerprint": self.material.sha1,
            "expire_time": time(self.material.not_after),
            "created_at": time(self.created),
            "updated_at": time(self.updated),
            "project_id": project,
            "enterprise_project_id": self.enterprise_project,
            "scm_certificate_id": self.scm_id.as_deref().unwrap_or_default(),
            "source": if self.scm_id.is_some() { "scm" } else { "" },
            "admin_state_up": true,
            "protection_status": "nonProtection",
        })
    }
}
