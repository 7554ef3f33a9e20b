//! `STARTTLS` of SMTP, RFC 3207.

use tokio::io::{AsyncRead, AsyncWrite};

use super::Failure;
use crate::wire::Wire;
use crate::wire::reply::Reply;

pub(super) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(wire: &mut Wire<S>) -> Result<(), Failure> {
    let greeting = Reply::read(wire).await?;
    must(greeting.code == 220)?;
    // An address literal: servers need not find the name of somebody who sends nothing.
    wire.send(b"EHLO [127.0.0.1]\r\n").await?;
    let hello = Reply::read(wire).await?;
    must(hello.code == 250 && hello.extensions().any(|(keyword, _)| keyword == "STARTTLS"))?;
    wire.send(b"STARTTLS\r\n").await?;
    must(Reply::read(wire).await?.code == 220)
}

fn must(fact: bool) -> Result<(), Failure> {
    if fact { Ok(()) } else { Err(Failure::Refused) }
}
