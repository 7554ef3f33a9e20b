//! Distribution modules: how a certificate gets onto a target, is proven to be there, and is taken back.

mod erased;
mod journal;
mod plan;
mod registry;

use std::fmt::Debug;
use std::future::Future;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::erased::{ErasedModule, TargetSpec};
pub use self::journal::{Journal, JournalSink, MemoryJournal};
pub use self::plan::{ApprovedPlan, Plan, Step, Verb};
pub use self::registry::ModuleRegistry;
use crate::bundle::{CertificateBundle, Fingerprint};
use crate::context::Context;
use crate::error::Result;

/// A way to deliver certificates to one kind of target.
///
/// Write the methods as `async fn`; the registry wraps the module so that the engine can hold it without knowing its
/// types.
///
/// # Contract
/// - **`dry_run` changes nothing.** It looks at the target and returns what `execute` would do, step by step, with a
///   [`Plan::base`] that changes whenever the target does. Two dry runs of an unchanged target are equal.
/// - **`execute` records before it changes.** Before each change it calls [`Journal::record`] with what is needed to
///   undo that change; the record is durable and sealed when the call returns. It refuses with `plan_stale`, having
///   changed nothing, when the target no longer looks as the plan saw it, unless the journal shows that it was
///   itself at work there before a crash: then it goes on, and never takes its backup a second time.
/// - **`validate` proves** that the new certificate is served, by a TLS handshake or the module's own equivalent.
/// - **`rollback` makes the target as it was** from what was recorded, newest last. It tolerates nothing done, half
///   done, and done twice; it refuses rather than overwrite what somebody else put there.
/// - Every await may be the last one: the process can die at any of them.
///
/// # Errors
/// With [`Effect::None`](crate::Effect::None) when the target is certainly unchanged; otherwise
/// [`Effect::Possible`](crate::Effect::Possible), and the engine rolls back. An error with the code
/// [`TARGET_GONE`](crate::error::codes::TARGET_GONE), class `IoPermanent`, says that the target is gone for good and not
/// only away: the engine then pauses it and writes an event `target.disabled`.
pub trait DistributionModule: Debug + Send + Sync + 'static {
    /// The kind's stable name, such as `"ssh"`.
    const KIND: &'static str;
    /// How to deliver: commands, formats, time-outs, endpoints. No secrets.
    type Config: DeserializeOwned + Send + Sync;
    /// How to log in. Decode errors are reported without their source.
    type Credentials: DeserializeOwned + Send + Sync;
    /// Where: host, port, paths. No secrets.
    type Location: DeserializeOwned + Send + Sync;
    /// What undoes one change. May hold secrets: it is sealed before it is stored.
    type Undo: Serialize + DeserializeOwned + Send + Sync;

    /// What this module can do.
    fn capabilities(&self) -> Capabilities;

    /// Checks what can be checked without the target: paths, commands, names.
    ///
    /// # Errors
    /// `Validation`, naming the field.
    fn check(&self, target: Target<'_, Self>) -> Result<()>;

    /// Says what `execute` would do.
    fn dry_run(
        &self,
        cx: &Context,
        target: Target<'_, Self>,
        bundle: &CertificateBundle,
    ) -> impl Future<Output = Result<Plan>> + Send;

    /// Delivers.
    fn execute(
        &self,
        cx: &Context,
        target: Target<'_, Self>,
        bundle: &CertificateBundle,
        plan: &ApprovedPlan,
        undo: &Journal<Self::Undo>,
    ) -> impl Future<Output = Result<Facts>> + Send;

    /// Proves delivery.
    fn validate(
        &self,
        cx: &Context,
        target: Target<'_, Self>,
        bundle: &CertificateBundle,
    ) -> impl Future<Output = Result<Validation>> + Send;

    /// Takes delivery back.
    fn rollback(
        &self,
        cx: &Context,
        target: Target<'_, Self>,
        undo: Vec<Self::Undo>,
    ) -> impl Future<Output = Result<RollbackOutcome>> + Send;
}

/// One target, with its parts in the module's own types.
#[derive(Debug)]
#[non_exhaustive]
pub struct Target<'a, M: DistributionModule + ?Sized> {
    /// The target's id.
    pub id: &'a str,
    /// The target's name, for people.
    pub name: &'a str,
    /// How to deliver.
    pub config: &'a M::Config,
    /// How to log in.
    pub credentials: &'a M::Credentials,
    /// Where.
    pub location: &'a M::Location,
}

impl<'a, M: DistributionModule + ?Sized> Target<'a, M> {
    /// A target, for tests of a module.
    pub fn new(
        id: &'a str,
        name: &'a str,
        config: &'a M::Config,
        credentials: &'a M::Credentials,
        location: &'a M::Location,
    ) -> Self {
        Self { id, name, config, credentials, location }
    }
}

impl<M: DistributionModule + ?Sized> Clone for Target<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: DistributionModule + ?Sized> Copy for Target<'_, M> {}

/// What a module can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Capabilities {
    /// Rollback restores the former certificate.
    pub reversible: bool,
    /// Validate proves that the certificate is served; otherwise it answers [`Validation::Skipped`].
    pub verifiable: bool,
    /// Executing twice has the effect of executing once, so a lost answer may be retried.
    pub idempotent: bool,
    /// The target switches in one step, so it never holds a mixture.
    pub atomic: bool,
    /// Delivery needs the private key.
    pub needs_private_key: bool,
    /// How many targets are worked on at the same time by one run.
    pub concurrency: usize,
}

impl Default for Capabilities {
    /// Can do everything but switch in one step; 25 at a time.
    fn default() -> Self {
        Self {
            reversible: true,
            verifiable: true,
            idempotent: true,
            atomic: false,
            needs_private_key: true,
            concurrency: 25,
        }
    }
}

/// What `execute` found out, for people and for the record: names and numbers, no secrets.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Facts(pub serde_json::Map<String, Value>);

impl Facts {
    /// No facts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a fact.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }
}

/// What `validate` found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Validation {
    /// The new certificate is served, or in place by the module's own proof.
    Served {
        /// What was looked at.
        endpoints: Vec<EndpointCheck>,
    },
    /// It is not.
    NotServed {
        /// What was looked at.
        endpoints: Vec<EndpointCheck>,
        /// Why, in one line.
        reason: String,
    },
    /// This kind of target cannot be verified.
    Skipped,
}

/// One endpoint that was looked at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EndpointCheck {
    /// Host and port, or what stands for them.
    pub endpoint: String,
    /// The leaf that was found there.
    pub found: Option<Fingerprint>,
    /// How many tries it took.
    pub tries: u32,
    /// What went wrong, if something did.
    pub problem: Option<String>,
    /// Whether the server showed an OCSP staple with the certificate; `None` when nobody looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ocsp_staple: Option<bool>,
}

impl EndpointCheck {
    /// What was found at `endpoint` after `tries` tries.
    pub fn new(endpoint: impl Into<String>, found: Option<Fingerprint>, tries: u32, problem: Option<String>) -> Self {
        Self { endpoint: endpoint.into(), found, tries, problem, ocsp_staple: None }
    }

    /// Sets whether the server showed an OCSP staple.
    #[must_use]
    pub fn with_ocsp_staple(mut self, present: bool) -> Self {
        self.ocsp_staple = Some(present);
        self
    }
}

/// How a rollback ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
#[non_exhaustive]
pub enum RollbackOutcome {
    /// The target is as it was.
    RolledBack,
    /// The target had not been changed.
    NothingToDo,
    /// Going back would make things worse, so nothing was done.
    Refused {
        /// A stable code, such as `foreign_change` or `ratcheted`.
        code: String,
        /// Why, in one line.
        reason: String,
    },
}
