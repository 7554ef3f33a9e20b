//! The certificate manager: import, list, show, export, delete, where used, deploy.

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{
    answer::{Answer, Outcome, Refusal},
    call::Call,
    material::Material,
    state::State,
};

/// A certificate of the certificate manager.
#[derive(Debug, Clone)]
pub(super) struct ScmCertificate {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) material: Material,
    enterprise_project: String,
    /// In which order it was changed.
    updated: u64,
}

impl ScmCertificate {
    fn summary(&self, now: OffsetDateTime) -> Value {
        let material = &self.material;
        let domain = material.names.first().unwrap_or(&material.common_name);
        let many = material.names.len() > 1;
        json!({
            "id": self.id,
            "name": self.name,
            "domain": domain,
            "sans": material.names.iter().skip(1).cloned().collect::<Vec<_>>().join(";"),
            "signature_algorithm": "SHA256WITHECDSA",
            "deploy_support": true,
            "type": "",
            "brand": "",
            "expire_time": time(material.not_after),
            "domain_type": if many { "MULTI_DOMAIN" } else { "SINGLE_DOMAIN" },
            "validity_period": 1,
            "status": if material.not_after <= now { "EXPIRED" } else { "UPLOAD" },
            "domain_count": material.names.len(),
            "wildcard_count": material.names.iter().filter(|name| name.starts_with("*.")).count(),
            "description": "",
            "enterprise_project_id": self.enterprise_project,
        })
    }

    fn detail(&self, now: OffsetDateTime) -> Value {
        let mut body = self.summary(now);
        if let Value::Object(body) = &mut body {
            let (from, to) = (time(self.material.not_before), time(self.material.not_after));
            body.insert("fingerprint".to_owned(), self.material.sha1.clone().into());
            body.insert("issue_time".to_owned(), from.clone().into());
            body.insert("not_before".to_owned(), from.into());
            body.insert("not_after".to_owned(), to.into());
            body.insert("push_support".to_owned(), "ALL".into());
            body.insert("authentification".to_owned(), json!([]));
        }
        body
    }
}

fn time(time: OffsetDateTime) -> String {
    let format = time::macros::format_description!("[year]-[month]-[day] [hour]:[minute]:[second].0");
    time.format(format).unwrap_or_default()
}

fn bad(message: &str) -> Refusal {
    Refusal::flat(400, "SCM.0005", message)
}

fn absent() -> Refusal {
    Refusal::flat(404, "SCM.0008", "The certificate ID is abnormal or does not exist.")
}

/// Whether a service accepts a name: letters, digits, `_`, `-` and `.`.
fn is_name(name: &str) -> bool {
    (3..=63).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}

pub(super) fn handle(state: &mut State, call: &Call, path: &[&str]) -> Outcome {
    match (call.method.as_str(), path) {
        ("POST", ["certificates", "import"]) => import(state, call),
        ("GET", ["certificates"]) => list(state, call),
        ("GET", ["certificates", id]) => Ok(Answer::ok(find(state, id)?.detail(call.now))),
        ("POST", ["certificates", id, "export"]) => {
            let material = &find(state, id)?.material;
            let (leaf, chain) = material.split();
            Ok(Answer::ok(json!({
                "entire_certificate": material.certificate,
                "certificate": leaf,
                "certificate_chain": chain,
                "private_key": material.key,
            })))
        }
        ("DELETE", ["certificates", id]) => {
            find(state, id)?;
            if state.uses(id).iter().any(|(_, number)| *number > 0) {
                return Err(Refusal::flat(400, "SCM.0010", "This operation is not allowed in the current state."));
            }
            state.scm.retain(|certificate| certificate.id != *id);
            Ok(Answer::empty(204))
        }
        ("POST", ["certificates", id, "deploy"]) => deploy(state, call, id),
        ("POST", ["deployed-resources"]) => deployed(state, call),
        _ => Err(Refusal::no_such_api()),
    }
}

fn find<'a>(state: &'a State, id: &str) -> Result<&'a ScmCertificate, Refusal> {
    state.scm.iter().find(|certificate| certificate.id == id).ok_or_else(absent)
}

fn import(state: &mut State, call: &Call) -> Outcome {
    let name = call.text("/name");
    if !is_name(name) {
        return Err(bad("Invalid parameter: name."));
    }
    let (certificate, chain, key) =
        (call.text("/certificate"), call.text("/certificate_chain"), call.text("/private_key"));
    if certificate.len() > 4_096 || chain.len() > 8_192 || key.len() > 4_096 {
        return Err(bad("Invalid parameter: the certificate, the chain or the private key is too long."));
    }
    let parsed = Material::read(certificate, chain, key);
    let material =
        parsed.map_err(|why| Refusal::flat(400, "SCM.0006", format!("Failed to parse the certificate: {why}")))?;
    let same = state.scm.iter().any(|known| known.material.sha256 == material.sha256);
    // The name of the field says the opposite of what it does: `true` lets the same certificate in.
    if same && call.body["duplicate_check"] == false {
        return Err(bad("The certificate already exists."));
    }
    if state.scm_quota.is_some_and(|quota| state.scm.len() >= quota) {
        return Err(Refusal::flat(403, "SCM.0011", "The quota has been used up."));
    }
    let number = state.next();
    let id = format!("scs{:013}", 1_554_192_000_000 + number);
    let enterprise = call.text("/enterprise_project_id");
    state.scm.push(ScmCertificate {
        id: id.clone(),
        name: name.to_owned(),
        material,
        enterprise_project: if enterprise.is_empty() { "0".to_owned() } else { enterprise.to_owned() },
        updated: number,
    });
    Ok(Answer::ok(json!({ "certificate_id": id })))
}

fn list(state: &State, call: &Call) -> Outcome {
    let limit = call.number("limit", 10);
    if ![10, 20, 50].contains(&limit) {
        return Err(bad("Invalid parameter: limit must be 10, 20 or 50."));
    }
    let (content, enterprise) = (call.param("content"), call.param("enterprise_project_id"));
    let mut found: Vec<&ScmCertificate> = state
        .scm
        .iter()
        .filter(|certificate| {
            content.is_none_or(|part| {
                certificate.name.contains(part) || certificate.material.names.iter().any(|name| name.contains(part))
            })
        })
        .filter(|certificate| enterprise.is_none_or(|id| id == "all" || id == certificate.enterprise_project))
        .collect();
    match call.param("sort_key").unwrap_or("certUpdateTime") {
        "certUpdateTime" => found.sort_by_key(|certificate| certificate.updated),
        "certExpiredTime" => found.sort_by_key(|certificate| certificate.material.not_after),
        "certStatus" => found.sort_by_key(|certificate| certificate.material.not_after > call.now),
        _ => return Err(bad("Invalid parameter: sort_key.")),
    }
    if call.param("sort_dir").unwrap_or("DESC") == "DESC" {
        found.reverse();
    }
    let total = found.len();
    let page: Vec<_> =
        found.iter().skip(call.number("offset", 0)).take(limit).map(|found| found.summary(call.now)).collect();
    Ok(Answer::ok(json!({ "certificates": page, "total_count": total })))
}

fn deployed(state: &State, call: &Call) -> Outcome {
    let wanted = call.body["certificate_ids"].as_array().ok_or_else(|| bad("Invalid parameter: certificate_ids."))?;
    let services: Vec<&str> =
        call.body["service_names"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let results: Vec<_> = wanted
        .iter()
        .filter_map(Value::as_str)
        .map(|id| {
            let mut uses = state.uses(id);
            uses.retain(|(service, number)| *number > 0 && (services.contains(&"ALL") || services.contains(service)));
            let resources: Vec<_> = uses
                .iter()
                .map(|(service, number)| {
                    let location = if *service == "CDN" { "global" } else { "region" };
                    json!({ "service": service, "resource_num": number, "resource_location": location, "region_resources": [] })
                })
                .collect();
            let total: usize = uses.iter().map(|(_, number)| number).sum();
            json!({ "certificate_id": id, "total_num": total, "deployed_resources": resources })
        })
        .collect();
    Ok(Answer::ok(json!({ "results": results })))
}

/// Deploys on domains of the delivery network; other services are not simulated here.
fn deploy(state: &mut State, call: &Call, id: &str) -> Outcome {
    let certificate = find(state, id)?.clone();
    let resources = call.body["resources"].as_array().cloned().unwrap_or_default();
    if !(1..=20).contains(&resources.len()) {
        return Err(bad("Invalid parameter: 1 to 20 resources."));
    }
    let mut failures = Vec::new();
    for resource in &resources {
        let name = resource["domain_name"].as_str().or(resource["id"].as_str()).unwrap_or_default();
        let failure = match call.text("/service_name") {
            "CDN" => state.deploy_on_domain(name, &certificate).err(),
            _ => Some("SCM.0012".to_owned()),
        };
        failures.extend(failure.map(|code| json!({ "resource": name, "failure_info": code })));
    }
    Ok(Answer::ok(json!({ "failure_list": failures })))
}

impl State {
    /// How many resources of each service use a certificate.
    fn uses(&self, id: &str) -> Vec<(&'static str, usize)> {
        let linked =
            |elb: &str| self.elb_certificates.get(elb).is_some_and(|found| found.scm_id.as_deref() == Some(id));
        let listeners = self.listeners.values().filter(|listener| listener.refs().any(linked)).count();
        let domains = self.cdn_domains.values().filter(|domain| domain.uses_scm(id)).count();
        vec![("ELB", listeners), ("CDN", domains)]
    }
}
