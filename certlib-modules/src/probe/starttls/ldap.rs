//! The extended operation StartTLS of LDAP, RFC 4511 section 4.14.

use tokio::io::{AsyncRead, AsyncWrite};

use super::Failure;
use crate::wire::{Wire, WireError};

/// `LDAPMessage { messageID 1, extendedReq { requestName 1.3.6.1.4.1.1466.20037 } }`.
const REQUEST: &[u8] = b"\x30\x1d\x02\x01\x01\x77\x18\x80\x161.3.6.1.4.1.1466.20037";

/// The longest answer, in bytes.
const LONGEST: usize = 4096;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const ENUMERATED: u8 = 0x0a;
/// `[APPLICATION 24]`, constructed.
const EXTENDED_RESPONSE: u8 = 0x78;

pub(super) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(wire: &mut Wire<S>) -> Result<(), Failure> {
    wire.send(REQUEST).await?;
    let head = wire.exact(2).await?;
    if head[0] != SEQUENCE {
        return Err(WireError::Malformed.into());
    }
    let length = match head[1] {
        short @ ..=0x7f => usize::from(short),
        long @ 0x81..=0x84 => {
            let digits = wire.exact(usize::from(long & 0x7f)).await?;
            digits.iter().fold(0, |value, byte| value << 8 | usize::from(*byte))
        }
        _ => return Err(WireError::Malformed.into()),
    };
    if length > LONGEST {
        return Err(WireError::TooLong.into());
    }
    let message = wire.exact(length).await?;
    match result_code(&message) {
        Some((b"\x01", b"\x00")) => Ok(()),
        // Another code, or the notice with the id 0 that the server is about to close the connection.
        Some(_) => Err(Failure::Refused),
        None => Err(WireError::Malformed.into()),
    }
}

/// The message's id and its result code.
fn result_code(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let (id, rest) = element(message, INTEGER)?;
    let (response, _) = element(rest, EXTENDED_RESPONSE)?;
    let (code, _) = element(response, ENUMERATED)?;
    Some((id, code))
}

/// Takes one element off the front, if it has this tag.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, der) = der.split_first()?;
    let (&first, mut der) = der.split_first()?;
    let mut length = usize::from(first);
    if first >= 0x80 {
        let (digits, rest) = der.split_at_checked(usize::from(first & 0x7f))?;
        if digits.is_empty() || digits.len() > 4 {
            return None;
        }
        length = digits.iter().fold(0, |value, byte| value << 8 | usize::from(*byte));
        der = rest;
    }
    (found == tag).then(|| der.split_at_checked(length)).flatten()
}
