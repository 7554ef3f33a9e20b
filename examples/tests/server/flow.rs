//! The whole life of a certificate over HTTP.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use certlib_core::CertificateBundle;
use serde_json::{Value, json};

use crate::support::{TestServer, file_target, local_ca};

/// Everything about the files in `folder` that a change would change.
fn look(folder: &Path) -> Vec<(String, u64, i64, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, metadata.ino(), metadata.mtime_nsec(), std::fs::read(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    files
}

fn private_key(pem: &str) -> &str {
    let body = pem.split("PRIVATE KEY-----\n").nth(1).expect("a key");
    body.lines().nth(1).unwrap_or_else(|| body.lines().next().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_nothing_to_a_certificate_that_is_served_renewed_and_downloaded() {
    let server = TestServer::start().await;
    assert!(server.made_token);
    let api = server.admin.clone();
    let web = server.tls().join("web");

    api.post("/api/v1/projects", &json!({ "id": "shop" })).await.expect(201);
    api.post("/api/v1/projects", &json!({ "id": "shop" })).await.expect_problem(409, "conflict");
    let project = "/api/v1/projects/shop";
    let credential = json!({ "name": "deploy", "secret": { "user": "root", "password": "canary-password-7f3a" } });
    let credential = api.create(&format!("{project}/credentials"), &credential).await;
    api.get(&format!("{project}/credentials/{credential}")).await.expect(200);
    let issuer = api.create(&format!("{project}/issuers"), &local_ca()).await;
    let target = api.create(&format!("{project}/distribution-targets"), &file_target("web", &web)).await;
    let new = json!({ "names": ["www.example.com"], "issuer_id": issuer, "targets": [target] });
    let certificates = format!("{project}/certificates");
    let id = api.create(&certificates, &new).await;
    let certificate = format!("{certificates}/{id}");

    // Nothing is there yet.
    assert_eq!(api.get(&certificate).await.expect(200)["state"], "pending");
    api.get(&format!("{certificate}/download")).await.expect_problem(404, "not_found");
    api.act(&format!("{certificate}/distribute")).await.expect_problem(409, "nothing_issued");
    let status = api.get(&format!("{certificate}/distribution-status")).await.expect(200);
    assert_eq!(status, json!({ "run": null, "targets": [] }));

    // Issued, delivered, proven.
    let answer = api.act(&format!("{certificate}/issue")).await;
    let job = answer.location.clone().unwrap();
    assert!(job.ends_with(answer.expect(202)["job_id"].as_str().unwrap()));
    api.until(&job, |job| job["state"] == "succeeded").await;
    let live = api.until(&certificate, |certificate| certificate["state"] == "active").await;
    assert_eq!((live["active_version"].as_u64(), live["latest_version"].as_u64()), (Some(1), Some(1)));
    assert_eq!(live["versions"][0]["leaf"]["names"], json!(["www.example.com"]));
    let status = api.get(&format!("{certificate}/distribution-status")).await.expect(200);
    assert_eq!(status["run"]["state"], "succeeded");
    assert_eq!(status["targets"][0]["status"], "validated");

    // What can be downloaded is what was delivered.
    let answer = api.get(&format!("{certificate}/download")).await;
    assert_eq!((answer.status, &*answer.content_type), (200, "application/x-pem-file"));
    assert_eq!(answer.text, std::fs::read_to_string(web.join("fullchain.pem")).unwrap());
    assert!(!answer.text.contains("PRIVATE"));
    let with_key = api.get_secret(&format!("{certificate}/download?include_key=true&version=1")).await.text;
    let bundle = CertificateBundle::from_pem(with_key.as_bytes()).unwrap();
    assert!(bundle.key().is_some(), "the key belongs to the leaf, or it would not parse");
    let key = std::fs::read_to_string(web.join("key.pem")).unwrap();
    assert!(with_key.ends_with(&key));
    api.get(&format!("{certificate}/download?version=2")).await.expect_problem(404, "not_found");

    dry_run_changes_nothing(&api, &certificate, &web).await;

    // Delivering again is work that ends well and changes nothing.
    let started = api.act(&format!("{certificate}/distribute")).await.expect(202);
    let job = format!("{project}/jobs/{}", started["runs"][0]["job_id"].as_str().unwrap());
    api.until(&job, |job| job["state"] == "succeeded").await;
    api.act(&format!("{job}/cancel")).await.expect_problem(409, "job_finished");

    // Renewed: another leaf is live, and the first version is still there.
    let job = api.act(&format!("{certificate}/renew")).await.location.unwrap();
    api.until(&job, |job| job["state"] == "succeeded").await;
    api.until(&certificate, |certificate| certificate["active_version"] == 2).await;
    let renewed = api.get(&format!("{certificate}/download")).await.text;
    assert_eq!(renewed, std::fs::read_to_string(web.join("fullchain.pem")).unwrap());
    let first = api.get(&format!("{certificate}/download?version=1")).await.text;
    assert_ne!(CertificateBundle::from_pem(first.as_bytes()).unwrap().fingerprint(), {
        CertificateBundle::from_pem(renewed.as_bytes()).unwrap().fingerprint()
    });

    let events = api.get(&format!("{certificate}/events")).await.expect(200);
    let kinds: Vec<_> = events.as_array().unwrap().iter().map(|event| event["kind"].as_str().unwrap()).collect();
    for kind in ["certificate.created", "certificate.key_exported"] {
        assert!(kinds.contains(&kind), "{kind}: {kinds:?}");
    }
    let jobs = api.get(&format!("{project}/jobs?kind=issue_certificate&key={id}")).await.expect(200);
    assert_eq!(jobs["jobs"].as_array().unwrap().len(), 1);

    let metrics = api.get("/metrics").await;
    assert_eq!(metrics.status, 200);
    for line in [
        "certlib_jobs_total{kind=\"issue_certificate\",state=\"succeeded\"}",
        "certlib_job_duration_seconds_bucket{kind=\"issue_certificate\",le=",
        "certlib_jobs_queue_depth{kind=\"issue_certificate\",state=\"pending\"} ",
        "certlib_targets_total{module=\"file\",status=\"validated\"}",
    ] {
        assert!(metrics.text.contains(line), "{line}\n{}", metrics.text);
    }

    // Everything is still there after a restart, the token included, and no second one is made.
    let token = api.token.clone();
    api.assert_never_seen("canary-password-7f3a");
    api.assert_never_seen(crate::support::KEK);
    api.assert_never_seen(&token);
    api.assert_never_seen(private_key(&key));
    api.assert_never_seen(private_key(&std::fs::read_to_string(web.join("key.pem")).unwrap()));
    api.assert_never_seen("PRIVATE KEY");
    let folder = server.stop().await;
    let server = TestServer::start_in(folder, Some(token)).await;
    assert!(!server.made_token);
    assert_eq!(server.admin.get(&certificate).await.expect(200)["active_version"], 2);
    let database = std::fs::read(server.database()).unwrap();
    for secret in ["canary-password-7f3a", &server.admin.token[24..]] {
        assert!(!database.windows(secret.len()).any(|window| window == secret.as_bytes()), "a secret is on the disk");
    }
    server.stop().await;
}

async fn dry_run_changes_nothing(api: &crate::support::Api, certificate: &str, web: &Path) {
    // Something to change, so that the plan is not empty.
    std::fs::write(web.join("fullchain.pem"), "something else\n").unwrap();
    let project = certificate.split("/certificates/").next().unwrap();
    let paths = [
        certificate.to_owned(),
        format!("{certificate}/distribution-status"),
        format!("{certificate}/events"),
        format!("{project}/jobs"),
    ];
    let mut before = Vec::new();
    for path in &paths {
        before.push(api.get(path).await.expect(200));
    }
    let files = look(web);
    let first = api.act(&format!("{certificate}/distribute?dry_run=true")).await.expect(200);
    let second = api.act(&format!("{certificate}/distribute?dry_run=true")).await.expect(200);
    assert_eq!(first, second);
    let planned = &first["targets"][0];
    assert_eq!((&planned["changes"], &planned["error"]), (&json!(true), &Value::Null), "{first:#}");
    let steps = planned["plan"]["steps"].as_array().unwrap();
    assert!(steps.iter().any(|step| step["verb"] == "replace"), "{steps:?}");
    assert_eq!(look(web), files);
    for (path, before) in paths.iter().zip(before) {
        assert_eq!(api.get(path).await.expect(200), before, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_come_in_pages() {
    let server = TestServer::start().await;
    let api = server.admin.clone();
    api.post("/api/v1/projects", &json!({ "id": "shop" })).await.expect(201);
    let issuer = api.create("/api/v1/projects/shop/issuers", &local_ca()).await;
    let certificates = "/api/v1/projects/shop/certificates";
    let mut made = Vec::new();
    for index in 0..7 {
        let new = json!({ "names": [format!("host{index}.example.com")], "issuer_id": issuer });
        made.push(api.create(certificates, &new).await);
    }
    let (mut listed, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = api.get(&format!("{certificates}?limit=3{cursor}")).await.expect(200);
        let ids = page["certificates"].as_array().unwrap().iter();
        listed.extend(ids.map(|certificate| certificate["id"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(listed, made);

    for id in &made {
        api.act(&format!("{certificates}/{id}/issue")).await.expect(202);
    }
    let jobs = "/api/v1/projects/shop/jobs";
    let mut keys = Vec::new();
    let mut before = String::new();
    loop {
        let page = api.get(&format!("{jobs}?kind=issue_certificate&limit=3{before}")).await.expect(200);
        keys.extend(page["jobs"].as_array().unwrap().iter().map(|job| job["key"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => before = format!("&before={next}"),
            None => break,
        }
    }
    keys.reverse();
    assert_eq!(keys, made);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_are_cancelled_and_tried_again() {
    let server = TestServer::start().await;
    let api = server.admin.clone();
    api.post("/api/v1/projects", &json!({ "id": "shop" })).await.expect(201);
    // Nobody listens on port 9 of this machine, so the job waits for its next try.
    let issuer = json!({ "name": "away", "kind": "acme", "config": {
        "directory_url": "https://127.0.0.1:9/directory", "contact": ["mailto:ops@example.com"],
        "terms_of_service_agreed": true, "challenge": { "type": "http-01" },
    } });
    let issuer = api.create("/api/v1/projects/shop/issuers", &issuer).await;
    let new = json!({ "names": ["www.example.com"], "issuer_id": issuer });
    let id = api.create("/api/v1/projects/shop/certificates", &new).await;
    let job = api.act(&format!("/api/v1/projects/shop/certificates/{id}/issue")).await.location.unwrap();
    let waiting =
        api.until(&job, |job| job["state"] == "pending" && !job["attempts"].as_array().unwrap().is_empty()).await;
    assert_eq!(waiting["attempts"][0]["error"]["class"], "network", "{waiting:#}");
    api.act(&format!("{job}/retry")).await.expect_problem(409, "job_active");
    assert_eq!(api.act(&format!("{job}/cancel")).await.expect(202)["state"], "cancelled");
    api.act(&format!("{job}/cancel")).await.expect_problem(409, "job_finished");
    assert_eq!(api.act(&format!("{job}/retry")).await.expect(202)["state"], "pending");
    server.stop().await;
}
