//! What happens to an account without the API.

use std::{sync::Arc, time::Duration};

use serde_json::Value;

use super::{GlobalSignSim, Proof, course::Course, state::Witness};

/// A certificate, as the account knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CertificateView {
    /// Its serial number, upper-case hexadecimal.
    pub serial: String,
    /// The certificate, PEM; it exists before it can be read over HTTP.
    pub pem: String,
    /// What it was revoked for; `None` if it was not.
    pub revocation_reason: Option<String>,
}

impl GlobalSignSim {
    /// Decides what becomes of certificates that are asked for from now on.
    pub fn set_course(&self, course: Course) {
        self.gateway.api().course = course;
    }

    /// The policy of an account that was not given another one, to be changed and handed to
    /// [`GlobalSignSim::set_policy`] or [`GlobalSignSimBuilder::policy`](super::GlobalSignSimBuilder::policy).
    #[must_use]
    pub fn default_policy() -> Value {
        super::policy::default()
    }

    /// Replaces the validation policy.
    pub fn set_policy(&self, policy: Value) {
        self.gateway.api().policy = policy;
    }

    /// Sets how many certificates may still be issued.
    pub fn set_quota(&self, quota: u64) {
        self.gateway.api().quota = quota;
    }

    /// Says whether the account may only read: `403` for all else.
    pub fn set_read_only(&self, read_only: bool) {
        self.gateway.api().read_only = read_only;
    }

    /// Ends all tokens: `401` until the next login.
    pub fn expire_tokens(&self) {
        self.gateway.api().tokens.clear();
    }

    /// All certificates that were asked for, by serial number.
    #[must_use]
    pub fn certificates(&self) -> Vec<CertificateView> {
        let state = self.gateway.api();
        let view = |(serial, certificate): (&String, &super::certificates::Certificate)| CertificateView {
            serial: serial.clone(),
            pem: certificate.pem.clone(),
            revocation_reason: certificate.reason.clone(),
        };
        state.certificates.iter().map(view).collect()
    }

    /// Makes a token visible to the checks of claims, wherever it belongs.
    pub fn publish(&self, token: &str) {
        self.gateway.api().published.insert(token.to_owned());
    }

    /// Lets this function say whether a proof can be seen, instead of [`GlobalSignSim::publish`]. It must not call the
    /// simulator.
    pub fn watch(&self, witness: impl Fn(&Proof) -> bool + Send + Sync + 'static) {
        self.gateway.api().witness = Some(Witness(Arc::new(witness)));
    }

    /// Takes a domain as claimed and verified for 200 days.
    pub fn verify_domain(&self, domain: &str) {
        self.gateway.api().verify(domain);
    }

    /// Moves its clock forward.
    pub fn advance(&self, by: Duration) {
        self.gateway.api().clock.advance(by);
    }
}
