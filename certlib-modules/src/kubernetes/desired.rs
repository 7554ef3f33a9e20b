//! The Secret as it should be.

use std::collections::{BTreeMap, BTreeSet};

use certlib_core::bundle::CertificateBundle;
use certlib_core::error::{Error, Result};
use certlib_core::secret::{Secret, SecretBytes};
use certlib_core::{Context, Fingerprint};
use kube::core::params::PatchParams;
use serde::Serialize;
use time::format_description::well_known::Rfc3339;

use super::cluster::{Place, Version};
use super::config::{CERTIFICATE, Content, ISSUERS, KEY, KubernetesConfig};
use super::found::{Base64, Found, View};
use super::{MARKER_FINGERPRINT, MARKER_ID, MARKER_NOT_AFTER, OPERATION, sha256};

/// Fields to be applied, and by whom.
#[derive(Debug)]
pub(super) struct Fields {
    pub(super) manager: String,
    pub(super) secret_type: String,
    pub(super) data: BTreeMap<String, Base64>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    api_version: &'static str,
    kind: &'static str,
    #[serde(rename = "type")]
    secret_type: &'a str,
    metadata: Metadata<'a>,
    data: &'a BTreeMap<String, Base64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    name: &'a str,
    namespace: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_version: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
}

impl Fields {
    /// What `bundle` and the settings ask for.
    ///
    /// # Errors
    /// `Validation`: `key_missing`, `chain_missing`.
    pub(super) fn new(cx: &Context, config: &KubernetesConfig, bundle: &CertificateBundle) -> Result<Self> {
        let key = bundle.key_pem()?;
        let content = |key_name: &str, content: Content| -> Result<(String, Base64)> {
            if content == Content::Chain && bundle.chain_pem().is_empty() {
                let why = "the certificate has no issuers to deliver: they are not part of its chain";
                return Err(Error::validation(OPERATION, "chain_missing", why).with("key", key_name));
            }
            let bytes = match content {
                Content::Leaf => bundle.leaf_pem().into_bytes(),
                Content::Chain => bundle.chain_pem().into_bytes(),
                Content::Fullchain => bundle.fullchain_pem().into_bytes(),
                Content::Key => key.expose().clone().into_bytes(),
                Content::Combined => [bundle.fullchain_pem().as_str(), key.expose()].concat().into_bytes(),
            };
            Ok((key_name.to_owned(), Base64(Secret::new(bytes))))
        };
        let always = [(CERTIFICATE, Content::Fullchain), (KEY, Content::Key)];
        let issuers = config.ca_crt.then_some((ISSUERS, Content::Chain));
        let extra = config.extra_keys.iter().map(|(key, content)| (key.as_str(), *content));
        let data = always.into_iter().chain(issuers).chain(extra).map(|(key, kind)| content(key, kind));

        let mut annotations = config.annotations.clone();
        let not_after = bundle.leaf().not_after.format(&Rfc3339).unwrap_or_default();
        annotations.insert(MARKER_FINGERPRINT.to_owned(), bundle.fingerprint().to_string());
        annotations.insert(MARKER_NOT_AFTER.to_owned(), not_after);
        if !cx.subject.certificate_id.is_empty() {
            annotations.insert(MARKER_ID.to_owned(), cx.subject.certificate_id.clone());
        }
        Ok(Self {
            manager: config.field_manager.clone(),
            secret_type: config.secret_type.clone(),
            data: data.collect::<Result<_>>()?,
            labels: config.labels.clone(),
            annotations,
        })
    }

    /// The Secret that will come of these fields, as far as they and those that will go are concerned: what we applied
    /// before, do not apply any more, and nobody else wants.
    pub(super) fn view(&self, found: Option<&Found>) -> View {
        let gone = |path: &[&str], kept: BTreeSet<&String>| -> Vec<(String, Option<String>)> {
            let Some(found) = found else { return Vec::new() };
            let ours = found.applied_by(&self.manager, path).into_iter().filter(|key| !kept.contains(key));
            let alone = ours.filter(|key| {
                let field = format!("f:{key}");
                let path: Vec<&str> = path.iter().copied().chain([field.as_str()]).collect();
                found.others_owning(&self.manager, &path).is_empty()
            });
            alone.map(|key| (key, None)).collect()
        };
        let texts = |texts: &BTreeMap<String, String>| -> BTreeMap<String, Option<String>> {
            texts.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect()
        };
        let mut view = View {
            data: self.data.iter().map(|(key, value)| (key.clone(), Some(sha256(value.0.expose())))).collect(),
            labels: texts(&self.labels),
            annotations: texts(&self.annotations),
        };
        view.data.extend(gone(&["f:data"], self.data.keys().collect()));
        view.labels.extend(gone(&["f:metadata", "f:labels"], self.labels.keys().collect()));
        view.annotations.extend(gone(&["f:metadata", "f:annotations"], self.annotations.keys().collect()));
        view
    }

    /// The former values of everything that `view` is about: applied, they undo a change.
    pub(super) fn former(&self, view: &View, found: &Found) -> Self {
        let data = view.data.keys().filter_map(|key| Some((key.clone(), Base64(found.data(key)?.duplicate()))));
        let labels = view.labels.keys().filter_map(|key| Some((key.clone(), found.label(key)?.to_owned())));
        let annotations =
            view.annotations.keys().filter_map(|key| Some((key.clone(), found.annotation(key)?.to_owned())));
        Self {
            manager: self.manager.clone(),
            secret_type: found.secret_type.clone().unwrap_or_else(|| self.secret_type.clone()),
            data: data.collect(),
            labels: labels.collect(),
            annotations: annotations.collect(),
        }
    }

    /// The leaf among these fields, if one can be read.
    pub(super) fn leaf(&self) -> Option<Fingerprint> {
        let certificate: &SecretBytes = &self.data.get(CERTIFICATE)?.0;
        CertificateBundle::from_pem(certificate.expose()).ok().map(|bundle| bundle.fingerprint())
    }

    /// The body of a server-side apply, on exactly this version of the Secret if there is one.
    pub(super) fn body<'a>(&'a self, place: &'a Place, version: Option<Version<'a>>) -> impl Serialize + use<'a> {
        Body {
            api_version: "v1",
            kind: "Secret",
            secret_type: &self.secret_type,
            metadata: Metadata {
                name: &place.name,
                namespace: &place.namespace,
                // The id as well: with the version alone, a Secret that is gone would be made anew.
                uid: version.map(|version| version.uid),
                resource_version: version.map(|version| version.resource_version),
                labels: &self.labels,
                annotations: &self.annotations,
            },
            data: &self.data,
        }
    }

    /// The parameters of a server-side apply.
    pub(super) fn params(&self, force: bool, dry_run: bool) -> PatchParams {
        PatchParams { dry_run, force, field_manager: Some(self.manager.clone()), field_validation: None }
    }

    /// Everything about these fields that a plan depends on: no secrets, since the key belongs to the certificate.
    pub(super) fn digest(&self) -> String {
        let keys: Vec<&String> = self.data.keys().collect();
        let certificate = self.data.get(CERTIFICATE).map(|value| sha256(value.0.expose()));
        let parts = (&self.manager, &self.secret_type, keys, certificate, &self.labels, &self.annotations);
        // Strings and lists of them always encode.
        serde_json::to_string(&parts).unwrap_or_default()
    }
}
