//! A sealed secret, and the one layout it has.
//!
//! | Bytes | What |
//! |---|---|
//! | 4 | magic `CLEV` |
//! | 1 | version of the layout: 1 |
//! | 1 | suite: see [`Suite`] |
//! | 32 | id of the key-encryption key |
//! | 4 | version of the key-encryption key, big endian |
//! | 32 | salt of the wrap |
//! | 12 | nonce of the wrap |
//! | 48 | data key (32), wrapped, with tag (16) |
//! | 32 | commitment to the data key |
//! | 12 | nonce of the payload |
//! | 16 or more | payload, with tag (16) |
//!
//! Nothing is optional. Another magic, version, suite or length is an error, never a guess.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zeroize::Zeroizing;

use super::provider::{KekId, WRAP_NONCE_LEN, WRAP_SALT_LEN, WRAPPED_LEN, WrappedDek};
use super::suite::{NONCE_LEN, Suite, TAG_LEN};
use crate::error::{Error, Result};

const MAGIC: &[u8; 4] = b"CLEV";
const VERSION: u8 = 1;
/// The length of the commitment, in bytes.
pub(super) const COMMITMENT_LEN: usize = 32;
const KEK_AT: usize = MAGIC.len() + 2;
const KEK_VERSION_AT: usize = KEK_AT + KekId::LEN;
const WRAP_AT: usize = KEK_VERSION_AT + 4;
/// Where the part begins that a rewrap leaves as it is.
const BODY_AT: usize = WRAP_AT + WRAP_SALT_LEN + WRAP_NONCE_LEN + WRAPPED_LEN;
const NONCE_AT: usize = BODY_AT + COMMITMENT_LEN;
/// Where the payload begins.
pub(super) const PAYLOAD_AT: usize = NONCE_AT + NONCE_LEN;
/// How much longer an envelope is than what it seals, in bytes.
pub(super) const OVERHEAD: usize = PAYLOAD_AT + TAG_LEN;

/// A sealed secret: the only form in which a store ever sees one. Base64 in JSON; the module's source shows the layout.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Sealed(Vec<u8>);

impl Sealed {
    /// How much longer an envelope is than the secret in it, in bytes.
    pub const OVERHEAD: usize = OVERHEAD;

    /// Takes bytes that an envelope made.
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The key-encryption key that it was sealed with; `None` if an envelope of another make sealed it.
    pub fn kek(&self) -> Option<KekId> {
        Parts::of(self).ok().map(|parts| parts.kek)
    }
}

/// What an envelope consists of, with all lengths checked.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    pub(super) suite: Suite,
    pub(super) kek: KekId,
    pub(super) kek_version: u32,
    pub(super) wrapped: WrappedDek,
    pub(super) commitment: &'a [u8],
    pub(super) nonce: [u8; NONCE_LEN],
    /// With its tag.
    pub(super) payload: &'a [u8],
    /// From the commitment on: what a rewrap leaves as it is.
    pub(super) body: &'a [u8],
}

impl<'a> Parts<'a> {
    pub(super) fn of(sealed: &'a Sealed) -> Result<Self> {
        let bytes = &sealed.0[..];
        if bytes.len() < OVERHEAD || !bytes.starts_with(MAGIC) {
            return Err(invalid("these bytes are no envelope").with("bytes", bytes.len()));
        }
        if bytes[4] != VERSION {
            return Err(invalid("a newer version of certlib sealed this").with("layout", bytes[4]));
        }
        let suite = Suite::from_number(bytes[5])
            .ok_or_else(|| invalid("a newer version of certlib sealed this").with("suite", bytes[5]))?;
        let wrap = &bytes[WRAP_AT..BODY_AT];
        Ok(Self {
            suite,
            kek: KekId::new(array(&bytes[KEK_AT..])),
            kek_version: u32::from_be_bytes(array(&bytes[KEK_VERSION_AT..])),
            wrapped: WrappedDek {
                salt: array(wrap),
                nonce: array(&wrap[WRAP_SALT_LEN..]),
                ciphertext: array(&wrap[WRAP_SALT_LEN + WRAP_NONCE_LEN..]),
            },
            commitment: &bytes[BODY_AT..NONCE_AT],
            nonce: array(&bytes[NONCE_AT..]),
            payload: &bytes[PAYLOAD_AT..],
            body: &bytes[BODY_AT..],
        })
    }
}

/// Everything up to the commitment, with room for `rest` more bytes.
pub(super) fn head(suite: Suite, kek: &KekId, kek_version: u32, wrapped: &WrappedDek, rest: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BODY_AT + rest);
    bytes.extend_from_slice(MAGIC);
    bytes.push(VERSION);
    bytes.push(suite.number());
    bytes.extend_from_slice(kek.as_bytes());
    bytes.extend_from_slice(&kek_version.to_be_bytes());
    bytes.extend_from_slice(&wrapped.salt);
    bytes.extend_from_slice(&wrapped.nonce);
    bytes.extend_from_slice(&wrapped.ciphertext);
    bytes
}

/// What every layer authenticates before its own: the format and the suite.
pub(super) fn domain(suite: Suite) -> [u8; 6] {
    [MAGIC[0], MAGIC[1], MAGIC[2], MAGIC[3], VERSION, suite.number()]
}

/// The first `N` bytes. The callers have checked that they are there; if they were not, the zeros open nothing.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.first_chunk().copied().unwrap_or([0; N])
}

fn invalid(why: &'static str) -> Error {
    Error::validation("envelope.open", "envelope_invalid", why)
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({} bytes)", self.0.len())
    }
}

impl Serialize for Sealed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Sealed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // serde quotes the value that has the wrong type; a secret that nobody sealed may have got here.
        let invalid = || de::Error::custom("a sealed secret is not base64");
        let text = Zeroizing::new(String::deserialize(deserializer).map_err(|_| invalid())?);
        STANDARD.decode(text.as_bytes()).map(Self).map_err(|_| invalid())
    }
}
