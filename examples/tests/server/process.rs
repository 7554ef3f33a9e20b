//! The server as a process: its configuration, its output, its end.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Parser as _;
use serde_json::Value;

use crate::cli::{self, Cli};

const CHILD: &str = "SERVER_TEST_CHILD";

/// Not a test of its own: what [`start`] runs in another process.
#[test]
fn child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let environment = std::env::vars().collect();
    let code = runtime.block_on(cli::run(Cli::parse_from(["server"]), environment, &mut std::io::stdout()));
    std::process::exit(code.into());
}

/// A running server process and what it has said so far.
struct Process {
    child: Child,
    stderr: Option<BufReader<std::process::ChildStderr>>,
    said: Vec<String>,
    address: String,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(data: &std::path::Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["process::child", "--exact", "--nocapture", "--test-threads=1"]).env_clear();
    command.env(CHILD, "1").env("CERTLIB_DATA_DIR", data).env("CERTLIB_LISTEN", "127.0.0.1:0");
    command.env("CERTLIB_LOG_JSON", "true").env("CERTLIB_SHUTDOWN_GRACE_SECONDS", "5");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Starts a server and reads what it says until it listens.
fn start(data: &std::path::Path) -> Process {
    let mut child = command(data).spawn().unwrap();
    let stderr = child.stderr.take().map(BufReader::new);
    let mut process = Process { child, stderr, said: Vec::new(), address: String::new() };
    loop {
        let mut line = String::new();
        assert_ne!(
            process.stderr.as_mut().unwrap().read_line(&mut line).unwrap(),
            0,
            "it ended early: {:?}",
            process.said
        );
        process.said.push(line.clone());
        if let Ok(event) = serde_json::from_str::<Value>(&line)
            && event["fields"]["message"] == "listening"
        {
            process.address = event["fields"]["address"].as_str().unwrap().to_owned();
            return process;
        }
    }
}

impl Process {
    /// Sends `signal` and waits for the end.
    fn end(self, signal: &str) -> (Option<i32>, Vec<String>) {
        let sent = Command::new("kill").args([&format!("-{signal}"), &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        self.wait()
    }

    /// Waits for the end: the exit code and everything that was said.
    fn wait(mut self) -> (Option<i32>, Vec<String>) {
        let deadline = Instant::now() + Duration::from_secs(30);
        let code = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status.code();
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        };
        let mut rest = String::new();
        if let Some(stderr) = &mut self.stderr {
            stderr.read_to_string(&mut rest).unwrap();
        }
        self.said.extend(rest.lines().map(str::to_owned));
        (code, std::mem::take(&mut self.said))
    }
}

/// Runs a server that must refuse to start: its exit code and what it said.
fn refused(command: &mut Command) -> (Option<i32>, String) {
    let mut child = command.spawn().unwrap();
    let stderr = child.stderr.take().map(BufReader::new);
    let process = Process { child, stderr, said: Vec::new(), address: String::new() };
    let (code, said) = process.wait();
    (code, said.join("\n"))
}

async fn status(address: &str, path: &str, token: &str) -> u16 {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    http.get(format!("http://{address}{path}")).bearer_auth(token).send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn the_first_token_is_shown_once_and_signals_stop_gracefully() {
    let folder = tempfile::tempdir().unwrap();
    let mut token = None;
    for signal in ["TERM", "INT"] {
        let process = start(folder.path());
        let first =
            process.said.iter().find_map(|line| line.split("once: ").nth(1)).map(|token| token.trim().to_owned());
        assert_eq!(first.is_some(), token.is_none(), "only the first start makes a token");
        let shown = token.get_or_insert_with(|| first.unwrap()).clone();
        assert_eq!(status(&process.address, "/api/v1/projects", &shown).await, 200);
        assert_eq!(status(&process.address, "/readyz", "").await, 200);
        let made_now = process.said.iter().any(|line| line.contains("once: "));
        let (code, said) = process.end(signal);
        assert_eq!(code, Some(0), "{said:?}");
        let said = said.join("\n");
        assert!(said.contains("asked to stop") && said.contains("\"stopped\""), "{said}");
        assert_eq!(said.matches(&shown).count(), usize::from(made_now), "{said}");
        assert_eq!(said.matches(shown.rsplit('_').next().unwrap()).count(), usize::from(made_now));
    }
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(folder.path().join("kek")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn it_also_stops_when_nobody_reads_its_log_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = start(folder.path());
    // Closes the only reading end: whatever the server logs from here on fails.
    process.stderr = None;
    assert_eq!(process.end("TERM").0, Some(0));
}

#[tokio::test]
async fn a_key_of_another_database_is_refused_at_start() {
    let folder = tempfile::tempdir().unwrap();
    start(folder.path()).end("TERM");
    let (code, stderr) = refused(command(folder.path()).env("CERTLIB_KEK", "ab".repeat(32)));
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("kek_wrong"), "{stderr}");
    assert!(!stderr.contains(&"ab".repeat(32)));
    std::fs::remove_file(folder.path().join("kek")).unwrap();
    let (code, stderr) = refused(&mut command(folder.path()));
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("kek_missing"), "{stderr}");
}

async fn check(toml: &str, environment: &[(&str, &str)]) -> (u8, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("server.toml");
    std::fs::write(&file, format!("data_dir = {:?}\n{toml}", folder.path().join("data"))).unwrap();
    let cli = Cli::try_parse_from(["server", "--config", file.to_str().unwrap(), "--check-config"]).unwrap();
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let mut out = Vec::new();
    let code = cli::run(cli, environment, &mut out).await;
    assert!(!folder.path().join("data").exists(), "a check makes nothing");
    (code, String::from_utf8(out).unwrap())
}

#[tokio::test]
async fn configurations_are_checked_without_starting_anything() {
    let kek = "ab".repeat(32);
    let (code, said) = check("listen = \"127.0.0.1:0\"", &[("CERTLIB_KEK", &kek)]).await;
    assert_eq!((code, &*said), (0, "the configuration is fine\n"));
    assert_eq!(check("", &[]).await.0, 0);
    let short = "ab".repeat(31);
    let long = "ab".repeat(33);
    let zero = "00".repeat(32);
    let bad: [(&str, &[(&str, &str)]); 8] = [
        ("lisen = \"127.0.0.1:0\"", &[]),
        ("listen = 80", &[]),
        ("listen = ", &[]),
        ("log = \"a=b=c\"", &[]),
        ("", &[("CERTLIB_LISEN", "127.0.0.1:0")]),
        ("", &[("CERTLIB_KEK", &short)]),
        ("", &[("CERTLIB_KEK", &long)]),
        ("", &[("CERTLIB_KEK", &zero)]),
    ];
    for (toml, environment) in bad {
        let (code, said) = check(toml, environment).await;
        assert_eq!((code, &*said), (2, ""), "{toml} {environment:?}");
    }
    let missing = Cli::try_parse_from(["server", "--config", "does-not-exist.toml", "--check-config"]).unwrap();
    assert_eq!(cli::run(missing, Vec::new(), &mut Vec::new()).await, 2);
}

#[test]
fn the_command_line_explains_itself() {
    let help = Cli::try_parse_from(["server", "--help"]).unwrap_err();
    assert_eq!(help.exit_code(), 0);
    for word in ["--config", "--check-config", "token", "CERTLIB_KEK", "Exit codes"] {
        assert!(help.to_string().contains(word), "{word}");
    }
    assert_eq!(Cli::try_parse_from(["server", "--nonsense"]).unwrap_err().exit_code(), 2);
}
