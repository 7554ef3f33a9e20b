//! Distribution: attach, run, preview, watch.

use futures::StreamExt as _;
use futures::stream;

use super::{Client, Request};
use crate::context::{Context, Subject};
use crate::distribution;
use crate::error::{ErrorRecord, Result};
use crate::model::{Certificate, CertificateVersion, Distribution, Run, Target, TargetRun, Trigger, new_id};
use crate::module::Plan;
use crate::store::{StoreExt as _, TypedQuery, WriteBatch};

/// What a run would do to one target, or why that cannot be said.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PlannedTarget {
    /// The target.
    pub target_id: String,
    /// Its name.
    pub target_name: String,
    /// The plan.
    pub plan: std::result::Result<Plan, ErrorRecord>,
}

/// How the latest run of a certificate stands.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DistributionStatus {
    /// The run.
    pub run: Run,
    /// Its targets, by id.
    pub targets: Vec<TargetRun>,
}

impl Client {
    /// Attaches a certificate to more targets: each new version is delivered there too. With an automatic trigger, the
    /// version there is already is delivered at the leader's next sweep.
    ///
    /// # Errors
    /// `not_found`, `batch_invalid`; `conflict` when the certificate is changed all the time.
    pub async fn attach(
        &self,
        project: &str,
        certificate_id: &str,
        targets: Vec<String>,
        batch_size: Option<usize>,
        trigger: Trigger,
    ) -> Result<Distribution> {
        const TRIES: usize = 10;
        let mut certificate = self.owned::<Certificate>(project, certificate_id).await?;
        let record = self.distribution(project, certificate_id, targets, batch_size, trigger).await?;
        let mut tries = 0;
        loop {
            // Written together with the certificate: an issuance that does not see the distribution yet meets the
            // change, and looks again.
            let now = self.engine.clock.now();
            certificate.updated_at = now;
            if trigger == Trigger::Automatic && certificate.latest_version > 0 {
                certificate.distribution_check_at = Some(now);
            }
            match self.engine.store.commit(WriteBatch::new().insert(&record)?.update(&certificate)?).await {
                Ok(_) => return Ok(record),
                Err(error) if error.is_conflict() && tries < TRIES => tries += 1,
                Err(error) => return Err(error),
            }
            certificate = self.owned::<Certificate>(project, certificate_id).await?;
        }
    }

    /// The distributions of a certificate, oldest first.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn distributions(&self, project: &str, certificate_id: &str) -> Result<Vec<Distribution>> {
        self.owned::<Certificate>(project, certificate_id).await?;
        let all = self.engine.store.list_all(TypedQuery::new().equal("certificate", certificate_id)).await?;
        Ok(all.into_iter().map(|record| record.record).collect())
    }

    /// [`Client::distribute_as`], when nobody in particular asks.
    ///
    /// # Errors
    /// As there.
    pub async fn distribute(&self, project: &str, certificate_id: &str) -> Result<Vec<Run>> {
        self.distribute_as(project, certificate_id, &Request::of("operator")).await
    }

    /// Says what [`Client::distribute`] would do, target by target, and changes nothing. `progress` is called after
    /// each target with how many are done.
    ///
    /// # Errors
    /// `not_found`; `nothing_issued`; `no_targets`. A target that cannot be planned is reported, not an error.
    pub async fn dry_run(
        &self,
        project: &str,
        certificate_id: &str,
        mut progress: impl FnMut(usize) + Send,
    ) -> Result<Vec<PlannedTarget>> {
        let certificate = self.owned::<Certificate>(project, certificate_id).await?;
        let distributions = self.distributable(project, &certificate).await?;
        let version = certificate.latest_version;
        let id = CertificateVersion::id_of(certificate_id, version);
        let bundle = self.engine.open_bundle(&self.engine.store.load::<CertificateVersion>(&id).await?.record).await?;
        let cx = Context::with(self.engine.clock.clone(), tokio_util::sync::CancellationToken::new(), new_id())
            .about(Subject::certificate(project, certificate_id, version));
        let targets: Vec<String> = distributions.into_iter().flat_map(|record| record.targets).collect();
        let (cx, bundle) = (&cx, &bundle);
        let mut plans = stream::iter(targets)
            .map(|target| async move {
                let record = self.owned::<Target>(project, &target).await?.record;
                let plan = async {
                    let module = self.engine.modules.module(&record.module)?;
                    let spec = self.engine.target_spec(&record).await?;
                    module.dry_run(cx, &spec, bundle).await
                };
                let plan = plan.await.map_err(|error| error.to_record());
                Ok(PlannedTarget { target_id: record.id, target_name: record.name, plan })
            })
            .buffered(distribution::MODULE_CONCURRENCY);
        let mut planned = Vec::new();
        while let Some(target) = plans.next().await {
            planned.push(target?);
            progress(planned.len());
        }
        Ok(planned)
    }

    /// How the latest run of a certificate stands; `None` when there was none.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn distribution_status(&self, project: &str, certificate_id: &str) -> Result<Option<DistributionStatus>> {
        self.owned::<Certificate>(project, certificate_id).await?;
        let query = TypedQuery::<Run>::new().equal("certificate", certificate_id).descending().limit(1);
        match self.engine.store.list(query).await?.records.pop() {
            Some(run) => Ok(Some(self.status_of(run.record).await?)),
            None => Ok(None),
        }
    }

    /// How one run stands.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn run_status(&self, project: &str, run_id: &str) -> Result<DistributionStatus> {
        let run = self.owned::<Run>(project, run_id).await?.record;
        self.status_of(run).await
    }

    async fn status_of(&self, run: Run) -> Result<DistributionStatus> {
        let targets = self.engine.store.list_all(TypedQuery::<TargetRun>::new().equal("run", &*run.id)).await?;
        let targets: Vec<_> = targets.into_iter().map(|target| target.record).collect();
        Ok(DistributionStatus { run, targets })
    }
}
