//! DigiCert CertCentral: DV, OV, EV and private certificates over the Services API v2.
//!
//! [`DigiCertFactory`] makes the issuers, from [`DigiCertConfig`] and a credential:
//!
//! ```json
//! { "api_key": "a key of the Services API" }
//! ```
//!
//! # Orders
//! An order is one `POST`, with the reference of certlib's order as its comment. DigiCert has no key of idempotency: an order
//! whose answer was lost is found among those with its common name, by its public key or that comment. `pending`,
//! `needs_approval` and everything else that is neither issued nor over is pending; where the account has approvals, somebody
//! approves the order in CertCentral, unless [`DigiCertConfig::skip_approval`] is set and the key is an administrator's.
//!
//! # Renewals
//! By default the order is **reissued** while it lives long enough for a whole validity, the product and the common name are
//! the same, and no name is taken away (DigiCert revokes certificates that lose a name by a reissue). Otherwise, and always
//! with `"renew": "renew"`, a new order is placed; it names the former one (`renewal_of_order_id`) if that ends within 90
//! days, which is when accounts may renew by default.
//!
//! # Revocation
//! Revokes one certificate by its serial number, never the order. Unless approval is skipped, somebody has to approve it in
//! CertCentral: until then it fails with `approval_pending`, and is not asked for a second time while the order shows the
//! certificate. After a reissue nothing leads from the former certificate to its order, so that each try to revoke that one
//! asks again; approve one of the requests.
//!
//! # What the key needs
//! A key with the restriction *Orders* (or none), of a user who may order the product and, to revoke, request revocations.
//! *View only* does not suffice. `skip_approval` needs an administrator's. Keys may be bound to addresses.
//!
//! # Not supported
//! Proving control over domains: validate them in CertCentral beforehand (with `dcv_method` an order says how it is going to
//! be proven, and is pending until it is). Duplicates, custom fields, products other than for TLS servers.
//!
//! # Uncertain
//! No source says these for sure: that `cert_validity` is heeded by reissues; the spelling of reasons other than
//! `superseded`; the code for what is revoked already, when the account keeps the order of a revoked certificate as issued
//! (`already_revoked` is taken for it); whether 429 comes with `Retry-After`.
//!
//! Sources: <https://dev.digicert.com/en/certcentral-apis/services-api.html>.
//!
//! ```
//! use certlib_core::issuer::IssuerFactory;
//! use certlib_issuers::digicert::DigiCertFactory;
//! use serde_json::json;
//!
//! DigiCertFactory.check(&json!({
//!     "url": "https://certcentral.digicert.eu/services/v2",
//!     "product": "ssl_basic",
//!     "organization_id": 117_483,
//!     "validity_days": 90,
//!     "renew": "reissue",
//! }))?;
//! # Ok::<(), certlib_core::Error>(())
//! ```

mod client;
mod config;
mod find;
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
use self::config::DigiCertCredentials;
pub use self::config::{DcvMethod, DigiCertConfig, Renew, SignatureHash};

/// Makes DigiCert issuers; kind `digicert`. Making one asks nothing of DigiCert.
#[derive(Debug, Clone, Copy, Default)]
pub struct DigiCertFactory;

#[async_trait]
impl IssuerFactory for DigiCertFactory {
    fn kind(&self) -> &'static str {
        "digicert"
    }

    fn check(&self, config: &Value) -> Result<()> {
        decode_config::<DigiCertConfig>(config)?.check()
    }

    async fn build(&self, _cx: &Context, spec: IssuerSpec) -> Result<Arc<dyn AsyncIssuer>> {
        let config: DigiCertConfig = spec.decode_config()?;
        config.check()?;
        let client = Client::new(&config, DigiCertCredentials::decode(spec.credentials.as_ref())?)?;
        Ok(Arc::new(DigiCert { config, client }))
    }
}

/// One account, and what is ordered there.
#[derive(Debug)]
struct DigiCert {
    config: DigiCertConfig,
    client: Client,
}

#[async_trait]
impl AsyncIssuer for DigiCert {
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
impl OrderSearch for DigiCert {
    async fn find(&self, cx: &Context, request: &IssueRequest, since: OffsetDateTime) -> Result<Option<OrderHandle>> {
        self.search(cx, request, since).await
    }
}
