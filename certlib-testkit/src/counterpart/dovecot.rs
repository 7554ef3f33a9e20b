use std::{fs, net::SocketAddr, path::Path, process::Command};

use tempfile::TempDir;

use super::{is_root, temporary_folder, write};
use crate::{
    Error, Result,
    locate::locate,
    pki::Issued,
    ports,
    process::{Child, run},
};

/// Dovecot: IMAP and POP3 on one loopback port each, where it offers `STARTTLS` and `STLS` if it has a certificate.
///
/// Every user may log in with the password `password`; all have the same empty mailbox.
#[derive(Debug)]
pub struct Dovecot {
    process: Child,
    imap_addr: SocketAddr,
    pop3_addr: SocketAddr,
    folder: TempDir,
}

impl Dovecot {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// As [`locate`]; [`Error::Start`] with its log when it does not come up.
    pub async fn start(certificate: Option<&Issued>) -> Result<Dovecot> {
        let program = locate("dovecot").await?;
        let folder = temporary_folder("dovecot")?;
        let (imap_addr, pop3_addr) = (ports::free_addr()?, ports::free_addr()?);
        let at = |name: &str| folder.path().join(name);
        for name in ["run", "mail"] {
            fs::create_dir(at(name)).map_err(Error::file("creating", &at(name)))?;
        }
        if let Some(certificate) = certificate {
            write(&at("server.pem"), certificate.full_chain())?;
            write(&at("server.key"), &certificate.key_pem)?;
        }
        let config = configuration(folder.path(), certificate.is_some(), (imap_addr, pop3_addr), &users().await?);
        write(&at("dovecot.conf"), config)?;
        let mut command = Command::new(program);
        command.arg("-F").arg("-c").arg(at("dovecot.conf"));
        let process = Child::spawn("dovecot", command, folder.path())?;
        let mut dovecot = Dovecot { process, imap_addr, pop3_addr, folder };
        dovecot.process.wait_for_port(imap_addr).await?;
        dovecot.process.wait_for_port(pop3_addr).await?;
        Ok(dovecot)
    }

    /// Where it speaks IMAP.
    pub fn imap_addr(&self) -> SocketAddr {
        self.imap_addr
    }

    /// Where it speaks POP3.
    pub fn pop3_addr(&self) -> SocketAddr {
        self.pop3_addr
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

/// Whom its parts run as: as root there are users of its own, otherwise all run as we do.
async fn users() -> Result<String> {
    if is_root() {
        return Ok(String::new());
    }
    let name = async |option: &str| {
        let mut command = Command::new("id");
        command.arg(option);
        run(command, b"").await.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let (user, group) = (name("-un").await?, name("-gn").await?);
    Ok(format!("default_internal_user = {user}\ndefault_login_user = {user}\ndefault_internal_group = {group}\n"))
}

fn configuration(folder: &Path, tls: bool, (imap, pop3): (SocketAddr, SocketAddr), users: &str) -> String {
    let (folder, imap, pop3) = (folder.display(), imap.port(), pop3.port());
    let tls = match tls {
        true => format!("ssl = yes\nssl_cert = <{folder}/server.pem\nssl_key = <{folder}/server.key\n"),
        false => "ssl = no\n".to_owned(),
    };
    format!(
        "base_dir = {folder}/run
state_dir = {folder}/run
log_path = /dev/stderr
protocols = imap pop3
listen = 127.0.0.1
{tls}{users}ssl_dh =
ssl_min_protocol = TLSv1.2
mail_location = maildir:{folder}/mail
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {imap}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service pop3-login {{
  chroot =
  inet_listener pop3 {{
    port = {pop3}
  }}
  inet_listener pop3s {{
    port = 0
  }}
}}
service anvil {{
  chroot =
}}
passdb {{
  driver = static
  args = password=password
}}
userdb {{
  driver = static
  args = uid=nobody gid=nogroup home={folder}/mail
}}
"
    )
}
