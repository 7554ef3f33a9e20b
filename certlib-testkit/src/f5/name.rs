//! Names: `/Common/folder/object` in JSON, `~Common~folder~object` in URLs.

use serde_json::{Map, Value, json};

use super::{answer::Refusal, call::field};

/// The full path that a segment of a URL names; without a partition, that is one in `/Common`.
pub(super) fn from_url(segment: &str) -> String {
    if segment.starts_with('~') { segment.replace('~', "/") } else { format!("/Common/{segment}") }
}

/// The segment for a full path.
pub(super) fn to_url(name: &str) -> String {
    name.replace('/', "~")
}

/// The full path that the fields `name`, `partition` and `subPath` of a body give.
pub(super) fn from_body(body: &Map<String, Value>) -> Result<String, Refusal> {
    let name = field(body, "name")?.filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| Refusal::property("a name is required"))?;
    if name.starts_with('/') {
        return Ok(name.to_owned());
    }
    let partition = field(body, "partition")?.unwrap_or("Common");
    Ok(match field(body, "subPath")? {
        Some(folder) => format!("/{partition}/{folder}/{name}"),
        None => format!("/{partition}/{name}"),
    })
}

/// A full path, also where only the last part of it is given.
pub(super) fn full(name: &str) -> String {
    if name.starts_with('/') { name.to_owned() } else { format!("/Common/{name}") }
}

/// The partition of a full path.
pub(super) fn partition(name: &str) -> &str {
    name.split('/').nth(1).unwrap_or_default()
}

/// The folder of a full path.
pub(super) fn folder(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// The fields that say what an object is called.
pub(super) fn fields(name: &str) -> Map<String, Value> {
    let partition = partition(name);
    let (folder, last) = name.rsplit_once('/').unwrap_or(("", name));
    let mut fields = Map::new();
    fields.insert("name".to_owned(), json!(last));
    fields.insert("partition".to_owned(), json!(partition));
    if let Some(below) = folder.strip_prefix(&format!("/{partition}/")) {
        fields.insert("subPath".to_owned(), json!(below));
    }
    fields.insert("fullPath".to_owned(), json!(name));
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_all_forms() {
        assert_eq!(from_url("~Tenant~app~shop"), "/Tenant/app/shop");
        assert_eq!(from_url("shop"), "/Common/shop");
        assert_eq!(to_url("/Tenant/app/shop"), "~Tenant~app~shop");
        let Value::Object(body) = json!({ "name": "shop", "partition": "Tenant", "subPath": "app" }) else {
            unreachable!()
        };
        let name = from_body(&body).unwrap();
        assert_eq!((name.as_str(), partition(&name), folder(&name)), ("/Tenant/app/shop", "Tenant", "/Tenant/app"));
        let fields = fields(&name);
        assert_eq!((fields["name"].as_str(), fields["subPath"].as_str()), (Some("shop"), Some("app")));
        assert!(from_body(&Map::new()).is_err());
    }
}
