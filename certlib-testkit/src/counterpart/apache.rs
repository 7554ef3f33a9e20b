use std::{
    env,
    net::SocketAddr,
    ops::Deref,
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    CertificateFiles, WebServer, is_root, temporary_folder,
    web_server::{Commands, Config, Reload},
};
use crate::{Error, Result, locate::locate, ports};

/// The environment variable for the folder with Apache's modules.
const MODULES_VARIABLE: &str = "CERTLIB_APACHE2_MODULES";

/// Where distributions keep Apache's modules.
const MODULE_FOLDERS: [&str; 3] = ["/usr/lib/apache2/modules", "/usr/lib64/httpd/modules", "/usr/lib/httpd/modules"];

/// The Apache HTTP server, serving one certificate over TLS. Everything but starting and stopping is in [`WebServer`].
///
/// Its reload command checks the configuration first and fails when that is invalid.
#[derive(Debug)]
pub struct Apache(WebServer);

impl Apache {
    /// Starts it with [`CertificateFiles::full_chain`] and [`CertificateFiles::private_key`], which must exist.
    ///
    /// # Errors
    ///
    /// As [`locate`]; [`Error::Missing`] when its modules are in no known folder (`CERTLIB_APACHE2_MODULES` names
    /// another); [`Error::Start`] when it does not come up.
    pub async fn start(files: &CertificateFiles) -> Result<Apache> {
        let program = locate("apache2").await?;
        let modules = modules()?;
        let folder = temporary_folder("apache")?;
        let addr = ports::free_addr()?;
        let text = configuration(folder.path(), &modules, addr, files);
        let config = Config { path: folder.path().join("apache.conf"), text };

        let mut start = Command::new(&program);
        start.arg("-f").arg(&config.path).arg("-DFOREGROUND");
        let line = format!("{} -f {}", program.display(), config.path.display());
        let commands =
            Commands { start, test: format!("{line} -t"), reload: Reload::Command(format!("{line} -k graceful")) };
        WebServer::start("apache", addr, folder, config, commands).await.map(Apache)
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

impl Deref for Apache {
    type Target = WebServer;

    fn deref(&self) -> &WebServer {
        &self.0
    }
}

fn modules() -> Result<PathBuf> {
    let wanted = env::var_os(MODULES_VARIABLE).map(PathBuf::from);
    let known = MODULE_FOLDERS.iter().map(PathBuf::from);
    wanted.into_iter().chain(known).find(|folder| folder.join("mod_ssl.so").exists()).ok_or_else(|| Error::Missing {
        program: "mod_ssl.so",
        remedy: format!("set {MODULES_VARIABLE} to the folder that holds Apache's modules"),
    })
}

fn configuration(folder: &Path, modules: &Path, addr: SocketAddr, files: &CertificateFiles) -> String {
    let identity = if is_root() { "User www-data\nGroup www-data\n" } else { "" };
    format!(
        "ServerRoot {folder}
DefaultRuntimeDir {folder}
ServerName localhost
Listen {addr}
PidFile {folder}/apache.pid
ErrorLog {folder}/error.log
{identity}LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule alias_module {modules}/mod_alias.so
LoadModule ssl_module {modules}/mod_ssl.so
StartServers 1
ThreadsPerChild 8
MaxRequestWorkers 32
SSLSessionCache none
<VirtualHost {addr}>
    SSLEngine on
    SSLCertificateFile {certificate}
    SSLCertificateKeyFile {key}
    Redirect 410 /
    ErrorDocument 410 apache
</VirtualHost>
",
        folder = folder.display(),
        modules = modules.display(),
        certificate = files.full_chain().display(),
        key = files.private_key().display(),
    )
}
