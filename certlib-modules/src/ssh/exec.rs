//! Commands on a host.

use std::time::Duration;

use certlib_core::{Effect, Error, Result};
use russh::{Channel, ChannelMsg, Sig, client};
use tokio::time::timeout;

use super::connect::{Connection, failed};
use crate::files::{CommandOutput, Ended, capture, quote};

const OPERATION: &str = "ssh.exec";

/// Has `/bin/sh` run `command`, whatever the login shell is; asks the host to stop it after `limit`.
///
/// The host need not comply: OpenSSH passes signals on for every login but root's. What runs on then loses its
/// output, and everything here counts it as failed.
///
/// # Errors
/// `IoTransient` `channel_refused`; `IoPermanent` `exec_refused`; `Network` `connection_lost` with
/// [`Effect::Possible`]: the command may have run.
pub(super) async fn run(connection: &Connection, command: &str, limit: Duration) -> Result<CommandOutput> {
    let lost = |error| failed(OPERATION, error).with_effect(Effect::Possible);
    let mut channel = connection.handle.channel_open_session().await.map_err(|error| failed(OPERATION, error))?;
    channel.exec(true, format!("/bin/sh -c {}", quote(command))).await.map_err(lost)?;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let ended = match timeout(limit, collect(&mut channel, &mut stdout, &mut stderr)).await {
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

async fn collect(channel: &mut Channel<client::Msg>, stdout: &mut Vec<u8>, stderr: &mut Vec<u8>) -> Result<Ended> {
    let mut ended = Ended::Unknown;
    while let Some(message) = channel.wait().await {
        match message {
            ChannelMsg::Data { data } => capture(stdout, &data),
            ChannelMsg::ExtendedData { data, ext: 1 } => capture(stderr, &data),
            ChannelMsg::ExitStatus { exit_status } => ended = Ended::Exited(exit_status),
            ChannelMsg::ExitSignal { .. } => ended = Ended::Signalled,
            ChannelMsg::Failure => {
                return Err(Error::permanent(OPERATION, "exec_refused", "the host runs no commands for this login"));
            }
            ChannelMsg::Close => break,
            _ => {}
        }
    }
    Ok(ended)
}
