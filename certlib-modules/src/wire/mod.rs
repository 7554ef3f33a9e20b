//! Text lines and counted bytes from a peer that is not trusted to keep them short.

pub(crate) mod reply;

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// How much is asked of the stream at a time.
const CHUNK: usize = 4096;

/// A stream, and what was read from it ahead of its time.
///
/// Nothing here waits for ever: callers put a time-out around every call.
#[derive(Debug)]
pub(crate) struct Wire<S> {
    stream: S,
    ahead: Vec<u8>,
}

/// Why a peer was not understood.
#[derive(Debug)]
pub(crate) enum WireError {
    /// It closed the connection.
    Closed,
    /// It sent more than a line, or a message, may have.
    TooLong,
    /// It sent something that the protocol does not have.
    Malformed,
    /// The connection failed.
    Io(io::Error),
}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof { Self::Closed } else { Self::Io(error) }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Over a fresh stream.
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, ahead: Vec::new() }
    }

    /// Sends all of `bytes`.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await?;
        Ok(())
    }

    /// The next line without its CR LF, of at most `limit` bytes. A line that ends in a bare LF, or that holds a bare
    /// CR, is malformed: two readers would not agree where it ends.
    ///
    /// Cancel-safe: what was read stays.
    pub(crate) async fn line(&mut self, limit: usize) -> Result<Vec<u8>, WireError> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.ahead[searched..].iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.ahead.drain(..=searched + at).collect();
                line.pop();
                if line.pop() != Some(b'\r') || line.contains(&b'\r') {
                    return Err(WireError::Malformed);
                }
                return if line.len() > limit { Err(WireError::TooLong) } else { Ok(line) };
            }
            searched = self.ahead.len();
            if searched > limit + 1 {
                return Err(WireError::TooLong);
            }
            self.fill().await?;
        }
    }

    /// The next `count` bytes. Cancel-safe: what was read stays.
    pub(crate) async fn exact(&mut self, count: usize) -> Result<Vec<u8>, WireError> {
        while self.ahead.len() < count {
            self.fill().await?;
        }
        Ok(self.ahead.drain(..count).collect())
    }

    /// The bare stream, for TLS; `None` when the peer sent more than it was asked for: what stands in front of the
    /// encrypted part could be anybody's (RFC 3207 section 6 and its likes).
    pub(crate) fn into_inner(self) -> Option<S> {
        self.ahead.is_empty().then_some(self.stream)
    }

    async fn fill(&mut self) -> Result<(), WireError> {
        let mut chunk = [0; CHUNK];
        match self.stream.read(&mut chunk).await? {
            0 => Err(WireError::Closed),
            read => {
                self.ahead.extend_from_slice(&chunk[..read]);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(bytes: &[u8], limit: usize) -> Vec<Result<String, WireError>> {
        let (near, mut far) = tokio::io::duplex(64);
        let bytes = bytes.to_vec();
        tokio::spawn(async move { far.write_all(&bytes).await });
        let mut wire = Wire::new(near);
        let mut lines = Vec::new();
        loop {
            let line = wire.line(limit).await.map(|line| String::from_utf8(line).unwrap());
            let ended = line.is_err();
            lines.push(line);
            if ended {
                return lines;
            }
        }
    }

    #[tokio::test]
    async fn lines_end_in_cr_lf_and_nothing_else() {
        let found = lines(b"220 one\r\n\r\n250 two\r\n", 100).await;
        assert!(matches!(&found[..], [Ok(one), Ok(empty), Ok(two), Err(WireError::Closed)]
            if one == "220 one" && empty.is_empty() && two == "250 two"));
        for bytes in [&b"220 one\n"[..], b"220 a\rb\r\n", b"\n"] {
            assert!(matches!(&lines(bytes, 100).await[..], [Err(WireError::Malformed)]), "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn long_lines_are_not_kept() {
        assert!(matches!(&lines(b"12345\r\n", 5).await[..], [Ok(_), Err(WireError::Closed)]));
        assert!(matches!(&lines(b"123456\r\n", 5).await[..], [Err(WireError::TooLong)]));
        let endless = vec![b'x'; 1_000_000];
        assert!(matches!(&lines(&endless, 1_000).await[..], [Err(WireError::TooLong)]));
    }

    #[tokio::test]
    async fn what_came_too_early_keeps_the_stream_from_being_upgraded() {
        for (bytes, clean) in [(&b"220 go\r\n"[..], true), (b"220 go\r\n250 injected\r\n", false)] {
            let (near, mut far) = tokio::io::duplex(64);
            far.write_all(bytes).await.unwrap();
            let mut wire = Wire::new(near);
            wire.line(100).await.unwrap();
            assert_eq!(wire.into_inner().is_some(), clean);
        }
    }

    #[tokio::test]
    async fn counted_bytes_may_come_in_pieces() {
        let (near, mut far) = tokio::io::duplex(2);
        tokio::spawn(async move { far.write_all(b"abcdef").await });
        let mut wire = Wire::new(near);
        assert_eq!(wire.exact(4).await.unwrap(), b"abcd");
        assert_eq!(wire.exact(2).await.unwrap(), b"ef");
        assert!(matches!(wire.exact(1).await, Err(WireError::Closed)));
    }
}
