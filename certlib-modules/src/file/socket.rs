//! UNIX sockets of this machine.

use std::io::{self, ErrorKind};
use std::time::Duration;

use certlib_core::secret::SecretBytes;
use certlib_core::{Error, Result, classify};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::files::ANSWER_LIMIT;

const OPERATION: &str = "file.ask";

/// Sends `request` to the socket at `path` and reads the answer, as [`ask`](crate::files::FileSystem::ask) says.
pub(super) async fn ask(path: &str, request: &SecretBytes, limit: Duration) -> Result<Vec<u8>> {
    let place = |error: Error| error.with("socket", path.escape_debug());
    match timeout(limit, talk(path, request)).await {
        Ok(answer) => answer.map_err(failed).map_err(place),
        Err(_) => Err(place(Error::network(OPERATION, "socket_timeout", "the other side did not answer in time"))),
    }
}

async fn talk(path: &str, request: &SecretBytes) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(path).await?;
    let mut answer = Vec::new();
    // Whoever hangs up in the middle of a request may have answered before.
    match stream.write_all(request.expose()).await {
        Err(error) if !hung_up(&error) => return Err(error),
        _ => {}
    }
    match (&mut stream).take(ANSWER_LIMIT as u64).read_to_end(&mut answer).await {
        Err(error) if !hung_up(&error) => Err(error),
        _ => Ok(answer),
    }
}

fn hung_up(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

fn failed(error: io::Error) -> Error {
    let (code, message) = match error.kind() {
        ErrorKind::NotFound => ("socket_missing", "there is no such socket"),
        ErrorKind::PermissionDenied => ("permission_denied", "this process has no permission for the socket"),
        ErrorKind::ConnectionRefused => ("socket_refused", "nobody listens at the socket"),
        _ => ("socket_failed", "the socket cannot be used"),
    };
    Error::new(classify::io(error.kind()), OPERATION, code, message).with_source(error)
}

#[cfg(test)]
mod tests {
    use certlib_core::{ErrorClass, Secret};
    use tokio::net::UnixListener;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn asks_and_names_what_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let path = path.to_str().unwrap();
        let request = Secret::new(b"hello\n".to_vec());
        let error = ask(path, &request, LONG).await.unwrap_err();
        assert_eq!((error.code(), error.class()), ("socket_missing", ErrorClass::IoPermanent));

        let listener = UnixListener::bind(path).unwrap();
        let server = tokio::spawn(async move {
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut word = [0; 6];
                stream.read_exact(&mut word).await.unwrap();
                stream.write_all(&word).await.unwrap();
            }
            // The third is left without an answer, then nobody listens any more.
            let (_stream, _) = listener.accept().await.unwrap();
            std::future::pending::<()>().await;
        });
        assert_eq!(ask(path, &request, LONG).await.unwrap(), b"hello\n");
        // Far more than the other side reads before it hangs up.
        let flood = Secret::new(b"hello\n".repeat(1_000_000));
        assert!(ask(path, &flood, LONG).await.is_ok());
        let error = ask(path, &request, Duration::from_millis(50)).await.unwrap_err();
        assert_eq!((error.code(), error.class()), ("socket_timeout", ErrorClass::Network));
        server.abort();
        assert!(server.await.unwrap_err().is_cancelled());
        let error = ask(path, &request, LONG).await.unwrap_err();
        assert_eq!((error.code(), error.class()), ("socket_refused", ErrorClass::Network));
    }
}
