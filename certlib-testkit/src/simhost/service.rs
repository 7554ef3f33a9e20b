//! The TLS service of a simulated host: it serves what was delivered, once told to reload.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use super::{
    TestCertificate,
    certificate::Served,
    filesystem::{Content, Filesystem, FsError},
    lock,
};

/// How long a TLS client may dally before its connection is closed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which files the TLS service of a host reads at start and at every reload.
#[derive(Clone, Debug)]
pub struct Service {
    certificates: Vec<String>,
    key: String,
    initial: Initial,
}

#[derive(Clone, Debug)]
enum Initial {
    Shared,
    Given(TestCertificate),
    Absent,
}

impl Service {
    /// A service that reads the certificate (leaf, optionally followed by its chain) and the private key from two
    /// files. Both paths are absolute.
    #[must_use]
    pub fn new(certificate: impl Into<String>, key: impl Into<String>) -> Self {
        Self { certificates: vec![certificate.into()], key: key.into(), initial: Initial::Shared }
    }

    /// A service that reads everything from one file, as HAProxy does.
    #[must_use]
    pub fn combined(path: impl Into<String>) -> Self {
        let path = path.into();
        Self::new(path.clone(), path)
    }

    /// Also reads the chain, from a file of its own.
    #[must_use]
    pub fn chain(mut self, path: impl Into<String>) -> Self {
        self.certificates.push(path.into());
        self
    }

    /// Starts with this certificate instead of [`TestCertificate::shared`].
    #[must_use]
    pub fn initial_certificate(mut self, certificate: TestCertificate) -> Self {
        self.initial = Initial::Given(certificate);
        self
    }

    /// Starts without any files: until the first successful reload, TLS handshakes fail.
    #[must_use]
    pub fn without_initial_certificate(mut self) -> Self {
        self.initial = Initial::Absent;
        self
    }
}

/// A running service.
pub(super) struct LiveService {
    service: Option<Service>,
    current: Mutex<Option<Served>>,
}

impl LiveService {
    /// Writes the initial certificate where the service expects it, without touching files that are there already,
    /// and serves what it then finds.
    pub(super) fn start(service: Option<Service>, files: &mut Filesystem) -> Result<Self, String> {
        let live = Self { service, current: Mutex::new(None) };
        let initial = match live.service.as_ref().map(|service| &service.initial) {
            Some(Initial::Absent) => return Ok(live),
            Some(Initial::Given(given)) => given.clone(),
            Some(Initial::Shared) | None => TestCertificate::shared().map_err(|error| error.to_string())?,
        };
        let untouched = match &live.service {
            Some(service) => service.write(&initial, files)?,
            None => true,
        };
        if untouched {
            *lock(&live.current) = Some(initial.served());
        } else {
            live.reload(files)?;
        }
        Ok(live)
    }

    /// Whether the files would be accepted; the error is what the service prints.
    pub(super) fn test(&self, files: &Filesystem) -> Result<(), String> {
        self.load(files).map(drop)
    }

    /// Serves the files from now on; on error, whatever was served before still is.
    pub(super) fn reload(&self, files: &Filesystem) -> Result<(), String> {
        let loaded = self.load(files)?;
        *lock(&self.current) = Some(loaded);
        Ok(())
    }

    /// SHA-256 of the leaf served now, in lower-case hexadecimal.
    pub(super) fn fingerprint(&self) -> Option<String> {
        lock(&self.current).as_ref().map(|served| served.fingerprint.to_string())
    }

    /// Answers one TLS client. Without a certificate the connection is closed at once.
    pub(super) async fn answer(&self, stream: TcpStream, name: &str) {
        let config = lock(&self.current).as_ref().map(|served| Arc::clone(&served.config));
        if let Some(config) = config {
            // A client that only looks at the certificate goes away here; that is its right.
            let _ = timeout(PATIENCE, converse(config, stream, name)).await;
        }
    }

    fn load(&self, files: &Filesystem) -> Result<Served, String> {
        let service = self.service.as_ref().ok_or("no service on this host")?;
        let read = |path: &String| {
            let refused = |error: FsError| format!("cannot open {path}: {error}");
            files.read(path).map_err(refused)
        };
        let mut certificates = Vec::new();
        for path in &service.certificates {
            certificates.extend_from_slice(&read(path)?);
            certificates.push(b'\n');
        }
        Served::load(&certificates, &read(&service.key)?)
    }
}

impl Service {
    /// Puts the initial files where nothing is yet; true when every file is one put here.
    fn write(&self, initial: &TestCertificate, files: &mut Filesystem) -> Result<bool, String> {
        let mut untouched = true;
        for (index, path) in self.certificates.iter().enumerate() {
            let (pem, mode) = match index {
                0 if *path == self.key => (initial.combined_pem(), 0o600),
                0 => (initial.certificate_pem().to_owned(), 0o644),
                // A chain of its own starts empty: a self-signed certificate has none.
                _ => (String::new(), 0o644),
            };
            untouched &= put_if_absent(files, path, pem, mode)?;
        }
        if !self.certificates.contains(&self.key) {
            let pem = initial.key_pem().to_owned();
            untouched &= put_if_absent(files, &self.key, pem, 0o600)?;
        }
        Ok(untouched)
    }
}

fn put_if_absent(files: &mut Filesystem, path: &str, text: String, mode: u32) -> Result<bool, String> {
    if files.read(path).is_ok() {
        return Ok(false);
    }
    files
        .put(path, Content::File(Arc::new(text.into_bytes())), mode)
        .map_err(|error| format!("cannot create {path}: {error}"))?;
    Ok(true)
}

/// Handshake, then one small HTTP answer, so that any HTTPS client is content.
async fn converse(config: Arc<rustls::ServerConfig>, stream: TcpStream, name: &str) -> std::io::Result<()> {
    let mut tls = TlsAcceptor::from(config).accept(stream).await?;
    let mut request = [0; 1024];
    if tls.read(&mut request).await? > 0 {
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{name}\n",
            name.len() + 1
        );
        tls.write_all(answer.as_bytes()).await?;
    }
    tls.shutdown().await
}
