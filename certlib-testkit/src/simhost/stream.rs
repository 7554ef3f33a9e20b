//! A TCP connection that can be lost on purpose.

use std::{
    io::{self, ErrorKind},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Fails every read and write once its token is cancelled, so that nothing buffered above it reaches the client.
pub(super) struct CutStream {
    inner: TcpStream,
    cut: CancellationToken,
    wait: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl CutStream {
    pub(super) fn new(inner: TcpStream, cut: CancellationToken) -> Self {
        let wait = Box::pin(cut.clone().cancelled_owned());
        Self { inner, cut, wait }
    }

    fn check(&self) -> io::Result<()> {
        if self.cut.is_cancelled() {
            return Err(ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}

impl AsyncRead for CutStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // Polled here only: a session always has a read outstanding, hence always wakes up.
        if self.wait.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl AsyncWrite for CutStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
