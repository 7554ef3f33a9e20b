//! What an `f5` target is told: where, how, and with which login.

use std::time::Duration;

use certlib_core::error::{Error, Result};
use certlib_core::secret::SecretString;
use serde::{Deserialize, Serialize};

use super::OPERATION;
use super::names;
use crate::net::Connection;
use crate::probe::Endpoint;

/// The most profiles that one target switches.
const MOST_PROFILES: usize = 100;
/// The longest wait that makes sense, in milliseconds.
const LONGEST_WAIT: u64 = 10 * 60 * 1000;
/// The longest life of a token, in seconds.
const LONGEST_TOKEN: u64 = 36_000;

/// Where to deliver.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct F5Location {
    /// The management address, such as `https://bigip.example.com`.
    pub url: String,
    /// The profiles that get the certificate, 1 to 100; all of them switch together.
    pub profiles: Vec<ProfileRef>,
    /// The partition, or the folder in one, that new objects are made in, such as `/Common` or `/Tenant/app`. By default
    /// that of the first profile. A profile can use what is in its own partition and in `/Common`.
    pub folder: Option<String>,
}

/// One profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ProfileRef {
    /// Its full path, such as `/Common/shop`.
    pub name: String,
    /// What it is for. Default `client-ssl`.
    #[serde(default)]
    pub kind: ProfileKind,
    /// Which entry of `certKeyChain` is replaced. By default the only one or, if there are several, the one whose
    /// certificate has the same kind of key (RSA or ECDSA) as the new one.
    #[serde(default)]
    pub entry: Option<String>,
}

/// Which side of a connection a profile is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ProfileKind {
    /// What clients see: `ltm profile client-ssl`.
    #[default]
    ClientSsl,
    /// What the servers behind see: `ltm profile server-ssl`.
    ServerSsl,
}

impl ProfileKind {
    /// As it stands in URLs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClientSsl => "client-ssl",
            Self::ServerSsl => "server-ssl",
        }
    }
}

/// How to deliver. Everything has a default.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct F5Config {
    /// How to reach the management address. Saving a large configuration can take longer than the 10 s that
    /// `timeouts.response_ms` is by default.
    pub connection: Connection,
    /// How to log in.
    pub auth: Auth,
    /// Where the certificate must be served afterwards: virtual servers. Without any, validation reads the profiles back.
    pub endpoints: Vec<Endpoint>,
    /// What the names of new objects begin with: letters, digits and `-`, at most 20. Default `certlib`.
    pub name_prefix: String,
    /// Delivers to the active unit only. Default true.
    pub require_active: bool,
    /// Looks up which virtual servers use the profiles, for the plan. Default true.
    pub list_virtual_servers: bool,
    /// Saves the running configuration afterwards; otherwise it is lost at the next reboot. Default true.
    pub save: bool,
    /// The device group to synchronize afterwards, if any.
    pub sync_group: Option<String>,
    /// How long to wait until the group is in sync, in milliseconds. Default 60 000.
    pub sync_wait_ms: u64,
    /// How often a request is sent when the unit is busy. From 1 to 20, default 4.
    pub tries: u32,
    /// The pause before the second try, in milliseconds; it doubles from one to the next. Also the pause between two
    /// looks at something that takes time. Default 500.
    pub delay_ms: u64,
}

impl Default for F5Config {
    fn default() -> Self {
        Self {
            connection: Connection::default(),
            auth: Auth::default(),
            endpoints: Vec::new(),
            name_prefix: "certlib".to_owned(),
            require_active: true,
            list_virtual_servers: true,
            save: true,
            sync_group: None,
            sync_wait_ms: 60_000,
            tries: 4,
            delay_ms: 500,
        }
    }
}

/// How to log in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Auth {
    /// With a token or with HTTP Basic. Default `token`.
    pub method: AuthMethod,
    /// Who checks the password: `tmos` (the default) for local users, else the name of the unit's remote provider.
    pub provider: String,
    /// How long the token is made to live, in seconds, from 1 to 36 000. By default as long as the unit gives, 20 minutes.
    pub token_lifetime_s: Option<u64>,
}

impl Default for Auth {
    fn default() -> Self {
        Self { method: AuthMethod::default(), provider: "tmos".to_owned(), token_lifetime_s: None }
    }
}

/// A way to log in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AuthMethod {
    /// A token, which is deleted at the end.
    #[default]
    Token,
    /// User name and password with each request. Works for local administrators.
    Basic,
}

/// With which login.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct F5Credentials {
    /// The user.
    pub username: String,
    /// The password.
    pub password: SecretString,
}

impl F5Location {
    /// The folder for new objects.
    pub(super) fn folder(&self) -> &str {
        let first = self.profiles.first().map_or("/Common", |profile| names::folder(&profile.name));
        self.folder.as_deref().unwrap_or(first)
    }

    pub(super) fn check(&self) -> Result<()> {
        let invalid = |code: &'static str, why: &str, what: &str| {
            Error::validation(OPERATION, code, why).with("name", what.escape_debug())
        };
        if !(1..=MOST_PROFILES).contains(&self.profiles.len()) {
            return Err(invalid("profiles_invalid", "a target has 1 to 100 profiles", "profiles"));
        }
        let folder = self.folder();
        if !names::is_path(folder, 1) {
            return Err(invalid("folder_invalid", "a folder is a full path such as /Common or /Tenant/app", folder));
        }
        for (at, profile) in self.profiles.iter().enumerate() {
            let ProfileRef { name, kind, entry } = profile;
            if !names::is_path(name, 2) {
                return Err(invalid("profile_invalid", "a profile is named by a full path such as /Common/shop", name));
            }
            if let Some(entry) = entry
                && (*kind == ProfileKind::ServerSsl || !names::is_word(entry))
            {
                return Err(invalid("entry_invalid", "only a client-ssl profile has entries, each with a name", entry));
            }
            if self.profiles[..at].iter().any(|other| other.name == *name && other.kind == *kind) {
                return Err(invalid("profile_duplicate", "the profile is there twice", name));
            }
            let reachable = [names::partition(name), "Common"].contains(&names::partition(folder));
            if !reachable {
                let why = "a profile can only use objects in its own partition and in /Common; set `folder`";
                return Err(invalid("folder_unreachable", why, name));
            }
        }
        Ok(())
    }
}

impl F5Config {
    pub(super) fn check(&self) -> Result<()> {
        let invalid = |code: &'static str, field: &'static str, why: &str| {
            Err(Error::validation(OPERATION, code, why).with("field", field))
        };
        let prefix = &self.name_prefix;
        let letters = prefix.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !(1..=20).contains(&prefix.len())
            || !letters
            || !prefix.starts_with(|first: char| first.is_ascii_alphabetic())
        {
            let why = "a prefix is 1 to 20 letters, digits and `-`, and begins with a letter";
            return invalid("prefix_invalid", "name_prefix", why);
        }
        if !names::is_word(&self.auth.provider) {
            return invalid("provider_invalid", "auth.provider", "a login provider has a name such as `tmos`");
        }
        if self.auth.token_lifetime_s.is_some_and(|seconds| !(1..=LONGEST_TOKEN).contains(&seconds)) {
            let why = "a token lives 1 to 36000 seconds";
            return invalid("token_lifetime_invalid", "auth.token_lifetime_s", why);
        }
        if self.sync_group.as_ref().is_some_and(|group| !names::is_word(group) && !names::is_path(group, 2)) {
            return invalid("sync_group_invalid", "sync_group", "a device group has a name such as `failover_group`");
        }
        if !(1..=20).contains(&self.tries) {
            return invalid("tries_invalid", "tries", "a request is tried 1 to 20 times");
        }
        for (field, value) in [("sync_wait_ms", self.sync_wait_ms), ("delay_ms", self.delay_ms)] {
            if value > LONGEST_WAIT {
                return invalid("timeout_invalid", field, "a wait is at most 600000 milliseconds");
            }
        }
        self.endpoints.iter().try_for_each(Endpoint::check)
    }

    /// The pause after try number `tried`, counted from 1.
    pub(super) fn pause(&self, tried: u32) -> Duration {
        let doubled = self.delay_ms.saturating_mul(1 << tried.saturating_sub(1).min(10));
        Duration::from_millis(doubled.min(LONGEST_WAIT))
    }
}

impl F5Credentials {
    pub(super) fn check(&self, method: AuthMethod) -> Result<()> {
        let invalid = |why| Err(Error::validation(OPERATION, "credentials_invalid", why));
        if self.username.is_empty() || self.password.expose().is_empty() {
            return invalid("the credential needs a user name and a password");
        }
        if method == AuthMethod::Basic && self.username.contains(':') {
            return invalid("a user name has no colon");
        }
        Ok(())
    }
}
