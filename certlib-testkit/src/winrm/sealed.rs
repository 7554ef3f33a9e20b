//! Encrypted bodies: one message in `multipart/encrypted`, as WinRM writes it.

use crate::logins::ntlm::{SIGNATURE, Seal};

/// What `Content-Type` says of an encrypted body.
pub(super) const CONTENT_TYPE: &str =
    "multipart/encrypted;protocol=\"application/HTTP-SPNEGO-session-encrypted\";boundary=\"Encrypted Boundary\"";

const BOUNDARY: &str = "--Encrypted Boundary";
const PLAIN: &str = "application/soap+xml;charset=UTF-8";
const BINARY: &[u8] = b"application/octet-stream\r\n";

/// Whether a request says that its body is encrypted.
pub(super) fn is_sealed(content_type: &str) -> bool {
    content_type.to_ascii_lowercase().starts_with("multipart/encrypted")
}

/// Opens a body; `None` when it is not of that form, or not sealed by the client of this connection.
pub(super) fn open(body: &[u8], seal: &mut Seal) -> Option<Vec<u8>> {
    let at = body.windows(BINARY.len()).position(|window| window == BINARY)?;
    let (head, rest) = body.split_at(at);
    let head = std::str::from_utf8(head).ok()?;
    let length = head.split("Length=").nth(1)?.lines().next()?.trim().parse::<usize>().ok()?;
    let end = [BOUNDARY.as_bytes(), b"--\r\n"].concat();
    let part = rest[BINARY.len()..].strip_suffix(end.as_slice())?;
    let (size, rest) = part.split_first_chunk::<4>()?;
    let (signature, sealed) = rest.split_at_checked(u32::from_le_bytes(*size) as usize)?;
    if signature.len() != SIGNATURE {
        return None;
    }
    seal.unseal(signature, sealed).filter(|plain| plain.len() == length)
}

/// Encrypts an answer; spoils the signature if told to.
pub(super) fn close(plain: &[u8], seal: &mut Seal, spoil: bool) -> Vec<u8> {
    let (mut signature, sealed) = seal.seal(plain);
    if spoil {
        signature[4] ^= 1;
    }
    let head = format!(
        "{BOUNDARY}\r\n\tContent-Type: application/HTTP-SPNEGO-session-encrypted\r\n\
         \tOriginalContent: type={PLAIN};Length={}\r\n{BOUNDARY}\r\n\tContent-Type: application/octet-stream\r\n",
        plain.len()
    );
    let mut body = head.into_bytes();
    body.extend(16_u32.to_le_bytes());
    body.extend(signature);
    body.extend(sealed);
    body.extend(format!("{BOUNDARY}--\r\n").into_bytes());
    body
}
