//! Giving fields back to those who owned them before they were taken over.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use serde_json::Value;

use super::found::is_apply_of;

/// Who should own the fields once the former content is back: everybody as `before`, with what they and others came to
/// own `now`, and `us` with no more than before. `None` when that is so already.
pub(super) fn restored(
    before: &[ManagedFieldsEntry],
    now: &[ManagedFieldsEntry],
    us: &str,
) -> Option<Vec<ManagedFieldsEntry>> {
    let mut restored: Vec<ManagedFieldsEntry> = before.to_vec();
    for entry in &mut restored {
        let current = now.iter().find(|current| same_owner(current, entry)).filter(|_| !is_apply_of(entry, us));
        if let (Some(fields), Some(current)) =
            (&mut entry.fields_v1, current.and_then(|entry| entry.fields_v1.as_ref()))
        {
            unite(&mut fields.0, &current.0);
        }
    }
    let others = now.iter().filter(|current| !is_apply_of(current, us));
    let new: Vec<_> =
        others.filter(|current| !before.iter().any(|entry| same_owner(entry, current))).cloned().collect();
    restored.extend(new);
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

/// Adds the fields of `other`.
fn unite(fields: &mut Value, other: &Value) {
    if let (Value::Object(fields), Value::Object(other)) = (fields, other) {
        for (key, value) in other {
            unite(fields.entry(key).or_insert_with(|| Value::Object(serde_json::Map::new())), value);
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

    fn entries(value: Value) -> Vec<ManagedFieldsEntry> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn fields_go_back_and_what_came_later_stays() {
        let before = entries(json!([
            {"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:data": {".": {}, "f:tls.crt": {}}}},
        ]));
        let now = entries(json!([
            {"manager": "certlib", "operation": "Apply", "fieldsV1": {"f:data": {"f:tls.crt": {}}}},
            {"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:data": {}, "f:metadata": {"f:labels": {}}}},
            {"manager": "helm", "operation": "Update", "fieldsV1": {"f:metadata": {}}},
        ]));
        let restored = restored(&before, &now, "certlib").unwrap();
        let fields = |index: usize| restored[index].fields_v1.as_ref().unwrap().0.clone();
        assert_eq!(restored.len(), 2);
        assert_eq!(fields(0), json!({"f:data": {".": {}, "f:tls.crt": {}}, "f:metadata": {"f:labels": {}}}));
        assert_eq!(restored[1].manager.as_deref(), Some("helm"));
    }

    #[test]
    fn nothing_is_done_where_nothing_was_taken() {
        let ours = json!([{"manager": "certlib", "operation": "Apply", "time": "2026-01-01T00:00:00Z",
            "fieldsV1": {"f:data": {"f:tls.crt": {}}}}]);
        let later = json!([{"manager": "certlib", "operation": "Apply", "time": "2026-02-01T00:00:00Z",
            "fieldsV1": {"f:data": {"f:tls.crt": {}}}}]);
        assert_eq!(restored(&entries(ours), &entries(later), "certlib"), None);
    }
}
