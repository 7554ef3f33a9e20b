//! Certificates: create, issue, renew, revoke, download.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Client;
use crate::bundle::{CertificateBundle, KeyType};
use crate::error::{Error, Result};
use crate::issuance::{self, IssueReason};
use crate::issuer::RevocationReason;
use crate::model::{
    ApprovalRule, Certificate, CertificateState, CertificateVersion, Distribution, Event, Issuer, RenewalPolicy,
    Rollout, Target, Trigger, VersionState, check_name, new_id,
};
use crate::policy::{self, Wish};
use crate::store::{Cursor, StoreExt as _, TypedPage, TypedQuery, WriteBatch};

/// A certificate to create.
#[derive(Debug, Clone, Default)]
pub struct NewCertificate {
    /// Its name, for people; the first of `names` when empty.
    pub name: String,
    /// DNS names, wildcards, IP addresses.
    pub names: Vec<String>,
    /// The key to generate for each version.
    pub key_type: KeyType,
    /// The issuer.
    pub issuer_id: String,
    /// The CA's profile, if one is asked for.
    pub profile: Option<String>,
    /// How long each version should be valid, if the CA lets us choose.
    pub validity: Option<Duration>,
    /// When to renew.
    pub renewal: RenewalPolicy,
    /// The targets to deliver every version to; may be empty.
    pub targets: Vec<String>,
    /// How many targets are worked on at the same time; [`Distribution::DEFAULT_BATCH`] when `None`.
    pub batch_size: Option<usize>,
    /// Who must agree before anything is delivered; `None`: nobody, unless a target wants it.
    pub approval: Option<ApprovalRule>,
    /// How far a failure may spread.
    pub rollout: Rollout,
}

impl NewCertificate {
    /// A certificate for `names` from the issuer `issuer_id`, without targets.
    pub fn new(names: impl IntoIterator<Item = impl Into<String>>, issuer_id: impl Into<String>) -> Self {
        let names = names.into_iter().map(Into::into).collect();
        Self { names, issuer_id: issuer_id.into(), ..Self::default() }
    }

    /// Delivers every version to these targets.
    #[must_use]
    pub fn deliver_to(mut self, targets: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.targets.extend(targets.into_iter().map(Into::into));
        self
    }
}

/// How to revoke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Revocation {
    /// Which version; the newest when `None`.
    pub version: Option<u32>,
    /// Why.
    pub reason: RevocationReason,
    /// Renew at once, so that nothing serves the revoked version longer than needed.
    pub replace: bool,
}

impl Default for Revocation {
    /// The newest version, without a reason, replaced at once.
    fn default() -> Self {
        Self { version: None, reason: RevocationReason::Unspecified, replace: true }
    }
}

/// Issued material with its key.
#[derive(Debug)]
#[non_exhaustive]
pub struct Material {
    /// The version.
    pub version: CertificateVersion,
    /// Leaf, chain and, if it was asked for, key.
    pub bundle: CertificateBundle,
}

impl Client {
    /// Creates a certificate, and its distribution if it has targets. Nothing is issued yet: see [`Client::issue`].
    ///
    /// # Errors
    /// `names_invalid`, `name_invalid`, `batch_invalid`, `approval_invalid`, `rollout_invalid`, `not_found`; `policy_violated`, naming every
    /// rule that is broken.
    pub async fn create_certificate(&self, project: &str, new: NewCertificate) -> Result<Certificate> {
        self.project(project).await?;
        let names = policy::normalize_names(&new.names)?;
        let name = if new.name.is_empty() { names[0].clone() } else { new.name };
        check_name("the certificate's name", &name)?;
        self.owned::<Issuer>(project, &new.issuer_id).await?;
        let wish = Wish { name: &name, names: &names, key_type: new.key_type, issuer_id: &new.issuer_id };
        self.admit(project, &wish).await?;
        new.approval.as_ref().map_or(Ok(()), ApprovalRule::check)?;
        new.rollout.check()?;
        let now = self.engine.clock.now();
        let certificate = Certificate {
            id: new_id(),
            project: project.to_owned(),
            name,
            names,
            key_type: new.key_type,
            issuer_id: new.issuer_id,
            profile: new.profile,
            validity_seconds: new.validity.map(|validity| validity.as_secs()),
            renewal: new.renewal,
            state: CertificateState::Pending,
            active_version: None,
            latest_version: 0,
            held_version: None,
            renew_at: None,
            hint: None,
            hint_check_at: None,
            expiry: None,
            distribution_check_at: None,
            last_error: None,
            created_at: now,
            updated_at: now,
        };
        let data = serde_json::json!({ "names": &certificate.names });
        let event = Event::new(project, "certificate.created", &certificate.id, data, now);
        let mut batch = WriteBatch::new().insert(&certificate)?.insert(&event)?;
        if !new.targets.is_empty() {
            let mut distribution =
                self.distribution(project, &certificate.id, new.targets, new.batch_size, Trigger::Automatic).await?;
            distribution.approval = new.approval;
            distribution.rollout = new.rollout;
            batch = batch.insert(&distribution)?;
        }
        self.engine.store.commit(batch).await?;
        Ok(certificate)
    }

    /// A distribution record for targets that must belong to the project.
    pub(super) async fn distribution(
        &self,
        project: &str,
        certificate_id: &str,
        mut targets: Vec<String>,
        batch_size: Option<usize>,
        trigger: Trigger,
    ) -> Result<Distribution> {
        let batch_size = batch_size.unwrap_or(Distribution::DEFAULT_BATCH);
        if batch_size == 0 || batch_size > 1000 {
            return Err(Error::validation("distribution.create", "batch_invalid", "the batch size is 1 to 1000")
                .with("actual", batch_size));
        }
        let mut seen = std::collections::HashSet::new();
        targets.retain(|target| seen.insert(target.clone()));
        for target in &targets {
            self.owned::<Target>(project, target).await?;
        }
        Ok(Distribution {
            id: new_id(),
            project: project.to_owned(),
            certificate_id: certificate_id.to_owned(),
            targets,
            batch_size,
            trigger,
            approval: None,
            rollout: Rollout::default(),
            created_at: self.engine.clock.now(),
        })
    }

    /// The certificate with `id`.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn certificate(&self, project: &str, id: &str) -> Result<Certificate> {
        Ok(self.owned::<Certificate>(project, id).await?.record)
    }

    /// One page of the project's certificates, oldest first.
    ///
    /// # Errors
    /// As [`Store`](crate::store::Store).
    pub async fn certificates(
        &self,
        project: &str,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<TypedPage<Certificate>> {
        self.engine.store.list(TypedQuery::new().equal("project", project).after(after).limit(limit)).await
    }

    /// The versions of a certificate, oldest first. Their keys stay sealed.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn versions(&self, project: &str, id: &str) -> Result<Vec<CertificateVersion>> {
        self.owned::<Certificate>(project, id).await?;
        let versions = self.engine.store.list_all(TypedQuery::new().equal("certificate", id)).await?;
        Ok(versions.into_iter().map(|version| version.record).collect())
    }

    /// Asks for the first, or a further, version. Returns the id of the job that does it; a job that is under way
    /// already is returned instead of a second one.
    ///
    /// # Errors
    /// `not_found`; `policy_violated`.
    pub async fn issue(&self, project: &str, id: &str) -> Result<String> {
        self.request_issuance(project, id, IssueReason::Requested).await
    }

    /// Asks for renewal now, whatever its time.
    ///
    /// # Errors
    /// `not_found`; `policy_violated`.
    pub async fn renew(&self, project: &str, id: &str) -> Result<String> {
        self.request_issuance(project, id, IssueReason::Renewal).await
    }

    async fn request_issuance(&self, project: &str, id: &str, reason: IssueReason) -> Result<String> {
        let certificate = self.owned::<Certificate>(project, id).await?;
        self.admit(project, &Wish::of(&certificate)).await?;
        let job = issuance::job(&certificate, reason);
        let commit = self.engine.store.commit(WriteBatch::new().enqueue(job)).await?;
        first_job(commit.jobs)
    }

    /// Asks the CA to revoke a version. Returns the id of the job that does it.
    ///
    /// # Errors
    /// `not_found` for the certificate or the version.
    pub async fn revoke(&self, project: &str, id: &str, revocation: Revocation) -> Result<String> {
        let certificate = self.owned::<Certificate>(project, id).await?;
        let version = revocation.version.unwrap_or(certificate.latest_version);
        self.engine.store.load::<CertificateVersion>(&CertificateVersion::id_of(id, version)).await?;
        let job = issuance::revocation_job(&certificate, Revocation { version: Some(version), ..revocation });
        let commit = self.engine.store.commit(WriteBatch::new().enqueue(job)).await?;
        first_job(commit.jobs)
    }

    /// The material of `version`, or of the live one, or else of the newest; with its private key if `with_key`.
    ///
    /// # Errors
    /// `not_found` when nothing was issued yet; `export_forbidden` when the project's policy keeps its keys; as
    /// [`SecretEnvelope`](crate::secret::SecretEnvelope).
    pub async fn material(&self, project: &str, id: &str, version: Option<u32>, with_key: bool) -> Result<Material> {
        let material = self.open_material(project, id, version, with_key).await?;
        if with_key {
            self.engine.store.insert(self.key_exported(project, id, material.version.version)).await?;
        }
        Ok(material)
    }

    /// As [`Client::material`], but without telling that the key has left: that is the caller's to do.
    pub(super) async fn open_material(
        &self,
        project: &str,
        id: &str,
        version: Option<u32>,
        with_key: bool,
    ) -> Result<Material> {
        let version = self.exportable(project, id, version, with_key).await?;
        let bundle = if with_key {
            self.engine.open_bundle(&version).await?
        } else {
            CertificateBundle::from_pem(version.chain_pem.as_bytes())?
        };
        Ok(Material { version, bundle })
    }

    /// The version that may be exported: `version`, or the live one, or else the newest.
    pub(super) async fn exportable(
        &self,
        project: &str,
        id: &str,
        version: Option<u32>,
        with_key: bool,
    ) -> Result<CertificateVersion> {
        let certificate = self.owned::<Certificate>(project, id).await?;
        let version = version.or(certificate.active_version).unwrap_or(certificate.latest_version);
        let record = self.engine.store.load::<CertificateVersion>(&CertificateVersion::id_of(id, version)).await?;
        if with_key && !self.issuance_policy(project).await?.export_keys {
            let why = "the project's policy does not let private keys be downloaded";
            return Err(Error::validation("certificate.material", "export_forbidden", why));
        }
        Ok(record.record)
    }

    /// The event that a private key has left.
    pub(super) fn key_exported(&self, project: &str, id: &str, version: u32) -> Event {
        let data = serde_json::json!({ "version": version });
        Event::new(project, "certificate.key_exported", id, data, self.engine.clock.now())
    }

    /// Whether `version` of a certificate was revoked.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn is_revoked(&self, project: &str, id: &str, version: u32) -> Result<bool> {
        self.owned::<Certificate>(project, id).await?;
        let record = self.engine.store.load::<CertificateVersion>(&CertificateVersion::id_of(id, version)).await?;
        Ok(matches!(record.state, VersionState::Revoked { .. }))
    }
}

/// The id of the only job of a commit.
pub(super) fn first_job(jobs: Vec<crate::queue::Enqueued>) -> Result<String> {
    jobs.into_iter()
        .next()
        .map(|job| job.id)
        .ok_or_else(|| Error::permanent("client.enqueue", "store_protocol", "the store did not report the job"))
}
