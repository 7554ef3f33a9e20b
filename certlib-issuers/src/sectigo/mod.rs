//! Sectigo Certificate Manager (SCM): TLS certificates over its REST API.
//!
//! [`SectigoFactory`] makes the issuers, from [`SectigoConfig`] and a credential, either
//!
//! ```json
//! { "login": "api-user", "customer_uri": "example", "password": "its password" }
//! ```
//!
//! or, with a URL that ends in `/private/api`, a client certificate that stands for the password:
//!
//! ```json
//! { "login": "api-user", "customer_uri": "example", "certificate_pem": "-----BEGIN …", "private_key_pem": "-----BEGIN …" }
//! ```
//!
//! # Orders
//! An order is one enrolment, with the reference of certlib's order in its comment. Sectigo has no key of idempotency: an
//! order whose answer was lost is found among those of the organization which do not show other names, by that comment; where
//! comments are not shown, by the key of the certificate. Where neither tells, it is looked for again for an hour
//! (`search_incomplete`); then somebody is asked (`order_ambiguous`).
//!
//! What is neither issued nor over is pending, approval by a human included; with [`SectigoConfig::approve`] certlib approves
//! by itself. A certificate that is issued but cannot be collected yet is pending, too. It is collected as `x509`, and put
//! in order here: leaf first, without the root.
//!
//! # Renewals
//! Are further orders: Sectigo's own renewal repeats the former request, and so its key; a replacement ends when the
//! certificate that it replaces would have ended.
//!
//! # Revocation
//! By the serial number. The reason `privilege_withdrawn`, which Sectigo does not have, becomes `cessation_of_operation`.
//!
//! # What the login needs
//! An administrator with *WS API use only* and *SSL* (MRAO, RAO or DRAO) for the organization, who has changed the first
//! password already; for [`SectigoConfig::approve`], one who may approve. The service *Web API* must be on for the
//! organization.
//!
//! # Not supported
//! Proving control over domains: validate them in Sectigo beforehand (`domain_not_validated`). The admin API with OAuth2.
//! Certificates other than for TLS servers.
//!
//! # Uncertain
//! No source says these for sure: that requests without a common name are taken by every profile; that comments are
//! shown to every login; how serial numbers are spelled in filters and paths (both spellings are tried); limits of the rate
//! of requests, and whether 429 comes with `Retry-After`.
//!
//! Sources: the reference of the SCM REST API, release 25.5.
//!
//! ```
//! use certlib_core::issuer::IssuerFactory;
//! use certlib_issuers::sectigo::SectigoFactory;
//! use serde_json::json;
//!
//! SectigoFactory.check(&json!({
//!     "url": "https://cert-manager.com/api",
//!     "organization_id": 2,
//!     "certificate_type": "Instant SSL",
//!     "term_days": 90,
//! }))?;
//! # Ok::<(), certlib_core::Error>(())
//! ```

mod client;
mod config;
mod order;
mod revoke;

use std::sync::Arc;

use async_trait::async_trait;
use certlib_core::issuer::{
    AsyncIssuer, IssueRequest, IssuerFactory, IssuerSpec, OrderHandle, OrderSearch, OrderState, Recovery, Revoker,
    decode_config,
};
use certlib_core::poll::PollSchedule;
use certlib_core::{Context, Result};
use serde_json::Value;
use time::OffsetDateTime;

use self::client::Client;
use self::config::SectigoCredentials;
pub use self::config::{CertificateType, SectigoConfig};

/// Makes Sectigo issuers; kind `sectigo`. Making one asks nothing of Sectigo.
#[derive(Debug, Clone, Copy, Default)]
pub struct SectigoFactory;

#[async_trait]
impl IssuerFactory for SectigoFactory {
    fn kind(&self) -> &'static str {
        "sectigo"
    }

    fn check(&self, config: &Value) -> Result<()> {
        decode_config::<SectigoConfig>(config)?.check()
    }

    async fn build(&self, _cx: &Context, spec: IssuerSpec) -> Result<Arc<dyn AsyncIssuer>> {
        let config: SectigoConfig = spec.decode_config()?;
        config.check()?;
        let client = Client::new(&config, SectigoCredentials::decode(spec.credentials.as_ref())?)?;
        Ok(Arc::new(Sectigo { config, client }))
    }
}

/// One login, and what is ordered with it.
#[derive(Debug)]
struct Sectigo {
    config: SectigoConfig,
    client: Client,
}

#[async_trait]
impl AsyncIssuer for Sectigo {
    async fn submit(&self, cx: &Context, request: &IssueRequest) -> Result<OrderHandle> {
        self.place(cx, request).await
    }

    async fn poll(&self, cx: &Context, handle: &OrderHandle) -> Result<OrderState> {
        self.look(cx, handle).await
    }

    fn recovery(&self) -> Recovery<'_> {
        Recovery::Search(self)
    }

    fn poll_schedule(&self) -> PollSchedule {
        self.config.poll.clone()
    }

    fn revoker(&self) -> Option<&dyn Revoker> {
        Some(self)
    }
}

#[async_trait]
impl OrderSearch for Sectigo {
    async fn find(&self, cx: &Context, request: &IssueRequest, since: OffsetDateTime) -> Result<Option<OrderHandle>> {
        self.search(cx, request, since).await
    }
}
