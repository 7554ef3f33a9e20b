//! A real API server: what it is for is what is shown here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{fs, time::Duration};

use certlib_testkit::{Error, counterpart::Kubernetes, locate, process::poll_until, require};
use serde_json::{Value, json};
use tokio::net::TcpStream;

const SECRETS: &str = "/api/v1/namespaces/shop/secrets";
const APPLY: &str = "application/apply-patch+yaml";

fn secret(certificate: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": "www"},
        "data": {"tls.crt": certificate, "tls.key": "a2V5"}})
}

#[tokio::test]
async fn kubernetes_authorises_keeps_owners_and_comes_back() {
    let mut kubernetes = require!(Kubernetes::start().await);
    let version = kubernetes.version().await.unwrap();
    assert!(version.starts_with("v1."), "{version}");
    kubernetes.create_namespace("shop").await.unwrap();

    // RBAC: an account may do what its role says, in its namespace.
    let rules = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "create", "patch"]}]);
    let account = kubernetes.account("shop", "deployer", &rules).await.unwrap();
    assert!(!format!("{account:?} {kubernetes:?}").contains(account.token()));
    let ask = async |token: &str, method: &str, path: &str, kind: &str, body: Option<&Value>| {
        kubernetes.call_as(token, method, path, kind, body).await.unwrap()
    };
    let (status, refusal) = ask(account.token(), "GET", SECRETS, "", None).await;
    assert_eq!((status, &refusal["reason"]), (403, &json!("Forbidden")));
    let (status, _) = ask(account.token(), "GET", "/api/v1/namespaces/default/secrets/x", "", None).await;
    assert_eq!(status, 403);
    for token in [kubernetes.expired_token(&account).unwrap().as_str(), "nonsense"] {
        assert_eq!(ask(token, "GET", &format!("{SECRETS}/www"), "", None).await.0, 401);
    }

    // Server-side apply: a second manager gets a conflict, a dry run stores nothing, a stale version is refused.
    let apply = async |manager: &str, query: &str, body: &Value| {
        let path = format!("{SECRETS}/www?fieldManager={manager}{query}");
        ask(account.token(), "PATCH", &path, APPLY, Some(body)).await
    };
    assert_eq!(apply("first", "", &secret("YQ==")).await.0, 201);
    let (status, conflict) = apply("second", "", &secret("Yg==")).await;
    assert_eq!((status, &conflict["details"]["causes"][0]["reason"]), (409, &json!("FieldManagerConflict")));
    assert_eq!(apply("second", "&force=true&dryRun=All", &secret("Yg==")).await.0, 200);
    let stored = kubernetes.ask("GET", &format!("{SECRETS}/www"), None).await.unwrap();
    assert_eq!(
        (&stored["data"]["tls.crt"], &stored["metadata"]["managedFields"][0]["manager"]),
        (&json!("YQ=="), &json!("first"))
    );
    let mut stale = secret("Yg==");
    stale["metadata"]["resourceVersion"] = json!("1");
    assert_eq!(apply("first", "", &stale).await.0, 409);

    // Client certificates: the user is the subject.
    let (certificate, key) = kubernetes.client_certificate("root", "system:masters").unwrap();
    assert!(certificate.contains("BEGIN CERTIFICATE") && key.contains("PRIVATE KEY"));

    // What is stored outlives the server, in the middle of whatever it did.
    kubernetes.kill();
    assert!(matches!(kubernetes.call("GET", "/version", None).await, Err(Error::Protocol { .. })));
    kubernetes.resume().await.unwrap();
    kubernetes.freeze().await.unwrap();
    TcpStream::connect(kubernetes.addr()).await.unwrap();
    kubernetes.thaw().unwrap();
    let limit = Duration::from_secs(60);
    let found =
        poll_until("an answer", limit, async || kubernetes.ask("GET", &format!("{SECRETS}/www"), None).await.ok());
    assert_eq!(found.await.unwrap()["metadata"]["uid"], stored["metadata"]["uid"]);

    let (folder, addr) = (kubernetes.folder().to_owned(), kubernetes.addr());
    kubernetes.stop().await.unwrap();
    assert!(TcpStream::connect(addr).await.is_err(), "something still listens on {addr}");
    assert!(!folder.exists());
    let needle = folder.display().to_string();
    let lines =
        fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    assert!(!lines.map(|line| String::from_utf8_lossy(&line).into_owned()).any(|line| line.contains(&needle)));
}

#[tokio::test]
async fn both_programs_are_found_as_one_counterpart() {
    let counterpart = locate::COUNTERPARTS.iter().find(|counterpart| counterpart.name == "kubernetes").unwrap();
    let paths = require!(locate::locate_all(counterpart).await);
    assert!(paths.len() == 2 && paths.iter().all(|path| path.is_file()), "{paths:?}");
}
