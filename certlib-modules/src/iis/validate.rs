//! Proving delivery.

use certlib_core::module::{EndpointCheck, Validation};
use certlib_core::{CertificateBundle, Context, Result};
use futures::future::join_all;

use super::Job;
use crate::files::verdict;
use crate::probe;
use crate::winrm::host::Host;

impl Job<'_> {
    /// Asks every endpoint which certificate it serves; `None` without endpoints.
    pub(super) async fn probe(&self, cx: &Context, bundle: &CertificateBundle) -> Option<Validation> {
        let endpoints = &self.config.endpoints;
        if endpoints.is_empty() {
            return None;
        }
        let expected = bundle.fingerprint();
        Some(verdict(join_all(endpoints.iter().map(|endpoint| probe::check(cx, endpoint, expected))).await))
    }

    /// Reads bindings, endpoints and files back: the proof that is left without endpoints.
    ///
    /// # Errors
    /// As [`plan`](Job::plan).
    pub(super) async fn read_back(&self, host: &mut Host<'_>, bundle: &CertificateBundle) -> Result<Validation> {
        let mut checks = Vec::new();
        if let Some(survey) = self.survey(host, bundle).await? {
            for item in &survey.items {
                let problem = match &item.found {
                    _ if item.keep => None,
                    Some(found) if found.hash == survey.thumbprint => {
                        Some("the store does not hold it with its key".to_owned())
                    }
                    Some(found) if found.hash.is_empty() => Some("no certificate is bound".to_owned()),
                    Some(found) => Some(format!("another certificate is bound: {}", found.hash)),
                    None => Some("there is no such binding".to_owned()),
                };
                let leaf = problem.is_none().then(|| bundle.fingerprint());
                checks.push(EndpointCheck::new(item.unit.to_string(), leaf, 1, problem));
            }
        }
        if let Some(files) = &self.files {
            checks.push(files.read_back(host, bundle).await?);
        }
        Ok(verdict(checks))
    }
}
