//! Proving delivery.

use certlib_core::module::{EndpointCheck, Validation};
use certlib_core::{CertificateBundle, Context, Result};
use futures::future::{join_all, try_join_all};

use super::filesystem::{FileSystem, Found};
use super::layout::{Format, Output};
use super::{Delivery, FILE_LIMIT, formats};
use crate::probe;

impl Delivery<'_> {
    /// Asks every endpoint which certificate it serves; `None` without endpoints.
    pub async fn probe(&self, cx: &Context, bundle: &CertificateBundle) -> Option<Validation> {
        let endpoints = &self.settings.endpoints;
        if endpoints.is_empty() {
            return None;
        }
        let expected = bundle.fingerprint();
        Some(verdict(join_all(endpoints.iter().map(|endpoint| probe::check(cx, endpoint, expected))).await))
    }

    /// Reads every file back and compares content and mode: the proof that is left without endpoints. The
    /// "endpoint" of the answer is called `files`; there is another one called `haproxy` where [one](super::Haproxy) is
    /// told.
    ///
    /// # Errors
    /// As [`FileSystem::observe`] and [`FileSystem::ask`], and `key_missing`.
    pub async fn read_back(&self, fs: &dyn FileSystem, bundle: &CertificateBundle) -> Result<Validation> {
        let outputs = self.layout.outputs();
        let found = try_join_all(outputs.iter().map(|(_, output)| fs.observe(&output.path, FILE_LIMIT))).await?;
        let mut problems = Vec::new();
        for ((format, output), found) in outputs.iter().zip(&found) {
            if let Some(problem) = self.problem(*format, output, found, bundle)? {
                problems.push(format!("{} {problem}", output.path.escape_debug()));
            }
        }
        let problem = (!problems.is_empty()).then(|| problems.join("; "));
        let leaf = problem.is_none().then(|| bundle.fingerprint());
        let mut checks = vec![EndpointCheck::new("files", leaf, 1, problem)];
        checks.extend(self.haproxy_check(fs, bundle).await?);
        Ok(verdict(checks))
    }

    fn problem(
        &self,
        format: Format,
        output: &Output,
        found: &Found,
        bundle: &CertificateBundle,
    ) -> Result<Option<&'static str>> {
        let Found::File(file) = found else { return Ok(Some("is missing")) };
        let wanted = formats::render(format, bundle, self.pfx())?;
        Ok(if !formats::holds(format, &file.content, &wanted, bundle, self.pfx()) {
            Some("has other content")
        } else if output.mode.is_some_and(|mode| mode.0 != file.mode) {
            Some("has another mode")
        } else {
            None
        })
    }
}

pub(crate) fn verdict(endpoints: Vec<EndpointCheck>) -> Validation {
    let problems: Vec<String> = endpoints
        .iter()
        .filter_map(|check| check.problem.as_ref().map(|problem| format!("{}: {problem}", check.endpoint)))
        .collect();
    if problems.is_empty() {
        return Validation::Served { endpoints };
    }
    Validation::NotServed { endpoints, reason: problems.join("; ") }
}
