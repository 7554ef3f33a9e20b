//! How a simulated certificate manager is described before it starts.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex},
};

use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use super::{
    SectigoSim,
    profile::{CustomField, Organization, Profile},
    server::Gateway,
    state::{Authority, ChainOrder, State},
};
use crate::{
    Error, Result,
    http_server::{HttpServer, Tls},
    pki::TestCa,
};

/// Describes a [`SectigoSim`]; made by [`SectigoSim::builder`].
#[derive(Clone, Debug, Default)]
#[must_use = "a simulator exists only once it is started"]
pub struct SectigoSimBuilder {
    tls: bool,
    polls: u32,
    lag: u32,
    approvals: bool,
    wants_proof: bool,
    not_ready_code: i64,
    short_lists: bool,
    page: Option<usize>,
    chain_order: ChainOrder,
    custom_fields: Vec<(String, bool)>,
}

impl SectigoSimBuilder {
    /// Speaks HTTPS, with a certificate for `localhost` and `127.0.0.1` of an authority of its own, and asks clients for
    /// theirs. Logging in with a certificate needs it.
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// How often one has to ask for the status of an order, or for its certificate, until it is issued: so many answers
    /// say that it is not. Default: none, orders are issued at once.
    pub fn pending_polls(mut self, polls: u32) -> Self {
        self.polls = polls;
        self
    }

    /// How many answers say that an order which is `Issued` cannot be collected yet. Default: none.
    pub fn collect_lag(mut self, collects: u32) -> Self {
        self.lag = collects;
        self
    }

    /// The code that says so: 0 (the default), -103, -109, -183 or -1400. The status is always 400.
    pub fn not_ready_code(mut self, code: i64) -> Self {
        self.not_ready_code = code;
        self
    }

    /// Lets lists show nothing but ids, and heed no filter for alternative names.
    pub fn short_lists(mut self) -> Self {
        self.short_lists = true;
        self
    }

    /// The most that a list gives at once, however much it is asked for. Default: 200.
    pub fn page(mut self, entries: usize) -> Self {
        self.page = Some(entries);
        self
    }

    /// Lets a human approve every order. Default: nobody has to.
    pub fn approvals(mut self) -> Self {
        self.approvals = true;
        self
    }

    /// Refuses names whose domain is not validated, with the code -107. Default: takes every name.
    pub fn domain_validation(mut self) -> Self {
        self.wants_proof = true;
        self
    }

    /// In which order a chain is given. Default: as the service usually does.
    pub fn chain_order(mut self, order: ChainOrder) -> Self {
        self.chain_order = order;
        self
    }

    /// Has a custom field, which orders may carry, or must if it is `mandatory`.
    pub fn custom_field(mut self, name: &str, mandatory: bool) -> Self {
        self.custom_fields.push((name.to_owned(), mandatory));
        self
    }

    /// Binds a port and starts to answer. Needs a running tokio runtime.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when no port can be bound, [`Error::Crypto`](crate::Error::Crypto) when no
    /// certificate can be made.
    ///
    /// Cancel safe: a simulator that was not returned is gone.
    pub async fn start(self) -> Result<SectigoSim> {
        let root = TestCa::new("Simulated Sectigo root")?;
        let issuing = root.intermediate("Simulated Sectigo issuing authority")?;
        let (root_pem, issuer_pem) = (root.certificate_pem().to_owned(), issuing.certificate_pem().to_owned());
        let client = TestCa::new("Simulated Sectigo clients")?.issue(&["api-client.example"])?;
        let client_certificate = CertificateDer::from_pem_slice(client.certificate_pem.as_bytes())
            .map_err(|error| Error::Crypto(error.to_string()))?
            .to_vec();
        let fields = self.custom_fields.into_iter().zip(1..);
        let profile = Profile { id: 17, name: "Instant SSL".to_owned(), terms: vec![90, 365], renewable: true };
        let state = State {
            authority: Authority { root, issuing },
            client_certificate,
            organizations: vec![Organization { id: 2, name: "Example Inc".to_owned() }],
            profiles: vec![profile],
            custom_fields: fields.map(|((name, mandatory), id)| CustomField { id, name, mandatory }).collect(),
            domains: Vec::new(),
            records: BTreeSet::new(),
            orders: Vec::new(),
            tokens: Vec::new(),
            flaws: VecDeque::new(),
            polls: self.polls,
            lag: self.lag,
            approvals: self.approvals,
            rejects: false,
            wants_proof: self.wants_proof,
            not_ready_code: self.not_ready_code,
            short_lists: self.short_lists,
            page: self.page.unwrap_or(super::call::PAGE),
            chain_order: self.chain_order,
            faults: Vec::new(),
            history: Vec::new(),
            ahead: time::Duration::ZERO,
            last_id: 2344,
        };
        let state = Arc::new(Mutex::new(state));
        let (tls, ca_pem) = if self.tls {
            let (tls, ca_pem) = Tls::own("simulated Sectigo TLS root", true)?;
            (tls, Some(ca_pem))
        } else {
            (Tls::Plain, None)
        };
        let server = HttpServer::start(tls, Arc::new(Gateway(Arc::clone(&state)))).await?;
        Ok(SectigoSim { state, server, ca_pem, root_pem, issuer_pem, client })
    }
}
