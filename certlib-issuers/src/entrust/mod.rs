//! Entrust: public TLS certificates of Entrust Certificate Services (ECS), and private ones by way of a CA Gateway.
//!
//! These are two products with nothing in common but the name; [`EntrustConfig`] says which. [`EntrustFactory`] makes the
//! issuers, for ECS from [`EcsConfig`] and
//!
//! ```json
//! { "username": "API user", "api_key": "its key", "certificate_pem": "-----BEGIN …", "private_key_pem": "-----BEGIN …" }
//! ```
//!
//! (ECS wants user and key **and** the client certificate), for a gateway from [`CaGatewayConfig`] and
//!
//! ```json
//! { "certificate_pem": "-----BEGIN …", "private_key_pem": "-----BEGIN …" }
//! ```
//!
//! # ECS
//! An order is one `POST certificates`, with the reference of certlib's order in `trackingInfo`. An order whose answer was lost
//! is found among the account's certificates with its common name, by the request or that text. `PENDING` and whatever is
//! neither issued nor over is pending, approval by a human included. Renewals are further orders: those that Entrust calls
//! renewals and reissues supersede the former certificate at once, before the new one is served. Revocation finds the
//! certificate by its serial number; of the reasons that ECS does not have, `privilege_withdrawn` becomes
//! `cessationOfOperation`, and `unspecified` becomes `superseded`.
//!
//! Entrust gave its public business to Sectigo in 2025, and browsers no longer trust what its roots issue since; ECS may
//! serve private and older uses only.
//!
//! # CA Gateway
//! An enrolment is answered with the certificate at once, or later. One whose answer was lost is found among the
//! gateway's events, by its key, once it is issued; one that waits for approval is not to be seen from outside, so that a
//! second one may come to wait beside it, of which one is to be rejected. Gateways without a resource for enrolments are
//! followed by their events as well. Enrolments have no free text: the reference is not sent.
//!
//! # What the login needs
//! ECS: an API user who may create, view and revoke certificates for the client, with domains and organization verified. A
//! gateway: a client certificate that is allowed to enrol with the profile, read certificates and events, and revoke.
//!
//! # Not supported
//! Verifying domains and organizations; S/MIME and code signing; keys made by Entrust (PKCS#12); holding certificates.
//!
//! # Uncertain
//! No source says these for sure. ECS: that pending orders are in the list, which has no
//! filter for names. Gateway: whether there is a resource for enrolments and actions, and their states while they wait; what
//! an event holds beside the serial number; another shape of answers (`trackingId`, `certificate`) is read as well.
//!
//! Sources: Entrust's OpenAPI description of the Enterprise API (cms-api 2.1), and Entrust's own plugin for Vault.
//!
//! ```
//! use certlib_core::issuer::IssuerFactory;
//! use certlib_issuers::entrust::EntrustFactory;
//! use serde_json::json;
//!
//! EntrustFactory.check(&json!({
//!     "api": "ecs",
//!     "certificate_type": "STANDARD_SSL",
//!     "client_id": 1,
//!     "requester": { "name": "Web team", "email": "web@shop.example", "phone": "+1 555 0100" },
//! }))?;
//! # Ok::<(), certlib_core::Error>(())
//! ```

mod ca_gateway;
mod config;
mod ecs;

use std::sync::Arc;

use async_trait::async_trait;
use certlib_core::issuer::{AsyncIssuer, IssuerFactory, IssuerSpec, OrderState, decode_config};
use certlib_core::{Context, Error, Result};
use serde_json::Value;

use self::ca_gateway::CaGateway;
pub use self::config::{CaGatewayConfig, EcsConfig, EntrustConfig, Requester, Usage};
use self::ecs::Ecs;

/// Makes Entrust issuers; kind `entrust`. Making one asks nothing of Entrust.
#[derive(Debug, Clone, Copy, Default)]
pub struct EntrustFactory;

#[async_trait]
impl IssuerFactory for EntrustFactory {
    fn kind(&self) -> &'static str {
        "entrust"
    }

    fn check(&self, config: &Value) -> Result<()> {
        decode_config::<EntrustConfig>(config)?.check()
    }

    async fn build(&self, _cx: &Context, spec: IssuerSpec) -> Result<Arc<dyn AsyncIssuer>> {
        let config: EntrustConfig = spec.decode_config()?;
        config.check()?;
        Ok(match config {
            EntrustConfig::Ecs(config) => Arc::new(Ecs::new(config, spec.credentials.as_ref())?),
            EntrustConfig::CaGateway(config) => Arc::new(CaGateway::new(config, spec.credentials.as_ref())?),
        })
    }
}

fn pending() -> OrderState {
    OrderState::Pending { retry_after: None }
}

fn rejected(operation: &'static str, status: &str) -> OrderState {
    let reason = Error::validation(operation, "order_rejected", "the order is over at Entrust, without a certificate");
    let status: String =
        status.chars().filter(|letter| letter.is_ascii_alphabetic() || *letter == '_').take(64).collect();
    OrderState::Rejected { reason: reason.with("status", status.to_ascii_lowercase()) }
}

/// The first name that fits into a common name (ub-common-name, RFC 5280 appendix A).
fn common_name(operation: &'static str, names: &[String]) -> Result<String> {
    names.iter().find(|name| name.len() <= 64).cloned().ok_or_else(|| {
        let why = "Entrust needs a common name, and no name has at most 64 characters";
        Error::validation(operation, "name_too_long", why)
    })
}

/// A serial number without leading zeros, which Entrust leaves out, in capitals.
fn serial(text: &str) -> String {
    text.replace([':', ' '], "").trim_start_matches('0').to_ascii_uppercase()
}

/// A machine's code in an answer, if it can be shown.
fn shown_code(code: &str) -> Option<String> {
    let code = code.to_ascii_lowercase().replace('.', "-");
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte);
    ((1..=64).contains(&code.len()) && code.bytes().all(fits)).then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_words_or_nothing() {
        assert_eq!(shown_code("Invalid.Request").as_deref(), Some("invalid-request"));
        assert_eq!(shown_code("two words"), None);
        assert_eq!(shown_code(""), None);
    }

    #[test]
    fn serial_numbers_lose_their_zeros() {
        assert_eq!(serial("00:0a:1b"), "A1B");
    }
}
