//! The server's side of NTLMv2, on its own code: the client that is tested uses another one.
//!
//! Source: MS-NLMP. Left out: NTLMv1, session keys of 40 and 56 bits, sealing without extended session security.

mod crypto;
mod message;
mod seal;

use time::{OffsetDateTime, macros::datetime};

pub(crate) use self::seal::{SIGNATURE, Seal};
use self::{
    crypto::{Rc4, hmac_md5, md5, ntowf_v2, utf16},
    message::{Authenticate, av, flags},
};

/// A login that is not taken. NTLM does not say why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused;

/// How strictly a login is tied to the TLS connection it comes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Binding {
    /// Not at all: there is no TLS, or the server does not look.
    None,
    /// A binding that the client sends must be right.
    IfSent([u8; 16]),
    /// The client must send the right one.
    Required([u8; 16]),
}

/// What a client must send that is bound to a TLS connection with this certificate (RFC 5929, `tls-server-end-point`).
pub(crate) fn binding_of(certificate_hash: &[u8]) -> [u8; 16] {
    let data = [b"tls-server-end-point:".as_slice(), certificate_hash].concat();
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX).to_le_bytes();
    md5(&[&[0; 16], &length, &data])
}

/// Whether these bytes are a message of NTLM.
pub(crate) fn is_message(token: &[u8]) -> bool {
    token.starts_with(message::SIGNATURE)
}

/// A login that has begun.
pub(crate) struct Challenged {
    negotiate: Vec<u8>,
    challenge: Vec<u8>,
    server_challenge: [u8; 8],
    timestamp: [u8; 8],
}

/// A login that has succeeded.
pub(crate) struct LoggedIn {
    pub(crate) user: String,
    pub(crate) seal: Seal,
    /// Whether the client has protected the login with a MIC.
    pub(crate) has_mic: bool,
}

impl Challenged {
    /// Answers a Type 1 message; gives the Type 2 message as well.
    pub(crate) fn begin(
        negotiate: &[u8],
        computer: &str,
        domain: &str,
        server_challenge: [u8; 8],
    ) -> Result<(Self, Vec<u8>), Refused> {
        let asked = message::negotiate_flags(negotiate)?;
        if asked & flags::UNICODE == 0 {
            return Err(Refused);
        }
        let granted =
            asked & (flags::SIGN | flags::SEAL | flags::ALWAYS_SIGN | flags::KEY_128 | flags::KEY_56 | flags::KEY_EXCH);
        let granted = granted
            | flags::UNICODE
            | flags::REQUEST_TARGET
            | flags::NTLM
            | flags::TARGET_TYPE_SERVER
            | flags::EXTENDED_SESSIONSECURITY
            | flags::TARGET_INFO
            | flags::VERSION;
        let timestamp = file_time(OffsetDateTime::now_utc()).to_le_bytes();
        let dns = format!("{}.{}", computer.to_lowercase(), domain.to_lowercase());
        let info = [
            (av::NB_DOMAIN, utf16(domain)),
            (av::NB_COMPUTER, utf16(computer)),
            (av::DNS_DOMAIN, utf16(&domain.to_lowercase())),
            (av::DNS_COMPUTER, utf16(&dns)),
            (av::TIMESTAMP, timestamp.to_vec()),
        ];
        let challenge = message::challenge(granted, &server_challenge, computer, &info);
        let begun = Self { negotiate: negotiate.to_vec(), challenge: challenge.clone(), server_challenge, timestamp };
        Ok((begun, challenge))
    }

    /// Judges a Type 3 message. `password` gives the password of a user (name and domain as the client wrote them).
    pub(crate) fn finish(
        &self,
        authenticate: &[u8],
        binding: Binding,
        password: impl FnOnce(&str, &str) -> Option<String>,
    ) -> Result<LoggedIn, Refused> {
        let message = Authenticate::parse(authenticate)?;
        let password = password(&message.user, &message.domain).ok_or(Refused)?;
        let key = ntowf_v2(&message.user, &message.domain, &password);
        if hmac_md5(&key, &[&self.server_challenge, &message.proved]) != message.proof {
            return Err(Refused);
        }
        // An answer to this challenge, not one that was recorded.
        if message.attribute(av::TIMESTAMP).is_some_and(|sent| sent != self.timestamp) {
            return Err(Refused);
        }
        let sent = message.attribute(av::CHANNEL_BINDINGS).filter(|sent| *sent != [0; 16]);
        match (binding, sent) {
            (Binding::IfSent(right) | Binding::Required(right), Some(sent)) if sent != right => return Err(Refused),
            (Binding::Required(_), None) => return Err(Refused),
            _ => {}
        }
        let base_key = hmac_md5(&key, &[&message.proof]);
        let exchanged = message.flags & flags::KEY_EXCH != 0;
        let session_key = if exchanged {
            Rc4::new(&base_key).apply(&message.session_key).try_into().map_err(|_| Refused)?
        } else {
            base_key
        };
        let protected =
            message.attribute(av::FLAGS).and_then(|flags| flags.first()).is_some_and(|first| first & 2 != 0);
        if protected {
            let mic = hmac_md5(&session_key, &[&self.negotiate, &self.challenge, &message.without_mic]);
            if message.mic != Some(mic) {
                return Err(Refused);
            }
        }
        let seal = Seal::new(&session_key, exchanged);
        Ok(LoggedIn { user: message.user, seal, has_mic: protected })
    }
}

/// 100 nanoseconds since 1601.
fn file_time(at: OffsetDateTime) -> u64 {
    let since = at - datetime!(1601-01-01 00:00 UTC);
    u64::try_from(since.whole_microseconds() * 10).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The vectors of MS-NLMP 4.2.4.
    #[test]
    fn the_published_vectors_come_out() {
        let key = ntowf_v2("User", "Domain", "Password");
        assert_eq!(hex(&key), "0c868a403bfd7a93a3001ef22ef02e3f");
        let info = message::av_pairs(&[(av::NB_DOMAIN, utf16("Domain")), (av::NB_COMPUTER, utf16("Server"))]);
        let proved = [&[1, 1, 0, 0, 0, 0, 0, 0], &[0; 8][..], &[0xaa; 8], &[0; 4], &info, &[0; 4]].concat();
        let proof = hmac_md5(&key, &[&0x0123_4567_89ab_cdef_u64.to_be_bytes(), &proved]);
        assert_eq!(hex(&proof), "68cd0ab851e51c96aabc927bebef6a1c");
        let base_key = hmac_md5(&key, &[&proof]);
        assert_eq!(hex(&base_key), "8de40ccadbc14a82f15cb0ad0de95ca3");
        assert_eq!(hex(&Rc4::new(&base_key).apply(&[0x55; 16])), "c5dad2544fc9799094ce1ce90bc9d03e");
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(Challenged::begin(b"NTLMSSP\0", "HOST", "DOM", [0; 8]).is_err());
        let type1 = [&b"NTLMSSP\0"[..], &1_u32.to_le_bytes(), &0x6000_8237_u32.to_le_bytes(), &[0; 16]].concat();
        let (begun, challenge) = Challenged::begin(&type1, "HOST", "DOM", [7; 8]).unwrap();
        assert_eq!(&challenge[24..32], [7; 8]);
        let some = |_: &str, _: &str| Some("pw".to_owned());
        for token in [&b"NTLMSSP\0\x03\0\0\0"[..], b"", &[0; 100], &challenge] {
            assert!(begun.finish(token, Binding::None, some).is_err());
        }
    }
}
