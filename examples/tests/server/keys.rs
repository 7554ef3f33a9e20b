//! The life of a key-encryption key, as an operator leads it: with the command line, beside a server that runs.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use crate::child::{PATIENCE, Process, Said, command, key_file, run, serve, spawn, write_key_file};
use crate::support::local_ca;

/// Talks to a server process.
pub(crate) struct Http {
    base: String,
    pub(crate) token: String,
    http: reqwest::Client,
}

impl Http {
    /// As whoever has `token`; by default the one that the server showed at its first start.
    pub(crate) fn of(server: &Process, token: Option<&str>) -> Self {
        let shown = || server.said().lines().find_map(|line| Some(line.split_once("once: ")?.1.to_owned()));
        let token = token.map(str::to_owned).or_else(shown).expect("a token");
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        Self { base: format!("http://{}", server.address), token, http }
    }

    pub(crate) async fn text(&self, method: Method, path: &str, body: &Value) -> String {
        let request = self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token);
        let request = if body.is_null() { request } else { request.json(body) };
        let response = request.send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        assert!(status.is_success(), "{path}: {status} {text}");
        text
    }

    async fn send(&self, method: Method, path: &str, body: &Value) -> Value {
        serde_json::from_str(&self.text(method, path, body).await).unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        self.send(Method::GET, path, &Value::Null).await
    }
}

const CERTIFICATES: &str = "/api/v1/projects/shop/certificates";

/// Has a certificate issued, whose key the server keeps; returns its path.
pub(crate) async fn certificate(http: &Http) -> String {
    http.send(Method::POST, "/api/v1/projects", &json!({ "id": "shop" })).await;
    let issuer = http.send(Method::POST, "/api/v1/projects/shop/issuers", &local_ca()).await;
    let new = json!({ "names": ["www.example.com"], "issuer_id": issuer["id"] });
    let certificate = http.send(Method::POST, CERTIFICATES, &new).await;
    let path = format!("{CERTIFICATES}/{}", certificate["id"].as_str().unwrap());
    http.send(Method::POST, &format!("{path}/issue"), &Value::Null).await;
    let start = Instant::now();
    while http.get(&path).await["state"] != "active" {
        assert!(start.elapsed() < PATIENCE, "it is not issued");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    path
}

/// The certificate at `path` with its private key.
pub(crate) async fn with_key(http: &Http, path: &str) -> String {
    let pem = http.text(Method::GET, &format!("{path}/download?include_key=true"), &Value::Null).await;
    assert!(pem.contains("PRIVATE KEY"));
    pem
}

pub(crate) fn kek(data: &Path, arguments: &[&str]) -> Said {
    run(&mut command(data, &[&["kek"], arguments].concat()))
}

/// Runs a command until it ends with 0.
pub(crate) fn until_done(data: &Path, arguments: &[&str]) -> Said {
    let start = Instant::now();
    loop {
        let said = kek(data, arguments);
        if said.code == Some(0) {
            return said;
        }
        assert!(start.elapsed() < PATIENCE, "{said:?}");
    }
}

/// Makes a key as version 2 and gives it to `server` by way of the key file.
fn second_key(data: &Path, server: &mut Process) -> String {
    let made = kek(data, &["generate"]).expect(0);
    assert!(made.out.starts_with("v2 ") && made.out.ends_with('\n') && made.out.len() == 3 + 64 + 1, "{made:?}");
    assert!(!made.err.contains(&made.out[3..67]), "standard error is kept in logs");
    assert!(made.err.contains("rotate --to-version 2"), "{made:?}");
    write_key_file(data, &format!("{}{}", key_file(data), made.out));
    server.signal("HUP");
    let line = server.until("a key was added");
    assert!(
        line.contains("\"version\":2") && line.contains("fingerprint") && !line.contains(&made.out[3..67]),
        "{line}"
    );
    made.out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_rotated_while_the_server_runs() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let mut server = serve(&mut command(data, &[]));
    let http = Http::of(&server, None);
    let path = certificate(&http).await;
    let key = with_key(&http, &path).await;
    let old = key_file(data);

    let lacking = kek(data, &["verify", "--target", "2"]).expect(1);
    assert!(lacking.err.contains('2') || lacking.out.contains('2'), "{lacking:?}");
    let new = second_key(data, &mut server);
    until_done(data, &["verify", "--target", "2"]);
    let view = http.get("/api/v1/settings/keyring").await;
    assert_eq!((&view["primary"]["version"], &view["rotation"]), (&json!(1), &Value::Null), "{view:#}");

    let rotated = kek(data, &["rotate", "--to-version", "2", "--wait"]).expect(0);
    assert!(rotated.err.contains("from v1") && rotated.err.contains("done: every secret is under v2"), "{rotated:?}");
    let status = kek(data, &["status", "--json"]).expect(0).json();
    assert_eq!(status["primary"]["version"], 2, "{status:#}");
    assert_eq!(status["retired"][0]["version"], 1, "{status:#}");
    assert_eq!(status["rotation"], Value::Null);
    let view = http.get("/api/v1/settings/keyring").await;
    assert_eq!((&view["primary"], &view["retired"]), (&status["primary"], &status["retired"]));
    let text = kek(data, &["status"]).expect(0).out;
    assert!(text.contains("v2") && text.contains("v1"), "{text}");
    assert_eq!(with_key(&http, &path).await, key, "what was sealed before is read");

    // The old key is not taken from a server while it is retired only.
    write_key_file(data, &new);
    server.signal("HUP");
    server.until("kek_needed");
    write_key_file(data, &format!("{old}{new}"));
    kek(data, &["remove", "--version", "1"]).expect_refusal(2, "--yes");
    until_done(data, &["remove", "--version", "1", "--yes"]);
    write_key_file(data, &new);
    server.signal("HUP");
    let line = server.until("a key was removed");
    assert!(line.contains("\"version\":1"), "{line}");
    assert_eq!(with_key(&http, &path).await, key);

    let (code, said) = server.end("TERM");
    assert_eq!(code, Some(0), "{said}");
    for secret in [&old[3..67], &new[3..67]] {
        assert!(!said.contains(secret), "a key in the log: {said}");
    }
    let server = serve(&mut command(data, &[]));
    let http = Http::of(&server, Some(&http.token));
    assert_eq!(with_key(&http, &path).await, key, "with the new key alone");
    server.end("TERM");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_the_key_of_its_secrets_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let mut server = serve(&mut command(data, &[]));
    certificate(&Http::of(&server, None)).await;
    let old = key_file(data);
    let new = second_key(data, &mut server);
    assert_eq!(server.end("TERM").0, Some(0));
    write_key_file(data, &new);
    let said = run(&mut command(data, &[])).expect_refusal(1, "kek_orphaned");
    assert!(!said.err.contains("listening") && !said.err.contains(&new[3..67]), "{said:?}");
    // Commands that look do so nevertheless: this is when they are needed.
    let status = kek(data, &["status", "--json"]).expect(0).json();
    assert_eq!(status["primary"]["version"], 1, "{status:#}");
    write_key_file(data, &format!("{old}{new}"));
    assert_eq!(serve(&mut command(data, &[])).end("TERM").0, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_file_is_read_again_without_being_told() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let mut server = serve(command(data, &[]).env("CERTLIB_KEK_RELOAD_SECONDS", "1"));
    let old = key_file(data);
    write_key_file(data, &format!("{old}v2 nonsense\n"));
    let line = server.until("kek_invalid");
    assert!(line.contains("ERROR") && !line.contains("nonsense"), "{line}");
    write_key_file(data, &format!("{old}v2 {}\n", "ab12".repeat(16)));
    server.until("a key was added");
    assert_eq!(server.end("TERM").0, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_done_is_refused_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    kek(data, &["status"]).expect_refusal(1, "database_missing");
    assert!(!data.join("kek").exists() && !data.join("certlib.db").exists(), "looking makes nothing");
    let server = serve(&mut command(data, &[]));
    let third = "ab12".repeat(16);
    // A key that only the command line has.
    let ahead = |arguments: &[&str]| run(command(data, &[&["kek"], arguments].concat()).env("CERTLIB_KEK_V3", &third));
    until_done(data, &["verify", "--target", "1"]);
    assert_eq!(ahead(&["verify", "--target", "3"]).expect(1).err.matches("a-node").count(), 1);
    kek(data, &["rotate", "--to-version", "9"]).expect_refusal(1, "kek_unknown");
    kek(data, &["rotate", "--to-version", "1"]).expect_refusal(1, "kek_is_primary");
    kek(data, &["cancel"]).expect_refusal(1, "rotation");
    kek(data, &["remove", "--version", "9", "--yes"]).expect_refusal(1, "kek_");
    kek(data, &["remove", "--version", "1", "--yes"]).expect_refusal(1, "kek_");
    kek(data, &["generate", "--version", "1"]).expect_refusal(1, "kek_exists");
    assert!(ahead(&["generate"]).expect(0).out.starts_with("v4 "));

    // It waits for the server, which lacks the key, and whoever waits may go.
    let arguments = ["kek", "rotate", "--to-version", "3", "--wait"];
    let mut waiting = spawn(command(data, &arguments).env("CERTLIB_KEK_V3", &third).stdout(Stdio::null()));
    waiting.until("prepare");
    let (code, said) = waiting.end("INT");
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("goes on") && said.contains("kek status"), "{said}");
    let status = kek(data, &["status", "--json"]).expect(0).json();
    assert_eq!(status["rotation"]["phase"], "prepare", "{status:#}");
    assert_eq!((&status["rotation"]["from"]["version"], &status["rotation"]["to"]["version"]), (&json!(1), &json!(3)));
    ahead(&["rotate", "--to-version", "3"]).expect_refusal(1, "rotation_unfinished");
    kek(data, &["cancel"]).expect(0);
    assert_eq!(kek(data, &["status", "--json"]).expect(0).json()["rotation"], Value::Null);
    assert_eq!(server.end("TERM").0, Some(0));
}
