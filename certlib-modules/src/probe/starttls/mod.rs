//! From plain text to TLS, in the protocols that begin without it.
//!
//! Each upgrade says no more than what asks for TLS, and after a refusal it says nothing more at all. What the server
//! says is read within strict limits and never quoted.

mod imap;
mod ldap;
mod mysql;
mod pop3;
mod postgresql;
mod smtp;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::wire::{Wire, WireError};

/// The longest line, in bytes.
const LONGEST_LINE: usize = 2_000;
/// The most lines before the one that counts.
const MOST_LINES: usize = 100;

/// How a server is asked to go on with TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Starttls {
    /// SMTP: `STARTTLS` (RFC 3207). Usual ports: 25 and 587.
    Smtp,
    /// IMAP: `STARTTLS` (RFC 9051). Usual port: 143.
    Imap,
    /// POP3: `STLS` (RFC 2595). Usual port: 110.
    Pop3,
    /// LDAP: the extended operation StartTLS (RFC 4511). Usual port: 389.
    Ldap,
    /// PostgreSQL: `SSLRequest`. Usual port: 5432.
    Postgresql,
    /// MySQL and MariaDB: `SSLRequest`. Usual port: 3306.
    Mysql,
}

impl Starttls {
    fn as_str(self) -> &'static str {
        match self {
            Self::Smtp => "SMTP",
            Self::Imap => "IMAP",
            Self::Pop3 => "POP3",
            Self::Ldap => "LDAP",
            Self::Postgresql => "PostgreSQL",
            Self::Mysql => "MySQL",
        }
    }
}

/// Why there is no TLS.
#[derive(Debug)]
enum Failure {
    /// The server does not offer it, or refuses it.
    Refused,
    /// It does not speak the protocol, or not as it should.
    Wire(WireError),
}

impl From<WireError> for Failure {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

/// Has the server go on with TLS, and gives the stream back when the handshake is next; otherwise the reason.
///
/// Waits as long as the server does: callers put a time-out around it. Cancel-safe, in that the stream is closed.
pub(super) async fn upgrade<S: AsyncRead + AsyncWrite + Unpin>(protocol: Starttls, stream: S) -> Result<S, String> {
    let mut wire = Wire::new(stream);
    let asked = match protocol {
        Starttls::Smtp => smtp::ask(&mut wire).await,
        Starttls::Imap => imap::ask(&mut wire).await,
        Starttls::Pop3 => pop3::ask(&mut wire).await,
        Starttls::Ldap => ldap::ask(&mut wire).await,
        Starttls::Postgresql => postgresql::ask(&mut wire).await,
        Starttls::Mysql => mysql::ask(&mut wire).await,
    };
    let name = protocol.as_str();
    asked.map_err(|failure| match failure {
        Failure::Refused => format!("the server offers no TLS over {name}"),
        Failure::Wire(WireError::Closed) => format!("the server closed the connection before TLS over {name}"),
        Failure::Wire(WireError::Io(error)) => format!("the connection failed before TLS over {name}: {error}"),
        Failure::Wire(WireError::TooLong | WireError::Malformed) => format!("the server does not speak {name}"),
    })?;
    // What comes ahead of the handshake could be anybody's.
    wire.into_inner().ok_or_else(|| format!("the server sends more in the clear than {name} has before TLS"))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Plays a server: says each part, and waits for something to be said in between. Gives the outcome and all that the
    /// client said.
    pub(super) async fn play(protocol: Starttls, parts: &[&[u8]]) -> (Result<(), String>, Vec<u8>) {
        let (near, mut far) = tokio::io::duplex(64 * 1024);
        let parts: Vec<Vec<u8>> = parts.iter().map(|part| part.to_vec()).collect();
        let server = tokio::spawn(async move {
            let mut heard = Vec::new();
            for (at, part) in parts.iter().enumerate() {
                if at > 0 {
                    far.read_buf(&mut heard).await.unwrap();
                }
                if far.write_all(part).await.is_err() {
                    break;
                }
            }
            far.shutdown().await.unwrap();
            far.read_to_end(&mut heard).await.unwrap();
            heard
        });
        let both = async { (upgrade(protocol, near).await.map(drop), server.await.unwrap()) };
        tokio::time::timeout(std::time::Duration::from_secs(20), both).await.unwrap()
    }

    /// What the server says, part by part, and what the client is to say.
    type Case<'a> = (Starttls, Vec<&'a [u8]>, &'a [u8]);

    const LDAP_ASK: &[u8] = b"\x30\x1d\x02\x01\x01\x77\x18\x80\x161.3.6.1.4.1.1466.20037";
    const PG_ASK: &[u8] = &[0, 0, 0, 8, 4, 210, 22, 47];

    /// The greeting of MariaDB 10.11 (a random scramble apart), with these capabilities in its lower half.
    fn mysql_greeting(capabilities: u16) -> Vec<u8> {
        let mut body = vec![10];
        body.extend_from_slice(b"5.5.5-10.11.6-MariaDB\0");
        body.extend_from_slice(&[7, 0, 0, 0]);
        body.extend_from_slice(b"scramble\0");
        body.extend_from_slice(&capabilities.to_le_bytes());
        body.extend_from_slice(&[45, 2, 0, 0xff, 0x81, 21]);
        body.extend_from_slice(&[0; 10]);
        body.extend_from_slice(b"scramblescra\0mysql_native_password\0");
        let mut packet = vec![u8::try_from(body.len()).unwrap(), 0, 0, 0];
        packet.extend_from_slice(&body);
        packet
    }

    #[tokio::test]
    async fn upgrades_follow_the_standards() {
        let mysql = mysql_greeting(0xf7fe | 0x0800);
        let ldap_yes = b"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x00\x04\x00\x04\x00";
        let ldap_long = b"\x30\x82\x00\x0c\x02\x01\x01\x78\x07\x0a\x01\x00\x04\x00\x04\x00";
        let cases: [Case<'_>; 9] = [
            (
                Starttls::Smtp,
                vec![b"220-mx\r\n220 ready\r\n", b"250-mx\r\n250-SIZE 1\r\n250 StartTLS\r\n", b"220 go\r\n"],
                b"EHLO [127.0.0.1]\r\nSTARTTLS\r\n",
            ),
            (Starttls::Imap, vec![b"* OK [CAPABILITY IMAP4rev1] hi\r\n", b"a1 OK begin\r\n"], b"a1 STARTTLS\r\n"),
            (Starttls::Imap, vec![b"* OK hi\r\n", b"* CAPABILITY X\r\na1 ok\r\n"], b"a1 STARTTLS\r\n"),
            (Starttls::Pop3, vec![b"+OK hi <1.2@x>\r\n", b"+OK begin\r\n"], b"STLS\r\n"),
            (Starttls::Ldap, vec![b"", ldap_yes], LDAP_ASK),
            (Starttls::Ldap, vec![b"", ldap_long], LDAP_ASK),
            (Starttls::Postgresql, vec![b"", b"S"], PG_ASK),
            (Starttls::Mysql, vec![&mysql, b""], b""),
            (Starttls::Pop3, vec![b"+OK\r\n", b"+OK\r\n"], b"STLS\r\n"),
        ];
        for (protocol, parts, said) in cases {
            let (outcome, heard) = play(protocol, &parts).await;
            assert_eq!(outcome, Ok(()), "{protocol:?}");
            if protocol == Starttls::Mysql {
                // Header, capabilities with CLIENT_SSL, the largest packet, the character set, and zeros.
                assert_eq!((heard.len(), &heard[..4]), (36, &[32, 0, 0, 1][..]));
                assert_eq!(u32::from_le_bytes(heard[4..8].try_into().unwrap()) & 0x0a00, 0x0a00);
                assert!(heard[13..].iter().all(|byte| *byte == 0));
            } else {
                assert_eq!(heard, said, "{protocol:?}");
            }
        }
    }

    #[tokio::test]
    async fn after_a_refusal_nothing_is_said() {
        let no_tls = mysql_greeting(0xf7fe & !0x0800);
        let ldap_no = b"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x34\x04\x00\x04\x00";
        let ldap_notice = b"\x30\x0c\x02\x01\x00\x78\x07\x0a\x01\x02\x04\x00\x04\x00";
        let ehlo: &[u8] = b"EHLO [127.0.0.1]\r\n";
        let cases: [Case<'_>; 17] = [
            (Starttls::Smtp, vec![b"554 no\r\n"], b""),
            (Starttls::Smtp, vec![b"220 mx\r\n", b"502 what?\r\n"], ehlo),
            (Starttls::Smtp, vec![b"220 mx\r\n", b"250-mx\r\n250 AUTH PLAIN\r\n"], ehlo),
            (
                Starttls::Smtp,
                vec![b"220 mx\r\n", b"250-mx\r\n250 STARTTLS\r\n", b"454 not now\r\n"],
                b"EHLO [127.0.0.1]\r\nSTARTTLS\r\n",
            ),
            (Starttls::Imap, vec![b"* BYE full\r\n"], b""),
            (Starttls::Imap, vec![b"* PREAUTH you are in\r\n"], b""),
            (Starttls::Imap, vec![b"* OK hi\r\n", b"a1 NO\r\n"], b"a1 STARTTLS\r\n"),
            (Starttls::Imap, vec![b"* OK hi\r\n", b"* X\r\na1 BAD what?\r\n"], b"a1 STARTTLS\r\n"),
            (Starttls::Imap, vec![b"* OK hi\r\n", b"* BYE\r\n"], b"a1 STARTTLS\r\n"),
            (Starttls::Pop3, vec![b"-ERR full\r\n"], b""),
            (Starttls::Pop3, vec![b"+OK\r\n", b"-ERR what?\r\n"], b"STLS\r\n"),
            (Starttls::Ldap, vec![b"", ldap_no], LDAP_ASK),
            (Starttls::Ldap, vec![b"", ldap_notice], LDAP_ASK),
            (Starttls::Postgresql, vec![b"", b"N"], PG_ASK),
            (Starttls::Postgresql, vec![b"", b"E\0\0\0\x10SFATAL\0C00000\0\0"], PG_ASK),
            (Starttls::Mysql, vec![&no_tls], b""),
            (Starttls::Mysql, vec![b"\x16\0\0\0\xff\x6a\x04Host is not allowed"], b""),
        ];
        for (protocol, parts, said) in cases {
            let (outcome, heard) = play(protocol, &parts).await;
            assert!(outcome.as_ref().unwrap_err().contains("offers no TLS"), "{protocol:?} {outcome:?}");
            assert_eq!(heard, said, "{protocol:?}");
        }
    }

    #[tokio::test]
    async fn what_came_ahead_of_the_handshake_is_noticed() {
        let mysql = [mysql_greeting(0xffff), b"more".to_vec()].concat();
        let cases: [(Starttls, Vec<&[u8]>); 6] = [
            (Starttls::Smtp, vec![b"220 mx\r\n", b"250-mx\r\n250 STARTTLS\r\n", b"220 go\r\n250 injected\r\n"]),
            (Starttls::Imap, vec![b"* OK hi\r\n", b"a1 OK\r\na2 OK injected\r\n"]),
            (Starttls::Pop3, vec![b"+OK\r\n", b"+OK\r\n+OK injected\r\n"]),
            (Starttls::Ldap, vec![b"", b"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x00\x04\x00\x04\x00injected"]),
            (Starttls::Postgresql, vec![b"", b"SR\0\0\0\x08\0\0\0\0"]),
            (Starttls::Mysql, vec![&mysql]),
        ];
        for (protocol, parts) in cases {
            let (outcome, _) = play(protocol, &parts).await;
            assert!(outcome.as_ref().unwrap_err().contains("more in the clear"), "{protocol:?} {outcome:?}");
        }
    }

    #[tokio::test]
    async fn nonsense_floods_and_silence_end() {
        let all =
            [Starttls::Smtp, Starttls::Imap, Starttls::Pop3, Starttls::Ldap, Starttls::Postgresql, Starttls::Mysql];
        let flood = vec![b'*'; 50_000];
        let lines = b"* OK\r\n".repeat(5_000);
        let large_ldap = b"\x30\x84\x7f\xff\xff\xff\x02\x01\x01";
        for protocol in all {
            let nonsense: [&[u8]; 5] = [b"HTTP/1.1 400 Bad Request\r\n\r\n", &flood, b"\r\n\r\n", &lines, large_ldap];
            for part in nonsense {
                let (outcome, _) = play(protocol, &[part]).await;
                assert!(outcome.is_err(), "{protocol:?}");
            }
            let (outcome, _) = play(protocol, &[b""]).await;
            assert!(outcome.as_ref().unwrap_err().contains("closed the connection"), "{protocol:?} {outcome:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_answer_panics(answer in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            for protocol in [Starttls::Ldap, Starttls::Postgresql, Starttls::Mysql, Starttls::Imap] {
                runtime.block_on(async {
                    let (near, mut far) = tokio::io::duplex(1024);
                    far.write_all(&answer).await.unwrap();
                    far.shutdown().await.unwrap();
                    let _ = upgrade(protocol, near).await;
                });
            }
        }
    }
}
