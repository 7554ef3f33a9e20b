//! `STLS` of POP3, RFC 2595 section 4.

use tokio::io::{AsyncRead, AsyncWrite};

use super::{Failure, LONGEST_LINE};
use crate::wire::{Wire, WireError};

pub(super) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(wire: &mut Wire<S>) -> Result<(), Failure> {
    positive(&wire.line(LONGEST_LINE).await?)?;
    wire.send(b"STLS\r\n").await?;
    positive(&wire.line(LONGEST_LINE).await?)
}

fn positive(line: &[u8]) -> Result<(), Failure> {
    match line.split(|byte| *byte == b' ').next() {
        Some(b"+OK") => Ok(()),
        Some(b"-ERR") => Err(Failure::Refused),
        _ => Err(WireError::Malformed.into()),
    }
}
