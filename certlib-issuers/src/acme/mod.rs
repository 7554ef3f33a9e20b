//! ACME (RFC 8555): certificates from any CA that speaks it.
//!
//! [`AcmeFactory`] makes the issuers, from [`AcmeConfig`] and, where needed, a credential:
//!
//! ```json
//! { "eab_hmac_key": "for an external account", "tsig_secret": "for DNS-01 by dynamic update", "dns": {} }
//! ```
//!
//! What `dns` holds depends on the DNS provider; see [`dns`](crate::dns).
//!
//! The protocol is spoken by `instant-acme`, over an HTTP client of ours. Names are proven by HTTP-01 or DNS-01 (see
//! [`challenge`](crate::challenge)). Profiles, renewal information (RFC 9773) and the replacement of predecessors are
//! used where the CA offers them. How long a certificate is valid is the CA's choice, by its profiles: the validity of
//! a request is not sent, for public CAs refuse such orders.

mod account;
mod ari;
mod client;
mod config;
mod error;
mod jws;
mod order;
mod revoke;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use certlib_core::issuer::{
    AsyncIssuer, IssueRequest, IssuerFactory, IssuerSpec, OrderHandle, OrderState, Recovery, RenewalInfo, Revoker,
    decode_config,
};
use certlib_core::poll::PollSchedule;
use certlib_core::{Context, Result};
use serde_json::Value;

use self::account::Account;
use self::client::Client;
pub use self::config::{AcmeConfig, ChallengeConfig, Dns01Config, Http01Config};
use self::config::{AcmeCredentials, Providers};
use crate::challenge::{Method, Told};
use crate::dns::DnsProvider;

/// Makes ACME issuers; kind `acme`.
///
/// Making one reads or creates the account at the CA; after the first time, the CA is not asked for it.
#[derive(Debug, Clone, Default)]
pub struct AcmeFactory {
    providers: Providers,
}

impl AcmeFactory {
    /// A factory that knows the built-in DNS providers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a DNS provider of one's own: a configuration chooses it by `{"kind": kind}`.
    #[must_use]
    pub fn with_dns_provider(mut self, kind: impl Into<String>, provider: Arc<dyn DnsProvider>) -> Self {
        self.providers.registered.insert(kind.into(), provider);
        self
    }

    /// Admits the programs in `folder` as DNS providers of kind `exec`; see
    /// [`ExecConfig`](crate::dns::ExecConfig). Without it, none is.
    ///
    /// Whoever may create an issuer can have any of them run, with arguments of their own choice.
    #[must_use]
    pub fn with_hooks(mut self, folder: impl Into<PathBuf>) -> Self {
        self.providers.environment.hooks = Some(folder.into());
        self
    }
}

#[async_trait]
impl IssuerFactory for AcmeFactory {
    fn kind(&self) -> &'static str {
        "acme"
    }

    fn check(&self, config: &Value) -> Result<()> {
        decode_config::<AcmeConfig>(config)?.check(&self.providers)
    }

    async fn build(&self, cx: &Context, spec: IssuerSpec) -> Result<Arc<dyn AsyncIssuer>> {
        let config: AcmeConfig = spec.decode_config()?;
        config.check(&self.providers)?;
        let credentials = AcmeCredentials::decode(spec.credentials.as_ref())?;
        let method = config.method(&credentials, spec.store.clone(), &self.providers)?;
        let external = config.external_account(&credentials)?;
        let client = Client::new(config.root_pem.as_deref())?;
        let account = account::open(cx, spec.state.as_ref(), client, &config, external).await?;
        Ok(Arc::new(AcmeIssuer { config, account, method, told: Told::new(spec.store) }))
    }
}

/// One account at one CA, and one way of proving names.
#[derive(Debug)]
struct AcmeIssuer {
    config: AcmeConfig,
    account: Account,
    method: Method,
    told: Told,
}

#[async_trait]
impl AsyncIssuer for AcmeIssuer {
    async fn submit(&self, cx: &Context, request: &IssueRequest) -> Result<OrderHandle> {
        self.place(cx, request).await
    }

    async fn poll(&self, cx: &Context, handle: &OrderHandle) -> Result<OrderState> {
        self.advance(cx, handle).await
    }

    fn recovery(&self) -> Recovery<'_> {
        // An order that nobody finalises costs nothing and expires; many CAs give the same one again.
        Recovery::Repeat
    }

    fn poll_schedule(&self) -> PollSchedule {
        self.config.poll.clone()
    }

    fn revoker(&self) -> Option<&dyn Revoker> {
        Some(self)
    }

    fn renewal_info(&self) -> Option<&dyn RenewalInfo> {
        Some(self)
    }
}
