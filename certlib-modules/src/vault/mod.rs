//! Delivery to HashiCorp Vault or OpenBao: a certificate and its key as fields of a secret, or as the default issuer of a
//! PKI mount.
//!
//! | Mount | What is written | What protects others' changes | What rollback does |
//! |---|---|---|---|
//! | key-value, version 2 | a new version of the secret, and custom metadata | check-and-set on the version that was seen | writes the former fields as a **new** version; deletes ours if there was none |
//! | key-value, version 1 | the secret | the secret is read again just before; the moment in between stays open | writes the former fields back; deletes the secret if there was none |
//! | PKI, Vault 1.11 and later | an imported issuer, which becomes the default one | the default issuer is read again just before | refused with `ratcheted`, except as below |
//!
//! A secret's other fields and custom metadata stay as they are. The former fields go into the journal, which the engine
//! seals: they do not depend on how many versions Vault keeps. Rollback is refused with `foreign_change` when what is
//! there is not what was written, and with `backup_expired` when an expired certificate would come back. Custom metadata
//! that somebody else has set meanwhile is left alone.
//!
//! **PKI mounts** ratchet: from the moment the default issuer changes, certificates are issued by the new one, and going
//! back leaves them behind. So rollback is refused as soon as the default has moved. With `pki_rollback: if_unused` the
//! former issuer becomes the default again as long as the list of issued certificates has not grown and no role leaves
//! what it issues out of that list (`no_store`). The imported issuer itself is never removed.
//!
//! `dry_run` reads the secret (or the mount's issuers) and asks what the login may do (`sys/capabilities-self`); it shows
//! paths, versions and fingerprints. `validate` reads everything back and compares; with `endpoints`, each of them must
//! serve the certificate as well. Consumers such as Vault Agent or an operator of Kubernetes take minutes to notice: give
//! such endpoints enough `tries`.
//!
//! Each operation logs in for itself and gives the token back at its end; a login that ends before is made again, once.
//! A standby node that redirects to another port or path of the same host is followed; another host is not, since the
//! token is for this one.
//!
//! # Rights
//! For version 2, of a secret `tls/shop` on the mount `secret`:
//!
//! ```hcl
//! path "secret/data/tls/shop"     { capabilities = ["read", "create", "update"] }
//! path "secret/metadata/tls/shop" { capabilities = ["read", "create", "update"] } # unless custom_metadata is false
//! path "secret/delete/tls/shop"   { capabilities = ["update"] }                   # to take back a first delivery
//! ```
//!
//! Version 1: `read`, `create`, `update` and `delete` at `secret/tls/shop`. PKI, on the mount `pki`: `read` and `update` at
//! `config/issuers`, `list` at `issuers`, `read` at `issuer/+`, `update` at `issuers/import/bundle`; for `if_unused` also
//! `list` at `certs` and `roles`, and `read` at `roles/+`.
//!
//! # Settings
//! Location: [`VaultLocation`]; configuration: [`VaultConfig`]; credentials: [`VaultCredentials`].
//!
//! ```
//! use certlib_core::Secret;
//! use certlib_core::module::{ErasedModule, TargetSpec};
//! use certlib_modules::vault::VaultModule;
//! use serde_json::json;
//!
//! let target = TargetSpec::new(
//!     "t-1",
//!     "shop in Vault",
//!     json!({
//!         "fields": {"certificate": "tls.crt", "private_key": "tls.key", "chain": null, "fullchain": null},
//!         "connection": {"addresses": {"allow": ["10.0.0.0/8"]}},
//!     }),
//!     json!({"url": "https://vault.example.com:8200", "namespace": "shop", "mount": "secret", "path": "tls/shop"}),
//!     Some(Secret::new(r#"{"method": "approle", "role_id": "b6ce...", "secret_id": "e5fa..."}"#.to_owned())),
//! );
//! ErasedModule::check(&VaultModule::new(), &target)?;
//! # Ok::<(), certlib_core::Error>(())
//! ```

mod apply;
mod auth;
mod config;
mod data;
mod kv;
mod pki;
mod plan;
mod rights;
mod rollback;
mod session;
mod undo;

use std::net::IpAddr;
use std::sync::Arc;

use certlib_core::Context;
use certlib_core::bundle::CertificateBundle;
use certlib_core::error::{Effect, Error, Result};
use certlib_core::module::{
    ApprovedPlan, Capabilities, DistributionModule, EndpointCheck, Facts, Journal, Plan, RollbackOutcome, Target,
    Validation,
};
use futures::future::join_all;

pub use self::auth::VaultCredentials;
pub use self::config::{Fields, MountKind, PkiRollback, VaultConfig, VaultLocation};
use self::data::SecretData;
use self::kv::Kv;
use self::pki::Pki;
use self::plan::Survey;
use self::session::Session;
pub use self::undo::{CustomChange, IssuerChange, Place, SecretChange, Undo};
use crate::net::{Lookup, SystemLookup};
use crate::probe;

/// What errors of this module name as their operation.
const OPERATION: &str = "vault";

/// The module for targets of kind `vault`.
#[derive(Debug)]
pub struct VaultModule {
    lookup: Arc<dyn Lookup>,
}

impl VaultModule {
    /// The module, with the operating system's resolver.
    pub fn new() -> Self {
        Self::with_lookup(Arc::new(SystemLookup))
    }

    /// The module with another resolver.
    pub fn with_lookup(lookup: Arc<dyn Lookup>) -> Self {
        Self { lookup }
    }

    fn session<'a>(&self, target: Target<'a, Self>) -> Result<Session<'a>> {
        check(target)?;
        Session::new(target.location, target.config, target.credentials, Arc::clone(&self.lookup))
    }
}

impl Default for VaultModule {
    fn default() -> Self {
        Self::new()
    }
}

fn check(target: Target<'_, VaultModule>) -> Result<()> {
    let (location, config) = (target.location, target.config);
    config::check(location, config)?;
    target.credentials.check()?;
    let url = config.connection.check(&location.url)?;
    let here = url.host() == "localhost" || url.address().is_some_and(|addr: IpAddr| addr.is_loopback());
    if !url.is_https() && !here {
        let why = "keys and tokens are sent in the clear only to this machine itself: use https";
        return Err(Error::validation(OPERATION, "key_needs_https", why));
    }
    Ok(())
}

impl DistributionModule for VaultModule {
    const KIND: &'static str = "vault";
    type Config = VaultConfig;
    type Credentials = VaultCredentials;
    type Location = VaultLocation;
    type Undo = Undo;

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.atomic = true;
        capabilities
    }

    fn check(&self, target: Target<'_, Self>) -> Result<()> {
        check(target)
    }

    async fn dry_run(&self, cx: &Context, target: Target<'_, Self>, bundle: &CertificateBundle) -> Result<Plan> {
        let session = self.session(target)?;
        let plan = dry_run(cx, &session, target, bundle).await;
        session.close(cx).await;
        plan
    }

    async fn execute(
        &self,
        cx: &Context,
        target: Target<'_, Self>,
        bundle: &CertificateBundle,
        plan: &ApprovedPlan,
        undo: &Journal<'_, Self::Undo>,
    ) -> Result<Facts> {
        let session = self.session(target)?;
        let facts = execute(cx, &session, target, bundle, plan, undo).await;
        session.close(cx).await;
        facts
    }

    async fn validate(&self, cx: &Context, target: Target<'_, Self>, bundle: &CertificateBundle) -> Result<Validation> {
        let session = self.session(target)?;
        let read = read_back(cx, &session, target, bundle).await;
        session.close(cx).await;
        let mut checks = vec![read?];
        let endpoints = target.config.endpoints.iter();
        checks.extend(join_all(endpoints.map(|endpoint| probe::check(cx, endpoint, bundle.fingerprint()))).await);
        Ok(verdict(checks))
    }

    async fn rollback(&self, cx: &Context, target: Target<'_, Self>, undo: Vec<Self::Undo>) -> Result<RollbackOutcome> {
        if undo.is_empty() {
            return Ok(RollbackOutcome::NothingToDo);
        }
        let session = self.session(target)?;
        let outcome = rollback(cx, &session, target, &undo).await;
        session.close(cx).await;
        outcome
    }
}

/// What a target leads to.
enum Mount<'a> {
    Kv(Kv<'a>),
    Pki(Pki<'a>),
}

impl<'a> Mount<'a> {
    async fn find(cx: &Context, session: &'a Session<'a>, target: Target<'a, VaultModule>) -> Result<Self> {
        let location = target.location;
        Ok(match kv::mount_kind(cx, session, location).await? {
            MountKind::Pki => Self::Pki(Pki::new(session, &location.mount)),
            kind => Self::Kv(Kv::new(session, location, kind == MountKind::Kv2)),
        })
    }
}

async fn dry_run(
    cx: &Context,
    session: &Session<'_>,
    target: Target<'_, VaultModule>,
    bundle: &CertificateBundle,
) -> Result<Plan> {
    match Mount::find(cx, session, target).await? {
        Mount::Pki(pki) => pki.plan(cx, target, bundle).await,
        Mount::Kv(kv) => {
            let survey = Survey::take(cx, &kv, target, bundle).await?;
            rights::check(cx, session, &survey.needs(&kv)).await?;
            Ok(survey.plan(&kv, target, bundle))
        }
    }
}

async fn execute(
    cx: &Context,
    session: &Session<'_>,
    target: Target<'_, VaultModule>,
    bundle: &CertificateBundle,
    plan: &ApprovedPlan,
    undo: &Journal<'_, Undo>,
) -> Result<Facts> {
    match Mount::find(cx, session, target).await? {
        Mount::Pki(pki) => pki.execute(cx, target, bundle, plan, undo).await,
        Mount::Kv(kv) => apply::execute(cx, &kv, target, bundle, plan, undo).await,
    }
}

async fn read_back(
    cx: &Context,
    session: &Session<'_>,
    target: Target<'_, VaultModule>,
    bundle: &CertificateBundle,
) -> Result<EndpointCheck> {
    match Mount::find(cx, session, target).await? {
        Mount::Pki(pki) => pki.read_back(cx, bundle).await,
        Mount::Kv(kv) => {
            let fields = &target.config.fields;
            let wanted = SecretData::of(bundle, fields)?;
            let found = kv.read(cx).await?;
            let fingerprint = found.data.as_ref().and_then(|data| data.fingerprint(fields));
            let problem = match &found.data {
                None => Some("is not there"),
                Some(data) if data.holds(&wanted) => None,
                Some(_) if fingerprint == Some(bundle.fingerprint()) => Some("has other fields beside the certificate"),
                Some(_) => Some("has another certificate"),
            };
            Ok(EndpointCheck::new(format!("vault {}", kv.subject()), fingerprint, 1, problem.map(str::to_owned)))
        }
    }
}

async fn rollback(
    cx: &Context,
    session: &Session<'_>,
    target: Target<'_, VaultModule>,
    undo: &[Undo],
) -> Result<RollbackOutcome> {
    match Mount::find(cx, session, target).await? {
        Mount::Pki(pki) => pki.rollback(cx, target, undo).await,
        Mount::Kv(kv) => rollback::rollback(cx, &kv, target, undo).await,
    }
}

fn verdict(endpoints: Vec<EndpointCheck>) -> Validation {
    let problems: Vec<String> = endpoints
        .iter()
        .filter_map(|check| check.problem.as_ref().map(|problem| format!("{}: {problem}", check.endpoint)))
        .collect();
    if problems.is_empty() {
        return Validation::Served { endpoints };
    }
    Validation::NotServed { endpoints, reason: problems.join("; ") }
}

fn possible(error: Error) -> Error {
    error.with_effect(Effect::Possible)
}

fn refusal(code: &str, reason: String) -> RollbackOutcome {
    RollbackOutcome::Refused { code: code.to_owned(), reason }
}
