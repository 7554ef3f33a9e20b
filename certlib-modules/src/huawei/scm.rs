//! The certificate manager (CCM, "SCM"): a global store of immutable certificates.
//!
//! <https://support.huaweicloud.com/intl/en-us/api-ccm/ImportCertificate.html> and its neighbours.

use certlib_core::error::{Result, codes};
use certlib_core::{Context, Error};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use time::PrimitiveDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use super::client::{Cloud, NOTHING, refused};
use super::config::Service;
use super::leaf;
use super::stores::{Material, Removal, Store, Stored, Wanted};

/// How many certificates a page has: 10, 20 and 50 are possible.
const PAGE: usize = 50;
/// How many pages are read at most.
const MOST_PAGES: usize = 40;

/// `2027-03-01 12:00:00.0`; what follows the seconds is not looked at.
const TIME: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");

#[derive(Serialize)]
struct Import<'a> {
    name: &'a str,
    certificate: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    certificate_chain: &'a str,
    private_key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    enterprise_project_id: Option<&'a str>,
}

#[derive(Deserialize)]
struct Imported {
    certificate_id: String,
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    certificates: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    id: String,
    name: String,
}

/// A certificate in detail.
#[derive(Deserialize)]
pub(super) struct Shown {
    #[serde(default)]
    fingerprint: Option<String>,
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    not_after: Option<String>,
}

impl Shown {
    /// Whether it is the certificate with this SHA-1.
    pub(super) fn is(&self, sha1: &str) -> bool {
        self.fingerprint.as_deref().is_some_and(|shown| leaf::is_sha1(shown, sha1))
    }

    /// Whether services may use it.
    pub(super) fn is_usable(&self) -> bool {
        matches!(self.status.as_deref(), Some("UPLOAD" | "ISSUED") | None)
    }

    /// When it expires, in seconds since 1970, if that can be read.
    pub(super) fn expires(&self) -> Option<i64> {
        let seconds = self.not_after.as_deref()?.get(..19)?;
        PrimitiveDateTime::parse(seconds, TIME).ok().map(|time| time.assume_utc().unix_timestamp())
    }
}

#[derive(Serialize)]
struct Where<'a> {
    certificate_ids: [&'a str; 1],
    service_names: [&'a str; 1],
}

#[derive(Deserialize)]
struct Uses {
    #[serde(default)]
    results: Vec<Use>,
}

#[derive(Deserialize)]
struct Use {
    #[serde(default)]
    certificate_id: String,
    #[serde(default)]
    total_num: u64,
}

impl Cloud<'_> {
    /// Imports a certificate. `duplicate_check` is left out: documentation disagrees on what it means, and whoever calls
    /// has looked.
    pub(super) async fn scm_import(&self, cx: &Context, material: &Material<'_>) -> Result<String> {
        let body = Import {
            name: material.name,
            certificate: &material.bundle.leaf_pem(),
            certificate_chain: &material.bundle.chain_pem(),
            private_key: material.key.expose(),
            enterprise_project_id: self.location.enterprise_project_id.as_deref(),
        };
        let path = ["v3", "scm", "certificates", "import"];
        let answer = self.send(cx, Service::Scm, Method::POST, &path, &[], Some(&body)).await?;
        Ok(answer.json::<Imported>()?.certificate_id)
    }

    /// The certificate with this id; `None` when there is none.
    pub(super) async fn scm_show(&self, cx: &Context, id: &str) -> Result<Option<Shown>> {
        let path = ["v3", "scm", "certificates", id];
        let answer = self.ask(cx, Service::Scm, Method::GET, &path, &[], NOTHING).await?;
        if answer.is_success() {
            return Ok(Some(answer.json()?));
        }
        let error = refused(&answer, cx.clock.now());
        if is_absent(&error) { Ok(None) } else { Err(error) }
    }

    pub(super) async fn scm_find(&self, cx: &Context, wanted: &Wanted) -> Result<Vec<Stored>> {
        let mut found = Vec::new();
        for stored in self.scm_list(cx, &wanted.name).await? {
            if stored.name == wanted.name
                && self.scm_show(cx, &stored.id).await?.is_some_and(|shown| shown.is(&wanted.sha1))
            {
                found.push(stored);
            }
        }
        Ok(found)
    }

    pub(super) async fn scm_ours(&self, cx: &Context) -> Result<Vec<Stored>> {
        let mut ours = self.scm_list(cx, &self.marker()).await?;
        ours.retain(|stored| self.is_ours(&stored.name));
        Ok(ours)
    }

    pub(super) async fn scm_remove(&self, cx: &Context, id: &str) -> Result<Removal> {
        if self.scm_is_used(cx, id).await? {
            return Ok(Removal::InUse);
        }
        let path = ["v3", "scm", "certificates", id];
        let answer = self.ask(cx, Service::Scm, Method::DELETE, &path, &[], NOTHING).await?;
        if answer.is_success() {
            return Ok(Removal::Gone);
        }
        let error = refused(&answer, cx.clock.now());
        if is_absent(&error) { Ok(Removal::Gone) } else { Err(error) }
    }

    /// Whether any service uses it.
    async fn scm_is_used(&self, cx: &Context, id: &str) -> Result<bool> {
        let body = Where { certificate_ids: [id], service_names: ["ALL"] };
        let path = ["v3", "scm", "deployed-resources"];
        let answer = self.ask(cx, Service::Scm, Method::POST, &path, &[], Some(&body)).await?;
        if !answer.is_success() {
            let error = refused(&answer, cx.clock.now()).with_effect(certlib_core::Effect::None);
            // Not any 404: a gateway that does not know this path says nothing about the certificate.
            return if says_absent(&error) { Ok(false) } else { Err(error) };
        }
        let uses: Uses = answer.json()?;
        Ok(uses.results.iter().any(|used| used.certificate_id == id && used.total_num > 0))
    }

    /// Certificates whose name or domain has `text` in it, most recently changed first.
    async fn scm_list(&self, cx: &Context, text: &str) -> Result<Vec<Stored>> {
        let mut all = Vec::new();
        for page in 0..MOST_PAGES {
            let (limit, offset) = (PAGE.to_string(), (page * PAGE).to_string());
            let mut query = vec![
                ("limit", limit.as_str()),
                ("offset", offset.as_str()),
                ("sort_key", "certUpdateTime"),
                ("sort_dir", "DESC"),
                ("content", text),
            ];
            query.extend(self.enterprise_project());
            let answer = self.get(cx, Service::Scm, &["v3", "scm", "certificates"], &query).await?;
            let Page { certificates } = answer.json()?;
            let last = certificates.len() < PAGE;
            all.extend(certificates.into_iter().map(|Listed { id, name }| Stored { store: Store::Scm, id, name }));
            if last {
                break;
            }
        }
        Ok(all)
    }
}

/// The certificate manager says so with `404`, or with a code of its own.
fn is_absent(error: &Error) -> bool {
    error.code() == codes::NOT_FOUND || says_absent(error)
}

/// The certificate manager itself says that there is no such certificate.
fn says_absent(error: &Error) -> bool {
    error.context().any(|pair| pair == ("vendor_code", "SCM.0008"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_a_certificate() {
        let shown = |text: &str| serde_json::from_str::<Shown>(text).unwrap();
        let full =
            shown(r#"{"fingerprint": "AA:BB", "status": "UPLOAD", "not_after": "2027-03-01 12:00:00.0", "name": "x"}"#);
        assert!(full.is("aabb") && !full.is("aabbcc") && full.is_usable());
        assert_eq!(full.expires(), Some(time::macros::datetime!(2027-03-01 12:00 UTC).unix_timestamp()));
        let bare = shown(r#"{"status": "REVOKED", "not_after": "soon"}"#);
        assert!(!bare.is("") && !bare.is_usable() && bare.expires().is_none());
    }
}
