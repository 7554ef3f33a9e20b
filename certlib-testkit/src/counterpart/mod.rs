//! Real programs, started on 127.0.0.1 for one test and gone with it.
//!
//! Every counterpart has the same shape: `start` (or `builder` where there are options) brings it up and returns when
//! it answers, accessors tell where it listens and keeps its files, `log` shows what it wrote, `stop` ends it. Dropping
//! one kills it.

mod acme2certifier;
mod aiosmtpd;
mod apache;
mod bind;
mod dovecot;
mod exim;
mod files;
mod haproxy;
mod kubernetes;
mod mariadb;
mod mongodb;
mod nginx;
mod op_msg;
mod openssl;
mod pebble;
mod postgres;
mod powerdns;
mod slapd;
mod softhsm;
mod sshd;
mod sudo;
mod web_server;

use std::{
    fmt, fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use tempfile::TempDir;

pub use self::{
    acme2certifier::{Acme2Certifier, Acme2CertifierBuilder, RenewalWindow},
    aiosmtpd::{Aiosmtpd, AiosmtpdBuilder, Mail, SmtpCommand, SmtpFault},
    apache::Apache,
    bind::Bind,
    dovecot::Dovecot,
    exim::{Exim, EximBuilder, Login},
    files::CertificateFiles,
    haproxy::Haproxy,
    kubernetes::{Account, Kubernetes},
    mariadb::{Mariadb, MariadbBuilder},
    mongodb::{MongoReplicaSet, Mongod, MongodBuilder},
    nginx::Nginx,
    openssl::s_client_fingerprint,
    pebble::{Pebble, PebbleBuilder, random_mac_key},
    postgres::{Postgres, PostgresBuilder},
    powerdns::PowerDns,
    slapd::Slapd,
    softhsm::SoftHsm,
    sshd::{KeyType, Sshd, SshdBuilder},
    sudo::SudoUser,
    web_server::WebServer,
};
use crate::{Error, Result};

/// A secret of a counterpart: it means nothing outside the test, but logs are no place for secrets of any kind.
#[derive(Clone)]
struct Hidden(String);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// A directory that a daemon which drops its privileges can still enter.
fn temporary_folder(name: &str) -> Result<TempDir> {
    let folder = tempfile::Builder::new()
        .prefix(&format!("certlib-{name}-"))
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir()
        .map_err(Error::io("creating a temporary directory"))?;
    Ok(folder)
}

fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    fs::write(path, content).map_err(Error::file("writing", path))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(Error::file("reading", path))
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}
