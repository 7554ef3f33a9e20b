//! Saying what would be done.

use certlib_core::error::Result;
use certlib_core::module::{DistributionModule, Plan, Step, Verb};
use certlib_core::{CertificateBundle, Context};

use super::HuaweiCloud;
use super::client::Cloud;
use super::config::{Place, Resource, WafMode};
use super::stores::check_sizes;

impl Cloud<'_> {
    /// What [`execute`](Cloud::execute) would do.
    ///
    /// # Errors
    /// As [`survey`](Cloud::survey); `Validation` `key_missing`, `certificate_too_long`.
    pub(super) async fn plan(&self, cx: &Context, target: &str, bundle: &CertificateBundle) -> Result<Plan> {
        let survey = self.survey(cx, bundle).await?;
        let delivered = survey.is_delivered();
        if !delivered {
            check_sizes(&self.stores(), bundle)?;
        }
        let what = format!("`{}` (sha256 {})", survey.wanted.name, survey.wanted.leaf);
        let mut steps = Vec::new();
        for (store, found) in &survey.stores {
            let subject = format!("certificate in {}", store.as_str());
            match found.first() {
                Some(stored) => steps.push(Step::new(Verb::Keep, subject).before(format!("{} {what}", stored.id))),
                // The resource may have it from elsewhere.
                None if delivered => {}
                None => steps.push(Step::new(Verb::Create, subject).after(&what)),
            }
        }
        if let Some(bound) = &survey.bound {
            let step = Step::new(if delivered { Verb::Keep } else { Verb::Replace }, self.resource_label());
            let step = step.before(bound.label(self.place()));
            let step = if delivered { step } else { step.after(&what) };
            let restorable = delivered || bound.is_restorable();
            steps.push(if restorable { step } else { step.irreversible() });
        }
        steps.extend(survey.retired.iter().map(|stored| {
            let subject = format!("unused certificate in {}", stored.store.as_str());
            Step::new(Verb::Delete, subject).before(format!("{} `{}`", stored.id, stored.name)).irreversible()
        }));
        Ok(Plan::new(HuaweiCloud::KIND, target, survey.base(self), steps))
    }

    /// What the resource is called in plans and answers.
    pub(super) fn resource_label(&self) -> String {
        match &self.location.resource {
            Resource::Scm {} => "certificate manager".to_owned(),
            Resource::Elb { listener_id: None, .. } => "load balancers' certificates".to_owned(),
            Resource::Elb { listener_id: Some(id), place } => {
                let place = match place {
                    Place::Default => "default certificate",
                    Place::Sni => "certificates by name",
                    Place::Both => "default certificate and certificates by name",
                };
                format!("ELB listener {id}, {place}")
            }
            Resource::Cdn { domain } => format!("CDN domain {domain}"),
            Resource::Waf { host_id, mode: WafMode::Cloud } => format!("WAF host {host_id}"),
            Resource::Waf { host_id, mode: WafMode::Premium } => format!("WAF dedicated host {host_id}"),
        }
    }
}
