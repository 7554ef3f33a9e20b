//! The server as a process: its configuration, its output, its end.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use clap::Parser as _;

use crate::child::{command, command_by, exit_code, key_file, run, serve, signal_to, write_key_file};
use crate::cli::{self, Cli};

async fn status(address: &str, path: &str, token: &str) -> u16 {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    http.get(format!("http://{address}{path}")).bearer_auth(token).send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn the_first_token_is_shown_once_and_signals_stop_gracefully() {
    let folder = tempfile::tempdir().unwrap();
    let mut token = None;
    for signal in ["TERM", "INT"] {
        let process = serve(&mut command(folder.path(), &[]));
        let first = process.said().lines().find_map(|line| Some(line.split_once("once: ")?.1.to_owned()));
        assert_eq!(first.is_some(), token.is_none(), "only the first start makes a token");
        let shown = token.get_or_insert_with(|| first.unwrap()).clone();
        assert_eq!(status(&process.address, "/api/v1/projects", &shown).await, 200);
        assert_eq!(status(&process.address, "/readyz", "").await, 200);
        let made_now = process.said().contains("once: ");
        let (code, said) = process.end(signal);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("asked to stop") && said.contains("\"stopped\""), "{said}");
        assert_eq!(said.matches(&shown).count(), usize::from(made_now), "{said}");
        assert_eq!(said.matches(shown.rsplit('_').next().unwrap()).count(), usize::from(made_now));
    }
    assert!(key_file(folder.path()).starts_with("v1 "));
}

#[test]
fn it_also_stops_when_nobody_reads_its_log_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = command(folder.path(), &[]).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(server.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("\"listening\"")));
    // Closes the only reading end: whatever the server logs from here on fails.
    drop(lines);
    signal_to(&server, "TERM");
    assert_eq!(exit_code(&mut server), Some(0));
}

#[tokio::test]
async fn a_key_of_another_database_is_refused_at_start() {
    let folder = tempfile::tempdir().unwrap();
    serve(&mut command(folder.path(), &[])).end("TERM");
    let other = "ab12".repeat(16);
    let key = key_file(folder.path());
    std::fs::remove_file(folder.path().join("kek")).unwrap();
    let said = run(command(folder.path(), &[]).env("CERTLIB_KEK", &other)).expect_refusal(1, "kek_missing");
    assert!(!said.err.contains(&other), "{said:?}");
    // Nor beside the right one, as the same version.
    write_key_file(folder.path(), &key);
    run(command(folder.path(), &[]).env("CERTLIB_KEK", &other)).expect_refusal(1, "kek_conflict");
    serve(command(folder.path(), &[]).env("CERTLIB_KEK_V2", &other)).end("TERM");
    std::fs::remove_file(folder.path().join("kek")).unwrap();
    run(&mut command(folder.path(), &[])).expect_refusal(1, "kek_missing");
}

/// The value of `name` in a file of `/proc`, up to the end of its line.
fn proc(pid: u32, file: &str, name: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .unwrap_or_else(|| panic!("no {name} in {text}"))
        .trim()
        .to_owned()
}

fn locked_kib(pid: u32) -> u64 {
    proc(pid, "status", "VmLck:").trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn no_core_is_dumped_and_memory_is_locked_or_that_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(&mut command(folder.path(), &[]));
    let pid = server.child.id();
    let core: Vec<_> = proc(pid, "limits", "Max core file size").split_whitespace().map(str::to_owned).collect();
    assert_eq!(core, ["0", "0", "bytes"]);
    let said = server.said();
    let warned = said.contains("keys in memory may be swapped out");
    assert_ne!(said.contains("the memory of this process is locked"), warned, "{said}");
    assert_eq!(locked_kib(pid) > 1024, !warned, "{said}");
    assert_eq!(server.end("TERM").0, Some(0), "allocations go on working");
}

#[test]
fn with_a_small_limit_memory_is_not_locked_and_the_remedy_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let root = std::fs::read_to_string("/proc/self/status").unwrap().contains("Uid:\t0\t");
    let mut launcher = Command::new(if root { "setpriv" } else { "prlimit" });
    if root {
        // The capabilities with which limits mean nothing.
        launcher.args(["--bounding-set=-sys_resource,-ipc_lock", "prlimit"]);
    }
    launcher.arg("--memlock=65536:131072").arg(std::env::current_exe().unwrap());
    let server = serve(&mut command_by(launcher, folder.path(), &[]));
    let said = server.said();
    let line = said.lines().find(|line| line.contains("may be swapped out")).expect("a warning");
    assert!(line.contains("131072") && line.contains("LimitMEMLOCK=infinity"), "{line}");
    assert_eq!(locked_kib(server.child.id()), 0);
    assert_eq!(server.end("TERM").0, Some(0));
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
    let kek = "ab12".repeat(16);
    let (code, said) = check("listen = \"127.0.0.1:0\"", &[("CERTLIB_KEK", &kek)]).await;
    assert_eq!((code, &*said), (0, "the configuration is fine\n"));
    assert_eq!(check("", &[]).await.0, 0);
    let short = "ab".repeat(31);
    let long = "ab".repeat(33);
    let zero = "00".repeat(32);
    let other = "cd12".repeat(16);
    let bad: [(&str, &[(&str, &str)]); 11] = [
        ("lisen = \"127.0.0.1:0\"", &[]),
        ("listen = 80", &[]),
        ("listen = ", &[]),
        ("log = \"a=b=c\"", &[]),
        ("", &[("CERTLIB_LISEN", "127.0.0.1:0")]),
        ("", &[("CERTLIB_KEK", &short)]),
        ("", &[("CERTLIB_KEK", &long)]),
        ("", &[("CERTLIB_KEK", &zero)]),
        ("", &[("CERTLIB_KEK", &kek), ("CERTLIB_KEK_V1", &other)]),
        ("", &[("CERTLIB_KEK", &kek), ("CERTLIB_KEK_V2", &kek)]),
        ("", &[("CERTLIB_DATABASE_URL", "redis://user:canary@db")]),
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
    for word in [
        "--config",
        "--check-config",
        "token",
        "kek",
        "backup",
        "restore",
        "CERTLIB_KEK_V2",
        "CERTLIB_DATABASE_URL",
        "Exit codes",
    ] {
        assert!(help.to_string().contains(word), "{word}");
    }
    assert_eq!(Cli::try_parse_from(["server", "--nonsense"]).unwrap_err().exit_code(), 2);
}
