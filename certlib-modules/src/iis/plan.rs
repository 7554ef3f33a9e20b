//! Saying what would be done.

use certlib_core::module::{DistributionModule as _, Plan, Step, Verb};
use certlib_core::{CertificateBundle, Context, Result};

use super::server::SeenCertificate;
use super::survey::{Item, Survey};
use super::{IisModule, Job};
use crate::winrm::host::Host;

/// What the base of a plan is made of.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Base {
    /// What bindings and endpoints show.
    pub(super) units: String,
    /// Whether the certificate is in the store, and pools are there.
    pub(super) machine: String,
    /// What the files of the central store are.
    pub(super) files: String,
}

impl Base {
    /// One text, for the plan.
    pub(super) fn text(&self) -> String {
        format!("{}.{}.{}", self.units, self.machine, self.files)
    }

    /// Reads what [`text`](Self::text) wrote. A text of another form fits no machine.
    pub(super) fn parse(text: &str) -> Self {
        let mut parts = text.splitn(3, '.').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Self { units: next(), machine: next(), files: next() }
    }

    pub(super) fn of(survey: Option<&Survey>, files: Option<&str>) -> Self {
        Self {
            units: survey.map(Survey::units_digest).unwrap_or_default(),
            machine: survey
                .map(|survey| if survey.imported { "imported" } else { "new" }.to_owned())
                .unwrap_or_default(),
            files: files.unwrap_or_default().to_owned(),
        }
    }
}

impl Job<'_> {
    /// What [`execute`](Job::execute) would do. Changes nothing.
    ///
    /// # Errors
    /// `Validation`: `iis_missing`, `pfx_profile_unsupported`, `pool_missing`, `site_missing`, `binding_missing`,
    /// `endpoint_missing`, `binding_uses_central_store`, `sni_unsupported`, `wildcard_unsupported`,
    /// `name_not_covered`, `key_missing`; for files as `winrm`. `Auth` `not_elevated`. `Network` when the machine is
    /// lost.
    pub(super) async fn plan(&self, cx: &Context, host: &mut Host<'_>, bundle: &CertificateBundle) -> Result<Plan> {
        bundle.key_pem()?;
        let survey = self.survey(host, bundle).await?;
        let mut steps = Vec::new();
        let mut changes = false;
        if let Some(survey) = &survey {
            changes = survey.items.iter().any(|item| !item.keep);
            if !self.units_are_empty() {
                let subject = format!(r"Cert:\LocalMachine\{}\{}", self.location.store.as_str(), survey.thumbprint);
                let what = bundle.fingerprint().to_string();
                let verb = if survey.imported {
                    Step::new(Verb::Keep, subject).before(what)
                } else {
                    Step::new(Verb::Create, subject).after(what)
                };
                steps.push(verb);
            }
            steps.extend(survey.items.iter().map(unit_step));
        }
        let files = match &self.files {
            Some(files) => {
                for host in self.location.central_store.iter().flat_map(|central| &central.hosts) {
                    super::survey::check_names(bundle, host)?;
                }
                let planned = files.plan(cx, host, bundle).await?;
                changes |= planned.steps.iter().any(|step| step.verb != Verb::Keep);
                steps.extend(planned.steps);
                Some(planned.base)
            }
            None => None,
        };
        if changes {
            steps.extend(
                self.config.app_pools.iter().map(|pool| Step::new(Verb::Reload, format!("application pool {pool}"))),
            );
            if let Some(survey) = &survey {
                steps.extend(self.old_certificates(survey, &[]).into_iter().map(|old| {
                    let subject = format!(r"Cert:\LocalMachine\{}\{}", self.location.store.as_str(), old.thumbprint);
                    Step::new(Verb::Delete, subject).before(old.friendly_name.clone()).irreversible()
                }));
            }
        }
        let base = Base::of(survey.as_ref(), files.as_deref());
        Ok(Plan::new(IisModule::KIND, self.target, base.text(), steps))
    }

    /// Whether the certificate goes into no store.
    pub(super) fn units_are_empty(&self) -> bool {
        self.location.bindings.is_empty() && self.location.http_sys.is_empty()
    }

    /// Certificates of this target, beyond those that are kept, which nothing shows; those in `spare` are not among
    /// them in any case.
    pub(super) fn old_certificates<'s>(&self, survey: &'s Survey, spare: &[String]) -> Vec<&'s SeenCertificate> {
        let shown = |thumbprint: &str| {
            let bindings = survey.seen.bindings.iter().map(|found| &found.hash);
            let mut hashes = bindings.chain(survey.seen.endpoints.iter().map(|found| &found.hash));
            hashes.any(|hash| hash.eq_ignore_ascii_case(thumbprint))
        };
        let marked = survey.seen.certificates.iter().filter(|found| found.friendly_name.starts_with(&self.marker));
        let mut marked: Vec<_> = marked.filter(|found| found.thumbprint != survey.thumbprint).collect();
        // The name ends in the time of the import.
        marked.sort_by(|one, other| other.friendly_name.cmp(&one.friendly_name));
        let spared = |thumbprint: &str| spare.iter().any(|hash| hash.eq_ignore_ascii_case(thumbprint));
        let beyond = marked.into_iter().skip(self.config.keep - 1);
        beyond.filter(|found| !shown(&found.thumbprint) && !spared(&found.thumbprint)).collect()
    }
}

fn unit_step(item: &Item) -> Step {
    let mut subject = item.unit.to_string();
    if !item.others.is_empty() && !item.keep {
        subject = format!("{subject} (and, by the same entry of http.sys: {})", item.others.join(", "));
    }
    let after = format!("{} in {}", item.wanted.hash, item.wanted.store);
    match &item.found {
        _ if item.keep => Step::new(Verb::Keep, subject).before(after),
        None => Step::new(Verb::Create, subject).after(after),
        Some(found) if found.hash.is_empty() => Step::new(Verb::Replace, subject).before("no certificate").after(after),
        Some(found) => {
            Step::new(Verb::Replace, subject).before(format!("{} in {}", found.hash, found.store)).after(after)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_survives_the_plan() {
        let base = Base { units: "u".into(), machine: String::new(), files: "f".into() };
        assert_eq!(Base::parse(&base.text()), base);
        assert_ne!(Base::parse("u"), base);
    }
}
