//! How names are proven to an ACME CA (RFC 8555 section 8).

mod dns01;
pub mod http01;
mod told;

use std::net::IpAddr;

use certlib_core::store::SharedStore;
use certlib_core::{Context, Result};
use instant_acme::ChallengeType;
use time::OffsetDateTime;

pub(crate) use self::dns01::Dns01;
pub use self::http01::Http01Responder;
pub(crate) use self::told::Told;

/// One name to be proven, and with what.
#[derive(Debug, Clone)]
pub(crate) struct Proof {
    /// The name without `*.`.
    pub(crate) name: String,
    pub(crate) token: String,
    pub(crate) key_authorization: String,
    /// What the key authorization is in the DNS.
    pub(crate) dns_value: String,
    pub(crate) expires_at: OffsetDateTime,
}

/// Whether the CA may look now.
#[derive(Debug)]
pub(crate) enum Readiness {
    Ready,
    /// Not yet, and why.
    NotYet(String),
}

/// The way of proving that an issuer is configured for.
#[derive(Debug)]
pub(crate) enum Method {
    /// Through a web server that shares our store.
    Http01(SharedStore),
    /// Through the DNS.
    Dns01(Dns01),
}

impl Method {
    /// The challenge type, as the CA calls it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Http01(_) => "http-01",
            Self::Dns01(_) => "dns-01",
        }
    }

    /// The challenge type, as instant-acme calls it.
    pub(crate) fn challenge_type(&self) -> ChallengeType {
        match self {
            Self::Http01(_) => ChallengeType::Http01,
            Self::Dns01(_) => ChallengeType::Dns01,
        }
    }

    /// Whether `name` can be proven this way at all.
    pub(crate) fn can_prove(&self, name: &str) -> bool {
        match self {
            Self::Http01(_) => !name.starts_with("*."),
            Self::Dns01(_) => name.parse::<IpAddr>().is_err(),
        }
    }

    /// Puts every proof in place, and looks whether the CA would find it.
    pub(crate) async fn provision(&self, cx: &Context, proofs: &[Proof]) -> Result<Readiness> {
        match self {
            Self::Http01(store) => http01::provision(store, proofs).await.map(|()| Readiness::Ready),
            Self::Dns01(dns) => dns.provision(cx, proofs).await,
        }
    }

    /// Takes away what [`Method::provision`] put in place, and nothing else.
    pub(crate) async fn clean_up(&self, cx: &Context, proofs: &[Proof]) -> Result<()> {
        match self {
            Self::Http01(store) => http01::clean_up(store, proofs).await,
            Self::Dns01(dns) => dns.clean_up(cx, proofs).await,
        }
    }
}
