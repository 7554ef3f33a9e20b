//! Delivers what was renewed to where nobody delivers it yet.

use async_trait::async_trait;
use time::OffsetDateTime;

use super::due::{Advance, Due, sweep_due};
use super::{Sweep, SweepContext};
use crate::distribution;
use crate::error::Result;
use crate::model::{Certificate, CertificateVersion, Distribution, Run, Trigger, VersionState};
use crate::store::{SharedStore, StoreExt as _, TypedQuery, Versioned, WriteBatch};

/// Sees that each automatic distribution has a run of its certificate's newest version.
///
/// Issuance begins the runs of all distributions there are, and [`RunSweep`](super::RunSweep) keeps them going; this
/// sweep finds those that are missing: of a distribution that was attached later, or a version that came by another
/// way. It looks at a certificate a while after each issuance, and at once when a distribution is attached. A run that
/// was cancelled is not begun again.
#[derive(Debug, Clone, Copy)]
pub struct AutoDistributionSweep;

#[async_trait]
impl Sweep for AutoDistributionSweep {
    fn name(&self) -> &'static str {
        "auto_distribution"
    }

    async fn run(&self, cx: &SweepContext) -> Result<usize> {
        sweep_due(cx, self).await
    }
}

#[async_trait]
impl Due for AutoDistributionSweep {
    type Record = Certificate;
    const FIELD: &'static str = "distribution_check_at";

    async fn advance(
        &self,
        cx: &SweepContext,
        certificate: &mut Versioned<Certificate>,
        now: OffsetDateTime,
    ) -> Result<Advance> {
        certificate.distribution_check_at = None;
        let number = certificate.wanted_version();
        let id = CertificateVersion::id_of(&certificate.id, number);
        let version = cx.store.find::<CertificateVersion>(&id).await?;
        let usable = |version: &Versioned<CertificateVersion>| {
            version.state == VersionState::Issued && version.leaf.not_after > now
        };
        if !version.as_ref().is_some_and(usable) {
            return Ok(Advance::alone());
        }
        let mut batch = WriteBatch::new();
        let query = TypedQuery::<Distribution>::new().equal("certificate", &*certificate.id);
        for distribution in cx.store.list_all(query).await? {
            let wanted = distribution.trigger == Trigger::Automatic && !distribution.targets.is_empty();
            if wanted && !has_run(&cx.store, &distribution, number).await? {
                let mut run = distribution::new_run(&distribution, number, now);
                run.back = number < certificate.latest_version;
                batch = batch.insert(&run)?.enqueue(distribution::job(&run));
            }
        }
        Ok(Advance::with(batch))
    }
}

async fn has_run(store: &SharedStore, distribution: &Distribution, version: u32) -> Result<bool> {
    let delivers = Run::delivers(&distribution.id, version);
    let page = store.list(TypedQuery::<Run>::new().equal("delivers", delivers).limit(1)).await?;
    Ok(!page.records.is_empty())
}
