//! Files: downloaded, and promised to whoever has a token.

use certlib_core::CertificateBundle;
use certlib_core::bundle::pkcs12;
use reqwest::Method;
use serde_json::json;

use crate::support::{Api, TestServer, command, local_ca, token};

/// A project `shop` with a certificate of which one version is issued.
async fn issued(api: &Api) -> String {
    api.post("/api/v1/projects", &json!({ "id": "shop" })).await.expect(201);
    let project = "/api/v1/projects/shop";
    let issuer = api.create(&format!("{project}/issuers"), &local_ca()).await;
    let new = json!({ "names": ["www.example.com"], "issuer_id": issuer });
    let id = api.create(&format!("{project}/certificates"), &new).await;
    let certificate = format!("{project}/certificates/{id}");
    api.act(&format!("{certificate}/issue")).await.expect(202);
    api.until(&certificate, |certificate| certificate["state"] == "active").await;
    certificate
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promised_file_is_fetched_once_without_login() {
    let server = TestServer::start().await;
    let api = server.admin.clone();
    let certificate = issued(&api).await;
    let downloads = format!("{certificate}/downloads");
    let promised = api.post(&downloads, &json!({ "include_key": true, "ttl_seconds": 60 })).await.expect(201);
    assert_eq!((&promised["version"], &promised["format"]), (&json!(1), &json!("fullchain")));
    let path = promised["path"].as_str().unwrap();
    assert_eq!(path, format!("/api/v1/downloads/{}", promised["token"].as_str().unwrap()));

    let anonymous = api.with_token("");
    // A preview does not use it up.
    assert_eq!(anonymous.send(Method::HEAD, path, None, Vec::new()).await.status, 405);
    let response = reqwest::get(format!("{}{path}", api.base())).await.unwrap();
    assert_eq!(response.status(), 200);
    let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("cache-control"), "no-store");
    assert_eq!(header("content-disposition"), "attachment; filename=\"www.example.com.pem\"");
    let bundle = CertificateBundle::from_pem(&response.bytes().await.unwrap()).unwrap();
    assert!(bundle.key().is_some());
    let again = anonymous.get(path).await.expect_problem(404, "not_found");
    let unknown =
        anonymous.get(&format!("/api/v1/downloads/{}", "A".repeat(43))).await.expect_problem(404, "not_found");
    assert_eq!(again, unknown);
    let events = api.get(&format!("{certificate}/events")).await.expect(200);
    let kinds: Vec<_> = events.as_array().unwrap().iter().map(|event| event["kind"].as_str().unwrap()).collect();
    for kind in ["certificate.download_created", "certificate.downloaded", "certificate.key_exported"] {
        assert_eq!(kinds.iter().filter(|one| **one == kind).count(), 1, "{kind}: {kinds:?}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_open_with_the_password_that_was_sent() {
    let server = TestServer::start().await;
    let api = server.admin.clone();
    let certificate = issued(&api).await;
    let arguments = ["--format", "pkcs12", "--with-key", "--alias", "tomcat", "--ttl", "60"];
    let id = certificate.rsplit('/').next().unwrap();
    let arguments = [&["download", "create", "--project", "shop", "--certificate", id], &arguments[..]].concat();
    let path = command(&server, &arguments).await;
    api.with_token("").get(path.trim()).await.expect_problem(422, "password_missing");
    let fetch = async |path: &str| {
        let request = reqwest::Client::new().get(format!("{}{}", api.base(), path.trim())).bearer_auth(&api.token);
        let response = request.header("x-certlib-password", "correct horse").send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        response.bytes().await.unwrap()
    };
    let promised = fetch(&path).await;
    let at_once = fetch(&format!("{certificate}/download?format=pkcs12-legacy&include_key=true")).await;
    let pem = fetch(&format!("{certificate}/download?include_key=true")).await;
    let bundle = CertificateBundle::from_pem(&pem).unwrap();
    let password = certlib_core::Secret::new("correct horse".to_owned());
    assert!(pkcs12::holds(&promised, &password, &bundle) && pkcs12::holds(&at_once, &password, &bundle));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_promised_by_admins_of_the_project_alone() {
    let server = TestServer::start().await;
    let certificate = issued(&server.admin).await;
    let downloads = format!("{certificate}/downloads");
    let operator = token(&server, "shop", "operator").await;
    operator.post(&downloads, &json!({ "include_key": true })).await.expect_problem(403, "role_forbidden");
    operator.post(&downloads, &json!({ "format": "key" })).await.expect_problem(422, "key_not_asked_for");
    operator.post(&downloads, &json!({ "format": "jks" })).await.expect_problem(422, "body_invalid");
    operator.post(&downloads, &json!({ "ttl_seconds": 0 })).await.expect_problem(422, "ttl_invalid");
    operator.post(&downloads, &json!({ "version": 2 })).await.expect_problem(404, "not_found");
    operator.post(&downloads, &json!({ "format": "der" })).await.expect(201);
    let viewer = token(&server, "shop", "viewer").await;
    viewer.post(&downloads, &json!({})).await.expect_problem(403, "role_forbidden");
    server.admin.post("/api/v1/projects", &json!({ "id": "other" })).await.expect(201);
    let stranger = token(&server, "other", "admin").await;
    stranger.post(&downloads, &json!({})).await.expect_problem(403, "project_forbidden");
    let elsewhere = downloads.replace("/shop/", "/other/");
    stranger.post(&elsewhere, &json!({})).await.expect_problem(404, "not_found");
    server.stop().await;
}
