//! The built-in providers by kind: the only list of them.

use std::path::PathBuf;
use std::sync::Arc;

use certlib_core::secret::SecretString;
use certlib_core::{Error, Result};
use certlib_net::{Lookup, SystemLookup};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Map, Value};

use super::DnsProvider;
use super::exec::{Exec, ExecConfig};
use super::records::{RecordApi, Records};
use super::service::{Hosted, Seat, ServiceConfig, check, invalid};
use super::sets::{SetApi, Sets};

/// What built-in providers are made with, besides configuration.
#[derive(Debug, Clone)]
pub(crate) struct Environment {
    pub(crate) lookup: Arc<dyn Lookup>,
    /// The folder whose programs may be run; none may without.
    pub(crate) hooks: Option<PathBuf>,
}

impl Default for Environment {
    fn default() -> Self {
        Self { lookup: Arc::new(SystemLookup), hooks: None }
    }
}

type Settings = Map<String, Value>;
type Provider = Arc<dyn DnsProvider>;

/// A kind of provider.
pub(crate) struct Kind {
    name: &'static str,
    check: fn(Settings, &Environment) -> Result<()>,
    build: fn(Settings, Option<&SecretString>, &Environment) -> Result<Provider>,
}

/// Every kind, but RFC 2136, which is asked for zones as well.
static KINDS: &[Kind] = &[
    own::<super::acmedns::AcmeDns>(),
    records::<super::alidns::AliDns>(),
    sets::<super::azure::Azure>(),
    records::<super::cloudflare::Cloudflare>(),
    records::<super::digitalocean::DigitalOcean>(),
    exec(),
    sets::<super::gandi::Gandi>(),
    sets::<super::google::Google>(),
    own::<super::hetzner::Hetzner>(),
    records::<super::hetzner_console::HetznerConsole>(),
    sets::<super::huawei::Huawei>(),
    records::<super::ovh::Ovh>(),
    sets::<super::powerdns::PowerDns>(),
    sets::<super::route53::Route53>(),
    own::<super::webhook::Webhook>(),
];

/// The kind called `name`.
pub(crate) fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

/// A built-in provider on its own, without an ACME issuer: `settings` is an object with its `kind`, and `credentials`
/// holds what it logs in with under `dns`, as JSON.
///
/// `rfc2136` is not among them; see [`Rfc2136`](super::Rfc2136). Nor is `exec`, which needs the consent of the operator.
///
/// ```
/// use certlib_core::Secret;
/// use serde_json::json;
///
/// let settings = json!({ "kind": "powerdns", "api_url": "https://ns1.example.com:8081/api/v1" });
/// let credentials = Secret::new(json!({ "dns": { "api_key": "from a safe place" } }).to_string());
/// let provider = certlib_issuers::dns::provider(&settings, Some(&credentials)).unwrap();
/// assert!(!format!("{provider:?}").contains("from a safe place"));
/// ```
///
/// # Errors
/// `Validation` `config_invalid`, `credentials_invalid`, `url_invalid`, `address_forbidden`.
pub fn provider(settings: &Value, credentials: Option<&SecretString>) -> Result<Arc<dyn DnsProvider>> {
    let mut settings = settings.as_object().cloned().ok_or_else(|| invalid("kind", "an object with a kind"))?;
    let name = settings.remove("kind");
    let found = name.as_ref().and_then(Value::as_str).and_then(kind);
    let found = found.ok_or_else(|| invalid("kind", "there is no such kind of provider"))?;
    found.build(settings, credentials, &Environment::default())
}

impl Kind {
    /// Checks the settings, which are without `kind`.
    ///
    /// # Errors
    /// `Validation` `config_invalid`; as [`certlib_net::Connection::check`].
    pub(crate) fn check(&self, settings: Settings, environment: &Environment) -> Result<()> {
        (self.check)(settings, environment)
    }

    /// A provider with these settings and the `dns` of this credential.
    ///
    /// # Errors
    /// As [`Kind::check`]; `Validation` `credentials_invalid`.
    pub(crate) fn build(
        &self,
        settings: Settings,
        credentials: Option<&SecretString>,
        environment: &Environment,
    ) -> Result<Provider> {
        (self.build)(settings, credentials, environment)
    }
}

/// A service whose records have ids.
const fn records<H: Hosted + RecordApi>() -> Kind {
    Kind {
        name: H::KIND,
        check: check_hosted::<H>,
        build: |settings, credentials, environment| {
            Ok(Arc::new(Records(connect::<H>(settings, credentials, environment)?)))
        },
    }
}

/// A service that knows whole sets of records.
const fn sets<H: Hosted + SetApi>() -> Kind {
    Kind {
        name: H::KIND,
        check: check_hosted::<H>,
        build: |settings, credentials, environment| {
            Ok(Arc::new(Sets::new(connect::<H>(settings, credentials, environment)?)))
        },
    }
}

/// A service that goes its own way.
const fn own<H: Hosted + DnsProvider>() -> Kind {
    Kind {
        name: H::KIND,
        check: check_hosted::<H>,
        build: |settings, credentials, environment| Ok(Arc::new(connect::<H>(settings, credentials, environment)?)),
    }
}

const fn exec() -> Kind {
    Kind {
        name: "exec",
        check: |settings, environment| decode::<ExecConfig>(settings)?.check(environment.hooks.as_deref()),
        build: |settings, credentials, environment| {
            let config = decode(settings)?;
            Ok(Arc::new(Exec::new(config, secrets("exec", credentials)?, environment.hooks.as_deref())?))
        },
    }
}

fn check_hosted<H: Hosted>(settings: Settings, _: &Environment) -> Result<()> {
    let (service, config) = split::<H>(settings)?;
    check::<H>(&service, &config).map(drop)
}

fn connect<H: Hosted>(settings: Settings, credentials: Option<&SecretString>, environment: &Environment) -> Result<H> {
    let (service, config) = split::<H>(settings)?;
    let seat = Seat::new::<H>(&service, &config, environment.lookup.clone())?;
    H::connect(seat, config, secrets(H::KIND, credentials)?)
}

/// The settings that all services take, and those of this one.
fn split<H: Hosted>(mut settings: Settings) -> Result<(ServiceConfig, H::Config)> {
    let mut common = Map::new();
    for name in ["zone", "ttl", "api_url", "connection"] {
        common.extend(settings.remove(name).map(|value| (name.to_owned(), value)));
    }
    Ok((decode(common)?, decode(settings)?))
}

/// Reads settings.
///
/// # Errors
/// `Validation` `config_invalid`.
pub(super) fn decode<T: DeserializeOwned>(settings: Settings) -> Result<T> {
    serde_json::from_value(Value::Object(settings))
        .map_err(|error| invalid("challenge.provider", &error.to_string()).with_source(error))
}

/// The `dns` of a credential.
///
/// # Errors
/// `Validation` `credentials_invalid`; nothing of the text is quoted.
pub(super) fn secrets<T: DeserializeOwned>(kind: &'static str, credentials: Option<&SecretString>) -> Result<T> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Whole<T> {
        dns: T,
        #[serde(rename = "eab_hmac_key")]
        _eab_hmac_key: Option<IgnoredAny>,
        #[serde(rename = "tsig_secret")]
        _tsig_secret: Option<IgnoredAny>,
    }
    let text = credentials.map_or("{\"dns\":{}}", |text| text.expose());
    let whole: Whole<T> = serde_json::from_str(text).map_err(|_| {
        let why = "the credential is a JSON object whose `dns` holds what this provider's documentation lists";
        Error::validation("dns.config", "credentials_invalid", why).with("provider", kind)
    })?;
    Ok(whole.dns)
}
