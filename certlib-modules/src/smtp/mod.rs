//! Delivery by e-mail: hands a message with the certificate to an SMTP relay.
//!
//! | Operation | What is sent |
//! |---|---|
//! | `execute` | one message to all recipients, with what is configured as attachments |
//! | `rollback` | a message that names the delivery to disregard, to those who were sent it; none if `notify_rollback` is off, and then rollback refuses with `cannot_unsend` |
//! | `validate` | nothing: what people do with a message cannot be seen from here, so the answer is `Skipped` |
//! | `dry_run` | nothing: the plan shows recipients, subject, text and attachments; the relay's name is resolved |
//!
//! A message counts as delivered when the relay has taken it (`250` after the final dot). Every attempt at one delivery
//! has the same `Message-ID`, date and text, so that doubles can be seen: if the answer to the final dot is lost, nobody
//! knows whether the relay took the message, and a retry sends it again.
//!
//! # The way to the relay
//!
//! TLS is required: after `STARTTLS` (the default) or from the first byte. The relay's certificate is verified for its
//! name, always. Only a relay on this machine (127.0.0.1, ::1, with `addresses.allow_loopback`) may be spoken to
//! without TLS, and then without a login and without private keys. The relay's name is resolved once, its addresses are
//! checked, and what was checked is dialled. What was said before TLS is forgotten; whatever comes unasked ends the
//! dialogue. Logins by PLAIN, LOGIN and XOAUTH2.
//!
//! # Private keys
//!
//! Mailboxes keep what they get, so no private key leaves unless the configuration agrees: `include_private_key` for an
//! attachment with content `pkcs12` (AES-256, with `pkcs12_password` in the credential), and `allow_unencrypted_key`
//! besides for `combined` (PEM).
//!
//! # Variables
//!
//! Subjects and texts know `{name}`, `{names}`, `{subject}`, `{issuer}`, `{serial}`, `{fingerprint}`, `{not_before}`,
//! `{not_after}`, `{project}`, `{certificate}`, `{version}`, `{target}` and `{message_id}`; `{{` and `}}` are braces.
//! Control characters in values are dropped.
//!
//! # What the account needs
//!
//! It must be allowed to submit mail from the address in `from` to the recipients; nothing else.
//!
//! A target, as JSON:
//!
//! ```
//! use certlib_core::Secret;
//! use certlib_core::module::{ErasedModule, TargetSpec};
//! use certlib_modules::smtp::Smtp;
//! use serde_json::json;
//!
//! let target = TargetSpec::new(
//!     "t1",
//!     "operations",
//!     json!({
//!         "from": "Certificates <certificates@example.com>",
//!         "include_private_key": true,
//!         "attachments": [{"content": "fullchain"}, {"content": "pkcs12", "file_name": "web.p12"}],
//!     }),
//!     json!({"host": "mail.example.com", "to": ["Operations <ops@example.com>"]}),
//!     Some(Secret::new(
//!         r#"{"username": "certificates", "password": "hunter2", "pkcs12_password": "correct horse battery"}"#.to_owned(),
//!     )),
//! );
//! ErasedModule::check(&Smtp::new(), &target)?;
//! # Ok::<(), certlib_core::Error>(())
//! ```

mod address;
mod auth;
mod config;
mod contents;
mod deliver;
mod letter;
mod plan;
mod record;
mod reply;
mod session;
mod template;

use std::sync::Arc;

use certlib_core::Context;
use certlib_core::bundle::CertificateBundle;
use certlib_core::error::{Effect, Error, Result, codes};
use certlib_core::module::{
    ApprovedPlan, Capabilities, DistributionModule, Facts, Journal, Plan, RollbackOutcome, Target, Validation,
};

pub use self::auth::AuthMethod;
pub use self::config::{Security, SmtpConfig, SmtpCredentials, SmtpLocation};
pub use self::contents::{Attachment, Content};
use self::deliver::{Delivered, Relay};
pub use self::record::{Delivery, Undo};
pub use crate::certificate::Certificate;
use crate::net::{Guard, Lookup, SystemLookup};

/// What errors of this module name as their operation.
const OPERATION: &str = "smtp";

/// The module for targets of kind `smtp`.
#[derive(Debug)]
pub struct Smtp {
    lookup: Arc<dyn Lookup>,
}

impl Smtp {
    /// The module, with the operating system's resolver.
    pub fn new() -> Self {
        Self::with_lookup(Arc::new(SystemLookup))
    }

    /// The module with another resolver.
    pub fn with_lookup(lookup: Arc<dyn Lookup>) -> Self {
        Self { lookup }
    }

    fn guard(&self, config: &SmtpConfig) -> Guard {
        Guard::with_lookup(config.addresses.clone(), Arc::clone(&self.lookup))
    }

    fn relay<'a>(&self, target: Target<'a, Self>) -> Result<Relay<'a>> {
        Relay::new(self.guard(target.config), target)
    }
}

impl Default for Smtp {
    fn default() -> Self {
        Self::new()
    }
}

impl DistributionModule for Smtp {
    const KIND: &'static str = "smtp";
    type Config = SmtpConfig;
    type Credentials = Option<SmtpCredentials>;
    type Location = SmtpLocation;
    type Undo = Undo;

    /// Reversible in that recipients are told what to disregard; not idempotent, since a retry after a lost answer may
    /// bring the same message a second time.
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.verifiable = false;
        capabilities.idempotent = false;
        capabilities.needs_private_key = false;
        capabilities
    }

    fn check(&self, target: Target<'_, Self>) -> Result<()> {
        self.relay(target).map(drop)
    }

    /// Resolves the relay's name, so that a forbidden address shows before anybody approves.
    async fn dry_run(&self, cx: &Context, target: Target<'_, Self>, bundle: &CertificateBundle) -> Result<Plan> {
        let relay = self.relay(target)?;
        relay.check_size(cx, bundle)?;
        let plan = plan::plan(cx, &relay, bundle)?;
        relay.resolve().await?;
        Ok(plan)
    }

    async fn execute(
        &self,
        cx: &Context,
        target: Target<'_, Self>,
        bundle: &CertificateBundle,
        approved: &ApprovedPlan,
        undo: &Journal<'_, Self::Undo>,
    ) -> Result<Facts> {
        cx.check_cancelled(OPERATION)?;
        let relay = self.relay(target)?;
        let entries = undo.entries().await?;
        if entries.is_empty() && *approved.plan() != plan::plan(cx, &relay, bundle)? {
            return Err(Error::validation(
                OPERATION,
                codes::PLAN_STALE,
                "the target's settings or the certificate changed since the plan was made",
            ));
        }
        let delivery = relay.delivery(cx, &entries, bundle);
        let facts = Facts::new().with("relay", relay.label()).with("message_id", delivery.message_id.as_str());
        if record::is_sent(&entries, &delivery.message_id) {
            return Ok(facts.with("sent_before", true));
        }
        // What an earlier attempt may have brought there, this one's failure does not take away.
        let known = record::pending(&entries).iter().any(|pending| pending.message_id == delivery.message_id);
        let worst = |error: Error| if known { error.with_effect(Effect::Possible) } else { error };

        let message = relay.message(&delivery, bundle)?;
        let ready = relay.open(cx, &delivery.recipients, message.len()).await.map_err(worst)?;
        if !known && let Err(error) = undo.record("send", &Undo::Sending(Box::new(delivery.clone()))).await {
            ready.leave().await;
            return Err(error);
        }
        let message_id = delivery.message_id;
        match ready.deliver(&message).await {
            Ok(Delivered { accepted, refused, bytes }) => {
                // If this cannot be recorded, the journal still says that the recipients may have it, and so must we.
                let sent = undo.record("sent", &Undo::Sent { message_id }).await;
                sent.map_err(|error| error.with_effect(Effect::Possible))?;
                let refused: Vec<String> = refused.iter().map(|(who, status)| format!("{who} ({status})")).collect();
                Ok(facts.with("bytes", bytes).with("accepted", accepted).with("refused", refused))
            }
            Err(error) if !known && error.effect() == Effect::None => {
                match undo.record("not_taken", &Undo::NotTaken { message_id }).await {
                    Ok(()) => Err(error),
                    Err(_) => Err(error.with_effect(Effect::Possible)),
                }
            }
            Err(error) => Err(worst(error)),
        }
    }

    async fn validate(
        &self,
        _cx: &Context,
        _target: Target<'_, Self>,
        _bundle: &CertificateBundle,
    ) -> Result<Validation> {
        Ok(Validation::Skipped)
    }

    async fn rollback(&self, cx: &Context, target: Target<'_, Self>, undo: Vec<Self::Undo>) -> Result<RollbackOutcome> {
        let pending = record::pending(&undo);
        if pending.is_empty() {
            return Ok(RollbackOutcome::NothingToDo);
        }
        if !target.config.notify_rollback {
            return Ok(RollbackOutcome::Refused {
                code: "cannot_unsend".to_owned(),
                reason: "a message cannot be taken back, and `notify_rollback` is off".to_owned(),
            });
        }
        let relay = self.relay(target)?;
        for delivery in pending.into_iter().rev() {
            let notice = relay.notice(cx, delivery)?;
            let ready = relay.open(cx, &delivery.recipients, notice.len()).await?;
            ready.deliver(&notice).await?;
        }
        Ok(RollbackOutcome::RolledBack)
    }
}
