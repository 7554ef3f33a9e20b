//! Ports on 127.0.0.1, chosen by the kernel.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use crate::{Error, Result};

/// How many ports are tried when the kernel's choice is free for TCP but not for UDP.
const ATTEMPTS: usize = 32;

/// An address on 127.0.0.1 that nothing listens on, for TCP and UDP.
///
/// A program that is told its port must bind it later, and meanwhile the kernel could hand the same port to somebody
/// else. A connection is therefore opened and closed on it once: for a minute its `TIME_WAIT` state keeps the kernel
/// from choosing the port again, while a server (they all set `SO_REUSEADDR`) can bind it.
///
/// # Errors
///
/// [`Error::Io`] when no socket can be opened.
pub fn free_addr() -> Result<SocketAddr> {
    for _ in 0..ATTEMPTS {
        let addr = reserve().map_err(Error::io("choosing a free port"))?;
        if UdpSocket::bind(addr).is_ok() {
            return Ok(addr);
        }
    }
    Err(Error::protocol("the kernel", "no port is free for both TCP and UDP"))
}

/// The port of [`free_addr`].
///
/// # Errors
///
/// As [`free_addr`].
pub fn free_port() -> Result<u16> {
    free_addr().map(|addr| addr.port())
}

fn reserve() -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let addr = listener.local_addr()?;
    let client = TcpStream::connect(addr)?;
    let (server, _) = listener.accept()?;
    // The side that closes first keeps TIME_WAIT; it must be the one that owns the port.
    drop(server);
    drop(client);
    Ok(addr)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ports_are_distinct_and_bindable() {
        let ports: Vec<u16> = (0..50).map(|_| free_port().unwrap()).collect();
        let distinct: HashSet<u16> = ports.iter().copied().collect();
        assert_eq!(distinct.len(), ports.len(), "a reserved port was handed out twice: {ports:?}");
        for port in ports {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        }
    }
}
