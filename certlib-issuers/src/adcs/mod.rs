//! Microsoft AD Certificate Services, from machines without Windows: by the enrolment web services (CEP and CES: MS-XCEP,
//! MS-WSTEP), or by the web enrolment pages (`/certsrv`).
//!
//! [`AdcsFactory`] makes the issuers, from [`AdcsConfig`] and a credential, which is one of
//!
//! ```json
//! { "username": "EXAMPLE\\svc-certs", "password": "..." }
//! { "certificate_pem": "leaf and issuers", "private_key_pem": "not encrypted" }
//! ```
//!
//! # Logins
//! Web services take a name and password in the message (`UsernameToken`; services made for "user name and password") or a
//! client certificate (services made for "client certificate"); with [`AdcsConfig::http_basic`] HTTP Basic, where an
//! administrator has enabled it. The web pages take HTTP Basic or a client certificate. **NTLM and Kerberos are not
//! supported.** The clock must be right within five minutes for names and passwords in messages.
//!
//! # Orders
//! With a policy service, its templates and CAs are read at most once an hour (or when it does not have what is wanted): a
//! template that the account may not use, that wants an enrolment agent's signature, a longer key, or takes names from the
//! directory is refused before anything is asked of the CA, and the enrolment service for our kind of login is looked up.
//! The login is sent to whatever server the policy names, so it must be trusted; but a service that is asked for a request
//! later is on the server that took it.
//!
//! A request waits for a certificate manager where the template says so. It is asked for by its number for seven days, and
//! then again after a rest, always by the account that made it. Refusals are judged by error codes, and pages by their links
//! and forms: never by words, which are in the server's language.
//!
//! There is no key of idempotency, and no way to search requests: an order whose answer was lost is parked, for somebody to
//! look. Each request has the attribute `certlib-order` with the order's reference, to be found by
//! `certutil -view -restrict ... -out Request.RequestAttributes`.
//!
//! # Permissions
//! The account needs *Read* and *Enroll* on the template and *Request Certificates* on the CA. Names must come from the
//! request ("Supply in the request").
//!
//! # Not supported
//! - Revocation: none of these services has it. Use `certutil -revoke` on the CA.
//! - Renewals that the former certificate signs: its private key is not at hand. A renewal is a new request, so where
//!   templates waive the approval for signed renewals, a manager approves it all the same.
//! - Choosing a validity: the template has one. RPC and DCOM, enrolment agents, key archival.
//!
//! # Uncertain
//! No source says these for sure: that unknown request attributes are kept by all CAs (they are by those that were written
//! about); that the page of a pending request has the form with `certrmpn.asp` in every version (a number on its own is taken
//! for the request's otherwise, and a page with a quotation for a refusal); that an enrolment service answers
//! `QueryTokenStatus` for what it issued at once.
//!
//! Sources: MS-XCEP and MS-WSTEP at <https://learn.microsoft.com/openspecs/>.
//!
//! ```
//! use certlib_core::issuer::IssuerFactory;
//! use certlib_issuers::adcs::AdcsFactory;
//! use serde_json::json;
//!
//! AdcsFactory.check(&json!({
//!     "enrolment": "certsrv",
//!     "certsrv_url": "https://pki.example/certsrv",
//!     "template": "WebServer",
//! }))?;
//! # Ok::<(), certlib_core::Error>(())
//! ```

mod certsrv;
mod ces;
mod client;
mod config;
mod hresult;
mod pages;
mod pkcs7;
mod policy;
mod soap;
mod xml;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use certlib_core::issuer::{
    AsyncIssuer, IssueRequest, IssuerFactory, IssuerSpec, OrderHandle, OrderState, Recovery, decode_config,
};
use certlib_core::poll::PollSchedule;
use certlib_core::{Context, Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use tokio::sync::Mutex;

use self::client::Client;
use self::config::Login;
pub use self::config::{AdcsConfig, Enrolment};
use self::policy::Kept;

const OPERATION: &str = "adcs";

/// Makes AD CS issuers; kind `adcs`. Making one asks nothing of the services.
#[derive(Debug, Clone, Copy, Default)]
pub struct AdcsFactory;

#[async_trait]
impl IssuerFactory for AdcsFactory {
    fn kind(&self) -> &'static str {
        "adcs"
    }

    fn check(&self, config: &Value) -> Result<()> {
        decode_config::<AdcsConfig>(config)?.check()
    }

    async fn build(&self, _cx: &Context, spec: IssuerSpec) -> Result<Arc<dyn AsyncIssuer>> {
        let config: AdcsConfig = spec.decode_config()?;
        config.check()?;
        let client = Client::new(&config, Login::decode(spec.credentials.as_ref())?)?;
        Ok(Arc::new(Adcs { config, client, policies: Mutex::default() }))
    }
}

/// A CA, and one account there.
struct Adcs {
    config: AdcsConfig,
    client: Client,
    policies: Mutex<Kept>,
}

impl fmt::Debug for Adcs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Adcs").field("config", &self.config).field("client", &self.client).finish_non_exhaustive()
    }
}

/// The order handle. Numbers count within one CA, so its name and the place to ask stay with them.
#[derive(Debug, Serialize, Deserialize)]
struct Handle {
    /// By which it was placed, whatever is configured by now.
    enrolment: Enrolment,
    request_id: u32,
    /// The enrolment service, or the web pages.
    url: String,
    #[serde(default)]
    authority: Option<String>,
    template: String,
    /// Object identifier and version.
    #[serde(default)]
    template_version: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    submitted: OffsetDateTime,
}

#[async_trait]
impl AsyncIssuer for Adcs {
    async fn submit(&self, cx: &Context, request: &IssueRequest) -> Result<OrderHandle> {
        match self.config.enrolment {
            Enrolment::Ces => self.place_by_message(cx, request).await,
            Enrolment::Certsrv => self.place_by_page(cx, request).await,
        }
    }

    async fn poll(&self, cx: &Context, handle: &OrderHandle) -> Result<OrderState> {
        let handle: Handle = handle.decode()?;
        match handle.enrolment {
            Enrolment::Ces => self.look_by_message(cx, &handle).await,
            Enrolment::Certsrv => self.look_by_page(cx, &handle).await,
        }
    }

    fn recovery(&self) -> Recovery<'_> {
        // Requests cannot be searched, and each is one that a manager sees.
        Recovery::Park
    }

    fn poll_schedule(&self) -> PollSchedule {
        self.config.poll.clone()
    }
}

fn pending() -> OrderState {
    OrderState::Pending { retry_after: None }
}

fn rejected(code: Option<u32>) -> OrderState {
    let reason = Error::validation(OPERATION, "order_rejected", "the CA has denied the request");
    OrderState::Rejected {
        reason: match code {
            Some(code) => reason.with("ca_code", hresult::shown(code)),
            None => reason,
        },
    }
}
