use std::{net::SocketAddr, ops::Deref, path::Path, process::Command};

use super::{
    CertificateFiles, WebServer, temporary_folder,
    web_server::{Commands, Config, Reload},
};
use crate::{Result, locate::locate, ports};

/// nginx, serving one certificate over TLS. Everything but starting and stopping is in [`WebServer`].
///
/// Its reload command checks the configuration first and fails when that is invalid.
#[derive(Debug)]
pub struct Nginx(WebServer);

impl Nginx {
    /// Starts it with [`CertificateFiles::full_chain`] and [`CertificateFiles::private_key`], which must exist.
    ///
    /// # Errors
    ///
    /// As [`locate`]; [`Error::Start`](crate::Error::Start) when it does not come up.
    pub async fn start(files: &CertificateFiles) -> Result<Nginx> {
        let program = locate("nginx").await?;
        let folder = temporary_folder("nginx")?;
        let addr = ports::free_addr()?;
        let text = configuration(folder.path(), addr, files);
        let config = Config { path: folder.path().join("nginx.conf"), text };
        let errors = folder.path().join("error.log");

        let mut start = Command::new(&program);
        start.arg("-c").arg(&config.path).arg("-e").arg(&errors);
        let line = format!("{} -c {} -e {}", program.display(), config.path.display(), errors.display());
        let commands =
            Commands { start, test: format!("{line} -t"), reload: Reload::Command(format!("{line} -s reload")) };
        WebServer::start("nginx", addr, folder, config, commands).await.map(Nginx)
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

impl Deref for Nginx {
    type Target = WebServer;

    fn deref(&self) -> &WebServer {
        &self.0
    }
}

fn configuration(folder: &Path, addr: SocketAddr, files: &CertificateFiles) -> String {
    let folder = folder.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("    {kind}_temp_path {folder}/{kind};\n"))
        .collect();
    format!(
        "daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log notice;
worker_processes 1;
events {{ worker_connections 128; }}
http {{
    access_log off;
{temporary}    server {{
        listen {addr} ssl;
        server_name _;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        location / {{ return 200 \"nginx\\n\"; }}
    }}
}}
",
        certificate = files.full_chain().display(),
        key = files.private_key().display(),
    )
}
