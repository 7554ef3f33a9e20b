//! The issuers a runtime knows how to make, and those it has made.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio::sync::Mutex;

use super::engine::Engine;
use super::sealer::Sealer;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::issuer::{AsyncIssuer, IssuerFactory, IssuerSpec, IssuerState};
use crate::model::{Issuer, IssuerSecret};
use crate::secret::SecretBytes;
use crate::store::{SealedField, SharedStore, StoreExt as _, Versioned, WriteBatch};

/// Issuer factories by kind: a value, never a global.
#[derive(Debug, Clone, Default)]
pub struct IssuerRegistry {
    factories: BTreeMap<&'static str, Arc<dyn IssuerFactory>>,
}

impl IssuerRegistry {
    /// No factories.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a factory.
    ///
    /// # Errors
    /// `Validation` `issuer_duplicate` when its kind is taken.
    pub fn register(mut self, factory: impl IssuerFactory) -> Result<Self> {
        let kind = factory.kind();
        if self.factories.insert(kind, Arc::new(factory)).is_some() {
            return Err(Error::validation("issuer.register", "issuer_duplicate", "two issuers have the same kind")
                .with("kind", kind));
        }
        Ok(self)
    }

    /// The factory of this kind.
    ///
    /// # Errors
    /// `Validation` `issuer_unknown`, naming the kinds there are.
    pub fn factory(&self, kind: &str) -> Result<Arc<dyn IssuerFactory>> {
        self.factories.get(kind).cloned().ok_or_else(|| {
            Error::validation("issuer.lookup", "issuer_unknown", "there is no such kind of issuer")
                .with("kind", kind.escape_debug())
                .with("known", self.factories.keys().copied().collect::<Vec<_>>().join(" "))
        })
    }
}

/// Issuers made so far, by id and the revision of their configuration.
#[derive(Debug, Default)]
pub(super) struct IssuerCache {
    made: Mutex<HashMap<String, Made>>,
}

/// An issuer and the revision of the configuration it was made from.
#[derive(Debug)]
struct Made {
    revision: u64,
    issuer: Arc<dyn AsyncIssuer>,
}

impl IssuerCache {
    /// The issuer with `id`, made anew when its configuration changed.
    pub(super) async fn issuer(&self, engine: &Engine, cx: &Context, id: &str) -> Result<Arc<dyn AsyncIssuer>> {
        let record: Versioned<Issuer> = engine.store.load(id).await?;
        if let Some(made) = self.made.lock().await.get(id)
            && made.revision == record.revision
        {
            return Ok(made.issuer.clone());
        }
        let factory = engine.issuers.factory(&record.kind)?;
        let state = Arc::new(SealedState {
            id: record.id.clone(),
            project: record.project.clone(),
            store: engine.store.clone(),
            sealer: engine.sealer.clone(),
        });
        let mut spec =
            IssuerSpec::new(&*record.id, record.config.clone(), state, engine.store.clone(), engine.clock.clone());
        spec.project = record.project.clone();
        spec.credentials = engine.open_credential(&record.project, record.credential_id.as_deref()).await?;
        // Built outside the lock: a CA that hangs must not hold up the others. A double build is harmless, because
        // whatever an issuer creates it keeps under a revision check first.
        let issuer = factory.build(cx, spec).await?;
        self.made.lock().await.insert(record.id.clone(), Made { revision: record.revision, issuer: issuer.clone() });
        Ok(issuer)
    }
}

/// [`IssuerState`] as a sealed record.
#[derive(Debug)]
struct SealedState {
    id: String,
    project: String,
    store: SharedStore,
    sealer: Arc<Sealer>,
}

#[async_trait::async_trait]
impl IssuerState for SealedState {
    async fn load(&self) -> Result<Option<(SecretBytes, u64)>> {
        match self.store.find::<IssuerSecret>(&self.id).await? {
            Some(kept) => {
                let field = SealedField { sealed: &kept.sealed, aad: IssuerSecret::aad(&self.project, &self.id) };
                Ok(Some((self.sealer.open(field).await?, kept.revision)))
            }
            None => Ok(None),
        }
    }

    async fn save(&self, value: &SecretBytes, revision: Option<u64>) -> Result<u64> {
        let sealed = self.sealer.seal(value.expose(), &IssuerSecret::aad(&self.project, &self.id)).await?;
        let record = IssuerSecret { id: self.id.clone(), project: self.project.clone(), sealed };
        match revision {
            Some(revision) => {
                self.store.commit(WriteBatch::new().update(&Versioned { record, revision })?).await?;
                Ok(revision + 1)
            }
            None => Ok(self.store.insert(record).await?.revision),
        }
    }
}
