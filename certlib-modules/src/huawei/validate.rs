//! Proving delivery.

use std::time::Duration;

use certlib_core::error::Result;
use certlib_core::module::{EndpointCheck, Validation};
use certlib_core::{CertificateBundle, Context};
use futures::future::join_all;

use super::client::Cloud;
use crate::probe;

impl Cloud<'_> {
    /// Asks every endpoint which certificate it serves; without endpoints, asks the service.
    ///
    /// # Errors
    /// As [`Cloud::send`].
    pub(super) async fn validate(&self, cx: &Context, bundle: &CertificateBundle) -> Result<Validation> {
        let endpoints = &self.config.endpoints;
        if endpoints.is_empty() {
            return self.read_back(cx, bundle).await;
        }
        let expected = bundle.fingerprint();
        let checks = join_all(endpoints.iter().map(|endpoint| probe::check(cx, endpoint, expected))).await;
        let problems: Vec<String> = checks
            .iter()
            .filter_map(|check| check.problem.as_ref().map(|problem| format!("{}: {problem}", check.endpoint)))
            .collect();
        if problems.is_empty() {
            return Ok(Validation::Served { endpoints: checks });
        }
        Ok(Validation::NotServed { endpoints: checks, reason: problems.join("; ") })
    }

    /// Reads back what the resource uses, until that is the certificate or the tries are used up.
    async fn read_back(&self, cx: &Context, bundle: &CertificateBundle) -> Result<Validation> {
        let mut tries = 1;
        loop {
            let survey = self.survey(cx, bundle).await?;
            let label = self.resource_label();
            if survey.is_delivered() {
                let check = EndpointCheck::new(label, Some(bundle.fingerprint()), tries, None);
                return Ok(Validation::Served { endpoints: vec![check] });
            }
            if tries >= self.config.tries {
                let problem = match &survey.bound {
                    Some(bound) => format!("it uses {}", bound.label(self.place())),
                    None => "the certificate is not there".to_owned(),
                };
                let reason = format!("{label}: {problem}");
                let check = EndpointCheck::new(label, None, tries, Some(problem));
                return Ok(Validation::NotServed { endpoints: vec![check], reason });
            }
            cx.clock.sleep(Duration::from_millis(self.config.delay_ms)).await;
            tries += 1;
        }
    }
}
