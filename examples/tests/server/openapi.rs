//! The document describes the routes that are served, all of them and no others.

use std::collections::BTreeSet;

use certlib_core::model::AcmeChallenge;
use certlib_core::store::StoreExt as _;
use certlib_store_sql::{SqliteOptions, SqliteStore};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::TestServer;

const ROUTES: [(&str, &str); 47] = [
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("GET", "/.well-known/acme-challenge/{token}"),
    ("GET", "/api/v1/openapi.json"),
    ("POST", "/api/v1/projects"),
    ("GET", "/api/v1/projects"),
    ("GET", "/api/v1/projects/{project}"),
    ("POST", "/api/v1/projects/{project}/credentials"),
    ("GET", "/api/v1/projects/{project}/credentials"),
    ("GET", "/api/v1/projects/{project}/credentials/{id}"),
    ("POST", "/api/v1/projects/{project}/issuers"),
    ("GET", "/api/v1/projects/{project}/issuers"),
    ("GET", "/api/v1/projects/{project}/issuers/{id}"),
    ("POST", "/api/v1/projects/{project}/distribution-targets"),
    ("GET", "/api/v1/projects/{project}/distribution-targets"),
    ("GET", "/api/v1/projects/{project}/distribution-targets/{id}"),
    ("POST", "/api/v1/projects/{project}/certificates"),
    ("GET", "/api/v1/projects/{project}/certificates"),
    ("GET", "/api/v1/projects/{project}/certificates/{id}"),
    ("POST", "/api/v1/projects/{project}/certificates/{id}/issue"),
    ("POST", "/api/v1/projects/{project}/certificates/{id}/renew"),
    ("POST", "/api/v1/projects/{project}/certificates/{id}/revoke"),
    ("GET", "/api/v1/projects/{project}/certificates/{id}/download"),
    ("POST", "/api/v1/projects/{project}/certificates/{id}/downloads"),
    ("GET", "/api/v1/downloads/{token}"),
    ("POST", "/api/v1/projects/{project}/certificates/{id}/distribute"),
    ("GET", "/api/v1/projects/{project}/certificates/{id}/distribution-status"),
    ("GET", "/api/v1/projects/{project}/certificates/{id}/events"),
    ("POST", "/api/v1/projects/{project}/certificates/{id}/go-back"),
    ("GET", "/api/v1/projects/{project}/certificates/{id}/distributions"),
    ("PUT", "/api/v1/projects/{project}/distributions/{id}/rules"),
    ("PUT", "/api/v1/projects/{project}/distribution-targets/{id}/rules"),
    ("GET", "/api/v1/projects/{project}/approvals"),
    ("GET", "/api/v1/projects/{project}/approvals/{id}"),
    ("POST", "/api/v1/projects/{project}/approvals/{id}/decisions"),
    ("GET", "/api/v1/projects/{project}/policy"),
    ("PUT", "/api/v1/projects/{project}/policy"),
    ("GET", "/api/v1/projects/{project}/jobs"),
    ("GET", "/api/v1/projects/{project}/jobs/{id}"),
    ("POST", "/api/v1/projects/{project}/jobs/{id}/retry"),
    ("POST", "/api/v1/projects/{project}/jobs/{id}/cancel"),
    ("POST", "/api/v1/projects/{project}/jobs/retry"),
    ("GET", "/api/v1/projects/{project}/jobs/{id}/log"),
    ("GET", "/api/v1/projects/{project}/jobs/{id}/log/stream"),
    ("GET", "/api/v1/settings/cluster-instances"),
    ("GET", "/api/v1/settings/keyring"),
];

fn needs_token(path: &str) -> bool {
    ["/api/v1/projects", "/api/v1/settings"].iter().any(|prefix| path.starts_with(prefix))
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(reference)) = members.get("$ref") {
                found.insert(reference.clone());
            }
            members.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_document_and_the_router_agree() {
    let server = TestServer::start().await;
    let api = server.admin.clone();
    api.post("/api/v1/projects", &json!({ "id": "shop" })).await.expect(201);
    let anonymous = api.with_token("");
    let document = anonymous.get("/api/v1/openapi.json").await.expect(200);
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1."));

    let mut documented = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            documented.insert((method.to_uppercase(), path.clone()));
            let needs_token = needs_token(path);
            assert_eq!(operation["security"] == json!([{ "token": [] }]), needs_token, "{method} {path}");
        }
    }
    let expected: BTreeSet<_> =
        ROUTES.iter().map(|(method, path)| ((*method).to_owned(), (*path).to_owned())).collect();
    assert_eq!(documented, expected);

    let mut paths = BTreeSet::new();
    for (method, path) in &documented {
        paths.insert(path.clone());
        let url = path.replace("{project}", "shop").replace("{id}", "nothing").replace("{token}", "nothing");
        let method: Method = method.parse().unwrap();
        let answer = api.send(method.clone(), &url, None, Vec::new()).await;
        let refused = answer.content_type == "application/problem+json"
            && ["route_unknown", "method_not_allowed", "internal"].contains(&&*answer.code());
        assert!(!refused, "documented and not served: {method} {path}: {answer:?}");
        let answer = anonymous.send(method.clone(), &url, None, Vec::new()).await;
        assert_eq!(answer.status == 401, needs_token(path), "{method} {path}: {answer:?}");
    }
    // Served and not documented: every other method of every known path, and the paths around them.
    for path in &paths {
        let url = path.replace("{project}", "shop").replace("{id}", "nothing").replace("{token}", "nothing");
        for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            if !documented.contains(&(method.to_string(), path.clone())) {
                api.send(method, &url, None, Vec::new()).await.expect_problem(405, "method_not_allowed");
            }
        }
        api.get(&format!("{url}/x/y")).await.expect_problem(404, "route_unknown");
    }

    let mut used = BTreeSet::new();
    references(&document, &mut used);
    assert!(used.contains("#/components/schemas/Problem"));
    for reference in used {
        assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference} leads nowhere");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_needs_no_token() {
    let server = TestServer::start().await;
    let anonymous = server.admin.with_token("");
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(anonymous.get(path).await.status, 200, "{path}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn challenges_are_answered_on_both_addresses_and_nothing_else_on_the_second() {
    let server = TestServer::start().await;
    let now = time::OffsetDateTime::now_utc();
    let challenge = AcmeChallenge {
        id: "a-live_token".to_owned(),
        key_authorization: "a-live_token.thumbprint".to_owned(),
        name: "www.example.com".to_owned(),
        expires_at: now + time::Duration::hours(1),
    };
    let store = SqliteStore::open(server.database(), SqliteOptions::new()).await.unwrap();
    store.insert(challenge).await.unwrap();
    store.close().await;

    let path = "/.well-known/acme-challenge/";
    let answer = server.admin.with_token("").get(&format!("{path}a-live_token")).await;
    assert_eq!((answer.status, &*answer.text), (200, "a-live_token.thumbprint"));
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    for (path, status) in [
        (format!("{path}a-live_token"), 200),
        (format!("{path}a-live_toke"), 404),
        (format!("{path}..%2f..%2fhealthz"), 404),
        ("/healthz".to_owned(), 404),
        ("/api/v1/openapi.json".to_owned(), 404),
    ] {
        let answer = http.get(format!("{}{path}", server.http01)).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{path}");
    }
    server.stop().await;
}
