//! How a simulated host is described before it starts.

use std::{
    collections::HashMap,
    fmt,
    net::Ipv4Addr,
    sync::{Arc, Mutex, OnceLock, atomic::AtomicU64},
};

use russh::keys::PublicKey;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::sync::CancellationToken;

use super::{
    Action, Error, Fault, Service, SimHost,
    commands::program,
    fault::ActiveFault,
    filesystem::{Content, Filesystem, Owner},
    host::{Host, User, new_host_key, ssh_config},
    listen::{Gate, serve},
    service::LiveService,
    sftp, shell,
};

/// How a user proves who they are.
#[derive(Clone)]
#[non_exhaustive]
pub enum UserAuth {
    /// A public key as in `authorized_keys`: `ssh-ed25519 AAAA… comment`. Ed25519, ECDSA and RSA (with SHA-2) work.
    PublicKey(String),
    /// A password, also accepted as the answer to the one prompt of keyboard-interactive.
    Password(String),
}

impl UserAuth {
    /// A public key in the format of `authorized_keys`, without options.
    pub fn public_key(line: impl Into<String>) -> Self {
        Self::PublicKey(line.into())
    }

    /// A password.
    pub fn password(password: impl Into<String>) -> Self {
        Self::Password(password.into())
    }
}

impl fmt::Debug for UserAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PublicKey(line) => f.debug_tuple("PublicKey").field(line).finish(),
            Self::Password(_) => f.write_str("Password(..)"),
        }
    }
}

enum InitialFile {
    File(Vec<u8>, u32),
    Symlink(String),
    Directory(u32),
}

/// Describes a [`SimHost`]; made by [`SimHost::builder`].
///
/// Mistakes in what is given here are reported by [`SimHostBuilder::start`].
#[must_use = "a host exists only once it is started"]
pub struct SimHostBuilder {
    name: String,
    users: Vec<(String, UserAuth)>,
    fault: Option<Fault>,
    files: Vec<(String, InitialFile)>,
    service: Option<Service>,
    commands: Vec<(String, Action)>,
    hidden_extensions: Vec<String>,
    offers_sftp: bool,
}

impl SimHostBuilder {
    pub(super) fn new() -> Self {
        Self {
            name: "simhost".into(),
            users: Vec::new(),
            fault: None,
            files: Vec::new(),
            service: None,
            commands: Vec::new(),
            hidden_extensions: Vec::new(),
            offers_sftp: true,
        }
    }

    /// What the host calls itself in messages.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Lets a user in. Give the same name again to accept further keys or a password as well.
    ///
    /// `root` has uid 0; the first other user has uid and gid 1000, the next 1001. The home directory is `/root` or
    /// `/home/NAME`. Modes are kept but only ownership is enforced: changing attributes needs the owner or root,
    /// giving a file away needs root.
    pub fn user(mut self, name: impl Into<String>, auth: UserAuth) -> Self {
        self.users.push((name.into(), auth));
        self
    }

    /// Starts with this fault.
    pub fn fault(mut self, fault: Fault) -> Self {
        self.fault = Some(fault);
        self
    }

    /// Starts with a file of root's, at an absolute path; directories on the way are created.
    pub fn file(mut self, path: impl Into<String>, bytes: impl Into<Vec<u8>>, mode: u32) -> Self {
        let file = InitialFile::File(bytes.into(), mode);
        self.files.push((path.into(), file));
        self
    }

    /// Starts with these files of root's, all of mode 0644.
    pub fn initial_files<P, B>(self, files: impl IntoIterator<Item = (P, B)>) -> Self
    where
        P: Into<String>,
        B: Into<Vec<u8>>,
    {
        files.into_iter().fold(self, |builder, (path, bytes)| builder.file(path, bytes, 0o644))
    }

    /// Starts with a symbolic link at an absolute path.
    pub fn symlink(mut self, path: impl Into<String>, target: impl Into<String>) -> Self {
        let link = InitialFile::Symlink(target.into());
        self.files.push((path.into(), link));
        self
    }

    /// Starts with an empty directory at an absolute path.
    pub fn directory(mut self, path: impl Into<String>, mode: u32) -> Self {
        self.files.push((path.into(), InitialFile::Directory(mode)));
        self
    }

    /// What the TLS endpoint serves. Without it, the endpoint presents
    /// [`TestCertificate::shared`](super::TestCertificate::shared) for ever.
    pub fn service(mut self, service: Service) -> Self {
        self.service = Some(service);
        self
    }

    /// Teaches the host a command, for example `systemctl reload nginx`. `certlib-sim test` and
    /// `certlib-sim reload` are known from the start.
    pub fn command(mut self, command: impl Into<String>, action: Action) -> Self {
        self.commands.push((command.into(), action));
        self
    }

    /// Neither announces nor understands this SFTP extension: one of `posix-rename@openssh.com`,
    /// `fsync@openssh.com`, `hardlink@openssh.com` and `statvfs@openssh.com`.
    pub fn without_extension(mut self, name: impl Into<String>) -> Self {
        self.hidden_extensions.push(name.into());
        self
    }

    /// Refuses the SFTP subsystem; commands still run.
    pub fn without_sftp(mut self) -> Self {
        self.offers_sftp = false;
        self
    }

    /// Binds both ports and starts to answer. Needs a running tokio runtime, which all hosts share.
    ///
    /// # Errors
    /// [`Error::Io`] when no port can be bound, [`Error::Key`] for a public key that does not parse,
    /// [`Error::Certificate`] when the files of the service cannot be served, and [`Error::Setup`] for a path,
    /// command or extension that makes no sense.
    ///
    /// Cancel safe: a host that was not returned is gone.
    pub async fn start(self) -> Result<SimHost, Error> {
        let known = |name: &String| sftp::EXTENSIONS.iter().any(|(known, _)| known == name);
        if let Some(unknown) = self.hidden_extensions.iter().find(|name| !known(name)) {
            return Err(Error::Setup(format!("{unknown}: no such SFTP extension")));
        }
        let users = users(self.users)?;
        let mut files = initial_tree(self.files, &users)?;
        let service = LiveService::start(self.service, &mut files).map_err(Error::Certificate)?;
        let mut commands = HashMap::new();
        let builtin =
            [("certlib-sim test".to_owned(), Action::Test), ("certlib-sim reload".to_owned(), Action::Reload)];
        for (command, action) in builtin.into_iter().chain(self.commands) {
            commands.insert(command_words(&command)?, program(action));
        }
        let host_key = new_host_key()?;
        let gate = Gate::bind(self.fault != Some(Fault::Refuse)).map_err(Error::io("SSH port"))?;
        let tls = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(Error::io("TLS port"))?;
        let tls_addr = tls.local_addr().map_err(Error::io("TLS port"))?;
        let host = Arc::new(Host {
            name: self.name,
            users,
            hidden_extensions: self.hidden_extensions,
            offers_sftp: self.offers_sftp,
            config: Arc::new(ssh_config(host_key.clone())),
            host_key,
            impostor: OnceLock::new(),
            fault: Mutex::new(ActiveFault::new(self.fault)),
            files: Mutex::new(files),
            service,
            commands: Mutex::new(commands),
            history: Mutex::default(),
            stop: CancellationToken::new(),
            connections: AtomicU64::new(0),
            open_connections: Default::default(),
            tls_connections: AtomicU64::new(0),
        });
        let ssh_addr = gate.address();
        let (switch, switches) = mpsc::channel(1);
        let task = tokio::spawn(serve(Arc::clone(&host), gate, tls, switches));
        Ok(SimHost { host, ssh_addr, tls_addr, switch, task: Some(task) })
    }
}

/// The words by which a programmed command is recognised.
pub(super) fn command_words(command: &str) -> Result<Vec<String>, Error> {
    let mut steps = shell::parse(command).map_err(Error::Setup)?;
    match (steps.pop(), steps.is_empty()) {
        (Some(step), true) if step.output.is_none() && step.input.is_none() => Ok(step.words),
        _ => Err(Error::Setup(format!("{command:?} is not a single command"))),
    }
}

fn users(given: Vec<(String, UserAuth)>) -> Result<Vec<User>, Error> {
    let mut users: Vec<User> = Vec::new();
    let mut next_id = 1000;
    for (name, auth) in given {
        let index = match users.iter().position(|user| user.name == name) {
            Some(index) => index,
            None => {
                let (id, home) = if name == "root" {
                    (0, "/root".to_owned())
                } else {
                    next_id += 1;
                    (next_id - 1, format!("/home/{name}"))
                };
                users.push(User {
                    name: name.clone(),
                    owner: Owner { uid: id, gid: id },
                    home,
                    keys: Vec::new(),
                    password: None,
                });
                users.len() - 1
            }
        };
        match auth {
            UserAuth::PublicKey(line) => {
                let key = PublicKey::from_openssh(line.trim())
                    .map_err(|error| Error::Key(format!("of user {name}: {error}")))?;
                users[index].keys.push(key);
            }
            UserAuth::Password(password) => users[index].password = Some(password),
        }
    }
    Ok(users)
}

fn initial_tree(files: Vec<(String, InitialFile)>, users: &[User]) -> Result<Filesystem, Error> {
    let mut tree = Filesystem::new();
    let unusable = |path: &str, reason: &dyn fmt::Display| Error::Setup(format!("{path}: {reason}"));
    for user in users {
        tree.put(&user.home, Content::Directory, 0o755).map_err(|error| unusable(&user.home, &error))?;
        if let Ok(home) = tree.node(&user.home) {
            let mut home = super::lock(home);
            (home.uid, home.gid) = (user.owner.uid, user.owner.gid);
        }
    }
    for (path, file) in files {
        if !path.starts_with('/') {
            return Err(unusable(&path, &"not an absolute path"));
        }
        let (content, mode) = match file {
            InitialFile::File(bytes, mode) => (Content::File(Arc::new(bytes)), mode),
            InitialFile::Symlink(target) => (Content::Symlink(target), 0o777),
            InitialFile::Directory(mode) => (Content::Directory, mode),
        };
        tree.put(&path, content, mode).map_err(|error| unusable(&path, &error))?;
    }
    Ok(tree)
}
