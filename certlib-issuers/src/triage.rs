//! What a CA's answer to "where is my order?" means: one table for all CAs with an HTTP API.
//!
//! | answer | meaning |
//! | --- | --- |
//! | 2xx, a state | issued, pending or rejected: each CA has its words |
//! | 2xx that cannot be read | the attempt fails; the order stays |
//! | 401, 403 | the attempt fails; the order stays |
//! | 404 soon after the order was placed | pending: the CA's nodes do not know of it yet |
//! | other 4xx | the order is over |
//! | 408, 429, 5xx, network, TLS | pending |

use std::time::Duration;

use certlib_core::issuer::OrderState;
use certlib_core::{Error, Result};
use certlib_net::Answer;
use serde::de::DeserializeOwned;
use time::OffsetDateTime;

/// How long a CA may not know an order that it accepted.
const UNKNOWN_FOR: Duration = Duration::from_secs(60);

/// The body of an answer with success.
///
/// # Errors
/// `IoPermanent` `answer_invalid`: asking again and again gives the same page of a proxy.
pub(crate) fn read<T: DeserializeOwned>(answer: &Answer) -> Result<T> {
    answer.json().map_err(unreadable)
}

/// An answer with success that is not what this API says, whatever its format.
pub(crate) fn unreadable(error: Error) -> Error {
    Error::permanent(
        error.operation(),
        "answer_invalid",
        "the CA's answer cannot be read; is there a proxy in between?",
    )
    .with_effect(error.effect())
    .with_source(error)
}

/// What a poll that got no answer failed on: whatever it is, TLS included, the order is still pending.
pub(crate) fn unanswered(error: Error) -> Error {
    if error.class().is_retryable() {
        return error;
    }
    Error::network(error.operation(), "ca_unreachable", "the CA could not be asked").with_source(error)
}

/// What an answer without success says about an order that was placed at `submitted`.
///
/// # Errors
/// As [`Answer::refused`], except for an order that the CA cannot know yet.
pub(crate) fn refused(answer: &Answer, submitted: OffsetDateTime, now: OffsetDateTime) -> Result<OrderState> {
    match answer.status() {
        404 if is_new(submitted, now) => Ok(OrderState::Pending { retry_after: None }),
        _ => Err(answer.refused()),
    }
}

/// Whether an order is so young that the CA may not know of it yet.
pub(crate) fn is_new(submitted: OffsetDateTime, now: OffsetDateTime) -> bool {
    now < submitted + UNKNOWN_FOR
}
