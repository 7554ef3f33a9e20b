//! Issuers: certificate authorities that take an order and answer it now or later.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;

use crate::bundle::CertificateBundle;
use crate::clock::Clock;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::poll::PollSchedule;
use crate::secret::{SecretBytes, SecretString};
use crate::store::SharedStore;

/// A certificate authority.
///
/// # Contract
/// - `submit` places one order and returns a handle that is plain data; the caller stores it before anything else
///   happens. `submit` does only what is needed to have a handle; whatever follows belongs into `poll`.
/// - `poll` moves the order on as far as it can without waiting long, and says where it stands. It may be called at
///   any time, on any node, after any crash, any number of times: it reads the state at the CA first.
/// - Neither may hold a worker for minutes: an order that is not ready is `Pending`.
/// - An error of `submit` with [`Effect::None`](crate::Effect::None) says that the CA has no order. After any other, and
///   after a crash, [`recovery`](Self::recovery) says what can be done: an order must be neither lost nor paid for twice.
///
/// # Errors
/// `Network` and `IoTransient` mean "ask again later", also for 429. `Auth` and `IoPermanent` end the attempt, and leave an
/// order that was placed where it is, unless it costs nothing ([`Recovery::Repeat`]); `Validation` ends the order. Errors of
/// `submit` say whether the CA may have the order: the effect of a new error is
/// [`Effect::None`](crate::Effect::None), so whoever sent something and got no answer must say
/// [`Effect::Possible`](crate::Effect::Possible).
#[async_trait]
pub trait AsyncIssuer: Debug + Send + Sync + 'static {
    /// Places an order.
    async fn submit(&self, cx: &Context, request: &IssueRequest) -> Result<OrderHandle>;

    /// Moves an order on and says where it stands.
    async fn poll(&self, cx: &Context, handle: &OrderHandle) -> Result<OrderState>;

    /// What can be done about an order of which it is unclear whether the CA has it.
    fn recovery(&self) -> Recovery<'_> {
        Recovery::Park
    }

    /// How pending orders are polled.
    fn poll_schedule(&self) -> PollSchedule {
        PollSchedule::default()
    }

    /// The ability to revoke, if this CA has it.
    fn revoker(&self) -> Option<&dyn Revoker> {
        None
    }

    /// The ability to say when to renew, if this CA has it.
    fn renewal_info(&self) -> Option<&dyn RenewalInfo> {
        None
    }
}

/// What can be done when it is unclear whether the CA has an order, because the answer was lost or this process died.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Recovery<'a> {
    /// It can be placed once more: the CA gives back the same order, or one that costs nothing is left to expire.
    Repeat,
    /// The CA can be asked for it; only what is not found is placed once more.
    Search(&'a dyn OrderSearch),
    /// Neither. Somebody has to look, and say what to do with it.
    Park,
}

/// A CA whose orders can be searched.
#[async_trait]
pub trait OrderSearch: Debug + Send + Sync {
    /// How long after it was placed an order can be counted on to be found. 60 s unless the CA is known to be quicker.
    fn visible_after(&self) -> Duration {
        Duration::from_secs(60)
    }

    /// The order that was placed by `request` at `since` or later, if the CA has it. It is recognised by
    /// [`IssueRequest::reference`], or by the public key of the request.
    ///
    /// # Errors
    /// As [`AsyncIssuer`], but none of them ends the order. `Validation` `order_ambiguous` when it cannot be told which order,
    /// if any, is the one: then the order is parked.
    async fn find(&self, cx: &Context, request: &IssueRequest, since: OffsetDateTime) -> Result<Option<OrderHandle>>;
}

/// A CA that can revoke.
#[async_trait]
pub trait Revoker: Debug + Send + Sync {
    /// Revokes a certificate. Revoking one that is revoked already succeeds.
    ///
    /// # Errors
    /// As [`AsyncIssuer`].
    async fn revoke(&self, cx: &Context, bundle: &CertificateBundle, reason: RevocationReason) -> Result<()>;
}

/// A CA that says when to renew (RFC 9773).
#[async_trait]
pub trait RenewalInfo: Debug + Send + Sync {
    /// The window the CA suggests for renewing this certificate; `None` if it has no opinion.
    ///
    /// # Errors
    /// As [`AsyncIssuer`].
    async fn renewal_window(&self, cx: &Context, bundle: &CertificateBundle) -> Result<Option<RenewalWindow>>;
}

/// What to issue.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct IssueRequest {
    /// The order's id: what to write into a field for remarks at the CA, to find the order by it.
    #[serde(default)]
    pub reference: String,
    /// DNS names, wildcards, IP addresses.
    pub names: Vec<String>,
    /// PKCS#10, DER.
    #[serde(with = "crate::base64_bytes")]
    pub csr: Vec<u8>,
    /// The CA's profile, template or product, if one is asked for.
    pub profile: Option<String>,
    /// How long it should be valid, if the CA lets us choose.
    pub validity: Option<Duration>,
    /// The leaf (DER) that this order replaces, when it is a renewal.
    #[serde(with = "crate::base64_bytes::option", default)]
    pub replaces: Option<Vec<u8>>,
}

impl IssueRequest {
    /// A request for `names`, made by the PKCS#10 request `csr`.
    pub fn new(names: Vec<String>, csr: Vec<u8>) -> Self {
        Self { reference: String::new(), names, csr, profile: None, validity: None, replaces: None }
    }
}

/// What an issuer needs to find an order again: plain data, no secrets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OrderHandle(pub Value);

impl OrderHandle {
    /// A handle from an issuer's own type.
    ///
    /// # Errors
    /// `IoPermanent` `handle_invalid`.
    pub fn encode(handle: &impl Serialize) -> Result<Self> {
        serde_json::to_value(handle).map(Self).map_err(|error| handle_invalid().with_source(error))
    }

    /// The issuer's own type again.
    ///
    /// # Errors
    /// `IoPermanent` `handle_invalid`.
    pub fn decode<T: for<'de> Deserialize<'de>>(&self) -> Result<T> {
        T::deserialize(&self.0).map_err(|error| handle_invalid().with_source(error))
    }
}

fn handle_invalid() -> Error {
    Error::permanent("issuer.handle", "handle_invalid", "the stored order handle is not one of this issuer")
}

/// Where an order stands.
#[derive(Debug)]
#[non_exhaustive]
pub enum OrderState {
    /// Here is the certificate.
    Issued {
        /// Leaf first, then its issuers.
        chain_pem: String,
    },
    /// Not yet.
    Pending {
        /// When the CA asks us to come back, if it does.
        retry_after: Option<Duration>,
    },
    /// The CA will not issue.
    Rejected {
        /// Why.
        reason: Error,
    },
}

/// Why a certificate is revoked (RFC 5280 section 5.3.1); the reasons that public CAs accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevocationReason {
    /// No reason given.
    #[default]
    Unspecified,
    /// The private key is known to somebody else.
    KeyCompromise,
    /// The subject's data changed.
    AffiliationChanged,
    /// A newer certificate took its place.
    Superseded,
    /// The service is gone.
    CessationOfOperation,
    /// The right to the name is gone.
    PrivilegeWithdrawn,
}

impl RevocationReason {
    /// The CRLReason number.
    pub fn code(self) -> u8 {
        match self {
            Self::Unspecified => 0,
            Self::KeyCompromise => 1,
            Self::AffiliationChanged => 3,
            Self::Superseded => 4,
            Self::CessationOfOperation => 5,
            Self::PrivilegeWithdrawn => 9,
        }
    }
}

/// When a CA wants a certificate renewed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RenewalWindow {
    /// Renew from here.
    #[serde(with = "time::serde::rfc3339")]
    pub start: OffsetDateTime,
    /// Renew before here.
    #[serde(with = "time::serde::rfc3339")]
    pub end: OffsetDateTime,
    /// When to ask again.
    pub retry_after: Option<Duration>,
    /// A page that explains an unusual window.
    pub explanation_url: Option<String>,
}

impl RenewalWindow {
    /// A window.
    ///
    /// # Errors
    /// `Validation` `window_invalid` when it ends before it starts (RFC 9773 section 4.2 says: no answer).
    pub fn new(start: OffsetDateTime, end: OffsetDateTime) -> Result<Self> {
        if end <= start {
            return Err(Error::validation(
                "issuer.ari",
                "window_invalid",
                "the suggested window ends before it starts",
            ));
        }
        Ok(Self { start, end, retry_after: None, explanation_url: None })
    }
}

/// Makes issuers of one kind from their stored configuration.
#[async_trait]
pub trait IssuerFactory: Debug + Send + Sync + 'static {
    /// The kind's stable name, such as `"acme"`.
    fn kind(&self) -> &'static str;

    /// Fails with `config_invalid` unless `config` can be used.
    ///
    /// # Errors
    /// `Validation` `config_invalid`, naming the field.
    fn check(&self, config: &Value) -> Result<()>;

    /// Makes an issuer ready for use; creates accounts and keys where there are none yet, and keeps them in
    /// [`IssuerSpec::state`] before they are used.
    ///
    /// # Errors
    /// As [`AsyncIssuer`].
    async fn build(&self, cx: &Context, spec: IssuerSpec) -> Result<Arc<dyn AsyncIssuer>>;
}

/// What an issuer is made from.
#[derive(Debug)]
#[non_exhaustive]
pub struct IssuerSpec {
    /// The issuer's id.
    pub id: String,
    /// The project it belongs to.
    pub project: String,
    /// Its configuration.
    pub config: Value,
    /// Its credential, as JSON text, if it has one.
    pub credentials: Option<SecretString>,
    /// Where it keeps its own secrets: account keys, CA keys.
    pub state: Arc<dyn IssuerState>,
    /// For what other nodes must see, such as pending challenges.
    pub store: SharedStore,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl IssuerSpec {
    /// The specification of the issuer `id`.
    pub fn new(
        id: impl Into<String>,
        config: Value,
        state: Arc<dyn IssuerState>,
        store: SharedStore,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { id: id.into(), project: String::new(), config, credentials: None, state, store, clock }
    }

    /// The configuration as the issuer's own type.
    ///
    /// # Errors
    /// `Validation` `config_invalid`.
    pub fn decode_config<T: for<'de> Deserialize<'de>>(&self) -> Result<T> {
        decode_config(&self.config)
    }
}

/// A configuration as a typed value.
///
/// # Errors
/// `Validation` `config_invalid`, with serde's explanation: configurations hold no secrets.
pub fn decode_config<T: for<'de> Deserialize<'de>>(config: &Value) -> Result<T> {
    // A list would be taken for the values of the fields in their order.
    if !config.is_object() {
        let why = "the configuration is not a JSON object";
        return Err(Error::validation("issuer.config", "config_invalid", why));
    }
    T::deserialize(config).map_err(|error| {
        Error::validation("issuer.config", "config_invalid", format!("the configuration cannot be used: {error}"))
    })
}

/// The sealed memory of one issuer, shared by all nodes.
#[async_trait]
pub trait IssuerState: Debug + Send + Sync {
    /// What was kept, and the revision to replace it under.
    ///
    /// # Errors
    /// As [`Store`](crate::store::Store) and [`SecretEnvelope`](crate::secret::SecretEnvelope).
    async fn load(&self) -> Result<Option<(SecretBytes, u64)>>;

    /// Keeps `value`, durably, if what is kept still has `revision` (`None`: nothing is kept yet).
    ///
    /// # Errors
    /// `conflict` when another node was faster: load again.
    async fn save(&self, value: &SecretBytes, revision: Option<u64>) -> Result<u64>;
}
