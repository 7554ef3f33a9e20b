//! Proving delivery.

use certlib_core::bundle::CertificateBundle;
use certlib_core::module::{EndpointCheck, Validation};
use certlib_core::{Context, Fingerprint, Result};
use futures::future::join_all;
use zeroize::Zeroizing;

use super::cluster::{Cluster, Place};
use super::config::{CERTIFICATE, KEY};
use super::found::Found;
use crate::probe::{self, Endpoint};

/// Asks every endpoint which certificate it serves.
pub(super) async fn probe(cx: &Context, endpoints: &[Endpoint], expected: Fingerprint) -> Validation {
    verdict(join_all(endpoints.iter().map(|endpoint| probe::check(cx, endpoint, expected))).await)
}

/// Reads the Secret back: the proof that is left without endpoints. It must hold the certificate, and a key that belongs
/// to it.
///
/// # Errors
/// As [`Cluster::get`].
pub(super) async fn read_back(
    cx: &Context,
    cluster: &Cluster,
    place: &Place,
    expected: Fingerprint,
) -> Result<Validation> {
    let found = cluster.get(cx, place).await?;
    let leaf = found.as_ref().and_then(Found::leaf);
    let problem = match &found {
        None => Some("it does not exist"),
        Some(_) if leaf.is_none() => Some("there is no certificate in tls.crt"),
        Some(_) if leaf != Some(expected) => Some("it holds another certificate"),
        Some(found) if !has_key(found) => Some("its key does not belong to its certificate"),
        Some(_) => None,
    };
    let label = format!("secret {place}");
    Ok(verdict(vec![EndpointCheck::new(label, leaf, 1, problem.map(str::to_owned))]))
}

fn has_key(found: &Found) -> bool {
    let (Some(certificate), Some(key)) = (found.data(CERTIFICATE), found.data(KEY)) else { return false };
    let both = Zeroizing::new([certificate.expose().as_slice(), b"\n", key.expose()].concat());
    // A bundle with a key that does not belong to its leaf cannot be made.
    CertificateBundle::from_pem(&both).is_ok_and(|bundle| bundle.key().is_some())
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
