//! What people do in the console of CertCentral, or to the account, without the API.

use std::time::Duration;

use super::{
    DigiCertSim, Proof,
    account::KeyRole,
    answer::Refusal,
    course::{Approvals, Course},
    request::Verdict,
    state::{State, Witness},
};
use crate::{Error, Result};

/// An order, as the account knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OrderView {
    /// Its id.
    pub id: u64,
    /// Its status, in the words of the API.
    pub status: String,
    /// Its common name.
    pub common_name: String,
    /// The certificate that it shows.
    pub certificate_id: u64,
    /// All its certificates, oldest first.
    pub certificate_ids: Vec<u64>,
    /// The requests that wait for an approval.
    pub pending_requests: Vec<u64>,
}

impl DigiCertSim {
    /// Decides what becomes of orders, reissues and duplicates that are placed from now on.
    pub fn set_course(&self, course: Course) {
        self.gateway.api().course = course;
    }

    /// Changes whether somebody has to approve what is asked for from now on.
    pub fn set_approvals(&self, approvals: Approvals) {
        self.gateway.api().settings.approvals = approvals;
    }

    /// All orders, oldest first.
    #[must_use]
    pub fn orders(&self) -> Vec<OrderView> {
        let state = self.gateway.api();
        let now = state.clock.now();
        let view = |(id, order): (&u64, &super::order::Order)| {
            let certificate = state.certificates.get(&order.primary)?;
            let waits = |id: &&u64| state.verdict(**id) == Verdict::Pending;
            Some(OrderView {
                id: *id,
                status: state.status(order, certificate, now),
                common_name: certificate.wanted.common_name.clone(),
                certificate_id: order.primary,
                certificate_ids: state.certificates_of(*id),
                pending_requests: order.requests.iter().filter(waits).copied().collect(),
            })
        };
        state.orders.iter().filter_map(view).collect()
    }

    /// Approves a request.
    ///
    /// # Errors
    /// [`Error::Protocol`] when there is no such request, or it was decided.
    pub fn approve(&self, request: u64) -> Result<()> {
        self.operate(|state| state.decide(request, true, "approved by hand"))
    }

    /// Rejects a request.
    ///
    /// # Errors
    /// As [`DigiCertSim::approve`].
    pub fn reject(&self, request: u64) -> Result<()> {
        self.operate(|state| state.decide(request, false, "rejected by hand"))
    }

    /// Cancels what is pending of an order.
    ///
    /// # Errors
    /// [`Error::Protocol`] when there is no such order, or nothing is pending.
    pub fn cancel(&self, order: u64) -> Result<()> {
        self.operate(|state| state.cancel(order))
    }

    /// Revokes a certificate, as the authority does of its own accord.
    ///
    /// # Errors
    /// [`Error::Protocol`] when there is no such certificate, or it is not valid.
    pub fn revoke(&self, certificate: u64) -> Result<()> {
        self.operate(|state| state.revoke(certificate))
    }

    /// The PEM of a certificate; `None` while there is none.
    #[must_use]
    pub fn certificate_pem(&self, certificate: u64) -> Option<String> {
        let state = self.gateway.api();
        Some(state.certificates.get(&certificate)?.issued.as_ref()?.signed.certificate_pem.clone())
    }

    /// Makes a value visible to the checks of control over domains, wherever it belongs.
    pub fn publish(&self, value: &str) {
        self.gateway.api().published.insert(value.to_owned());
    }

    /// Lets this function say whether a proof can be seen, instead of [`DigiCertSim::publish`]. It must not call the
    /// simulator.
    pub fn watch(&self, witness: impl Fn(&Proof) -> bool + Send + Sync + 'static) {
        self.gateway.api().witness = Some(Witness(std::sync::Arc::new(witness)));
    }

    /// Takes a domain, and all names below it, as validated for 200 days.
    pub fn validate_domain(&self, domain: &str) {
        self.gateway.api().validate(domain);
    }

    /// Says whether an organization is validated. Orders for one that is not stay pending; they go on at the next look.
    pub fn set_organization_validated(&self, organization: u64, validated: bool) {
        let mut state = self.gateway.api();
        if let Some(known) = state.organizations.iter_mut().find(|known| known.id == organization) {
            known.validated = validated;
        }
    }

    /// Adds an API key.
    pub fn add_key(&self, key: &str, role: KeyRole) {
        self.gateway.api().keys.insert(key.to_owned(), role);
    }

    /// Takes an API key out of use: `401` from now on.
    pub fn remove_key(&self, key: &str) {
        self.gateway.api().keys.remove(key);
    }

    /// Moves its clock forward.
    pub fn advance(&self, by: Duration) {
        self.gateway.api().clock.advance(by);
    }

    fn operate(&self, act: impl FnOnce(&mut State) -> Result<(), Refusal>) -> Result<()> {
        act(&mut self.gateway.api()).map_err(|refusal| Error::protocol("the simulated CertCentral", refusal.text()))
    }
}
