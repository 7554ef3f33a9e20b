//! The server's command line in processes of their own.

use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Parser as _;
use serde_json::Value;
use tempfile::NamedTempFile;

use crate::cli::{self, Cli};

const CHILD: &str = "SERVER_TEST_CHILD";

/// Stands between what the test harness writes to standard output and what the command does.
const MARK: &str = "\n--- the command's own output ---\n";

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Not a test of its own: what [`command`] runs in another process.
#[test]
fn child() {
    let Some(arguments) = std::env::var_os(CHILD) else { return };
    let arguments: Vec<String> = serde_json::from_str(arguments.to_str().unwrap()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    std::io::stdout().write_all(MARK.as_bytes()).unwrap();
    let cli = Cli::parse_from(["server".to_owned()].into_iter().chain(arguments));
    let code = runtime.block_on(cli::run(cli, std::env::vars().collect(), &mut std::io::stdout()));
    std::process::exit(code.into());
}

/// The server's command line with `arguments`, on the data in `data`, in another process.
pub(crate) fn command(data: &Path, arguments: &[&str]) -> Command {
    command_by(Command::new(std::env::current_exe().unwrap()), data, arguments)
}

/// As [`command`], started by `launcher`, whose last arguments are this program and what follows.
pub(crate) fn command_by(mut launcher: Command, data: &Path, arguments: &[&str]) -> Command {
    launcher.args(["child::child", "--exact", "--nocapture", "--test-threads=1"]).env_clear();
    launcher.env(CHILD, serde_json::to_string(arguments).unwrap());
    launcher.env("CERTLIB_DATA_DIR", data).env("CERTLIB_LISTEN", "127.0.0.1:0");
    launcher.env("CERTLIB_LOG_JSON", "true").env("CERTLIB_SHUTDOWN_GRACE_SECONDS", "5");
    launcher.env("CERTLIB_SWEEP_INTERVAL_SECONDS", "1");
    launcher.env("CERTLIB_NODE_HEARTBEAT_SECONDS", "1").env("CERTLIB_INSTANCE_NAME", "a-node");
    launcher.stdin(Stdio::null()).stdout(Stdio::null());
    launcher
}

/// What a command that ended had to say.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }

    /// Checks that the command was refused with `code` for the reason `why`.
    #[track_caller]
    pub(crate) fn expect_refusal(self, code: i32, why: &str) -> Self {
        assert!(self.out.is_empty() && self.err.contains(why), "not refused for {why}: {self:?}");
        self.expect(code)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Said {
    let output = command.stdout(Stdio::piped()).output().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    let out = out.split_once(MARK).map_or("", |(_, out)| out).to_owned();
    Said { code: output.status.code(), out, err: String::from_utf8(output.stderr).unwrap() }
}

/// A running process and what it has said so far.
pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) address: String,
    log: NamedTempFile,
    /// Up to where [`Process::until`] has read.
    read: usize,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a command and listens to it.
pub(crate) fn spawn(command: &mut Command) -> Process {
    let log = NamedTempFile::new().unwrap();
    let child = command.stderr(log.reopen().unwrap()).spawn().unwrap();
    Process { child, address: String::new(), log, read: 0 }
}

/// Starts a server and waits until it listens.
pub(crate) fn serve(command: &mut Command) -> Process {
    let mut process = spawn(command);
    let event: Value = serde_json::from_str(&process.until("\"listening\"")).unwrap();
    process.address = event["fields"]["address"].as_str().unwrap().to_owned();
    process
}

impl Process {
    /// Everything it has said on standard error.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(self.log.path()).unwrap()
    }

    /// Waits until it says a line with `text` after the one that was last waited for; returns that line.
    pub(crate) fn until(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ended = self.child.try_wait().unwrap();
            let said = self.said();
            while let Some(length) = said[self.read..].find('\n') {
                let line = &said[self.read..self.read + length];
                self.read += length + 1;
                if line.contains(text) {
                    return line.to_owned();
                }
            }
            assert!(ended.is_none(), "it ended without saying {text}: {said}");
            assert!(Instant::now() < deadline, "it does not say {text}: {said}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn signal(&self, signal: &str) {
        signal_to(&self.child, signal);
    }

    /// Sends `signal` and waits for the end.
    pub(crate) fn end(self, signal: &str) -> (Option<i32>, String) {
        self.signal(signal);
        self.wait()
    }

    /// Waits for the end: the exit code and everything that was said.
    pub(crate) fn wait(mut self) -> (Option<i32>, String) {
        let code = exit_code(&mut self.child);
        (code, self.said())
    }
}

pub(crate) fn signal_to(child: &Child, signal: &str) {
    let sent = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// Waits for the end of `child`.
pub(crate) fn exit_code(child: &mut Child) -> Option<i32> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        assert!(Instant::now() < deadline, "it does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The key file of the data in `data`, as it is.
pub(crate) fn key_file(data: &Path) -> String {
    let path = data.join("kek");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::read_to_string(path).unwrap()
}

/// Writes the key file, as an operator does: another file first, so that nobody reads half of it.
pub(crate) fn write_key_file(data: &Path, text: &str) {
    let new = data.join("kek.new");
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    std::fs::rename(new, data.join("kek")).unwrap();
}
