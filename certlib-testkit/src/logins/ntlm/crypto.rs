//! The primitives of NTLM: MD4, HMAC-MD5 and RC4.

use hmac::{Hmac, KeyInit as _, Mac as _};
use md4::Md4;
use md5::{Digest as _, Md5};

/// MD5 over several pieces.
pub(super) fn md5(pieces: &[&[u8]]) -> [u8; 16] {
    let mut digest = Md5::new();
    for piece in pieces {
        digest.update(piece);
    }
    digest.finalize().into()
}

/// HMAC-MD5 over several pieces.
pub(super) fn hmac_md5(key: &[u8], pieces: &[&[u8]]) -> [u8; 16] {
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Md5>::new_from_slice(key) else { return [0; 16] };
    for piece in pieces {
        mac.update(piece);
    }
    mac.finalize().into_bytes().into()
}

/// Text as NTLM writes it.
pub(super) fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// The key that stands for a password: `NTOWFv2`.
pub(super) fn ntowf_v2(user: &str, domain: &str, password: &str) -> [u8; 16] {
    let hash: [u8; 16] = Md4::digest(utf16(password)).into();
    hmac_md5(&hash, &[&utf16(&user.to_uppercase()), &utf16(domain)])
}

/// A stream of RC4, which keeps its place.
#[derive(Clone)]
pub(super) struct Rc4 {
    state: [u8; 256],
    i: u8,
    j: u8,
}

impl Rc4 {
    pub(super) fn new(key: &[u8]) -> Self {
        let mut state = [0_u8; 256];
        for (value, slot) in (0..=255_u8).zip(state.iter_mut()) {
            *slot = value;
        }
        let mut j = 0_u8;
        for i in 0..256 {
            j = j.wrapping_add(state[i]).wrapping_add(key[i % key.len().max(1)]);
            state.swap(i, usize::from(j));
        }
        Self { state, i: 0, j: 0 }
    }

    pub(super) fn apply(&mut self, data: &[u8]) -> Vec<u8> {
        let key_stream = |byte: &u8| {
            self.i = self.i.wrapping_add(1);
            self.j = self.j.wrapping_add(self.state[usize::from(self.i)]);
            self.state.swap(usize::from(self.i), usize::from(self.j));
            let sum = self.state[usize::from(self.i)].wrapping_add(self.state[usize::from(self.j)]);
            byte ^ self.state[usize::from(sum)]
        };
        data.iter().map(key_stream).collect()
    }
}
