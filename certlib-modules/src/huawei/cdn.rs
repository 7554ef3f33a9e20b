//! The content delivery network: the HTTPS section of a domain's configuration.
//!
//! The network takes certificates from the certificate manager by id. Only the HTTPS section is written, with the
//! neighbours of the certificate as they are. <https://support.huaweicloud.com/intl/en-us/api-cdn/UpdateDomainFullConfig.html>

use std::time::Duration;

use certlib_core::Context;
use certlib_core::error::{Error, Result, codes};
use reqwest::Method;
use serde::{Deserialize, Serialize};

use super::OPERATION;
use super::bound::{Bound, Held, Source};
use super::client::Cloud;
use super::config::Service;
use super::leaf;

/// The code of certificates from the certificate manager.
const FROM_SCM: i64 = 2;

/// The states in which a domain takes no configuration, besides `configuring`, which passes.
const NOT_ONLINE: [&str; 5] = ["offline", "checking", "check_failed", "configure_failed", "deleting"];

#[derive(Deserialize)]
struct Full {
    configs: Configs,
}

#[derive(Default, Deserialize)]
struct Configs {
    #[serde(default)]
    https: Option<Https>,
}

/// The HTTPS section, as it is read.
#[derive(Debug, Default, Deserialize)]
struct Https {
    #[serde(default)]
    https_status: Option<String>,
    #[serde(default)]
    certificate_source: Option<i64>,
    #[serde(default)]
    scm_certificate_id: Option<String>,
    #[serde(default)]
    certificate_name: Option<String>,
    #[serde(default)]
    certificate_value: Option<String>,
    #[serde(default)]
    http2_status: Option<String>,
    #[serde(default)]
    tls_version: Option<String>,
    #[serde(default)]
    ocsp_stapling_status: Option<String>,
}

#[derive(Serialize)]
struct Update<'a> {
    configs: Section<'a>,
}

#[derive(Serialize)]
struct Section<'a> {
    https: NewHttps<'a>,
}

/// The HTTPS section, as it is written.
#[derive(Serialize)]
struct NewHttps<'a> {
    https_status: &'a str,
    #[serde(flatten)]
    certificate: Option<FromScm<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http2_status: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ocsp_stapling_status: Option<&'a str>,
}

#[derive(Serialize)]
struct FromScm<'a> {
    certificate_type: &'a str,
    certificate_source: i64,
    scm_certificate_id: &'a str,
    certificate_name: &'a str,
}

#[derive(Deserialize)]
struct Domains {
    #[serde(default)]
    domains: Vec<Domain>,
}

#[derive(Deserialize)]
struct Domain {
    domain_name: String,
    domain_status: String,
}

impl Cloud<'_> {
    /// What the domain uses.
    pub(super) async fn cdn_bound(&self, cx: &Context, domain: &str) -> Result<Bound> {
        let https = self.cdn_https(cx, domain).await?;
        let source = if https.certificate_source == Some(FROM_SCM) { Source::Scm } else { Source::Own };
        let on = https.https_status.as_deref() == Some("on");
        let leaf = https.certificate_value.as_deref().and_then(leaf::first);
        let id = https.scm_certificate_id.as_deref().filter(|_| source == Source::Scm).unwrap_or_default();
        let name = https.certificate_name.as_deref().unwrap_or_default();
        let held = on.then(|| Held::new(id, name, leaf.as_ref()));
        Ok(Bound::Domain { https: on, source, held })
    }

    /// Checks that the domain exists and takes configuration, at least soon.
    ///
    /// # Errors
    /// `Validation` `not_found`, `domain_not_online`; as [`Cloud::send`].
    pub(super) async fn cdn_check(&self, cx: &Context, domain: &str) -> Result<()> {
        self.cdn_is_configuring(cx, domain).await.map(drop)
    }

    /// Makes the domain use a certificate of the certificate manager, or none.
    ///
    /// # Errors
    /// `IoTransient` `domain_busy` when the domain is taking another change for longer than configured; as
    /// [`Cloud::send`].
    pub(super) async fn cdn_point(&self, cx: &Context, domain: &str, held: Option<&Held>) -> Result<()> {
        self.cdn_await(cx, domain).await?;
        let now = self.cdn_https(cx, domain).await?;
        let https = NewHttps {
            https_status: if held.is_some() { "on" } else { "off" },
            certificate: held.map(|held| FromScm {
                certificate_type: "server",
                certificate_source: FROM_SCM,
                scm_certificate_id: &held.id,
                certificate_name: &held.name,
            }),
            http2_status: now.http2_status.as_deref(),
            tls_version: now.tls_version.as_deref(),
            ocsp_stapling_status: now.ocsp_stapling_status.as_deref(),
        };
        let body = Update { configs: Section { https } };
        let path = ["v1.1", "cdn", "configuration", "domains", domain, "configs"];
        self.send(cx, Service::Cdn, Method::PUT, &path, &self.enterprise_project(), Some(&body)).await.map(drop)
    }

    async fn cdn_https(&self, cx: &Context, domain: &str) -> Result<Https> {
        let path = ["v1.1", "cdn", "configuration", "domains", domain, "configs"];
        let answer = self.get(cx, Service::Cdn, &path, &self.enterprise_project()).await?;
        Ok(answer.json::<Full>()?.configs.https.unwrap_or_default())
    }

    /// Waits until the last change of the domain has taken effect.
    async fn cdn_await(&self, cx: &Context, domain: &str) -> Result<()> {
        let start = cx.clock.monotonic();
        let (limit, pause) = (self.config.busy_wait_ms, Duration::from_millis(self.config.busy_delay_ms));
        while self.cdn_is_configuring(cx, domain).await? {
            let waited = cx.clock.monotonic().saturating_sub(start);
            if waited + pause > Duration::from_millis(limit) {
                let why = "the domain is still taking its last change";
                let error = Error::transient(OPERATION, "domain_busy", why).with("domain", domain);
                return Err(error.with_retry_after(Some(Duration::from_secs(60))));
            }
            cx.check_cancelled(OPERATION)?;
            cx.clock.sleep(pause).await;
        }
        Ok(())
    }

    async fn cdn_is_configuring(&self, cx: &Context, domain: &str) -> Result<bool> {
        let mut query = vec![("domain_name", domain), ("page_size", "100"), ("page_number", "1")];
        query.extend(self.enterprise_project());
        let answer = self.get(cx, Service::Cdn, &["v1.0", "cdn", "domains"], &query).await?;
        let Domains { domains } = answer.json()?;
        // The filter is not exact.
        let Some(found) = domains.into_iter().find(|found| found.domain_name.eq_ignore_ascii_case(domain)) else {
            let why = "the account has no such domain in the delivery network, or not in this enterprise project";
            return Err(Error::validation(OPERATION, codes::NOT_FOUND, why).with("domain", domain));
        };
        if NOT_ONLINE.contains(&found.domain_status.as_str()) {
            let why = "the domain is not online, so its configuration cannot be changed";
            return Err(Error::validation(OPERATION, "domain_not_online", why)
                .with("domain", domain)
                .with("status", found.domain_status));
        }
        Ok(found.domain_status == "configuring")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_section_as_it_is_written() {
        let section = |certificate| NewHttps {
            https_status: "on",
            certificate,
            http2_status: Some("on"),
            tls_version: Some("TLSv1.2,TLSv1.3"),
            ocsp_stapling_status: None,
        };
        let from_scm = FromScm {
            certificate_type: "server",
            certificate_source: FROM_SCM,
            scm_certificate_id: "scs1",
            certificate_name: "n",
        };
        let expected = r#"{"https_status":"on","certificate_type":"server","certificate_source":2,"scm_certificate_id":"scs1","certificate_name":"n","http2_status":"on","tls_version":"TLSv1.2,TLSv1.3"}"#;
        assert_eq!(serde_json::to_string(&section(Some(from_scm))).unwrap(), expected);
        let expected = r#"{"https_status":"on","http2_status":"on","tls_version":"TLSv1.2,TLSv1.3"}"#;
        assert_eq!(serde_json::to_string(&section(None)).unwrap(), expected);
    }
}
