//! Delivery with nothing but an SSH client: the same bytes and commands, no plan, no journal, no records, no way back.

use std::sync::Arc;

use certlib_testkit::pki::TestCa;
use certlib_testkit::tls;
use futures::future::{try_join, try_join_all};
use russh::client::{self, AuthResult, Handle};
use russh::keys::{HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh::{ChannelMsg, Disconnect};
use russh_sftp::client::RawSftpSession;
use russh_sftp::protocol::{FileAttributes, OpenFlags, Packet, StatusCode};
use tokio::task::JoinSet;

use crate::Result;
use crate::hosts::{CERTIFICATE, Host, KEY, RELOAD_COMMAND, TEST_COMMAND, USER};

/// What is delivered.
#[derive(Debug)]
pub struct Material {
    fullchain: String,
    key: String,
    fingerprint: String,
}

impl Material {
    /// A new certificate with chain and key, of the sizes that the engine delivers.
    ///
    /// # Errors
    /// When the process has no source of randomness.
    pub fn generate() -> Result<Self> {
        let issued = TestCa::new("certlib local CA")?.issue(&["www.example.test"])?;
        Ok(Self { fullchain: issued.full_chain(), key: issued.key_pem, fingerprint: issued.fingerprint })
    }

    /// SHA-256 of the leaf, lower-case hexadecimal.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

/// Delivers to all hosts, `at_a_time` of them side by side, and sees the new certificate served by each.
///
/// # Errors
/// The first that any host gives.
pub async fn deliver_all(hosts: &[Host], login: Arc<PrivateKey>, material: Material, at_a_time: usize) -> Result<()> {
    let material = Arc::new(material);
    let config = Arc::new(client::Config { nodelay: true, ..client::Config::default() });
    let mut window = JoinSet::new();
    let mut rest = hosts.iter();
    loop {
        while window.len() < at_a_time {
            let Some(host) = rest.next() else { break };
            window.spawn(deliver(host.clone(), config.clone(), login.clone(), material.clone()));
        }
        match window.join_next().await {
            Some(delivered) => delivered??,
            None => return Ok(()),
        }
    }
}

async fn deliver(
    host: Host,
    config: Arc<client::Config>,
    login: Arc<PrivateKey>,
    material: Arc<Material>,
) -> Result<()> {
    let mut connection = client::connect(config, host.ssh, Pinned(host.host_key)).await?;
    let login = PrivateKeyWithHashAlg::new(login, None);
    if !matches!(connection.authenticate_publickey(USER, login).await?, AuthResult::Success) {
        return Err("the login was refused".into());
    }
    write_files(&connection, &material).await?;
    run(&connection, &format!("{TEST_COMMAND} && {RELOAD_COMMAND}")).await?;
    connection.disconnect(Disconnect::ByApplication, "", "").await?;
    let served = tls::leaf_fingerprint(host.tls, "www.example.test").await?;
    if served != material.fingerprint {
        return Err("another certificate is served".into());
    }
    Ok(())
}

/// Accepts exactly one host key.
struct Pinned(String);

impl client::Handler for Pinned {
    type Error = russh::Error;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = key else { return Ok(false) };
        Ok(key.fingerprint(HashAlg::Sha256).to_string() == self.0)
    }
}

/// Writes both files beside their places, side by side, then renames both.
async fn write_files(connection: &Handle<Pinned>, material: &Material) -> Result<()> {
    let channel = connection.channel_open_session().await?;
    channel.request_subsystem(true, "sftp").await?;
    let sftp = RawSftpSession::new(channel.into_stream());
    sftp.init().await?;
    let files = [(CERTIFICATE, &material.fullchain, 0o644), (KEY, &material.key, 0o600)];
    try_join_all(files.map(|(path, text, mode)| write(&sftp, path, text.as_bytes(), mode))).await?;
    try_join(rename(&sftp, CERTIFICATE), rename(&sftp, KEY)).await?;
    sftp.close_session()?;
    Ok(())
}

fn temporary(path: &str) -> String {
    format!("{path}.new")
}

async fn write(sftp: &RawSftpSession, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
    let permissions = |mode| FileAttributes { permissions: Some(mode), ..FileAttributes::empty() };
    let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUDE;
    let handle = sftp.open(temporary(path), flags, permissions(0o600)).await?.handle;
    sftp.write(&handle, 0, bytes.to_vec()).await?;
    sftp.fsync(&handle).await?;
    sftp.fsetstat(&handle, permissions(mode)).await?;
    sftp.close(handle).await?;
    Ok(())
}

async fn rename(sftp: &RawSftpSession, path: &str) -> Result<()> {
    let mut names = Vec::new();
    for name in [&temporary(path), path] {
        names.extend(u32::try_from(name.len())?.to_be_bytes());
        names.extend(name.as_bytes());
    }
    match sftp.extended("posix-rename@openssh.com", names).await? {
        Packet::Status(status) if status.status_code == StatusCode::Ok => Ok(()),
        _ => Err("the file was not renamed".into()),
    }
}

async fn run(connection: &Handle<Pinned>, command: &str) -> Result<()> {
    let mut channel = connection.channel_open_session().await?;
    channel.exec(true, command).await?;
    let mut status = None;
    while let Some(message) = channel.wait().await {
        if let ChannelMsg::ExitStatus { exit_status } = message {
            status = Some(exit_status);
        }
    }
    if status == Some(0) { Ok(()) } else { Err(format!("{command}: ended with {status:?}").into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hosts::Hosts;

    #[tokio::test]
    async fn delivers_what_is_then_served() {
        let hosts = Hosts::start(3).await.unwrap();
        for _ in 0..2 {
            let material = Material::generate().unwrap();
            let fingerprint = material.fingerprint().to_owned();
            deliver_all(&hosts.list(), hosts.login(), material, 2).await.unwrap();
            hosts.expect_served(&fingerprint).unwrap();
        }
        let stranger = Arc::new(PrivateKey::random(&mut rand::rng(), russh::keys::Algorithm::Ed25519).unwrap());
        deliver_all(&hosts.list(), stranger, Material::generate().unwrap(), 2).await.unwrap_err();
        hosts.stop().await;
    }
}
