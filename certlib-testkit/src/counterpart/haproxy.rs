use std::{
    net::SocketAddr,
    ops::Deref,
    path::{Path, PathBuf},
    process::Command,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use super::{
    CertificateFiles, WebServer, temporary_folder,
    web_server::{Commands, Config, Reload},
};
use crate::{
    Error, Result,
    locate::locate,
    ports,
    process::{START_LIMIT, poll_until},
};

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
        Haproxy::start_with(&[files]).await
    }

    /// Starts it with several certificates: the first for every name that no other has.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub async fn start_with(files: &[&CertificateFiles]) -> Result<Haproxy> {
        let program = locate("haproxy").await?;
        let folder = temporary_folder("haproxy")?;
        let addr = ports::free_addr()?;
        let text = configuration(folder.path(), addr, files);
        let config = Config { path: folder.path().join("haproxy.cfg"), text };

        let mut start = Command::new(&program);
        start.arg("-W").arg("-db").arg("-f").arg(&config.path);
        let test = format!("{} -c -f {}", program.display(), config.path.display());
        let commands = Commands { start, test, reload: Reload::Signal("USR2") };
        let haproxy = WebServer::start("haproxy", addr, folder, config, commands).await.map(Haproxy)?;
        // It listens on its port a moment before the socket has its name.
        let socket = haproxy.socket();
        poll_until("HAProxy's socket", START_LIMIT, async || socket.exists().then_some(())).await?;
        Ok(haproxy)
    }

    /// The socket of the runtime API, at level `admin`. A certificate set there lives in memory only.
    pub fn socket(&self) -> PathBuf {
        socket(self.folder())
    }

    /// Sends a line of commands to the socket, and gives the answer.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when nobody answers.
    pub async fn command(&self, line: &str) -> Result<String> {
        let talk = async {
            let mut stream = UnixStream::connect(self.socket()).await?;
            stream.write_all(format!("{line}\n").as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok(answer)
        };
        talk.await.map_err(Error::io("asking haproxy"))
    }

    /// The number of the process that serves. A reload starts another one.
    ///
    /// # Errors
    ///
    /// As [`command`](Self::command); [`Error::Protocol`] when it does not say.
    pub async fn worker(&self) -> Result<u32> {
        let info = self.command("show info").await?;
        let pid = info.lines().find_map(|line| line.strip_prefix("Pid: ")?.trim().parse().ok());
        pid.ok_or_else(|| Error::protocol("haproxy", info))
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

fn configuration(folder: &Path, addr: SocketAddr, files: &[&CertificateFiles]) -> String {
    let certificates: String = files.iter().map(|files| format!(" crt {}", files.combined().display())).collect();
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
    bind {addr} ssl{certificates}
    http-request return status 200 content-type text/plain string haproxy
",
        socket = socket(folder).display(),
    )
}
