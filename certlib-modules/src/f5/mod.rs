//! Delivery to F5 BIG-IP over iControl REST: profiles get a new certificate, in one transaction.
//!
//! | Operation | What it does on the unit |
//! |---|---|
//! | `dry_run` | reads the profiles, all certificate and key files, and which virtual servers use the profiles; changes nothing |
//! | `execute` | uploads key, certificate and issuers; makes new objects of them and switches every profile in **one** transaction; removes the uploads and old objects of its own; saves, and synchronizes the device group if configured |
//! | `validate` | completes TLS handshakes with the configured `endpoints`; without any, reads the profiles back and compares fingerprints |
//! | `rollback` | points the profiles to their former objects in one transaction, removes the new ones unless something else uses them, saves and synchronizes |
//!
//! At every moment each profile has the old certificate or the new one, whole: the unit carries a transaction out
//! completely or not at all, and refuses one whose key does not belong to its certificate. Existing objects are never
//! overwritten. New ones are called `PREFIX_TARGET_TIME_SERIAL_NAME`, so that the module knows its own; the two newest
//! generations stay, older ones go at the next delivery, unless something uses them.
//!
//! The plan shows each step: uploads, the beginning of the transaction, every object that is made, every profile with what
//! it has and what it gets (which profiles inherit it, which virtual servers use it), the commit, objects that are
//! removed, saving, synchronizing. It goes stale as soon as a profile, its certificate, its heirs or its virtual servers
//! change. What somebody else changes between the module's last look and the commit, a moment later, goes unseen: the unit
//! offers no way to notice it.
//!
//! # What the user needs
//!
//! The role Administrator, or one that may upload files, manage certificate and key files and modify SSL profiles in the
//! partitions concerned. Without the right to `tm/util/unix-rm` uploads are overwritten instead of removed. Log in with a
//! token (the default; it is deleted at the end), or with HTTP Basic where that is configured. TMOS 12.1 or later.
//!
//! # A target, as JSON
//!
//! ```
//! use certlib_core::Secret;
//! use certlib_core::module::{ErasedModule, TargetSpec};
//! use certlib_modules::f5::F5;
//! use serde_json::json;
//!
//! let target = TargetSpec::new(
//!     "t1",
//!     "shop on bigip",
//!     json!({
//!         "connection": {"addresses": {"allow": ["10.1.0.0/16"]}},
//!         "endpoints": [{"host": "shop.example.com"}],
//!         "sync_group": "failover_group"
//!     }),
//!     json!({
//!         "url": "https://bigip.example.com",
//!         "profiles": [{"name": "/Common/shop"}, {"name": "/Common/shop_backend", "kind": "server-ssl"}]
//!     }),
//!     Some(Secret::new(r#"{"username": "certlib", "password": "..."}"#.to_owned())),
//! );
//! ErasedModule::check(&F5::new(), &target)?;
//! # Ok::<(), certlib_core::Error>(())
//! ```
//!
//! # Errors
//!
//! | Code | Class | Meaning |
//! |---|---|---|
//! | `login_failed`, `permission_denied` | `Auth` | wrong password; not allowed, even after the one fresh login |
//! | `login_unavailable`, `unit_not_active`, `api_unavailable` | `IoTransient` | no token to be had; the other unit is active; the REST daemon is starting |
//! | `profile_missing`, `profile_inherits`, `entry_missing`, `entry_ambiguous`, `name_taken` | `Validation` | the target is not as the settings say |
//! | `plan_stale`, `foreign_change` | `Validation` | somebody else changed something |
//! | `key_mismatch`, `transaction_failed` | `Validation` | the unit declined; nothing was changed; `f5_code` says why |
//! | `upload_incomplete`, `transaction_incomplete` | `IoTransient` | something came in between; nothing was changed |
//! | `transaction_pending`, `sync_pending` | `IoTransient` | the unit did not finish in time |
//! | `uploads_left` | `IoPermanent` | the key may still lie in the unit's folder for uploads |
//! | `http_status` and those of [`net`](crate::net) | by status | anything else |
//!
//! Sources: F5, "iControl REST User Guide"; F5Networks/f5-ansible; F5 article K23011574 (objects in use).

mod apply;
mod config;
mod finish;
mod names;
mod plan;
mod profile;
mod rollback;
mod session;
mod survey;
mod transaction;
mod undo;
mod unit;
mod upload;
mod validate;

use std::sync::Arc;

use certlib_core::error::{Error, Result};
use certlib_core::module::{
    ApprovedPlan, Capabilities, DistributionModule, Facts, Journal, Plan, RollbackOutcome, Target, Validation,
};
use certlib_core::{CertificateBundle, Context};

pub use self::config::{Auth, AuthMethod, F5Config, F5Credentials, F5Location, ProfileKind, ProfileRef};
pub use self::profile::Pair;
use self::session::Session;
pub use self::undo::{Change, Object, Part, Switch, Undo};
use crate::net::{Lookup, SystemLookup};

/// What errors of this module name as their operation.
const OPERATION: &str = "f5";

/// The module for targets of kind `f5`.
#[derive(Debug)]
pub struct F5 {
    lookup: Arc<dyn Lookup>,
}

impl F5 {
    /// The module, with the operating system's resolver.
    pub fn new() -> Self {
        Self::with_lookup(Arc::new(SystemLookup))
    }

    /// The module with another resolver.
    pub fn with_lookup(lookup: Arc<dyn Lookup>) -> Self {
        Self { lookup }
    }

    async fn session<'a>(&self, cx: &'a Context, target: Target<'a, Self>) -> Result<Session<'a>> {
        let Target { location, config, credentials, .. } = target;
        Session::open(cx, location, config, credentials, Arc::clone(&self.lookup)).await
    }
}

impl Default for F5 {
    fn default() -> Self {
        Self::new()
    }
}

/// What is to be delivered to one target, and how.
#[derive(Debug, Clone, Copy)]
struct Delivery<'a> {
    target_id: &'a str,
    target_name: &'a str,
    location: &'a F5Location,
    config: &'a F5Config,
}

impl<'a> Delivery<'a> {
    /// A delivery whose settings make sense.
    fn checked(target: Target<'a, F5>) -> Result<Self> {
        let Target { location, config, credentials, .. } = target;
        config.connection.check(&location.url)?;
        location.check()?;
        config.check()?;
        credentials.check(config.auth.method)?;
        Ok(Self { target_id: target.id, target_name: target.name, location, config })
    }
}

impl DistributionModule for F5 {
    const KIND: &'static str = "f5";
    type Config = F5Config;
    type Credentials = F5Credentials;
    type Location = F5Location;
    type Undo = Undo;

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.atomic = true;
        // The REST daemon of a unit is easily kept busy.
        capabilities.concurrency = 5;
        capabilities
    }

    fn check(&self, target: Target<'_, Self>) -> Result<()> {
        Delivery::checked(target).map(drop)
    }

    async fn dry_run(&self, cx: &Context, target: Target<'_, Self>, bundle: &CertificateBundle) -> Result<Plan> {
        let delivery = Delivery::checked(target)?;
        if bundle.key().is_none() {
            let why = "the private key of this certificate is not at hand, and the unit needs it";
            return Err(Error::validation(OPERATION, "key_missing", why));
        }
        let session = self.session(cx, target).await?;
        let survey = delivery.survey(&session, bundle).await;
        session.close().await;
        Ok(delivery.plan(&survey?, bundle))
    }

    async fn execute(
        &self,
        cx: &Context,
        target: Target<'_, Self>,
        bundle: &CertificateBundle,
        plan: &ApprovedPlan,
        undo: &Journal<'_, Self::Undo>,
    ) -> Result<Facts> {
        let delivery = Delivery::checked(target)?;
        cx.check_cancelled(OPERATION)?;
        // What an earlier attempt may have done, this one's failure to log in does not take away.
        let begun = !undo.entries().await?.is_empty();
        let session = self.session(cx, target).await;
        let session = session.map_err(|error| if begun { apply::possible(error) } else { error })?;
        let outcome = delivery.execute(&session, bundle, plan, undo).await;
        session.close().await;
        outcome
    }

    async fn validate(&self, cx: &Context, target: Target<'_, Self>, bundle: &CertificateBundle) -> Result<Validation> {
        let delivery = Delivery::checked(target)?;
        if let Some(verdict) = delivery.probe(cx, bundle).await {
            return Ok(verdict);
        }
        let session = self.session(cx, target).await?;
        let verdict = delivery.read_back(&session, bundle).await;
        session.close().await;
        verdict
    }

    async fn rollback(&self, cx: &Context, target: Target<'_, Self>, undo: Vec<Self::Undo>) -> Result<RollbackOutcome> {
        Delivery::checked(target)?;
        if undo.is_empty() {
            return Ok(RollbackOutcome::NothingToDo);
        }
        let session = self.session(cx, target).await?;
        let outcome = session.roll_back(&undo).await;
        session.close().await;
        outcome
    }
}
