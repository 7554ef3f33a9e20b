//! How long a peer may take.

use std::time::Duration;

use certlib_core::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// How long to wait, in milliseconds; each from 1 to 300 000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Timeouts {
    /// For name resolution, TCP and TLS together. Default 5 000.
    pub connect_ms: u64,
    /// From there to the head of the answer. Default 10 000.
    pub response_ms: u64,
    /// For everything together. Default 30 000.
    pub total_ms: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect_ms: 5_000, response_ms: 10_000, total_ms: 30_000 }
    }
}

impl Timeouts {
    /// The defaults, with this many milliseconds for everything together.
    pub fn within(total_ms: u64) -> Self {
        Self { total_ms, ..Self::default() }
    }

    /// Checks the limits.
    ///
    /// # Errors
    /// `Validation` `timeout_invalid` with the field.
    pub fn check(&self) -> Result<()> {
        let fields = [
            ("timeouts.connect_ms", self.connect_ms),
            ("timeouts.response_ms", self.response_ms),
            ("timeouts.total_ms", self.total_ms),
        ];
        match fields.into_iter().find(|(_, value)| !(1..=300_000).contains(value)) {
            None => Ok(()),
            Some((field, value)) => {
                Err(Error::validation("net.timeouts", "timeout_invalid", "a time-out is from 1 to 300000 milliseconds")
                    .with("field", field)
                    .with("value", value))
            }
        }
    }

    /// Until there is a connection.
    pub fn connect(&self) -> Duration {
        Duration::from_millis(self.connect_ms.min(self.total_ms))
    }

    /// Until the head of the answer is there, from the start.
    pub fn head(&self) -> Duration {
        Duration::from_millis((self.connect_ms + self.response_ms).min(self.total_ms))
    }

    /// Until everything is there, from the start.
    pub fn total(&self) -> Duration {
        Duration::from_millis(self.total_ms)
    }
}
