//! The delivery network: domains and their HTTPS settings.

use std::net::SocketAddr;

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{
    answer::{Answer, Outcome, Refusal},
    call::Call,
    material::{Material, serves},
    scm::ScmCertificate,
    state::State,
};

/// An accelerated domain. It serves TLS for real.
#[derive(Debug)]
pub(super) struct CdnDomain {
    pub(super) id: String,
    pub(super) certificate: Option<CdnCertificate>,
    /// `online`, or another state that stays.
    pub(super) status: String,
    /// Until when it is taking its last change.
    pub(super) settled: OffsetDateTime,
    pub(super) http2: String,
    pub(super) tls_version: String,
    pub(super) ocsp_stapling: String,
    pub(super) force_redirect: i64,
    pub(super) address: SocketAddr,
}

/// A domain's certificate: a copy, with where it came from.
#[derive(Debug, Clone)]
pub(super) struct CdnCertificate {
    pub(super) name: String,
    /// Its id in the certificate manager, or none.
    pub(super) scm_id: Option<String>,
    pub(super) material: Material,
}

impl CdnDomain {
    pub(super) fn uses_scm(&self, id: &str) -> bool {
        self.certificate.as_ref().is_some_and(|found| found.scm_id.as_deref() == Some(id))
    }

    fn state(&self, now: OffsetDateTime) -> &str {
        if self.status == "online" && self.settled > now { "configuring" } else { &self.status }
    }
}

fn bad(message: &str) -> Refusal {
    Refusal::nested(400, "CDN.0001", message)
}

fn absent(domain: &str) -> Refusal {
    Refusal::nested(404, "CDN.0170", format!("the domain {domain} does not exist"))
}

pub(super) fn handle(state: &mut State, call: &Call, path: &[&str]) -> Outcome {
    match (call.method.as_str(), path) {
        ("GET", ["v1.0", _, "domains"]) => {
            let part = call.param("domain_name");
            let found: Vec<_> = state
                .cdn_domains
                .iter()
                .filter(|(name, _)| part.is_none_or(|part| name.contains(part)))
                .map(|(name, domain)| {
                    json!({
                        "id": domain.id,
                        "domain_name": name,
                        "domain_status": domain.state(call.now),
                        "https_status": i32::from(domain.certificate.is_some()),
                        "business_type": "web",
                        "cname": format!("{name}.cdnhwc1.com"),
                    })
                })
                .collect();
            Ok(Answer::ok(json!({ "total": found.len(), "domains": found })))
        }
        ("GET", ["v1.1", _, "configuration", "domains", name, "configs"]) => {
            let domain = state.cdn_domains.get(*name).ok_or_else(|| absent(name))?;
            Ok(Answer::ok(
                json!({ "configs": { "https": section(domain), "business_type": "web", "ipv6_accelerate": 0 } }),
            ))
        }
        ("PUT", ["v1.1", _, "configuration", "domains", name, "configs"]) => configure(state, call, name),
        ("PUT", ["v1.0", _, "domains", "config-https-info"]) => configure_many(state, call),
        ("GET", ["v1.0", _, "domains", "https-certificate-info"]) => {
            let part = call.param("domain_name");
            let found: Vec<_> = state
                .cdn_domains
                .iter()
                .filter(|(name, _)| part.is_none_or(|part| name.contains(part)))
                .filter_map(|(name, domain)| summary(name, domain))
                .collect();
            Ok(Answer::ok(json!({ "total": found.len(), "https": found })))
        }
        _ => Err(Refusal::no_such_api()),
    }
}

fn section(domain: &CdnDomain) -> Value {
    let common = json!({
        "https_status": "off",
        "http2_status": domain.http2,
        "tls_version": domain.tls_version,
        "ocsp_stapling_status": domain.ocsp_stapling,
    });
    let Some(certificate) = &domain.certificate else { return common };
    let mut body = common;
    body["https_status"] = "on".into();
    body["certificate_type"] = "server".into();
    body["certificate_source"] = if certificate.scm_id.is_some() { 2 } else { 0 }.into();
    body["scm_certificate_id"] = certificate.scm_id.clone().into();
    body["certificate_name"] = certificate.name.clone().into();
    body["certificate_value"] = certificate.material.certificate.clone().into();
    body["expire_time"] = (certificate.material.not_after.unix_timestamp() * 1_000).into();
    body
}

fn summary(name: &str, domain: &CdnDomain) -> Option<Value> {
    let certificate = domain.certificate.as_ref()?;
    Some(json!({
        "domain_id": domain.id,
        "domain_name": name,
        "cert_name": certificate.name,
        "certificate": certificate.material.certificate,
        "certificate_type": if certificate.scm_id.is_some() { 2 } else { 0 },
        "expiration_time": certificate.material.not_after.unix_timestamp() * 1_000,
        "https_status": 2,
        "force_redirect_https": domain.force_redirect,
        "http2": i32::from(domain.http2 == "on"),
    }))
}

/// The certificate that a request names or brings.
fn certificate(
    state: &State,
    source: i64,
    scm_id: &str,
    name: &str,
    pem: (&str, &str),
) -> Result<CdnCertificate, Refusal> {
    if !(3..=64).contains(&name.len()) {
        return Err(bad("the name of the certificate must have 3 to 64 characters"));
    }
    if source == 2 {
        let known = state.scm.iter().find(|known| known.id == scm_id);
        let known = known.ok_or_else(|| bad("scm_certificate_id is not the id of a certificate"))?;
        let material = known.material.clone();
        return Ok(CdnCertificate { name: name.to_owned(), scm_id: Some(scm_id.to_owned()), material });
    }
    let material = Material::read(pem.0, "", pem.1).map_err(bad)?;
    Ok(CdnCertificate { name: name.to_owned(), scm_id: None, material })
}

fn configure(state: &mut State, call: &Call, name: &str) -> Outcome {
    let Some(https) = call.body.pointer("/configs/https") else { return Ok(Answer::empty(204)) };
    let text = |field: &str| https[field].as_str().unwrap_or_default();
    let certificate = match text("https_status") {
        "on" => {
            let source = https["certificate_source"].as_i64().unwrap_or(0);
            let pem = (text("certificate_value"), text("private_key"));
            Some(certificate(state, source, text("scm_certificate_id"), text("certificate_name"), pem)?)
        }
        "off" => None,
        _ => return Err(bad("https_status must be on or off")),
    };
    state.set_https(name, certificate, call.now)?;
    let domain = state.cdn_domains.get_mut(name).ok_or_else(|| absent(name))?;
    // What a request leaves out falls back to its default.
    let or = |field: &str, default: &str| https[field].as_str().unwrap_or(default).to_owned();
    domain.http2 = or("http2_status", "off");
    domain.tls_version = or("tls_version", "TLSv1.1,TLSv1.2,TLSv1.3");
    domain.ocsp_stapling = or("ocsp_stapling_status", "off");
    Ok(Answer::empty(204))
}

fn configure_many(state: &mut State, call: &Call) -> Outcome {
    let https = call.body["https"].clone();
    let text = |field: &str| https[field].as_str().unwrap_or_default();
    let names: Vec<&str> = text("domain_name").split(',').filter(|name| !name.is_empty()).collect();
    if !(1..=50).contains(&names.len()) {
        return Err(bad("1 to 50 domains"));
    }
    let certificate = match https["https_switch"].as_i64() {
        Some(1) => {
            let source = https["certificate_type"].as_i64().unwrap_or(0);
            let pem = (text("certificate"), text("private_key"));
            Some(certificate(state, source, text("scm_certificate_id"), text("cert_name"), pem)?)
        }
        Some(0) => None,
        _ => return Err(bad("https_switch must be 0 or 1")),
    };
    let mut results = Vec::new();
    for name in &names {
        match state.set_https(name, certificate.clone(), call.now) {
            Ok(()) => results.push(json!({ "domain_name": name, "status": "success", "reason": "" })),
            Err(refusal) => results.push(json!({ "domain_name": name, "status": "fail", "reason": refusal.message })),
        }
        if let Some(domain) = state.cdn_domains.get_mut(*name) {
            domain.http2 = if https["http2"] == 1 { "on" } else { "off" }.to_owned();
            domain.force_redirect = https["force_redirect_https"].as_i64().unwrap_or(0);
        }
    }
    let failed = results.iter().any(|result| result["status"] == "fail");
    // A failure is told inside an answer that is a success.
    let status = if failed { "fail" } else { "success" };
    Ok(Answer::ok(
        json!({ "https": { "domain_name": text("domain_name"), "https_switch": https["https_switch"] }, "status": status, "result": results }),
    ))
}

impl State {
    fn set_https(
        &mut self,
        name: &str,
        certificate: Option<CdnCertificate>,
        now: OffsetDateTime,
    ) -> Result<(), Refusal> {
        let settles = self.cdn_settles;
        let domain = self.cdn_domains.get_mut(name).ok_or_else(|| absent(name))?;
        match domain.state(now) {
            "online" => {}
            "configuring" => return Err(Refusal::nested(400, "CDN.0163", "the domain is being configured")),
            state => return Err(bad(&format!("the domain is {state}"))),
        }
        let fits = |found: &CdnCertificate| {
            found.material.names.iter().any(|pattern| pattern == name || serves(pattern, name))
        };
        if certificate.as_ref().is_some_and(|found| !fits(found)) {
            return Err(bad("the certificate is not for this domain"));
        }
        domain.certificate = certificate;
        domain.settled = now + settles;
        Ok(())
    }

    /// What the certificate manager does for a domain; a code when it cannot.
    pub(super) fn deploy_on_domain(&mut self, name: &str, certificate: &ScmCertificate) -> Result<(), String> {
        let copy = CdnCertificate {
            name: certificate.name.clone(),
            scm_id: Some(certificate.id.clone()),
            material: certificate.material.clone(),
        };
        let now = self.now();
        self.set_https(name, Some(copy), now).map_err(|refusal| refusal.code)
    }
}
