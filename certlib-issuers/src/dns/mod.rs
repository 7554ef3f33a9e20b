//! Writing challenge records into the DNS.
//!
//! [`DnsProvider`] is all that a DNS service must be able to do. [`Rfc2136`] speaks dynamic update, the protocol of
//! BIND, Knot, PowerDNS and others; a provider of one's own is registered with
//! [`AcmeFactory::with_dns_provider`](crate::acme::AcmeFactory::with_dns_provider).
//!
//! The others are chosen by `kind`; each takes the settings of [`ServiceConfig`] and its own:
//!
//! | `kind` | service | settings | credential |
//! | --- | --- | --- | --- |
//! | `acme-dns` | acme-dns | [`AcmeDnsConfig`] | [`AcmeDnsCredentials`] |
//! | `alidns` | Alibaba Cloud DNS | [`AliDnsConfig`] | [`AliDnsCredentials`] |
//! | `azure` | Azure DNS | [`AzureConfig`] | [`AzureCredentials`] |
//! | `cloudflare` | Cloudflare | none | [`CloudflareCredentials`] |
//! | `digitalocean` | DigitalOcean | none | [`DigitalOceanCredentials`] |
//! | `exec` | a program on this machine | [`ExecConfig`] alone | [`ExecCredentials`] |
//! | `gandi` | Gandi LiveDNS | none | [`GandiCredentials`] |
//! | `google` | Google Cloud DNS | [`GoogleConfig`] | [`GoogleCredentials`] |
//! | `hetzner` | Hetzner, Cloud API | none | [`HetznerCredentials`] |
//! | `hetzner-console` | Hetzner, old DNS Console | none | [`HetznerConsoleCredentials`] |
//! | `huawei` | Huawei Cloud DNS | [`HuaweiDnsConfig`] | [`HuaweiDnsCredentials`] |
//! | `ovh` | OVHcloud | [`OvhConfig`] | [`OvhCredentials`] |
//! | `powerdns` | PowerDNS | [`PowerDnsConfig`] | [`PowerDnsCredentials`] |
//! | `route53` | Amazon Route 53 | none | [`Route53Credentials`] |
//! | `webhook` | a service of one's own | none | [`WebhookCredentials`] |
//!
//! The credential of the issuer holds what they log in with under `dns`:
//!
//! ```json
//! { "dns": { "api_key": "..." } }
//! ```
//!
//! Give it the least: a token for one zone, or, better still, an alias from `_acme-challenge` to a zone that holds
//! nothing else. Aliases are followed.

mod acmedns;
mod alidns;
mod azure;
mod cloudflare;
mod digitalocean;
mod exec;
mod gandi;
mod google;
mod hetzner;
mod hetzner_console;
mod huawei;
mod kinds;
mod ovh;
mod powerdns;
mod propagation;
mod records;
mod rfc2136;
mod route53;
mod service;
mod sets;
mod token;
mod txt;
mod webhook;
mod wire;
mod zone;

use std::fmt::Debug;

use async_trait::async_trait;
use certlib_core::{Context, Error, Result};
use hickory_proto::rr::Name;

pub use self::acmedns::{AcmeDnsConfig, AcmeDnsCredentials};
pub use self::alidns::{AliDnsConfig, AliDnsCredentials};
pub use self::azure::{AzureConfig, AzureCredentials};
pub use self::cloudflare::CloudflareCredentials;
pub use self::digitalocean::DigitalOceanCredentials;
pub use self::exec::{ExecConfig, ExecCredentials};
pub use self::gandi::GandiCredentials;
pub use self::google::{GoogleConfig, GoogleCredentials};
pub use self::hetzner::HetznerCredentials;
pub use self::hetzner_console::HetznerConsoleCredentials;
pub use self::huawei::{HuaweiDnsConfig, HuaweiDnsCredentials};
pub use self::kinds::provider;
pub(crate) use self::kinds::{Environment, Kind, kind};
pub use self::ovh::{OvhConfig, OvhCredentials, OvhRegion};
pub use self::powerdns::{PowerDnsConfig, PowerDnsCredentials};
pub(crate) use self::propagation::Propagation;
pub use self::propagation::PropagationConfig;
pub use self::rfc2136::{Rfc2136, Rfc2136Config, TsigAlgorithm};
pub use self::route53::Route53Credentials;
pub use self::service::ServiceConfig;
pub use self::webhook::WebhookCredentials;
pub(crate) use self::zone::Resolver;

/// A place where TXT records can be put.
///
/// # Contract
/// - Both methods deal in single values: a name may hold several, and those of others are never touched.
/// - Adding a value that is there, and removing one that is not, succeed.
/// - A value need not be visible everywhere when `add_txt` returns; the caller looks for it.
///
/// # Errors
/// `Network` and `IoTransient` to be tried again; `Auth` when the service does not accept us; `Validation` when the
/// name is not in a zone we may change.
#[async_trait]
pub trait DnsProvider: Debug + Send + Sync + 'static {
    /// Adds the value `value` at `fqdn`, which has no trailing dot.
    async fn add_txt(&self, cx: &Context, fqdn: &str, value: &str) -> Result<()>;

    /// Removes the value `value` at `fqdn`.
    async fn remove_txt(&self, cx: &Context, fqdn: &str, value: &str) -> Result<()>;
}

/// A domain name, absolute whether written with a trailing dot or not.
fn absolute(name: &str) -> Result<Name> {
    let invalid =
        || Error::validation("dns.name", "name_invalid", "not a domain name").with("name", name.escape_debug());
    let trimmed = name.strip_suffix('.').unwrap_or(name);
    if trimmed.is_empty() {
        return Err(invalid());
    }
    let mut parsed = Name::from_ascii(trimmed).map_err(|_| invalid())?;
    parsed.set_fqdn(true);
    Ok(parsed)
}

/// A name as text, without the trailing dot.
fn text(name: &Name) -> String {
    name.to_ascii().trim_end_matches('.').to_owned()
}
