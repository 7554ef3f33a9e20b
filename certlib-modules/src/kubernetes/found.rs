//! A Secret as the API server shows it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certlib_core::secret::{Secret, SecretBytes};
use certlib_core::{CertificateBundle, Fingerprint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;
use zeroize::Zeroizing;

use super::cluster::Version;
use super::config::CERTIFICATE;
use super::sha256;

/// A Secret. `Debug` shows neither data nor annotations: `kubectl apply` keeps a copy of the data in one.
#[derive(Deserialize)]
pub(super) struct Found {
    metadata: ObjectMeta,
    #[serde(rename = "type", default)]
    pub(super) secret_type: Option<String>,
    #[serde(default)]
    immutable: Option<bool>,
    #[serde(default)]
    data: Option<BTreeMap<String, Base64>>,
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Version { uid, resource_version } = self.version();
        f.debug_struct("Found").field("uid", &uid).field("resource_version", &resource_version).finish_non_exhaustive()
    }
}

impl Found {
    /// Which version of which object it is.
    pub(super) fn version(&self) -> Version<'_> {
        Version {
            uid: self.metadata.uid.as_deref().unwrap_or_default(),
            resource_version: self.metadata.resource_version.as_deref().unwrap_or_default(),
        }
    }

    pub(super) fn is_immutable(&self) -> bool {
        self.immutable == Some(true)
    }

    pub(super) fn is_being_deleted(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// Kind and name of an object that this Secret belongs to.
    pub(super) fn owner(&self) -> Option<String> {
        let owner = self.metadata.owner_references.as_ref()?.first()?;
        Some(format!("{}/{}", owner.kind, owner.name))
    }

    pub(super) fn data(&self, key: &str) -> Option<&SecretBytes> {
        Some(&self.data.as_ref()?.get(key)?.0)
    }

    pub(super) fn label(&self, key: &str) -> Option<&str> {
        self.metadata.labels.as_ref()?.get(key).map(String::as_str)
    }

    pub(super) fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata.annotations.as_ref()?.get(key).map(String::as_str)
    }

    /// The leaf in `tls.crt`, if a certificate is there.
    pub(super) fn leaf(&self) -> Option<Fingerprint> {
        self.bundle().map(|bundle| bundle.fingerprint())
    }

    /// The certificates in `tls.crt`, if that can be read.
    pub(super) fn bundle(&self) -> Option<CertificateBundle> {
        CertificateBundle::from_pem(self.data(CERTIFICATE)?.expose()).ok()
    }

    /// Who manages which fields.
    pub(super) fn managers(&self) -> &[ManagedFieldsEntry] {
        self.metadata.managed_fields.as_deref().unwrap_or_default()
    }

    /// Those who own a field, such as `["f:data", "f:tls.crt"]`, and are not `us`.
    pub(super) fn others_owning<'a>(&'a self, us: &str, path: &[&str]) -> BTreeSet<&'a str> {
        let owners = self.managers().iter().filter(|entry| owns(entry, path));
        owners.map(|entry| entry.manager.as_deref().unwrap_or("unknown")).filter(|manager| *manager != us).collect()
    }

    /// What `us` applied below a field, such as `["f:data"]`.
    pub(super) fn applied_by(&self, us: &str, path: &[&str]) -> BTreeSet<String> {
        let ours = self.managers().iter().filter(|entry| is_apply_of(entry, us));
        ours.filter_map(|entry| fields(entry, path)?.as_object())
            .flat_map(|fields| fields.keys().filter_map(|field| field.strip_prefix("f:")))
            .map(str::to_owned)
            .collect()
    }
}

/// Whether the entry is about what `manager` applied.
pub(super) fn is_apply_of(entry: &ManagedFieldsEntry, manager: &str) -> bool {
    entry.manager.as_deref() == Some(manager) && entry.operation.as_deref() == Some("Apply")
}

fn owns(entry: &ManagedFieldsEntry, path: &[&str]) -> bool {
    fields(entry, path).is_some()
}

fn fields<'a>(entry: &'a ManagedFieldsEntry, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(&entry.fields_v1.as_ref()?.0, |value, step| value.get(step))
}

/// Bytes that travel as base64, and are nobody's business.
pub(super) struct Base64(pub(super) SecretBytes);

impl fmt::Debug for Base64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Base64(..)")
    }
}

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(STANDARD.encode(self.0.expose())))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The parser's own words are dropped: they quote the value.
        let text = String::deserialize(deserializer).map(Zeroizing::new);
        let text = text.map_err(|_| de::Error::custom("a value is not text"))?;
        let bytes = STANDARD.decode(text.as_bytes()).map_err(|_| de::Error::custom("a value is not base64"))?;
        Ok(Self(Secret::new(bytes)))
    }
}

/// The part of a Secret that a change is about. `None` means that there is no such key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct View {
    /// SHA-256 of the values of `data`.
    pub(super) data: BTreeMap<String, Option<String>>,
    pub(super) labels: BTreeMap<String, Option<String>>,
    pub(super) annotations: BTreeMap<String, Option<String>>,
}

impl View {
    /// The same part of `found`.
    pub(super) fn of(&self, found: &Found) -> Self {
        let owned = |value: Option<&str>| value.map(str::to_owned);
        let data = self.data.keys().map(|key| (key.clone(), found.data(key).map(|value| sha256(value.expose()))));
        let labels = self.labels.keys().map(|key| (key.clone(), owned(found.label(key))));
        let annotations = self.annotations.keys().map(|key| (key.clone(), owned(found.annotation(key))));
        Self { data: data.collect(), labels: labels.collect(), annotations: annotations.collect() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found() -> Found {
        let secret = json!({
            "metadata": {
                "uid": "u1", "resourceVersion": "7",
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "canary-1"},
                "managedFields": [
                    {"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:data": {".": {}, "f:tls.crt": {}}}},
                    {"manager": "certlib", "operation": "Apply",
                     "fieldsV1": {"f:data": {"f:tls.crt": {}, "f:tls.key": {}}, "f:type": {}}},
                    {"operation": "Update", "fieldsV1": {"f:data": {"f:tls.key": {}}}},
                    {"manager": "odd"},
                ],
            },
            "type": "kubernetes.io/tls",
            "data": {"tls.crt": "Y2FuYXJ5LTI=", "empty": ""},
        });
        serde_json::from_value(secret).unwrap()
    }

    #[test]
    fn owners_are_told_by_field() {
        let found = found();
        let others = |us: &str, key: &str| {
            let others = found.others_owning(us, &["f:data", key]);
            others.into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(others("certlib", "f:tls.crt"), ["kubectl"]);
        assert_eq!(others("certlib", "f:tls.key"), ["unknown"]);
        assert_eq!(others("kubectl", "f:tls.crt"), ["certlib"]);
        assert!(others("certlib", "f:ca.crt").is_empty());
        let applied = found.applied_by("certlib", &["f:data"]);
        assert_eq!(applied.into_iter().collect::<Vec<_>>(), ["tls.crt", "tls.key"]);
        assert!(found.applied_by("kubectl", &["f:data"]).is_empty(), "an update is not an apply");
    }

    #[test]
    fn nothing_secret_is_shown() {
        let found = found();
        assert_eq!(found.data("tls.crt").unwrap().expose(), b"canary-2");
        let shown = format!("{found:?} {:?}", found.data);
        assert!(!shown.contains("canary") && !shown.contains("Y2FuYXJ5"), "{shown}");
        let error = serde_json::from_value::<Found>(json!({"metadata": {}, "data": {"a": "canary"}})).unwrap_err();
        assert!(!error.to_string().contains("canary"), "{error}");
    }

    #[test]
    fn a_view_says_what_is_missing() {
        let wanted = View {
            data: [("empty", None), ("tls.key", None)].map(|(key, value)| (key.to_owned(), value)).into(),
            labels: [("app".to_owned(), None)].into(),
            annotations: BTreeMap::new(),
        };
        let view = wanted.of(&found());
        assert_eq!(view.data["empty"], Some(sha256(b"")));
        assert_eq!((&view.data["tls.key"], &view.labels["app"]), (&None, &None));
    }
}
