//! Commands on a host.

use std::time::Duration;

use certlib_core::{Effect, Error, Result};
use russh::{Channel, ChannelMsg, Sig, client};
use tokio::time::timeout;

use super::connect::{Connection, failed};
use crate::files::{CommandOutput, Ended, OUTPUT_LIMIT, capture, quote};

const OPERATION: &str = "ssh.exec";

/// What goes into a command, and how much of what comes out is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stream<'a> {
    /// Its standard input.
    pub(super) input: Option<&'a [u8]>,
    /// Bytes of standard output that are kept.
    pub(super) limit: usize,
}

impl Default for Stream<'_> {
    /// No input; [`OUTPUT_LIMIT`] of the output.
    fn default() -> Self {
        Self { input: None, limit: OUTPUT_LIMIT }
    }
}

/// What is asked of a host that may run nothing: it answers.
const QUESTION: &str = "echo certlib";

/// Has `/bin/sh` run `command`, whatever the login shell is; asks the host to stop it after `limit`.
///
/// The host need not comply: OpenSSH passes signals on for every login but root's. What runs on then loses its
/// output, and everything here counts it as failed.
///
/// A host may run something else in the place of every command, as with `ForceCommand internal-sftp`, which ends well
/// and says nothing. So the first command that does so is not believed before another has given an answer.
///
/// # Errors
/// `IoTransient` `channel_refused`; `IoPermanent` `exec_refused`; `Network` `connection_lost` with
/// [`Effect::Possible`]: the command may have run.
pub(super) async fn run(connection: &Connection, command: &str, limit: Duration) -> Result<CommandOutput> {
    let is_silent = |output: &CommandOutput| {
        output.ended == Ended::Exited(0) && output.stdout.is_empty() && output.stderr.is_empty()
    };
    let output = stream(connection, command, Stream::default(), limit).await?;
    if is_silent(&output) {
        let asked = connection.runs_commands.get_or_try_init(async || {
            let answer = stream(connection, QUESTION, Stream::default(), limit).await;
            answer.map(|answer| !is_silent(&answer))
        });
        if !*asked.await.map_err(|error| error.with_effect(Effect::Possible))? {
            return Err(exec_refused());
        }
    }
    Ok(output)
}

/// As [`run`], with input and with more output.
///
/// # Errors
/// As [`run`].
pub(super) async fn stream(
    connection: &Connection,
    command: &str,
    stream: Stream<'_>,
    limit: Duration,
) -> Result<CommandOutput> {
    let lost = |error| failed(OPERATION, error).with_effect(Effect::Possible);
    let mut channel = connection.handle.channel_open_session().await.map_err(|error| failed(OPERATION, error))?;
    channel.exec(true, format!("/bin/sh -c {}", quote(command))).await.map_err(lost)?;
    // What is more than usual may be a secret: growing would leave copies of it behind.
    let room = if stream.limit > OUTPUT_LIMIT { stream.limit } else { 0 };
    let (mut stdout, mut stderr) = (Vec::with_capacity(room), Vec::new());
    let talk = async {
        if let Some(input) = stream.input {
            // A command that ends early takes no more; its status tells why.
            let _ = channel.data(input).await;
        }
        // Without an end, what reads its input would wait for it, up to the limit.
        let _ = channel.eof().await;
        collect(&mut channel, stream.limit, &mut stdout, &mut stderr).await
    };
    let ended = match timeout(limit, talk).await {
        Ok(ended) => ended?,
        Err(_) => {
            // Both are requests; the connection is still good whether or not they are met.
            let _ = channel.signal(Sig::TERM).await;
            let _ = channel.close().await;
            Ended::TimedOut
        }
    };
    if ended == Ended::Unknown && connection.handle.is_closed() {
        return Err(lost(russh::Error::Disconnect));
    }
    Ok(CommandOutput::new(ended, stdout, stderr))
}

async fn collect(
    channel: &mut Channel<client::Msg>,
    limit: usize,
    stdout: &mut Vec<u8>,
    stderr: &mut Vec<u8>,
) -> Result<Ended> {
    let mut ended = Ended::Unknown;
    while let Some(message) = channel.wait().await {
        match message {
            ChannelMsg::Data { data } => {
                let room = limit.saturating_sub(stdout.len());
                stdout.extend_from_slice(&data[..data.len().min(room)]);
            }
            ChannelMsg::ExtendedData { data, ext: 1 } => capture(stderr, &data),
            ChannelMsg::ExitStatus { exit_status } => ended = Ended::Exited(exit_status),
            ChannelMsg::ExitSignal { .. } => ended = Ended::Signalled,
            ChannelMsg::Failure => {
                return Err(exec_refused());
            }
            ChannelMsg::Close => break,
            _ => {}
        }
    }
    Ok(ended)
}

fn exec_refused() -> Error {
    Error::permanent(OPERATION, "exec_refused", "the host runs no commands for this login")
}
