//! acme-dns: a small DNS server that holds nothing but challenges.
//!
//! <https://github.com/joohoi/acme-dns#api>

use std::collections::VecDeque;

use async_trait::async_trait;
use certlib_core::secret::SecretString;
use certlib_core::{Context, Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Mutex;

use super::service::{Hosted, Seat, Service, check_word, invalid, send};
use super::{DnsProvider, absolute, text};

/// How many values the server keeps: a newer one takes the place of the oldest.
const KEPT: usize = 2;

/// Settings of provider `acme-dns`, beside `api_url`, which has to be there, and `connection` of
/// [`ServiceConfig`](super::ServiceConfig).
///
/// ```json
/// {
///     "kind": "acme-dns",
///     "api_url": "https://auth.example.com",
///     "subdomain": "8e5700ea-a4bf-41c7-8a77-e990661dcc6a",
///     "fulldomain": "8e5700ea-a4bf-41c7-8a77-e990661dcc6a.auth.example.com"
/// }
/// ```
///
/// Register an account with the server (`POST /register`) and make `_acme-challenge` of every name an alias (CNAME) for
/// its `fulldomain`. The server keeps the two newest values of an account, and none is ever taken away: that is enough
/// for a name and its wildcard, not for orders side by side. Give names that are ordered apart accounts, and issuers, of
/// their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcmeDnsConfig {
    /// The `subdomain` of the account.
    pub subdomain: String,
    /// The `fulldomain` of the account: what aliases have to point to.
    pub fulldomain: String,
}

/// Credentials of provider `acme-dns`: they can change the two values of one account.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcmeDnsCredentials {
    /// The `username` of the account.
    pub username: SecretString,
    /// The `password` of the account.
    pub password: SecretString,
}

#[derive(Debug)]
pub(super) struct AcmeDns {
    service: Service,
    config: AcmeDnsConfig,
    credentials: AcmeDnsCredentials,
    /// What was handed in last: handing it in again would push out a neighbour.
    latest: Mutex<VecDeque<String>>,
}

#[derive(Deserialize)]
struct Updated {
    txt: String,
}

impl Hosted for AcmeDns {
    const KIND: &'static str = "acme-dns";
    const OPERATION: &'static str = "dns.acme-dns";
    const TTL: u32 = 1;
    type Config = AcmeDnsConfig;
    type Credentials = AcmeDnsCredentials;

    fn api_url(_: &AcmeDnsConfig) -> Option<String> {
        None
    }

    fn check(config: &AcmeDnsConfig) -> Result<()> {
        check_word("subdomain", &config.subdomain)?;
        absolute(&config.fulldomain).map(drop).map_err(|_| invalid("fulldomain", "a domain name"))
    }

    fn connect(seat: Seat<'_>, config: AcmeDnsConfig, credentials: AcmeDnsCredentials) -> Result<Self> {
        Ok(Self { service: seat.service, config, credentials, latest: Mutex::default() })
    }
}

impl AcmeDns {
    /// # Errors
    /// `Validation` `alias_missing`.
    fn check_name(&self, fqdn: &str) -> Result<()> {
        let (name, ours) = (absolute(fqdn)?.to_lowercase(), absolute(&self.config.fulldomain)?.to_lowercase());
        if name == ours {
            return Ok(());
        }
        let why = format!("make this name an alias (CNAME) for {}", text(&ours));
        Err(Error::validation(Self::OPERATION, "alias_missing", why).with("name", text(&name)))
    }
}

#[async_trait]
impl DnsProvider for AcmeDns {
    async fn add_txt(&self, cx: &Context, fqdn: &str, value: &str) -> Result<()> {
        self.check_name(fqdn)?;
        let mut latest = self.latest.lock().await;
        if latest.iter().any(|known| known == value) {
            return Ok(());
        }
        cx.check_cancelled(Self::OPERATION)?;
        let request = self
            .service
            .api
            .post(["update"])
            .secret_header("x-api-user", &self.credentials.username)
            .secret_header("x-api-key", &self.credentials.password)
            .json(&json!({ "subdomain": self.config.subdomain, "txt": value }));
        let updated: Updated = send(cx, request).await?.json()?;
        if updated.txt != value {
            return Err(Error::transient(Self::OPERATION, "answer_invalid", "the server took another value"));
        }
        latest.push_back(value.to_owned());
        if latest.len() > KEPT {
            latest.pop_front();
        }
        Ok(())
    }

    /// The server cannot take a value away; newer ones replace it.
    async fn remove_txt(&self, _: &Context, fqdn: &str, _: &str) -> Result<()> {
        self.check_name(fqdn)
    }
}
