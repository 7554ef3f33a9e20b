//! Google Cloud DNS.

use std::sync::LazyLock;

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::by_set::{is_bearer, quoted_all, unquoted_all};
use super::fake::{Reply, Request, State};

/// The key of a service account, made for this run.
static KEY: LazyLock<String> = LazyLock::new(|| {
    let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let der: Pkcs8V1Der<'_> = key.as_der().unwrap();
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der.as_ref()))
});

pub(crate) fn credentials() -> Value {
    json!({ "client_email": "a@project.example", "private_key": *KEY })
}

/// Zones are named `zone-` and their name with dashes; there is a private one beside each.
pub(crate) fn service(state: &mut State, request: &Request) -> Reply {
    if request.path == ["token"] {
        let form = request.form();
        let claims = form.get("assertion").and_then(|assertion| assertion.split('.').nth(1).map(str::to_owned));
        let claims = claims.and_then(|claims| URL_SAFE_NO_PAD.decode(claims).ok()).unwrap_or_default();
        let claims: Value = serde_json::from_slice(&claims).unwrap_or_default();
        let audience = format!("http://{}/token", request.header("host"));
        let fits = form.get("grant_type").is_some_and(|grant| grant == "urn:ietf:params:oauth:grant-type:jwt-bearer")
            && claims["iss"] == "a@project.example"
            && claims["scope"] == "https://www.googleapis.com/auth/ndev.clouddns.readwrite"
            && claims["aud"] == audience;
        return match fits {
            true => Reply::new(
                200,
                json!({ "access_token": "google-canary-4711", "expires_in": 3599, "token_type": "Bearer" }),
            ),
            false => Reply::new(400, json!({ "error": "invalid_grant" })),
        };
    }
    let refusal = |status: u16| Reply::new(status, json!({ "error": { "code": status, "message": "no" } }));
    if !is_bearer(request, "google-canary-4711") {
        return refusal(401);
    }
    let (method, path) = request.route();
    match path[..] {
        ["projects", "project", "managedZones"] if method == "GET" => {
            let dotted = request.query("dnsName");
            let name = format!("zone-{}", dotted.trim_end_matches('.').replace('.', "-"));
            let zones = json!([
                { "name": format!("private-{name}"), "dnsName": dotted, "visibility": "private" },
                { "name": name, "dnsName": dotted, "visibility": "public" },
            ]);
            Reply::new(200, if state.has_zone(dotted) { json!({ "managedZones": zones }) } else { json!({}) })
        }
        ["projects", "project", "managedZones", zone, what] => {
            let zone = zone.trim_start_matches("zone-").replace('-', ".");
            match (method, what) {
                ("GET", "rrsets") if request.query("type") == "TXT" => {
                    let name = request.query("name");
                    let values = state.values(&zone, name);
                    let sets = if values.is_empty() {
                        json!([])
                    } else {
                        json!([{ "name": name, "type": "TXT", "ttl": 60, "rrdatas": quoted_all(&values) }])
                    };
                    Reply::new(200, json!({ "rrsets": sets }))
                }
                ("POST", "changes") => change(state, &zone, request),
                _ => Reply::unexpected(request),
            }
        }
        _ => Reply::unexpected(request),
    }
}

fn change(state: &mut State, zone: &str, request: &Request) -> Reply {
    let body = request.json();
    let (mut fqdn, mut after) = (String::new(), None);
    for (part, is_deletion) in [("deletions", true), ("additions", false)] {
        for set in body[part].as_array().into_iter().flatten() {
            let (Some(name), Some(values)) = (set["name"].as_str(), unquoted_all(&set["rrdatas"])) else {
                return Reply::unexpected(request);
            };
            if !name.ends_with('.') || set["type"] != "TXT" || set["ttl"] != 60 || values.is_empty() {
                return Reply::unexpected(request);
            }
            fqdn = name.to_owned();
            let there = after.take().unwrap_or_else(|| state.values(zone, name));
            match is_deletion {
                true if there.is_empty() => return Reply::new(404, "{}"),
                true if there != values => return Reply::new(412, "{}"),
                true => after = Some(Vec::new()),
                false if !there.is_empty() => return Reply::new(409, "{}"),
                false => after = Some(values),
            }
        }
    }
    let Some(after) = after else { return Reply::unexpected(request) };
    state.replace(zone, &fqdn, &after);
    Reply::new(200, json!({ "id": "1", "status": "pending" }))
}
