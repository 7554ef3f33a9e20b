//! A CA Gateway.

mod client;
mod order;
mod revoke;

use async_trait::async_trait;
use certlib_core::issuer::{AsyncIssuer, IssueRequest, OrderHandle, OrderSearch, OrderState, Recovery, Revoker};
use certlib_core::poll::PollSchedule;
use certlib_core::secret::SecretString;
use certlib_core::{Context, Result};
use time::OffsetDateTime;

use self::client::Client;
use super::config::{CaGatewayConfig, decode_identity};

/// One authority at a gateway.
#[derive(Debug)]
pub(super) struct CaGateway {
    config: CaGatewayConfig,
    client: Client,
}

impl CaGateway {
    /// # Errors
    /// As [`decode_identity`] and [`certlib_net::Api::new`].
    pub(super) fn new(config: CaGatewayConfig, credentials: Option<&SecretString>) -> Result<Self> {
        let client = Client::new(&config, &decode_identity(credentials)?)?;
        Ok(Self { config, client })
    }
}

#[async_trait]
impl AsyncIssuer for CaGateway {
    async fn submit(&self, cx: &Context, request: &IssueRequest) -> Result<OrderHandle> {
        self.enroll(cx, request).await
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
impl OrderSearch for CaGateway {
    async fn find(&self, cx: &Context, request: &IssueRequest, since: OffsetDateTime) -> Result<Option<OrderHandle>> {
        self.search(cx, request, since).await
    }
}
