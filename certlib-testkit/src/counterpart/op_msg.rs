//! Just enough of MongoDB's wire protocol to send one command over a direct connection.

use std::{net::SocketAddr, time::Duration};

use bson::{Bson, Document};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::{Error, Result};

/// The message type: header, flags, one section of kind 0 with a document.
const OP_MSG: i32 = 2013;
const HEADER: usize = 16;
/// The largest answer of a server.
const LARGEST: usize = 48_000_000;
/// How long a command may take; a member that is stopped never answers.
const LIMIT: Duration = Duration::from_secs(30);

/// Sends `command` to the server at `addr` and gives its answer if it says `ok`.
///
/// # Errors
///
/// [`Error::Io`] when the server cannot be reached, [`Error::Protocol`] when it refuses.
pub(super) async fn command(addr: SocketAddr, database: &str, mut command: Document) -> Result<Document> {
    let name = command.keys().next().cloned().unwrap_or_default();
    command.insert("$db", database);
    let what = format!("sending {name} to mongod on {addr}");
    let answer = match timeout(LIMIT, exchange(addr, &command)).await {
        Ok(answer) => answer.map_err(Error::io(what))?,
        Err(_) => return Err(Error::Timeout { what, limit: LIMIT }),
    };
    let ok = match answer.get("ok") {
        Some(Bson::Double(ok)) => *ok == 1.0,
        Some(Bson::Int32(ok)) => *ok == 1,
        _ => false,
    };
    if ok { Ok(answer) } else { Err(Error::protocol(format!("mongod on {addr}"), format!("{name}: {answer}"))) }
}

async fn exchange(addr: SocketAddr, command: &Document) -> std::io::Result<Document> {
    let invalid = |why: String| std::io::Error::new(std::io::ErrorKind::InvalidData, why);
    let body = command.to_vec().map_err(|error| invalid(error.to_string()))?;
    let length = i32::try_from(HEADER + 5 + body.len()).map_err(|error| invalid(error.to_string()))?;
    let mut message = Vec::with_capacity(HEADER + 5 + body.len());
    for number in [length, 1, 0, OP_MSG, 0] {
        message.extend_from_slice(&number.to_le_bytes());
    }
    message.push(0);
    message.extend_from_slice(&body);

    let mut stream = TcpStream::connect(addr).await?;
    stream.write_all(&message).await?;
    let length = stream.read_i32_le().await?;
    let rest = usize::try_from(length).ok().filter(|length| (HEADER + 5..LARGEST).contains(length));
    let rest = rest.ok_or_else(|| invalid(format!("an answer of {length} bytes")))? - 4;
    let mut answer = vec![0; rest];
    stream.read_exact(&mut answer).await?;
    // What is left of the header, the flags, and the kind of the section.
    let document = answer.get(HEADER - 4 + 5..).unwrap_or_default();
    Document::from_reader(document).map_err(|error| invalid(error.to_string()))
}
