//! One delivery: what is sent, to whom, and how it ends.

use certlib_core::Context;
use certlib_core::bundle::CertificateBundle;
use certlib_core::error::{Error, Result};
use certlib_core::module::Target;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::config::{Checked, SmtpConfig, SmtpCredentials, SmtpLocation};
use super::contents::{self, File};
use super::letter::Letter;
use super::record::{self, Delivery, Undo};
use super::session::{self, Recipients, Session};
use super::template::{self, Values};
use super::{OPERATION, Smtp, config};
use crate::certificate::Certificate;
use crate::net::Guard;

/// A target whose settings make sense.
#[derive(Debug)]
pub(super) struct Relay<'a> {
    guard: Guard,
    pub(super) target_id: &'a str,
    pub(super) target_name: &'a str,
    pub(super) location: &'a SmtpLocation,
    pub(super) config: &'a SmtpConfig,
    credentials: Option<&'a SmtpCredentials>,
    pub(super) checked: Checked<'a>,
}

/// A relay that waits for the message.
#[derive(Debug)]
pub(super) struct Ready {
    session: Session,
    recipients: Recipients,
}

/// A message that the relay took.
#[derive(Debug)]
pub(super) struct Delivered {
    pub(super) accepted: Vec<String>,
    pub(super) refused: Vec<(String, u16)>,
    pub(super) bytes: usize,
}

impl<'a> Relay<'a> {
    /// Checks the target's settings.
    ///
    /// # Errors
    /// `Validation`, naming the field.
    pub(super) fn new(guard: Guard, target: Target<'a, Smtp>) -> Result<Self> {
        let credentials = target.credentials.as_ref();
        let checked = config::check(target.location, target.config, credentials)?;
        let Target { id, name, location, config, .. } = target;
        Ok(Self { guard, target_id: id, target_name: name, location, config, credentials, checked })
    }

    /// Host and port.
    pub(super) fn label(&self) -> String {
        self.location.label()
    }

    /// Resolves the relay's name, within the time for connecting. Cancel-safe.
    pub(super) async fn resolve(&self) -> Result<()> {
        let limit = self.config.timeouts.connect();
        match tokio::time::timeout(limit, session::resolve(&self.guard, self.location)).await {
            Ok(resolved) => resolved.map(drop),
            Err(_) => Err(Error::network(OPERATION, "timeout", "the relay's name was not resolved in time")
                .with("relay", self.label())),
        }
    }

    /// What is to be delivered: for a retry the same as before, so that the recipients get the same message.
    pub(super) fn delivery(&self, cx: &Context, entries: &[Undo], bundle: &CertificateBundle) -> Delivery {
        let message_id = record::message_id(cx, self.target_id, self.checked.from.domain());
        let before = entries.iter().find_map(|entry| match entry {
            Undo::Sending(delivery) if delivery.message_id == message_id => Some(delivery.created_at),
            _ => None,
        });
        Delivery {
            message_id,
            created_at: before.unwrap_or_else(|| now(cx)),
            recipients: self.checked.recipients(),
            certificate: Certificate::new(cx, bundle.leaf()),
        }
    }

    /// The message of a delivery.
    ///
    /// # Errors
    /// `Validation`: `key_missing`, `pfx_failed`, `message_too_large`.
    pub(super) fn message(&self, delivery: &Delivery, bundle: &CertificateBundle) -> Result<Zeroizing<Vec<u8>>> {
        let files = contents::files(self.config, self.credentials, bundle)?;
        let Delivery { message_id, created_at, certificate, .. } = delivery;
        let values = Values { certificate, target: self.target_name, message_id };
        let texts = (&*self.config.subject, &*self.config.body);
        self.write(message_id, None, *created_at, texts, &values, files)
    }

    /// The message that takes a delivery back; the same `Message-ID` each time.
    ///
    /// # Errors
    /// As [`Relay::message`].
    pub(super) fn notice(&self, cx: &Context, delivery: &Delivery) -> Result<Zeroizing<Vec<u8>>> {
        let Delivery { message_id, certificate, .. } = delivery;
        let id = record::rollback_id(message_id);
        let values = Values { certificate, target: self.target_name, message_id };
        let texts = (&*self.config.rollback_subject, &*self.config.rollback_body);
        self.write(&id, Some(message_id), now(cx), texts, &values, Vec::new())
    }

    /// Fails when the message would be too large, or cannot be made.
    pub(super) fn check_size(&self, cx: &Context, bundle: &CertificateBundle) -> Result<()> {
        self.message(&self.delivery(cx, &[], bundle), bundle).map(drop)
    }

    fn write(
        &self,
        message_id: &str,
        about: Option<&str>,
        date: OffsetDateTime,
        (subject, text): (&str, &str),
        values: &Values<'_>,
        files: Vec<File>,
    ) -> Result<Zeroizing<Vec<u8>>> {
        let letter = Letter {
            message_id,
            about,
            date,
            from: &self.checked.from,
            reply_to: self.checked.reply_to.as_ref(),
            to: &self.checked.to,
            cc: &self.checked.cc,
            subject: template::render(subject, values),
            text: template::render(text, values),
            headers: &self.config.headers,
            files,
        };
        let message = letter.write()?;
        let limit = self.config.max_message_bytes;
        if message.len() as u64 > limit {
            return Err(Error::validation(
                OPERATION,
                "message_too_large",
                "the message is larger than `max_message_bytes`",
            )
            .with("limit", limit)
            .with("actual", message.len()));
        }
        Ok(message)
    }

    /// Connects, logs in, and has the relay agree to a message of `size` bytes to `recipients`. Nothing is delivered
    /// yet.
    ///
    /// # Errors
    /// By class of the failure, with [`Effect::None`](certlib_core::error::Effect::None).
    pub(super) async fn open(&self, cx: &Context, recipients: &[String], size: usize) -> Result<Ready> {
        let mut session = Session::open(&cx.clock, &self.guard, self.location, self.config).await?;
        match self.prepare(&mut session, recipients, size).await {
            Ok(recipients) => Ok(Ready { session, recipients }),
            Err(error) => {
                session.quit().await;
                Err(error)
            }
        }
    }

    async fn prepare(&self, session: &mut Session, recipients: &[String], size: usize) -> Result<Recipients> {
        if let Some(login) = &self.checked.login {
            session.log_in(login).await?;
        }
        let (from, partial) = (self.checked.from.address(), self.config.allow_partial_delivery);
        session.envelope(from, recipients, size, partial).await
    }
}

impl Ready {
    /// Sends the message.
    ///
    /// Not cancel-safe: after a drop the relay may have it.
    ///
    /// # Errors
    /// By class of the failure; with [`Effect::None`](certlib_core::error::Effect::None) when the relay certainly did
    /// not take it.
    pub(super) async fn deliver(mut self, message: &[u8]) -> Result<Delivered> {
        let outcome = async {
            self.session.data().await?;
            self.session.message(message).await
        }
        .await;
        self.session.quit().await;
        let Recipients { accepted, refused } = self.recipients;
        outcome.map(|_| Delivered { accepted, refused, bytes: message.len() })
    }

    /// Leaves without a message.
    pub(super) async fn leave(self) {
        self.session.quit().await;
    }
}

/// The time in whole seconds: finer ones would differ after a journey through the journal of a store that rounds.
fn now(cx: &Context) -> OffsetDateTime {
    let now = cx.clock.now();
    now.replace_nanosecond(0).unwrap_or(now)
}
