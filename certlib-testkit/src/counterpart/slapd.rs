use std::{fs, net::SocketAddr, path::Path, process::Command};

use tempfile::TempDir;

use super::{temporary_folder, write};
use crate::{
    Error, Result,
    locate::locate,
    pki::Issued,
    ports,
    process::{Child, capture},
};

/// OpenLDAP's server with an empty directory, on one loopback port, where it offers StartTLS if it has a certificate.
#[derive(Debug)]
pub struct Slapd {
    process: Child,
    addr: SocketAddr,
    folder: TempDir,
}

impl Slapd {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// As [`locate`]; [`Error::Start`] with its log when it does not come up; [`Error::Missing`] when its modules and
    /// schemas are not where Debian has them.
    pub async fn start(certificate: Option<&Issued>) -> Result<Slapd> {
        let program = locate("slapd").await?;
        let folder = temporary_folder("slapd")?;
        let addr = ports::free_addr()?;
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("db")).map_err(Error::file("creating", &at("db")))?;
        let mut config = format!(
            "include /etc/ldap/schema/core.schema\npidfile {0}/slapd.pid\nargsfile {0}/slapd.args\n\
             modulepath /usr/lib/ldap\nmoduleload back_mdb\n",
            folder.path().display()
        );
        if let Some(certificate) = certificate {
            write(&at("server.pem"), &certificate.certificate_pem)?;
            write(&at("server.key"), &certificate.key_pem)?;
            write(&at("ca.pem"), &certificate.issuer_pem)?;
            config.push_str(&format!(
                "TLSCertificateFile {0}/server.pem\nTLSCertificateKeyFile {0}/server.key\nTLSCACertificateFile {0}/ca.pem\n\
                 TLSVerifyClient never\n",
                folder.path().display()
            ));
        }
        config.push_str(&format!("database mdb\nsuffix dc=test\ndirectory {}/db\n", folder.path().display()));
        write(&at("slapd.conf"), config)?;
        let mut check = Command::new(&program);
        check.args(["-T", "test", "-u", "-f"]).arg(at("slapd.conf"));
        let checked = capture(check, b"").await?;
        if !checked.status.success() {
            let remedy = format!("it takes no configuration: {}", String::from_utf8_lossy(&checked.stderr).trim());
            return Err(Error::Missing { program: "slapd", remedy });
        }
        let mut command = Command::new(program);
        command.arg("-f").arg(at("slapd.conf")).args(["-h", &format!("ldap://{addr}"), "-d", "0"]);
        let process = Child::spawn("slapd", command, folder.path())?;
        let mut slapd = Slapd { process, addr, folder };
        slapd.process.wait_for_port(addr).await?;
        Ok(slapd)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its directory.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What it logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Ends it.
    ///
    /// # Errors
    ///
    /// As [`Child::stop`].
    pub async fn stop(self) -> Result<()> {
        self.process.stop().await.map(drop)
    }
}
