use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::{exim::Login, read, temporary_folder, write};
use crate::{
    Result,
    locate::locate,
    pki::Issued,
    ports,
    process::{Child, START_LIMIT, poll_until},
};

const SERVER: &str = include_str!("aiosmtpd_server.py");

/// A mail server on aiosmtpd, that takes every message, and misbehaves when told to.
///
/// One port speaks plain text, with `STARTTLS` if there is a certificate; another one speaks TLS from the first byte.
/// It does not queue, and it does not check senders and recipients.
#[derive(Debug)]
pub struct Aiosmtpd {
    process: Child,
    addr: SocketAddr,
    tls_addr: SocketAddr,
    login: Login,
    /// How often [`Aiosmtpd::connections`] was asked.
    counted: AtomicUsize,
    folder: TempDir,
}

/// How to start an [`Aiosmtpd`].
#[derive(Debug, Default)]
pub struct AiosmtpdBuilder {
    certificate: Option<Issued>,
    login: bool,
    without: Vec<String>,
    size: u64,
}

/// What [`Aiosmtpd`] does wrong, from the next connection on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SmtpFault {
    /// Answers a command, such as `RCPT`, with these lines instead of doing it. `GREETING` is the first line of all,
    /// `END` the answer to the final dot. Lines are separated by CR LF.
    Reply(&'static str, String),
    /// Sends these lines together with its answer to `STARTTLS`, in the clear.
    Inject(String),
    /// Sends this again and again instead of a greeting, without an end.
    Endless(String),
    /// Closes the connection where it should answer. At `END` it has taken the message by then.
    Close(&'static str),
    /// Answers never. At `END` it has taken the message by then.
    Silent(&'static str),
}

/// A message as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mail {
    /// The sender in the envelope.
    pub from: String,
    /// The recipients in the envelope.
    pub to: Vec<String>,
    /// The message, without what the transport added.
    pub bytes: Vec<u8>,
    /// Whether it came over TLS.
    pub tls: bool,
}

/// A command as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SmtpCommand {
    /// The verb, in upper case.
    pub verb: String,
    /// What came after it; of `AUTH` only the mechanism.
    pub argument: String,
    /// Whether it came over TLS.
    pub tls: bool,
}

impl AiosmtpdBuilder {
    /// Speaks TLS with this certificate, and then insists on it.
    #[must_use]
    pub fn tls(mut self, certificate: &Issued) -> Self {
        self.certificate = Some(certificate.clone());
        self
    }

    /// Insists on a login.
    #[must_use]
    pub fn login(mut self) -> Self {
        self.login = true;
        self
    }

    /// Leaves out a mechanism: `PLAIN`, `LOGIN` or `XOAUTH2`.
    #[must_use]
    pub fn without(mut self, mechanism: &str) -> Self {
        self.without.push(mechanism.to_owned());
        self
    }

    /// Takes messages of at most this many bytes.
    #[must_use]
    pub fn size(mut self, bytes: u64) -> Self {
        self.size = bytes;
        self
    }

    /// Starts it.
    ///
    /// # Errors
    ///
    /// As [`locate`]; [`Error::Start`](crate::Error::Start) with its log when it does not come up.
    pub async fn start(self) -> Result<Aiosmtpd> {
        let python = locate("aiosmtpd").await?;
        let folder = temporary_folder("aiosmtpd")?;
        let (addr, tls_addr) = (ports::free_addr()?, ports::free_addr()?);
        let login = Login::random();
        let at = |name: &str| folder.path().join(name);
        if let Some(certificate) = &self.certificate {
            write(&at("server.pem"), certificate.full_chain())?;
            write(&at("server.key"), &certificate.key_pem)?;
        }
        let file = |name: &str| self.certificate.is_some().then(|| at(name));
        let settings = json!({
            "port": addr.port(),
            "tls_port": tls_addr.port(),
            "starttls": self.certificate.is_some(),
            "certificate": file("server.pem"),
            "key": file("server.key"),
            "login": self.login,
            "without": self.without,
            "size": if self.size == 0 { 32 * 1024 * 1024 } else { self.size },
            "user": login.user,
            "password": login.password.0,
            "token": login.token.0,
        });
        write(&at("settings.json"), settings.to_string())?;
        write(&at("server.py"), SERVER)?;
        let mut command = Command::new(python);
        command.arg(at("server.py")).arg(at("settings.json"));
        let process = Child::spawn("aiosmtpd", command, folder.path())?;
        let mut server = Aiosmtpd { process, addr, tls_addr, login, counted: AtomicUsize::new(0), folder };
        server.process.wait_for_port(addr).await?;
        if self.certificate.is_some() {
            server.process.wait_for_port(tls_addr).await?;
        }
        Ok(server)
    }
}

impl Aiosmtpd {
    /// Options, then [`AiosmtpdBuilder::start`].
    pub fn builder() -> AiosmtpdBuilder {
        AiosmtpdBuilder::default()
    }

    /// Where it speaks plain text and offers `STARTTLS`.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where it speaks TLS from the first byte.
    pub fn tls_addr(&self) -> SocketAddr {
        self.tls_addr
    }

    /// The login it takes.
    pub fn login(&self) -> &Login {
        &self.login
    }

    /// Does these things wrong from the next connection on, in place of what it did wrong before.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io) when they cannot be told to it.
    pub fn inject(&self, faults: &[SmtpFault]) -> Result<()> {
        let mut told = Map::new();
        let mut replies = Map::new();
        for fault in faults {
            match fault {
                SmtpFault::Reply(at, lines) => drop(replies.insert((*at).to_owned(), json!(lines))),
                SmtpFault::Inject(lines) => drop(told.insert("inject".to_owned(), json!(lines))),
                SmtpFault::Endless(text) => drop(told.insert("endless".to_owned(), json!(text))),
                SmtpFault::Close(at) => drop(told.insert("close".to_owned(), json!(at))),
                SmtpFault::Silent(at) => drop(told.insert("silent".to_owned(), json!(at))),
            }
        }
        told.insert("replies".to_owned(), Value::Object(replies));
        // In one step: a connection may begin at any time.
        let (path, fresh) = (self.folder.path().join("fault.json"), self.folder.path().join("fault.new"));
        write(&fresh, Value::Object(told).to_string())?;
        fs::rename(&fresh, &path).map_err(crate::Error::file("renaming", &fresh))
    }

    /// The messages it took, in order.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io) when they cannot be read.
    pub fn mails(&self) -> Result<Vec<Mail>> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut mails = Vec::new();
        for event in self.events()? {
            let Some(name) = event["message"].as_str() else { continue };
            let path = self.folder.path().join(name);
            mails.push(Mail {
                from: text(&event["mail_from"]),
                to: event["rcpt_tos"].as_array().into_iter().flatten().map(text).collect(),
                bytes: fs::read(&path).map_err(crate::Error::file("reading", &path))?,
                tls: event["tls"] == true,
            });
        }
        Ok(mails)
    }

    /// The commands it was given, in order.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io) when they cannot be read.
    pub fn commands(&self) -> Result<Vec<SmtpCommand>> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let commands = self.events()?.into_iter().filter(|event| event["command"].is_string());
        Ok(commands
            .map(|event| SmtpCommand {
                verb: text(&event["command"]),
                argument: text(&event["argument"]),
                tls: event["tls"] == true,
            })
            .collect())
    }

    /// How many connections to [`Aiosmtpd::addr`] were made so far, by others than itself. Connections are accepted in
    /// the order in which they were made, so it makes one of its own, and counts those before it.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io) when it is gone.
    pub async fn connections(&self) -> Result<usize> {
        let stream = TcpStream::connect(self.addr).await.map_err(crate::Error::io("connecting to aiosmtpd"))?;
        let port = stream.local_addr().map_err(crate::Error::io("connecting to aiosmtpd"))?.port();
        let ports = poll_until("a connection to be accepted", START_LIMIT, async || {
            let events = self.events().ok()?;
            let plain = events.iter().filter(|event| event["implicit"] == false);
            let ports: Vec<u64> = plain.filter_map(|event| event["peer"].as_u64()).collect();
            ports.contains(&u64::from(port)).then_some(ports)
        })
        .await?;
        // The first one of all waited for its start.
        Ok(ports.len() - 2 - self.counted.fetch_add(1, Ordering::SeqCst))
    }

    /// Waits until it has taken `count` messages, and gives them.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`](crate::Error::Timeout) when it has not within `limit`.
    pub async fn await_mails(&self, count: usize, limit: Duration) -> Result<Vec<Mail>> {
        poll_until(&format!("{count} messages"), limit, async || self.mails().ok().filter(|mails| mails.len() >= count))
            .await
    }

    /// The directory with its settings and record.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What it wrote.
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

    fn events(&self) -> Result<Vec<Value>> {
        let path = self.folder.path().join("events.jsonl");
        let text = if path.exists() { read(&path)? } else { String::new() };
        // A last line that is not complete yet will be next time.
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }
}
