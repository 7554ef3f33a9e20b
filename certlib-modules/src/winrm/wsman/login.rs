//! Ways to log in.

use certlib_core::secret::SecretString;
use certlib_core::{Error, Result};
use serde::Deserialize;

use crate::net::{ClientIdentity, HttpUrl};

/// How to log in. Users are `DOMAIN\name`, `name@realm`, or `name` for an account of the machine.
#[derive(Debug, Deserialize)]
#[serde(tag = "method", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Login {
    /// NTLM: for domain accounts and for accounts of the machine. Messages are encrypted when there is no TLS, and
    /// bound to the TLS connection when there is.
    Ntlm {
        /// The user.
        user: String,
        /// Its password.
        password: SecretString,
    },
    /// The same inside SPNEGO, for machines that insist on it.
    Negotiate {
        /// The user.
        user: String,
        /// Its password.
        password: SecretString,
    },
    /// Kerberos, asking a key distribution centre for the ticket. The URL must then name the machine, not its address.
    Kerberos {
        /// The user: `name@REALM`.
        user: String,
        /// Its password.
        password: SecretString,
        /// The key distribution centre: `host` or `host:port`, reached by TCP; the port is 88 by default.
        kdc: String,
        /// The service's name, by default `HTTP/` and the host of the URL.
        #[serde(default)]
        service: Option<String>,
    },
    /// User and password as they are; only over TLS, and only for accounts of the machine.
    Basic {
        /// The user.
        user: String,
        /// Its password.
        password: SecretString,
    },
    /// A TLS client certificate that the machine maps to an account.
    Certificate {
        /// Certificate and key.
        identity: ClientIdentity,
    },
}

impl Login {
    /// The name of the method.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Ntlm { .. } => "ntlm",
            Self::Negotiate { .. } => "negotiate",
            Self::Kerberos { .. } => "kerberos",
            Self::Basic { .. } => "basic",
            Self::Certificate { .. } => "certificate",
        }
    }

    /// Checks what can be checked without the machine.
    ///
    /// # Errors
    /// `Validation`: `user_invalid`, `password_missing`, `kdc_invalid`, `tls_required`, `identity_invalid`.
    pub(crate) fn check(&self, url: &HttpUrl) -> Result<()> {
        let invalid = |code: &'static str, why: &str| Err(Error::validation("winrm.check", code, why));
        if let Self::Ntlm { user, password }
        | Self::Negotiate { user, password }
        | Self::Basic { user, password }
        | Self::Kerberos { user, password, .. } = self
        {
            let breaks = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
            if user.is_empty() || user.len() > 256 || user.chars().any(breaks) {
                return invalid("user_invalid", "the user is `DOMAIN\\name`, `name@realm` or `name`");
            }
            if sspi::Username::parse(user).is_err() {
                return invalid("user_invalid", "the user has both a backslash and an at sign");
            }
            if password.expose().is_empty() {
                return invalid("password_missing", "the password is empty");
            }
        }
        match self {
            Self::Basic { user, .. } if user.contains(':') => {
                invalid("user_invalid", "a user for `basic` has no colon")
            }
            Self::Basic { .. } | Self::Certificate { .. } if !url.is_https() => {
                invalid("tls_required", "this way to log in does not encrypt messages, so it needs https")
            }
            Self::Certificate { identity } => identity.check(),
            Self::Kerberos { user, .. } if !user.contains('@') => {
                invalid("user_invalid", "the user for `kerberos` is `name@REALM`")
            }
            Self::Kerberos { kdc, service, .. } => {
                kdc_parts(kdc)?;
                if service.as_ref().is_some_and(|name| !name.contains('/') || name.chars().any(char::is_control)) {
                    return invalid("kdc_invalid", "a service is named like `HTTP/host`");
                }
                if service.is_none() && url.address().is_some() {
                    return invalid("kdc_invalid", "Kerberos needs the machine's name in the URL, or `service`");
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Host and port of a key distribution centre.
pub(super) fn kdc_parts(kdc: &str) -> Result<(&str, u16)> {
    let (host, port) = match kdc.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') => (host, port.parse().unwrap_or(0)),
        _ => (kdc, 88),
    };
    let plain = host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
    if host.is_empty() || host.len() > 253 || !plain || port == 0 {
        let why = "the key distribution centre is `host` or `host:port`";
        return Err(Error::validation("winrm.check", "kdc_invalid", why));
    }
    Ok((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, json: &str) -> Result<()> {
        let login: Login = serde_json::from_str(json).unwrap();
        login.check(&HttpUrl::parse(url, true).unwrap())
    }

    #[test]
    fn each_way_has_its_conditions() {
        let (tls, clear) = ("https://h.example:5986/wsman", "http://h.example:5985/wsman");
        let login =
            |method: &str, rest: &str| format!(r#"{{"method": "{method}", "user": "u", "password": "p"{rest}}}"#);
        for method in ["ntlm", "negotiate"] {
            check(tls, &login(method, "")).unwrap();
            check(clear, &login(method, "")).unwrap();
        }
        check(tls, &login("basic", "")).unwrap();
        let kerberos = r#"{"method": "kerberos", "user": "u@R", "password": "p", "kdc": "dc1.example"}"#;
        check(clear, kerberos).unwrap();
        let code = |url, json: &str| check(url, json).unwrap_err().code().to_owned();
        assert_eq!(code(clear, &login("basic", "")), "tls_required");
        assert_eq!(code(tls, &login("kerberos", r#", "kdc": "dc1""#)), "user_invalid");
        assert_eq!(code("https://10.0.0.1/", kerberos), "kdc_invalid");
        assert_eq!(code(clear, &kerberos.replace("dc1.example", "dc1:0")), "kdc_invalid");
        assert_eq!(code(clear, &kerberos.replace("dc1.example", "tcp://dc1")), "kdc_invalid");
        assert_eq!(code(tls, r#"{"method": "ntlm", "user": "", "password": "p"}"#), "user_invalid");
        assert_eq!(code(tls, r#"{"method": "ntlm", "user": "u", "password": ""}"#), "password_missing");
        assert_eq!(code(tls, r#"{"method": "basic", "user": "a:b", "password": "p"}"#), "user_invalid");
    }

    #[test]
    fn unknown_ways_and_fields_are_refused() {
        for json in [
            r#"{"method": "credssp", "user": "u", "password": "p"}"#,
            r#"{"method": "ntlm", "user": "u", "password": "p", "domain": "d"}"#,
            r#"{"user": "u", "password": "p"}"#,
        ] {
            assert!(serde_json::from_str::<Login>(json).is_err(), "{json}");
        }
    }
}
