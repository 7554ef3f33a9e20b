//! Collections: `$top`, `$skip`, `$select` and `$filter`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    answer::{Outcome, Refusal, link},
    name,
};

/// The answer to a `GET` of a collection.
pub(super) fn collection(
    kind: &str,
    path: &str,
    query: &BTreeMap<String, String>,
    items: impl Iterator<Item = Value>,
) -> Outcome {
    let partition = query.get("$filter").map(|filter| partition(filter)).transpose()?;
    let items: Vec<Value> = items
        .filter(|item| {
            let own = item["fullPath"].as_str().map(name::partition);
            partition.is_none_or(|wanted| own == Some(wanted))
        })
        .collect();
    let total = items.len();
    let (top, skip) = (number(query, "$top")?, number(query, "$skip")?.unwrap_or(0));
    let page: Vec<Value> =
        items.into_iter().skip(skip).take(top.unwrap_or(usize::MAX)).map(|item| select(query, item)).collect();
    let mut body = json!({ "kind": kind, "selfLink": link(path) });
    if let Some(top) = top {
        body["totalItems"] = json!(total);
        body["currentItemCount"] = json!(page.len());
        body["itemsPerPage"] = json!(top);
        if skip + top < total {
            body["nextLink"] = json!(format!("{}&$top={top}&$skip={}", link(path), skip + top));
        }
    }
    // An empty collection has no items at all.
    if !page.is_empty() {
        body["items"] = json!(page);
    }
    Ok(body)
}

/// One object, as far as `$select` asks for it.
pub(super) fn select(query: &BTreeMap<String, String>, item: Value) -> Value {
    let Some(wanted) = query.get("$select") else { return item };
    let Value::Object(fields) = item else { return item };
    let wanted: Vec<&str> = wanted.split(',').collect();
    Value::Object(fields.into_iter().filter(|(name, _)| wanted.contains(&name.as_str())).collect())
}

fn number(query: &BTreeMap<String, String>, name: &str) -> Result<Option<usize>, Refusal> {
    let Some(text) = query.get(name) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| Refusal::invalid(format!("invalid value for {name}")))
}

/// The only filter there is.
fn partition(filter: &str) -> Result<&str, Refusal> {
    filter.strip_prefix("partition eq ").ok_or_else(|| Refusal::invalid("unsupported $filter expression"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_cut_filtered_and_selected() {
        let items =
            || ["/Common/a", "/Common/b", "/Tenant/c"].into_iter().map(|name| json!({ "fullPath": name, "size": 1 }));
        let query = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>()
        };
        let all = collection("k", "tm/x", &query(&[]), items()).unwrap();
        assert_eq!((all["items"].as_array().unwrap().len(), all.get("totalItems")), (3, None));
        let page = query(&[("$top", "2"), ("$select", "fullPath")]);
        let first = collection("k", "tm/x", &page, items()).unwrap();
        assert_eq!(first["items"], json!([{ "fullPath": "/Common/a" }, { "fullPath": "/Common/b" }]));
        assert!(first["nextLink"].as_str().unwrap().contains("$skip=2"));
        let last = collection("k", "tm/x", &query(&[("$top", "2"), ("$skip", "2")]), items()).unwrap();
        assert_eq!((last["items"].as_array().unwrap().len(), last.get("nextLink")), (1, None));
        let tenant = collection("k", "tm/x", &query(&[("$filter", "partition eq Tenant")]), items()).unwrap();
        assert_eq!(tenant["items"][0]["fullPath"], "/Tenant/c");
        assert!(collection("k", "tm/x", &query(&[("$top", "x")]), items()).is_err());
        let none = collection("k", "tm/x", &query(&[("$filter", "partition eq Other")]), items()).unwrap();
        assert_eq!(none.get("items"), None);
    }
}
