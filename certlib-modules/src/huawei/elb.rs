//! Load balancers: their store of certificates, and listeners that refer to it by id.
//!
//! <https://support.huaweicloud.com/intl/en-us/api-elb/CreateCertificate.html> and its neighbours.

use std::collections::BTreeMap;

use certlib_core::Context;
use certlib_core::error::{Error, ErrorClass, Result};
use reqwest::Method;
use serde::{Deserialize, Serialize};

use super::OPERATION;
use super::bound::{Bound, Held};
use super::client::{Cloud, NOTHING, refused};
use super::config::Service;
use super::leaf;
use super::stores::{Material, Removal, Store, Stored, Wanted};

/// How many certificates a page has at most.
const PAGE: usize = 500;
/// How many pages are read at most.
const MOST_PAGES: usize = 20;
/// The longest `domain` that is sent, in names and in bytes.
const DOMAIN_LIMITS: (usize, usize) = (100, 10_000);

/// Protocols whose listeners have certificates.
const TLS: [&str; 4] = ["HTTPS", "TERMINATED_HTTPS", "TLS", "QUIC"];

#[derive(Serialize)]
struct Create<'a> {
    certificate: New<'a>,
}

#[derive(Serialize)]
struct New<'a> {
    name: &'a str,
    r#type: &'a str,
    certificate: &'a str,
    private_key: &'a str,
    description: &'a str,
    #[serde(skip_serializing_if = "String::is_empty")]
    domain: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    scm_certificate_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    enterprise_project_id: Option<&'a str>,
}

#[derive(Deserialize)]
struct Created {
    certificate: Certificate,
}

#[derive(Deserialize)]
struct Certificates {
    certificates: Vec<Certificate>,
    #[serde(default)]
    page_info: Option<PageInfo>,
}

#[derive(Default, Deserialize)]
struct PageInfo {
    #[serde(default)]
    next_marker: Option<String>,
}

/// The private key may come along; it is not read.
#[derive(Deserialize)]
struct Certificate {
    id: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    certificate: Option<String>,
    #[serde(default)]
    created_at: Option<String>,
}

impl Certificate {
    fn held(&self) -> Held {
        let leaf = self.certificate.as_deref().and_then(leaf::first);
        Held::new(&self.id, self.name.as_deref().unwrap_or_default(), leaf.as_ref())
    }

    fn stored(self) -> Stored {
        Stored { store: Store::Elb, id: self.id, name: self.name.unwrap_or_default() }
    }
}

#[derive(Deserialize)]
struct Shown {
    listener: Listener,
}

#[derive(Deserialize)]
struct Listener {
    #[serde(default)]
    protocol: String,
    #[serde(default)]
    default_tls_container_ref: Option<String>,
    #[serde(default)]
    sni_container_refs: Option<Vec<String>>,
}

#[derive(Serialize)]
struct Update<'a> {
    listener: Refs<'a>,
}

/// The references of a listener that are to change; the others are left alone.
#[derive(Debug, Default, Serialize)]
pub(super) struct Refs<'a> {
    #[serde(skip_serializing_if = "Option::is_none", rename = "default_tls_container_ref")]
    pub(super) default: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none", rename = "sni_container_refs")]
    pub(super) sni: Option<Vec<&'a str>>,
}

impl Cloud<'_> {
    pub(super) async fn elb_create(&self, cx: &Context, material: &Material<'_>) -> Result<String> {
        let leaf = material.bundle.leaf();
        // Enterprise project 0 is the default one, which must not be named.
        let enterprise = self.location.enterprise_project_id.as_deref().filter(|id| *id != "0");
        let certificate = New {
            name: material.name,
            r#type: "server",
            certificate: &material.bundle.fullchain_pem(),
            private_key: material.key.expose(),
            description: "delivered by certlib",
            domain: domain(&leaf.names),
            scm_certificate_id: material.scm_id,
            enterprise_project_id: enterprise,
        };
        let path = ["v3", self.project(cx).await?, "elb", "certificates"];
        let answer = self.send(cx, Service::Elb, Method::POST, &path, &[], Some(&Create { certificate })).await?;
        Ok(answer.json::<Created>()?.certificate.id)
    }

    pub(super) async fn elb_find(&self, cx: &Context, wanted: &Wanted) -> Result<Vec<Stored>> {
        let mut found = self.elb_list(cx, &[("name", &wanted.name)]).await?;
        found.retain(|certificate| {
            certificate.name.as_ref() == Some(&wanted.name) && certificate.held().leaf == Some(wanted.leaf)
        });
        Ok(found.into_iter().map(Certificate::stored).collect())
    }

    pub(super) async fn elb_ours(&self, cx: &Context) -> Result<Vec<Stored>> {
        let mut ours = self.elb_list(cx, &[("type", "server")]).await?;
        ours.retain(|certificate| certificate.name.as_deref().is_some_and(|name| self.is_ours(name)));
        // Times of one format: as text they sort as they should.
        ours.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| b.id.cmp(&a.id)));
        Ok(ours.into_iter().map(Certificate::stored).collect())
    }

    pub(super) async fn elb_remove(&self, cx: &Context, id: &str) -> Result<Removal> {
        let path = ["v3", self.project(cx).await?, "elb", "certificates", id];
        let answer = self.ask(cx, Service::Elb, Method::DELETE, &path, &[], NOTHING).await?;
        match answer.status() {
            200..=299 | 404 => Ok(Removal::Gone),
            409 => Ok(Removal::InUse),
            _ => Err(refused(&answer, cx.clock.now())),
        }
    }

    /// What the listener refers to, with what the certificates are.
    ///
    /// # Errors
    /// `Validation` `listener_without_tls`; as [`Cloud::send`].
    pub(super) async fn elb_bound(&self, cx: &Context, listener: &str) -> Result<Bound> {
        let path = ["v3", self.project(cx).await?, "elb", "listeners", listener];
        let answer = self.get(cx, Service::Elb, &path, &[]).await?;
        let Shown { listener: found } = answer.json()?;
        if !TLS.contains(&found.protocol.as_str()) {
            let why = "the listener's protocol has no certificates; give the id of an HTTPS or TLS listener";
            return Err(Error::validation(OPERATION, "listener_without_tls", why).with("listener", listener));
        }
        let default = found.default_tls_container_ref.filter(|id| !id.is_empty());
        let sni = found.sni_container_refs.unwrap_or_default();
        let certificates = self.elb_certificates(cx, default.iter().chain(&sni).map(String::as_str)).await?;
        let held = |id: &String| certificates.get(id.as_str()).cloned().unwrap_or_else(|| Held::new(id, "", None));
        Ok(Bound::Listener { default: default.as_ref().map(held), sni: sni.iter().map(held).collect() })
    }

    /// Those of these certificates that exist, by id.
    pub(super) async fn elb_certificates(
        &self,
        cx: &Context,
        ids: impl Iterator<Item = &str> + Send,
    ) -> Result<BTreeMap<String, Held>> {
        let query: Vec<_> = ids.map(|id| ("id", id)).collect();
        if query.is_empty() {
            return Ok(BTreeMap::new());
        }
        let found = self.elb_list(cx, &query).await?;
        Ok(found.into_iter().map(|certificate| (certificate.id.clone(), certificate.held())).collect())
    }

    /// Makes the listener refer to other certificates.
    ///
    /// # Errors
    /// `IoTransient` `resource_busy` while the load balancer is taking another change; as [`Cloud::send`].
    pub(super) async fn elb_point(&self, cx: &Context, listener: &str, refs: Refs<'_>) -> Result<()> {
        let path = ["v3", self.project(cx).await?, "elb", "listeners", listener];
        let body = Update { listener: refs };
        let answer = self.ask(cx, Service::Elb, Method::PUT, &path, &[], Some(&body)).await?;
        match answer.status() {
            200..=299 => Ok(()),
            409 => {
                let why = "the load balancer is taking another change";
                Err(answer.error(ErrorClass::IoTransient, "resource_busy", why))
            }
            _ => Err(refused(&answer, cx.clock.now())),
        }
    }

    async fn elb_list(&self, cx: &Context, filter: &[(&str, &str)]) -> Result<Vec<Certificate>> {
        let path = ["v3", self.project(cx).await?, "elb", "certificates"];
        let limit = PAGE.to_string();
        let (mut all, mut marker) = (Vec::new(), None::<String>);
        for _ in 0..MOST_PAGES {
            let mut query = filter.to_vec();
            query.push(("limit", &limit));
            query.extend(marker.as_deref().map(|marker| ("marker", marker)));
            let answer = self.get(cx, Service::Elb, &path, &query).await?;
            let Certificates { certificates, page_info } = answer.json()?;
            let last = certificates.len() < PAGE;
            all.extend(certificates);
            marker = page_info.unwrap_or_default().next_marker.filter(|_| !last);
            if marker.is_none() {
                break;
            }
        }
        Ok(all)
    }
}

/// The names that a listener chooses the certificate by; empty when they are too many or none is a DNS name.
fn domain(names: &[String]) -> String {
    let names: Vec<&str> = names.iter().map(String::as_str).filter(|name| is_dns(name)).collect();
    let domain = names.join(",");
    let (most, longest) = DOMAIN_LIMITS;
    if names.len() <= most && domain.len() <= longest { domain } else { String::new() }
}

fn is_dns(name: &str) -> bool {
    name.parse::<std::net::IpAddr>().is_err() && !name.contains('@')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_dns_names_and_not_too_many() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(domain(&names(&["a.example", "10.0.0.1", "::1", "*.b.example"])), "a.example,*.b.example");
        let many: Vec<_> = (0..101).map(|number| format!("{number}.example")).collect();
        assert_eq!(domain(&many), "");
    }

    #[test]
    fn only_what_changes_is_sent() {
        let text = |refs: Refs<'_>| serde_json::to_string(&Update { listener: refs }).unwrap();
        let default = Refs { default: Some("a"), sni: None };
        assert_eq!(text(default), r#"{"listener":{"default_tls_container_ref":"a"}}"#);
        let sni = Refs { default: None, sni: Some(vec![]) };
        assert_eq!(text(sni), r#"{"listener":{"sni_container_refs":[]}}"#);
    }
}
