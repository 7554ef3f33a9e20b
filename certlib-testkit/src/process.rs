//! Child processes that never outlive their guard.

use std::{
    collections::HashMap,
    fs,
    io::{self, Write},
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output, Stdio},
    time::Duration,
};

use tokio::{net::TcpStream, time::Instant};

use crate::{Error, Result};

/// How long a counterpart may take to come up, to reload or to change state. Generous: test machines are loaded.
pub const START_LIMIT: Duration = Duration::from_secs(60);

/// How long a counterpart may take to end after a polite request, before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// The pause between two looks at a condition.
const POLL: Duration = Duration::from_millis(15);

/// How much of a log goes into an error.
const LOG_LINES: usize = 30;

/// Ends the process group given as `$1` as soon as standard input closes, that is, when the process that holds the
/// other end is gone for whatever reason.
const GUARDIAN: &str = "read -r _; kill -s KILL -- \"-$1\" 2>/dev/null";

/// A running program, in a process group of its own, with its output in a file.
///
/// Dropping it kills the program and everything it started. The same happens when the test process itself dies, even
/// by `SIGKILL`: a small guardian process watches for that.
#[derive(Debug)]
pub struct Child {
    name: &'static str,
    inner: std::process::Child,
    guardian: std::process::Child,
    log: PathBuf,
}

impl Child {
    /// Starts `command`. Its output is appended to `NAME.log` in `folder`, its standard input is empty.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the log cannot be written or the program cannot be executed.
    pub fn spawn(name: &'static str, mut command: Command, folder: &Path) -> Result<Child> {
        let log = folder.join(format!("{name}.log"));
        let output =
            fs::OpenOptions::new().create(true).append(true).open(&log).map_err(Error::file("opening", &log))?;
        let errors = output.try_clone().map_err(Error::file("opening", &log))?;
        let mut inner = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .map_err(Error::io(format!("starting {}", command.get_program().to_string_lossy())))?;
        match guard(inner.id()) {
            Ok(guardian) => Ok(Child { name, inner, guardian, log }),
            Err(source) => {
                let _ = inner.kill();
                let _ = inner.wait();
                Err(Error::Io { what: "starting the guardian of a child process".to_owned(), source })
            }
        }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.inner.id()
    }

    /// Whether the program is still running.
    pub fn is_running(&mut self) -> bool {
        matches!(self.inner.try_wait(), Ok(None))
    }

    /// Everything the program has written so far. Empty when nothing can be read.
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Sends a signal, named as in `kill -s` (`HUP`, `USR2`), to the program itself.
    ///
    /// # Errors
    ///
    /// [`Error::Command`] when the process is gone.
    pub fn signal(&self, signal: &str) -> Result<()> {
        kill(signal, &self.id().to_string())
    }

    /// Waits until something accepts TCP connections on `addr`.
    ///
    /// # Errors
    ///
    /// [`Error::Start`] when the program ends before that, or does not listen within [`START_LIMIT`].
    pub async fn wait_for_port(&mut self, addr: SocketAddr) -> Result<()> {
        self.wait_until(&format!("listening on {addr}"), async || TcpStream::connect(addr).await.is_ok()).await
    }

    /// Waits until `ready` answers `true`.
    ///
    /// # Errors
    ///
    /// [`Error::Start`] when the program ends before that, or [`START_LIMIT`] passes.
    pub async fn wait_until(&mut self, what: &str, mut ready: impl AsyncFnMut() -> bool) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if let Ok(Some(status)) = self.inner.try_wait() {
                return Err(self.start_error(format!("it ended ({status}) before {what}")));
            }
            if ready().await {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(self.start_error(format!("not {what} after {START_LIMIT:?}")));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Ends the program politely, then by force, together with everything it started, and waits for the end.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the operating system refuses to say how the program ended.
    ///
    /// # Cancellation
    ///
    /// Dropping the future kills the program at once.
    pub async fn stop(mut self) -> Result<ExitStatus> {
        let family = descendants(self.id());
        // A program that is already gone needs no signal.
        let _ = self.signal("TERM");
        let deadline = Instant::now() + STOP_LIMIT;
        loop {
            let status = self.inner.try_wait().map_err(Error::io(format!("waiting for {}", self.name)))?;
            if let Some(status) = status {
                end(&family);
                return Ok(status);
            }
            if Instant::now() >= deadline {
                end(&descendants(self.id()));
                let _ = self.inner.kill();
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn start_error(&self, reason: String) -> Error {
        Error::Start { name: self.name, reason, log: last_lines(&self.log()) }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // The group id stays ours while the leader is not reaped.
        if self.is_running() {
            let family = descendants(self.id());
            let _ = kill("KILL", &format!("-{}", self.id()));
            let _ = self.inner.kill();
            end(&family);
            let _ = self.inner.wait();
        }
        let _ = self.guardian.kill();
        let _ = self.guardian.wait();
    }
}

/// Asks `probe` again and again until it gives a value.
///
/// # Errors
///
/// [`Error::Timeout`], which names `what`, when `limit` passes first.
pub async fn poll_until<T>(what: &str, limit: Duration, mut probe: impl AsyncFnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = probe().await {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            return Err(Error::Timeout { what: what.to_owned(), limit });
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Runs a short helper program to its end, with `input` on its standard input, and gives what it wrote.
///
/// # Errors
///
/// [`Error::Command`] when it ends with a failure, [`Error::Io`] when it cannot be run.
pub async fn run(command: Command, input: &[u8]) -> Result<Output> {
    let line = describe(&command);
    let output = capture(command, input).await?;
    if output.status.success() {
        return Ok(output);
    }
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    Err(Error::Command { command: line, status: output.status.to_string(), output: last_lines(&text) })
}

/// Like [`run`], but a failing exit status is part of the answer and no error.
///
/// # Errors
///
/// [`Error::Io`] when the program cannot be run.
pub async fn capture(mut command: Command, input: &[u8]) -> Result<Output> {
    let line = describe(&command);
    let input = input.to_vec();
    let task = tokio::task::spawn_blocking(move || {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let stdin = child.stdin.take();
        let writer = std::thread::spawn(move || {
            if let Some(mut stdin) = stdin {
                // A program that does not read its input closes the pipe: its exit status tells more.
                let _ = stdin.write_all(&input);
            }
        });
        let output = child.wait_with_output();
        let _ = writer.join();
        output
    });
    match task.await {
        Ok(output) => output.map_err(Error::io(format!("running `{line}`"))),
        Err(error) => Err(Error::io(format!("running `{line}`"))(io::Error::other(error))),
    }
}

/// Runs a shell command line, as a deployment tool would.
///
/// # Errors
///
/// As [`run`].
pub async fn shell(line: &str) -> Result<Output> {
    let mut command = Command::new("sh");
    command.args(["-c", line]);
    run(command, b"").await
}

fn describe(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

fn guard(group: u32) -> io::Result<std::process::Child> {
    Command::new("sh")
        .args(["-c", GUARDIAN, "guardian", &group.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
}

fn kill(signal: &str, target: &str) -> Result<()> {
    let output = Command::new("sh")
        .args(["-c", "kill -s \"$1\" -- \"$2\"", "kill", signal, target])
        .stdin(Stdio::null())
        .output()
        .map_err(Error::io("running kill"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Command {
        command: format!("kill -s {signal} -- {target}"),
        status: output.status.to_string(),
        output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

/// One process at one time: a reused process id has another start time.
type Identity = (u32, u64);

/// Everything that `root` started, directly or not, also outside its process group. Empty without `/proc`.
fn descendants(root: u32) -> Vec<Identity> {
    let mut children: HashMap<u32, Vec<Identity>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Some((parent, started)) = parent_and_start(id) {
            children.entry(parent).or_default().push((id, started));
        }
    }
    let mut found = Vec::new();
    let mut open = vec![root];
    while let Some(id) = open.pop() {
        for child in children.remove(&id).unwrap_or_default() {
            open.push(child.0);
            found.push(child);
        }
    }
    found
}

fn parent_and_start(id: u32) -> Option<(u32, u64)> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The second field is the program's name in parentheses and may contain anything.
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let started = fields.nth(17)?.parse().ok()?;
    Some((parent, started))
}

fn end(family: &[Identity]) {
    for (id, started) in family {
        if parent_and_start(*id).is_some_and(|(_, now)| now == *started) {
            // It may end on its own meanwhile.
            let _ = kill("KILL", &id.to_string());
        }
    }
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn running(id: u32) -> bool {
        fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
    }

    async fn first_line(child: &Child) -> u32 {
        poll_until("the first line of the log", START_LIMIT, async || {
            child.log().lines().next().and_then(|line| line.parse().ok())
        })
        .await
        .unwrap()
    }

    #[tokio::test]
    async fn drop_kills_the_family_even_outside_the_group() {
        let folder = tempfile::tempdir().unwrap();
        let child = Child::spawn("family", shell("setsid sleep 300 & echo $!; wait"), folder.path()).unwrap();
        let grandchild = first_line(&child).await;
        let id = child.id();
        assert!(running(grandchild));
        drop(child);
        assert!(!running(id));
        poll_until("the end of the grandchild", START_LIMIT, async || (!running(grandchild)).then_some(()))
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn stop_is_polite_first() {
        let folder = tempfile::tempdir().unwrap();
        let script = "trap 'echo bye; exit 7' TERM; echo $$; while :; do sleep 0.05; done";
        let child = Child::spawn("polite", shell(script), folder.path()).unwrap();
        first_line(&child).await;
        assert_eq!(child.stop().await.unwrap().code(), Some(7));
        let log = fs::read_to_string(folder.path().join("polite.log")).unwrap();
        assert!(log.contains("bye"), "{log}");
    }

    #[tokio::test]
    async fn the_guardian_ends_the_group_when_its_pipe_closes() {
        let mut victim = shell("sleep 300").process_group(0).spawn().unwrap();
        let mut guardian = guard(victim.id()).unwrap();
        drop(guardian.stdin.take());
        let status = poll_until("the end of the victim", START_LIMIT, async || victim.try_wait().unwrap()).await;
        assert!(!status.unwrap().success());
        guardian.wait().unwrap();
    }

    #[tokio::test]
    async fn a_failed_start_shows_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Child::spawn("failing", shell("echo cannot open the gate >&2; exit 3"), folder.path()).unwrap();
        let error = child.wait_for_port(crate::ports::free_addr().unwrap()).await.unwrap_err().to_string();
        assert!(error.contains("failing did not start") && error.contains("cannot open the gate"), "{error}");
    }

    #[tokio::test]
    async fn run_reports_status_and_output() {
        let ok = run(shell("cat"), b"through").await.unwrap();
        assert_eq!(ok.stdout, b"through");
        let error = run(shell("echo broken; exit 4"), b"").await.unwrap_err().to_string();
        assert!(error.contains("exit status: 4") && error.contains("broken"), "{error}");
    }
}
