//! `SSLRequest` of PostgreSQL: <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL>.

use tokio::io::{AsyncRead, AsyncWrite};

use super::Failure;
use crate::wire::{Wire, WireError};

/// Its length, and the number 80877103.
const REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

pub(super) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(wire: &mut Wire<S>) -> Result<(), Failure> {
    wire.send(&REQUEST).await?;
    match wire.exact(1).await?[..] {
        [b'S'] => Ok(()),
        // `E` begins an error message, which is not authentic and not to be shown.
        [b'N' | b'E'] => Err(Failure::Refused),
        _ => Err(WireError::Malformed.into()),
    }
}
