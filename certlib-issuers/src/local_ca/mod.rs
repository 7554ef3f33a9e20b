//! A CA of one's own: a root key that never leaves certlib's store, and leaves signed at once.
//!
//! It is made for development, tests, and networks whose machines trust its root. It asks nobody for proof: whoever
//! may order from it gets any name. It publishes no revocation lists, and so it offers no revocation.

mod config;
mod request;
mod root;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use certlib_core::issuer::{
    AsyncIssuer, IssueRequest, IssuerFactory, IssuerSpec, OrderHandle, OrderState, Recovery, decode_config,
};
use certlib_core::{Context, Error, ErrorClass, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::config::LocalCaConfig;
use self::root::Root;

/// Makes [`LocalCa`] issuers; kind `local-ca`.
#[derive(Debug, Clone, Copy, Default)]
pub struct LocalCaFactory;

impl LocalCaFactory {
    /// The factory.
    pub fn new() -> Self {
        Self
    }
}

#[async_trait]
impl IssuerFactory for LocalCaFactory {
    fn kind(&self) -> &'static str {
        "local-ca"
    }

    fn check(&self, config: &Value) -> Result<()> {
        decode_config::<LocalCaConfig>(config)?.check()
    }

    async fn build(&self, _cx: &Context, spec: IssuerSpec) -> Result<Arc<dyn AsyncIssuer>> {
        Ok(Arc::new(LocalCa::open(&spec).await?))
    }
}

/// A CA whose root lives in certlib's own sealed store.
///
/// The root is made once, by whichever node opens the CA first; all nodes share it. Chains are the leaf and the root.
pub struct LocalCa {
    config: LocalCaConfig,
    root: Root,
}

impl LocalCa {
    /// Opens the CA of `spec`, and makes its root if there is none yet.
    ///
    /// Cancel-safe: the root is either kept or not made.
    ///
    /// # Errors
    /// `Validation` `config_invalid`; `IoPermanent` `state_invalid` when what is kept is no root; errors of
    /// [`IssuerState`](certlib_core::issuer::IssuerState).
    pub async fn open(spec: &IssuerSpec) -> Result<Self> {
        let config: LocalCaConfig = spec.decode_config()?;
        config.check()?;
        let root = Root::open(spec.state.as_ref(), &config, spec.clock.now()).await?;
        Ok(Self { config, root })
    }

    /// The root certificate, PEM: what clients must trust.
    pub fn root_pem(&self) -> String {
        self.root.pem()
    }

    async fn issue(&self, cx: &Context, order: &Order) -> Result<String> {
        let request = request::check(&order.csr, &order.names)?;
        let validity = order.validity_seconds.map_or(self.config.validity(), Duration::from_secs);
        self.root.issue(&order.names, &request, cx.clock.now(), validity)
    }
}

impl fmt::Debug for LocalCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalCa").field("config", &self.config).field("key", &self.root.key_type()).finish()
    }
}

/// The order handle: the request itself, for there is nobody else who would remember it.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    names: Vec<String>,
    #[serde(with = "crate::base64_bytes")]
    csr: Vec<u8>,
    validity_seconds: Option<u64>,
}

#[async_trait]
impl AsyncIssuer for LocalCa {
    async fn submit(&self, _cx: &Context, request: &IssueRequest) -> Result<OrderHandle> {
        request::check(&request.csr, &request.names)?;
        let validity_seconds = request.validity.map(|validity| validity.as_secs());
        if validity_seconds == Some(0) {
            return Err(Error::validation("local_ca.submit", "validity_invalid", "a validity of at least one second"));
        }
        OrderHandle::encode(&Order { names: request.names.clone(), csr: request.csr.clone(), validity_seconds })
    }

    fn recovery(&self) -> Recovery<'_> {
        // The handle is the order.
        Recovery::Repeat
    }

    async fn poll(&self, cx: &Context, handle: &OrderHandle) -> Result<OrderState> {
        let order: Order = handle.decode()?;
        match self.issue(cx, &order).await {
            Ok(chain_pem) => Ok(OrderState::Issued { chain_pem }),
            Err(reason) if reason.class() == ErrorClass::Validation => Ok(OrderState::Rejected { reason }),
            Err(error) => Err(error),
        }
    }
}
