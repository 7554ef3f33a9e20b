//! Deliveries that somebody asks for: of the newest version, or back to an older one.

use std::collections::BTreeMap;

use serde_json::json;
use time::Duration;

use super::{Client, PlannedTarget};
use crate::distribution::{self, RUN_SUBJECT};
use crate::error::{Error, Result};
use crate::model::{
    ApprovalRequest, Certificate, CertificateVersion, Distribution, Event, Run, TargetRun, VersionState, check_name,
};
use crate::policy;
use crate::store::{StoreExt as _, TypedQuery, WriteBatch};

const OPERATION: &str = "client.distribute";

/// How long an older version must still be valid to go back to it.
const LEAST_LEFT: Duration = Duration::DAY;

/// Who asks for a delivery, and how.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Request {
    /// Who asks: cannot approve it.
    pub by: String,
    /// Does not wait for maintenance windows. A pause holds all the same, and so does an approval.
    pub urgent: bool,
}

impl Request {
    /// A request of `by`, without hurry.
    pub fn of(by: impl Into<String>) -> Self {
        Self { by: by.into(), urgent: false }
    }

    /// Does not wait for maintenance windows.
    #[must_use]
    pub fn urgent(mut self) -> Self {
        self.urgent = true;
        self
    }
}

impl Client {
    /// Delivers the newest version to all targets it is attached to, where no rule keeps it from them. Returns the runs
    /// that do it. An older version that was [gone back to](Self::go_back) is given up.
    ///
    /// # Errors
    /// `not_found`; `nothing_issued`; `no_targets`; `name_invalid`; `conflict` when the certificate changes at the same
    /// moment.
    pub async fn distribute_as(&self, project: &str, certificate_id: &str, request: &Request) -> Result<Vec<Run>> {
        let certificate = self.owned::<Certificate>(project, certificate_id).await?;
        let version = certificate.latest_version;
        self.deliver(project, certificate_id, version, request).await
    }

    /// Delivers an older version to all targets of its certificate, which keep it until the next one is issued or the
    /// newest is asked for again. Rules hold for this as for any delivery.
    ///
    /// # Errors
    /// `not_found`; `no_targets`; `version_revoked`, `version_expired` when less than a day of it is left; `name_invalid`;
    /// `conflict` when the certificate changes at the same moment.
    pub async fn go_back(
        &self,
        project: &str,
        certificate_id: &str,
        version: u32,
        request: &Request,
    ) -> Result<Vec<Run>> {
        self.owned::<Certificate>(project, certificate_id).await?;
        let id = CertificateVersion::id_of(certificate_id, version);
        let record = self.engine.store.load::<CertificateVersion>(&id).await?;
        let refuse = |code, why| Err(Error::validation(OPERATION, code, why).with("version", version));
        if record.state != VersionState::Issued {
            return refuse("version_revoked", "this version was revoked");
        }
        if record.leaf.not_after - self.engine.clock.now() < LEAST_LEFT {
            return refuse("version_expired", "this version has less than a day left");
        }
        self.deliver(project, certificate_id, version, request).await
    }

    /// What the approvers of `request_id` are asked to agree to: the plan of every target, by its name.
    ///
    /// # Errors
    /// `not_found`; `approval_invalid` when the request is not about a run.
    pub async fn approval_plans(&self, project: &str, request_id: &str) -> Result<Vec<PlannedTarget>> {
        let request = self.owned::<ApprovalRequest>(project, request_id).await?;
        if request.subject_kind != RUN_SUBJECT {
            let why = "only the approval of a run has plans";
            return Err(Error::validation("client.approval_plans", "approval_invalid", why));
        }
        let query = TypedQuery::<TargetRun>::new().equal("run", &*request.subject_id);
        let targets = self.engine.store.list_all(query).await?;
        let mut planned: BTreeMap<_, _> = BTreeMap::new();
        for target in targets {
            let TargetRun { target_id, target_name, plan, error, .. } = target.record;
            let missing =
                || Error::validation("client.approval_plans", "nothing_planned", "there is no plan").to_record();
            let plan = plan.ok_or_else(|| error.unwrap_or_else(missing));
            planned.insert((target_name.clone(), target_id.clone()), PlannedTarget { target_id, target_name, plan });
        }
        Ok(planned.into_values().collect())
    }

    async fn deliver(&self, project: &str, certificate_id: &str, version: u32, request: &Request) -> Result<Vec<Run>> {
        check_name("who asks", &request.by)?;
        let mut certificate = self.owned::<Certificate>(project, certificate_id).await?;
        let distributions = self.distributable(project, &certificate).await?;
        let now = self.engine.clock.now();
        let back = version < certificate.latest_version;
        let kind = if back { "certificate.version_held" } else { "distribution.requested" };
        let data = json!({ "by": request.by, "version": version, "urgent": request.urgent });
        let mut batch = WriteBatch::new().insert(&Event::new(project, kind, certificate_id, data, now))?;
        let held = back.then_some(version);
        if certificate.held_version != held {
            certificate.held_version = held;
            // It may end before the newest, whose time to renew it was until now.
            if let Some(held) = held {
                let id = CertificateVersion::id_of(certificate_id, held);
                let leaf = self.engine.store.load::<CertificateVersion>(&id).await?.record.leaf;
                let sooner = policy::renew_at(&leaf, &certificate.renewal, 0.5);
                certificate.renew_at = certificate.renew_at.into_iter().chain(sooner).min();
            }
            certificate.updated_at = now;
            batch = batch.update(&certificate)?;
        }
        let mut runs = Vec::new();
        for record in distributions {
            let run = Run {
                requested_by: request.by.clone(),
                urgent: request.urgent,
                back,
                ..distribution::new_run(&record, version, now)
            };
            batch = batch.insert(&run)?.enqueue(distribution::job(&run));
            runs.push(run);
        }
        self.engine.store.commit(batch).await?;
        Ok(runs)
    }

    /// The distributions of a certificate that has something to deliver and somewhere to deliver it to.
    pub(super) async fn distributable(&self, project: &str, certificate: &Certificate) -> Result<Vec<Distribution>> {
        if certificate.latest_version == 0 {
            return Err(Error::validation(OPERATION, "nothing_issued", "issue the certificate first"));
        }
        let mut distributions = self.distributions(project, &certificate.id).await?;
        distributions.retain(|record| !record.targets.is_empty());
        if distributions.is_empty() {
            return Err(Error::validation(OPERATION, "no_targets", "attach the certificate to targets first"));
        }
        Ok(distributions)
    }
}
