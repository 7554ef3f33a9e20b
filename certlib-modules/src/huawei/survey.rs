//! Looking at everything that a delivery may change.

use aws_lc_rs::digest::{SHA256, digest};
use certlib_core::error::{Error, Result};
use certlib_core::{CertificateBundle, Context};
use serde::Serialize;

use super::bound::{Bound, lost_name};
use super::client::Cloud;
use super::config::{Place, Resource};
use super::leaf;
use super::stores::{Store, Stored, Wanted};
use super::{OPERATION, hex};

/// How many former generations stay, besides the one that is delivered.
const FORMER_GENERATIONS: usize = 1;
/// How many certificates one delivery removes at most.
const MOST_RETIRED: usize = 20;

/// What there is.
#[derive(Debug)]
pub(super) struct Survey {
    /// What is to be delivered.
    pub(super) wanted: Wanted,
    /// The stores that it goes to, and what they have of it.
    pub(super) stores: Vec<(Store, Vec<Stored>)>,
    /// What the resource uses; `None` when there is nothing but stores.
    pub(super) bound: Option<Bound>,
    /// Earlier generations that can go.
    pub(super) retired: Vec<Stored>,
    place: Place,
}

impl Survey {
    /// The ids under which the stores have the certificate.
    pub(super) fn ids(&self) -> Vec<String> {
        self.stores.iter().flat_map(|(_, found)| found).map(|stored| stored.id.clone()).collect()
    }

    /// Whether everything is as it should be: the resource uses the certificate, or, where there is none, every store
    /// has it.
    pub(super) fn is_delivered(&self) -> bool {
        match &self.bound {
            Some(bound) => bound.holds(self.place, self.wanted.leaf, &self.ids()),
            None => self.stores.iter().all(|(_, found)| !found.is_empty()),
        }
    }

    /// A digest of what there is. Its first half is about the resource alone: see [`same_resource`].
    pub(super) fn base(&self, cloud: &Cloud<'_>) -> String {
        let retired: Vec<_> = self.retired.iter().map(|stored| (stored.store, &stored.id)).collect();
        let rest = (cloud.location, &cloud.config.name_prefix, cloud.config.scm_import, &self.stores, retired);
        format!("{}{}", half(&self.bound), half(&rest))
    }
}

/// Whether two bases are about a resource in the same state, whatever the stores have.
pub(super) fn same_resource(base: &str, bound: &Option<Bound>) -> bool {
    base.starts_with(&half(bound))
}

fn half(value: &impl Serialize) -> String {
    // Structs of strings and numbers always encode, and always in the same order.
    let json = serde_json::to_vec(value).unwrap_or_default();
    let mut text = hex(digest(&SHA256, &json).as_ref());
    text.truncate(32);
    text
}

impl Cloud<'_> {
    /// Which of a listener's places is meant; what it is for other resources makes no difference.
    pub(super) fn place(&self) -> Place {
        match self.location.resource {
            Resource::Elb { place, .. } => place,
            _ => Place::Default,
        }
    }

    /// What the resource uses; `None` when there is nothing but stores.
    pub(super) async fn bound(&self, cx: &Context) -> Result<Option<Bound>> {
        match &self.location.resource {
            Resource::Scm {} | Resource::Elb { listener_id: None, .. } => Ok(None),
            Resource::Elb { listener_id: Some(id), .. } => self.elb_bound(cx, id).await.map(Some),
            Resource::Cdn { domain } => self.cdn_bound(cx, domain).await.map(Some),
            Resource::Waf { host_id, mode } => self.waf_bound(cx, host_id, *mode).await.map(Some),
        }
    }

    /// Looks at everything. Changes nothing.
    ///
    /// # Errors
    /// `Validation`: `name_mismatch`, `names_lost`, `not_found`, `listener_without_tls`, `host_without_tls`,
    /// `domain_not_online`, and what [`Cloud::explain`] makes of refusals; as [`Cloud::send`].
    pub(super) async fn survey(&self, cx: &Context, bundle: &CertificateBundle) -> Result<Survey> {
        match self.look(cx, bundle).await {
            Ok(survey) => Ok(survey),
            Err(error) => Err(self.explain(cx, error).await),
        }
    }

    async fn look(&self, cx: &Context, bundle: &CertificateBundle) -> Result<Survey> {
        let wanted = self.wanted(bundle);
        let bound = self.bound(cx).await?;
        self.check_names(bundle, bound.as_ref())?;
        if let Resource::Cdn { domain } = &self.location.resource {
            self.cdn_check(cx, domain).await?;
        }
        let mut stores = Vec::new();
        for store in self.stores() {
            stores.push((store, self.find(cx, store, &wanted).await?));
        }
        let mut survey = Survey { wanted, stores, bound, retired: Vec::new(), place: self.place() };
        if !survey.is_delivered() {
            survey.retired = self.retirable(cx, &survey).await?;
        }
        Ok(survey)
    }

    /// Certificates of earlier generations that need not stay, newest first.
    async fn retirable(&self, cx: &Context, survey: &Survey) -> Result<Vec<Stored>> {
        let used: Vec<&str> = survey.bound.iter().flat_map(Bound::names).collect();
        let mut retired = Vec::new();
        for (store, _) in survey.stores.iter().rev() {
            let mut others = self.ours(cx, *store).await?;
            others.retain(|stored| stored.name != survey.wanted.name);
            let mut kept = others.iter().filter(|stored| used.contains(&stored.name.as_str())).count();
            for stored in others {
                if used.contains(&stored.name.as_str()) {
                    continue;
                }
                if kept < FORMER_GENERATIONS {
                    kept += 1;
                } else {
                    retired.push(stored);
                }
            }
        }
        retired.truncate(MOST_RETIRED);
        Ok(retired)
    }

    /// Checks that the certificate can serve what the resource serves.
    fn check_names(&self, bundle: &CertificateBundle, bound: Option<&Bound>) -> Result<()> {
        let names = &bundle.leaf().names;
        let host = match (&self.location.resource, bound) {
            (Resource::Cdn { domain }, _) => Some(domain.as_str()),
            (Resource::Waf { .. }, Some(Bound::Host { hostname, .. })) => Some(hostname.as_str()),
            _ => None,
        };
        // Dedicated hosts can have a port behind their name.
        let host = host.map(|host| host.split(':').next().unwrap_or(host)).filter(|host| host.contains('.'));
        if let Some(host) = host.filter(|host| !leaf::covers(names, host)) {
            let why = "the certificate is not for the name that this resource serves";
            return Err(Error::validation(OPERATION, "name_mismatch", why).with("host", host.escape_debug()));
        }
        let replaced = bound.map(|bound| bound.overlapping(self.place(), names)).unwrap_or_default();
        if let Some(name) = lost_name(&replaced, names) {
            let why = "the certificate would take the place of one that is for more names; those would not be served";
            return Err(Error::validation(OPERATION, "names_lost", why).with("name", name.escape_debug()));
        }
        Ok(())
    }
}
