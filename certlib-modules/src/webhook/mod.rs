//! Delivery by webhook: `POST`s a signed event to a receiver that does the rest.
//!
//! | Operation | What is sent |
//! |---|---|
//! | `execute` | `certificate.deploy` with certificate and chain, and with the private key if configured |
//! | `rollback` | `certificate.rollback`, naming the delivery it takes back, without material |
//! | `validate` | nothing: what a receiver does with an event cannot be seen from here, so the answer is `Skipped` |
//! | `dry_run` | nothing: the plan shows the event with its secrets masked |
//!
//! A 2xx status is a delivery; no other is. Each attempt at one delivery has the same id (headers `webhook-id` and
//! `Idempotency-Key`) and body, with its own time and signature, so a receiver that remembers ids acts once. Order is
//! not guaranteed; `created_at` tells. [`verify`] is the receiver's side of the signature.
//!
//! A receiver that answers 410 is gone for good: its target is paused, with an event `target.disabled`, until somebody
//! lifts the pause.
//!
//! A target, as JSON:
//!
//! ```
//! use certlib_core::Secret;
//! use certlib_core::module::{ErasedModule, TargetSpec};
//! use certlib_modules::webhook::Webhook;
//! use serde_json::json;
//!
//! let target = TargetSpec::new(
//!     "t1",
//!     "cdn",
//!     json!({"headers": {"X-Tenant": "blue"}, "addresses": {"allow": ["10.1.0.0/16"]}}),
//!     json!({"url": "https://hooks.example.com/certificates"}),
//!     Some(Secret::new(r#"{"secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}"#.to_owned())),
//! );
//! ErasedModule::check(&Webhook::new(), &target)?;
//! # Ok::<(), certlib_core::Error>(())
//! ```

mod config;
mod deliver;
mod event;
mod sign;

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use certlib_core::Context;
use certlib_core::bundle::CertificateBundle;
use certlib_core::error::{Effect, Error, Result, codes};
use certlib_core::module::{
    ApprovedPlan, Capabilities, DistributionModule, Facts, Journal, Plan, RollbackOutcome, Step, Target, Validation,
    Verb,
};

pub use self::config::{Basic, WebhookConfig, WebhookCredentials, WebhookLocation};
use self::deliver::Receiver;
pub use self::event::{Announcement, Undo};
use self::sign::Signer;
pub use self::sign::{SignatureScheme, TOLERANCE, verify};
pub use crate::certificate::Certificate;
use crate::net::{Guard, HttpUrl, Lookup, SystemLookup, http};

/// What errors of this module name as their operation.
const OPERATION: &str = "webhook";

/// The module for targets of kind `webhook`.
#[derive(Debug)]
pub struct Webhook {
    lookup: Arc<dyn Lookup>,
}

impl Webhook {
    /// The module, with the operating system's resolver.
    pub fn new() -> Self {
        Self::with_lookup(Arc::new(SystemLookup))
    }

    /// The module with another resolver.
    pub fn with_lookup(lookup: Arc<dyn Lookup>) -> Self {
        Self { lookup }
    }

    fn guard(&self, config: &WebhookConfig) -> Guard {
        Guard::with_lookup(config.addresses.clone(), Arc::clone(&self.lookup))
    }

    fn receiver(&self, target: Target<'_, Self>) -> Result<Receiver> {
        let config = target.config;
        let Checked { url, headers, signer } = checked(target)?;
        let client = http::client(&url, &self.guard(config), &config.tls, config.timeouts.connect())?;
        Ok(Receiver { url, client, headers, signer, timeouts: config.timeouts })
    }
}

impl Default for Webhook {
    fn default() -> Self {
        Self::new()
    }
}

/// A target whose settings make sense.
struct Checked {
    url: HttpUrl,
    headers: reqwest::header::HeaderMap,
    signer: Signer,
}

fn checked(target: Target<'_, Webhook>) -> Result<Checked> {
    let config = target.config;
    let credentials = target.credentials.as_ref();
    let url = HttpUrl::parse(&target.location.url, config.allow_http)?;
    if let Some(addr) = url.address() {
        config.addresses.check(url.host(), addr)?;
    }
    config.tls.check()?;
    config.timeouts.check()?;
    if config.include_private_key && !(url.is_https() && config.tls.verifies()) {
        return Err(Error::validation(
            OPERATION,
            "key_needs_verified_https",
            "a private key is sent only over https to a receiver whose certificate is verified",
        ));
    }
    let headers = config::headers(config, credentials)?;
    let secret = credentials.and_then(|credentials| credentials.secret.as_ref());
    let previous = credentials.and_then(|credentials| credentials.previous_secret.as_ref());
    Ok(Checked { url, headers, signer: Signer::new(config.signature, secret, previous)? })
}

/// The plan, which needs no look at the receiver: there is nothing to see.
fn plan(cx: &Context, target: Target<'_, Webhook>, url: &HttpUrl, bundle: &CertificateBundle) -> Result<Plan> {
    let config = target.config;
    let certificate = Certificate::new(cx, bundle.leaf());
    let body = event::planned_body(&certificate, (target.id, target.name), bundle, config.include_private_key)?;
    let settings = serde_json::to_vec(&(target.location, config))
        .map_err(|_| Error::validation(OPERATION, "config_invalid", "the settings cannot be written as JSON"))?;
    let base: String = digest(&SHA256, &settings).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let steps = vec![Step::new(Verb::Call, format!("POST {url}")).after(body)];
    Ok(Plan::new(<Webhook as DistributionModule>::KIND, target.name, base, steps))
}

impl DistributionModule for Webhook {
    const KIND: &'static str = "webhook";
    type Config = WebhookConfig;
    type Credentials = Option<WebhookCredentials>;
    type Location = WebhookLocation;
    type Undo = Undo;

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.verifiable = false;
        capabilities.needs_private_key = false;
        capabilities
    }

    fn check(&self, target: Target<'_, Self>) -> Result<()> {
        checked(target).map(drop)
    }

    /// Resolves the receiver's name, so that a forbidden address shows before anybody approves.
    async fn dry_run(&self, cx: &Context, target: Target<'_, Self>, bundle: &CertificateBundle) -> Result<Plan> {
        let Checked { url, .. } = checked(target)?;
        if target.config.include_private_key {
            bundle.key_pem()?;
        }
        let plan = plan(cx, target, &url, bundle)?;
        let guard = self.guard(target.config);
        match tokio::time::timeout(target.config.timeouts.connect(), guard.resolve(url.host())).await {
            Ok(resolved) => resolved.map(|_| plan),
            Err(_) => Err(Error::network(OPERATION, "timeout", "the receiver's name was not resolved in time")
                .with("host", url.host())),
        }
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
        let receiver = self.receiver(target)?;
        let key = target.config.include_private_key.then(|| bundle.key_pem()).transpose()?;
        let entries = undo.entries().await?;
        if entries.is_empty() && *approved.plan() != plan(cx, target, &receiver.url, bundle)? {
            return Err(Error::validation(
                OPERATION,
                codes::PLAN_STALE,
                "the target's settings or the certificate changed since the plan was made",
            ));
        }
        let id = event::delivery_id(cx, target.id);
        let known = event::pending(&entries).into_iter().any(|announcement| announcement.id == id);
        let announcement = announcement(cx, &id, &entries, bundle);
        let body = event::deploy_body(&announcement, (target.id, target.name), bundle, key.as_ref())?;
        if !known {
            undo.record("announce", &Undo::Announcing(Box::new(announcement))).await?;
        }
        match receiver.deliver(cx, &id, body).await {
            Ok(delivered) => Ok(Facts::new()
                .with("url", receiver.url.to_string())
                .with("delivery_id", id)
                .with("status", delivered.status)
                .with("response_bytes", delivered.read)
                .with("response_cut", delivered.cut)),
            // What an earlier attempt may have brought there, this one's failure does not take away.
            Err(error) if known => Err(error.with_effect(Effect::Possible)),
            Err(error) if error.effect() == Effect::None => {
                if undo.record("not_taken", &Undo::NotTaken { id }).await.is_err() {
                    // The journal still says that the receiver may know, and so must we.
                    return Err(error.with_effect(Effect::Possible));
                }
                Err(error)
            }
            Err(error) => Err(error),
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
        let pending = event::pending(&undo);
        if pending.is_empty() {
            return Ok(RollbackOutcome::NothingToDo);
        }
        let receiver = self.receiver(target)?;
        for announcement in pending.into_iter().rev() {
            let body = event::rollback_body(announcement, (target.id, target.name), cx.clock.now())?;
            receiver.deliver(cx, &event::rollback_id(&announcement.id), body).await?;
        }
        Ok(RollbackOutcome::RolledBack)
    }
}

/// What is announced: for a retry, the same as before, so that the receiver gets the same bytes.
fn announcement(cx: &Context, id: &str, entries: &[Undo], bundle: &CertificateBundle) -> Announcement {
    let before = entries.iter().find_map(|entry| match entry {
        Undo::Announcing(announcement) if announcement.id == id => Some(announcement.created_at),
        _ => None,
    });
    Announcement {
        id: id.to_owned(),
        created_at: before.unwrap_or_else(|| cx.clock.now()),
        certificate: Certificate::new(cx, bundle.leaf()),
    }
}
