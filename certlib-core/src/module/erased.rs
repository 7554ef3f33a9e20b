//! Typed at the edge, erased in the middle: the twin of [`DistributionModule`] that the engine holds.
//!
//! JSON is decoded here and nowhere else.

use std::fmt::Debug;

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tracing::Instrument as _;
use zeroize::Zeroizing;

use super::journal::{Journal, JournalSink, decode};
use super::plan::{ApprovedPlan, Plan};
use super::{Capabilities, DistributionModule, Facts, RollbackOutcome, Target, Validation};
use crate::bundle::CertificateBundle;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::secret::{SecretBytes, SecretString};

/// A target as it is stored: parts still in JSON.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct TargetSpec {
    /// The target's id.
    pub id: String,
    /// The target's name, for people.
    pub name: String,
    /// How to deliver.
    pub config: Value,
    /// Where.
    pub location: Value,
    /// How to log in: JSON text; `None` is `null`.
    pub credentials: Option<SecretString>,
}

impl TargetSpec {
    /// A target.
    pub fn new(
        id: impl Into<String>,
        name: impl Into<String>,
        config: Value,
        location: Value,
        credentials: Option<SecretString>,
    ) -> Self {
        Self { id: id.into(), name: name.into(), config, location, credentials }
    }
}

/// [`DistributionModule`] without its types. Implemented for every module; the methods mean the same.
#[async_trait]
pub trait ErasedModule: Debug + Send + Sync {
    /// [`DistributionModule::KIND`].
    fn kind(&self) -> &'static str;

    /// [`DistributionModule::capabilities`].
    fn capabilities(&self) -> Capabilities;

    /// Decodes the target's parts and has the module check them.
    ///
    /// # Errors
    /// `Validation` `config_invalid`, `location_invalid`, `credentials_invalid`, and the module's own.
    fn check(&self, target: &TargetSpec) -> Result<()>;

    /// [`DistributionModule::dry_run`].
    async fn dry_run(&self, cx: &Context, target: &TargetSpec, bundle: &CertificateBundle) -> Result<Plan>;

    /// [`DistributionModule::execute`].
    async fn execute(
        &self,
        cx: &Context,
        target: &TargetSpec,
        bundle: &CertificateBundle,
        plan: &ApprovedPlan,
        undo: &dyn JournalSink,
    ) -> Result<Facts>;

    /// [`DistributionModule::validate`].
    async fn validate(&self, cx: &Context, target: &TargetSpec, bundle: &CertificateBundle) -> Result<Validation>;

    /// [`DistributionModule::rollback`].
    async fn rollback(&self, cx: &Context, target: &TargetSpec, undo: &[SecretBytes]) -> Result<RollbackOutcome>;
}

/// The decoded parts of a target.
struct Parts<M: DistributionModule> {
    config: M::Config,
    credentials: M::Credentials,
    location: M::Location,
}

impl<M: DistributionModule> Parts<M> {
    fn decode(spec: &TargetSpec) -> Result<Self> {
        Ok(Self {
            config: part(&spec.config, M::KIND, "config_invalid")?,
            location: part(&spec.location, M::KIND, "location_invalid")?,
            credentials: credentials(spec.credentials.as_ref(), M::KIND)?,
        })
    }

    fn target<'a>(&'a self, spec: &'a TargetSpec) -> Target<'a, M> {
        Target::new(&spec.id, &spec.name, &self.config, &self.credentials, &self.location)
    }
}

fn part<T: DeserializeOwned>(value: &Value, module: &'static str, code: &'static str) -> Result<T> {
    let empty = Value::Object(serde_json::Map::new());
    let value = if value.is_null() { &empty } else { value };
    T::deserialize(value).map_err(|error| {
        Error::validation("target.decode", code, format!("the target's settings cannot be used: {error}"))
            .with("module", module)
    })
}

fn credentials<T: DeserializeOwned>(text: Option<&SecretString>, module: &'static str) -> Result<T> {
    let null = Zeroizing::new("null".to_owned());
    let text = text.map_or(null.as_str(), |text| text.expose().as_str());
    // The source is dropped: serde quotes values.
    serde_json::from_str(text).map_err(|_| {
        Error::validation(
            "target.decode",
            "credentials_invalid",
            "the credential does not have the form this module needs; see the module's documentation",
        )
        .with("module", module)
    })
}

#[async_trait]
impl<M: DistributionModule> ErasedModule for M {
    fn kind(&self) -> &'static str {
        M::KIND
    }

    fn capabilities(&self) -> Capabilities {
        DistributionModule::capabilities(self)
    }

    fn check(&self, spec: &TargetSpec) -> Result<()> {
        let parts = Parts::<M>::decode(spec)?;
        DistributionModule::check(self, parts.target(spec))
    }

    async fn dry_run(&self, cx: &Context, spec: &TargetSpec, bundle: &CertificateBundle) -> Result<Plan> {
        let parts = Parts::<M>::decode(spec)?;
        let span = tracing::info_span!("dry_run", module = M::KIND, target = %spec.name);
        DistributionModule::dry_run(self, cx, parts.target(spec), bundle).instrument(span).await
    }

    async fn execute(
        &self,
        cx: &Context,
        spec: &TargetSpec,
        bundle: &CertificateBundle,
        plan: &ApprovedPlan,
        undo: &dyn JournalSink,
    ) -> Result<Facts> {
        let parts = Parts::<M>::decode(spec)?;
        let span = tracing::info_span!("execute", module = M::KIND, target = %spec.name);
        let journal = Journal::new(undo);
        DistributionModule::execute(self, cx, parts.target(spec), bundle, plan, &journal).instrument(span).await
    }

    async fn validate(&self, cx: &Context, spec: &TargetSpec, bundle: &CertificateBundle) -> Result<Validation> {
        let parts = Parts::<M>::decode(spec)?;
        let span = tracing::info_span!("validate", module = M::KIND, target = %spec.name);
        DistributionModule::validate(self, cx, parts.target(spec), bundle).instrument(span).await
    }

    async fn rollback(&self, cx: &Context, spec: &TargetSpec, undo: &[SecretBytes]) -> Result<RollbackOutcome> {
        let parts = Parts::<M>::decode(spec)?;
        let span = tracing::info_span!("rollback", module = M::KIND, target = %spec.name);
        DistributionModule::rollback(self, cx, parts.target(spec), decode(undo)?).instrument(span).await
    }
}
