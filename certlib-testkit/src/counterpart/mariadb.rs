use std::{
    fs::{self, File},
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tempfile::TempDir;
use tokio::{net::TcpStream, time::Instant};

use super::{Hidden, is_root, temporary_folder, write};
use crate::{
    Error, Result,
    locate::{cache_folder, locate},
    pki::Issued,
    ports,
    process::{Child, START_LIMIT, run},
};

/// The user that [`Mariadb::url_for`] logs in as: it owns the databases made by [`Mariadb::create_database`].
const USER: &str = "certlib";

/// The pause between two looks at a server that comes up.
const POLL: Duration = Duration::from_millis(15);

/// Options of every server: small, so that many may run, and with the durability that MariaDB has by default.
const OPTIONS: [&str; 6] = [
    "--bind-address=127.0.0.1",
    "--skip-name-resolve",
    "--innodb-buffer-pool-size=64M",
    "--innodb-log-file-size=16M",
    "--max-connections=500",
    "--skip-log-bin",
];

/// MariaDB, with an empty data directory of its own.
///
/// Databases are made by [`Mariadb::create_database`]; the user of [`Mariadb::url_for`] may do everything in them and
/// nothing else. [`Mariadb::sql`] runs statements as the administrator, through MariaDB's own client.
#[derive(Debug)]
pub struct Mariadb {
    process: Option<Child>,
    program: PathBuf,
    client: PathBuf,
    options: Vec<String>,
    addr: SocketAddr,
    password: Hidden,
    folder: TempDir,
}

/// How to start a [`Mariadb`].
#[derive(Debug, Default)]
pub struct MariadbBuilder {
    options: Vec<String>,
    certificate: Option<Issued>,
}

impl MariadbBuilder {
    /// Adds a server option, such as `("innodb-flush-log-at-trx-commit", "2")`.
    #[must_use]
    pub fn option(mut self, name: &str, value: &str) -> Self {
        self.options.push(format!("--{name}={value}"));
        self
    }

    /// Serves TLS with this certificate. Without it the server has none.
    #[must_use]
    pub fn tls(mut self, certificate: Issued) -> Self {
        self.certificate = Some(certificate);
        self
    }

    /// Starts it.
    ///
    /// # Errors
    ///
    /// As [`Mariadb::start`].
    pub async fn start(self) -> Result<Mariadb> {
        let (program, client) = (locate("mariadbd").await?, locate("mariadb").await?);
        let folder = temporary_folder("mariadb")?;
        data_directory(&program, &folder.path().join("data")).await?;
        let mut options = self.options;
        if let Some(certificate) = &self.certificate {
            for (option, file, text) in [
                ("ssl-cert", "server.pem", certificate.full_chain()),
                ("ssl-key", "server.key", certificate.key_pem.clone()),
            ] {
                let path = folder.path().join(file);
                write(&path, text)?;
                options.push(format!("--{option}={}", path.display()));
            }
        }
        let password = Hidden(random_name());
        let addr = ports::free_addr()?;
        let mut server = Mariadb { process: None, program, client, options, addr, password, folder };
        server.spawn().await?;
        let password = &server.password.0;
        server.sql(&format!("CREATE USER '{USER}'@'%' IDENTIFIED BY '{password}'")).await?;
        Ok(server)
    }
}

impl Mariadb {
    /// Starts it with the options of [`Mariadb::builder`] as they are.
    ///
    /// # Errors
    ///
    /// As [`locate`]; [`Error::Command`] when its data directory cannot be made; [`Error::Start`] with its log when it
    /// does not come up.
    pub async fn start() -> Result<Mariadb> {
        Mariadb::builder().start().await
    }

    /// A server with options.
    pub fn builder() -> MariadbBuilder {
        MariadbBuilder::default()
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its directory.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The user of [`Mariadb::url_for`].
    pub fn user(&self) -> &'static str {
        USER
    }

    /// The password of [`Mariadb::user`].
    pub fn password(&self) -> &str {
        &self.password.0
    }

    /// `mysql://USER:PASSWORD@127.0.0.1:PORT/DATABASE`.
    pub fn url_for(&self, database: &str) -> String {
        format!("mysql://{USER}:{}@{}/{database}", self.password.0, self.addr)
    }

    /// Makes an empty database that belongs to [`Mariadb::user`], and gives its [URL](Mariadb::url_for).
    ///
    /// # Errors
    ///
    /// As [`Mariadb::sql`].
    pub async fn create_database(&self, name: &str) -> Result<String> {
        self.sql(&format!("CREATE DATABASE `{name}`; GRANT ALL ON `{name}`.* TO '{USER}'@'%'")).await?;
        Ok(self.url_for(name))
    }

    /// Runs SQL as the administrator and gives the rows, one a line, their values separated by tabs.
    ///
    /// # Errors
    ///
    /// [`Error::Command`] when the server refuses it or is not there.
    pub async fn sql(&self, statements: &str) -> Result<String> {
        let mut command = Command::new(&self.client);
        command.args(["--no-defaults", "--user=root", "--batch", "--skip-column-names"]);
        command.arg(format!("--socket={}", self.socket().display()));
        let output = run(command, statements.as_bytes()).await?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Stops it politely and starts it again, on the same data and port.
    ///
    /// # Errors
    ///
    /// [`Error::Start`] when it does not come up again.
    pub async fn restart(&mut self) -> Result<()> {
        if let Some(process) = self.process.take() {
            process.stop().await?;
        }
        self.spawn().await
    }

    /// Kills it with `SIGKILL`, as a crash would. [`Mariadb::restart`] starts it again, on the same data and port.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Its process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// What it logged since it was started last.
    pub fn log(&self) -> String {
        self.process.as_ref().map(Child::log).unwrap_or_default()
    }

    /// Ends it.
    ///
    /// # Errors
    ///
    /// As [`Child::stop`].
    pub async fn stop(mut self) -> Result<()> {
        match self.process.take() {
            Some(process) => process.stop().await.map(drop),
            None => Ok(()),
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("data/server.sock")
    }

    async fn spawn(&mut self) -> Result<()> {
        let mut command = server_command(&self.program, &self.folder.path().join("data"));
        command.arg(format!("--port={}", self.addr.port())).arg(format!("--socket={}", self.socket().display()));
        command.args(OPTIONS).args(&self.options);
        let process = self.process.insert(Child::spawn("mariadbd", command, self.folder.path())?);
        // Not `wait_for_port`, so that callers may start a server in a task that moves between threads.
        let deadline = Instant::now() + START_LIMIT;
        while TcpStream::connect(self.addr).await.is_err() {
            if !process.is_running() || Instant::now() >= deadline {
                let reason = format!("not listening on {}", self.addr);
                return Err(Error::Start { name: "mariadbd", reason, log: process.log() });
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }
}

/// The server on a data directory. It refuses to run as root.
fn server_command(program: &Path, data: &Path) -> Command {
    let mut command = Command::new(program);
    // Must come first.
    command.arg("--no-defaults").arg(format!("--datadir={}", data.display()));
    if is_root() {
        command.arg("--user=mysql");
    }
    command
}

/// Puts a fresh data directory at `data`. Making one takes seconds, so that a template is kept in the cache.
async fn data_directory(program: &Path, data: &Path) -> Result<()> {
    let mut version = Command::new(program);
    version.args(["--no-defaults", "--version"]);
    let version = String::from_utf8_lossy(&run(version, b"").await?.stdout).into_owned();
    let installer = locate("mariadb-install-db").await?;
    let owner = if is_root() { "root" } else { "user" };
    let key: String = version.chars().filter(|c| c.is_ascii_alphanumeric()).rev().take(48).collect();
    let template = cache_folder().join(format!("mariadb-{owner}-{key}"));
    let _lock = lock_template().await?;
    if !template.join("complete").exists() {
        make_template(&installer, &template).await?;
    }
    copy(&template.join("data"), data).await
}

async fn make_template(installer: &Path, template: &Path) -> Result<()> {
    // The server drops its privileges and could not enter the cache.
    let folder = temporary_folder("mariadb-install")?;
    let fresh = folder.path().join("data");
    let mut command = server_command(installer, &fresh);
    command.args(["--auth-root-authentication-method=normal", "--skip-test-db", "--innodb-log-file-size=16M"]);
    run(command, b"").await?;
    // What an earlier attempt left behind is of no use.
    let _ = fs::remove_dir_all(template);
    fs::create_dir_all(template).map_err(Error::file("creating", template))?;
    copy(&fresh, &template.join("data")).await?;
    write(&template.join("complete"), "")
}

/// Held while the template is made or read; released when dropped.
async fn lock_template() -> Result<File> {
    let folder = cache_folder();
    fs::create_dir_all(&folder).map_err(Error::file("creating", &folder))?;
    let path = folder.join("mariadb.lock");
    let file = File::create(&path).map_err(Error::file("creating", &path))?;
    let task = tokio::task::spawn_blocking(move || file.lock().map(|()| file));
    task.await.map_err(io::Error::other).and_then(|locked| locked).map_err(Error::file("locking", &path))
}

async fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut command = Command::new("cp");
    command.args(["-a", "--reflink=auto"]).arg(from).arg(to);
    run(command, b"").await.map(drop)
}

fn random_name() -> String {
    use std::fmt::Write as _;
    rand::random::<[u8; 16]>().iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
