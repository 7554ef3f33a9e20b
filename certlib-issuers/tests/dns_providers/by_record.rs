//! Services whose records have ids.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use serde_json::{Value, json};

use super::fake::{Record, Reply, Request, State, quoted, unquoted};
use super::{CANARY, Subject};

pub(crate) fn subjects() -> Vec<Subject> {
    let token = || json!({ "api_token": CANARY });
    let none = |_: &str| json!({});
    vec![
        Subject { kind: "cloudflare", service: cloudflare, settings: none, credentials: token, compares: true },
        Subject { kind: "digitalocean", service: digitalocean, settings: none, credentials: token, compares: true },
        Subject {
            kind: "hetzner-console",
            service: hetzner_console,
            settings: none,
            credentials: token,
            compares: true,
        },
        Subject {
            kind: "ovh",
            service: ovh,
            settings: |_| json!({ "region": "ca" }),
            credentials: || json!({ "application_key": "AK", "application_secret": CANARY, "consumer_key": "consumer-canary-4711" }),
            compares: true,
        },
    ]
}

fn is_bearer(request: &Request) -> bool {
    request.header("authorization") == format!("Bearer {CANARY}")
}

/// Zones have the id `id-NAME`.
fn cloudflare(state: &mut State, request: &Request) -> Reply {
    let problem = |status: u16, code: u64| {
        let errors = json!([{ "code": code, "message": "no" }]);
        Reply::new(status, json!({ "success": false, "errors": errors, "messages": [], "result": null }))
    };
    let result = |value: Value| {
        Reply::new(200, json!({ "success": true, "errors": [], "messages": [], "result": value, "result_info": {} }))
    };
    if !is_bearer(request) {
        return problem(401, 10000);
    }
    match request.route() {
        ("GET", path) if path == ["zones"] => {
            let name = request.query("name");
            let zones: Vec<Value> = Some(json!({ "id": format!("id-{name}"), "name": name }))
                .filter(|_| state.has_zone(name))
                .into_iter()
                .collect();
            result(zones.into())
        }
        (method, path) if path.len() >= 3 && path[0] == "zones" && path[2] == "dns_records" => {
            let zone = path[1].trim_start_matches("id-").to_owned();
            match (method, path.get(3)) {
                ("GET", None) if request.query("type") == "TXT" => {
                    let record = |record: &Record| json!({ "id": record.id.to_string(), "type": "TXT", "name": record.fqdn, "content": quoted(&record.value) });
                    let records: Vec<Value> = state.at(&zone, request.query("name")).into_iter().map(record).collect();
                    result(records.into())
                }
                ("POST", None) => {
                    let body = request.json();
                    let name = body["name"].as_str().unwrap_or_default();
                    let value = body["content"].as_str().and_then(unquoted);
                    let (Some(value), "TXT", 120) =
                        (value, body["type"].as_str().unwrap_or_default(), body["ttl"].as_u64().unwrap_or_default())
                    else {
                        return problem(400, 9000);
                    };
                    if state.values(&zone, name).contains(&value) {
                        return problem(400, 81058);
                    }
                    let id = state.add(&zone, name, &value);
                    result(json!({ "id": id.to_string() }))
                }
                ("DELETE", Some(id)) => match id.parse().is_ok_and(|id| state.delete(id)) {
                    true => result(json!({ "id": id })),
                    false => problem(404, 81044),
                },
                _ => Reply::unexpected(request),
            }
        }
        _ => Reply::unexpected(request),
    }
}

fn digitalocean(state: &mut State, request: &Request) -> Reply {
    if !is_bearer(request) {
        return Reply::new(401, json!({ "id": "Unauthorized", "message": "no" }));
    }
    let absent = || Reply::new(404, json!({ "id": "not_found", "message": "no" }));
    match request.route() {
        ("GET", path) if path.len() == 3 && path[..2] == ["v2", "domains"] => match state.has_zone(path[2]) {
            true => Reply::new(200, json!({ "domain": { "name": path[2], "ttl": 1800 } })),
            false => absent(),
        },
        (method, path) if path.len() >= 4 && path[..2] == ["v2", "domains"] && path[3] == "records" => {
            let zone = path[2];
            match (method, path.get(4)) {
                ("GET", None) if request.query("type") == "TXT" => {
                    let record = |record: &Record| json!({ "id": record.id, "type": "TXT", "name": State::relative(record, "@"), "data": record.value });
                    let records: Vec<Value> = state.at(zone, request.query("name")).into_iter().map(record).collect();
                    Reply::new(200, json!({ "domain_records": records, "links": {}, "meta": {} }))
                }
                ("POST", None) => {
                    let body = request.json();
                    let (Some(name), Some(value), Some("TXT"), Some(30)) =
                        (body["name"].as_str(), body["data"].as_str(), body["type"].as_str(), body["ttl"].as_u64())
                    else {
                        return Reply::unexpected(request);
                    };
                    if !name.ends_with('.') {
                        return Reply::unexpected(request);
                    }
                    let id = state.add(zone, name, value);
                    Reply::new(201, json!({ "domain_record": { "id": id } }))
                }
                ("DELETE", Some(id)) => match id.parse().is_ok_and(|id| state.delete(id)) {
                    true => Reply::new(204, ""),
                    false => absent(),
                },
                _ => Reply::unexpected(request),
            }
        }
        _ => Reply::unexpected(request),
    }
}

/// Zones have the id `id-NAME`; a page has one record.
fn hetzner_console(state: &mut State, request: &Request) -> Reply {
    if request.header("auth-api-token") != CANARY {
        return Reply::new(401, json!({ "message": "Invalid authentication credentials" }));
    }
    match request.route() {
        ("GET", path) if path == ["zones"] => {
            let name = request.query("name");
            match state.has_zone(name) {
                true => Reply::new(200, json!({ "zones": [{ "id": format!("id-{name}"), "name": name }] })),
                false => Reply::new(404, json!({ "zones": [], "error": { "message": "zone not found", "code": 404 } })),
            }
        }
        ("GET", path) if path == ["records"] => {
            let zone = request.query("zone_id").trim_start_matches("id-");
            let page: usize = request.query("page").parse().unwrap_or(1);
            let records: Vec<&Record> = state.records.iter().filter(|record| record.zone == zone).collect();
            let record = |record: &&Record| json!({ "id": record.id.to_string(), "type": "TXT", "name": State::relative(record, "@"), "value": quoted(&record.value) });
            let shown: Vec<Value> = records.iter().skip(page - 1).take(1).map(record).collect();
            let meta = json!({ "pagination": { "page": page, "per_page": 1, "last_page": records.len().max(1) } });
            Reply::new(200, json!({ "records": shown, "meta": meta }))
        }
        ("POST", path) if path == ["records"] => {
            let body = request.json();
            let (Some(zone), Some(name), Some(value), Some("TXT")) =
                (body["zone_id"].as_str(), body["name"].as_str(), body["value"].as_str(), body["type"].as_str())
            else {
                return Reply::unexpected(request);
            };
            let zone = zone.trim_start_matches("id-");
            let id = state.add(zone, &State::fqdn(zone, name), value);
            Reply::new(200, json!({ "record": { "id": id.to_string() } }))
        }
        ("DELETE", path) if path.len() == 2 && path[0] == "records" => {
            match path[1].parse().is_ok_and(|id| state.delete(id)) {
                true => Reply::new(200, "{}"),
                false => Reply::new(404, json!({ "error": { "message": "record not found", "code": 404 } })),
            }
        }
        _ => Reply::unexpected(request),
    }
}

/// Two minutes ahead of everybody else.
const OVH_AHEAD: u64 = 120;

fn ovh(state: &mut State, request: &Request) -> Reply {
    if request.path == ["auth", "time"] {
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
        return Reply::new(200, now + OVH_AHEAD);
    }
    let refusal =
        |status: u16, class: &str| Reply::new(status, json!({ "errorCode": class, "httpCode": "", "message": "no" }));
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let time = request.header("x-ovh-timestamp");
    if !time.parse::<u64>().is_ok_and(|time| time.abs_diff(now + OVH_AHEAD) < 30) {
        return refusal(400, "QUERY_TIME_OUT");
    }
    let url = format!("http://{}{}", request.header("host"), request.target);
    let text = format!("{CANARY}+consumer-canary-4711+{}+{url}+{}+{time}", request.method, request.body);
    let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    let signature: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    if request.header("x-ovh-signature") != format!("$1${signature}") || request.header("x-ovh-application") != "AK" {
        return refusal(400, "INVALID_SIGNATURE");
    }
    let absent = || refusal(404, "NOT_FOUND");
    match request.route() {
        ("GET", path) if path.len() == 3 && path[..2] == ["domain", "zone"] => match state.has_zone(path[2]) {
            true => Reply::new(200, json!({ "name": path[2] })),
            false => absent(),
        },
        ("POST", path) if path.len() == 4 && path[3] == "refresh" => Reply::new(200, "null"),
        (method, path) if path.len() >= 4 && path[3] == "record" => {
            let zone = path[2];
            let id = path.get(4).and_then(|id| id.parse::<u64>().ok());
            match (method, id) {
                ("GET", None) if request.query("fieldType") == "TXT" => {
                    let fqdn = State::fqdn(zone, request.query("subDomain"));
                    let ids: Vec<u64> = state.at(zone, &fqdn).into_iter().map(|record| record.id).collect();
                    Reply::new(200, json!(ids))
                }
                ("GET", Some(id)) => match state.records.iter().find(|record| record.id == id) {
                    Some(record) => {
                        let name = State::relative(record, "");
                        let target = quoted(&record.value);
                        Reply::new(
                            200,
                            json!({ "id": id, "fieldType": "TXT", "subDomain": name, "target": target, "ttl": 60 }),
                        )
                    }
                    None => absent(),
                },
                ("POST", None) => {
                    let body = request.json();
                    let (Some(name), Some(value), Some("TXT"), Some(60)) = (
                        body["subDomain"].as_str(),
                        body["target"].as_str(),
                        body["fieldType"].as_str(),
                        body["ttl"].as_u64(),
                    ) else {
                        return Reply::unexpected(request);
                    };
                    let id = state.add(zone, &State::fqdn(zone, name), value);
                    Reply::new(200, json!({ "id": id }))
                }
                ("DELETE", Some(id)) => match state.delete(id) {
                    true => Reply::new(200, "null"),
                    false => absent(),
                },
                _ => Reply::unexpected(request),
            }
        }
        _ => Reply::unexpected(request),
    }
}
