use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use tempfile::TempDir;
use tokio::time::Instant;

use super::{Hidden, is_root, temporary_folder, write};
use crate::{
    Error, Result,
    locate::locate,
    pki::Issued,
    ports,
    process::{Child, START_LIMIT, run},
};

/// The superuser.
const USER: &str = "postgres";

/// The pause between two looks at a server that is starting.
const PAUSE: Duration = Duration::from_millis(15);

/// How much of the log goes into an error.
const LOG_LINES: usize = 30;

/// PostgreSQL with a fresh cluster, on one loopback port.
///
/// The superuser `postgres` needs no password unless [`PostgresBuilder::password`] asks for one. Writes are not forced
/// to the disk unless [`PostgresBuilder::durable`] says so: tests that cut the power want that, all others are faster
/// without.
#[derive(Debug)]
pub struct Postgres {
    process: Option<Child>,
    program: PathBuf,
    settings: Vec<String>,
    addr: SocketAddr,
    password: Option<Hidden>,
    folder: TempDir,
}

/// Options of [`Postgres`].
#[derive(Debug, Default)]
pub struct PostgresBuilder {
    settings: Vec<(String, String)>,
    initdb: Vec<String>,
    durable: bool,
    password: bool,
    tls: Option<Issued>,
}

impl PostgresBuilder {
    /// Sets a parameter of the server, as `-c name=value` does.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds an argument of `initdb`, such as `--encoding=LATIN1`.
    #[must_use]
    pub fn initdb(mut self, argument: &str) -> Self {
        self.initdb.push(argument.to_owned());
        self
    }

    /// Forces what is committed to the disk, as production does.
    #[must_use]
    pub fn durable(mut self) -> Self {
        self.durable = true;
        self
    }

    /// Gives the superuser a random password, which is part of [`Postgres::url`], and insists on it.
    #[must_use]
    pub fn password(mut self) -> Self {
        self.password = true;
        self
    }

    /// Presents this certificate, and accepts nothing but TLS over TCP.
    #[must_use]
    pub fn tls(mut self, certificate: &Issued) -> Self {
        self.tls = Some(certificate.clone());
        self
    }

    /// Makes the cluster and starts it.
    ///
    /// # Errors
    ///
    /// As [`locate`]; [`Error::Command`] when the cluster cannot be made; [`Error::Start`] with its log when the server
    /// does not come up.
    pub async fn start(self) -> Result<Postgres> {
        let (initdb, program) = (locate("initdb").await?, locate("postgres").await?);
        let folder = Postgres::folder_for_user()?;
        let password = self.password.then(|| Hidden(format!("{:032x}", rand::random::<u128>())));

        let mut command = as_user(&initdb);
        command.arg("-D").arg(folder.path().join("data")).args(["-U", USER, "--no-sync"]);
        if self.initdb.is_empty() {
            command.args(["-E", "UTF8", "--locale=C.UTF-8"]);
        }
        command.args(&self.initdb).arg("--auth").arg(if password.is_some() { "scram-sha-256" } else { "trust" });
        if let Some(password) = &password {
            let file = folder.path().join("password");
            give(&file, &password.0)?;
            command.arg("--pwfile").arg(file);
        }
        command.current_dir(folder.path());
        run(command, b"").await?;

        let mut settings = self.settings;
        settings.push(("fsync".to_owned(), if self.durable { "on" } else { "off" }.to_owned()));
        if let Some(certificate) = &self.tls {
            settings.extend(secure(folder.path(), certificate, password.is_some())?);
        }
        let settings = settings.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        let addr = ports::free_addr()?;
        let mut postgres = Postgres { process: None, program, settings, addr, password, folder };
        postgres.resume().await?;
        Ok(postgres)
    }
}

impl Postgres {
    /// Starts it with nothing special.
    ///
    /// # Errors
    ///
    /// As [`PostgresBuilder::start`].
    pub async fn start() -> Result<Postgres> {
        Postgres::builder().start().await
    }

    /// Options, then [`PostgresBuilder::start`].
    pub fn builder() -> PostgresBuilder {
        PostgresBuilder::default()
    }

    /// Starts a hot standby of this server, which follows it until it is dropped.
    ///
    /// # Errors
    ///
    /// As [`PostgresBuilder::start`].
    pub async fn standby(&self) -> Result<Postgres> {
        let folder = Postgres::folder_for_user()?;
        let mut command = as_user(&locate("pg_basebackup").await?);
        command.arg("-D").arg(folder.path().join("data")).arg("-d").arg(self.url_for("postgres"));
        command.args(["--checkpoint=fast", "--no-sync", "--write-recovery-conf"]).current_dir(folder.path());
        run(command, b"").await?;
        let (program, settings, password) = (self.program.clone(), self.settings.clone(), self.password.clone());
        let mut standby = Postgres { process: None, program, settings, addr: ports::free_addr()?, password, folder };
        standby.resume().await?;
        Ok(standby)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The connection URL of the database `postgres`, with the password if there is one.
    pub fn url(&self) -> String {
        self.url_for("postgres")
    }

    /// The connection URL of a database, with the password if there is one.
    pub fn url_for(&self, database: &str) -> String {
        let password = self.password.as_ref().map(|password| format!(":{}", password.0)).unwrap_or_default();
        format!("postgres://{USER}{password}@{}/{database}", self.addr)
    }

    /// The superuser's password, if it has one.
    pub fn password(&self) -> Option<&str> {
        self.password.as_ref().map(|password| &*password.0)
    }

    /// The directory with its data and log.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The id of its main process; `None` while it is down.
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read(self.folder.path().join("postgres.log"))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Makes an empty database and gives its URL.
    ///
    /// # Errors
    ///
    /// As [`Postgres::psql`].
    pub async fn create_database(&self, name: &str) -> Result<String> {
        self.psql("postgres", &format!("CREATE DATABASE \"{}\"", name.replace('"', "\"\""))).await?;
        Ok(self.url_for(name))
    }

    /// Runs a script with `psql`, which stops at the first error, and gives its rows, columns separated by `|`.
    ///
    /// # Errors
    ///
    /// As [`locate`]; [`Error::Command`] when a statement fails.
    pub async fn psql(&self, database: &str, script: &str) -> Result<String> {
        let mut command = Command::new(locate("psql").await?);
        command.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", database, "-U", USER]);
        command.args(["-h", &self.addr.ip().to_string(), "-p", &self.addr.port().to_string(), "-f", "-"]);
        if let Some(password) = &self.password {
            command.env("PGPASSWORD", &password.0);
        }
        let Output { stdout, .. } = run(command, script.as_bytes()).await?;
        Ok(String::from_utf8_lossy(&stdout).trim_end().to_owned())
    }

    /// Ends every session, shuts down in order, and comes back on the same port.
    ///
    /// # Errors
    ///
    /// As [`PostgresBuilder::start`].
    pub async fn restart(&mut self) -> Result<()> {
        self.shut_down().await?;
        self.resume().await
    }

    /// Ends every session and shuts down in order. [`Postgres::resume`] brings it back.
    ///
    /// # Errors
    ///
    /// As [`Child::stop`].
    pub async fn shut_down(&mut self) -> Result<()> {
        let Some(process) = self.process.take() else { return Ok(()) };
        // The polite signal of `stop` alone would wait for every client to leave. One that is gone needs none.
        let _ = process.signal("INT");
        process.stop().await.map(drop)
    }

    /// Kills all its processes at once, as a power cut would. [`Postgres::resume`] brings it back.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it again, with the same data and on the same port, and waits until it accepts sessions.
    ///
    /// # Errors
    ///
    /// As [`PostgresBuilder::start`].
    pub async fn resume(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        let process = loop {
            match self.attempt().await {
                // Processes of a killed server that have not noticed it yet keep its memory, and the next one out, for a
                // moment.
                Err(Error::Start { log, .. }) if still_in_use(&log) && Instant::now() < deadline => {
                    tokio::time::sleep(PAUSE).await;
                }
                outcome => break outcome?,
            }
        };
        self.process = Some(process);
        Ok(())
    }

    /// Ends it.
    ///
    /// # Errors
    ///
    /// As [`Child::stop`].
    pub async fn stop(mut self) -> Result<()> {
        self.shut_down().await
    }

    async fn attempt(&self) -> Result<Child> {
        let mut command = as_user(&self.program);
        let socket_folder = self.folder.path().join("socket");
        command.arg("-D").arg(self.folder.path().join("data")).arg("-k").arg(socket_folder);
        command.args(["-h", &self.addr.ip().to_string(), "-p", &self.addr.port().to_string()]);
        // Small enough for many of them at a time.
        command.args(["-c", "shared_buffers=32MB", "-c", "max_connections=200"]);
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        command.current_dir(self.folder.path());
        let mut process = Child::spawn("postgres", command, self.folder.path())?;
        let deadline = Instant::now() + START_LIMIT;
        while self.psql("postgres", "SELECT 1").await.is_err() {
            let reason = match process.is_running() {
                true if Instant::now() < deadline => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                true => format!("it accepts no sessions after {START_LIMIT:?}"),
                false => "it ended before it accepted sessions".to_owned(),
            };
            let log = process.log();
            let lines: Vec<&str> = log.lines().collect();
            let log = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
            return Err(Error::Start { name: "postgres", reason, log });
        }
        Ok(process)
    }

    /// A directory whose `data` and `socket` the server's user may write.
    fn folder_for_user() -> Result<TempDir> {
        let folder = temporary_folder("postgres")?;
        for (name, mode) in [("data", 0o700), ("socket", 0o700)] {
            let path = folder.path().join(name);
            fs::create_dir(&path).map_err(Error::file("creating", &path))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(Error::file("restricting", &path))?;
            hand_over(&path)?;
        }
        Ok(folder)
    }
}

/// Whether the log says at its end that processes of a killed server still hold its memory.
fn still_in_use(log: &str) -> bool {
    log.lines().rev().take(3).any(|line| line.contains("pre-existing shared memory block"))
}

/// The settings for TLS, with their files.
fn secure(folder: &Path, certificate: &Issued, password: bool) -> Result<Vec<(String, String)>> {
    let (chain, key, access) = (folder.join("server.pem"), folder.join("server.key"), folder.join("access.conf"));
    give(&chain, &certificate.full_chain())?;
    give(&key, &certificate.key_pem)?;
    let method = if password { "scram-sha-256" } else { "trust" };
    give(&access, &format!("hostssl all all 127.0.0.1/32 {method}\nhostssl replication all 127.0.0.1/32 {method}\n"))?;
    let setting = |name: &str, value: &Path| (name.to_owned(), value.display().to_string());
    Ok(vec![
        ("ssl".to_owned(), "on".to_owned()),
        setting("ssl_cert_file", &chain),
        setting("ssl_key_file", &key),
        setting("hba_file", &access),
    ])
}

/// Writes a file that only the server's user can read.
fn give(path: &Path, content: &str) -> Result<()> {
    write(path, content)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(Error::file("restricting", path))?;
    hand_over(path)
}

/// Makes `path` the server user's: the server refuses to run as root.
fn hand_over(path: &Path) -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let users = fs::read_to_string("/etc/passwd").map_err(Error::io("reading /etc/passwd"))?;
    let ids = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(USER)).then_some(())?;
        Some((fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?))
    });
    let Some((user, group)) = ids else {
        let remedy = format!("there is no user `{USER}` for it to run as: it refuses to be root");
        return Err(Error::Missing { program: "postgres", remedy });
    };
    chown(path, Some(user), Some(group)).map_err(Error::file("handing over", path))
}

/// `program`, to be run as the server's user when we are root.
fn as_user(program: &Path) -> Command {
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", USER, "--regid", USER, "--init-groups"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.env_remove("HOME").env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
    command
}
