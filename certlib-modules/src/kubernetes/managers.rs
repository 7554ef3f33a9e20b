//! Giving fields back to those who owned them before they were taken over.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry};
use serde_json::{Map, Value};

use super::found::{View, is_apply_of};

/// Who should own the fields once the former content is back: others what they own `now`, and of what is in `scope` what
/// they owned `before`; `us` what we owned before. `None` when that is so already.
pub(super) fn restored(
    before: &[ManagedFieldsEntry],
    now: &[ManagedFieldsEntry],
    us: &str,
    scope: &View,
) -> Option<Vec<ManagedFieldsEntry>> {
    let mut restored: Vec<ManagedFieldsEntry> = now.iter().filter(|entry| !is_apply_of(entry, us)).cloned().collect();
    for entry in before {
        if is_apply_of(entry, us) {
            restored.push(entry.clone());
            continue;
        }
        let lost = entry.fields_v1.as_ref().map(|fields| within(&fields.0, scope)).unwrap_or_default();
        match restored.iter_mut().find(|current| same_owner(current, entry)) {
            Some(current) => {
                let fields = current.fields_v1.get_or_insert_with(|| FieldsV1(Value::Object(Map::new())));
                unite(&mut fields.0, &Value::Object(lost));
            }
            None if lost.is_empty() => {}
            None => {
                restored.push(ManagedFieldsEntry { fields_v1: Some(FieldsV1(Value::Object(lost))), ..entry.clone() })
            }
        }
    }
    let same = restored.len() == now.len()
        && restored
            .iter()
            .all(|entry| now.iter().any(|current| same_owner(current, entry) && normal(current) == normal(entry)));
    (!same).then_some(restored)
}

fn same_owner(a: &ManagedFieldsEntry, b: &ManagedFieldsEntry) -> bool {
    let owner = |entry: &ManagedFieldsEntry| {
        let ManagedFieldsEntry { manager, operation, api_version, subresource, .. } = entry;
        (manager.clone(), operation.clone(), api_version.clone(), subresource.clone())
    };
    owner(a) == owner(b)
}

/// The part of `fields` that `scope` is about.
fn within(fields: &Value, scope: &View) -> Map<String, Value> {
    let data = chosen(&fields["f:data"], scope.data.keys());
    let labels = chosen(&fields["f:metadata"]["f:labels"], scope.labels.keys());
    let annotations = chosen(&fields["f:metadata"]["f:annotations"], scope.annotations.keys());
    let metadata = named([("f:labels", labels), ("f:annotations", annotations)]);
    named([("f:data", data), ("f:metadata", metadata)])
}

/// Those of `fields` that are called like `keys`, and the mark that the map is owned itself if one of them is there.
fn chosen<'a>(fields: &Value, keys: impl Iterator<Item = &'a String>) -> Map<String, Value> {
    let names = keys.map(|key| format!("f:{key}"));
    let mut chosen: Map<String, Value> =
        names.filter_map(|name| fields.get(&name).cloned().map(|value| (name, value))).collect();
    if let (Some(mark), false) = (fields.get("."), chosen.is_empty()) {
        chosen.insert(".".to_owned(), mark.clone());
    }
    chosen
}

/// Those of `parts` that are not empty.
fn named<const N: usize>(parts: [(&str, Map<String, Value>); N]) -> Map<String, Value> {
    let full = parts.into_iter().filter(|(_, part)| !part.is_empty());
    full.map(|(name, part)| (name.to_owned(), Value::Object(part))).collect()
}

/// Adds the fields of `other`.
fn unite(fields: &mut Value, other: &Value) {
    if let (Value::Object(fields), Value::Object(other)) = (fields, other) {
        for (key, value) in other {
            unite(fields.entry(key).or_insert_with(|| Value::Object(Map::new())), value);
        }
    }
}

/// The fields, without the marks for maps that are owned themselves: those do not say who wrote what is in them.
fn normal(entry: &ManagedFieldsEntry) -> Value {
    fn without_marks(value: &Value) -> Value {
        let Value::Object(fields) = value else { return value.clone() };
        let fields = fields.iter().filter(|(key, _)| *key != ".");
        Value::Object(fields.map(|(key, value)| (key.clone(), without_marks(value))).collect())
    }
    entry.fields_v1.as_ref().map(|fields| without_marks(&fields.0)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn scope() -> View {
        let data = [("tls.crt".to_owned(), None)].into();
        View { data, labels: Default::default(), annotations: Default::default() }
    }

    fn entries(value: Value) -> Vec<ManagedFieldsEntry> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn fields_go_back_and_what_came_later_stays() {
        let before = entries(json!([
            {"manager": "kubectl", "operation": "Update", "fieldsV1":
                {"f:data": {".": {}, "f:tls.crt": {}, "f:dropped": {}}, "f:type": {}}},
            {"manager": "gone", "operation": "Update", "fieldsV1": {"f:data": {"f:dropped": {}}}},
            {"manager": "flux", "operation": "Apply", "fieldsV1": {"f:data": {"f:tls.crt": {}}}},
        ]));
        let now = entries(json!([
            {"manager": "certlib", "operation": "Apply", "fieldsV1": {"f:data": {"f:tls.crt": {}}}},
            {"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:data": {}, "f:metadata": {"f:labels": {}}}},
            {"manager": "helm", "operation": "Update", "fieldsV1": {"f:metadata": {}}},
        ]));
        let restored = restored(&before, &now, "certlib", &scope()).unwrap();
        let fields = |index: usize| restored[index].fields_v1.as_ref().unwrap().0.clone();
        let managers: Vec<_> = restored.iter().filter_map(|entry| entry.manager.as_deref()).collect();
        assert_eq!(managers, ["kubectl", "helm", "flux"]);
        assert_eq!(fields(0), json!({"f:data": {".": {}, "f:tls.crt": {}}, "f:metadata": {"f:labels": {}}}));
        assert_eq!(fields(2), json!({"f:data": {"f:tls.crt": {}}}));
    }

    #[test]
    fn nothing_is_done_where_nothing_was_taken() {
        let ours = json!([{"manager": "certlib", "operation": "Apply", "time": "2026-01-01T00:00:00Z",
            "fieldsV1": {"f:data": {"f:tls.crt": {}}}}]);
        let later = json!([{"manager": "certlib", "operation": "Apply", "time": "2026-02-01T00:00:00Z",
            "fieldsV1": {"f:data": {"f:tls.crt": {}}}}]);
        assert_eq!(restored(&entries(ours), &entries(later), "certlib", &scope()), None);
        // Others may own less than before by their own choice.
        let before =
            json!([{"manager": "helm", "operation": "Update", "fieldsV1": {"f:data": {"f:theirs": {}}, "f:type": {}}}]);
        let now = json!([{"manager": "helm", "operation": "Update", "fieldsV1": {"f:type": {}}}]);
        assert_eq!(restored(&entries(before), &entries(now), "certlib", &scope()), None);
    }
}
