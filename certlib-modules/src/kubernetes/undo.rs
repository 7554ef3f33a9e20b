//! What the journal remembers of a change.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use serde::{Deserialize, Serialize};

use super::cluster::Place;
use super::desired::Fields;
use super::found::{Base64, Found, View};

/// An entry of the journal.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Undo {
    /// A Secret is about to be made or changed.
    Applying(Box<Change>),
    /// The API server looked at that change and declined, so there is nothing to undo.
    NotTaken,
}

/// One change of one Secret.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// The API server.
    pub(super) server: String,
    pub(super) namespace: String,
    pub(super) name: String,
    /// Who makes the change.
    pub(super) manager: String,
    /// The Secret's type.
    pub(super) secret_type: String,
    /// What was there, as far as it changes; `None` when there was no Secret.
    pub(super) before: Option<Former>,
    /// What will be there.
    pub(super) after: View,
}

/// The former state of what changes. Everything else in the Secret is not ours to put back.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Former {
    pub(super) uid: String,
    pub(super) data: BTreeMap<String, Base64>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    /// Who owned which fields.
    pub(super) managers: Vec<ManagedFieldsEntry>,
}

/// Whose state a Secret is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Is {
    /// As it was.
    Former,
    /// As we made it.
    New,
    /// Neither.
    Foreign,
}

impl Change {
    /// What is needed to undo what `fields` will change in `found`.
    pub(super) fn record(server: String, place: &Place, fields: &Fields, found: Option<&Found>, after: View) -> Self {
        let before = found.map(|found| {
            let Fields { data, labels, annotations, .. } = fields.former(&after, found);
            let uid = found.version().uid.to_owned();
            Former { uid, data, labels, annotations, managers: found.managers().to_vec() }
        });
        Self {
            server,
            namespace: place.namespace.clone(),
            name: place.name.clone(),
            manager: fields.manager.clone(),
            secret_type: fields.secret_type.clone(),
            before,
            after,
        }
    }

    pub(super) fn place(&self) -> Place {
        Place { namespace: self.namespace.clone(), name: self.name.clone() }
    }

    /// Whose state the Secret is in.
    pub(super) fn classify(&self, found: Option<&Found>) -> Is {
        let (found, before) = match (found, &self.before) {
            (None, None) => return Is::Former,
            (None, Some(_)) => return Is::Foreign,
            (Some(found), before) => (found, before),
        };
        if before.as_ref().is_some_and(|before| before.uid != found.version().uid) {
            return Is::Foreign;
        }
        let now = self.after.of(found);
        if now == self.after {
            return Is::New;
        }
        match before {
            Some(before) if before.view(&self.after) == now => Is::Former,
            _ => Is::Foreign,
        }
    }

    /// Whether the change makes exactly what `fields` ask for.
    pub(super) fn makes(&self, fields: &Fields) -> bool {
        let wanted = fields.view(None);
        same(&self.after.data, &wanted.data)
            && same(&self.after.labels, &wanted.labels)
            && same(&self.after.annotations, &wanted.annotations)
    }

    /// The fields that, applied, put the former state back.
    pub(super) fn undoing(&self) -> Option<Fields> {
        let Former { data, labels, annotations, .. } = self.before.as_ref()?;
        let data = data.iter().map(|(key, value)| (key.clone(), Base64(value.0.duplicate())));
        Some(Fields {
            manager: self.manager.clone(),
            secret_type: self.secret_type.clone(),
            data: data.collect(),
            labels: labels.clone(),
            annotations: annotations.clone(),
        })
    }
}

/// Whether `after` has what is `wanted`, and nothing else but removals.
fn same(after: &BTreeMap<String, Option<String>>, wanted: &BTreeMap<String, Option<String>>) -> bool {
    wanted.iter().all(|(key, value)| after.get(key) == Some(value))
        && after.iter().all(|(key, value)| value.is_none() || wanted.contains_key(key))
}

impl Former {
    /// The part of the former state that `scope` is about.
    fn view(&self, scope: &View) -> View {
        let text = |texts: &BTreeMap<String, String>, keys: &BTreeMap<String, Option<String>>| {
            keys.keys().map(|key| (key.clone(), texts.get(key).cloned())).collect()
        };
        let digest = |key: &String| self.data.get(key).map(|value| super::sha256(value.0.expose()));
        View {
            data: scope.data.keys().map(|key| (key.clone(), digest(key))).collect(),
            labels: text(&self.labels, &scope.labels),
            annotations: text(&self.annotations, &scope.annotations),
        }
    }
}

/// The change that has to be undone: the last one, unless it was declined.
pub(super) fn pending(entries: Vec<Undo>) -> Option<Change> {
    entries.into_iter().fold(None, |_, entry| match entry {
        Undo::Applying(change) => Some(*change),
        Undo::NotTaken => None,
    })
}
