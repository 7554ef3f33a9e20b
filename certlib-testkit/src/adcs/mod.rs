//! Simulated Microsoft AD Certificate Services, inside the test's own process.
//!
//! An [`AdcsSim`] is an issuing authority as programs without Windows see it, at one address over HTTPS: the policy
//! service (CEP, MS-XCEP `GetPolicies`), the enrolment service (CES, MS-WSTEP `RequestSecurityToken`: new requests,
//! requests that wait, questions for them, renewals that the former certificate signs) and the web enrolment pages
//! (`/certsrv/`). It has [`Template`]s, keeps every request with its number, and a test is its certificate manager
//! ([`approve`](AdcsSim::approve), [`deny`](AdcsSim::deny)). Its clock can be moved ([`AdcsSim::advance`]), and a
//! [`Fault`] makes it misbehave in one precise way.
//!
//! Logins: Basic, NTLMv2 (raw and in SPNEGO, with channel bindings) and client certificates in HTTP and TLS, and names
//! with passwords in the message (`UsernameToken`).
//!
//! The web pages are checked against the Python clients `certsrv` and acme2certifier's `mscertsrv_ca_handler`. For the
//! policy and enrolment services there is no client to check against: their messages follow the samples of the
//! protocol's own papers and of open clients, and the tests compare them with these.
//!
//! # What it does not have
//!
//! Kerberos (the addresses of that name take NTLM), anonymous access, RPC and DCOM, revocation and its lists, key
//! archival (`KET`) and enrolment agents, requests of CMC that their own key signs, more than one authority,
//! restrictions of certificate managers, and the scripts of the pages.
//!
//! ```
//! use certlib_testkit::adcs::{AdcsSim, Auth, Template};
//!
//! # async fn example() -> certlib_testkit::Result<()> {
//! let services = AdcsSim::builder()
//!     .user("svc-certs", "secret")
//!     .template(Template::new("WebServer").manager_approval())
//!     .start()
//!     .await?;
//! // Give services.cep_url(Auth::UsernamePassword), ca_pem() and the account to what is to be tested.
//! assert!(services.cep_url(Auth::UsernamePassword).ends_with("_CEP_UsernamePassword/service.svc/CEP"));
//! // Then decide about what it has asked for.
//! for request in services.pending() {
//!     services.approve(request.id)?;
//! }
//! assert!(services.history().is_empty());
//! services.stop();
//! # Ok(())
//! # }
//! # tokio::runtime::Runtime::new().unwrap().block_on(example()).unwrap();
//! ```

mod authority;
mod builder;
mod certsrv;
mod cms;
mod csr;
mod endpoint;
mod fault;
mod form;
mod history;
mod hresult;
mod pages;
mod policy;
mod reply;
mod server;
mod signature;
mod soap;
mod state;
mod template;
mod texts;
mod wstep;

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use time::OffsetDateTime;

pub use self::{
    builder::AdcsSimBuilder,
    endpoint::Auth,
    fault::{Fault, Injection, Operation},
    history::Record,
    hresult::Hresult,
    state::{Disposition, Enrolment},
    template::{KeyAlgorithm, Template},
    texts::Language,
};
use self::{
    endpoint::{cep_path, ces_url},
    server::{Service, state},
};
pub use crate::logins::Hardening;
use crate::{Error, Result, http_server::HttpServer, pki::Signed};

/// Running simulated certificate services. They stop when dropped.
pub struct AdcsSim {
    service: Arc<Service>,
    server: HttpServer,
    ca_pem: String,
}

impl AdcsSim {
    /// Describes them; nothing happens until [`AdcsSimBuilder::start`].
    pub fn builder() -> AdcsSimBuilder {
        AdcsSimBuilder::default()
    }

    /// The URL of the web server, such as `https://127.0.0.1:41235`.
    #[must_use]
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.server.address()
    }

    /// The URL of the web enrolment pages, with no slash at its end.
    #[must_use]
    pub fn certsrv_url(&self) -> String {
        format!("{}/certsrv", self.url())
    }

    /// The URL of the policy service for a way to log in.
    #[must_use]
    pub fn cep_url(&self, auth: Auth) -> String {
        format!("{}{}", self.url(), cep_path(auth))
    }

    /// The URL of the enrolment service for a way to log in, encoded.
    #[must_use]
    pub fn ces_url(&self, auth: Auth) -> String {
        ces_url(&self.url(), &self.service.settings.ca_name, auth)
    }

    /// The root to trust for HTTPS, PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The root above what is issued, PEM.
    #[must_use]
    pub fn root_pem(&self) -> String {
        state(&self.service).authority.root_pem().to_owned()
    }

    /// The certificate of the authority that issues, PEM.
    #[must_use]
    pub fn issuer_pem(&self) -> String {
        state(&self.service).authority.certificate_pem().to_owned()
    }

    /// Adds a template, or puts another in the place of the one with its name.
    pub fn put_template(&self, template: Template) {
        let mut state = state(&self.service);
        state.templates.retain(|known| !known.name().eq_ignore_ascii_case(template.name()));
        state.templates.push(template);
        state.changed = state.now();
    }

    /// Changes the password of a user; who is logged in stays so.
    pub fn set_password(&self, user: &str, password: &str) {
        if let Some(account) = state(&self.service).logins.accounts.get_mut(&user.to_lowercase()) {
            password.clone_into(&mut account.password);
        }
    }

    /// How often a user has failed to log in since the last success.
    #[must_use]
    pub fn failed_logins(&self, user: &str) -> u32 {
        state(&self.service).logins.accounts.get(&user.to_lowercase()).map_or(0, |account| account.failures)
    }

    /// Every request that the authority keeps, in the order of their numbers.
    #[must_use]
    pub fn requests(&self) -> Vec<Enrolment> {
        state(&self.service).enrolments.values().cloned().collect()
    }

    /// A request, by its number.
    #[must_use]
    pub fn request(&self, id: u32) -> Option<Enrolment> {
        state(&self.service).enrolments.get(&id).cloned()
    }

    /// The requests that wait.
    #[must_use]
    pub fn pending(&self) -> Vec<Enrolment> {
        let waits = |enrolment: &Enrolment| enrolment.disposition == Disposition::Pending;
        self.requests().into_iter().filter(waits).collect()
    }

    /// Issues a request that waits, as a certificate manager does; its certificate.
    ///
    /// # Errors
    /// [`Error::Protocol`] when there is no such request, it does not wait, or its key cannot be put into a certificate.
    pub fn approve(&self, id: u32) -> Result<Signed> {
        let mut state = state(&self.service);
        let issued = state.issue(id).map(|enrolment| enrolment.certificate.clone());
        issued.and_then(|certificate| certificate.ok_or(Hresult::PROPERTY_EMPTY)).map_err(|code| refused(id, code))
    }

    /// Denies a request that waits, with [`Hresult::ADMIN_DENIED`].
    ///
    /// # Errors
    /// [`Error::Protocol`] when there is no such request, or it does not wait.
    pub fn deny(&self, id: u32) -> Result<()> {
        state(&self.service).deny(id, Hresult::ADMIN_DENIED).map_err(|code| refused(id, code))
    }

    /// Its clock.
    #[must_use]
    pub fn now(&self) -> OffsetDateTime {
        state(&self.service).now()
    }

    /// Moves its clock forward.
    pub fn advance(&self, by: Duration) {
        state(&self.service).ahead += by;
    }

    /// Makes them misbehave. Of several faults that a request could meet, the one that was injected first does.
    pub fn inject(&self, injection: Injection) {
        state(&self.service).faults.push(injection);
    }

    /// Makes them behave again.
    pub fn clear_faults(&self) {
        state(&self.service).faults.clear();
    }

    /// Every HTTP request so far, oldest first.
    #[must_use]
    pub fn history(&self) -> Vec<Record> {
        state(&self.service).history.clone()
    }

    /// How many requests for this were made so far.
    #[must_use]
    pub fn count(&self, operation: Operation) -> usize {
        state(&self.service).history.iter().filter(|record| record.operation == operation).count()
    }

    /// Stops listening and ends all connections.
    pub fn stop(self) {}
}

impl fmt::Debug for AdcsSim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdcsSim").field("url", &self.url()).finish_non_exhaustive()
    }
}

fn refused(id: u32, code: Hresult) -> Error {
    Error::protocol("the simulated authority", format!("request {id}: {code}"))
}

/// Locks a mutex; a test that panicked elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
