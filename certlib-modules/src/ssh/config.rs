//! The settings of an `ssh` target.

use std::time::Duration;

use certlib_core::secret::SecretString;
use certlib_core::{Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Value};

use super::hostkey::HostKey;
use crate::files::{Layout, Settings};
use crate::net::AddressPolicy;

/// The longest time-out that makes sense, in milliseconds.
const MAX_TIMEOUT_MS: u64 = 10 * 60 * 1000;

/// Where to deliver: `host`, `port` (22), and the fields of [`Layout`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SshLocation {
    /// A DNS name or IP address.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// Which files, and where.
    pub layout: Layout,
}

/// How to deliver: the fields below, and those of [`Settings`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SshConfig {
    /// How the host proves who it is. Required.
    pub host_key: HostKey,
    /// Which addresses the host may have (`addresses`); by default those of [`AddressPolicy::internal`].
    pub addresses: AddressPolicy,
    /// How long connecting may take, in milliseconds, for each address of the host (`dial_timeout_ms`, 10 s).
    pub dial_timeout: Duration,
    /// How long the SSH handshake and the login may take each (`handshake_timeout_ms`, 20 s).
    pub handshake_timeout: Duration,
    /// How long the answer to one SFTP request, or one operation by `sudo`, may take (`request_timeout_ms`,
    /// 30 s); that of a request is rounded up to seconds.
    pub request_timeout: Duration,
    /// How often a silent connection is asked for a sign of life (`keepalive_ms`, 15 s); lost after three without.
    pub keepalive: Duration,
    /// Whether files are read and written, and commands run, as root by way of `sudo -n` (`sudo`, false). What that asks of
    /// the host, its directories and the log of its `sudo` is [described with the module](super).
    pub sudo: bool,
    /// Commands, endpoints and formats.
    pub settings: Settings,
}

/// How to log in. Several ways may be given; they are tried in this order: certificate, private key, agent, password
/// (also as the answer to a keyboard-interactive prompt).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct SshCredentials {
    /// The user.
    pub user: String,
    /// A private key: Ed25519, ECDSA or RSA; in OpenSSH, PKCS#8, PKCS#1 or SEC1 format.
    #[serde(default)]
    pub private_key: Option<SecretString>,
    /// The passphrase of the private key.
    #[serde(default)]
    pub passphrase: Option<SecretString>,
    /// An OpenSSH certificate for the private key: the line of a `-cert.pub` file.
    #[serde(default)]
    pub certificate: Option<String>,
    /// Uses the agent that `SSH_AUTH_SOCK` of this process points to.
    #[serde(default)]
    pub agent: bool,
    /// A password.
    #[serde(default)]
    pub password: Option<SecretString>,
    /// The password of PKCS#12 files.
    #[serde(default)]
    pub pfx_password: Option<SecretString>,
}

impl SshLocation {
    pub(super) fn check(&self) -> Result<()> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
        if self.host.is_empty() || self.host.len() > 255 || !self.host.chars().all(plain) || self.port == 0 {
            return Err(Error::validation(
                "ssh.check",
                "host_invalid",
                "the host must be a DNS name or IP address, the port a number from 1 to 65535",
            )
            .with("host", self.host.escape_debug()));
        }
        Ok(())
    }
}

impl SshConfig {
    pub(super) fn check(&self) -> Result<()> {
        let limits = [
            ("dial_timeout_ms", self.dial_timeout),
            ("handshake_timeout_ms", self.handshake_timeout),
            ("request_timeout_ms", self.request_timeout),
            ("keepalive_ms", self.keepalive),
        ];
        for (field, limit) in limits {
            if limit.is_zero() || limit > Duration::from_millis(MAX_TIMEOUT_MS) {
                return Err(Error::validation(
                    "ssh.check",
                    "timeout_invalid",
                    "a time-out is between 1 ms and 10 minutes",
                )
                .with("field", field));
            }
        }
        self.host_key.check()
    }

    /// Fails for a host that is an address which the policy does not admit. Names are judged when they are dialled.
    pub(super) fn admits(&self, host: &str) -> Result<()> {
        match host.parse() {
            Ok(address) => self.addresses.check(host, address),
            Err(_) => Ok(()),
        }
    }
}

impl SshCredentials {
    pub(super) fn check(&self) -> Result<()> {
        let problem = if self.user.is_empty() || self.user.chars().any(char::is_control) {
            "the user is missing"
        } else if self.private_key.is_none() && self.password.is_none() && !self.agent {
            "none of private_key, password and agent is given"
        } else if self.certificate.is_some() && self.private_key.is_none() {
            "a certificate needs its private_key"
        } else {
            return Ok(());
        };
        Err(Error::validation("ssh.check", "credentials_incomplete", problem))
    }
}

impl<'de> Deserialize<'de> for SshLocation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Own {
            host: String,
            #[serde(default = "ssh")]
            port: u16,
        }
        fn ssh() -> u16 {
            22
        }
        let map = Map::<String, Value>::deserialize(deserializer)?;
        let (Own { host, port }, layout) = split(map, &["host", "port"]).map_err(de::Error::custom)?;
        Ok(Self { host, port, layout })
    }
}

impl<'de> Deserialize<'de> for SshConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Own {
            host_key: HostKey,
            #[serde(default = "AddressPolicy::internal")]
            addresses: AddressPolicy,
            dial_timeout_ms: Option<u64>,
            handshake_timeout_ms: Option<u64>,
            request_timeout_ms: Option<u64>,
            keepalive_ms: Option<u64>,
            #[serde(default)]
            sudo: bool,
        }
        const OWN: [&str; 7] = [
            "host_key",
            "addresses",
            "dial_timeout_ms",
            "handshake_timeout_ms",
            "request_timeout_ms",
            "keepalive_ms",
            "sudo",
        ];
        let map = Map::<String, Value>::deserialize(deserializer)?;
        let (own, settings): (Own, Settings) = split(map, &OWN).map_err(de::Error::custom)?;
        let duration = |given: Option<u64>, default| Duration::from_millis(given.unwrap_or(default));
        Ok(Self {
            host_key: own.host_key,
            addresses: own.addresses,
            dial_timeout: duration(own.dial_timeout_ms, 10_000),
            handshake_timeout: duration(own.handshake_timeout_ms, 20_000),
            request_timeout: duration(own.request_timeout_ms, 30_000),
            keepalive: duration(own.keepalive_ms, 15_000),
            sudo: own.sudo,
            settings,
        })
    }
}

/// Decodes one flat object as two: the fields named in `own` into `A`, all others into `B`.
///
/// This is `flatten` that still refuses unknown fields.
fn split<A: DeserializeOwned, B: DeserializeOwned>(
    map: Map<String, Value>,
    own: &[&str],
) -> Result<(A, B), serde_json::Error> {
    let (own, shared): (Map<_, _>, Map<_, _>) = map.into_iter().partition(|(name, _)| own.contains(&name.as_str()));
    Ok((serde_json::from_value(Value::Object(own))?, serde_json::from_value(Value::Object(shared))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flat_settings_are_taken_apart() {
        let location: SshLocation =
            serde_json::from_str(r#"{"host": "web-01", "root": "/etc", "paths": {"key": "/etc/k"}}"#).unwrap();
        assert_eq!((location.port, location.layout.root.as_deref()), (22, Some("/etc")));
        location.check().unwrap();
        let config: SshConfig = serde_json::from_str(
            r#"{"host_key": {"fingerprint": "SHA256:x"}, "reload_command": "true", "dial_timeout_ms": 7}"#,
        )
        .unwrap();
        assert_eq!(config.dial_timeout, Duration::from_millis(7));
        assert_eq!(config.settings.reload_command.as_deref(), Some("true"));
    }

    #[test]
    fn unknown_and_missing_fields_are_refused() {
        for json in [
            r#"{"host": "h", "paths": {}, "user": "root"}"#,
            r#"{"paths": {}}"#,
            r#"{"host": "h", "port": 70000, "paths": {}}"#,
        ] {
            assert!(serde_json::from_str::<SshLocation>(json).is_err(), "{json}");
        }
        for json in [
            r#"{}"#,
            r#"{"host_key": {"fingerprint": "f"}, "reload": "x"}"#,
            r#"{"host_key": {"accept": true}}"#,
            r#"{"host_key": "any"}"#,
        ] {
            assert!(serde_json::from_str::<SshConfig>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn odd_hosts_and_incomplete_logins_are_refused() {
        for host in ["", "a b", "a,b", "root@a", "[::1]", "a\n", "*"] {
            let location = SshLocation { host: host.into(), port: 22, layout: Layout::default() };
            assert_eq!(location.check().unwrap_err().code(), "host_invalid", "{host:?}");
        }
        for json in [r#"{"user": ""}"#, r#"{"user": "u"}"#, r#"{"user": "u", "agent": true, "certificate": "c"}"#] {
            let credentials: SshCredentials = serde_json::from_str(json).unwrap();
            assert_eq!(credentials.check().unwrap_err().code(), "credentials_incomplete");
        }
    }
}
