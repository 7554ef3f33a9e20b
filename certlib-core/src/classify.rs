//! From what was seen to an [`ErrorClass`]: the only such table.
//!
//! Backends call these functions and never decide by the text of a message.

use std::io;
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use crate::error::ErrorClass;

/// The longest wait a peer can ask of us with `Retry-After`: seven days.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// The class of an I/O error of a network connection or a file.
///
/// A kind that no rule names is [`ErrorClass::IoPermanent`]: retrying what nobody understands repeats harm.
pub fn io(kind: io::ErrorKind) -> ErrorClass {
    use io::ErrorKind as K;
    match kind {
        K::ConnectionRefused
        | K::ConnectionReset
        | K::ConnectionAborted
        | K::NotConnected
        | K::HostUnreachable
        | K::NetworkUnreachable
        | K::NetworkDown
        | K::BrokenPipe
        | K::UnexpectedEof
        | K::TimedOut => ErrorClass::Network,
        K::Interrupted | K::WouldBlock | K::ResourceBusy | K::Deadlock | K::OutOfMemory => ErrorClass::IoTransient,
        K::InvalidInput | K::InvalidData => ErrorClass::Validation,
        _ => ErrorClass::IoPermanent,
    }
}

/// The class of an HTTP status that is not a success.
pub fn http(status: u16) -> ErrorClass {
    match status {
        408 | 425 | 429 | 500..=599 => ErrorClass::IoTransient,
        401 | 403 | 407 => ErrorClass::Auth,
        400 | 404 | 409 | 422 => ErrorClass::Validation,
        _ => ErrorClass::IoPermanent,
    }
}

/// The class of an SMTP reply that is a refusal (RFC 5321 section 4.2.1, RFC 4954 section 6).
pub fn smtp(code: u16) -> ErrorClass {
    match code {
        400..=499 => ErrorClass::IoTransient,
        530 | 534 | 535 | 538 => ErrorClass::Auth,
        _ => ErrorClass::IoPermanent,
    }
}

/// What a TLS handshake failed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsFailure {
    /// The peer's certificate is not trusted, expired, or for another name.
    PeerUntrusted,
    /// The peer refused our client certificate.
    ClientRefused,
    /// No protocol version or suite in common.
    NoCommonGround,
    /// The connection ended, or went silent, inside the handshake.
    Interrupted,
}

/// The class of a failed TLS handshake.
pub fn tls(failure: TlsFailure) -> ErrorClass {
    match failure {
        TlsFailure::PeerUntrusted | TlsFailure::ClientRefused => ErrorClass::Auth,
        TlsFailure::NoCommonGround => ErrorClass::IoPermanent,
        TlsFailure::Interrupted => ErrorClass::Network,
    }
}

/// Reads a `Retry-After` header: seconds or an HTTP date, clamped to `0..=`[`RETRY_AFTER_MAX`].
///
/// Anything else, an overlong value included, is no answer at all.
pub fn retry_after(value: &str, now: OffsetDateTime) -> Option<Duration> {
    let value = value.trim();
    if value.is_empty() || value.len() > 40 {
        return None;
    }
    if let Ok(seconds) = value.parse::<i128>() {
        let seconds = u64::try_from(seconds.clamp(0, i128::from(RETRY_AFTER_MAX.as_secs()))).ok()?;
        return Some(Duration::from_secs(seconds));
    }
    // An IMF-fixdate ends in "GMT", which RFC 2822 knows as an obsolete zone.
    let at = OffsetDateTime::parse(value, &Rfc2822).ok()?;
    let wait = Duration::try_from(at - now).unwrap_or(Duration::ZERO);
    Some(wait.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_io_is_permanent() {
        assert_eq!(io(io::ErrorKind::Other), ErrorClass::IoPermanent);
        assert_eq!(io(io::ErrorKind::StorageFull), ErrorClass::IoPermanent);
        assert_eq!(io(io::ErrorKind::ConnectionReset), ErrorClass::Network);
    }

    #[test]
    fn statuses() {
        let table = [
            (400, ErrorClass::Validation),
            (401, ErrorClass::Auth),
            (403, ErrorClass::Auth),
            (404, ErrorClass::Validation),
            (408, ErrorClass::IoTransient),
            (410, ErrorClass::IoPermanent),
            (429, ErrorClass::IoTransient),
            (500, ErrorClass::IoTransient),
            (503, ErrorClass::IoTransient),
            (302, ErrorClass::IoPermanent),
        ];
        for (status, class) in table {
            assert_eq!(http(status), class, "{status}");
        }
    }

    #[test]
    fn smtp_replies() {
        for (code, class) in [
            (421, ErrorClass::IoTransient),
            (454, ErrorClass::IoTransient),
            (530, ErrorClass::Auth),
            (535, ErrorClass::Auth),
            (550, ErrorClass::IoPermanent),
            (554, ErrorClass::IoPermanent),
        ] {
            assert_eq!(smtp(code), class, "{code}");
        }
    }

    #[test]
    fn retry_after_forms() {
        let now = OffsetDateTime::from_unix_timestamp(784_111_777).unwrap();
        assert_eq!(retry_after("120", now), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("-1", now), Some(Duration::ZERO));
        assert_eq!(retry_after("1000000000000", now), Some(RETRY_AFTER_MAX));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:50:37 GMT", now), Some(Duration::from_secs(60)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:00:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(retry_after("soon", now), None);
        assert_eq!(retry_after(&"(".repeat(100_000), now), None);
    }
}
