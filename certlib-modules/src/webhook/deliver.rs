//! One delivery: a request, and what its answer means.

use std::time::Duration;

use bytes::Bytes;
use certlib_core::error::{Effect, Error, ErrorClass, Result, codes};
use certlib_core::{Context, classify};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Response};
use time::OffsetDateTime;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::OPERATION;
use super::sign::Signer;
use crate::net::{HttpUrl, Timeouts, http};

/// How much of an answer is read, in bytes after decompression.
const MOST_READ: usize = 64 * 1024;
/// The longest wait that a receiver can ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Everything that two deliveries to one target have in common.
#[derive(Debug)]
pub(super) struct Receiver {
    pub(super) url: HttpUrl,
    pub(super) client: Client,
    pub(super) headers: HeaderMap,
    pub(super) signer: Signer,
    pub(super) timeouts: Timeouts,
}

/// An accepted delivery.
#[derive(Debug)]
pub(super) struct Delivered {
    pub(super) status: u16,
    /// How many bytes of the answer were read.
    pub(super) read: usize,
    /// Whether there was more, or the rest did not come in time.
    pub(super) cut: bool,
}

impl Receiver {
    /// Sends `body` as delivery `id` and waits for the answer. The status alone decides; what else a receiver says
    /// is read up to a limit and thrown away.
    ///
    /// Not cancel-safe: after a drop the receiver may have the delivery.
    ///
    /// # Errors
    /// By class of the failure; with [`Effect::None`] when the receiver certainly did not take the delivery.
    pub(super) async fn deliver(&self, cx: &Context, id: &str, body: Zeroizing<Vec<u8>>) -> Result<Delivered> {
        let started = cx.clock.monotonic();
        let request = self.request(id, cx.clock.now(), body)?;
        let answer = timeout(self.timeouts.head(), self.client.execute(request)).await;
        let response = answer
            .map_err(|_| {
                Error::network(OPERATION, "timeout", "the receiver did not answer in time")
                    .with("url", &self.url)
                    .with_effect(Effect::Possible)
            })?
            .map_err(|error| http::failure(OPERATION, &self.url, error))?;
        let status = response.status().as_u16();
        if !response.status().is_success() {
            return Err(self.refused(status, response.headers(), cx.clock.now()));
        }
        let left = self.timeouts.total().saturating_sub(cx.clock.monotonic().saturating_sub(started));
        let (read, cut) = drain(response, left).await;
        Ok(Delivered { status, read, cut })
    }

    fn request(&self, id: &str, now: OffsetDateTime, body: Zeroizing<Vec<u8>>) -> Result<reqwest::Request> {
        let mut headers = self.headers.clone();
        self.signer.sign(&mut headers, id, now, &body)?;
        let key = HeaderValue::from_str(id).map_err(|_| {
            Error::validation(OPERATION, "header_invalid", "the delivery's id cannot be sent as a header")
        })?;
        headers.insert(IDEMPOTENCY_KEY, key);
        // The body may hold a private key: this way it is wiped when the request is done with it.
        let body = Bytes::from_owner(body);
        self.client
            .post(self.url.as_url().clone())
            .headers(headers)
            .body(body)
            .build()
            .map_err(|error| http::failure(OPERATION, &self.url, error).with_effect(Effect::None))
    }

    fn refused(&self, status: u16, headers: &HeaderMap, now: OffsetDateTime) -> Error {
        let (class, code, message) = match status {
            300..=399 => (
                ErrorClass::IoPermanent,
                "redirect_refused",
                "the receiver redirects; redirects are not followed, so configure the final URL",
            ),
            410 => (ErrorClass::IoPermanent, codes::TARGET_GONE, "the receiver says that it is gone for good"),
            _ => (classify::http(status), "http_status", "the receiver did not accept the delivery"),
        };
        // A client error means that the receiver looked and declined. After anything else nobody knows.
        let effect = match status {
            408 => Effect::Possible,
            300..=499 => Effect::None,
            _ => Effect::Possible,
        };
        let wait = headers
            .get(RETRY_AFTER)
            .filter(|_| class.is_retryable())
            .and_then(|value| classify::retry_after(value.to_str().ok()?, now))
            .map(|wait| wait.min(LONGEST_WAIT));
        Error::new(class, OPERATION, code, message)
            .with("status", status)
            .with("url", &self.url)
            .with_effect(effect)
            .with_retry_after(wait)
    }
}

/// Reads an answer up to the limit, for at most `left`: how much was read, and whether that was not all.
async fn drain(mut response: Response, left: Duration) -> (usize, bool) {
    let mut read = 0;
    let all = async {
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => read += chunk.len(),
                end => return end.is_ok(),
            }
            if read > MOST_READ {
                return false;
            }
        }
    };
    let complete = timeout(left, all).await.unwrap_or(false);
    (read.min(MOST_READ), !complete)
}
