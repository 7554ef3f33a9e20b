//! Who may see and do what.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Api, TestServer, file_target, local_ca, token};

/// One of everything, in a project of its own.
struct Tenant {
    path: String,
    credential: String,
    issuer: String,
    target: String,
    certificate: String,
    job: String,
}

async fn tenant(server: &TestServer, project: &str) -> Tenant {
    let api = &server.admin;
    api.post("/api/v1/projects", &json!({ "id": project })).await.expect(201);
    let path = format!("/api/v1/projects/{project}");
    let secret = json!({ "name": "c", "secret": { "password": "canary-tenant-91b2" } });
    let credential = api.create(&format!("{path}/credentials"), &secret).await;
    let issuer = api.create(&format!("{path}/issuers"), &local_ca()).await;
    let target = file_target("t", &server.tls().join(project));
    let target = api.create(&format!("{path}/distribution-targets"), &target).await;
    let new = json!({ "names": ["www.example.com"], "issuer_id": issuer, "targets": [target] });
    let certificate = api.create(&format!("{path}/certificates"), &new).await;
    let job = api.act(&format!("{path}/certificates/{certificate}/issue")).await.expect(202);
    let job = job["job_id"].as_str().unwrap().to_owned();
    Tenant { path, credential, issuer, target, certificate, job }
}

/// An answer with everything in it that may differ taken out.
async fn shape(api: &Api, method: &Method, path: &str, body: Option<&Value>, id: &str) -> (u16, String, Value) {
    let answer = match body {
        Some(body) => api.post(path, body).await,
        None => api.send(method.clone(), path, None, Vec::new()).await,
    };
    let text = answer.text.replace(id, "ID");
    (answer.status, answer.content_type, serde_json::from_str(&text).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_belongs_to_another_project_does_not_exist() {
    let server = TestServer::start().await;
    let (a, b) = (tenant(&server, "a").await, tenant(&server, "b").await);
    let api = token(&server, "a", "admin").await;
    let nobody = certlib_core::model::new_id();

    let (get, post) = (Method::GET, Method::POST);
    let by_path = [
        (&get, "credentials/ID", &b.credential),
        (&get, "issuers/ID", &b.issuer),
        (&get, "distribution-targets/ID", &b.target),
        (&get, "certificates/ID", &b.certificate),
        (&post, "certificates/ID/issue", &b.certificate),
        (&post, "certificates/ID/renew", &b.certificate),
        (&post, "certificates/ID/revoke", &b.certificate),
        (&get, "certificates/ID/download", &b.certificate),
        (&get, "certificates/ID/download?include_key=true", &b.certificate),
        (&post, "certificates/ID/distribute", &b.certificate),
        (&post, "certificates/ID/distribute?dry_run=true", &b.certificate),
        (&get, "certificates/ID/distribution-status", &b.certificate),
        (&get, "certificates/ID/events", &b.certificate),
        (&get, "jobs/ID", &b.job),
        (&post, "jobs/ID/retry", &b.job),
        (&get, "jobs/ID/log", &b.job),
        (&get, "jobs/ID/log/stream", &b.job),
        (&post, "jobs/ID/cancel", &b.job),
    ];
    for (method, path, theirs) in by_path {
        let at = |id: &str| format!("{}/{}", a.path, path.replace("ID", id));
        let foreign = shape(&api, method, &at(theirs), None, theirs).await;
        assert_eq!((foreign.0, &foreign.2["code"]), (404, &json!("not_found")), "{path}: {foreign:?}");
        assert_eq!(foreign, shape(&api, method, &at(&nobody), None, &nobody).await, "{path}");
    }

    let certificate =
        |issuer: &str, targets: &[&str]| json!({ "names": ["x.example"], "issuer_id": issuer, "targets": targets });
    let with_credential = |mut body: Value, credential: &str| {
        body["credential_id"] = json!(credential);
        body
    };
    let target = || file_target("t", &server.tls().join("a"));
    type Make<'a> = Box<dyn Fn(&str) -> Value + 'a>;
    let by_reference: [(&str, &str, Make<'_>); 4] = [
        ("certificates", &b.issuer, Box::new(|id| certificate(id, &[]))),
        ("certificates", &b.target, Box::new(|id| certificate(&a.issuer, &[id]))),
        ("issuers", &b.credential, Box::new(|id| with_credential(local_ca(), id))),
        ("distribution-targets", &b.credential, Box::new(|id| with_credential(target(), id))),
    ];
    for (path, theirs, make) in by_reference {
        let path = format!("{}/{path}", a.path);
        let foreign = shape(&api, &post, &path, Some(&make(theirs)), theirs).await;
        assert_eq!((foreign.0, &foreign.2["code"]), (404, &json!("not_found")), "{path}: {foreign:?}");
        assert_eq!(foreign, shape(&api, &post, &path, Some(&make(&nobody)), &nobody).await, "{path}");
    }

    // Lists, filters and cursors show one's own alone.
    for path in ["credentials", "issuers", "distribution-targets", "certificates", "jobs"] {
        let text = api.get(&format!("{}/{path}", a.path)).await.text;
        for theirs in [&b.credential, &b.issuer, &b.target, &b.certificate, &b.job] {
            assert!(!text.contains(theirs.as_str()), "{path}");
        }
    }
    let foreign = api.get(&format!("{}/jobs?key={}", a.path, b.certificate)).await.expect(200);
    assert_eq!(foreign["jobs"], json!([]));
    let own = api.get("/api/v1/projects").await.expect(200);
    assert_eq!(own.as_array().unwrap().iter().map(|project| &project["id"]).collect::<Vec<_>>(), ["a"]);
    // Theirs is as it was.
    server.admin.until(&format!("{}/jobs/{}", b.path, b.job), |job| job["state"] == "succeeded").await;
    api.assert_never_seen("canary-tenant-91b2");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_open_what_they_are_for() {
    let server = TestServer::start().await;
    let (a, b) = (tenant(&server, "a").await, tenant(&server, "b").await);
    let admin = server.admin.clone();

    // Not a token, not quite the token, not a bearer token.
    let (head, tail) = admin.token.split_at(admin.token.len() - 1);
    let wrong_end = format!("{head}{}", if tail == "0" { "1" } else { "0" });
    let unknown_id = format!("certlib_{}_{}", "0".repeat(16), "0".repeat(64));
    let upper = admin.token.to_uppercase();
    for token in ["", "x", "certlib__", head, &wrong_end, &unknown_id, &upper, "*"] {
        for path in ["/api/v1/projects", &a.path, "/api/v1/projects/unknown"] {
            admin.with_token(token).get(path).await.expect_problem(401, "token_invalid");
        }
    }
    // The size of a body is not looked at before the token.
    let large = vec![b' '; 1024 * 1024 + 1];
    let answer = admin.with_token("x").send(Method::POST, "/api/v1/projects", Some("application/json"), large).await;
    answer.expect_problem(401, "token_invalid");

    // Another project, there or not, is forbidden alike.
    let of_b = token(&server, "b", "admin").await;
    of_b.get(&b.path).await.expect(200);
    let there = of_b.get(&a.path).await.expect_problem(403, "project_forbidden");
    let not_there = of_b.get("/api/v1/projects/none").await.expect_problem(403, "project_forbidden");
    assert_eq!(there, not_there);
    of_b.post("/api/v1/projects", &json!({ "id": "mine" })).await.expect_problem(403, "project_forbidden");

    // Roles.
    let viewer = token(&server, "a", "viewer").await;
    let operator = token(&server, "a", "operator").await;
    let admin_of_a = token(&server, "a", "admin").await;
    let certificate = format!("{}/certificates/{}", a.path, a.certificate);
    admin.until(&certificate, |certificate| certificate["state"] == "active").await;
    viewer.get(&format!("{certificate}/download")).await;
    viewer.act(&format!("{certificate}/renew")).await.expect_problem(403, "role_forbidden");
    viewer.act(&format!("{certificate}/distribute?dry_run=true")).await.expect_problem(403, "role_forbidden");
    operator.act(&format!("{certificate}/distribute?dry_run=true")).await.expect(200);
    for api in [&viewer, &operator] {
        let refused = api.get(&format!("{certificate}/download?include_key=true")).await;
        refused.expect_problem(403, "role_forbidden");
    }
    let with_key = admin_of_a.get_secret(&format!("{certificate}/download?include_key=true")).await;
    assert!(with_key.status == 200 && with_key.text.contains("PRIVATE KEY"));
    let operator_of_all = token(&server, "*", "operator").await;
    operator_of_all.get(&b.path).await.expect(200);
    operator_of_all.post("/api/v1/projects", &json!({ "id": "c" })).await.expect_problem(403, "role_forbidden");

    // Withdrawn is withdrawn.
    let id = viewer.token.split('_').nth(1).unwrap().to_owned();
    let data = server.folder.path().join("data").display().to_string();
    let environment =
        vec![("CERTLIB_DATA_DIR".to_owned(), data), ("CERTLIB_KEK".to_owned(), crate::support::KEK.to_owned())];
    let cli = ["server", "token", "revoke", "--id", &id];
    let cli = <crate::cli::Cli as clap::Parser>::try_parse_from(cli).unwrap();
    assert_eq!(crate::cli::run(cli, environment, &mut Vec::new()).await, 0);
    viewer.get(&a.path).await.expect_problem(401, "token_invalid");

    for api in [&admin, &viewer, &operator, &admin_of_a, &of_b] {
        admin.assert_never_seen(&api.token);
        admin.assert_never_seen(api.token.rsplit('_').next().unwrap());
    }
    server.stop().await;
}
