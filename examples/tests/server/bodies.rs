//! What goes in wrong comes back as a problem document that says so.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{TestServer, file_target, local_ca};

/// Path, body, status, code, and what the context must hold.
type Case = (&'static str, Vec<u8>, u16, &'static str, &'static [(&'static str, &'static str)]);

const JSON: Option<&str> = Some("application/json");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_bodies_are_refused_by_name() {
    let server = TestServer::start().await;
    let api = server.admin.clone();
    api.post("/api/v1/projects", &json!({ "id": "shop" })).await.expect(201);
    let issuer = api.create("/api/v1/projects/shop/issuers", &local_ca()).await;
    let deep = format!(r#"{{"name":"a","kind":"local-ca","config":{}1{}}}"#, "{\"a\":".repeat(200), "}".repeat(200));
    let certificate = |members: &str| format!(r#"{{"issuer_id":"{issuer}",{members}}}"#);

    let projects = "/api/v1/projects";
    let issuers = "/api/v1/projects/shop/issuers";
    let certificates = "/api/v1/projects/shop/certificates";
    let targets = "/api/v1/projects/shop/distribution-targets";
    let cases: Vec<Case> = vec![
        (projects, b"{".to_vec(), 400, "json_invalid", &[("line", "1"), ("column", "1")]),
        (projects, b"{\n \"id\": }".to_vec(), 400, "json_invalid", &[("line", "2"), ("column", "8")]),
        (projects, b"".to_vec(), 400, "json_invalid", &[("line", "1")]),
        (projects, b"{\"id\":\"a\"} x".to_vec(), 400, "json_invalid", &[("line", "1")]),
        (projects, b"{\"id\":\"\xff\xfe\"}".to_vec(), 400, "json_invalid", &[]),
        (issuers, deep.into_bytes(), 400, "json_invalid", &[]),
        (projects, b"null".to_vec(), 422, "body_invalid", &[]),
        (projects, b"{}".to_vec(), 422, "body_invalid", &[]),
        (projects, b"{\"id\":1}".to_vec(), 422, "body_invalid", &[("pointer", "/id")]),
        (projects, b"{\"id\":{\"$ne\":1}}".to_vec(), 422, "body_invalid", &[("pointer", "/id")]),
        (projects, b"{\"id\":\"a\",\"id\":\"b\"}".to_vec(), 422, "body_invalid", &[]),
        (projects, b"{\"id\":\"a\",\"owner\":\"b\"}".to_vec(), 422, "body_invalid", &[]),
        (projects, b"{\"id\":\"Not An Id\"}".to_vec(), 422, "project_invalid", &[]),
        (projects, b"{\"id\":\"*\"}".to_vec(), 422, "project_invalid", &[]),
        (issuers, b"{\"name\":\"a\",\"kind\":\"none\"}".to_vec(), 422, "issuer_unknown", &[("kind", "none")]),
        (issuers, b"{\"name\":\"a\\u0000\",\"kind\":\"local-ca\"}".to_vec(), 422, "name_invalid", &[]),
        (issuers, b"{\"name\":\"a\",\"kind\":\"local-ca\",\"config\":[]}".to_vec(), 422, "body_invalid", &[]),
        (
            issuers,
            b"{\"name\":\"a\",\"kind\":\"local-ca\",\"config\":{\"nonsense\":1}}".to_vec(),
            422,
            "config_invalid",
            &[],
        ),
        (targets, b"{\"name\":\"a\",\"module\":\"none\"}".to_vec(), 422, "module_unknown", &[]),
        (certificates, certificate("\"names\":[]").into(), 422, "names_invalid", &[]),
        (certificates, certificate("\"names\":[\"a\",1]").into(), 422, "body_invalid", &[("pointer", "/names/1")]),
        (
            certificates,
            certificate("\"names\":[\"a.example\"],\"key_type\":\"dsa\"").into(),
            422,
            "body_invalid",
            &[("pointer", "/key_type")],
        ),
        (
            certificates,
            certificate("\"names\":[\"a.example\"],\"renewal\":{\"at\":1}").into(),
            422,
            "body_invalid",
            &[],
        ),
        (
            certificates,
            certificate("\"names\":[\"a.example\"],\"batch_size\":0,\"targets\":[\"x\"]").into(),
            422,
            "batch_invalid",
            &[],
        ),
        (
            certificates,
            certificate("\"names\":[\"a.example\"],\"validity_seconds\":-1").into(),
            422,
            "body_invalid",
            &[("pointer", "/validity_seconds")],
        ),
    ];
    for (path, body, status, code, context) in cases {
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        let answer = api.send(Method::POST, path, JSON, body).await;
        assert_eq!((answer.status, &*answer.code()), (status, code), "{shown}: {answer:?}");
        let problem = answer.expect_problem(status, code);
        for (key, value) in context {
            assert_eq!(problem["context"][key], *value, "{shown}: {problem:#}");
        }
    }
    // None of it left anything behind.
    assert_eq!(api.get(projects).await.expect(200).as_array().unwrap().len(), 1);
    assert_eq!(api.get(issuers).await.expect(200).as_array().unwrap().len(), 1);
    assert_eq!(api.get(certificates).await.expect(200)["certificates"], json!([]));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_types_sizes_queries_and_paths_are_checked() {
    let server = TestServer::start().await;
    let api = server.admin.clone();
    api.post("/api/v1/projects", &json!({ "id": "shop" })).await.expect(201);

    let body = || b"{\"id\":\"two\"}".to_vec();
    for content_type in [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("application/jsonx")]
    {
        let answer = api.send(Method::POST, "/api/v1/projects", content_type, body()).await;
        answer.expect_problem(415, "content_type");
    }
    api.send(Method::POST, "/api/v1/projects", Some("Application/JSON; charset=utf-8"), body()).await.expect(201);

    // Exactly the limit is read; one byte more is not.
    let padded = |size: usize| {
        let mut body = b"{\"id\":\"three\"}".to_vec();
        body.resize(size, b' ');
        body
    };
    let large = api.send(Method::POST, "/api/v1/projects", JSON, padded(1024 * 1024 + 1)).await;
    assert_eq!(large.expect_problem(413, "body_too_large")["context"]["limit"], "1048576");
    api.get("/api/v1/projects/three").await.expect_problem(404, "not_found");
    api.send(Method::POST, "/api/v1/projects", JSON, padded(1024 * 1024)).await.expect(201);

    for query in [
        "certificates?limit=0",
        "certificates?limit=1001",
        "certificates?limit=many",
        "certificates?sort=%24where",
        "jobs?state=asleep",
        "jobs?limit=-1",
        "jobs?owner=x",
        "certificates/x/download?include_key=perhaps",
    ] {
        api.get(&format!("/api/v1/projects/shop/{query}")).await.expect_problem(422, "query_invalid");
    }
    for cursor in ["!", "", "_w", &"QUFB".repeat(100)] {
        let path = format!("/api/v1/projects/shop/certificates?cursor={cursor}");
        api.get(&path).await.expect_problem(422, "cursor_invalid");
    }
    for id in ["%27%20OR%201%3D1--", "%7B%22%24ne%22%3A1%7D", "%25", "..%2f..%2fetc", "%0a", &"a".repeat(4000)] {
        for resource in ["certificates", "issuers", "credentials", "distribution-targets", "jobs"] {
            let path = format!("/api/v1/projects/shop/{resource}/{id}");
            api.get(&path).await.expect_problem(404, "not_found");
        }
    }
    api.get("/api/v1/projects/%ff/certificates").await.expect_problem(400, "path_invalid");
    api.get("/api/v1/nothing").await.expect_problem(404, "route_unknown");
    api.send(Method::DELETE, "/api/v1/projects", None, Vec::new()).await.expect_problem(405, "method_not_allowed");
    api.get("/.well-known/acme-challenge/unknown").await.expect_problem(404, "not_found");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_secret_is_not_quoted() {
    let server = TestServer::start().await;
    let api = server.admin.clone();
    api.post("/api/v1/projects", &json!({ "id": "shop" })).await.expect(201);
    let canary = "canary-refused-55d1";
    for body in [
        json!({ "name": "a", "secret": canary }),
        json!({ "name": { "password": canary }, "secret": {} }),
        json!({ "name": "a", "secret": {}, (canary): 1 }),
        json!([canary]),
        json!(canary),
        json!({ "name": "a", "secret": [{ "password": canary }] }),
    ] {
        api.post("/api/v1/projects/shop/credentials", &body).await.expect_problem(422, "body_invalid");
    }
    let torn = format!("{{\"name\":\"a\",\"secret\":{{\"password\":\"{canary}\"");
    let torn = api.send(Method::POST, "/api/v1/projects/shop/credentials", JSON, torn.into_bytes()).await;
    torn.expect_problem(400, "json_invalid");

    // One that is kept, and that the module then cannot use.
    let kept = json!({ "name": "a", "secret": { "user": "u", "password": [canary], (canary): 1 } });
    let credential = api.create("/api/v1/projects/shop/credentials", &kept).await;
    let target = json!({
        "name": "t", "module": "ssh", "credential_id": credential,
        "location": { "host": "127.0.0.1", "paths": { "fullchain": "/etc/tls/site.pem" } },
        "config": { "host_key": { "fingerprint": "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" } },
    });
    let refused = api.post("/api/v1/projects/shop/distribution-targets", &target).await;
    assert_eq!((refused.status, &*refused.code()), (422, "credentials_invalid"), "{refused:?}");
    api.assert_never_seen(canary);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn targets_on_this_machine_stay_where_the_configuration_says() {
    let server = TestServer::start().await;
    let api = server.admin.clone();
    api.post("/api/v1/projects", &json!({ "id": "shop" })).await.expect(201);
    let targets = "/api/v1/projects/shop/distribution-targets";
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut target = file_target("web", &server.tls());
        change(&mut target);
        target
    };
    let outside = server.folder.path().join("outside.pem");
    let cases = [
        (changed(&|target| target["location"]["paths"]["key"] = json!(outside)), "path_escapes_root"),
        (changed(&|target| target["location"]["root"] = json!("/")), "root_forbidden"),
        (changed(&|target| target["config"] = json!({ "reload_command": "id" })), "file_commands_forbidden"),
        (changed(&|target| target["config"] = json!({ "test_command": "id" })), "file_commands_forbidden"),
        (
            json!({ "name": "hook", "module": "webhook", "location": { "url": "https://127.0.0.1/" },
                "config": { "addresses": { "allow_loopback": true } } }),
            "internal_forbidden",
        ),
    ];
    for (target, code) in cases {
        api.post(targets, &target).await.expect_problem(422, code);
    }
    assert_eq!(api.get(targets).await.expect(200), json!([]));
    api.create(targets, &changed(&|_| {})).await;
    server.stop().await;
}
