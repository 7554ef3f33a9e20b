//! Commands on this machine.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use certlib_core::{Error, Result};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::files::{CommandOutput, Ended, capture};

/// How long a command has to end after a polite request, before it is killed.
const GRACE: Duration = Duration::from_secs(2);

/// How long output may trickle in after the command has ended: a daemon it started can keep the pipe open for ever.
const TRICKLE: Duration = Duration::from_millis(200);

/// Has `/bin/sh` run `command` in a process group of its own, which is ended after `limit`.
pub(super) async fn run(command: &str, limit: Duration) -> Result<CommandOutput> {
    let failed = |error: io::Error| {
        Error::permanent("file.run", "command_not_started", "the command could not be started").with_source(error)
    };
    let mut child = Command::new("/bin/sh")
        .arg("-c")
        .arg(command)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let ended = {
        let output = async { tokio::join!(drain(stdout, &mut out), drain(stderr, &mut err)) };
        tokio::pin!(output);
        let exited = async {
            tokio::select! {
                status = child.wait() => {
                    // What it printed last may still be in the pipes.
                    let _ = timeout(TRICKLE, &mut output).await;
                    status
                }
                _ = &mut output => child.wait().await,
            }
        };
        match timeout(limit, exited).await {
            Ok(status) => status.map(ended).map_err(failed)?,
            Err(_) => {
                stop(&mut child).await;
                Ended::TimedOut
            }
        }
    };
    Ok(CommandOutput::new(ended, out, err))
}

fn ended(status: ExitStatus) -> Ended {
    status.code().and_then(|code| u32::try_from(code).ok()).map_or(Ended::Signalled, Ended::Exited)
}

/// Keeps the beginning of a stream and reads the rest away, so that the writer is never held up.
async fn drain(stream: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(read) = stream.read(&mut buffer).await {
        if read == 0 {
            return;
        }
        capture(kept, &buffer[..read]);
    }
}

/// Ends the process group: politely, then for good.
async fn stop(child: &mut Child) {
    let Some(group) = child.id() else { return };
    signal("TERM", group).await;
    let _ = timeout(GRACE, child.wait()).await;
    // Also when the leader is gone: others of its group may have ignored the request.
    signal("KILL", group).await;
    let _ = child.wait().await;
}

async fn signal(name: &str, group: u32) {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "kill -s \"$1\" -- \"-$2\"", "kill", name, &group.to_string()]);
    // The group may be gone already.
    let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().await;
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Instant;

    use super::*;
    use crate::files::OUTPUT_LIMIT;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn status_and_output() {
        let output = run("echo out; echo err >&2; exit 3", LONG).await.unwrap();
        assert_eq!(output.ended, Ended::Exited(3));
        assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
        assert_eq!(run("exit 0", LONG).await.unwrap().ended, Ended::Exited(0));
        assert_eq!(run("no-such-program-here", LONG).await.unwrap().ended, Ended::Exited(127));
        assert_eq!(run("kill -s KILL $$", LONG).await.unwrap().ended, Ended::Signalled);
    }

    #[tokio::test]
    async fn a_flood_is_read_away() {
        let output = run("head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2", LONG).await.unwrap();
        assert_eq!(output.ended, Ended::Exited(0));
        assert_eq!((output.stdout.len(), output.stderr.len()), (OUTPUT_LIMIT, OUTPUT_LIMIT));
        let endless = run("exec cat /dev/zero", Duration::from_millis(200)).await.unwrap();
        assert_eq!(endless.ended, Ended::TimedOut);
    }

    #[tokio::test]
    async fn a_hanging_command_is_ended_with_its_family() {
        let folder = tempfile::tempdir().unwrap();
        let id = folder.path().join("id");
        let script = format!("trap '' TERM; (trap '' TERM; echo $$ > {}; while :; do sleep 1; done)", id.display());
        let output = run(&script, Duration::from_millis(300)).await.unwrap();
        assert_eq!(output.ended, Ended::TimedOut);
        let leader: u32 = fs::read_to_string(&id).unwrap().trim().parse().unwrap();
        let started = Instant::now();
        loop {
            let alive = fs::read_dir("/proc").unwrap().flatten().any(|entry| {
                let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
                let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
                fields.get(2) == Some(&leader.to_string().as_str()) && fields[0] != "Z"
            });
            if !alive {
                break;
            }
            assert!(started.elapsed() < LONG, "the group is still alive");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn a_daemon_that_keeps_the_pipe_open_does_not_hold_us_up() {
        let started = Instant::now();
        let output = run("sleep 30 & echo done", LONG).await.unwrap();
        assert_eq!((output.ended, output.stdout.as_slice()), (Ended::Exited(0), &b"done\n"[..]));
        assert!(started.elapsed() < Duration::from_secs(20));
    }
}
