//! Orders as they are read, one by one and in lists.

use std::cmp::Ordering;

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{
    account::CONTAINER,
    answer::{Answer, Outcome, Refusal, day, moment},
    order::{Certificate, Order, Status},
    request::{Kind, Verdict},
    state::State,
};
use crate::api::Call;

/// The most orders that one answer lists.
const LIMIT: usize = 1000;

impl State {
    /// `GET /order/certificate/{id}`: a look.
    pub(super) fn read_order(&mut self, id: &str) -> Outcome {
        let id = self.order_id(id)?;
        self.look(id)?;
        let order = self.orders.get(&id).ok_or_else(|| Refusal::absent("order"))?;
        let certificate = self.certificates.get(&order.primary).ok_or_else(|| Refusal::absent("order"))?;
        let now = self.clock.now();
        let mut shown = self.brief(id, order, certificate, now);
        let details = self.details(order.primary, certificate, now);
        if let (Some(shown), Value::Object(details)) = (shown["certificate"].as_object_mut(), details) {
            shown.extend(details);
        }
        let requests = order.requests.iter().filter_map(|id| Some(self.requests.get(id)?.brief(*id)));
        shown["requests"] = requests.collect();
        shown["order_valid_till"] = json!(day(order.valid_till));
        shown["dcv_method"] = json!(order.control.method);
        shown["is_renewal"] = json!(order.renews.is_some());
        if let Some(former) = order.renews {
            shown["renewed_order_id"] = json!(former);
        }
        if order.product.validation == "dv" && order.status == Status::Pending && order.control.has_value() {
            shown["dcv_random_value"] = json!(order.control.value);
        }
        Ok(Answer::Json(200, shown))
    }

    /// `GET /order/certificate`.
    pub(super) fn list(&self, call: &Call) -> Outcome {
        let now = self.clock.now();
        let mut found: Vec<Value> = Vec::new();
        for (id, order) in &self.orders {
            let Some(certificate) = self.certificates.get(&order.primary) else { continue };
            let shown = self.brief(*id, order, certificate, now);
            if matches(&shown, call)? {
                found.push(shown);
            }
        }
        if let Some(sort) = call.param("sort") {
            found.sort_by(|one, other| compare(one, other, sort));
        }
        let (limit, offset) = (call.number("limit", LIMIT).min(LIMIT), call.number("offset", 0));
        let page = json!({ "total": found.len(), "limit": limit, "offset": offset });
        let orders: Vec<Value> = found.into_iter().skip(offset).take(limit).collect();
        Ok(Answer::Json(200, json!({ "orders": orders, "page": page })))
    }

    /// `GET /order/certificate/status-changes`: a look at all orders.
    pub(super) fn changes(&mut self, call: &Call) -> Outcome {
        let window = call.param("filters[status_last_updated]").and_then(|filter| filter.split_once("..."));
        let missing = || Refusal::bad("missing_filter", "filters[status_last_updated] must be a range.");
        let (from, to) = window.ok_or_else(missing)?;
        let all: Vec<u64> = self.orders.keys().copied().collect();
        all.into_iter().try_for_each(|id| self.look(id))?;
        let now = self.clock.now();
        let range = format!("{from}...{to}");
        let orders = self.orders.iter().filter(|(_, order)| fits(&moment(order.changed), &range));
        let orders = orders.filter_map(|(id, order)| {
            let certificate = self.certificates.get(&order.primary)?;
            let status = self.status(order, certificate, now);
            Some(json!({ "order_id": id, "certificate_id": order.primary, "status": status }))
        });
        let orders: Vec<Value> = orders.collect();
        Ok(Answer::Json(200, json!({ "orders": orders })))
    }

    /// The word for how an order is.
    pub(super) fn status(&self, order: &Order, certificate: &Certificate, now: OffsetDateTime) -> String {
        let waiting = self.certificates.iter().find(|(_, found)| {
            self.orders.get(&found.order).is_some_and(|owner| std::ptr::eq(owner, order))
                && found.status == Status::Pending
                && found.kind != Kind::Duplicate
        });
        if order.status == Status::Pending && self.verdict_on(order.primary) == Verdict::Pending {
            return "needs_approval".to_owned();
        }
        if let Some((_, waiting)) = waiting
            && let Some(word) = &waiting.course.shown_as
        {
            return word.clone();
        }
        match order.status {
            Status::Issued if now > order.valid_till && certificate.issued.is_some() => "expired".to_owned(),
            status => status.text().to_owned(),
        }
    }

    fn brief(&self, id: u64, order: &Order, certificate: &Certificate, now: OffsetDateTime) -> Value {
        let wanted = &certificate.wanted;
        let mut short = json!({
            "id": order.primary,
            "common_name": wanted.common_name,
            "dns_names": wanted.names,
            "signature_hash": wanted.signature_hash,
        });
        if let Some(issued) = &certificate.issued {
            short["valid_till"] = json!(day(issued.till));
            short["days_remaining"] = json!(issued.days_left(now));
        }
        let organization = order.organization.and_then(|id| self.organizations.iter().find(|known| known.id == id));
        let duplicates = self.certificates.values().any(|found| found.order == id && found.kind == Kind::Duplicate);
        json!({
            "id": id,
            "certificate": short,
            "status": self.status(order, certificate, now),
            "is_renewed": order.renewed,
            "date_created": moment(order.created),
            "organization": organization.map(|known| json!({ "id": known.id, "name": known.name })),
            "disable_renewal_notifications": order.quiet,
            "container": { "id": CONTAINER, "name": "Simulated" },
            "product": order.product.shown(),
            "product_name_id": order.product.name_id,
            "has_duplicates": duplicates,
        })
    }

    /// A certificate as it is shown with its order, and in the lists of reissues and duplicates.
    pub(super) fn details(&self, id: u64, certificate: &Certificate, now: OffsetDateTime) -> Value {
        let wanted = &certificate.wanted;
        let mut shown = json!({
            "id": id,
            "common_name": wanted.common_name,
            "dns_names": wanted.names,
            "date_created": moment(certificate.created),
            "csr": wanted.csr,
            "signature_hash": wanted.signature_hash,
            "key_size": certificate.csr().key.bits,
            "server_platform": { "id": wanted.platform, "name": "OTHER" },
            "ca_cert": { "id": "51AB1BD3B5B9E0D8", "name": self.intermediate.common_name() },
        });
        if let Some(issued) = &certificate.issued {
            shown["thumbprint"] = json!(issued.thumbprint());
            shown["serial_number"] = json!(issued.signed.serial);
            shown["date_issued"] = json!(moment(issued.at));
            shown["valid_from"] = json!(day(issued.from));
            shown["valid_till"] = json!(day(issued.till));
            shown["days_remaining"] = json!(issued.days_left(now));
        }
        shown
    }
}

/// Whether an order passes all filters of a list.
fn matches(shown: &Value, call: &Call) -> Result<bool, Refusal> {
    for (name, wanted) in call.params() {
        let Some(name) = name.strip_prefix("filters[").and_then(|rest| rest.strip_suffix(']')) else { continue };
        let value = match name {
            "common_name" | "valid_till" => &shown["certificate"][name],
            "status" | "date_created" | "product_name_id" => &shown[name],
            "id" | "order_id" => &shown["id"],
            "certificate_id" => &shown["certificate"]["id"],
            "organization_id" => &shown["organization"]["id"],
            "container_id" => &shown["container"]["id"],
            "search" => {
                let names = shown["certificate"]["dns_names"].as_array().into_iter().flatten();
                if !names.filter_map(Value::as_str).any(|name| name.contains(wanted)) {
                    return Ok(false);
                }
                continue;
            }
            _ => return Err(Refusal::bad("invalid_filter", format!("There is no filter {name}."))),
        };
        if !fits(&plain(value), wanted) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| if value.is_null() { String::new() } else { value.to_string() }, str::to_owned)
}

/// Whether a value is the one, in the range (`a...b`), below (`<`, `<=`), above (`>`, `>=`) or has the part (`%`).
fn fits(value: &str, filter: &str) -> bool {
    // Bounds may be less precise than values: a day stands for all of it.
    let cut = |bound: &str| {
        let bound = bound.trim().replace(' ', "T");
        let bound = bound.strip_suffix("+00:00").unwrap_or(&bound).to_owned();
        (value.get(..bound.len().min(value.len())).unwrap_or(value).cmp(&bound), value.is_empty())
    };
    if let Some((from, to)) = filter.split_once("...") {
        return cut(from) >= (Ordering::Equal, false) && cut(to).0 != Ordering::Greater && !value.is_empty();
    }
    if let Some(bound) = filter.strip_prefix("<=") {
        return cut(bound).0 != Ordering::Greater && !value.is_empty();
    }
    if let Some(bound) = filter.strip_prefix(">=") {
        return cut(bound).0 != Ordering::Less && !value.is_empty();
    }
    if let Some(bound) = filter.strip_prefix('<') {
        return cut(bound).0 == Ordering::Less && !value.is_empty();
    }
    if let Some(bound) = filter.strip_prefix('>') {
        return cut(bound).0 == Ordering::Greater;
    }
    match filter.strip_prefix('%') {
        Some(part) => value.contains(part.trim_end_matches('%')),
        None => value == filter,
    }
}

fn compare(one: &Value, other: &Value, sort: &str) -> Ordering {
    for key in sort.split(',') {
        let (key, descends) = key.strip_prefix('-').map_or((key, false), |key| (key, true));
        let field = |order: &Value| match key {
            "common_name" | "valid_till" => order["certificate"][key].clone(),
            "order_id" => order["id"].clone(),
            _ => order[key].clone(),
        };
        let (one, other) = (field(one), field(other));
        let order = match (one.as_u64(), other.as_u64()) {
            (Some(one), Some(other)) => one.cmp(&other),
            _ => plain(&one).cmp(&plain(&other)),
        };
        if order != Ordering::Equal {
            return if descends { order.reverse() } else { order };
        }
    }
    Ordering::Equal
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn filters() {
        let at = "2026-05-04T10:20:30+00:00";
        for filter in [
            "2026-05-04T10:20:30+00:00...2026-05-04T10:20:30+00:00",
            "2026-05-04 10:20:00...2026-05-04 11:00:00",
            "2026-05-04...2026-05-04",
            "<2026-05-05",
            ">2026-05-03",
            "<=2026-05-04",
            ">=2026-05-04",
            "%05-04",
        ] {
            assert!(fits(at, filter), "{filter}");
        }
        for filter in ["2026-05-04 10:20:31...2026-05-05 00:00:00", "<2026-05-04", ">2026-05-04", "%06-", "2026-05-04"]
        {
            assert!(!fits(at, filter), "{filter}");
        }
        assert!(fits("a.example", "a.example") && !fits("a.example", "example"));
        assert!(!fits("", "<2026-05-05"), "what has no end ends at no time");
    }
}
