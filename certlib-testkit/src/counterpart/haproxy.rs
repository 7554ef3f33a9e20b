use std::{
    net::SocketAddr,
    ops::Deref,
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    CertificateFiles, WebServer, temporary_folder,
    web_server::{Commands, Config, Reload},
};
use crate::{Result, locate::locate, ports};

/// HAProxy in master-worker mode, serving one certificate over TLS. Everything but starting, stopping and the runtime
/// socket is in [`WebServer`].
///
/// Its reload command only sends a signal, so it succeeds even when the configuration is invalid and the old
/// certificate stays in service.
#[derive(Debug)]
pub struct Haproxy(WebServer);

impl Haproxy {
    /// Starts it with [`CertificateFiles::combined`], which must exist.
    ///
    /// # Errors
    ///
    /// As [`locate`]; [`Error::Start`](crate::Error::Start) when it does not come up.
    pub async fn start(files: &CertificateFiles) -> Result<Haproxy> {
        let program = locate("haproxy").await?;
        let folder = temporary_folder("haproxy")?;
        let addr = ports::free_addr()?;
        let text = configuration(folder.path(), addr, files);
        let config = Config { path: folder.path().join("haproxy.cfg"), text };

        let mut start = Command::new(&program);
        start.arg("-W").arg("-db").arg("-f").arg(&config.path);
        let test = format!("{} -c -f {}", program.display(), config.path.display());
        let commands = Commands { start, test, reload: Reload::Signal("USR2") };
        WebServer::start("haproxy", addr, folder, config, commands).await.map(Haproxy)
    }

    /// The socket of the runtime API, at level `admin`. A certificate set there lives in memory only.
    pub fn socket(&self) -> PathBuf {
        socket(self.folder())
    }

    /// Ends it.
    ///
    /// # Errors
    ///
    /// As [`Child::stop`](crate::process::Child::stop).
    pub async fn stop(self) -> Result<()> {
        self.0.stop().await
    }
}

impl Deref for Haproxy {
    type Target = WebServer;

    fn deref(&self) -> &WebServer {
        &self.0
    }
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("haproxy.sock")
}

fn configuration(folder: &Path, addr: SocketAddr, files: &CertificateFiles) -> String {
    format!(
        "global
    maxconn 128
    stats socket {socket} mode 600 level admin
defaults
    mode http
    timeout connect 10s
    timeout client 10s
    timeout server 10s
frontend tls
    bind {addr} ssl crt {certificate}
    http-request return status 200 content-type text/plain string haproxy
",
        socket = socket(folder).display(),
        certificate = files.combined().display(),
    )
}
