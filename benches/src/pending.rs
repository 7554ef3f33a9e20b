//! A CA that takes every order and finishes none, and a clock that can jump.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use certlib_core::clock::{Clock, SystemClock};
use certlib_core::issuer::{AsyncIssuer, IssueRequest, IssuerFactory, IssuerSpec, OrderHandle, OrderState, Recovery};
use certlib_core::poll::PollSchedule;
use certlib_core::{Context, Result};
use serde_json::{Value, json};
use time::OffsetDateTime;

/// Makes the CA; counts what it is asked.
#[derive(Debug, Clone, Default)]
pub struct PendingCa {
    polls: Arc<AtomicU64>,
}

impl PendingCa {
    /// How often it was polled, over all orders.
    pub fn polls(&self) -> u64 {
        self.polls.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl IssuerFactory for PendingCa {
    fn kind(&self) -> &'static str {
        "pending"
    }

    fn check(&self, _: &Value) -> Result<()> {
        Ok(())
    }

    async fn build(&self, _: &Context, _: IssuerSpec) -> Result<Arc<dyn AsyncIssuer>> {
        Ok(Arc::new(self.clone()))
    }
}

#[async_trait]
impl AsyncIssuer for PendingCa {
    fn recovery(&self) -> Recovery<'_> {
        Recovery::Repeat
    }

    async fn submit(&self, _: &Context, _: &IssueRequest) -> Result<OrderHandle> {
        Ok(OrderHandle(json!({ "order_url": "https://ca.example.test/order/0123456789abcdef" })))
    }

    async fn poll(&self, _: &Context, _: &OrderHandle) -> Result<OrderState> {
        self.polls.fetch_add(1, Ordering::Relaxed);
        Ok(OrderState::Pending { retry_after: None })
    }

    /// The last step of the default schedule alone, without an end: every order rests, as most do most of the time.
    fn poll_schedule(&self) -> PollSchedule {
        PollSchedule { steps: vec![300], spread: 0.2, max_wait: 86_400 }
    }
}

/// The system's clock, moved on by jumps.
#[derive(Debug, Default)]
pub struct JumpingClock {
    system: SystemClock,
    ahead_seconds: AtomicU64,
}

impl JumpingClock {
    /// A clock that tells the system's time until its first jump.
    pub fn new() -> Self {
        Self::default()
    }

    /// Moves the wall clock on. Who sleeps is not woken.
    pub fn jump(&self, seconds: u64) {
        self.ahead_seconds.fetch_add(seconds, Ordering::Relaxed);
    }
}

#[async_trait]
impl Clock for JumpingClock {
    fn now(&self) -> OffsetDateTime {
        self.system.now() + Duration::from_secs(self.ahead_seconds.load(Ordering::Relaxed))
    }

    fn monotonic(&self) -> Duration {
        self.system.monotonic()
    }

    async fn sleep(&self, duration: Duration) {
        self.system.sleep(duration).await;
    }
}
