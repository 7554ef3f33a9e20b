//! Services that know the whole set of records at a name.

use certlib_core::secret::SecretString;
use certlib_net::signature::{Signed, sdk_hmac};
use serde_json::{Value, json};
use url::Url;

use super::fake::{Reply, Request, State, quoted, unquoted};
use super::{CANARY, Subject, google, route53};

pub(crate) fn subjects() -> Vec<Subject> {
    let token = || json!({ "api_token": CANARY });
    let none = |_: &str| json!({});
    vec![
        Subject {
            kind: "azure",
            service: azure,
            settings: |url| json!({ "tenant_id": "tenant", "subscription_id": "subscription", "resource_group": "group", "login_url": url }),
            credentials: || json!({ "client_id": "client", "client_secret": CANARY }),
            compares: true,
        },
        Subject { kind: "gandi", service: gandi, settings: none, credentials: token, compares: false },
        Subject {
            kind: "google",
            service: google::service,
            settings: |url| json!({ "project": "project", "token_url": format!("{url}/token") }),
            credentials: google::credentials,
            compares: true,
        },
        Subject { kind: "hetzner", service: hetzner, settings: none, credentials: token, compares: true },
        Subject {
            kind: "huawei",
            service: huawei,
            settings: |_| json!({ "region": "ap-southeast-1", "project_id": "project" }),
            credentials: || json!({ "access_key": "AK", "secret_key": CANARY }),
            compares: false,
        },
        Subject {
            kind: "route53",
            service: route53::service,
            settings: none,
            credentials: || json!({ "access_key_id": "AK", "secret_access_key": CANARY, "session_token": "session" }),
            compares: true,
        },
    ]
}

pub(crate) fn is_bearer(request: &Request, token: &str) -> bool {
    request.header("authorization") == format!("Bearer {token}")
}

pub(crate) fn url(request: &Request) -> Url {
    Url::parse(&format!("http://{}{}", request.header("host"), request.target)).unwrap()
}

/// Every value as zone files write it, or nothing.
pub(crate) fn unquoted_all(values: &Value) -> Option<Vec<String>> {
    values.as_array()?.iter().map(|value| value.as_str().and_then(unquoted)).collect()
}

pub(crate) fn quoted_all(values: &[String]) -> Value {
    values.iter().map(|value| quoted(value)).collect()
}

/// The tag of a set is made of its ids, which change with it.
fn tag(state: &State, zone: &str, fqdn: &str) -> String {
    state.at(zone, fqdn).iter().map(|record| format!("{}-", record.id)).collect()
}

fn azure(state: &mut State, request: &Request) -> Reply {
    if request.path == ["tenant", "oauth2", "v2.0", "token"] {
        let form = request.form();
        let scope = format!("http://{}/.default", request.header("host"));
        let expected = [("grant_type", "client_credentials"), ("client_id", "client"), ("client_secret", CANARY)];
        let fits = expected.iter().all(|(name, value)| form.get(*name).is_some_and(|found| found == value));
        return match fits && form.get("scope") == Some(&scope) {
            true => Reply::new(
                200,
                json!({ "token_type": "Bearer", "expires_in": 3599, "access_token": "azure-canary-4711" }),
            ),
            false => Reply::new(401, json!({ "error": "invalid_client" })),
        };
    }
    let refusal = |status: u16, code: &str| Reply::new(status, json!({ "error": { "code": code, "message": "no" } }));
    if !is_bearer(request, "azure-canary-4711") {
        return refusal(401, "InvalidAuthenticationToken");
    }
    let start =
        ["subscriptions", "subscription", "resourceGroups", "group", "providers", "Microsoft.Network", "dnsZones"];
    let (method, path) = request.route();
    if request.query("api-version") != "2018-05-01" || path.len() < 8 || path[..7] != start {
        return Reply::unexpected(request);
    }
    let zone = path[7];
    if !state.has_zone(zone) {
        return if zone.contains('.') { refusal(404, "ResourceNotFound") } else { refusal(400, "InvalidResourceName") };
    }
    if path.len() == 8 && method == "GET" {
        return Reply::new(200, json!({ "name": zone, "type": "Microsoft.Network/dnszones" }));
    }
    if path.len() != 10 || path[8] != "TXT" {
        return Reply::unexpected(request);
    }
    let fqdn = State::fqdn(zone, path[9]);
    let tag = tag(state, zone, &fqdn);
    if method != "GET" {
        let fits = match (request.header("if-match"), request.header("if-none-match")) {
            ("", "*") => tag.is_empty(),
            (wanted, "") => !tag.is_empty() && wanted == tag,
            _ => return Reply::unexpected(request),
        };
        if !fits {
            return refusal(412, "PreconditionFailed");
        }
    }
    match method {
        "GET" if tag.is_empty() => refusal(404, "NotFound"),
        "GET" => {
            // Longer values come in pieces.
            let records: Vec<Value> = state
                .values(zone, &fqdn)
                .iter()
                .map(|value| json!({ "value": [&value[..value.len() / 2], &value[value.len() / 2..]] }))
                .collect();
            Reply::new(200, json!({ "etag": tag, "properties": { "TTL": 60, "TXTRecords": records } }))
        }
        "PUT" => {
            let body = request.json();
            let records = body["properties"]["TXTRecords"].as_array().cloned().unwrap_or_default();
            let joined = |record: &Value| {
                let strings = record["value"].as_array()?;
                strings.iter().map(Value::as_str).collect::<Option<String>>()
            };
            let (Some(values), Some(60)) =
                (records.iter().map(joined).collect::<Option<Vec<_>>>(), body["properties"]["TTL"].as_u64())
            else {
                return Reply::unexpected(request);
            };
            state.replace(zone, &fqdn, &values);
            Reply::new(201, "{}")
        }
        "DELETE" => {
            state.replace(zone, &fqdn, &[]);
            Reply::new(200, "")
        }
        _ => Reply::unexpected(request),
    }
}

fn gandi(state: &mut State, request: &Request) -> Reply {
    let refusal = |status: u16| Reply::new(status, json!({ "object": "HTTPError", "code": status, "message": "no" }));
    if !is_bearer(request, CANARY) {
        return refusal(401);
    }
    let (method, path) = request.route();
    match path[..] {
        ["domains", zone] if method == "GET" && state.has_zone(zone) => Reply::new(200, json!({ "fqdn": zone })),
        // One that is somebody else's; the search goes on.
        ["domains", "www.sub.example.test"] if method == "GET" => refusal(403),
        ["domains", _] if method == "GET" => refusal(404),
        ["domains", zone, "records", name, "TXT"] => {
            let fqdn = State::fqdn(zone, name);
            let there = state.values(zone, &fqdn);
            let body = request.json();
            let values = unquoted_all(&body["rrset_values"]).filter(|values| !values.is_empty());
            match (method, values) {
                ("GET", _) if there.is_empty() => refusal(404),
                ("GET", _) => Reply::new(
                    200,
                    json!({ "rrset_name": name, "rrset_type": "TXT", "rrset_ttl": 300, "rrset_values": quoted_all(&there) }),
                ),
                ("POST", Some(_)) if !there.is_empty() => refusal(409),
                ("POST" | "PUT", Some(values)) if body["rrset_ttl"] == 300 => {
                    state.replace(zone, &fqdn, &values);
                    Reply::new(201, json!({ "message": "DNS Record Created" }))
                }
                ("DELETE", _) => {
                    state.replace(zone, &fqdn, &[]);
                    Reply::new(204, "")
                }
                _ => Reply::unexpected(request),
            }
        }
        _ => Reply::unexpected(request),
    }
}

/// Values are added and removed one by one.
fn hetzner(state: &mut State, request: &Request) -> Reply {
    let refusal = |status: u16, code: &str| {
        Reply::new(status, json!({ "error": { "code": code, "message": "no", "details": {} } }))
    };
    if !is_bearer(request, CANARY) {
        return refusal(401, "unauthorized");
    }
    let (method, path) = request.route();
    match path[..] {
        ["zones", zone] if method == "GET" && state.has_zone(zone) => {
            Reply::new(200, json!({ "zone": { "name": zone } }))
        }
        ["zones", _] if method == "GET" => refusal(404, "not_found"),
        ["zones", zone, "rrsets", name, "TXT"] if method == "GET" => {
            let values = state.values(zone, &State::fqdn(zone, name));
            if values.is_empty() {
                return refusal(404, "not_found");
            }
            let records: Vec<Value> =
                values.iter().map(|value| json!({ "value": quoted(value), "comment": "" })).collect();
            Reply::new(200, json!({ "rrset": { "name": name, "type": "TXT", "ttl": 60, "records": records } }))
        }
        ["zones", zone, "rrsets", name, "TXT", "actions", action] if method == "POST" => {
            let (fqdn, body) = (State::fqdn(zone, name), request.json());
            let Some(value) = body["records"][0]["value"].as_str().and_then(unquoted) else {
                return refusal(422, "invalid_input");
            };
            let there = state.at(zone, &fqdn).into_iter().find(|record| record.value == value).map(|record| record.id);
            match (action, there) {
                ("add_records", Some(_)) => return refusal(422, "uniqueness_error"),
                ("add_records", None) => drop(state.add(zone, &fqdn, &value)),
                ("remove_records", Some(id)) => drop(state.delete(id)),
                ("remove_records", None) => return refusal(422, "invalid_input"),
                _ => return Reply::unexpected(request),
            }
            Reply::new(201, json!({ "action": { "id": 1, "status": "running", "error": null } }))
        }
        _ => Reply::unexpected(request),
    }
}

/// Zones have the id `id-NAME`, sets that of their name; a set that is asked for may be others', too.
fn huawei(state: &mut State, request: &Request) -> Reply {
    let refusal = |status: u16, code: &str| Reply::new(status, json!({ "code": code, "message": "no" }));
    let url = url(request);
    let headers = [("host", request.header("host")), ("x-project-id", "project")];
    let signed = Signed { method: &request.method, url: &url, headers: &headers, body: request.body.as_bytes() };
    let secret = SecretString::new(CANARY.to_owned());
    let expected = sdk_hmac::authorization(&signed, request.header("x-sdk-date"), "AK", &secret);
    if request.header("authorization") != expected || request.header("x-project-id") != "project" {
        return Reply::new(
            401,
            json!({ "error_code": "APIGW.0301", "error_msg": "Incorrect IAM authentication information" }),
        );
    }
    let (method, path) = request.route();
    let body = request.json();
    let values = unquoted_all(&body["records"]).filter(|values| !values.is_empty() && body["ttl"] == 300);
    match path[..] {
        ["v2", "zones"] if method == "GET" && request.query("type") == "public" => {
            let name = request.query("name");
            let zone = json!({ "id": format!("id-{}", name.trim_end_matches('.')), "name": name });
            let zones: Vec<Value> = Some(zone).filter(|_| state.has_zone(name)).into_iter().collect();
            Reply::new(200, json!({ "zones": zones }))
        }
        ["v2", "zones", zone, "recordsets"] => {
            let zone = zone.trim_start_matches("id-");
            match (method, values) {
                ("GET", _) => {
                    let name = request.query("name");
                    let there = state.values(zone, name);
                    let other =
                        json!({ "id": "other", "name": format!("x.{name}"), "type": "TXT", "ttl": 300, "records": [] });
                    let ours =
                        json!({ "id": name, "name": name, "type": "TXT", "ttl": 300, "records": quoted_all(&there) });
                    let sets = if there.is_empty() { json!([other]) } else { json!([other, ours]) };
                    Reply::new(200, json!({ "recordsets": sets }))
                }
                ("POST", Some(values)) => {
                    let name = body["name"].as_str().unwrap_or_default();
                    if !state.values(zone, name).is_empty() {
                        return refusal(400, "DNS.0312");
                    }
                    state.replace(zone, name, &values);
                    Reply::new(202, json!({ "id": name, "status": "PENDING_CREATE" }))
                }
                _ => Reply::unexpected(request),
            }
        }
        ["v2", "zones", zone, "recordsets", name] => {
            let zone = zone.trim_start_matches("id-");
            match (method, values) {
                _ if state.values(zone, name).is_empty() => refusal(404, "DNS.0313"),
                ("PUT", Some(values)) => {
                    state.replace(zone, name, &values);
                    Reply::new(202, json!({ "id": name, "status": "PENDING_UPDATE" }))
                }
                ("DELETE", _) => {
                    state.replace(zone, name, &[]);
                    Reply::new(202, json!({ "id": name, "status": "PENDING_DELETE" }))
                }
                _ => Reply::unexpected(request),
            }
        }
        _ => Reply::unexpected(request),
    }
}
