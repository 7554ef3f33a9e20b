//! The three messages of NTLM, as bytes.

use super::{Refused, crypto::utf16};

pub(super) const SIGNATURE: &[u8; 8] = b"NTLMSSP\0";

/// Bits of the flags field.
pub(super) mod flags {
    pub(crate) const UNICODE: u32 = 0x1;
    pub(crate) const REQUEST_TARGET: u32 = 0x4;
    pub(crate) const SIGN: u32 = 0x10;
    pub(crate) const SEAL: u32 = 0x20;
    pub(crate) const NTLM: u32 = 0x200;
    pub(crate) const ALWAYS_SIGN: u32 = 0x8000;
    pub(crate) const TARGET_TYPE_SERVER: u32 = 0x2_0000;
    pub(crate) const EXTENDED_SESSIONSECURITY: u32 = 0x8_0000;
    pub(crate) const TARGET_INFO: u32 = 0x80_0000;
    pub(crate) const VERSION: u32 = 0x200_0000;
    pub(crate) const KEY_128: u32 = 0x2000_0000;
    pub(crate) const KEY_EXCH: u32 = 0x4000_0000;
    pub(crate) const KEY_56: u32 = 0x8000_0000;
}

/// Ids of attribute-value pairs.
pub(super) mod av {
    pub(crate) const END: u16 = 0;
    pub(crate) const NB_COMPUTER: u16 = 1;
    pub(crate) const NB_DOMAIN: u16 = 2;
    pub(crate) const DNS_COMPUTER: u16 = 3;
    pub(crate) const DNS_DOMAIN: u16 = 4;
    pub(crate) const FLAGS: u16 = 6;
    pub(crate) const TIMESTAMP: u16 = 7;
    pub(crate) const CHANNEL_BINDINGS: u16 = 10;
}

/// Where the fields of a Type 3 message begin that are not in its header.
const MIC_OFFSET: usize = 72;
const MIC_END: usize = MIC_OFFSET + 16;

/// The flags of a Type 1 message.
pub(super) fn negotiate_flags(message: &[u8]) -> Result<u32, Refused> {
    kind(message, 1)?;
    u32_at(message, 12)
}

/// A Type 2 message.
pub(super) fn challenge(flags: u32, server_challenge: &[u8; 8], target: &str, info: &[(u16, Vec<u8>)]) -> Vec<u8> {
    const HEADER: usize = 56;
    let (name, info) = (utf16(target), av_pairs(info));
    let mut message = SIGNATURE.to_vec();
    message.extend(2_u32.to_le_bytes());
    field(&mut message, name.len(), HEADER);
    message.extend(flags.to_le_bytes());
    message.extend(server_challenge);
    message.extend([0; 8]);
    field(&mut message, info.len(), HEADER + name.len());
    // Windows 10.0 build 20348, NTLM revision 15.
    message.extend([10, 0, 0x7c, 0x4f, 0, 0, 0, 15]);
    message.extend(name);
    message.extend(info);
    message
}

/// Attribute-value pairs with their end.
pub(super) fn av_pairs(pairs: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (id, value) in pairs {
        bytes.extend(id.to_le_bytes());
        bytes.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_le_bytes());
        bytes.extend(value);
    }
    bytes.extend([0; 4]);
    bytes
}

/// A Type 3 message.
pub(super) struct Authenticate {
    pub(super) flags: u32,
    pub(super) domain: String,
    pub(super) user: String,
    /// The NTLMv2 response: 16 bytes of proof, and what it proves.
    pub(super) proof: [u8; 16],
    pub(super) proved: Vec<u8>,
    pub(super) session_key: Vec<u8>,
    pub(super) mic: Option<[u8; 16]>,
    /// The whole message with its MIC zeroed.
    pub(super) without_mic: Vec<u8>,
}

impl Authenticate {
    pub(super) fn parse(message: &[u8]) -> Result<Self, Refused> {
        kind(message, 3)?;
        let flags = u32_at(message, 60)?;
        let response = bytes_at(message, 20)?;
        // NTLMv1 has 24 bytes here, which no current Windows takes.
        let (proof, proved) = response.split_first_chunk::<16>().filter(|(_, rest)| rest.len() >= 28).ok_or(Refused)?;
        let mut without_mic = message.to_vec();
        let payload = [12, 20, 28, 36, 44, 52].iter().filter_map(|at| {
            let length = u16_at(message, *at).ok().filter(|length| *length > 0);
            length.and_then(|_| u32_at(message, *at + 4).ok())
        });
        let mut mic = None;
        if payload.min().is_some_and(|start| start as usize >= MIC_END) && message.len() >= MIC_END {
            mic = message[MIC_OFFSET..MIC_END].try_into().ok();
            without_mic[MIC_OFFSET..MIC_END].fill(0);
        }
        Ok(Self {
            flags,
            domain: text(bytes_at(message, 28)?),
            user: text(bytes_at(message, 36)?),
            proof: *proof,
            proved: proved.to_vec(),
            session_key: bytes_at(message, 52)?.to_vec(),
            mic,
            without_mic,
        })
    }

    /// An attribute that the client has put into its response.
    pub(super) fn attribute(&self, wanted: u16) -> Option<&[u8]> {
        let mut rest = self.proved.get(28..)?;
        loop {
            let (id, length) = (u16_at(rest, 0).ok()?, usize::from(u16_at(rest, 2).ok()?));
            let value = rest.get(4..4 + length)?;
            if id == wanted {
                return Some(value);
            }
            if id == av::END {
                return None;
            }
            rest = &rest[4 + length..];
        }
    }
}

fn kind(message: &[u8], kind: u32) -> Result<(), Refused> {
    if message.starts_with(SIGNATURE) && u32_at(message, 8)? == kind { Ok(()) } else { Err(Refused) }
}

fn field(message: &mut Vec<u8>, length: usize, offset: usize) {
    let length = u16::try_from(length).unwrap_or(u16::MAX).to_le_bytes();
    message.extend(length);
    message.extend(length);
    message.extend(u32::try_from(offset).unwrap_or(u32::MAX).to_le_bytes());
}

fn bytes_at(message: &[u8], field: usize) -> Result<&[u8], Refused> {
    let (length, offset) = (usize::from(u16_at(message, field)?), u32_at(message, field + 4)? as usize);
    message.get(offset..offset + length).or(if length == 0 { Some(&[]) } else { None }).ok_or(Refused)
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, Refused> {
    bytes.get(at..at + 2).and_then(|found| found.try_into().ok()).map(u16::from_le_bytes).ok_or(Refused)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Refused> {
    bytes.get(at..at + 4).and_then(|found| found.try_into().ok()).map(u32::from_le_bytes).ok_or(Refused)
}

fn text(bytes: &[u8]) -> String {
    let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    String::from_utf16_lossy(&units)
}
