//! What a NetScaler target is told: where, how, and with which login.

use certlib_core::error::{Error, Result};
use certlib_core::secret::SecretString;
use serde::{Deserialize, Serialize};

use super::OPERATION;
use super::names::Folder;
use crate::net::{Connection, HttpUrl};
use crate::probe::Endpoint;

/// Where the certificates of the default partition lie.
const FOLDER: &str = "/nsconfig/ssl";

/// Where to deliver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct NetScalerLocation {
    /// The management address, such as `https://ns1.example.com`.
    pub url: String,
    /// The management address of the other node of a high-availability pair. When the first node is secondary or
    /// cannot be reached, the delivery goes there. Without it, a secondary node is refused.
    #[serde(default)]
    pub peer_url: Option<String>,
    /// The certificate-key pair that is to hold the certificate. It is added when it does not exist.
    pub certkey: String,
    /// The admin partition; the default one if not given.
    #[serde(default)]
    pub partition: Option<String>,
}

/// How to deliver. Everything has a default.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct NetScalerConfig {
    /// How to reach the API.
    pub connection: Connection,
    /// How the new certificate takes the place of the former one.
    pub switch: Switch,
    /// What to do about the issuers' certificates.
    pub chain: Chain,
    /// What else the pair has to be bound to. A binding that is missing is made, and the server certificate that it
    /// displaces is bound again by rollback.
    pub bind: Vec<Bind>,
    /// Lets the appliance refuse a certificate for another domain than the former one. Off by default: which names a
    /// certificate has is the project's to decide.
    pub domain_check: bool,
    /// Saves the configuration afterwards; with it, whatever others left unsaved. On by default: otherwise a restart
    /// brings the former certificate back.
    pub save: bool,
    /// Where files go: absolute. By default `/nsconfig/ssl`, or `/nsconfig/partitions/NAME/ssl` in a partition.
    pub folder: Option<String>,
    /// Where the certificate must be served afterwards. Without any, validation reads the pair back.
    pub endpoints: Vec<Endpoint>,
}

impl Default for NetScalerConfig {
    fn default() -> Self {
        Self {
            connection: Connection::default(),
            switch: Switch::default(),
            chain: Chain::default(),
            bind: Vec::new(),
            domain_check: false,
            save: true,
            folder: None,
            endpoints: Vec::new(),
        }
    }
}

/// How the new certificate takes the place of the former one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Switch {
    /// Updates the pair: one step for all that it is bound to. When the issuer changes as well, the pair is without a
    /// chain for two requests.
    #[default]
    Update,
    /// Adds a new pair with its whole chain, and binds it in place of the former one, one virtual server, service or
    /// service group after the other. Never without a chain.
    Rebind,
}

/// What to do about the issuers' certificates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Chain {
    /// Links the whole chain of the bundle; refuses (`chain_conflict`) when an issuer's certificate is there already
    /// and linked to another one, because that link is shared with others.
    #[default]
    Strict,
    /// Links as far as it can without touching a link that is there.
    Lenient,
    /// Leaves links as they are.
    Keep,
}

/// Something that the pair has to be bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Bind {
    /// What it is.
    #[serde(default)]
    pub kind: HolderKind,
    /// Its name.
    pub name: String,
    /// For the clients that ask for its name only (SNI).
    #[serde(default)]
    pub sni: bool,
}

/// What a pair can be bound to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HolderKind {
    /// An SSL virtual server: load balancing, content switching, VPN.
    #[default]
    Vserver,
    /// An SSL service.
    Service,
    /// An SSL service group.
    ServiceGroup,
}

/// How to log in.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct NetScalerCredentials {
    /// The user.
    pub username: String,
    /// The password.
    pub password: SecretString,
    /// The pass phrase of the private key that the pair had before the first delivery, if that is encrypted: rollback
    /// needs it.
    #[serde(default)]
    pub former_passphrase: Option<SecretString>,
}

impl NetScalerLocation {
    /// Which configuration is meant: what the journal recorded for one must not be undone in another.
    pub(super) fn appliance(&self) -> String {
        match &self.partition {
            None => format!("{} {}", self.url, self.certkey),
            Some(partition) => format!("{} {partition} {}", self.url, self.certkey),
        }
    }
}

impl NetScalerConfig {
    /// Where files go.
    pub(super) fn folder(&self, location: &NetScalerLocation) -> Folder {
        let default = match &location.partition {
            Some(partition) => format!("/nsconfig/partitions/{partition}/ssl"),
            None => FOLDER.to_owned(),
        };
        let path = self.folder.as_ref().map_or_else(|| default.clone(), |path| path.trim_end_matches('/').to_owned());
        Folder { path, default }
    }
}

/// Checks everything that can be checked without the appliance.
///
/// # Errors
/// `Validation`: `certkey_invalid`, `partition_invalid`, `folder_invalid`, `bind_invalid`, `endpoint_invalid`,
/// `credentials_invalid`, and as [`Connection::check`].
pub(super) fn check(
    location: &NetScalerLocation,
    config: &NetScalerConfig,
    credentials: &NetScalerCredentials,
) -> Result<HttpUrl> {
    let url = config.connection.check(&location.url)?;
    if let Some(peer) = &location.peer_url {
        config.connection.check(peer).map_err(|error| error.with("field", "peer_url"))?;
    }
    let invalid = |code: &'static str, why: &str| Error::validation(OPERATION, code, why);
    if !is_name(&location.certkey) || location.certkey.len() > 63 {
        return Err(invalid(
            "certkey_invalid",
            "the name of a pair begins with a letter, a digit or `_`, and has letters, digits and `_#. :@=-`; at most 63",
        ));
    }
    let partition = location.partition.as_deref();
    if partition.is_some_and(|name| name.is_empty() || name.len() > 63 || !name.bytes().all(is_plain)) {
        return Err(invalid(
            "partition_invalid",
            "a partition's name has letters, digits, `_`, `-` and `.`; at most 63",
        ));
    }
    let folder = config.folder(location).path;
    let parts = || folder.split('/').skip(1);
    let good = parts().all(|part| !part.is_empty() && part != "." && part != ".." && part.bytes().all(is_plain));
    if !folder.starts_with('/') || !good || folder.len() > 127 {
        return Err(invalid("folder_invalid", "a folder is absolute, plain, and has at most 127 characters"));
    }
    for (index, bind) in config.bind.iter().enumerate() {
        let twice = config.bind[..index].iter().any(|other| (other.kind, &other.name) == (bind.kind, &bind.name));
        if !is_name(&bind.name) || bind.name.len() > 127 || twice {
            return Err(invalid("bind_invalid", "what to bind to needs a name, and is named once").with("index", index));
        }
    }
    let printable = |text: &str| !text.is_empty() && text.len() <= 256 && !text.chars().any(char::is_control);
    if !printable(&credentials.username) || !printable(credentials.password.expose()) {
        return Err(invalid(
            "credentials_invalid",
            "a login has a user name and a password, without control characters",
        ));
    }
    config.endpoints.iter().try_for_each(Endpoint::check)?;
    Ok(url)
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-.".contains(&byte)
}

/// Whether NITRO takes it as the name of an object.
fn is_name(name: &str) -> bool {
    let begins = name.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '_');
    begins && name.chars().all(|one| one.is_ascii_alphanumeric() || "_#. :@=-".contains(one))
}
