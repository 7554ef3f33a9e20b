//! The library's front door: everything a service, a command line or an operator does goes through a [`Client`].
//!
//! Ids of other projects do not exist here: each call names the project it acts in.

mod approvals;
mod backup;
mod bulk;
mod certificates;
mod cluster;
mod delivery;
mod exports;
mod job_log;
mod jobs;
mod keyring;
mod orders;
mod policy;
mod rules;
mod setup;
mod targets;

use std::fmt;
use std::sync::Arc;

pub use self::approvals::NewApproval;
pub use self::bulk::{BulkReport, BulkRetry};
pub use self::certificates::{Material, NewCertificate, Revocation};
pub use self::cluster::{ClusterInstance, ClusterInstances};
pub use self::delivery::Request;
pub use self::exports::DownloadToken;
pub use self::keyring::{KekReadiness, KekRole, KekStatus, KeyringStatus};
pub use self::orders::OrderResolution;
pub use self::rules::TargetRules;
pub use self::setup::{NewIssuer, NewTarget};
pub use self::targets::{DistributionStatus, PlannedTarget};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::runtime::Engine;
use crate::secret::{Aad, Sealed, SecretBytes};
use crate::store::{Record, SharedStore, StoreExt as _, Versioned};

/// A handle to certlib's operations; cheap to clone.
#[derive(Clone)]
pub struct Client {
    engine: Arc<Engine>,
}

impl Client {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }

    /// The store, for records of your own.
    pub fn store(&self) -> &SharedStore {
        &self.engine.store
    }

    /// Seals a secret of your own, under the key that seals on all nodes. Say where it is with
    /// [`Record::sealed`], and [add](crate::runtime::RuntimeBuilder::record) the kind of record.
    ///
    /// # Errors
    /// As [`SecretEnvelope`](crate::secret::SecretEnvelope) and [`Store`](crate::store::Store). Cancel-safe.
    pub async fn seal(&self, plain: &[u8], aad: &Aad<'_>) -> Result<Sealed> {
        self.engine.sealer.seal(plain, aad).await
    }

    /// Opens the secret in `record`.
    ///
    /// # Errors
    /// `secret_missing` when it has none; as [`SecretEnvelope`](crate::secret::SecretEnvelope), but a key that is
    /// missing here, or whose provider refuses us, is `IoTransient`. Cancel-safe.
    pub async fn open<R: Record>(&self, record: &R) -> Result<SecretBytes> {
        self.engine.open(record).await
    }

    /// The clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.engine.clock
    }

    /// Loads a record that must belong to `project`.
    async fn owned<R: Record + Owned>(&self, project: &str, id: &str) -> Result<Versioned<R>> {
        match self.engine.store.find::<R>(id).await? {
            Some(record) if record.project() == project => Ok(record),
            _ => Err(Error::not_found("client.load", format_args!("{} {}", R::KIND, id.escape_debug()))),
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// A record that belongs to a project.
trait Owned {
    fn project(&self) -> &str;
}

macro_rules! owned {
    ($($record:ty),*) => {
        $(impl Owned for $record {
            fn project(&self) -> &str {
                &self.project
            }
        })*
    };
}

owned!(
    crate::model::ApprovalRequest,
    crate::model::Certificate,
    crate::model::Credential,
    crate::model::Distribution,
    crate::model::Issuer,
    crate::model::Order,
    crate::model::Run,
    crate::model::Target
);
