//! Commands: what reaches a shell, and what commands and those who run them may do to us.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use certlib_core::{Effect, ErrorClass, Result};
use certlib_modules::files::quote;
use certlib_testkit::attacks::ODD_NAMES;
use certlib_testkit::simhost::{Action, Fault, SimHost, UserAuth};
use certlib_testkit::winrm::{ScriptMatcher, ScriptOutput};
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::common::{Subject, certificate, journal};
use crate::windows;

// --- the one encoder for shells ---------------------------------------------------------------------------------

/// Has `shell` print each word followed by NUL, as it understood it.
fn through_shell(shell: &str, words: &[String]) -> Vec<String> {
    let script: String = words.iter().map(|word| format!("printf '%s\\0' {}\n", quote(word))).collect();
    let child = Command::new(shell).arg("-s").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{shell} is needed for this test: {error}"));
    let mut input = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || input.write_all(script.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success(), "{shell}");
    String::from_utf8(output.stdout).unwrap().split_terminator('\0').map(str::to_owned).collect()
}

#[test]
fn a_hundred_thousand_words_survive_every_shell() {
    let mut runner = TestRunner::deterministic();
    let mut words: Vec<String> = ODD_NAMES.iter().map(|name| (*name).to_owned()).collect();
    words.extend(["", "'", "''", "'\\''", "\\", "\n", "-n", "--", "$'\\x41'"].map(str::to_owned));
    // Anything, what shells look at, and single quotes among what they look at.
    let patterns = ["\\PC{0,8}", "[ '\"$`\\\\;&|<>(){}*?#~!%^\n\t\r=\\[\\]a-c-]{0,10}", "['\\\\$`\"! ]{1,6}"];
    let strategies = patterns.map(|pattern| proptest::string::string_regex(pattern).unwrap().boxed());
    for at in 0..100_000 {
        words.push(strategies[at % 3].new_tree(&mut runner).unwrap().current());
    }
    assert!(words.len() > 100_000);
    std::thread::scope(|scope| {
        for shell in ["sh", "bash", "dash"] {
            let words = &words;
            scope.spawn(move || {
                // In batches: a script of all at once takes memory, one process per word takes an hour.
                for batch in words.chunks(20_000) {
                    let seen = through_shell(shell, batch);
                    let differs = batch.iter().zip(&seen).find(|(sent, seen)| sent != seen);
                    assert!(differs.is_none() && seen.len() == batch.len(), "{shell}: {differs:?}");
                }
            });
        }
    });
}

/// A command is run as it was written: nothing of a certificate, a CA or a host is put into it, nor into its environment.
#[tokio::test]
async fn commands_have_no_variables() {
    let folder = tempfile::tempdir().unwrap();
    let (_, bundle) = certificate(&["canary.example.com"]);
    let out = folder.path().join("out");
    let command = format!(
        "{{ printf '%s' '{{name}} {{cn}} %s ${{NAME}} {{{{san}}}}'; env; }} > {}",
        quote(out.to_str().unwrap())
    );
    let config = json!({ "reload_command": command });
    let location = json!({ "paths": { "cert": folder.path().join("site.pem") } });
    Subject::new("file", config, location, None).deliver(&bundle, &journal()).await.unwrap();
    let seen = fs::read_to_string(&out).unwrap();
    assert!(seen.starts_with("{name} {cn} %s ${NAME} {{san}}"), "{seen}");
    assert!(!seen.contains("canary"), "{seen}");
}

// --- what commands do -------------------------------------------------------------------------------------------

/// What is made of a command: code and class of the error; `None`: it succeeded.
type Outcome = Option<(&'static str, ErrorClass)>;
type Row = (&'static str, Outcome);

const FAILED: Outcome = Some(("command_failed", ErrorClass::IoPermanent));
const LATE: Outcome = Some(("command_timeout", ErrorClass::IoTransient));

#[track_caller]
fn judged(what: &str, outcome: Result<()>, expected: Outcome) {
    match (outcome, expected) {
        (Ok(()), None) => {}
        (Err(error), Some((code, class))) => {
            let seen = (error.code(), error.class(), error.effect());
            assert_eq!(seen, (code, class, Effect::Possible), "{what}: {error:?}");
            let text = format!("{error:?}");
            assert!(text.len() < 4096, "{what}: {} bytes", text.len());
            assert!(!text.contains(['\u{1b}', '\u{7}', '\0']), "{what}: {text:?}");
        }
        (outcome, expected) => panic!("{what}: {outcome:?} instead of {expected:?}"),
    }
}

#[tokio::test]
async fn commands_of_this_machine() {
    let table: [Row; 13] = [
        ("true", None),
        ("echo 'error: failed' >&2; echo FATAL; exit 0", None),
        ("head -c 20000000 /dev/zero; exit 0", None),
        ("head -c 100000000 /dev/zero >&2; exit 3", FAILED),
        ("printf '\\033[2J\\007\\000' >&2; exit 1", FAILED),
        ("exit 126", FAILED),
        ("exit 127", FAILED),
        ("no-such-program-anywhere", FAILED),
        ("kill -KILL $$", FAILED),
        ("kill -SEGV $$", FAILED),
        ("sleep 1000", LATE),
        ("exec cat /dev/zero", LATE),
        ("exec cat /dev/zero >&2", LATE),
    ];
    let (_, bundle) = certificate(&["localhost"]);
    for (command, expected) in table {
        let folder = tempfile::tempdir().unwrap();
        let limit = if expected == LATE { 500 } else { 60_000 };
        let config = json!({ "reload_command": command, "command_timeout_ms": limit });
        let location = json!({ "paths": { "cert": folder.path().join("site.pem") } });
        let started = Instant::now();
        let outcome = Subject::new("file", config, location, None).deliver(&bundle, &journal()).await;
        judged(command, outcome.map(drop), expected);
        assert!(started.elapsed() < Duration::from_secs(40), "{command}");
    }
}

#[tokio::test]
async fn commands_of_hosts() {
    let reply = |exit_code, stdout: &str, stderr: &str| {
        (Some(Action::Reply { exit_code, stdout: stdout.to_owned(), stderr: stderr.to_owned() }), None)
    };
    let fault = |fault| (None, Some(fault));
    let flood = "x".repeat(5_000_000);
    let escape = "\u{1b}[2J\u{7}\0";
    let lost = Some(("command_no_status", ErrorClass::IoTransient));
    let table = [
        ("exit 0", reply(0, "", ""), None),
        ("exit 0 with the text of an error", reply(0, "FATAL", "error: failed"), None),
        ("exit 0 after a flood", reply(0, &flood, ""), None),
        ("exit 1 after a flood of errors", reply(1, "", &flood), FAILED),
        ("exit 1 with escapes", reply(1, "", escape), FAILED),
        ("exit 126", reply(126, "", ""), FAILED),
        ("exit 127", reply(127, "", "not found"), FAILED),
        ("exit 4294967295", reply(u32::MAX, "", ""), FAILED),
        ("a hang", fault(Fault::ReloadHangs), LATE),
        ("a flood without end", fault(Fault::ReloadFloods), LATE),
        ("no status", fault(Fault::NoExitStatus), lost),
    ];
    let (_, bundle) = certificate(&["localhost"]);
    for (what, (action, fault), expected) in table {
        let host = SimHost::builder().user("root", UserAuth::password("p")).directory("/etc/ssl", 0o755);
        let host = host.start().await.unwrap();
        let command = "certlib-sim reload";
        if let Some(action) = action {
            host.set_command(command, action).unwrap();
        }
        host.set_fault(fault).await.unwrap();
        let address = host.ssh_addr();
        let limit = if expected == LATE { 500 } else { 60_000 };
        let config = json!({
            "host_key": { "known_hosts": host.known_hosts_line() },
            "reload_command": command, "command_timeout_ms": limit,
        });
        let location = json!({
            "host": address.ip().to_string(), "port": address.port(), "paths": { "cert": "/etc/ssl/site.pem" },
        });
        let subject = Subject::new("ssh", config, location, Some(json!({ "user": "root", "password": "p" })));
        let started = Instant::now();
        judged(what, subject.deliver(&bundle, &journal()).await.map(drop), expected);
        assert!(started.elapsed() < Duration::from_secs(40), "{what}");
    }
}

#[tokio::test]
async fn commands_of_windows_hosts() {
    type Answer = fn() -> ScriptOutput;
    let table: [(&str, Answer, Outcome); 7] = [
        ("exit 0", || ScriptOutput::text(""), None),
        ("exit 0 with the text of an error", || ScriptOutput::text("FATAL: failed"), None),
        ("exit 0 after a flood", || ScriptOutput::text("x".repeat(2_000_000)), None),
        ("exit 1 after a flood of errors", || ScriptOutput::failure(1, "x".repeat(2_000_000)), FAILED),
        ("exit 1 with escapes", || ScriptOutput::failure(1, "\u{1b}[2J\u{7}"), FAILED),
        ("exit 9009", || ScriptOutput::failure(9009, "is not recognized"), FAILED),
        ("a hang", || ScriptOutput::text("").after(Duration::from_secs(600)), LATE),
    ];
    let (_, bundle) = certificate(&["localhost"]);
    for (what, answer, expected) in table {
        let host = windows::host()
            .script(ScriptMatcher::program("app-reload"), move |_, _| answer())
            .windows(|windows| windows.files.create_directories(r"C:\tls").unwrap())
            .start()
            .await
            .unwrap();
        let limit = if expected == LATE { 1_000 } else { 60_000 };
        let config = json!({
            "connection": windows::connection(&host), "wsman": { "operation_timeout_ms": 500 },
            "reload_command": "app-reload", "command_timeout_ms": limit,
        });
        let location = json!({ "url": host.https_url(), "paths": { "cert": r"C:\tls\site.pem" } });
        let credentials = json!({ "login": windows::ntlm(windows::PASSWORD) });
        let subject = Subject::new("winrm", config, location, Some(credentials));
        let started = Instant::now();
        judged(what, subject.deliver(&bundle, &journal()).await.map(drop), expected);
        assert!(started.elapsed() < Duration::from_secs(60), "{what}");
    }
}

// --- who runs them ----------------------------------------------------------------------------------------------

/// Dry run of an SSH target at `port`, which has two seconds for its greeting.
async fn greeted(port: u16, credentials: Value) -> certlib_core::Error {
    let config = json!({
        "host_key": { "fingerprint": format!("SHA256:{}", "A".repeat(43)) }, "handshake_timeout_ms": 2_000,
    });
    let location = json!({ "host": "127.0.0.1", "port": port, "paths": { "cert": "/etc/ssl/site.pem" } });
    let (_, bundle) = certificate(&["localhost"]);
    Subject::new("ssh", config, location, Some(credentials)).plan(&bundle).await.unwrap_err()
}

#[tokio::test]
async fn greetings_without_end_or_sense() {
    let line = b"banner banner banner\r\n".repeat(1000);
    let table: [(&str, Vec<u8>, bool); 7] = [
        ("lines without end", line, true),
        ("a line without end", vec![b'x'; 65_536], true),
        ("another protocol", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), false),
        ("an old version", b"SSH-1.5-old\r\n".to_vec(), false),
        ("a packet of 4 GB", [&b"SSH-2.0-x\r\n"[..], &[0xff; 64]].concat(), false),
        ("nothing, hung up", Vec::new(), false),
        ("zeros without end", vec![0; 65_536], true),
    ];
    for (what, bytes, repeats) in table {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                while stream.write_all(&bytes).await.is_ok() && repeats {}
            }
        });
        let started = Instant::now();
        let error = greeted(port, json!({ "user": "root", "password": "canary" })).await;
        assert!(matches!(error.class(), ErrorClass::Network | ErrorClass::IoPermanent), "{what}: {error:?}");
        assert_eq!(error.effect(), Effect::None, "{what}");
        assert!(started.elapsed() < Duration::from_secs(20), "{what}");
        assert!(!format!("{error:?}").contains("canary"));
        server.abort();
    }
}

/// RUSTSEC-2026-0154: an agent that announces a frame of 4 GB is not believed.
///
/// The agent's socket is named by the environment, so the test runs in a process of its own.
#[tokio::test]
async fn an_agent_with_a_huge_frame() {
    const INSIDE: &str = "CERTLIB_CATALOGUE_AGENT";
    if std::env::var_os(INSIDE).is_some() {
        let host = SimHost::builder().user("root", UserAuth::password("p")).start().await.unwrap();
        let config = json!({
            "host_key": { "known_hosts": host.known_hosts_line() }, "handshake_timeout_ms": 3_000,
        });
        let address = host.ssh_addr();
        let location = json!({
            "host": address.ip().to_string(), "port": address.port(), "paths": { "cert": "/etc/ssl/site.pem" },
        });
        let login = json!({ "user": "root", "agent": true });
        let (_, bundle) = certificate(&["localhost"]);
        let error = Subject::new("ssh", config, location, Some(login)).plan(&bundle).await.unwrap_err();
        assert!(["agent_unusable", "handshake_timeout"].contains(&error.code()), "{error:?}");
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(peak < 512 * 1024, "{peak} kB at most");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let agent = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(&u32::MAX.to_be_bytes()).await;
            while stream.write_all(&[12; 65_536]).await.is_ok() {}
        }
    });
    let child = tokio::task::spawn_blocking(move || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "commands::an_agent_with_a_huge_frame"]).env("SSH_AUTH_SOCK", socket).env(INSIDE, "1");
        command.output().unwrap()
    });
    let output = child.await.unwrap();
    agent.abort();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}
