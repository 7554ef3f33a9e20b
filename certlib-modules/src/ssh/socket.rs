//! UNIX sockets of a host, over the channel type `direct-streamlocal@openssh.com` (OpenSSH's PROTOCOL, section 2.4).
//! OpenSSH allows it unless `AllowStreamLocalForwarding`, `DisableForwarding` or the login's own key says otherwise.

use std::time::Duration;

use certlib_core::secret::SecretBytes;
use certlib_core::{Error, Result};
use russh::ChannelOpenFailure;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::connect::{Connection, failed};
use crate::files::ANSWER_LIMIT;

pub(super) const OPERATION: &str = "ssh.ask";

/// OpenSSH has this one answer for all reasons, its own settings included.
pub(super) const REFUSED: &str = "socket_refused";

/// Sends `request` to the socket at `path` and reads the answer, as [`ask`](crate::files::FileSystem::ask) says.
pub(super) async fn ask(
    connection: &Connection,
    path: &str,
    request: &SecretBytes,
    limit: Duration,
) -> Result<Vec<u8>> {
    let answer = timeout(limit, talk(connection, path, request)).await;
    answer
        .unwrap_or_else(|_| Err(Error::network(OPERATION, "socket_timeout", "the other side did not answer in time")))
        .map_err(|error| error.with("socket", path.escape_debug()))
}

async fn talk(connection: &Connection, path: &str, request: &SecretBytes) -> Result<Vec<u8>> {
    let opened = connection.handle.channel_open_direct_streamlocal(path).await;
    let mut stream = opened.map_err(not_opened)?.into_stream();
    // Whoever hangs up in the middle of a request may have answered before; a lost connection shows below.
    let _ = stream.write_all(request.expose()).await;
    let mut answer = Vec::new();
    let read = (&mut stream).take(ANSWER_LIMIT as u64).read_to_end(&mut answer).await;
    if connection.handle.is_closed() {
        return Err(failed(OPERATION, russh::Error::Disconnect));
    }
    read.map(|_| answer).map_err(|error| failed(OPERATION, russh::Error::IO(error)))
}

fn not_opened(error: russh::Error) -> Error {
    match error {
        russh::Error::ChannelOpenFailure(
            ChannelOpenFailure::AdministrativelyProhibited | ChannelOpenFailure::UnknownChannelType,
        ) => Error::permanent(OPERATION, "forwarding_refused", "the host passes nothing on to sockets for this login"),
        russh::Error::ChannelOpenFailure(ChannelOpenFailure::ConnectFailed) => Error::network(
            OPERATION,
            REFUSED,
            "nobody listens at the socket, the login has no permission for it, or the host passes nothing on to sockets",
        ),
        error => failed(OPERATION, error),
    }
}
