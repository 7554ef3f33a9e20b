//! Messages that are encrypted by the login's own means, for connections without TLS.
//!
//! The form is `multipart/encrypted` as Microsoft sends it, which no MIME parser reads: its header lines start with a
//! tab, and nothing stands between the encrypted bytes and the boundary that ends them.

use certlib_core::{Error, Result};
use zeroize::Zeroizing;

use super::auth::SecurityContext;

/// The type of a sealed message.
pub(super) const SEALED: &str = "multipart/encrypted;protocol=\"application/HTTP-SPNEGO-session-encrypted\";\
                                 boundary=\"Encrypted Boundary\"";

/// The type of what is inside.
pub(super) const PLAIN: &str = "application/soap+xml;charset=UTF-8";

const OPERATION: &str = "winrm.seal";

/// The largest signature that makes sense, in bytes.
const MAX_SIGNATURE: usize = 256;

/// Seals one message.
///
/// # Errors
/// `IoPermanent` `seal_failed`.
pub(super) fn seal(context: &mut SecurityContext, plain: &[u8]) -> Result<Vec<u8>> {
    let (signature, sealed) = context.seal(plain)?;
    let mut message = format!(
        "--Encrypted Boundary\r\n\tContent-Type: application/HTTP-SPNEGO-session-encrypted\r\n\
         \tOriginalContent: type={PLAIN};Length={}\r\n--Encrypted Boundary\r\n\
         \tContent-Type: application/octet-stream\r\n",
        plain.len()
    )
    .into_bytes();
    // A signature is some dozens of bytes.
    message.extend_from_slice(&u32::try_from(signature.len()).unwrap_or(u32::MAX).to_le_bytes());
    message.extend_from_slice(&signature);
    message.extend_from_slice(&sealed);
    message.extend_from_slice(b"--Encrypted Boundary--\r\n");
    Ok(message)
}

/// Opens one message.
///
/// # Errors
/// `IoPermanent` `answer_not_sealed` when it does not have that form, or was not made by who we are logged in to.
pub(super) fn unseal(context: &mut SecurityContext, message: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    let parts = Parts::of(message).ok_or_else(not_sealed)?;
    let plain = context.unseal(parts.signature, parts.sealed)?;
    if parts.length.is_some_and(|length| length != plain.len()) {
        return Err(not_sealed());
    }
    Ok(plain)
}

/// Whether a Content-Type says that the message is sealed.
pub(super) fn is_sealed(content_type: &str) -> bool {
    content_type.trim_start().to_ascii_lowercase().starts_with("multipart/encrypted")
}

pub(super) fn not_sealed() -> Error {
    Error::permanent(OPERATION, "answer_not_sealed", "the answer is not encrypted as it must be, so it is not believed")
}

#[derive(Debug, PartialEq, Eq)]
struct Parts<'a> {
    /// The length of the plain text, as the message says it.
    length: Option<usize>,
    signature: &'a [u8],
    sealed: &'a [u8],
}

impl<'a> Parts<'a> {
    fn of(message: &'a [u8]) -> Option<Self> {
        const BINARY: &[u8] = b"application/octet-stream\r\n";
        let at = find(message, BINARY)?;
        let (head, rest) = (&message[..at], &message[at + BINARY.len()..]);
        let length = std::str::from_utf8(head).ok()?.split("Length=").nth(1).and_then(|rest| {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).map_or(rest, |end| &rest[..end]);
            digits.parse().ok()
        });
        let (size, rest) = rest.split_first_chunk::<4>()?;
        let size = usize::try_from(u32::from_le_bytes(*size)).ok().filter(|size| *size <= MAX_SIGNATURE)?;
        let (signature, rest) = rest.split_at_checked(size)?;
        // The boundary ends the message: some servers write a space into it, and encrypted bytes may look like one.
        let tail = rest.len().saturating_sub(80);
        let end = tail + last(&rest[tail..], b"--\r\n").or_else(|| last(&rest[tail..], b"--"))?;
        let end = last(&rest[..end], b"--").filter(|start| end - start <= 76)?;
        Some(Self { length, signature, sealed: &rest[..end] })
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn last(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).rposition(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(boundary: &str, sealed: &[u8]) -> Vec<u8> {
        let mut message = format!(
            "--{boundary}\r\n\tContent-Type: application/HTTP-SPNEGO-session-encrypted\r\n\
             \tOriginalContent: type=application/soap+xml;charset=UTF-8;Length=7\r\n--{boundary}\r\n\
             \tContent-Type: application/octet-stream\r\n"
        )
        .into_bytes();
        message.extend_from_slice(&[3, 0, 0, 0, 1, 2, 3]);
        message.extend_from_slice(sealed);
        message.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
        message
    }

    #[test]
    fn messages_are_cut_where_they_end() {
        for boundary in ["Encrypted Boundary", " Encrypted Boundary"] {
            for sealed in [&b"abc"[..], b"", b"a--b", b"--", b"\r\n--Encrypted", b"abc-"] {
                let message = message(boundary, sealed);
                let parts = Parts::of(&message).unwrap();
                let expected = Parts { length: Some(7), signature: &[1, 2, 3], sealed };
                assert_eq!(parts, expected, "{boundary:?} {:?}", String::from_utf8_lossy(sealed));
            }
        }
    }

    #[test]
    fn types_are_told_apart() {
        assert!(is_sealed(SEALED) && is_sealed("Multipart/Encrypted; x"));
        assert!(!is_sealed(PLAIN) && !is_sealed("text/html"));
    }

    proptest! {
        #[test]
        fn no_input_panics(input in proptest::collection::vec(any::<u8>(), 0..200), cut in 0_usize..200) {
            let _ = Parts::of(&input);
            let whole = message("Encrypted Boundary", &input);
            let _ = Parts::of(&whole[..cut.min(whole.len())]);
        }
    }
}
