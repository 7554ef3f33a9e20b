//! Proving delivery.

use certlib_core::error::Result;
use certlib_core::module::{EndpointCheck, Validation};
use certlib_core::{CertificateBundle, Context};
use futures::future::join_all;

use super::Delivery;
use super::config::ProfileRef;
use super::profile::{Selection, title};
use super::session::Session;
use crate::probe;

impl Delivery<'_> {
    /// Asks every endpoint which certificate it serves; `None` without endpoints.
    pub(super) async fn probe(&self, cx: &Context, bundle: &CertificateBundle) -> Option<Validation> {
        let endpoints = &self.config.endpoints;
        if endpoints.is_empty() {
            return None;
        }
        let looks = endpoints.iter().map(|endpoint| probe::check(cx, endpoint, bundle.fingerprint()));
        Some(verdict(join_all(looks).await))
    }

    /// Reads every profile back, and the certificate file that it selects: the proof that is left without endpoints.
    ///
    /// # Errors
    /// As the requests.
    pub(super) async fn read_back(&self, session: &Session<'_>, bundle: &CertificateBundle) -> Result<Validation> {
        let mut checks = Vec::new();
        for profile in &self.location.profiles {
            checks.push(look(session, profile, bundle).await?);
        }
        Ok(verdict(checks))
    }
}

/// A profile is right if one of its certificates is: that of the entry, where one is named.
async fn look(session: &Session<'_>, profile: &ProfileRef, bundle: &CertificateBundle) -> Result<EndpointCheck> {
    let ProfileRef { name, kind, entry } = profile;
    let answer = |found, problem: Option<&str>| {
        let title = title(*kind, name, entry.as_deref());
        EndpointCheck::new(title, found, 1, problem.map(str::to_owned))
    };
    let pairs = match session.selection(*kind, name).await? {
        None => return Ok(answer(None, Some("the profile does not exist"))),
        Some(Selection::Inherited { .. }) => return Ok(answer(None, Some("the profile has its parent's certificate"))),
        Some(Selection::Single(pair)) => pair.into_iter().collect::<Vec<_>>(),
        Some(Selection::Entries(entries)) => {
            let wanted = entries.into_iter().filter(|own| entry.as_ref().is_none_or(|entry| own.name == *entry));
            wanted.map(|own| own.pair).collect()
        }
    };
    let mut found = None;
    for pair in pairs {
        if let Some(cert) = session.cert(&pair.cert).await? {
            if cert.holds(bundle, 0) {
                return Ok(answer(Some(bundle.fingerprint()), None));
            }
            found = cert.fingerprint().or(found);
        }
    }
    Ok(answer(found, Some("the profile has another certificate")))
}

fn verdict(endpoints: Vec<EndpointCheck>) -> Validation {
    let problems: Vec<String> = endpoints
        .iter()
        .filter_map(|check| check.problem.as_ref().map(|problem| format!("{}: {problem}", check.endpoint)))
        .collect();
    if problems.is_empty() {
        return Validation::Served { endpoints };
    }
    Validation::NotServed { endpoints, reason: problems.join("; ") }
}
