//! Saying what would be done.

use certlib_core::CertificateBundle;
use certlib_core::module::{DistributionModule, Plan, Step, Verb};

use super::survey::Survey;
use super::undo::Object;
use super::{Delivery, F5};

impl Delivery<'_> {
    /// The plan that follows from a look at the target.
    pub(super) fn plan(&self, survey: &Survey, bundle: &CertificateBundle) -> Plan {
        let mut steps = Vec::new();
        for found in survey.profiles.iter().filter(|found| found.keep) {
            steps.push(Step::new(Verb::Keep, found.title()).before(found.before()));
        }
        if survey.changes_anything() {
            self.plan_switch(survey, bundle, &mut steps);
        }
        Plan::new(F5::KIND, self.target_name, survey.base(), steps)
    }

    fn plan_switch(&self, survey: &Survey, bundle: &CertificateBundle, steps: &mut Vec<Step>) {
        let call = |subject: &str, after: String| Step::new(Verb::Call, subject).after(after);
        let new: Vec<&Object> = survey.objects.iter().filter(|(_, there)| !there).map(|(object, _)| object).collect();
        for object in &new {
            let subject = format!("POST /mgmt/shared/file-transfer/uploads ({})", object.part.as_str());
            steps.push(call(&subject, format!("of {}, removed again at the end", bundle.fingerprint())));
        }
        let changing = survey.profiles.iter().filter(|found| !found.keep).count();
        let what = format!("begin: {} objects and {changing} profiles, all or nothing", new.len());
        steps.push(call("POST /mgmt/tm/transaction", what));
        for (object, there) in &survey.objects {
            let subject = object.title();
            let what = format!("{} of {}", object.part.as_str(), bundle.fingerprint());
            steps.push(match there {
                true => Step::new(Verb::Keep, subject).before(what),
                false => Step::new(Verb::Create, subject).after(what),
            });
        }
        for found in survey.profiles.iter().filter(|found| !found.keep) {
            let mut after = format!("{} ({})", survey.pair.show(), bundle.fingerprint());
            if !found.heirs.is_empty() {
                after = format!("{after}; inherited by {}", found.heirs.join(", "));
            }
            if !found.virtual_servers.is_empty() {
                after = format!("{after}; used by {}", found.virtual_servers.join(", "));
            }
            let subject = format!("ltm profile {}", found.title());
            steps.push(Step::new(Verb::Replace, subject).before(found.before()).after(after));
        }
        steps.push(call("PATCH /mgmt/tm/transaction", "commit".to_owned()));
        if !new.is_empty() {
            steps.push(call("POST /mgmt/tm/util/unix-rm", "the uploads".to_owned()));
        }
        for object in &survey.stale {
            steps.push(Step::new(Verb::Delete, object.title()).before("of a former delivery, not used").irreversible());
        }
        if self.config.save {
            steps.push(call("POST /mgmt/tm/sys/config", "save the running configuration".to_owned()));
        }
        if let Some(group) = &self.config.sync_group {
            steps.push(call("POST /mgmt/tm/cm", format!("config-sync to-group {group}")));
        }
    }
}
