//! How a simulated gateway is described before it starts.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use super::{CagwSim, state::State};
use crate::{
    Result,
    entrust::server::{Desk, Gateway},
    http_server::{HttpServer, Tls},
};

/// Describes a [`CagwSim`]; made by [`CagwSim::builder`].
#[derive(Clone, Debug)]
#[must_use = "a simulator exists only once it is started"]
pub struct CagwSimBuilder {
    polls: u32,
    action_polls: u32,
    approvals: bool,
    shows_enrollments: bool,
    page: usize,
}

impl Default for CagwSimBuilder {
    fn default() -> Self {
        Self { polls: 0, action_polls: 0, approvals: false, shows_enrollments: true, page: 50 }
    }
}

impl CagwSimBuilder {
    /// How often one has to ask for an enrolment until it is issued: so many answers say `ACCEPTED` without a certificate,
    /// besides the first one. Default: none, enrolments are issued at once.
    pub fn pending_polls(mut self, polls: u32) -> Self {
        self.polls = polls;
        self
    }

    /// The same for actions, such as a revocation.
    pub fn pending_action_polls(mut self, polls: u32) -> Self {
        self.action_polls = polls;
        self
    }

    /// Lets a human approve every enrolment: `AWAITING_APPROVAL`.
    pub fn approvals(mut self) -> Self {
        self.approvals = true;
        self
    }

    /// Has no resource for single enrolments, as some gateways: what became of one is then only to be seen from the
    /// events.
    pub fn without_enrollment_resource(mut self) -> Self {
        self.shows_enrollments = false;
        self
    }

    /// How many events a page has. Default: 50.
    pub fn page(mut self, events: usize) -> Self {
        self.page = events.max(1);
        self
    }

    /// Binds a port and starts to answer. Needs a running tokio runtime.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when no port can be bound, [`Error::Crypto`](crate::Error::Crypto) when no
    /// certificate can be made.
    ///
    /// Cancel safe: a simulator that was not returned is gone.
    pub async fn start(self) -> Result<CagwSim> {
        let (desk, client) = Desk::new("Simulated CA Gateway")?;
        let (root_pem, issuer_pem) =
            (desk.root.certificate_pem().to_owned(), desk.issuing.certificate_pem().to_owned());
        let state = State {
            desk,
            enrollments: Vec::new(),
            certificates: Vec::new(),
            actions: Vec::new(),
            events: Vec::new(),
            flaws: VecDeque::new(),
            polls: self.polls,
            action_polls: self.action_polls,
            approvals: self.approvals,
            rejects: false,
            shows_enrollments: self.shows_enrollments,
            rejects_next_action: false,
            page: self.page,
            last_id: 0,
        };
        let state = Arc::new(Mutex::new(state));
        let (tls, ca_pem) = Tls::own("simulated CA Gateway TLS root", true)?;
        let server = HttpServer::start(tls, Arc::new(Gateway(Arc::clone(&state)))).await?;
        Ok(CagwSim { state, server, ca_pem, root_pem, issuer_pem, client })
    }
}
