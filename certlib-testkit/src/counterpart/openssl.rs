use std::{net::SocketAddr, process::Command};

use crate::{Error, Result, locate::locate, process::run};

/// The SHA-256 (hexadecimal) of the leaf that `addr` serves for `server_name`, found with the `openssl` program: an
/// implementation that shares no code with the libraries under test.
///
/// # Errors
///
/// As [`locate`]; [`Error::Command`] when the handshake fails; [`Error::Protocol`] when the answer cannot be read.
pub async fn s_client_fingerprint(addr: SocketAddr, server_name: &str) -> Result<String> {
    let program = locate("openssl").await?;
    let mut handshake = Command::new(&program);
    handshake.args(["s_client", "-connect", &addr.to_string(), "-servername", server_name]);
    let session = run(handshake, b"").await?;
    let mut digest = Command::new(&program);
    digest.args(["x509", "-noout", "-fingerprint", "-sha256"]);
    let line = String::from_utf8_lossy(&run(digest, &session.stdout).await?.stdout).into_owned();
    let hexadecimal = line.trim().rsplit_once('=').map(|(_, digits)| digits.replace(':', "").to_lowercase());
    hexadecimal.filter(|digits| digits.len() == 64).ok_or_else(|| Error::protocol("openssl", line))
}
