//! Logging in (RFC 4954): PLAIN (RFC 4616), LOGIN and XOAUTH2, over encrypted connections only.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certlib_core::error::{Error, Result};
use certlib_core::secret::SecretString;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::OPERATION;
use super::config::SmtpCredentials;

/// The longest name, password or token, in bytes: its command stays within the 12,288 bytes of RFC 4954.
const LONGEST: usize = 4 * 1024;

/// How to log in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AuthMethod {
    /// As the credential and the relay suggest: XOAUTH2 with a token; PLAIN, or else LOGIN, with a password.
    #[default]
    Auto,
    /// PLAIN.
    Plain,
    /// LOGIN.
    Login,
    /// XOAUTH2.
    Xoauth2,
}

/// A mechanism of the dialogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mechanism {
    Plain,
    Login,
    Xoauth2,
}

/// A name with what proves it.
#[derive(Debug)]
pub(super) struct Login<'a> {
    username: &'a str,
    secret: &'a SecretString,
    /// Those that may be used, most wanted first.
    mechanisms: &'static [Mechanism],
}

/// The login of `credentials`, if there is one.
///
/// # Errors
/// `Validation` `credentials_invalid`; nothing is quoted.
pub(super) fn login(method: AuthMethod, credentials: Option<&SmtpCredentials>) -> Result<Option<Login<'_>>> {
    let invalid = |why| Err(Error::validation(OPERATION, "credentials_invalid", why));
    let Some(SmtpCredentials { username, password, access_token, .. }) = credentials else {
        return if method == AuthMethod::Auto { Ok(None) } else { invalid("`auth` needs a credential") };
    };
    let (secret, mechanisms): (_, &'static [Mechanism]) = match (password, access_token, method) {
        (None, None, AuthMethod::Auto) if username.is_none() => return Ok(None),
        (None, None, _) => return invalid("a login needs a `password` or an `access_token`"),
        (Some(_), Some(_), _) => return invalid("give either `password` or `access_token`"),
        (Some(password), None, AuthMethod::Auto) => (password, &[Mechanism::Plain, Mechanism::Login]),
        (Some(password), None, AuthMethod::Plain) => (password, &[Mechanism::Plain]),
        (Some(password), None, AuthMethod::Login) => (password, &[Mechanism::Login]),
        (None, Some(token), AuthMethod::Auto | AuthMethod::Xoauth2) => (token, &[Mechanism::Xoauth2]),
        (Some(_), None, AuthMethod::Xoauth2) => return invalid("`xoauth2` needs an `access_token`"),
        (None, Some(_), _) => return invalid("an `access_token` is for `xoauth2`"),
    };
    let Some(username) = username.as_deref() else { return invalid("a login needs a `username`") };
    for text in [username, secret.expose()] {
        if text.is_empty() || text.len() > LONGEST || text.chars().any(char::is_control) {
            return invalid("a name, a password or a token has from 1 to 4096 bytes, and no control characters");
        }
    }
    Ok(Some(Login { username, secret, mechanisms }))
}

impl Login<'_> {
    /// The best mechanism that a relay with these `offered` ones knows.
    pub(super) fn choose(&self, offered: &[String]) -> Option<Mechanism> {
        let known = |mechanism: &&Mechanism| offered.iter().any(|name| name.eq_ignore_ascii_case(mechanism.name()));
        self.mechanisms.iter().find(known).copied()
    }

    /// The first line that is sent.
    pub(super) fn command(&self, mechanism: Mechanism) -> Zeroizing<String> {
        let name = mechanism.name();
        match mechanism {
            Mechanism::Plain => {
                let proof = Zeroizing::new(format!("\0{}\0{}", self.username, self.secret.expose()));
                Zeroizing::new(format!("AUTH {name} {}", *encode(&proof)))
            }
            Mechanism::Xoauth2 => {
                let (user, token) = (self.username, self.secret.expose());
                let proof = Zeroizing::new(format!("user={user}\x01auth=Bearer {token}\x01\x01"));
                Zeroizing::new(format!("AUTH {name} {}", *encode(&proof)))
            }
            Mechanism::Login => Zeroizing::new(format!("AUTH {name}")),
        }
    }

    /// The answer to the challenge of this number, from 0.
    pub(super) fn answer(&self, mechanism: Mechanism, challenge: usize) -> Option<Zeroizing<String>> {
        match (mechanism, challenge) {
            (Mechanism::Login, 0) => Some(encode(self.username)),
            (Mechanism::Login, 1) => Some(encode(self.secret.expose())),
            // The challenge says why it was refused; the relay waits for an empty line before it says so properly.
            (Mechanism::Xoauth2, 0) => Some(Zeroizing::new(String::new())),
            _ => None,
        }
    }
}

impl Mechanism {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
            Self::Xoauth2 => "XOAUTH2",
        }
    }
}

fn encode(text: &str) -> Zeroizing<String> {
    Zeroizing::new(STANDARD.encode(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(text: &str) -> SmtpCredentials {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn lines_are_as_the_standards_have_them() {
        let password = credentials(r#"{"username": "tim", "password": "tanstaaftanstaaf"}"#);
        let login = login(AuthMethod::Auto, Some(&password)).unwrap().unwrap();
        // RFC 4616 section 4, without the authorization identity.
        assert_eq!(*login.command(Mechanism::Plain), "AUTH PLAIN AHRpbQB0YW5zdGFhZnRhbnN0YWFm");
        assert_eq!(*login.command(Mechanism::Login), "AUTH LOGIN");
        assert_eq!(*login.answer(Mechanism::Login, 0).unwrap(), "dGlt");
        assert_eq!(*login.answer(Mechanism::Login, 1).unwrap(), "dGFuc3RhYWZ0YW5zdGFhZg==");
        assert!(login.answer(Mechanism::Login, 2).is_none() && login.answer(Mechanism::Plain, 0).is_none());
    }

    #[test]
    fn xoauth2_is_as_google_has_it() {
        let token = credentials(
            r#"{"username": "someuser@example.com", "access_token": "ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg"}"#,
        );
        let login = login(AuthMethod::Auto, Some(&token)).unwrap().unwrap();
        let expected = "AUTH XOAUTH2 dXNlcj1zb21ldXNlckBleGFtcGxlLmNvbQFhdXRoPUJlYXJlciB5YTI5LnZGOWRmdDRxbVRjMk52YjNSbGNrQmhkSFJoZG1semRHRXVZMjl0Q2cBAQ==";
        assert_eq!(*login.command(Mechanism::Xoauth2), expected);
        assert!(login.answer(Mechanism::Xoauth2, 0).unwrap().is_empty());
    }

    #[test]
    fn the_best_common_mechanism_is_chosen() {
        let offered = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let password = credentials(r#"{"username": "u", "password": "p"}"#);
        let choose = |method, list: &str| login(method, Some(&password)).unwrap().unwrap().choose(&offered(list));
        assert_eq!(choose(AuthMethod::Auto, "CRAM-MD5 LOGIN plain"), Some(Mechanism::Plain));
        assert_eq!(choose(AuthMethod::Auto, "LOGIN XOAUTH2"), Some(Mechanism::Login));
        assert_eq!(choose(AuthMethod::Login, "PLAIN LOGIN"), Some(Mechanism::Login));
        assert_eq!(choose(AuthMethod::Plain, "LOGIN"), None);
        assert_eq!(choose(AuthMethod::Auto, "XOAUTH2"), None);
    }

    #[test]
    fn logins_that_make_no_sense_are_refused_without_being_quoted() {
        for (method, text) in [
            (AuthMethod::Auto, r#"{"username": "u"}"#),
            (AuthMethod::Auto, r#"{"password": "canary"}"#),
            (AuthMethod::Auto, r#"{"username": "", "password": "canary"}"#),
            (AuthMethod::Auto, r#"{"username": "u", "password": ""}"#),
            (AuthMethod::Auto, r#"{"username": "u\u0000", "password": "canary"}"#),
            (AuthMethod::Auto, r#"{"username": "u", "password": "canary\r\nRSET"}"#),
            (AuthMethod::Auto, r#"{"username": "u\u0001", "access_token": "canary"}"#),
            (AuthMethod::Auto, r#"{"username": "u", "password": "canary", "access_token": "canary"}"#),
            (AuthMethod::Plain, r#"{"username": "u", "access_token": "canary"}"#),
            (AuthMethod::Xoauth2, r#"{"username": "u", "password": "canary"}"#),
            (AuthMethod::Login, "{}"),
        ] {
            let credentials = credentials(text);
            let error = login(method, Some(&credentials)).unwrap_err();
            assert_eq!(error.code(), "credentials_invalid", "{text}");
            assert!(!format!("{error:?}").contains("canary"));
        }
        assert!(login(AuthMethod::Auto, None).unwrap().is_none());
        assert!(login(AuthMethod::Auto, Some(&credentials(r#"{"pkcs12_password": "x"}"#))).unwrap().is_none());
        assert!(login(AuthMethod::Plain, None).is_err());
    }
}
