//! Identifiers and secrets of the simulator.

use std::fmt::Write as _;

use aws_lc_rs::rand;

use crate::{Error, Result};

/// Random bytes.
pub(super) fn bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| Error::Crypto("the system gives no randomness".to_owned()))?;
    Ok(bytes)
}

/// A random identifier in the form of a UUID.
pub(super) fn uuid() -> String {
    let digits = hex::<16>();
    let (a, rest) = digits.split_at(8);
    let (b, rest) = rest.split_at(4);
    let (c, rest) = rest.split_at(4);
    let (d, e) = rest.split_at(4);
    format!("{a}-{b}-{c}-{d}-{e}")
}

/// `N` random bytes as hexadecimal digits.
pub(super) fn hex<const N: usize>() -> String {
    // A system without randomness has failed to start the simulator already: it makes its root token first.
    let bytes = bytes::<N>().unwrap_or([0; N]);
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
