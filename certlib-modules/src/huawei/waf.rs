//! The web application firewall: its store of certificates, and the hosts they are bound to.
//!
//! <https://support.huaweicloud.com/intl/en-us/api-waf/CreateCertificate.html> and its neighbours.

use certlib_core::Context;
use certlib_core::error::{Error, Result, codes};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::OPERATION;
use super::bound::{Bound, Held};
use super::client::{Cloud, NOTHING, refused};
use super::config::{Service, WafMode};
use super::leaf;
use super::stores::{Material, Removal, Store, Stored, Wanted};

/// How many certificates a page has at most.
const PAGE: usize = 100;
/// How many pages are read at most.
const MOST_PAGES: usize = 20;

#[derive(Serialize)]
struct New<'a> {
    name: &'a str,
    content: &'a str,
    key: &'a str,
}

/// The private key may come along; it is not read.
#[derive(Deserialize)]
struct Certificate {
    id: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    content: Option<String>,
    #[serde(default)]
    timestamp: i64,
    #[serde(default)]
    bind_host: Option<Vec<Value>>,
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    items: Vec<Certificate>,
}

#[derive(Deserialize)]
struct Host {
    #[serde(default)]
    hostname: String,
    #[serde(default)]
    certificateid: Option<String>,
    #[serde(default)]
    certificatename: Option<String>,
}

#[derive(Serialize)]
struct Apply<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    cloud_host_ids: Option<[&'a str; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    premium_host_ids: Option<[&'a str; 1]>,
}

impl Cloud<'_> {
    pub(super) async fn waf_create(&self, cx: &Context, material: &Material<'_>) -> Result<String> {
        let body = New { name: material.name, content: &material.bundle.fullchain_pem(), key: material.key.expose() };
        let path = ["v1", self.project(cx).await?, "waf", "certificate"];
        let query = self.enterprise_project();
        let answer = self.send(cx, Service::Waf, Method::POST, &path, &query, Some(&body)).await?;
        Ok(answer.json::<Certificate>()?.id)
    }

    pub(super) async fn waf_find(&self, cx: &Context, wanted: &Wanted) -> Result<Vec<Stored>> {
        let mut found = Vec::new();
        for certificate in self.waf_list(cx, Some(&wanted.name)).await? {
            if certificate.name != wanted.name {
                continue;
            }
            let held = self.waf_certificate(cx, &certificate.id).await?;
            if held.is_some_and(|held| held.leaf == Some(wanted.leaf)) {
                found.push(Stored { store: Store::Waf, id: certificate.id, name: certificate.name });
            }
        }
        Ok(found)
    }

    pub(super) async fn waf_ours(&self, cx: &Context) -> Result<Vec<Stored>> {
        let mut ours = self.waf_list(cx, None).await?;
        ours.retain(|certificate| self.is_ours(&certificate.name));
        ours.sort_by(|a, b| b.timestamp.cmp(&a.timestamp).then_with(|| b.id.cmp(&a.id)));
        let stored =
            |certificate: Certificate| Stored { store: Store::Waf, id: certificate.id, name: certificate.name };
        Ok(ours.into_iter().map(stored).collect())
    }

    /// The certificate with this id; `None` when there is none.
    pub(super) async fn waf_certificate(&self, cx: &Context, id: &str) -> Result<Option<Held>> {
        let certificate = self.waf_show(cx, id).await?;
        Ok(certificate.map(|Certificate { id, name, content, .. }| {
            Held::new(&id, &name, content.as_deref().and_then(leaf::first).as_ref())
        }))
    }

    pub(super) async fn waf_remove(&self, cx: &Context, id: &str) -> Result<Removal> {
        match self.waf_show(cx, id).await? {
            None => return Ok(Removal::Gone),
            Some(certificate) if certificate.bind_host.as_ref().is_some_and(|hosts| !hosts.is_empty()) => {
                return Ok(Removal::InUse);
            }
            Some(_) => {}
        }
        let path = ["v1", self.project(cx).await?, "waf", "certificate", id];
        let answer = self.ask(cx, Service::Waf, Method::DELETE, &path, &self.enterprise_project(), NOTHING).await?;
        match answer.status() {
            200..=299 | 404 => Ok(Removal::Gone),
            409 => Ok(Removal::InUse),
            _ => Err(refused(&answer, cx.clock.now())),
        }
    }

    /// What the host uses.
    ///
    /// # Errors
    /// `Validation` `host_without_tls`; as [`Cloud::send`].
    pub(super) async fn waf_bound(&self, cx: &Context, host: &str, mode: WafMode) -> Result<Bound> {
        let project = self.project(cx).await?;
        let path = match mode {
            WafMode::Cloud => ["v1", project, "waf", "instance", host],
            WafMode::Premium => ["v1", project, "premium-waf", "host", host],
        };
        let answer = self.get(cx, Service::Waf, &path, &self.enterprise_project()).await?;
        let found: Host = answer.json()?;
        let Some(id) = found.certificateid.filter(|id| !id.is_empty()) else {
            let why =
                "the host has no certificate; give it HTTPS as a protocol, and any certificate, in the console first";
            return Err(Error::validation(OPERATION, "host_without_tls", why).with("host", host));
        };
        let held = self.waf_certificate(cx, &id).await?;
        let unknown = || Held::new(&id, found.certificatename.as_deref().unwrap_or_default(), None);
        Ok(Bound::Host { hostname: found.hostname, held: Some(held.unwrap_or_else(unknown)) })
    }

    /// Makes the host use another certificate.
    pub(super) async fn waf_apply(&self, cx: &Context, host: &str, mode: WafMode, certificate: &str) -> Result<()> {
        let body = match mode {
            WafMode::Cloud => Apply { cloud_host_ids: Some([host]), premium_host_ids: None },
            WafMode::Premium => Apply { cloud_host_ids: None, premium_host_ids: Some([host]) },
        };
        let path = ["v1", self.project(cx).await?, "waf", "certificate", certificate, "apply-to-hosts"];
        let query = self.enterprise_project();
        self.send(cx, Service::Waf, Method::POST, &path, &query, Some(&body)).await.map(drop)
    }

    async fn waf_show(&self, cx: &Context, id: &str) -> Result<Option<Certificate>> {
        let path = ["v1", self.project(cx).await?, "waf", "certificate", id];
        let answer = self.ask(cx, Service::Waf, Method::GET, &path, &self.enterprise_project(), NOTHING).await?;
        if answer.is_success() {
            return Ok(Some(answer.json()?));
        }
        let error = refused(&answer, cx.clock.now());
        if error.code() == codes::NOT_FOUND { Ok(None) } else { Err(error) }
    }

    async fn waf_list(&self, cx: &Context, name: Option<&str>) -> Result<Vec<Certificate>> {
        let path = ["v1", self.project(cx).await?, "waf", "certificate"];
        let size = PAGE.to_string();
        let mut all = Vec::new();
        for page in 1..=MOST_PAGES {
            let page = page.to_string();
            let mut query = self.enterprise_project();
            query.extend([("page", page.as_str()), ("pagesize", size.as_str())]);
            query.extend(name.map(|name| ("name", name)));
            let Page { items } = self.get(cx, Service::Waf, &path, &query).await?.json()?;
            let last = items.len() < PAGE;
            all.extend(items);
            if last {
                break;
            }
        }
        Ok(all)
    }
}
