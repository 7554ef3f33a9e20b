//! The web application firewall: certificates, and hosts they are bound to.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{
    answer::{Answer, Outcome, Refusal},
    call::Call,
    material::Material,
    state::State,
};

/// A certificate of the firewall's store.
#[derive(Debug, Clone)]
pub(super) struct WafCertificate {
    pub(super) name: String,
    pub(super) material: Material,
    /// When it was uploaded, in milliseconds since 1970.
    pub(super) uploaded: i64,
}

/// A host. It serves TLS for real.
#[derive(Debug)]
pub(super) struct WafHost {
    pub(super) hostname: String,
    pub(super) premium: bool,
    /// The certificate's id; `None` for a host with HTTP alone.
    pub(super) certificate: Option<String>,
    pub(super) address: SocketAddr,
}

fn bad(message: &str) -> Refusal {
    Refusal::flat(400, "WAF.00011001", message)
}

fn absent() -> Refusal {
    Refusal::flat(404, "WAF.00014002", "resource.not.found")
}

pub(super) fn handle(state: &mut State, call: &Call, service: &str, path: &[&str]) -> Outcome {
    match (call.method.as_str(), service, path) {
        ("POST", "waf", ["certificate"]) => create(state, call),
        ("GET", "waf", ["certificate"]) => list(state, call),
        ("GET", "waf", ["certificate", id]) => Ok(Answer::ok(state.render_waf(id, true).ok_or_else(absent)?)),
        ("PUT", "waf", ["certificate", id]) => update(state, call, id),
        ("DELETE", "waf", ["certificate", id]) => {
            let body = state.render_waf(id, false).ok_or_else(absent)?;
            if body["bind_host"].as_array().is_some_and(|hosts| !hosts.is_empty()) {
                return Err(Refusal::flat(400, "WAF.00014008", "certificate.is.bound.to.host"));
            }
            state.waf_certificates.remove(*id);
            Ok(Answer::ok(body))
        }
        ("POST", "waf", ["certificate", id, "apply-to-hosts"]) => apply(state, call, id),
        ("GET", "waf", ["instance"]) => Ok(Answer::ok(hosts(state, call, false))),
        ("GET", "premium-waf", ["host"]) => Ok(Answer::ok(hosts(state, call, true))),
        ("GET", "waf", ["instance", id]) => Ok(Answer::ok(host(state, id, false)?)),
        ("GET", "premium-waf", ["host", id]) => Ok(Answer::ok(host(state, id, true)?)),
        ("PATCH", "waf", ["instance", id]) => bind(state, call, id, false),
        ("PUT", "premium-waf", ["host", id]) => bind(state, call, id, true),
        _ => Err(Refusal::no_such_api()),
    }
}

fn is_name(name: &str) -> bool {
    (1..=256).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}

fn create(state: &mut State, call: &Call) -> Outcome {
    let name = call.text("/name");
    if !is_name(name) {
        return Err(bad("illegal.name"));
    }
    if state.waf_certificates.values().any(|known| known.name == name) {
        return Err(bad("certificate.name.already.exists"));
    }
    let material = Material::read(call.text("/content"), "", call.text("/key")).map_err(bad)?;
    let id = state.id();
    let uploaded = i64::try_from(call.now.unix_timestamp_nanos() / 1_000_000).unwrap_or_default();
    state.waf_certificates.insert(id.clone(), WafCertificate { name: name.to_owned(), material, uploaded });
    Ok(Answer::ok(state.render_waf(&id, true).ok_or_else(absent)?))
}

fn update(state: &mut State, call: &Call, id: &str) -> Outcome {
    let known = state.waf_certificates.get_mut(id).ok_or_else(absent)?;
    let name = call.text("/name");
    if !is_name(name) {
        return Err(bad("illegal.name"));
    }
    if !call.text("/content").is_empty() {
        known.material = Material::read(call.text("/content"), "", call.text("/key")).map_err(bad)?;
    }
    name.clone_into(&mut known.name);
    Ok(Answer::ok(state.render_waf(id, true).ok_or_else(absent)?))
}

fn list(state: &State, call: &Call) -> Outcome {
    let size = call.number("pagesize", 10);
    if !(1..=100).contains(&size) {
        return Err(bad("illegal.pagesize"));
    }
    let name = call.param("name");
    let mut found: Vec<(&String, &WafCertificate)> =
        state.waf_certificates.iter().filter(|(_, known)| name.is_none_or(|part| known.name.contains(part))).collect();
    found.sort_by_key(|(id, known)| (std::cmp::Reverse(known.uploaded), id.as_str()));
    let total = found.len();
    let skipped = call.number("page", 1).saturating_sub(1) * size;
    let items: Vec<_> =
        found.into_iter().skip(skipped).take(size).filter_map(|(id, _)| state.render_waf(id, false)).collect();
    Ok(Answer::ok(json!({ "total": total, "items": items })))
}

fn apply(state: &mut State, call: &Call, id: &str) -> Outcome {
    let names = state.waf_certificates.get(id).ok_or_else(absent)?.material.names.clone();
    let ids = |field: &str| -> Vec<String> {
        let list = call.body[field].as_array();
        list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let (cloud, premium) = (ids("cloud_host_ids"), ids("premium_host_ids"));
    if cloud.is_empty() && premium.is_empty() {
        return Err(bad("illegal.host.ids"));
    }
    let all: Vec<(String, bool)> =
        cloud.into_iter().map(|id| (id, false)).chain(premium.into_iter().map(|id| (id, true))).collect();
    for (host, is_premium) in &all {
        let known = state.waf_hosts.get(host).filter(|known| known.premium == *is_premium).ok_or_else(absent)?;
        check_fits(known, &names)?;
    }
    for (host, _) in &all {
        if let Some(known) = state.waf_hosts.get_mut(host) {
            known.certificate = Some(id.to_owned());
        }
    }
    Ok(Answer::ok(state.render_waf(id, false).ok_or_else(absent)?))
}

fn check_fits(host: &WafHost, names: &[String]) -> Result<(), Refusal> {
    if host.certificate.is_none() {
        return Err(bad("host.protocol.is.not.https"));
    }
    if !names.iter().any(|pattern| super::material::serves(pattern, &host.hostname)) {
        return Err(bad("certificate.does.not.match.host"));
    }
    Ok(())
}

fn bind(state: &mut State, call: &Call, id: &str, premium: bool) -> Outcome {
    let known = state.waf_hosts.get(id).filter(|known| known.premium == premium).ok_or_else(absent)?;
    let (certificate, name) = (call.text("/certificateid"), call.text("/certificatename"));
    if !certificate.is_empty() {
        let wanted = state.waf_certificates.get(certificate).ok_or_else(absent)?;
        if wanted.name != name {
            return Err(bad("certificate.name.does.not.match"));
        }
        check_fits(known, &wanted.material.names)?;
        if let Some(known) = state.waf_hosts.get_mut(id) {
            known.certificate = Some(certificate.to_owned());
        }
    }
    Ok(Answer::ok(host(state, id, premium)?))
}

fn host(state: &State, id: &str, premium: bool) -> Result<Value, Refusal> {
    let known = state.waf_hosts.get(id).filter(|known| known.premium == premium).ok_or_else(absent)?;
    let name = known.certificate.as_ref().and_then(|id| state.waf_certificates.get(id)).map(|found| &found.name);
    Ok(json!({
        "id": id,
        "hostid": id,
        "hostname": known.hostname,
        "protocol": if known.certificate.is_some() { "HTTPS" } else { "HTTP" },
        "certificateid": known.certificate,
        "certificatename": name,
        "protect_status": 1,
        "access_status": 1,
        "proxy": false,
        "tls": "TLS v1.2",
        "server": [],
    }))
}

fn hosts(state: &State, call: &Call, premium: bool) -> Value {
    let part = call.param("hostname");
    let items: Vec<_> = state
        .waf_hosts
        .iter()
        .filter(|(_, known)| known.premium == premium)
        .filter(|(_, known)| part.is_none_or(|part| known.hostname.contains(part)))
        .filter_map(|(id, _)| host(state, id, premium).ok())
        .collect();
    json!({ "total": items.len(), "items": items })
}

impl State {
    /// A certificate of the firewall; `whole` with content and key.
    fn render_waf(&self, id: &str, whole: bool) -> Option<Value> {
        let known = self.waf_certificates.get(id)?;
        let hosts: Vec<_> = self
            .waf_hosts
            .iter()
            .filter(|(_, host)| host.certificate.as_deref() == Some(id))
            .map(|(id, host)| {
                let kind = if host.premium { "premium" } else { "cloud" };
                json!({ "id": id, "hostname": host.hostname, "waf_type": kind })
            })
            .collect();
        let left = known.material.not_after - self.now();
        let status = if left.is_negative() { 1 } else { i32::from(left.whole_days() < 30) * 2 };
        let mut body = json!({
            "id": id,
            "name": known.name,
            "expire_time": known.material.not_after.unix_timestamp() * 1_000,
            "exp_status": status,
            "timestamp": known.uploaded,
            "bind_host": hosts,
        });
        if whole {
            body["content"] = known.material.certificate.as_str().into();
            body["key"] = (if self.shows_private_keys { known.material.key.as_str() } else { "" }).into();
        }
        Some(body)
    }
}
