//! How a simulated Enterprise API is described before it starts.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use super::{
    EcsSim,
    state::{Domain, Organization, State},
};
use crate::{
    Result,
    entrust::server::{Desk, Gateway},
    http_server::{HttpServer, Tls},
};

/// Describes an [`EcsSim`]; made by [`EcsSim::builder`].
#[derive(Clone, Debug, Default)]
#[must_use = "a simulator exists only once it is started"]
pub struct EcsSimBuilder {
    polls: u32,
    approvals: bool,
    inventory: Option<u32>,
    domains: Vec<String>,
    page: Option<usize>,
}

impl EcsSimBuilder {
    /// How often one has to ask for an order until it is issued: so many answers say `PENDING`. Default: none, orders are
    /// issued at once.
    pub fn pending_polls(mut self, polls: u32) -> Self {
        self.polls = polls;
        self
    }

    /// Lets a human approve every order, as if each said `queueForApproval`.
    pub fn approvals(mut self) -> Self {
        self.approvals = true;
        self
    }

    /// How many certificates can be ordered. Default: any number.
    pub fn inventory(mut self, certificates: u32) -> Self {
        self.inventory = Some(certificates);
        self
    }

    /// The most that a list gives at once, however much it is asked for. Default: 1000.
    pub fn page(mut self, entries: usize) -> Self {
        self.page = Some(entries);
        self
    }

    /// Another domain that belongs to the client 1, besides `shop.example`.
    pub fn domain(mut self, name: &str) -> Self {
        self.domains.push(name.to_ascii_lowercase());
        self
    }

    /// Binds a port and starts to answer. Needs a running tokio runtime.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when no port can be bound, [`Error::Crypto`](crate::Error::Crypto) when no
    /// certificate can be made.
    ///
    /// Cancel safe: a simulator that was not returned is gone.
    pub async fn start(self) -> Result<EcsSim> {
        let (desk, client) = Desk::new("Simulated Entrust")?;
        let (root_pem, issuer_pem) =
            (desk.root.certificate_pem().to_owned(), desk.issuing.certificate_pem().to_owned());
        let mut names = vec!["shop.example".to_owned()];
        names.extend(self.domains);
        let state = State {
            desk,
            organizations: vec![Organization { name: "Example Inc".to_owned(), client: 1, approved: true }],
            domains: names.into_iter().map(|name| Domain { name, client: 1, approved: true }).collect(),
            orders: Vec::new(),
            flaws: VecDeque::new(),
            inventory: self.inventory,
            polls: self.polls,
            approvals: self.approvals,
            declines: false,
            page: self.page.unwrap_or(super::state::PAGE),
            last_id: 123_455,
        };
        let state = Arc::new(Mutex::new(state));
        let (tls, ca_pem) = Tls::own("simulated Entrust TLS root", true)?;
        let server = HttpServer::start(tls, Arc::new(Gateway(Arc::clone(&state)))).await?;
        Ok(EcsSim { state, server, ca_pem, root_pem, issuer_pem, client })
    }
}
