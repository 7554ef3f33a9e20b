use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tempfile::TempDir;

use super::{is_root, read, temporary_folder, write};
use crate::{
    Error, Result,
    locate::locate,
    ports,
    process::{Child, capture, run},
};

/// Kinds of SSH keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyType {
    /// `ssh-ed25519`
    Ed25519,
    /// `ecdsa-sha2-nistp256`
    Ecdsa,
    /// `ssh-rsa`, 2048 bits
    Rsa,
}

impl KeyType {
    /// Every kind that a fixture has keys of.
    pub const ALL: [KeyType; 3] = [KeyType::Ed25519, KeyType::Ecdsa, KeyType::Rsa];

    fn name(self) -> &'static str {
        match self {
            KeyType::Ed25519 => "ed25519",
            KeyType::Ecdsa => "ecdsa",
            KeyType::Rsa => "rsa",
        }
    }
}

/// OpenSSH's server, with host keys and user keys of every [`KeyType`], made for this instance.
///
/// It accepts one user: the one that runs the tests, root included. Commands run as that user, in its home directory.
#[derive(Debug)]
pub struct Sshd {
    process: Child,
    program: PathBuf,
    addr: SocketAddr,
    user: String,
    has_host_certificate: bool,
    folder: TempDir,
}

/// Options of an [`Sshd`].
#[derive(Debug, Clone, Default)]
pub struct SshdBuilder {
    options: Vec<(String, String)>,
    without_sftp: bool,
    host_certificate: bool,
}

impl SshdBuilder {
    /// Sets a keyword of `sshd_config`, before the fixture's own: the first value wins there.
    #[must_use]
    pub fn option(mut self, keyword: &str, value: &str) -> Self {
        self.options.push((keyword.to_owned(), value.to_owned()));
        self
    }

    /// Offers no SFTP subsystem.
    #[must_use]
    pub fn without_sftp(mut self) -> Self {
        self.without_sftp = true;
        self
    }

    /// Presents an Ed25519 host certificate for `127.0.0.1` and `localhost`, signed by [`Sshd::host_ca`].
    #[must_use]
    pub fn host_certificate(mut self) -> Self {
        self.host_certificate = true;
        self
    }

    /// Makes the keys and starts the server.
    ///
    /// # Errors
    ///
    /// As [`locate`]; [`Error::Start`] with the server's log when it does not come up.
    pub async fn start(self) -> Result<Sshd> {
        let program = locate("sshd").await?;
        let keygen = locate("ssh-keygen").await?;
        let folder = temporary_folder("sshd")?;
        let path = folder.path();
        if is_root() {
            // Where sshd separates its privileges; refused otherwise.
            fs::create_dir_all("/run/sshd").map_err(Error::io("creating /run/sshd"))?;
        }
        make_host_keys(&keygen, path).await?;
        make_keys(&keygen, path, "id").await?;
        let authorized: Result<String> =
            KeyType::ALL.iter().map(|kind| read(&path.join(format!("id_{}.pub", kind.name())))).collect();
        write(&path.join("authorized_keys"), authorized?)?;
        if self.host_certificate {
            sign_host_key(&keygen, path).await?;
        }
        let addr = ports::free_addr()?;
        write(&path.join("sshd_config"), self.configuration(path, addr))?;
        let mut id = Command::new("id");
        id.arg("-un");
        let user = String::from_utf8_lossy(&run(id, b"").await?.stdout).trim().to_owned();
        let process = spawn(&program, path, addr).await?;
        let sshd = Sshd { process, program, addr, user, has_host_certificate: self.host_certificate, folder };
        sshd.write_known_hosts()?;
        Ok(sshd)
    }

    fn configuration(&self, folder: &Path, addr: SocketAddr) -> String {
        let folder = folder.display();
        let mut text = String::new();
        for (keyword, value) in &self.options {
            text += &format!("{keyword} {value}\n");
        }
        text += &format!("ListenAddress {addr}\n");
        for kind in KeyType::ALL {
            text += &format!("HostKey {folder}/host_{}\n", kind.name());
        }
        if self.host_certificate {
            text += &format!("HostCertificate {folder}/host_ed25519-cert.pub\n");
        }
        if !self.without_sftp {
            text += "Subsystem sftp internal-sftp\n";
        }
        text += &format!(
            "PidFile none
AuthorizedKeysFile {folder}/authorized_keys
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
MaxStartups 100:30:200
MaxSessions 100
UseDNS no
LogLevel VERBOSE
"
        );
        text
    }
}

impl Sshd {
    /// Starts one with the default options.
    ///
    /// # Errors
    ///
    /// As [`SshdBuilder::start`].
    pub async fn start() -> Result<Sshd> {
        SshdBuilder::default().start().await
    }

    /// Options first, then [`SshdBuilder::start`].
    pub fn builder() -> SshdBuilder {
        SshdBuilder::default()
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The user to log in as.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The directory with its keys and configuration. Tests may keep files of their own in it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The file with a private key that may log in, in OpenSSH format, without a passphrase.
    pub fn user_key(&self, kind: KeyType) -> PathBuf {
        self.folder().join(format!("id_{}", kind.name()))
    }

    /// A public key that may log in, as a line of `authorized_keys`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the file cannot be read.
    pub fn user_public_key(&self, kind: KeyType) -> Result<String> {
        public_line(&self.folder().join(format!("id_{}.pub", kind.name())))
    }

    /// A host's public key: `type base64`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the file cannot be read.
    pub fn host_public_key(&self, kind: KeyType) -> Result<String> {
        public_line(&self.folder().join(format!("host_{}.pub", kind.name())))
    }

    /// The fingerprint of a host key as OpenSSH prints it: `SHA256:` and unpadded base64.
    ///
    /// # Errors
    ///
    /// [`Error::Command`] when `ssh-keygen` cannot read the key.
    pub async fn host_key_fingerprint(&self, kind: KeyType) -> Result<String> {
        let mut command = Command::new(locate("ssh-keygen").await?);
        command.args(["-l", "-E", "sha256", "-f"]).arg(self.folder().join(format!("host_{}.pub", kind.name())));
        let line = String::from_utf8_lossy(&run(command, b"").await?.stdout).into_owned();
        let fingerprint = line.split_whitespace().nth(1).map(str::to_owned);
        fingerprint.ok_or_else(|| Error::protocol("ssh-keygen", line))
    }

    /// The line of a `known_hosts` file for one host key.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the key cannot be read.
    pub fn known_hosts_line(&self, kind: KeyType) -> Result<String> {
        Ok(format!("[127.0.0.1]:{} {}", self.addr.port(), self.host_public_key(kind)?))
    }

    /// A `known_hosts` file with every host key.
    pub fn known_hosts(&self) -> PathBuf {
        self.folder().join("known_hosts")
    }

    /// The public key of the authority that signed the host certificate, if there is one.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the key cannot be read.
    pub fn host_ca(&self) -> Result<Option<String>> {
        self.has_host_certificate.then(|| public_line(&self.folder().join("host_ca.pub"))).transpose()
    }

    /// Runs a command through OpenSSH's client with the Ed25519 key, checking the host key. The exit status is part of
    /// the answer; 255 means that the connection failed.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the client cannot be run.
    pub async fn ssh(&self, remote_command: &str) -> Result<Output> {
        let mut command = Command::new(locate("ssh").await?);
        command.args(self.client_options()).args(["-p", &self.addr.port().to_string()]);
        command.arg(format!("{}@127.0.0.1", self.user)).arg(remote_command);
        capture(command, b"").await
    }

    /// Runs a batch of SFTP commands through OpenSSH's client with the Ed25519 key, checking the host key.
    ///
    /// # Errors
    ///
    /// [`Error::Command`] when one of them fails.
    pub async fn sftp(&self, batch: &str) -> Result<Output> {
        let mut command = Command::new(locate("sftp").await?);
        command.args(self.client_options()).args(["-b", "-", "-P", &self.addr.port().to_string()]);
        command.arg(format!("{}@127.0.0.1", self.user));
        run(command, batch.as_bytes()).await
    }

    /// Ends the server and starts it again on the same port with the same keys. Sessions are cut.
    ///
    /// # Errors
    ///
    /// [`Error::Start`] when it does not come up again.
    pub async fn restart(self) -> Result<Sshd> {
        let Sshd { process, program, addr, user, has_host_certificate, folder } = self;
        process.stop().await?;
        let process = spawn(&program, folder.path(), addr).await?;
        Ok(Sshd { process, program, addr, user, has_host_certificate, folder })
    }

    /// Replaces every host key and restarts: to a client this looks like another machine at the same address. Files
    /// and accessors of this fixture show the new keys.
    ///
    /// # Errors
    ///
    /// [`Error::Start`] when it does not come up again.
    pub async fn replace_host_keys(self) -> Result<Sshd> {
        let keygen = locate("ssh-keygen").await?;
        make_host_keys(&keygen, self.folder()).await?;
        if self.has_host_certificate {
            sign_host_key(&keygen, self.folder()).await?;
        }
        self.write_known_hosts()?;
        self.restart().await
    }

    /// What it logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Ends it, its sessions and what they run.
    ///
    /// # Errors
    ///
    /// As [`Child::stop`].
    pub async fn stop(self) -> Result<()> {
        self.process.stop().await.map(drop)
    }

    fn client_options(&self) -> Vec<String> {
        let known_hosts = format!("UserKnownHostsFile={}", self.known_hosts().display());
        let mut options = vec![
            "-F".to_owned(),
            "none".to_owned(),
            "-i".to_owned(),
            self.user_key(KeyType::Ed25519).display().to_string(),
        ];
        for option in ["IdentitiesOnly=yes", "BatchMode=yes", "StrictHostKeyChecking=yes", &known_hosts] {
            options.extend(["-o".to_owned(), option.to_owned()]);
        }
        options
    }

    fn write_known_hosts(&self) -> Result<()> {
        let lines: Result<Vec<String>> = KeyType::ALL.iter().map(|kind| self.known_hosts_line(*kind)).collect();
        write(&self.known_hosts(), lines?.join("\n") + "\n")
    }
}

async fn spawn(program: &Path, folder: &Path, addr: SocketAddr) -> Result<Child> {
    let mut command = Command::new(program);
    command.arg("-D").arg("-e").arg("-f").arg(folder.join("sshd_config"));
    let mut process = Child::spawn("sshd", command, folder)?;
    process.wait_for_port(addr).await?;
    Ok(process)
}

async fn make_host_keys(keygen: &Path, folder: &Path) -> Result<()> {
    make_keys(keygen, folder, "host").await
}

async fn make_keys(keygen: &Path, folder: &Path, prefix: &str) -> Result<()> {
    for kind in KeyType::ALL {
        make_key(keygen, kind, &folder.join(format!("{prefix}_{}", kind.name()))).await?;
    }
    Ok(())
}

async fn make_key(keygen: &Path, kind: KeyType, path: &Path) -> Result<()> {
    // ssh-keygen asks before it overwrites.
    let _ = fs::remove_file(path);
    let mut command = Command::new(keygen);
    command.args(["-q", "-t", kind.name(), "-N", "", "-C", "certlib-testkit", "-f"]).arg(path);
    if kind == KeyType::Rsa {
        command.args(["-b", "2048"]);
    }
    run(command, b"").await.map(drop)
}

async fn sign_host_key(keygen: &Path, folder: &Path) -> Result<()> {
    let ca = folder.join("host_ca");
    if !ca.exists() {
        make_key(keygen, KeyType::Ed25519, &ca).await?;
    }
    let mut command = Command::new(keygen);
    command.args(["-q", "-s"]).arg(ca);
    command.args(["-I", "certlib-testkit", "-h", "-n", "127.0.0.1,localhost"]).arg(folder.join("host_ed25519.pub"));
    run(command, b"").await.map(drop)
}

/// `type base64`, without the comment.
fn public_line(path: &Path) -> Result<String> {
    let line = read(path)?;
    let mut words = line.split_whitespace();
    match (words.next(), words.next()) {
        (Some(kind), Some(key)) => Ok(format!("{kind} {key}")),
        _ => Err(Error::protocol(path.display().to_string(), "no public key")),
    }
}
