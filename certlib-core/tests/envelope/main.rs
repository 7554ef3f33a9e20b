//! What a sealed secret promises, shown from outside of the code that seals: its layout is what the documentation says
//! and stays so, nothing but the very same bytes in the very same place opens, and nothing about a secret gets out.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

mod by_hand;
mod decoding;
mod golden;
mod places;
mod round_trip;
mod tampering;
mod two_keys;
mod types;

use certlib_core::secret::{KEK_LEN, Keyring, KeyringEnvelope, Secret, Suite};
use futures::FutureExt as _;

pub const SUITES: [Suite; 2] = [Suite::Aes256Gcm, Suite::ChaCha20Poly1305];

/// A key-encryption key: always the same for one `seed`.
pub fn kek(seed: u8) -> [u8; KEK_LEN] {
    std::array::from_fn(|n| u8::try_from(n).unwrap() ^ seed)
}

/// An envelope with the keys of these seeds, as versions 1, 2, ...; the last one seals.
pub fn envelope(suite: Suite, seeds: &[u8]) -> KeyringEnvelope {
    let mut ring = Keyring::default();
    for (version, seed) in (1..).zip(seeds) {
        ring.add(version, Secret::new(kek(*seed))).unwrap();
    }
    KeyringEnvelope::new(ring).suite(suite)
}

/// The result of a future that waits for nothing.
pub fn now<F: Future>(future: F) -> F::Output {
    future.now_or_never().expect("keys in memory are at hand")
}
