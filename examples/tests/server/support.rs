//! A server in this process, and a client that remembers every answer.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use certlib_core::Secret;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::app::Server;
use crate::config::Config;
use crate::kek::KekSecrets;
use crate::secrets::Secrets;

pub(crate) const KEK: &str = "5ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2";

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct TestServer {
    pub(crate) folder: Arc<TempDir>,
    pub(crate) admin: Api,
    /// Whether this start made the first token.
    pub(crate) made_token: bool,
    /// Where HTTP-01 challenges are answered.
    pub(crate) http01: String,
    stop: CancellationToken,
    task: JoinHandle<certlib_core::Result<()>>,
}

impl TestServer {
    pub(crate) async fn start() -> Self {
        Self::start_in(Arc::new(tempfile::tempdir().unwrap()), None).await
    }

    /// Starts on the data in `folder`, as whoever has `token` if there is data already.
    pub(crate) async fn start_in(folder: Arc<TempDir>, token: Option<String>) -> Self {
        let root = folder.path().join("tls");
        std::fs::create_dir_all(&root).unwrap();
        let config = Config {
            listen: "127.0.0.1:0".parse().unwrap(),
            http01_listen: Some("127.0.0.1:0".parse().unwrap()),
            data_dir: folder.path().join("data"),
            enable_file_module: true,
            file_module_root: Some(root),
            shutdown_grace_seconds: 5,
            ..Config::default()
        };
        config.check().unwrap();
        let mut server = Server::start(config, secrets()).await.unwrap();
        let base = format!("http://{}", server.address().unwrap());
        let http01 = format!("http://{}", server.http01_address().unwrap());
        let first = server.take_first_token().map(|token| token.expose().clone());
        let made_token = first.is_some();
        let stop = server.stop();
        let task = tokio::spawn(server.run());
        let admin = Api::new(base, first.or(token).expect("a token"));
        Self { folder, admin, made_token, http01, stop, task }
    }

    pub(crate) fn tls(&self) -> std::path::PathBuf {
        self.folder.path().join("tls")
    }

    pub(crate) fn database(&self) -> std::path::PathBuf {
        self.folder.path().join("data/certlib.db")
    }

    /// Stops gracefully and gives the folder back.
    pub(crate) async fn stop(self) -> Arc<TempDir> {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.expect("the server stops").unwrap().unwrap();
        self.folder
    }
}

/// What the environment of a test's server holds: one key.
pub(crate) fn secrets() -> Secrets {
    let variables = vec![(1, Secret::new(KEK.to_owned()))];
    Secrets { kek: KekSecrets { variables, ..KekSecrets::default() }, ..Secrets::default() }
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    pub(crate) location: Option<String>,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        self.json()
    }

    /// Checks that this is a problem document as it should be.
    #[track_caller]
    pub(crate) fn expect_problem(self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.content_type, "application/problem+json", "{self:?}");
        let problem = self.json();
        assert_eq!(problem["code"], code, "{self:?}");
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], format!("urn:certlib:problem:{code}"));
        for member in ["title", "detail", "class"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{member}: {self:?}");
        }
        assert!(problem["context"].is_object());
        problem
    }
}

/// A client with a token. Clones share what they have seen.
#[derive(Clone)]
pub(crate) struct Api {
    base: String,
    pub(crate) token: String,
    http: reqwest::Client,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Api {
    fn new(base: String, token: String) -> Self {
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        Self { base, token, http, seen: Arc::default() }
    }

    /// Where the server is.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    pub(crate) fn with_token(&self, token: &str) -> Self {
        Self { token: token.to_owned(), ..self.clone() }
    }

    pub(crate) async fn send(&self, method: Method, path: &str, content_type: Option<&str>, body: Vec<u8>) -> Answer {
        let mut request = self.http.request(method, format!("{}{path}", self.base)).body(body);
        if !self.token.is_empty() {
            request = request.bearer_auth(&self.token);
        }
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let response = request.send().await.unwrap();
        let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let (content_type, location) = (header("content-type").unwrap_or_default(), header("location"));
        assert!(header("x-request-id").is_some(), "every answer can be found in the log");
        let (status, headers) = (response.status(), format!("{:?}", response.headers()));
        assert_eq!(header("www-authenticate").is_some(), status == StatusCode::UNAUTHORIZED);
        let text = response.text().await.unwrap();
        self.seen.lock().unwrap().push(format!("{path}\n{headers}\n{text}"));
        Answer { status: status.as_u16(), content_type, location, text }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None, Vec::new()).await
    }

    /// Asks for `path` without keeping the answer among those that must not hold a secret.
    pub(crate) async fn get_secret(&self, path: &str) -> Answer {
        Self { seen: Arc::default(), ..self.clone() }.get(path).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, Some("application/json"), body.to_string().into_bytes()).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::PUT, path, Some("application/json"), body.to_string().into_bytes()).await
    }

    pub(crate) async fn act(&self, path: &str) -> Answer {
        self.send(Method::POST, path, None, Vec::new()).await
    }

    /// Creates something and returns its id.
    pub(crate) async fn create(&self, path: &str, body: &Value) -> String {
        let answer = self.post(path, body).await;
        let location = answer.location.clone();
        let id = answer.expect(201)["id"].as_str().unwrap().to_owned();
        assert_eq!(location.unwrap(), format!("{path}/{id}"));
        id
    }

    /// Asks for `path` until `done` says yes.
    pub(crate) async fn until(&self, path: &str, done: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let value = self.get(path).await.expect(200);
            if done(&value) {
                return value;
            }
            assert!(start.elapsed() < PATIENCE, "{path} stays {value:#}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Fails if any answer so far held `secret`.
    #[track_caller]
    pub(crate) fn assert_never_seen(&self, secret: &str) {
        assert!(secret.len() >= 8, "too short to mean anything");
        let seen = self.seen.lock().unwrap();
        assert!(!seen.is_empty());
        for answer in &*seen {
            assert!(!answer.contains(secret), "a secret came back: {answer}");
        }
    }
}

/// A client with a new token, made as an operator makes one.
pub(crate) async fn token(server: &TestServer, project: &str, role: &str) -> Api {
    let text = command(server, &["token", "create", "--project", project, "--role", role]).await;
    server.admin.with_token(text.trim())
}

/// What a command prints that is run beside the server.
pub(crate) async fn command(server: &TestServer, arguments: &[&str]) -> String {
    let mut out = Vec::new();
    let data = server.folder.path().join("data").display().to_string();
    let environment = vec![("CERTLIB_DATA_DIR".to_owned(), data), ("CERTLIB_KEK".to_owned(), KEK.to_owned())];
    let arguments = ["server"].iter().chain(arguments);
    let cli = <crate::cli::Cli as clap::Parser>::try_parse_from(arguments).unwrap();
    assert_eq!(crate::cli::run(cli, environment, &mut out).await, 0);
    String::from_utf8(out).unwrap()
}

pub(crate) const LOCAL_CA: &str = "local-ca";

/// The configuration of an issuer that needs nothing.
pub(crate) fn local_ca() -> Value {
    json!({ "name": "test root", "kind": LOCAL_CA, "config": { "common_name": "certlib test root" } })
}

/// A target on this machine: full chain and key in `folder`.
pub(crate) fn file_target(name: &str, folder: &Path) -> Value {
    std::fs::create_dir_all(folder).unwrap();
    json!({
        "name": name,
        "module": "file",
        "location": { "paths": {
            "fullchain": folder.join("fullchain.pem"),
            "key": folder.join("key.pem"),
        } },
    })
}
