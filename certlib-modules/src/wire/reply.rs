//! Answers of SMTP servers (RFC 5321 section 4.2), within limits.

use tokio::io::{AsyncRead, AsyncWrite};

use super::{Wire, WireError};

/// The longest line of an answer, in bytes. RFC 5321 has 512; some servers are chattier.
const LONGEST_LINE: usize = 2_000;
/// The most lines of one answer.
const MOST_LINES: usize = 100;

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) code: u16,
    /// The enhanced status code (RFC 3463), if there is one, such as `5.7.8`.
    #[cfg_attr(not(feature = "smtp"), expect(dead_code, reason = "for the module that sends mail"))]
    pub(crate) enhanced: Option<String>,
    /// What came after the code on each line. Never quoted: a server can say anything, what it was told included.
    pub(crate) lines: Vec<String>,
}

impl Reply {
    /// Reads an answer.
    ///
    /// Not cancel-safe: after a drop in the middle of an answer the rest of it would be taken for the next one.
    pub(crate) async fn read<S: AsyncRead + AsyncWrite + Unpin>(wire: &mut Wire<S>) -> Result<Self, WireError> {
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

    /// The extensions in an answer to `EHLO`: keyword in upper case, and parameters.
    pub(crate) fn extensions(&self) -> impl Iterator<Item = (String, std::str::SplitAsciiWhitespace<'_>)> {
        self.lines.iter().skip(1).filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            Some((words.next()?.to_ascii_uppercase(), words))
        })
    }
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
}
