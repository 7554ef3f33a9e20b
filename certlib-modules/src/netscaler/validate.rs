//! Proving delivery.

use certlib_core::module::{EndpointCheck, Validation};
use certlib_core::{CertificateBundle, Context};
use futures::future::join_all;

use super::undo::{Delivery, Issuer};
use crate::probe::{self, Endpoint};

/// Asks every endpoint which certificate it serves; `None` without endpoints.
pub(super) async fn probe(cx: &Context, endpoints: &[Endpoint], bundle: &CertificateBundle) -> Option<Validation> {
    if endpoints.is_empty() {
        return None;
    }
    let expected = bundle.fingerprint();
    let checks = join_all(endpoints.iter().map(|endpoint| probe::check(cx, endpoint, expected))).await;
    let problems: Vec<_> = checks
        .iter()
        .filter_map(|check| check.problem.as_ref().map(|problem| format!("{}: {problem}", check.endpoint)))
        .collect();
    Some(if problems.is_empty() {
        Validation::Served { endpoints: checks }
    } else {
        Validation::NotServed { endpoints: checks, reason: problems.join("; ") }
    })
}

/// What reading everything back showed: `delivery` is what would still have to be done.
pub(super) fn read_back(delivery: &Delivery) -> Validation {
    let endpoint = format!("certkey {}", delivery.pair);
    let problem = if delivery.changes_files() {
        Some("does not hold the certificate")
    } else if delivery.changes_pair() || delivery.issuers.iter().any(Issuer::changes) {
        Some("is not linked to the whole chain")
    } else if !delivery.holders.is_empty() {
        Some("is not bound everywhere")
    } else {
        None
    };
    let found = (!delivery.changes_files()).then_some(delivery.after.fingerprint);
    let check = EndpointCheck::new(endpoint.clone(), found, 1, problem.map(str::to_owned));
    match problem {
        None => Validation::Served { endpoints: vec![check] },
        Some(problem) => Validation::NotServed { endpoints: vec![check], reason: format!("{endpoint} {problem}") },
    }
}
