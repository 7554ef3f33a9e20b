//! One question, one answer: over UDP, and over TCP where UDP does not do.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use certlib_core::{Error, Result, classify};
use hickory_proto::op::{Message, MessageType, Query};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket, lookup_host};
use tokio::time::timeout;

const OPERATION: &str = "dns.query";
const UDP_ATTEMPTS: u32 = 2;
/// Of one attempt, the connection included.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(2);
/// Of an update, which may wait for a disk.
const UPDATE_LIMIT: Duration = Duration::from_secs(10);

/// Asks `server` for the records of type `kind` at `name`.
///
/// # Errors
/// `Network` `dns_unreachable`; `IoTransient` `dns_answer_invalid`.
pub(super) async fn query(server: SocketAddr, name: &Name, kind: RecordType, recursive: bool) -> Result<Message> {
    let mut question = Message::query();
    question.metadata.recursion_desired = recursive;
    question.add_query(Query::query(name.clone(), kind));
    let bytes = question.to_vec().map_err(|_| invalid(server))?;

    for _ in 0..UDP_ATTEMPTS {
        let Ok(answer) = within(ATTEMPT_LIMIT, udp(server, &bytes, &question)).await else { continue };
        if answer.metadata.truncation {
            break;
        }
        return Ok(answer);
    }
    let answer = tcp(server, &bytes, ATTEMPT_LIMIT).await?;
    parse(&answer, &question).ok_or_else(|| invalid(server))
}

/// Sends a message to the first of `servers` that can be reached, and returns its answer as it came.
///
/// # Errors
/// `Network` `dns_unreachable`.
pub(super) async fn exchange(servers: &[SocketAddr], message: &[u8]) -> Result<Vec<u8>> {
    let mut result = Err(Error::network(OPERATION, "dns_unreachable", "the server's name has no address"));
    for server in servers {
        result = tcp(*server, message, UPDATE_LIMIT).await;
        if result.is_ok() {
            break;
        }
    }
    result
}

/// The addresses of `host:port`.
///
/// # Errors
/// `Network` `dns_lookup_failed`.
pub(super) async fn addresses(server: &str) -> Result<Vec<SocketAddr>> {
    let failed = |error: io::Error| {
        Error::network("dns.lookup", "dns_lookup_failed", "the name server's address was not found")
            .with("server", server)
            .with_source(error)
    };
    Ok(lookup_host(server).await.map_err(failed)?.collect())
}

/// Waits for the answer to `question`; datagrams that are something else are passed over.
async fn udp(server: SocketAddr, bytes: &[u8], question: &Message) -> io::Result<Message> {
    let local: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(answer) = parse(&buffer[..length], question) {
            return Ok(answer);
        }
    }
}

async fn tcp(server: SocketAddr, message: &[u8], limit: Duration) -> Result<Vec<u8>> {
    let length = u16::try_from(message.len()).map_err(|_| invalid(server))?;
    let exchange = async {
        let mut stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        let framed = [&length.to_be_bytes()[..], message].concat();
        stream.write_all(&framed).await?;
        let mut answer = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    };
    within(limit, exchange).await.map_err(|error| {
        Error::new(classify::io(error.kind()), OPERATION, "dns_unreachable", "the name server did not answer")
            .with("server", server)
            .with_source(error)
    })
}

async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// The answer to `question`, and to nothing else.
fn parse(bytes: &[u8], question: &Message) -> Option<Message> {
    let answer = Message::from_vec(bytes).ok()?;
    let fits = answer.metadata.id == question.metadata.id
        && answer.metadata.message_type == MessageType::Response
        && answer.queries.len() == 1
        && answer
            .queries
            .first()
            .zip(question.queries.first())
            .is_some_and(|(theirs, ours)| theirs.query_type() == ours.query_type() && theirs.name() == ours.name());
    fits.then_some(answer)
}

fn invalid(server: SocketAddr) -> Error {
    Error::transient(OPERATION, "dns_answer_invalid", "the name server's answer makes no sense").with("server", server)
}
