use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
    process::Command,
    time::Duration,
};

use tempfile::TempDir;

use super::{Hidden, is_root, read, temporary_folder, write};
use crate::{
    Error, Result,
    locate::locate,
    pki::Issued,
    ports,
    process::{Child, poll_until, run},
};

/// Whom Debian's Exim runs as where it is started by root.
const USER: &str = "Debian-exim";

/// Exim, which takes mail for every address and puts it into one maildir.
///
/// One port speaks plain text, with `STARTTLS` if there is a certificate; another one speaks TLS from the first byte.
/// Mail for `nobody@...` is refused with 550, mail for `busy@...` with 451.
#[derive(Debug)]
pub struct Exim {
    process: Child,
    addr: SocketAddr,
    tls_addr: SocketAddr,
    login: Login,
    folder: TempDir,
}

/// How to start an [`Exim`].
#[derive(Debug, Default)]
pub struct EximBuilder {
    certificate: Option<Issued>,
    login: bool,
    size: Option<String>,
}

/// A name that a mail server knows, with a password and with an OAuth 2.0 token.
#[derive(Debug, Clone)]
pub struct Login {
    pub(super) user: String,
    pub(super) password: Hidden,
    pub(super) token: Hidden,
}

impl Login {
    pub(super) fn random() -> Login {
        let secret = || Hidden(format!("{:032x}", rand::random::<u128>()));
        Login { user: "certlib".to_owned(), password: secret(), token: secret() }
    }

    /// The name.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The password, for PLAIN and LOGIN.
    pub fn password(&self) -> &str {
        &self.password.0
    }

    /// The token, for XOAUTH2.
    pub fn token(&self) -> &str {
        &self.token.0
    }
}

impl EximBuilder {
    /// Speaks TLS with this certificate.
    #[must_use]
    pub fn tls(mut self, certificate: &Issued) -> Self {
        self.certificate = Some(certificate.clone());
        self
    }

    /// Takes mail only after a [login](Exim::login), which is offered over TLS only.
    #[must_use]
    pub fn login(mut self) -> Self {
        self.login = true;
        self
    }

    /// Takes messages of at most this size, such as `10K`.
    #[must_use]
    pub fn size(mut self, limit: &str) -> Self {
        self.size = Some(limit.to_owned());
        self
    }

    /// Starts it.
    ///
    /// # Errors
    ///
    /// As [`locate`]; [`Error::Start`] with its log when it does not come up.
    pub async fn start(self) -> Result<Exim> {
        let program = locate("exim4").await?;
        let folder = temporary_folder("exim")?;
        let (addr, tls_addr) = (ports::free_addr()?, ports::free_addr()?);
        let login = Login::random();
        for name in ["spool", "log", "mail"] {
            let path = folder.path().join(name);
            fs::create_dir(&path).map_err(Error::file("creating", &path))?;
        }
        if let Some(certificate) = &self.certificate {
            self.give(folder.path(), "server.pem", &certificate.full_chain())?;
            self.give(folder.path(), "server.key", &certificate.key_pem)?;
        }
        let user = if is_root() { USER.to_owned() } else { current_user().await? };
        let config = self.configuration(folder.path(), &user, (addr, tls_addr), &login);
        self.give(folder.path(), "exim.conf", &config)?;
        hand_over(folder.path()).await?;

        // As root it would accept only configurations that are compiled in.
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", USER, "--regid", USER, "--init-groups"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.arg("-C").arg(folder.path().join("exim.conf")).arg("-bdf").current_dir(folder.path());
        let process = Child::spawn("exim", command, folder.path())?;
        let mut exim = Exim { process, addr, tls_addr, login, folder };
        exim.process.wait_for_port(addr).await?;
        Ok(exim)
    }

    fn give(&self, folder: &Path, name: &str, content: &str) -> Result<()> {
        let path = folder.join(name);
        write(&path, content)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(Error::file("restricting", &path))
    }

    fn configuration(&self, folder: &Path, user: &str, ports: (SocketAddr, SocketAddr), login: &Login) -> String {
        let (folder, plain, tls) = (folder.display(), ports.0.port(), ports.1.port());
        let size = self.size.as_deref().unwrap_or("50M");
        let security = match self.certificate {
            Some(_) => format!(
                "tls_advertise_hosts = *\ntls_certificate = {folder}/server.pem\ntls_privatekey = {folder}/server.key\n\
                 tls_on_connect_ports = {tls}\n"
            ),
            None => "tls_advertise_hosts =\n".to_owned(),
        };
        let insist = if self.login { "deny message = log in first\n     !authenticated = *\n" } else { "" };
        let Login { user: name, password: Hidden(password), token: Hidden(token) } = login;
        format!(
            r#"primary_hostname = mail.test
exim_user = {user}
exim_group = {user}
spool_directory = {folder}/spool
log_file_path = {folder}/log/%slog
pid_file_path = {folder}/exim.pid
local_interfaces = 127.0.0.1
daemon_smtp_ports = {plain} : {tls}
{security}auth_advertise_hosts = ${{if eq{{$tls_in_cipher}}{{}}{{}}{{*}}}}
acl_smtp_rcpt = check_rcpt
message_size_limit = {size}
host_lookup =
rfc1413_hosts =
rfc1413_query_timeout = 0s
smtp_enforce_sync = true
deliver_drop_privilege = true
never_users =

begin acl
check_rcpt:
  {insist}  deny message = no such mailbox
     local_parts = nobody
  defer message = busy
     local_parts = busy
  accept

begin routers
everything:
  driver = accept
  transport = maildir

begin transports
maildir:
  driver = appendfile
  directory = {folder}/mail
  maildir_format
  create_directory
  batch_max = 100
  envelope_to_add
  return_path_add
  user = {user}
  group = {user}
  mode = 0600

begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${{if and{{{{eq{{$auth2}}{{{name}}}}}{{eq{{$auth3}}{{{password}}}}}}}}}
  server_set_id = $auth2
login:
  driver = plaintext
  public_name = LOGIN
  server_prompts = <| Username: | Password:
  server_condition = ${{if and{{{{eq{{$auth1}}{{{name}}}}}{{eq{{$auth2}}{{{password}}}}}}}}}
  server_set_id = $auth1
xoauth2:
  driver = plaintext
  public_name = XOAUTH2
  server_condition = ${{if eq{{$auth1}}{{user={name}\001auth=Bearer {token}\001\001}}}}
  server_set_id = {name}
"#
        )
    }
}

impl Exim {
    /// Options, then [`EximBuilder::start`].
    pub fn builder() -> EximBuilder {
        EximBuilder::default()
    }

    /// Where it speaks plain text and offers `STARTTLS`.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where it speaks TLS from the first byte, if it has a certificate.
    pub fn tls_addr(&self) -> SocketAddr {
        self.tls_addr
    }

    /// The login it takes.
    pub fn login(&self) -> &Login {
        &self.login
    }

    /// The messages that were delivered so far, oldest first, with the headers that it adds.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when they cannot be read.
    pub fn mails(&self) -> Result<Vec<Vec<u8>>> {
        let folder = self.folder.path().join("mail/new");
        let mut found = Vec::new();
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let changed = entry.metadata().and_then(|meta| meta.modified()).map_err(Error::file("reading", &path))?;
            found.push((changed, fs::read(&path).map_err(Error::file("reading", &path))?));
        }
        found.sort();
        Ok(found.into_iter().map(|(_, bytes)| bytes).collect())
    }

    /// Waits until `count` messages were delivered, and gives them.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] when they are not within `limit`.
    pub async fn await_mails(&self, count: usize, limit: Duration) -> Result<Vec<Vec<u8>>> {
        poll_until(&format!("{count} messages"), limit, async || self.mails().ok().filter(|mails| mails.len() >= count))
            .await
    }

    /// The directory with its configuration, spool, logs and mail.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What it logged.
    pub fn log(&self) -> String {
        let logs = ["mainlog", "rejectlog", "paniclog"].map(|name| self.folder.path().join("log").join(name));
        let texts = logs.iter().filter(|path| path.exists()).filter_map(|path| read(path).ok());
        texts.fold(self.process.log(), |all, text| all + &text)
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

async fn current_user() -> Result<String> {
    let mut command = Command::new("id");
    command.arg("-un");
    Ok(String::from_utf8_lossy(&run(command, b"").await?.stdout).trim().to_owned())
}

/// Makes everything in `folder` the server user's.
async fn hand_over(folder: &Path) -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let id = async |option: &str| {
        let mut command = Command::new("id");
        command.args([option, USER]);
        let text = String::from_utf8_lossy(&run(command, b"").await?.stdout).trim().to_owned();
        text.parse::<u32>().map_err(|error| Error::protocol(format!("id {option} {USER}"), error))
    };
    let (user, group) = (id("-u").await?, id("-g").await?);
    let give = |path: &Path| chown(path, Some(user), Some(group)).map_err(Error::file("handing over", path));
    give(folder)?;
    for entry in fs::read_dir(folder).map_err(Error::file("reading", folder))?.flatten() {
        give(&entry.path())?;
    }
    Ok(())
}
