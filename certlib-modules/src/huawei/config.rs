//! What a target on Huawei Cloud is told: where, how, and with which login.

use std::fmt;

use certlib_core::error::{Error, Result};
use certlib_core::secret::SecretString;
use serde::{Deserialize, Serialize};

use super::OPERATION;
use crate::net::Connection;
use crate::probe::Endpoint;

/// Regions that have a certificate manager of their own; the others share one of these.
const SCM_REGIONS: [&str; 3] = ["cn-north-4", "ap-southeast-1", "my-kualalumpur-1"];

/// Where to deliver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct HuaweiLocation {
    /// The region, such as `cn-north-4`. The services' addresses follow from it.
    pub region: String,
    /// The id of the project in that region. Looked up (`iam:projects:listProjects`) when absent.
    #[serde(default)]
    pub project_id: Option<String>,
    /// The enterprise project that certificates belong to and domains are looked for in. The default one when absent.
    #[serde(default)]
    pub enterprise_project_id: Option<String>,
    /// What serves the certificate.
    pub resource: Resource,
    /// Addresses of services that differ from those that follow from the region.
    #[serde(default)]
    pub urls: ServiceUrls,
}

/// What serves the certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "service", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Resource {
    /// Nothing: the certificate is imported into the certificate manager, for people to use from there.
    #[non_exhaustive]
    Scm {},
    /// A load balancer.
    #[non_exhaustive]
    Elb {
        /// The listener that serves it. When absent, the certificate is put into the load balancers' store only.
        #[serde(default)]
        listener_id: Option<String>,
        /// In which place of the listener.
        #[serde(default, rename = "use")]
        place: Place,
    },
    /// A domain of the content delivery network.
    #[non_exhaustive]
    Cdn {
        /// The accelerated domain, such as `www.example.com` or `*.example.com`.
        domain: String,
    },
    /// A host behind the web application firewall.
    #[non_exhaustive]
    Waf {
        /// The host's id.
        host_id: String,
        /// How the host is connected.
        #[serde(default)]
        mode: WafMode,
    },
}

/// Which certificate of a listener is meant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Place {
    /// The one for clients that ask for no known name.
    #[default]
    Default,
    /// One of those chosen by name: it takes the place of those that share a name with it, or joins them.
    Sni,
    /// Both.
    Both,
}

impl Place {
    pub(super) fn is_default(self) -> bool {
        matches!(self, Self::Default | Self::Both)
    }

    pub(super) fn is_sni(self) -> bool {
        matches!(self, Self::Sni | Self::Both)
    }
}

/// How a host is connected to the web application firewall.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WafMode {
    /// Through the shared cloud, by CNAME.
    #[default]
    Cloud,
    /// Through instances of its own ("dedicated mode").
    Premium,
}

/// Addresses of services. What is absent follows from the region.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ServiceUrls {
    /// Identity and access management, for the project's id.
    pub iam: Option<String>,
    /// The certificate manager.
    pub scm: Option<String>,
    /// Load balancers.
    pub elb: Option<String>,
    /// The content delivery network.
    pub cdn: Option<String>,
    /// The web application firewall.
    pub waf: Option<String>,
}

/// How to deliver. Everything has a default.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct HuaweiConfig {
    /// How to reach the services.
    pub connection: Connection,
    /// What names of certificates begin with; up to 30 letters, digits, `_`, `-` and `.`. Default `certlib`.
    pub name_prefix: String,
    /// Whether the certificate manager gets a copy of what goes to a load balancer or the firewall. Default `true`. The
    /// content delivery network takes certificates from there, so it always does.
    pub scm_import: bool,
    /// Where the certificate must be served. Without any, the service is asked what it serves.
    pub endpoints: Vec<Endpoint>,
    /// How often the service is asked what it serves before it counts as not serving. Default 3.
    pub tries: u32,
    /// The pause between two such tries, in milliseconds. Default 2 000.
    pub delay_ms: u64,
    /// How long to wait for a domain of the content delivery network that is still taking its last change, in
    /// milliseconds. Default 300 000; 0 does not wait.
    pub busy_wait_ms: u64,
    /// The pause between two looks at such a domain, in milliseconds. Default 5 000.
    pub busy_delay_ms: u64,
}

impl Default for HuaweiConfig {
    fn default() -> Self {
        Self {
            connection: Connection::default(),
            name_prefix: "certlib".to_owned(),
            scm_import: true,
            endpoints: Vec::new(),
            tries: 3,
            delay_ms: 2_000,
            busy_wait_ms: 300_000,
            busy_delay_ms: 5_000,
        }
    }
}

/// How to log in: an access key, permanent or temporary.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct HuaweiCredentials {
    /// The access key's id (AK).
    pub access_key: SecretString,
    /// The secret key (SK).
    pub secret_key: SecretString,
    /// The token that comes with a temporary access key.
    #[serde(default)]
    pub security_token: Option<SecretString>,
}

impl fmt::Debug for HuaweiCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HuaweiCredentials").field("temporary", &self.security_token.is_some()).finish_non_exhaustive()
    }
}

/// A service with an address of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    Iam,
    Scm,
    Elb,
    Cdn,
    Waf,
}

impl Service {
    /// Every service, as configured under [`HuaweiLocation::urls`].
    const ALL: [Self; 5] = [Self::Iam, Self::Scm, Self::Elb, Self::Cdn, Self::Waf];

    /// Whether requests name the project.
    pub(super) fn in_project(self) -> bool {
        matches!(self, Self::Elb | Self::Waf)
    }

    fn configured(self, urls: &ServiceUrls) -> Option<&str> {
        let url = match self {
            Self::Iam => &urls.iam,
            Self::Scm => &urls.scm,
            Self::Elb => &urls.elb,
            Self::Cdn => &urls.cdn,
            Self::Waf => &urls.waf,
        };
        url.as_deref()
    }
}

impl HuaweiLocation {
    /// Where `service` is.
    pub(super) fn url(&self, service: Service) -> String {
        if let Some(url) = service.configured(&self.urls) {
            return url.to_owned();
        }
        let region = &self.region;
        match service {
            Service::Iam => "https://iam.myhuaweicloud.com".to_owned(),
            Service::Scm => format!("https://scm.{}.myhuaweicloud.com", scm_region(region)),
            Service::Elb => format!("https://elb.{region}.myhuaweicloud.com"),
            Service::Waf => format!("https://waf.{region}.myhuaweicloud.com"),
            Service::Cdn if region.starts_with("eu-") => "https://cdn.myhuaweicloud.eu".to_owned(),
            Service::Cdn => "https://cdn.myhuaweicloud.com".to_owned(),
        }
    }
}

/// The region of the certificate manager that serves `region`.
fn scm_region(region: &str) -> &str {
    match region {
        own if SCM_REGIONS.contains(&own) => own,
        chinese if chinese.starts_with("cn-") => SCM_REGIONS[0],
        _ => SCM_REGIONS[1],
    }
}

/// Checks everything that can be checked without the network.
///
/// # Errors
/// `Validation`: `region_invalid`, `id_invalid`, `domain_invalid`, `name_prefix_invalid`, `retry_invalid`,
/// `endpoint_invalid`, `credentials_invalid`, and as [`Connection::check`].
pub(super) fn check(config: &HuaweiConfig, location: &HuaweiLocation, credentials: &HuaweiCredentials) -> Result<()> {
    if !is_region(&location.region) {
        let why = "a region is a short name such as `cn-north-4`, in lower case";
        return Err(invalid("region_invalid", "location.region", why));
    }
    check_ids(location)?;
    if let Resource::Cdn { domain } = &location.resource
        && !is_domain(domain)
    {
        let why = "the domain is a DNS name in ASCII, such as `www.example.com` or `*.example.com`";
        return Err(invalid("domain_invalid", "location.resource.domain", why));
    }
    let prefix = &config.name_prefix;
    if !(1..=30).contains(&prefix.len()) || !prefix.bytes().all(is_name_byte) {
        let why = "the prefix of names has 1 to 30 letters, digits, underscores, hyphens and dots";
        return Err(invalid("name_prefix_invalid", "config.name_prefix", why));
    }
    let longest = 60 * 60 * 1000;
    let in_range = (1..=100).contains(&config.tries)
        && config.delay_ms <= longest
        && config.busy_wait_ms <= longest
        && (1..=longest).contains(&config.busy_delay_ms);
    if !in_range {
        let why = "1 to 100 tries; pauses of at most an hour; `busy_delay_ms` at least 1";
        return Err(invalid("retry_invalid", "config", why));
    }
    config.endpoints.iter().try_for_each(Endpoint::check)?;
    for service in Service::ALL {
        config.connection.check(&location.url(service))?;
    }
    check_credentials(credentials)
}

fn check_ids(location: &HuaweiLocation) -> Result<()> {
    let (listener, host) = match &location.resource {
        Resource::Elb { listener_id, .. } => (listener_id.as_deref(), None),
        Resource::Waf { host_id, .. } => (None, Some(host_id.as_str())),
        Resource::Scm {} | Resource::Cdn { .. } => (None, None),
    };
    let ids = [
        ("location.project_id", location.project_id.as_deref()),
        ("location.enterprise_project_id", location.enterprise_project_id.as_deref()),
        ("location.resource.listener_id", listener),
        ("location.resource.host_id", host),
    ];
    for (field, id) in ids {
        let fits = |id: &str| {
            (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        if id.is_some_and(|id| !fits(id)) {
            let why = "an id has 1 to 64 letters, digits, hyphens and underscores; give the id, not the name";
            return Err(invalid("id_invalid", field, why));
        }
    }
    Ok(())
}

fn check_credentials(credentials: &HuaweiCredentials) -> Result<()> {
    let printable = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    // A comma or an equals sign would end the name of the key in the header that carries it.
    let key = credentials.access_key.expose();
    let key_fits = (1..=128).contains(&key.len()) && key.bytes().all(is_name_byte);
    let secret = credentials.secret_key.expose();
    let secret_fits = (1..=256).contains(&secret.len()) && printable(secret);
    let token_fits = credentials.security_token.as_ref().is_none_or(|token| {
        let token = token.expose();
        (1..=16_384).contains(&token.len()) && printable(token)
    });
    if key_fits && secret_fits && token_fits {
        return Ok(());
    }
    let why = "the access key, the secret key or the security token is empty or has characters that none of them has";
    Err(Error::validation(OPERATION, "credentials_invalid", why))
}

fn is_region(region: &str) -> bool {
    (3..=40).contains(&region.len())
        && region.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && region.starts_with(|first: char| first.is_ascii_lowercase())
        && region.contains('-')
        && !region.ends_with('-')
}

fn is_domain(domain: &str) -> bool {
    let name = domain.strip_prefix("*.").unwrap_or(domain);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.contains('.') && name.split('.').all(label)
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-.".contains(&byte)
}

fn invalid(code: &'static str, field: &'static str, why: &str) -> Error {
    Error::validation(OPERATION, code, why).with("field", field)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn location(value: Value) -> HuaweiLocation {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn addresses_follow_from_the_region() {
        let of = |region: &str| location(json!({"region": region, "resource": {"service": "scm"}}));
        let table = [
            ("cn-north-4", Service::Scm, "https://scm.cn-north-4.myhuaweicloud.com"),
            ("cn-south-1", Service::Scm, "https://scm.cn-north-4.myhuaweicloud.com"),
            ("my-kualalumpur-1", Service::Scm, "https://scm.my-kualalumpur-1.myhuaweicloud.com"),
            ("af-south-1", Service::Scm, "https://scm.ap-southeast-1.myhuaweicloud.com"),
            ("cn-south-1", Service::Elb, "https://elb.cn-south-1.myhuaweicloud.com"),
            ("cn-south-1", Service::Waf, "https://waf.cn-south-1.myhuaweicloud.com"),
            ("cn-south-1", Service::Cdn, "https://cdn.myhuaweicloud.com"),
            ("eu-west-101", Service::Cdn, "https://cdn.myhuaweicloud.eu"),
            ("cn-south-1", Service::Iam, "https://iam.myhuaweicloud.com"),
        ];
        for (region, service, url) in table {
            assert_eq!(of(region).url(service), url);
        }
        let own =
            json!({"region": "cn-north-4", "resource": {"service": "scm"}, "urls": {"elb": "https://elb.example"}});
        assert_eq!(location(own).url(Service::Elb), "https://elb.example");
    }

    #[test]
    fn resources() {
        let resource = |value: Value| serde_json::from_value::<Resource>(value);
        assert_eq!(
            resource(json!({"service": "elb", "listener_id": "l", "use": "sni"})).unwrap(),
            Resource::Elb { listener_id: Some("l".into()), place: Place::Sni }
        );
        assert_eq!(
            resource(json!({"service": "waf", "host_id": "h"})).unwrap(),
            Resource::Waf { host_id: "h".into(), mode: WafMode::Cloud }
        );
        for bad in [
            json!({"service": "obs"}),
            json!({"service": "scm", "domain": "a.example"}),
            json!({"service": "elb", "use": "first"}),
            json!({"service": "cdn"}),
            json!({}),
        ] {
            assert!(resource(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_of_domains_and_regions() {
        for domain in ["a.example", "*.a.example", "xn--bcher-kva.example", "1.example"] {
            assert!(is_domain(domain), "{domain}");
        }
        for domain in ["", "*", "example", "*.*.example", "a..example", "-a.example", "a/b.example", "a.example."] {
            assert!(!is_domain(domain), "{domain}");
        }
        for region in ["cn-north-4", "my-kualalumpur-1", "eu-west-101", "cn-east-3b"] {
            assert!(is_region(region), "{region}");
        }
        for region in ["", "cn", "CN-north-4", "cn_north_4", "evil.example/", "cn-north-4.evil", "-a-", "1-2"] {
            assert!(!is_region(region), "{region}");
        }
    }

    #[test]
    fn credentials_hide_in_debug() {
        let text = r#"{"access_key": "canary-a", "secret_key": "canary-s", "security_token": "canary-t"}"#;
        let credentials: HuaweiCredentials = serde_json::from_str(text).unwrap();
        assert!(check_credentials(&credentials).is_ok());
        assert!(!format!("{credentials:?}").contains("canary"));
    }
}
