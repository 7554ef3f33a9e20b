//! Approvals, rules and policy over HTTP, and the same approvals from the command line.

use serde_json::{Value, json};

use crate::support::{Api, TestServer, command, file_target, local_ca, token};

/// A certificate on one file target that needs the approval of one other.
async fn with_rule(server: &TestServer) -> (String, String) {
    let api = &server.admin;
    api.post("/api/v1/projects", &json!({ "id": "shop" })).await.expect(201);
    let project = "/api/v1/projects/shop".to_owned();
    let issuer = api.create(&format!("{project}/issuers"), &local_ca()).await;
    let target = file_target("web", &server.tls().join("web"));
    let target = api.create(&format!("{project}/distribution-targets"), &target).await;
    let new = json!({
        "names": ["www.example.com"], "issuer_id": issuer, "targets": [target], "approval": { "needed": 1 },
    });
    let id = api.create(&format!("{project}/certificates"), &new).await;
    (project, id)
}

async fn pending(api: &Api, project: &str) -> Value {
    let path = format!("{project}/approvals?state=pending");
    api.until(&path, |list| list.as_array().is_some_and(|list| !list.is_empty())).await[0].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_delivered_until_another_token_agrees() {
    let server = TestServer::start().await;
    let api = server.admin.clone();
    let (project, id) = with_rule(&server).await;
    let certificate = format!("{project}/certificates/{id}");
    api.act(&format!("{certificate}/issue")).await.expect(202);
    let first = pending(&api, &project).await;
    assert_eq!(first["requested_by"], "scheduler");
    let status = api.get(&format!("{certificate}/distribution-status")).await.expect(200);
    assert_eq!((&status["run"]["state"], &status["run"]["approval_id"]), (&json!("awaiting-approval"), &first["id"]));
    assert!(!server.tls().join("web").join("fullchain.pem").exists());

    // What is looked at is what is agreed to.
    let request = format!("{project}/approvals/{}", first["id"].as_str().unwrap());
    let shown = api.get(&request).await.expect(200);
    let steps = shown["targets"][0]["plan"]["steps"].as_array().unwrap().clone();
    assert!(steps.iter().any(|step| step["verb"] == "create"), "{shown}");
    let other = json!({ "approve": true, "digest": "0".repeat(64) });
    api.post(&format!("{request}/decisions"), &other).await.expect_problem(422, "approval_other");
    let decision = json!({ "approve": true, "comment": "fine", "digest": shown["digest"] });
    assert_eq!(api.post(&format!("{request}/decisions"), &decision).await.expect(200)["state"], "approved");
    api.until(&certificate, |certificate| certificate["state"] == "active").await;
    api.post(&format!("{request}/decisions"), &decision).await.expect_problem(422, "approval_over");

    // Whoever asks does not agree, whatever their role; rules are the administrators'.
    let operator = token(&server, "shop", "operator").await;
    operator.act(&format!("{certificate}/distribute")).await.expect(202);
    let second = pending(&api, &project).await;
    let request = format!("{project}/approvals/{}", second["id"].as_str().unwrap());
    let own = operator.post(&format!("{request}/decisions"), &json!({ "approve": true })).await;
    own.expect_problem(422, "approval_own");
    let distributions = operator.get(&format!("{certificate}/distributions")).await.expect(200);
    let rules = format!("{project}/distributions/{}/rules", distributions[0]["id"].as_str().unwrap());
    operator.put(&rules, &json!({})).await.expect_problem(403, "role_forbidden");
    assert_eq!(
        api.put(&rules, &json!({ "rollout": { "canary": 2 } })).await.expect(200)["rules"]["approval"],
        Value::Null
    );
    api.post(&format!("{request}/decisions"), &json!({ "approve": false })).await.expect(200);
    let status = api.get(&format!("{certificate}/distribution-status")).await.expect(200);
    assert_eq!(status["run"]["state"], "rejected");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_names_everything_that_it_does_not_allow() {
    let server = TestServer::start().await;
    let api = server.admin.clone();
    api.post("/api/v1/projects", &json!({ "id": "shop" })).await.expect(201);
    let issuer = api.create("/api/v1/projects/shop/issuers", &local_ca()).await;
    let policy = json!({ "key_types": ["ecdsa-p384"], "allow_names": [".shop.example"], "most_names": 1 });
    let set = api.put("/api/v1/projects/shop/policy", &policy).await.expect(200);
    assert_eq!((&set["export_keys"], &api.get("/api/v1/projects/shop/policy").await.expect(200)), (&json!(true), &set));
    let new = json!({ "names": ["a.shop.example", "evil.example"], "issuer_id": issuer });
    let problem = api.post("/api/v1/projects/shop/certificates", &new).await.expect_problem(422, "policy_violated");
    let rules: Vec<_> = problem["violations"].as_array().unwrap().iter().map(|one| one["rule"].clone()).collect();
    assert_eq!(rules, ["key_types", "allow_names", "most_names"]);
    let viewer = token(&server, "shop", "viewer").await;
    viewer.put("/api/v1/projects/shop/policy", &json!({})).await.expect_problem(403, "role_forbidden");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_of_a_target_are_set_and_shown() {
    let server = TestServer::start().await;
    let api = server.admin.clone();
    let (project, id) = with_rule(&server).await;
    let targets = api.get(&format!("{project}/distribution-targets")).await.expect(200);
    let target = format!("{project}/distribution-targets/{}", targets[0]["id"].as_str().unwrap());
    assert_eq!(targets[0]["rules"], json!({ "approval": null, "window": null, "paused": false }));
    let window = json!({ "days": [6, 7], "from_minute": 120, "minutes": 60, "utc_offset_minutes": 60 });
    let rules = json!({ "window": window, "paused": true, "approval": { "needed": 2, "approvers": ["a", "b"] } });
    let set = api.put(&format!("{target}/rules"), &rules).await.expect(200);
    assert_eq!((&set["rules"]["window"], &set["rules"]["paused"]), (&window, &json!(true)));
    let bad = json!({ "window": { "days": [], "from_minute": 0, "minutes": 60 } });
    api.put(&format!("{target}/rules"), &bad).await.expect_problem(422, "window_invalid");
    let bad = json!({ "approval": { "needed": 3, "approvers": ["a", "b"] } });
    api.put(&format!("{target}/rules"), &bad).await.expect_problem(422, "approval_invalid");
    let back = json!({ "version": 4 });
    api.post(&format!("{project}/certificates/{id}/go-back"), &back).await.expect_problem(404, "not_found");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_shown_and_decided_on_the_command_line() {
    let server = TestServer::start().await;
    let api = server.admin.clone();
    let (project, id) = with_rule(&server).await;
    assert_eq!(command(&server, &["approval", "list", "--project", "shop"]).await, "");
    api.act(&format!("{project}/certificates/{id}/issue")).await.expect(202);
    let first = pending(&api, &project).await;
    let request = first["id"].as_str().unwrap();
    let listed = command(&server, &["approval", "list", "--project", "shop"]).await;
    assert!(listed.contains(request) && listed.contains("0 of 1 agreed"), "{listed}");
    let shown = command(&server, &["approval", "show", "--project", "shop", request]).await;
    assert!(shown.contains("web via file\n  1. create "), "{shown}");
    let json: Value =
        serde_json::from_str(&command(&server, &["approval", "show", "--json", "--project", "shop", request]).await)
            .unwrap();
    assert_eq!(json["targets"][0]["plan"]["steps"][0]["verb"], "create");
    let said = ["approval", "approve", "--project", "shop", "--by", "ada", "--comment", "go", request];
    assert_eq!(command(&server, &said).await, "approved: 1 of 1 agreed\n");
    api.until(&format!("{project}/certificates/{id}"), |certificate| certificate["state"] == "active").await;
    server.stop().await;
}
