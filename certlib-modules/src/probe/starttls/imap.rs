//! `STARTTLS` of IMAP, RFC 9051 section 6.2.1.

use tokio::io::{AsyncRead, AsyncWrite};

use super::{Failure, LONGEST_LINE, MOST_LINES};
use crate::wire::{Wire, WireError};

pub(super) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(wire: &mut Wire<S>) -> Result<(), Failure> {
    let greeting = wire.line(LONGEST_LINE).await?;
    match words(&greeting) {
        ("*", status) if status == "OK" => {}
        // Where one is logged in already, there is no way to TLS.
        ("*", status) if status == "BYE" || status == "PREAUTH" => return Err(Failure::Refused),
        _ => return Err(WireError::Malformed.into()),
    }
    wire.send(b"a1 STARTTLS\r\n").await?;
    for _ in 0..MOST_LINES {
        let line = wire.line(LONGEST_LINE).await?;
        match words(&line) {
            ("a1", status) => return if status == "OK" { Ok(()) } else { Err(Failure::Refused) },
            ("*", status) if status == "BYE" => return Err(Failure::Refused),
            ("*", _) => {}
            _ => return Err(WireError::Malformed.into()),
        }
    }
    Err(WireError::TooLong.into())
}

/// The tag of a line and, in upper case, what comes after it.
fn words(line: &[u8]) -> (&str, String) {
    let mut words = line.splitn(3, |byte| *byte == b' ').map(|word| std::str::from_utf8(word).unwrap_or_default());
    let tag = words.next().unwrap_or_default();
    (tag, words.next().unwrap_or_default().to_ascii_uppercase())
}
