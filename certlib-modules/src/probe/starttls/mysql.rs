//! `SSLRequest` of MySQL and MariaDB:
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_phase_packets_protocol_ssl_request.html>.

use tokio::io::{AsyncRead, AsyncWrite};

use super::Failure;
use crate::wire::{Wire, WireError};

/// The longest greeting, in bytes.
const LONGEST: usize = 4096;
/// The version of the greeting.
const VERSION: u8 = 10;
/// What an error has in place of a version.
const ERROR: u8 = 0xff;

const CLIENT_PROTOCOL_41: u32 = 0x0200;
const CLIENT_SSL: u32 = 0x0800;
const CLIENT_SECURE_CONNECTION: u32 = 0x8000;
/// The largest packet that we would take.
const LARGEST_PACKET: u32 = 0x0100_0000;
/// `utf8mb4_general_ci`.
const CHARACTER_SET: u8 = 45;

pub(super) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(wire: &mut Wire<S>) -> Result<(), Failure> {
    let head = wire.exact(4).await?;
    let length = usize::from(head[0]) | usize::from(head[1]) << 8 | usize::from(head[2]) << 16;
    if length > LONGEST {
        return Err(WireError::TooLong.into());
    }
    let greeting = wire.exact(length).await?;
    if greeting.first() == Some(&ERROR) {
        return Err(Failure::Refused);
    }
    let capabilities = capabilities(&greeting).ok_or(WireError::Malformed)?;
    if capabilities & CLIENT_SSL == 0 {
        return Err(Failure::Refused);
    }
    // Three bytes of length, the number of the packet, and 32 bytes that end in zeros.
    let mut request = vec![32, 0, 0, head[3].wrapping_add(1)];
    request.extend_from_slice(&(CLIENT_PROTOCOL_41 | CLIENT_SSL | CLIENT_SECURE_CONNECTION).to_le_bytes());
    request.extend_from_slice(&LARGEST_PACKET.to_le_bytes());
    request.push(CHARACTER_SET);
    request.resize(36, 0);
    // The server goes on with TLS without a word, so anything that is there by now was not asked for.
    wire.send(&request).await?;
    Ok(())
}

/// The lower half of what the server can do.
fn capabilities(greeting: &[u8]) -> Option<u32> {
    let (&version, rest) = greeting.split_first()?;
    let name = rest.iter().position(|byte| *byte == 0)?;
    // The server's name and its zero, the connection's number, eight bytes of scramble, and a zero.
    let flags = rest.get(name + 1 + 4 + 8 + 1..)?.first_chunk::<2>()?;
    (version == VERSION).then(|| u32::from(u16::from_le_bytes(*flags)))
}
