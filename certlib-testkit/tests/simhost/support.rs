//! A small SSH client on top of russh, and the hosts it talks to.

use std::{
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use certlib_testkit::{
    locate,
    simhost::{Fault, Operation, Service, SimHost, SimHostBuilder, TestCertificate, UserAuth},
    tls,
};
use russh::{
    Channel, ChannelMsg,
    client::{self, AuthResult, Msg},
    keys::{HashAlg, PublicKeyOrCertificate},
};
use russh_sftp::{
    client::{RawSftpSession, error::Error as SftpError},
    protocol::{FileAttributes, OpenFlags, Packet, StatusCode},
};
use tokio::time::timeout;

pub(crate) const CERTIFICATE: &str = "/etc/ssl/site.pem";
pub(crate) const KEY: &str = "/etc/ssl/site.key";
pub(crate) const PASSWORD: &str = "correct horse";

/// Far beyond what anything here takes; only a hang gets there.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    timeout(LIMIT, future).await.expect("took too long")
}

/// Accepts exactly one host key.
pub(crate) struct Pinned(pub(crate) String);

impl client::Handler for Pinned {
    type Error = russh::Error;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = key else {
            return Ok(false);
        };
        Ok(key.fingerprint(HashAlg::Sha256).to_string() == self.0)
    }
}

pub(crate) struct Client(pub(crate) client::Handle<Pinned>);

#[derive(Debug, Default)]
pub(crate) struct Ran {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
    pub(crate) status: Option<u32>,
    pub(crate) signal: bool,
}

pub(crate) fn config() -> Arc<client::Config> {
    Arc::new(client::Config { nodelay: true, ..client::Config::default() })
}

pub(crate) async fn greet(host: &SimHost) -> Result<client::Handle<Pinned>, russh::Error> {
    within(client::connect(config(), host.ssh_addr(), Pinned(host.host_key_fingerprint()))).await
}

pub(crate) async fn connect(host: &SimHost) -> Result<Client, russh::Error> {
    let mut handle = greet(host).await?;
    match within(handle.authenticate_password("root", PASSWORD)).await? {
        AuthResult::Success => Ok(Client(handle)),
        AuthResult::Failure { .. } => Err(russh::Error::NotAuthenticated),
    }
}

impl Client {
    pub(crate) async fn session(&self) -> Result<Channel<Msg>, russh::Error> {
        within(self.0.channel_open_session()).await
    }

    pub(crate) async fn run(&self, command: &str) -> Ran {
        self.run_with(command, b"").await
    }

    pub(crate) async fn run_with(&self, command: &str, input: &[u8]) -> Ran {
        let mut channel = self.session().await.unwrap();
        channel.exec(true, command).await.unwrap();
        channel.data(input).await.unwrap();
        channel.eof().await.unwrap();
        collect(&mut channel).await
    }

    pub(crate) async fn sftp(&self) -> RawSftpSession {
        let channel = self.session().await.unwrap();
        channel.request_subsystem(true, "sftp").await.unwrap();
        let sftp = RawSftpSession::new(channel.into_stream());
        within(sftp.init()).await.unwrap();
        sftp
    }

    pub(crate) async fn closed(&self) {
        within(async {
            while !self.0.is_closed() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

pub(crate) async fn collect(channel: &mut Channel<Msg>) -> Ran {
    let mut ran = Ran::default();
    while let Some(message) = within(channel.wait()).await {
        match message {
            ChannelMsg::Data { data } => ran.stdout.extend_from_slice(&data),
            ChannelMsg::ExtendedData { data, .. } => ran.stderr.push_str(&String::from_utf8_lossy(&data)),
            ChannelMsg::ExitStatus { exit_status } => ran.status = Some(exit_status),
            ChannelMsg::ExitSignal { .. } => ran.signal = true,
            _ => {}
        }
    }
    ran
}

/// Writes beside the target, then renames over it.
pub(crate) async fn deliver(sftp: &RawSftpSession, path: &str, bytes: &[u8], mode: u32) -> Result<(), SftpError> {
    let temporary = format!("{path}.new");
    write_new(sftp, &temporary, bytes, mode).await?;
    posix_rename(sftp, &temporary, path).await
}

pub(crate) async fn write_new(sftp: &RawSftpSession, path: &str, bytes: &[u8], mode: u32) -> Result<(), SftpError> {
    let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUDE;
    let handle = sftp.open(path, flags, permissions(0o600)).await?.handle;
    for (index, chunk) in bytes.chunks(32 * 1024).enumerate() {
        sftp.write(&handle, (index * 32 * 1024) as u64, chunk.to_vec()).await?;
    }
    sftp.fsync(&handle).await?;
    sftp.fsetstat(&handle, permissions(mode)).await?;
    sftp.close(handle).await?;
    Ok(())
}

pub(crate) async fn posix_rename(sftp: &RawSftpSession, from: &str, to: &str) -> Result<(), SftpError> {
    let mut data = Vec::new();
    for text in [from, to] {
        data.extend((text.len() as u32).to_be_bytes());
        data.extend(text.as_bytes());
    }
    match sftp.extended("posix-rename@openssh.com", data).await? {
        Packet::Status(status) if status.status_code == StatusCode::Ok => Ok(()),
        Packet::Status(status) => Err(SftpError::Status(status)),
        other => panic!("unexpected answer {other:?}"),
    }
}

pub(crate) async fn deliver_pair(sftp: &RawSftpSession, certificate: &str, key: &str) -> Result<(), SftpError> {
    deliver(sftp, CERTIFICATE, certificate.as_bytes(), 0o644).await?;
    deliver(sftp, KEY, key.as_bytes(), 0o600).await
}

pub(crate) fn permissions(mode: u32) -> FileAttributes {
    FileAttributes { permissions: Some(mode), ..FileAttributes::empty() }
}

pub(crate) fn code<T: std::fmt::Debug>(result: Result<T, SftpError>) -> StatusCode {
    match result {
        Err(SftpError::Status(status)) => status.status_code,
        other => panic!("expected a status, got {other:?}"),
    }
}

pub(crate) fn builder() -> SimHostBuilder {
    SimHost::builder().name("web-07").user("root", UserAuth::password(PASSWORD)).service(Service::new(CERTIFICATE, KEY))
}

pub(crate) async fn faulty(fault: Fault) -> SimHost {
    builder().fault(fault).start().await.unwrap()
}

pub(crate) fn renewed() -> TestCertificate {
    TestCertificate::self_signed(["web-07.test"]).unwrap()
}

pub(crate) async fn served(host: &SimHost) -> String {
    let seen = tls::leaf_fingerprint(host.tls_addr(), "localhost").await.unwrap();
    assert_eq!(host.served_fingerprint().as_deref(), Some(&*seen));
    seen
}

pub(crate) fn renames(host: &SimHost) -> Vec<(String, String)> {
    let only = |operation| match operation {
        Operation::Renamed { from, to, .. } => Some((from, to)),
        _ => None,
    };
    host.changes().into_iter().filter_map(only).collect()
}

/// A private key file made by `ssh-keygen`.
pub(crate) async fn keygen(folder: &Path, kind: &str) -> PathBuf {
    let file = folder.join(format!("id_{kind}"));
    let mut command = tokio::process::Command::new(locate::locate("ssh-keygen").await.unwrap());
    command.args(["-q", "-N", "", "-C", "test", "-t", kind]).arg("-f").arg(&file);
    if kind == "rsa" {
        command.args(["-b", "2048"]);
    }
    assert!(command.status().await.unwrap().success());
    file
}
