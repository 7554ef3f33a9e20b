//! What DNS services with an HTTP API have in common: their settings, their zones, and what their refusals mean.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use certlib_core::error::codes;
use certlib_core::secret::SecretString;
use certlib_core::{Context, Error, ErrorClass, Result, classify};
use certlib_net::{Answer, Api, Connection, Lookup, Request};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::zone::{zone_candidates, zone_not_found};
use super::{absolute, text};

/// A refusal because of a missing right: another zone may still be ours to change.
const NOT_PERMITTED: &str = "not_permitted";

/// Settings that every provider over HTTP takes beside its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServiceConfig {
    /// The zone to write in. Default: the service is asked for the longest zone that holds the name.
    pub zone: Option<String>,
    /// Time to live of the records, in seconds; at most one day. Default: each provider's own, short one. A record that
    /// is put beside others takes theirs where the service keeps one for all of them.
    pub ttl: Option<u32>,
    /// Where the API is. Default: where the vendor runs it.
    pub api_url: Option<String>,
    /// How to reach it.
    pub connection: Connection,
}

/// A kind of service.
pub(super) trait Hosted: Debug + Send + Sync + Sized + 'static {
    /// What a configuration calls it.
    const KIND: &'static str;
    /// The operation of its errors.
    const OPERATION: &'static str;
    /// The time to live of its records, in seconds, unless configured.
    const TTL: u32;
    /// Settings of its own.
    type Config: DeserializeOwned;
    /// What it needs to log in.
    type Credentials: DeserializeOwned;

    /// Where its API is, unless configured; `None` when everybody runs their own.
    fn api_url(config: &Self::Config) -> Option<String>;

    /// Checks the settings of its own.
    ///
    /// # Errors
    /// `Validation` `config_invalid`.
    fn check(_config: &Self::Config) -> Result<()> {
        Ok(())
    }

    /// Puts it together.
    ///
    /// # Errors
    /// `Validation` `credentials_invalid`; as [`Api::new`].
    fn connect(seat: Seat<'_>, config: Self::Config, credentials: Self::Credentials) -> Result<Self>;
}

/// No settings.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// What a provider is put together from.
#[derive(Debug)]
pub(super) struct Seat<'a> {
    pub(super) service: Service,
    connection: &'a Connection,
    lookup: Arc<dyn Lookup>,
}

impl<'a> Seat<'a> {
    /// # Errors
    /// As [`check`] and [`Api::new`].
    pub(super) fn new<H: Hosted>(
        settings: &'a ServiceConfig,
        config: &H::Config,
        lookup: Arc<dyn Lookup>,
    ) -> Result<Self> {
        let url = check::<H>(settings, config)?;
        let api = Api::new(H::OPERATION, &url, &settings.connection, None, lookup.clone())?;
        let zone = settings.zone.as_deref().map(|zone| absolute(zone).map(|zone| text(&zone.to_lowercase())));
        let service = Service { api, zone: zone.transpose()?, ttl: settings.ttl.unwrap_or(H::TTL) };
        Ok(Self { service, connection: &settings.connection, lookup })
    }

    /// Another API that the provider needs, reached in the same way.
    ///
    /// # Errors
    /// As [`Api::new`].
    pub(super) fn another(&self, operation: &'static str, url: &str) -> Result<Api> {
        Api::new(operation, url, self.connection, None, self.lookup.clone())
    }
}

/// Checks the settings of a provider, and gives the URL of its API.
///
/// # Errors
/// `Validation` `config_invalid`; as [`Connection::check`].
pub(super) fn check<H: Hosted>(settings: &ServiceConfig, config: &H::Config) -> Result<String> {
    if settings.zone.as_deref().is_some_and(|zone| absolute(zone).is_err()) {
        return Err(invalid("zone", "a domain name"));
    }
    if settings.ttl.is_some_and(|ttl| ttl > 24 * 3600) {
        return Err(invalid("ttl", "at most one day"));
    }
    H::check(config)?;
    let url = settings.api_url.clone().or_else(|| H::api_url(config)).ok_or_else(|| invalid("api_url", "a URL"))?;
    settings.connection.check(&url)?;
    Ok(url)
}

/// `config_invalid`, naming the field.
pub(super) fn invalid(field: &'static str, why: &str) -> Error {
    Error::validation("dns.config", "config_invalid", format!("{field}: {why}")).with("field", field)
}

/// Checks that a setting is there and can be part of a path or a header.
///
/// # Errors
/// `Validation` `config_invalid`.
pub(super) fn check_word(field: &'static str, word: &str) -> Result<()> {
    let fits = !word.is_empty() && word.len() <= 200 && word.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(()) } else { Err(invalid(field, "printable characters without spaces")) }
}

/// A service at one address, and where in it to write.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) api: Api,
    zone: Option<String>,
    pub(super) ttl: u32,
}

/// A name in its zone; both without a trailing dot, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) fqdn: String,
    pub(super) zone: String,
}

impl Place {
    /// The name without its zone; `apex` for the zone itself.
    pub(super) fn relative<'a>(&'a self, apex: &'a str) -> &'a str {
        let rest = self.fqdn.strip_suffix(&self.zone).unwrap_or(&self.fqdn).trim_end_matches('.');
        if rest.is_empty() { apex } else { rest }
    }

    /// The name with a trailing dot.
    pub(super) fn dotted(&self) -> String {
        format!("{}.", self.fqdn)
    }
}

/// A service that has zones.
#[async_trait]
pub(super) trait Zones: Send + Sync {
    /// How the service knows a zone.
    type Zone: Send + Sync;

    fn service(&self) -> &Service;

    /// The zone that is called exactly `name`, if the service has it; a public one where it tells them apart.
    async fn zone(&self, cx: &Context, name: &str) -> Result<Option<Self::Zone>>;
}

/// The longest zone that holds `fqdn`, or the configured one.
///
/// # Errors
/// `Validation` `zone_not_found`, `not_in_zone`, `name_invalid`; those of the service.
pub(super) async fn find<Z: Zones + ?Sized>(zones: &Z, cx: &Context, fqdn: &str) -> Result<(Place, Z::Zone)> {
    let name = absolute(fqdn)?.to_lowercase();
    let fqdn = text(&name);
    if let Some(zone) = &zones.service().zone {
        if !absolute(zone)?.zone_of(&name) {
            return Err(Error::validation("dns.zone", "not_in_zone", "the name is not in the configured zone")
                .with("name", &fqdn)
                .with("zone", zone));
        }
        let found = zones.zone(cx, zone).await?.ok_or_else(|| zone_not_found(&name))?;
        return Ok((Place { fqdn, zone: zone.clone() }, found));
    }
    let mut refused = None;
    for candidate in zone_candidates(&name) {
        let zone = text(&candidate);
        match zones.zone(cx, &zone).await {
            Ok(Some(found)) => return Ok((Place { fqdn, zone }, found)),
            Ok(None) => {}
            // Some services say so of every name that is not ours.
            Err(error) if error.code() == NOT_PERMITTED => refused = refused.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    Err(refused.unwrap_or_else(|| zone_not_found(&name)))
}

/// The value of `Authorization` for a token.
pub(super) fn bearer(token: &SecretString) -> SecretString {
    SecretString::new(format!("Bearer {}", token.expose()))
}

/// Sends a request and demands success.
///
/// # Errors
/// As [`Request::send`] and [`refused`].
pub(super) async fn send(cx: &Context, request: Request<'_>) -> Result<Answer> {
    let answer = request.send(cx).await?;
    if answer.is_success() { Ok(answer) } else { Err(refused(&answer)) }
}

/// The same, where 404 says that there is no such thing.
pub(super) async fn look(cx: &Context, request: Request<'_>) -> Result<Option<Answer>> {
    let answer = request.send(cx).await?;
    match answer.status() {
        404 => Ok(None),
        _ if answer.is_success() => Ok(Some(answer)),
        _ => Err(refused(&answer)),
    }
}

/// The error that an answer without success is, by its status. What the service says in words is not quoted.
///
/// Classes and codes: `Auth` `credentials_refused` (401), `not_permitted` (403); `Validation` `not_found` (404),
/// `refused`; `IoTransient` `throttled` (429, with the wait it asks for), `service_failed` (5xx); `IoPermanent`
/// `refused`.
pub(super) fn refused(answer: &Answer) -> Error {
    let (code, message) = match answer.status() {
        401 => ("credentials_refused", "the service does not accept the credentials"),
        403 => (NOT_PERMITTED, "the credentials lack a permission; this provider's documentation names those it needs"),
        404 => (codes::NOT_FOUND, "the service has no such object; is it the right zone?"),
        429 => ("throttled", "the service takes no more requests for now"),
        500.. => ("service_failed", "the service is in trouble"),
        _ => ("refused", "the service refuses the request"),
    };
    answer.error(classify::http(answer.status()), code, message)
}

/// [`refused`], unless the service's own code says more than the status does.
pub(super) fn refused_with(answer: &Answer, vendor: Option<&str>, known: Option<(ErrorClass, &'static str)>) -> Error {
    let error = match known {
        Some((class, code)) => answer.error(class, code, "the service refuses the request; its own code says why"),
        None => refused(answer),
    };
    match vendor.filter(|code| is_code(code)) {
        Some(code) => error.with("vendor_code", code),
        None => error,
    }
}

/// Codes are words: anything else might be a text that repeats what was sent.
fn is_code(code: &str) -> bool {
    (1..=80).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-:".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let place = |fqdn: &str| Place { fqdn: fqdn.to_owned(), zone: "example.com".to_owned() };
        assert_eq!(place("_acme-challenge.www.example.com").relative("@"), "_acme-challenge.www");
        assert_eq!(place("example.com").relative("@"), "@");
        assert_eq!(place("example.com").dotted(), "example.com.");
    }

    #[test]
    fn codes_are_words() {
        assert!(is_code("InvalidAccessKeyId.NotFound") && is_code("81057"));
        assert!(!is_code("") && !is_code("two words") && !is_code(&"x".repeat(81)));
    }
}
