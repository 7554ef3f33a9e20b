//! What every part of the runtime shares.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

use super::issuers::{IssuerCache, IssuerRegistry};
use super::job_log::JobLogs;
use super::sealer::Sealer;
use super::settings::Settings;
use super::vitals::Vitals;
use crate::bundle::{CertificateBundle, PrivateKey};
use crate::clock::Clock;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::issuer::AsyncIssuer;
use crate::model::{CertificateVersion, Credential, Target};
use crate::module::{ErasedModule, ModuleRegistry, TargetSpec};
use crate::queue::Lane;
use crate::secret::{Secret, SecretBytes, SecretString};
use crate::store::{Record, RecordKinds, SharedStore, StoreExt as _};

/// Store, envelope, clock and registries.
#[derive(Clone)]
pub(crate) struct Engine {
    pub(crate) store: SharedStore,
    pub(crate) sealer: Arc<Sealer>,
    /// Every kind of record, certlib's own and the host's.
    pub(crate) kinds: RecordKinds,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) modules: ModuleRegistry,
    pub(crate) issuers: IssuerRegistry,
    pub(crate) settings: Settings,
    /// Unique to this process: who holds leases and claims.
    pub(crate) node_id: String,
    pub(crate) vitals: Arc<Vitals>,
    pub(crate) job_logs: Arc<JobLogs>,
    pub(super) made: Arc<IssuerCache>,
    pub(super) limits: Arc<Mutex<HashMap<&'static str, Arc<Semaphore>>>>,
}

impl Engine {
    /// The same over the connections that only `lane` uses.
    pub(crate) fn on(&self, lane: Lane) -> Arc<Self> {
        let store = self.store.lane(lane).unwrap_or_else(|| self.store.clone());
        Arc::new(Self { store, ..self.clone() })
    }

    /// The issuer with `id`, ready for use.
    pub(crate) async fn issuer(&self, cx: &Context, id: &str) -> Result<Arc<dyn AsyncIssuer>> {
        self.made.issuer(self, cx, id).await
    }

    /// Limits how many targets of one module are worked on by this node at the same time.
    pub(crate) fn module_limit(&self, module: &dyn ErasedModule) -> Arc<Semaphore> {
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        let permits = module.capabilities().concurrency.max(1);
        limits.entry(module.kind()).or_insert_with(|| Arc::new(Semaphore::new(permits))).clone()
    }

    /// The secret in `record`.
    pub(crate) async fn open<R: Record>(&self, record: &R) -> Result<SecretBytes> {
        match record.sealed() {
            Some(field) => self.sealer.open(field).await,
            None => Err(Error::validation("engine.open", "secret_missing", "this kind of record has no secret")
                .with("kind", R::KIND)),
        }
    }

    /// The secret of a credential of `project`.
    pub(crate) async fn open_credential(&self, project: &str, id: Option<&str>) -> Result<Option<SecretString>> {
        const OPERATION: &str = "credential.open";
        let Some(id) = id else { return Ok(None) };
        let credential = match self.store.find::<Credential>(id).await? {
            Some(credential) if credential.project == project => credential,
            _ => return Err(Error::not_found(OPERATION, format_args!("credential {}", id.escape_debug()))),
        };
        let plain = self.open(&credential.record).await?;
        let text = std::str::from_utf8(plain.expose())
            .map_err(|_| Error::permanent(OPERATION, "credential_invalid", "the stored credential is not text"))?;
        Ok(Some(Secret::new(text.to_owned())))
    }

    /// A target with its credential opened.
    pub(crate) async fn target_spec(&self, target: &Target) -> Result<TargetSpec> {
        let credentials = self.open_credential(&target.project, target.credential_id.as_deref()).await?;
        Ok(TargetSpec::new(&*target.id, &*target.name, target.config.clone(), target.location.clone(), credentials))
    }

    /// The bundle of a version, with its key opened.
    pub(crate) async fn open_bundle(&self, version: &CertificateVersion) -> Result<CertificateBundle> {
        let key = self.open(version).await?;
        CertificateBundle::from_pem(version.chain_pem.as_bytes())?.with_key(PrivateKey::from_pkcs8(key.expose())?)
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("node_id", &self.node_id).finish_non_exhaustive()
    }
}
