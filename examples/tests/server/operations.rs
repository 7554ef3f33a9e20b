//! What operators look at: the cluster, metrics, job logs, and many jobs at once.

use serde_json::{Value, json};

use crate::support::{Api, KEK, TestServer, file_target, local_ca, token};

/// A project with a certificate on one target below `folder`; the path of the project and the certificate's id.
async fn shop(server: &TestServer, folder: &str) -> (String, String) {
    let api = &server.admin;
    api.post("/api/v1/projects", &json!({ "id": "shop" })).await.expect(201);
    let project = "/api/v1/projects/shop".to_owned();
    let issuer = api.create(&format!("{project}/issuers"), &local_ca()).await;
    let target = file_target("web", &server.tls().join(folder));
    let target = api.create(&format!("{project}/distribution-targets"), &target).await;
    let new = json!({ "names": ["www.example.com"], "issuer_id": issuer, "targets": [target] });
    let certificate = api.create(&format!("{project}/certificates"), &new).await;
    (project, certificate)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cluster_and_its_keys_are_shown_to_admins_of_all_projects() {
    let server = TestServer::start().await;
    let api = server.admin.clone();
    let path = "/api/v1/settings/cluster-instances";
    let keyring = "/api/v1/settings/keyring";
    let leads = |cluster: &Value| cluster["instances"][0]["roles"] == json!(["scheduler_leader"]);
    let cluster = api.until(path, leads).await;
    let instances = cluster["instances"].as_array().unwrap();
    assert_eq!(instances.len(), 1, "{cluster:#}");
    let node = &instances[0];
    assert_eq!((&node["mode"], &node["stale"]), (&json!(["worker", "scheduler"]), &json!(false)));
    assert_eq!(node["pid"], std::process::id());
    assert_eq!(node["keyring_versions"], json!([1]));
    assert_eq!(node["lanes"]["issuance"], json!({ "slots": 16, "running": 0 }));
    assert!(node["id"].as_str().unwrap().starts_with(&format!("{}/", node["name"].as_str().unwrap())));
    assert_eq!((&cluster["orphan_leaders"], &cluster["newest_epoch"]), (&json!([]), &json!(1)));

    let keys = api.get(keyring).await.expect(200);
    assert_eq!((&keys["epoch"], &keys["retired"], &keys["rotation"]), (&json!(1), &json!([]), &Value::Null));
    assert_eq!((&keys["primary"]["version"], &keys["primary"]["provider"]), (&json!(1), &json!("local")));
    assert_eq!(keys["primary"]["fingerprint"].as_str().unwrap().len(), 64);
    let key = &keys["keys"][0];
    assert_eq!((&key["role"], &key["at_hand"], &key["lacking"]), (&json!("primary"), &json!(true), &json!([])));
    assert_eq!(key["fingerprint"], keys["primary"]["fingerprint"]);

    api.post("/api/v1/projects", &json!({ "id": "shop" })).await.expect(201);
    for (project, role, code) in
        [("shop", "admin", "project_forbidden"), ("*", "viewer", "role_forbidden"), ("*", "operator", "role_forbidden")]
    {
        let api = token(&server, project, role).await;
        api.get(path).await.expect_problem(403, code);
        api.get(keyring).await.expect_problem(403, code);
    }
    api.with_token("").get(path).await.expect_problem(401, "token_invalid");
    api.assert_never_seen(KEK);

    // After a restart the former process is gone, and what it knew is not.
    let kept = (server.stop().await, api.token.clone());
    let server = TestServer::start_in(kept.0, Some(kept.1)).await;
    let cluster = server.admin.until(path, leads).await;
    assert_eq!(cluster["instances"].as_array().unwrap().len(), 1);
    assert_ne!(cluster["instances"][0]["id"], node["id"]);
    assert_eq!(cluster["newest_epoch"], 2);
    assert!(server.folder.path().join("data/state/leader-epochs.json").is_file());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_tell_who_leads_and_how_busy_the_lanes_are() {
    let server = TestServer::start().await;
    let leads = |cluster: &Value| cluster["instances"][0]["roles"] == json!(["scheduler_leader"]);
    server.admin.until("/api/v1/settings/cluster-instances", leads).await;
    let metrics = server.admin.get("/metrics").await.text;
    for line in [
        "certlib_scheduler_leader_elections_total ",
        "certlib_store_regressed 0",
        "certlib_lane_slots{lane=\"issuance\"} 16",
        "certlib_lane_running{lane=\"issuance\"} ",
        "certlib_node_heartbeat_age_seconds ",
        "certlib_jobs_queue_depth{kind=\"renew_certificate\",state=\"pending\"} 0",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    // Other servers of this process share the recorder, so the value may be theirs.
    assert!(metrics.lines().any(|line| line.starts_with("certlib_scheduler_is_leader ")), "{metrics}");
    server.stop().await;
}

/// The events of a stream that has ended: name, id, data.
fn events(stream: &str) -> Vec<(String, String, Value)> {
    let field = |event: &str, name: &str| {
        let prefix = format!("{name}: ");
        event.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap_or_default().to_owned()
    };
    let events = stream.split("\n\n").filter(|event| event.contains("data: "));
    events
        .map(|event| (field(event, "event"), field(event, "id"), serde_json::from_str(&field(event, "data")).unwrap()))
        .collect()
}

async fn follow(api: &Api, path: &str) -> Vec<(String, String, Value)> {
    let answer = api.get(path).await;
    assert_eq!((answer.status, &*answer.content_type), (200, "text/event-stream"), "{answer:?}");
    events(&answer.text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_are_read_by_the_page_and_followed_to_their_end() {
    let server = TestServer::start().await;
    let api = server.admin.clone();
    let (project, certificate) = shop(&server, "web").await;
    let job = api.act(&format!("{project}/certificates/{certificate}/issue")).await.location.unwrap();
    // Followed while it runs; the stream ends with the job.
    let streamed = follow(&api, &format!("{job}/log/stream")).await;
    assert_eq!(streamed.last().unwrap().0, "end");
    api.until(&job, |job| job["state"] == "succeeded").await;

    let whole = api.get(&format!("{job}/log")).await.expect(200);
    let lines = whole["lines"].as_array().unwrap();
    assert!(!lines.is_empty() && whole["next"].is_null(), "{whole:#}");
    let told: Vec<_> = streamed.iter().filter(|event| event.0 == "line").map(|event| event.2.clone()).collect();
    assert_eq!(&told, lines);
    assert!(streamed.iter().filter(|event| event.0 == "line").all(|(_, id, line)| line["position"] == **id));
    for line in lines {
        assert!(["info", "warn", "error"].contains(&line["level"].as_str().unwrap()));
        assert!(line["attempt"] == 1 && !line["message"].as_str().unwrap().is_empty());
    }

    // Page by page, and from the middle: nothing twice, nothing missing.
    let (mut paged, mut after) = (Vec::new(), String::new());
    loop {
        let page = api.get(&format!("{job}/log?limit=1{after}")).await.expect(200);
        paged.extend(page["lines"].as_array().unwrap().iter().cloned());
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(&paged, lines);
    let first = lines[0]["position"].as_str().unwrap();
    let rest = follow(&api, &format!("{job}/log/stream?after={first}")).await;
    assert_eq!(rest.len(), lines.len(), "all lines but one, and the end");

    let problems =
        [("?after=x", 422, "position_invalid"), ("?limit=0", 422, "query_invalid"), ("?x=1", 422, "query_invalid")];
    for (query, status, code) in problems {
        api.get(&format!("{job}/log{query}")).await.expect_problem(status, code);
    }
    api.get(&format!("{job}/log/stream?after=x")).await.expect_problem(422, "position_invalid");
    for path in ["log", "log/stream"] {
        api.get(&format!("{project}/jobs/nothing/{path}")).await.expect_problem(404, "not_found");
        let elsewhere = job.replace("/shop/", "/other/");
        api.get(&format!("{elsewhere}/{path}")).await.expect_problem(404, "not_found");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_jobs_are_retried_at_once() {
    let server = TestServer::start().await;
    let api = server.admin.clone();
    let (project, certificate) = shop(&server, "web").await;
    // A file stands where the target's directory should be: a failure for good.
    let web = server.tls().join("web");
    std::fs::remove_dir(&web).unwrap();
    std::fs::write(&web, "in the way").unwrap();
    api.act(&format!("{project}/certificates/{certificate}/issue")).await.expect(202);
    let failed = format!("{project}/jobs?kind=distribution_execute&state=failed");
    let jobs = api.until(&failed, |page| page["jobs"].as_array().unwrap().len() == 1).await;
    let job = format!("{project}/jobs/{}", jobs["jobs"][0]["id"].as_str().unwrap());

    let retry = format!("{project}/jobs/retry");
    let answer = api.post(&retry, &json!({ "dry_run": true })).await.expect(200);
    assert_eq!(answer, json!({ "retried": 1, "skipped": {}, "limited": false }));
    assert_eq!(api.get(&job).await.expect(200)["state"], "failed", "nothing was done");
    let answer = api.post(&retry, &json!({ "kind": "issue_certificate" })).await.expect(200);
    assert_eq!(answer["retried"], 0);

    std::fs::remove_file(&web).unwrap();
    std::fs::create_dir(&web).unwrap();
    let answer = api.post(&retry, &json!({ "state": "failed", "spread_seconds": 0 })).await.expect(200);
    assert_eq!(answer["retried"], 1);
    api.until(&job, |job| job["state"] == "succeeded").await;
    assert!(web.join("fullchain.pem").is_file());
    assert_eq!(api.act(&retry).await.expect(200)["retried"], 0, "and without a body");

    for body in [json!({ "limit": 0 }), json!({ "limit": 10_001 }), json!({ "spread_seconds": 86_401 })] {
        api.post(&retry, &body).await.expect_problem(422, "body_invalid");
    }
    api.post(&retry, &json!({ "state": "lost" })).await.expect_problem(422, "body_invalid");
    api.post(&retry, &json!({ "state": "succeeded" })).await.expect_problem(422, "state_not_retryable");
    let viewer = token(&server, "shop", "viewer").await;
    viewer.act(&retry).await.expect_problem(403, "role_forbidden");
    api.act(&retry.replace("/shop/", "/other/")).await.expect_problem(404, "not_found");
    server.stop().await;
}
