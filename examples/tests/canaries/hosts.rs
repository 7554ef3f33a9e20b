//! Where certificates go: hosts that take them, one that does not, and a receiver that repeats whatever it is told.

use std::net::{Ipv4Addr, SocketAddr};

use certlib_testkit::simhost::{Fault, Service, SimHost, UserAuth};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

pub(crate) const CERTIFICATE: &str = "/etc/ssl/site.pem";
pub(crate) const KEY: &str = "/etc/ssl/site.key";
pub(crate) const USER: &str = "deploy";

/// A host that `password` opens.
pub(crate) async fn host(name: &str, password: &str, fault: Option<Fault>) -> SimHost {
    let builder = SimHost::builder()
        .name(name)
        .user(USER, UserAuth::password(password))
        .service(Service::new(CERTIFICATE, KEY))
        .directory("/etc/ssl", 0o755);
    match fault {
        Some(fault) => builder.fault(fault),
        None => builder,
    }
    .start()
    .await
    .unwrap()
}

pub(crate) fn location(host: &SimHost) -> Value {
    let address = host.ssh_addr();
    json!({
        "host": address.ip(), "port": address.port(),
        "paths": { "fullchain": CERTIFICATE, "key": KEY, "pfx": "/etc/ssl/site.pfx" },
    })
}

pub(crate) fn config(host: &SimHost, name: &str) -> Value {
    json!({
        "host_key": { "known_hosts": host.known_hosts_line() },
        "test_command": "certlib-sim test",
        "reload_command": "certlib-sim reload",
        "endpoints": [endpoint(host, name)],
    })
}

/// What `host` serves must be what was delivered.
pub(crate) fn endpoint(host: &SimHost, name: &str) -> Value {
    let address = host.tls_addr();
    json!({ "host": address.ip(), "port": address.port(), "server_name": name, "tries": 1, "delay_ms": 0 })
}

/// Answers every request with an error that repeats all of the request: in its reason, a header and its body.
pub(crate) async fn echo() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { return };
            tokio::spawn(repeat(stream));
        }
    });
    address
}

async fn repeat(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = Vec::new();
    loop {
        let mut part = [0; 4096];
        let read = stream.read(&mut part).await?;
        request.extend_from_slice(&part[..read]);
        let text = String::from_utf8_lossy(&request).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            if read == 0 {
                return Ok(());
            }
            continue;
        };
        let length =
            head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length:").map(str::to_owned));
        if read > 0 && body.len() < length.map_or(0, |length| length.trim().parse().unwrap()) {
            continue;
        }
        let line = head.replace(['\r', '\n'], " ");
        let answer = format!(
            "HTTP/1.1 400 {line}\r\nx-echo: {line}\r\nlocation: /?{line}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
            text.len()
        );
        stream.write_all(answer.as_bytes()).await?;
        return stream.shutdown().await;
    }
}
