//! GlobalSign Atlas: certificates over HVCA, the High Volume CA API v2.
//!
//! [`GlobalSignFactory`] makes the issuers, from [`GlobalSignConfig`] and a credential: the API key with its secret, and the
//! client certificate that GlobalSign issued for the account (both are needed for every call):
//!
//! ```json
//! {
//!   "api_key": "16 hexadecimal digits",
//!   "api_secret": "40 hexadecimal digits",
//!   "client": { "certificate_pem": "-----BEGIN CERTIFICATE-----...", "private_key_pem": "-----BEGIN PRIVATE KEY-----..." }
//! }
//! ```
//!
//! # The validation policy
//! An account has a policy that says of each field whether a request must, may or must not have it. It is read once an hour;
//! requests are made from it, and what it does not allow is refused before anything is sent (`policy_violated`, with the
//! field). A policy that wants keys as `PKCS8` is refused with `key_format_unsupported`: that form is signed with the private
//! key, which an issuer never has. Ask GlobalSign for `PKCS10`. A certificate's `profile` means nothing here.
//!
//! # Orders
//! A certificate is asked for by one `POST`, whose answer names its serial number; it is pending while HVCA answers 202.
//! There is no key of idempotency and no field for remarks: after a lost answer, what was issued since is listed
//! (`/stats/issued`) and compared by public key; it is asked for again only when it is not listed 15 minutes later. Where others are issued by the hundred meanwhile, that takes as many requests.
//! The chain comes from `/trustchain`, without the root.
//!
//! # What the account needs
//! Tokens count for ten minutes and are shared by all calls of a node; they are renewed after nine. Names must be covered by
//! verified domain claims, which are made in Atlas or through its API beforehand.
//!
//! # Not supported
//! Making and verifying domain claims; keys as PKCS#8; mail addresses, URIs and other names; custom extensions.
//!
//! # Uncertain
//! No source says these for sure: how an exhausted quota is answered (whatever it is, it is not taken as accepted); whether
//! lists show what is still pending; whether serial numbers with a leading zero are written with it.
//!
//! Sources: <https://github.com/globalsign/hvclient>.
//!
//! ```
//! use certlib_core::issuer::IssuerFactory;
//! use certlib_issuers::globalsign::GlobalSignFactory;
//! use serde_json::json;
//!
//! GlobalSignFactory.check(&json!({ "validity_days": 90, "subject": { "locality": "London" } }))?;
//! # Ok::<(), certlib_core::Error>(())
//! ```

mod client;
mod config;
mod order;
mod policy;
mod revoke;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use certlib_core::issuer::{
    AsyncIssuer, IssueRequest, IssuerFactory, IssuerSpec, OrderHandle, OrderSearch, OrderState, Recovery, Revoker,
    decode_config,
};
use certlib_core::poll::PollSchedule;
use certlib_core::{Context, Result};
use serde_json::Value;
use time::OffsetDateTime;
use tokio::sync::Mutex;

use self::client::Client;
use self::config::GlobalSignCredentials;
pub use self::config::{GlobalSignConfig, SubjectConfig};
use self::order::Kept;

/// Makes GlobalSign issuers; kind `globalsign`. Making one asks nothing of GlobalSign.
#[derive(Debug, Clone, Copy, Default)]
pub struct GlobalSignFactory;

#[async_trait]
impl IssuerFactory for GlobalSignFactory {
    fn kind(&self) -> &'static str {
        "globalsign"
    }

    fn check(&self, config: &Value) -> Result<()> {
        decode_config::<GlobalSignConfig>(config)?.check()
    }

    async fn build(&self, _cx: &Context, spec: IssuerSpec) -> Result<Arc<dyn AsyncIssuer>> {
        let config: GlobalSignConfig = spec.decode_config()?;
        config.check()?;
        let client = Client::new(&config, GlobalSignCredentials::decode(spec.credentials.as_ref())?)?;
        Ok(Arc::new(GlobalSign { config, client, policy: Mutex::default() }))
    }
}

/// One account.
#[derive(Debug)]
struct GlobalSign {
    config: GlobalSignConfig,
    client: Client,
    policy: Mutex<Option<Kept>>,
}

#[async_trait]
impl AsyncIssuer for GlobalSign {
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
impl OrderSearch for GlobalSign {
    /// Statistics are gathered now and then: how often, nobody says.
    fn visible_after(&self) -> Duration {
        Duration::from_secs(15 * 60)
    }

    async fn find(&self, cx: &Context, request: &IssueRequest, since: OffsetDateTime) -> Result<Option<OrderHandle>> {
        self.search(cx, request, since).await
    }
}
