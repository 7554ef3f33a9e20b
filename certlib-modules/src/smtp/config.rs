//! What an e-mail target is told: where, to whom, what, and with which login.

use std::collections::BTreeMap;

use certlib_core::error::{Error, Result};
use certlib_core::secret::SecretString;
use serde::{Deserialize, Serialize};

use super::OPERATION;
use super::address::{self, Mailbox};
use super::auth::{AuthMethod, Login};
use super::contents::Attachment;
use super::letter;
use super::template;
use crate::net::{AddressPolicy, Timeouts, TlsSettings};

/// The most mailboxes that one message goes to.
const MOST_RECIPIENTS: usize = 100;
/// The largest message that can be configured, in bytes.
const LARGEST_MESSAGE: u64 = 50 * 1024 * 1024;

/// Where to deliver: the relay, and the mailboxes behind it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SmtpLocation {
    /// The relay: a DNS name or an IP address.
    pub host: String,
    /// Its port; by default 587, 465 or 25, as `security` asks for.
    pub port: Option<u16>,
    /// How the connection is protected.
    pub security: Security,
    /// The name in the relay's certificate, where it is not `host`.
    pub server_name: Option<String>,
    /// To whom: `ops@example.com` or `Operations <ops@example.com>`.
    pub to: Vec<String>,
    /// Who gets a copy.
    pub cc: Vec<String>,
    /// Who gets a copy that the others do not see.
    pub bcc: Vec<String>,
}

/// How a connection to a relay is protected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Security {
    /// TLS after `STARTTLS` (RFC 3207), on port 587. A relay that does not offer it is not used.
    #[default]
    Starttls,
    /// TLS from the first byte (RFC 8314), on port 465.
    Tls,
    /// None, on port 25: for a relay on this machine, with a loopback address. No login, no private keys.
    None,
}

impl Security {
    /// As settings and plans name it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Starttls => "starttls",
            Self::Tls => "tls",
            Self::None => "none",
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::Starttls => 587,
            Self::Tls => 465,
            Self::None => 25,
        }
    }
}

impl SmtpLocation {
    /// The port that is dialled.
    pub(super) fn port(&self) -> u16 {
        self.port.unwrap_or(self.security.port())
    }

    /// Host and port, as plans and errors show them.
    pub(super) fn label(&self) -> String {
        let (host, port) = (&self.host, self.port());
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

/// How to deliver. Only `from` has no default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SmtpConfig {
    /// The sender, also of the envelope: bounces go there.
    pub from: String,
    /// Where answers go, if not to the sender.
    pub reply_to: Option<String>,
    /// The subject, with [variables](crate::smtp#variables).
    pub subject: String,
    /// The text, with variables.
    pub body: String,
    /// What is attached. By default the certificate with its chain.
    pub attachments: Vec<Attachment>,
    /// Agrees to private keys in attachments. Needs an encrypted connection.
    pub include_private_key: bool,
    /// Agrees to private keys that are not encrypted themselves; needed, besides `include_private_key`, for PEM.
    pub allow_unencrypted_key: bool,
    /// Sends a message that names the delivery to disregard when a delivery is rolled back. Without it, rollback
    /// refuses: a message cannot be taken back.
    pub notify_rollback: bool,
    /// The subject of that message.
    pub rollback_subject: String,
    /// Its text.
    pub rollback_body: String,
    /// Delivers to those recipients that the relay accepts, if there is one, and names the others in the facts.
    /// Otherwise one refused recipient means that nobody gets the message.
    pub allow_partial_delivery: bool,
    /// More headers, such as a ticket system's queue. No secrets.
    pub headers: BTreeMap<String, String>,
    /// How this machine introduces itself; by default with its address on the connection, as `[192.0.2.1]`.
    pub helo: Option<String>,
    /// How to log in.
    pub auth: AuthMethod,
    /// The largest message that is sent, in bytes, attachments and their encoding included. Default 10 MiB.
    pub max_message_bytes: u64,
    /// Which addresses the relay may have, besides public ones.
    pub addresses: AddressPolicy,
    /// Whom to trust as the relay. Verification cannot be switched off: give a private CA as `ca_pem`, and another
    /// name as the location's `server_name`.
    pub tls: TlsSettings,
    /// How long to wait: `response_ms` for each answer but the last, which may take what is left of `total_ms`. In
    /// total 120 s by default; what a given `timeouts` leaves out is as in [`Timeouts`].
    pub timeouts: Timeouts,
}

impl Default for SmtpConfig {
    fn default() -> Self {
        Self {
            from: String::new(),
            reply_to: None,
            subject: "Certificate for {name}, valid until {not_after}".to_owned(),
            body: template::DELIVERY.to_owned(),
            attachments: vec![Attachment::default()],
            include_private_key: false,
            allow_unencrypted_key: false,
            notify_rollback: true,
            rollback_subject: "Disregard: certificate for {name}, serial {serial}".to_owned(),
            rollback_body: template::ROLLBACK.to_owned(),
            allow_partial_delivery: false,
            headers: BTreeMap::new(),
            helo: None,
            auth: AuthMethod::default(),
            max_message_bytes: 10 * 1024 * 1024,
            addresses: AddressPolicy::default(),
            tls: TlsSettings::default(),
            timeouts: Timeouts::within(120_000),
        }
    }
}

/// With which secrets to deliver.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SmtpCredentials {
    /// The login's name.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<SecretString>,
    /// An OAuth 2.0 access token instead of a password.
    pub access_token: Option<SecretString>,
    /// Protects PKCS#12 attachments; at least 12 characters. Tell it to the recipients by another way than mail.
    pub pkcs12_password: Option<SecretString>,
}

/// Settings that make sense, in the form in which they are used.
#[derive(Debug)]
pub(super) struct Checked<'a> {
    pub(super) from: Mailbox,
    pub(super) reply_to: Option<Mailbox>,
    pub(super) to: Vec<Mailbox>,
    pub(super) cc: Vec<Mailbox>,
    pub(super) bcc: Vec<Mailbox>,
    pub(super) login: Option<Login<'a>>,
}

impl Checked<'_> {
    /// Everybody who gets the message, once each, in order.
    pub(super) fn recipients(&self) -> Vec<String> {
        let mut seen = Vec::new();
        for mailbox in self.to.iter().chain(&self.cc).chain(&self.bcc) {
            let address = mailbox.address().to_owned();
            if !seen.contains(&address) {
                seen.push(address);
            }
        }
        seen
    }
}

/// Checks everything that can be checked without network and bundle.
///
/// # Errors
/// `Validation`, see [`Smtp`](super::Smtp).
pub(super) fn check<'a>(
    location: &SmtpLocation,
    config: &SmtpConfig,
    credentials: Option<&'a SmtpCredentials>,
) -> Result<Checked<'a>> {
    check_relay(location, config)?;
    let mailboxes = |field: &str, list: &[String]| -> Result<Vec<Mailbox>> {
        list.iter().enumerate().map(|(at, text)| Mailbox::parse(&format!("{field}[{at}]"), text)).collect()
    };
    let (to, cc, bcc) =
        (mailboxes("to", &location.to)?, mailboxes("cc", &location.cc)?, mailboxes("bcc", &location.bcc)?);
    if to.is_empty() {
        return Err(Error::validation(OPERATION, "recipients_missing", "`to` in the location has no address"));
    }
    if to.len() + cc.len() + bcc.len() > MOST_RECIPIENTS {
        return Err(Error::validation(OPERATION, "limit_exceeded", "too many recipients for one message")
            .with("limit", MOST_RECIPIENTS));
    }
    let from = Mailbox::parse("from", &config.from)?;
    let reply_to = config.reply_to.as_deref().map(|text| Mailbox::parse("reply_to", text)).transpose()?;
    for (field, text) in [("subject", &config.subject), ("rollback_subject", &config.rollback_subject)] {
        address::header_text(field, text)?;
        template::check(field, text)?;
    }
    for (field, text) in [("body", &config.body), ("rollback_body", &config.rollback_body)] {
        template::check(field, text)?;
    }
    letter::check_headers(&config.headers)?;
    super::contents::check(location.security, config, credentials)?;
    let login = super::auth::login(config.auth, credentials)?;
    if login.is_some() && location.security == Security::None {
        return Err(Error::validation(
            OPERATION,
            "auth_needs_tls",
            "a login is sent over encrypted connections only; use `starttls` or `tls`, or no login",
        ));
    }
    Ok(Checked { from, reply_to, to, cc, bcc, login })
}

fn check_relay(location: &SmtpLocation, config: &SmtpConfig) -> Result<()> {
    let invalid = |field: &'static str, why| Error::validation(OPERATION, "location_invalid", why).with("field", field);
    if !address::is_host(&location.host) {
        return Err(invalid("host", "the relay needs a host: a DNS name or an IP address"));
    }
    if location.port == Some(0) {
        return Err(invalid("port", "there is no port 0"));
    }
    if location.server_name.as_deref().is_some_and(|name| !address::is_host(name)) {
        return Err(invalid("server_name", "not a name that a certificate can have"));
    }
    if let Ok(addr) = location.host.parse() {
        config.addresses.check(&location.host, addr)?;
        if location.security == Security::None && !super::session::is_loopback(addr) {
            return Err(tls_required(&location.label()));
        }
    }
    if let Some(helo) = &config.helo {
        address::header_text("helo", helo)?;
        if !address::is_helo(helo) {
            return Err(Error::validation(OPERATION, "header_invalid", "`helo` is a DNS name or an [address]")
                .with("field", "helo"));
        }
    }
    config.tls.check()?;
    if !config.tls.verifies() {
        return Err(Error::validation(
            OPERATION,
            "insecure_unsupported",
            "mail goes to verified relays only; trust a private CA with `ca_pem` instead of `insecure_skip_verify`",
        ));
    }
    if !(1..=LARGEST_MESSAGE).contains(&config.max_message_bytes) {
        return Err(Error::validation(OPERATION, "limit_exceeded", "`max_message_bytes` is from 1 to 50 MiB")
            .with("limit", LARGEST_MESSAGE)
            .with("actual", config.max_message_bytes));
    }
    config.timeouts.check()
}

/// A relay that is to be spoken to without TLS and is not on this machine, or that does not offer TLS.
pub(super) fn tls_required(relay: &str) -> Error {
    Error::validation(
        OPERATION,
        "tls_required",
        "only a relay on this machine is spoken to without TLS; use `starttls` or `tls`",
    )
    .with("relay", relay)
}
