//! Where certificates are kept: the certificate manager, and the stores of load balancers and of the firewall.
//!
//! A certificate of ours is told by its name: prefix, target, and the beginning of its fingerprint. That makes it
//! findable after an answer was lost, and removable by nobody but the target that made it.

use aws_lc_rs::digest::{SHA256, digest};
use certlib_core::error::{Error, Result};
use certlib_core::secret::SecretString;
use certlib_core::{CertificateBundle, Context, Fingerprint};
use serde::{Deserialize, Serialize};

use super::client::Cloud;
use super::config::Resource;
use super::leaf;
use super::{OPERATION, hex};

/// A place where certificates are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Store {
    /// The certificate manager.
    Scm,
    /// That of load balancers.
    Elb,
    /// That of the web application firewall.
    Waf,
}

impl Store {
    /// Its name, for people.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Scm => "SCM",
            Self::Elb => "ELB",
            Self::Waf => "WAF",
        }
    }

    /// The longest leaf, chain and key that it takes, in bytes of PEM; `None` where leaf and chain count together.
    fn limits(self) -> (usize, Option<usize>, usize) {
        match self {
            Self::Scm => (4_096, Some(8_192), 4_096),
            Self::Elb => (20_000, None, 8_192),
            Self::Waf => (65_536, None, 8_192),
        }
    }
}

/// A certificate that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Stored {
    pub(super) store: Store,
    pub(super) id: String,
    pub(super) name: String,
}

/// What a certificate is found by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Wanted {
    /// Its name.
    pub(super) name: String,
    /// SHA-256 of its leaf.
    pub(super) leaf: Fingerprint,
    /// SHA-1 of its leaf, lower-case hex.
    pub(super) sha1: String,
}

/// What is put into a store.
pub(super) struct Material<'a> {
    pub(super) name: &'a str,
    pub(super) bundle: &'a CertificateBundle,
    pub(super) key: &'a SecretString,
    /// The id that the certificate manager gave it.
    pub(super) scm_id: Option<&'a str>,
}

/// What became of a certificate that was to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Removal {
    /// It is gone.
    Gone,
    /// Something uses it, so it stays.
    InUse,
}

impl Cloud<'_> {
    /// The stores that the certificate goes to, in order.
    pub(super) fn stores(&self) -> Vec<Store> {
        let own = match self.location.resource {
            Resource::Scm {} | Resource::Cdn { .. } => return vec![Store::Scm],
            Resource::Elb { .. } => Store::Elb,
            Resource::Waf { .. } => Store::Waf,
        };
        if self.config.scm_import { vec![Store::Scm, own] } else { vec![own] }
    }

    /// What the names of this target's certificates begin with.
    pub(super) fn marker(&self) -> String {
        let target = hex(digest(&SHA256, self.target_id.as_bytes()).as_ref());
        format!("{}-{}-", self.config.name_prefix, &target[..8])
    }

    /// What the certificate of `bundle` is found by.
    pub(super) fn wanted(&self, bundle: &CertificateBundle) -> Wanted {
        let leaf = bundle.fingerprint();
        let name = format!("{}{}", self.marker(), &leaf.to_string()[..16]);
        Wanted { name, leaf, sha1: leaf::sha1(bundle) }
    }

    /// Whether a name is one that this target gives.
    pub(super) fn is_ours(&self, name: &str) -> bool {
        name.strip_prefix(&self.marker()).is_some_and(|rest| {
            rest.len() == 16 && rest.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        })
    }

    /// Certificates of this name and content. More than one after a request that arrived twice.
    pub(super) async fn find(&self, cx: &Context, store: Store, wanted: &Wanted) -> Result<Vec<Stored>> {
        match store {
            Store::Scm => self.scm_find(cx, wanted).await,
            Store::Elb => self.elb_find(cx, wanted).await,
            Store::Waf => self.waf_find(cx, wanted).await,
        }
    }

    /// All certificates that this target put into `store`, newest first.
    pub(super) async fn ours(&self, cx: &Context, store: Store) -> Result<Vec<Stored>> {
        match store {
            Store::Scm => self.scm_ours(cx).await,
            Store::Elb => self.elb_ours(cx).await,
            Store::Waf => self.waf_ours(cx).await,
        }
    }

    /// Puts a certificate into `store`; its id.
    pub(super) async fn create(&self, cx: &Context, store: Store, material: &Material<'_>) -> Result<String> {
        match store {
            Store::Scm => self.scm_import(cx, material).await,
            Store::Elb => self.elb_create(cx, material).await,
            Store::Waf => self.waf_create(cx, material).await,
        }
    }

    /// Removes a certificate unless something uses it. One that is gone already is fine.
    pub(super) async fn remove(&self, cx: &Context, store: Store, id: &str) -> Result<Removal> {
        match store {
            Store::Scm => self.scm_remove(cx, id).await,
            Store::Elb => self.elb_remove(cx, id).await,
            Store::Waf => self.waf_remove(cx, id).await,
        }
    }
}

/// Checks that every store takes a certificate and key of this length.
///
/// # Errors
/// `Validation` `certificate_too_long`, `key_missing`.
pub(super) fn check_sizes(stores: &[Store], bundle: &CertificateBundle) -> Result<()> {
    let key = bundle.key_pem()?.expose().len();
    let (leaf, chain) = (bundle.leaf_pem().len(), bundle.chain_pem().len());
    for store in stores {
        let (leaf_limit, chain_limit, key_limit) = store.limits();
        let checks = match chain_limit {
            Some(limit) => [("certificate", leaf, leaf_limit), ("chain", chain, limit), ("key", key, key_limit)],
            None => [("certificate and chain", leaf + chain, leaf_limit), ("chain", 0, 0), ("key", key, key_limit)],
        };
        if let Some((part, length, limit)) = checks.into_iter().find(|(_, length, limit)| length > limit) {
            let why =
                "a part of the certificate is longer than the service takes; leave out the root, or use a shorter key";
            return Err(Error::validation(OPERATION, "certificate_too_long", why)
                .with("store", store.as_str())
                .with("part", part)
                .with("bytes", length)
                .with("limit", limit));
        }
    }
    Ok(())
}
