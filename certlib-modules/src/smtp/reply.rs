//! What a relay answers, within limits, and what a refusal means.

use certlib_core::classify;
use certlib_core::error::{Error, ErrorClass};
use tokio::io::{AsyncRead, AsyncWrite};

use super::OPERATION;
use crate::net::wire::{Wire, WireError};

/// The longest line of an answer, in bytes. RFC 5321 has 512; some relays are chattier.
const LONGEST_LINE: usize = 2_000;
/// The most lines of one answer.
const MOST_LINES: usize = 100;

/// An answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) code: u16,
    /// The enhanced status code (RFC 3463), if there is one, such as `5.7.8`.
    pub(super) enhanced: Option<String>,
    /// What came after the code on each line. Never quoted: a relay can say anything, what it was told included.
    pub(super) lines: Vec<String>,
}

/// The parts of a dialogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Greeting,
    Hello,
    Starttls,
    Auth,
    Mail,
    Recipient,
    Data,
    /// After the final dot.
    Message,
}

impl Stage {
    /// As errors name it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Greeting => "greeting",
            Self::Hello => "hello",
            Self::Starttls => "starttls",
            Self::Auth => "auth",
            Self::Mail => "mail",
            Self::Recipient => "recipient",
            Self::Data => "data",
            Self::Message => "message",
        }
    }
}

impl Reply {
    /// Reads an answer.
    ///
    /// Not cancel-safe: after a drop in the middle of an answer the rest of it would be taken for the next one.
    pub(super) async fn read<S: AsyncRead + AsyncWrite + Unpin>(wire: &mut Wire<S>) -> Result<Self, WireError> {
        let mut lines = Vec::new();
        let mut code = None;
        loop {
            if lines.len() == MOST_LINES {
                return Err(WireError::TooLong);
            }
            let line = wire.line(LONGEST_LINE).await?;
            let (digits, rest) = line.split_at_checked(3).ok_or(WireError::Malformed)?;
            let found = number(digits).ok_or(WireError::Malformed)?;
            if *code.get_or_insert(found) != found {
                return Err(WireError::Malformed);
            }
            let (last, text) = match rest {
                [] => (true, rest),
                [b' ', text @ ..] => (true, text),
                [b'-', text @ ..] => (false, text),
                _ => return Err(WireError::Malformed),
            };
            lines.push(String::from_utf8_lossy(text).into_owned());
            if last {
                let enhanced = lines.last().and_then(|text| enhanced(found, text));
                return Ok(Self { code: found, enhanced, lines });
            }
        }
    }

    /// Whether the relay agreed.
    pub(super) fn is_positive(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// What this answer means where another one was needed.
    pub(super) fn refusal(&self, stage: Stage, relay: &str) -> Error {
        let (class, code, message) = self.meaning(stage);
        let error = Error::new(class, OPERATION, code, message)
            .with("relay", relay)
            .with("stage", stage.as_str())
            .with("status", self.code);
        match &self.enhanced {
            Some(enhanced) => error.with("enhanced", enhanced),
            None => error,
        }
    }

    fn meaning(&self, stage: Stage) -> (ErrorClass, &'static str, &'static str) {
        if self.code < 400 {
            return (
                ErrorClass::IoPermanent,
                "protocol",
                "the relay answers with what the protocol does not have there",
            );
        }
        let class = classify::smtp(self.code);
        match (stage, class) {
            (Stage::Starttls, ErrorClass::IoTransient) => (class, "tls_required", "the relay has no TLS at the moment"),
            (Stage::Starttls, _) => (ErrorClass::IoPermanent, "tls_required", "the relay offers TLS, and refuses it"),
            (_, ErrorClass::IoTransient) => (class, "smtp_status", "the relay asks to come back later"),
            (Stage::Auth, ErrorClass::Auth) => {
                (class, "auth_failed", "the relay refuses the login; check the credential and how it may log in")
            }
            (_, ErrorClass::Auth) => (class, "auth_required", "the relay wants a login, or another one"),
            (Stage::Recipient, _) => (class, "recipient_refused", "the relay does not take mail for a recipient"),
            (Stage::Mail | Stage::Message, _) if self.code == 552 => {
                (class, "message_too_large", "the message is too large for the relay, or for a mailbox")
            }
            _ => (class, "smtp_status", "the relay refuses"),
        }
    }
}

/// What an answer that cannot be read means.
pub(super) fn unreadable(error: WireError, stage: Stage, relay: &str) -> Error {
    let error = match error {
        WireError::Closed => Error::network(OPERATION, "connection_lost", "the relay closed the connection"),
        WireError::Io(error) => {
            let class = classify::io(error.kind());
            Error::new(class, OPERATION, "connection_lost", "the connection failed").with_source(error)
        }
        WireError::TooLong => protocol("the relay's answer is longer than any that the protocol has"),
        WireError::Malformed => protocol("the relay's answer is none that the protocol has"),
    };
    error.with("relay", relay).with("stage", stage.as_str())
}

/// The relay does not speak SMTP, or somebody speaks in its name.
pub(super) fn protocol(message: &'static str) -> Error {
    Error::permanent(OPERATION, "protocol", message)
}

fn number(digits: &[u8]) -> Option<u16> {
    let number = std::str::from_utf8(digits).ok().filter(|_| digits.iter().all(u8::is_ascii_digit))?.parse().ok()?;
    (200..600).contains(&number).then_some(number)
}

fn enhanced(code: u16, text: &str) -> Option<String> {
    let word = text.split(' ').next()?;
    let mut parts = word.split('.');
    let class = parts.next()?;
    let numbers = [parts.next()?, parts.next()?];
    let numeric = |part: &str| (1..=3).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
    let fits = class == (code / 100).to_string() && numbers.into_iter().all(numeric) && parts.next().is_none();
    fits.then(|| word.to_owned())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    async fn read(bytes: &[u8]) -> Result<Reply, WireError> {
        let (near, mut far) = tokio::io::duplex(64);
        let bytes = bytes.to_vec();
        tokio::spawn(async move { far.write_all(&bytes).await });
        Reply::read(&mut Wire::new(near)).await
    }

    #[tokio::test]
    async fn answers_of_one_and_of_many_lines() {
        let reply = read(b"250-mx.example\r\n250-SIZE 1000\r\n250 AUTH PLAIN\r\n").await.unwrap();
        assert_eq!((reply.code, reply.lines.join("|").as_str()), (250, "mx.example|SIZE 1000|AUTH PLAIN"));
        let reply = read(b"535 5.7.8 no\r\n").await.unwrap();
        assert_eq!((reply.code, reply.enhanced.as_deref()), (535, Some("5.7.8")));
        assert_eq!(read(b"354\r\n").await.unwrap().code, 354);
        assert_eq!(read(b"250 4.7.1 wrong class\r\n").await.unwrap().enhanced, None);
    }

    #[tokio::test]
    async fn what_is_no_answer_is_refused() {
        let many = b"220-x\r\n".repeat(1_000_000);
        let long = [b"220 ".as_slice(), &[b'x'; 3_000], b"\r\n"].concat();
        for bytes in [many.as_slice(), long.as_slice(), &[b'x'; 100_000]] {
            assert!(matches!(read(bytes).await, Err(WireError::TooLong)));
        }
        for bytes in [
            &b"\r\n"[..],
            b"22\r\n",
            b"abc d\r\n",
            b"250_x\r\n",
            b"250-a\r\n220 b\r\n",
            b"999 x\r\n",
            b"250 a\n",
            b"HTTP/1.1 400 Bad\r\n",
            b"\xff\xff\xff \r\n",
        ] {
            assert!(matches!(read(bytes).await, Err(WireError::Malformed)), "{bytes:?}");
        }
        assert!(matches!(read(b"250-a\r\n").await, Err(WireError::Closed)));
    }

    #[test]
    fn refusals_are_classified() {
        use ErrorClass as C;
        use Stage as S;
        for (code, stage, class, expected) in [
            (421, S::Greeting, C::IoTransient, "smtp_status"),
            (554, S::Greeting, C::IoPermanent, "smtp_status"),
            (454, S::Starttls, C::IoTransient, "tls_required"),
            (502, S::Starttls, C::IoPermanent, "tls_required"),
            (454, S::Auth, C::IoTransient, "smtp_status"),
            (535, S::Auth, C::Auth, "auth_failed"),
            (534, S::Auth, C::Auth, "auth_failed"),
            (538, S::Auth, C::Auth, "auth_failed"),
            (504, S::Auth, C::IoPermanent, "smtp_status"),
            (530, S::Mail, C::Auth, "auth_required"),
            (552, S::Mail, C::IoPermanent, "message_too_large"),
            (450, S::Recipient, C::IoTransient, "smtp_status"),
            (550, S::Recipient, C::IoPermanent, "recipient_refused"),
            (553, S::Recipient, C::IoPermanent, "recipient_refused"),
            (451, S::Data, C::IoTransient, "smtp_status"),
            (554, S::Data, C::IoPermanent, "smtp_status"),
            (552, S::Message, C::IoPermanent, "message_too_large"),
            (550, S::Message, C::IoPermanent, "smtp_status"),
            (250, S::Data, C::IoPermanent, "protocol"),
        ] {
            let error = Reply { code, enhanced: None, lines: vec!["canary".into()] }.refusal(stage, "relay:25");
            assert_eq!((error.class(), error.code()), (class, expected), "{code} {stage:?}");
            assert!(!format!("{error:?}").contains("canary"));
        }
    }
}
