//! Hetzner, by the Cloud API.
//!
//! <https://docs.hetzner.cloud/reference/cloud#zone-rrset-actions>

use async_trait::async_trait;
use certlib_core::secret::SecretString;
use certlib_core::{Context, Error, ErrorClass, Result};
use certlib_net::{Answer, Request};
use reqwest::Method;
use serde::Deserialize;
use serde_json::json;

use super::DnsProvider;
use super::service::{Hosted, Nothing, Place, Seat, Service, Zones, bearer, find, look, refused_with};
use super::txt::{quote, unquote};

/// How often a change is tried while others change the same records.
const ATTEMPTS: usize = 5;

/// Credentials of provider `hetzner`, which takes no settings of its own.
///
/// ```json
/// { "kind": "hetzner", "zone": "example.com" }
/// ```
///
/// The token needs "Read & Write" and holds for everything in its project: keep zones in a project of their own.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HetznerCredentials {
    /// An API token of the project that the zones are in.
    pub api_token: SecretString,
}

/// Values are added to a set and removed from it one by one, so neighbours are never touched.
#[derive(Debug)]
pub(super) struct Hetzner {
    service: Service,
    authorization: SecretString,
}

#[derive(Deserialize)]
struct ZoneAnswer {
    zone: Named,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
struct SetAnswer {
    rrset: RrSet,
}

#[derive(Deserialize)]
struct RrSet {
    records: Vec<SetRecord>,
}

#[derive(Deserialize)]
struct SetRecord {
    value: String,
}

#[derive(Deserialize)]
struct ActionAnswer {
    action: Action,
}

#[derive(Deserialize)]
struct Action {
    status: String,
}

#[derive(Deserialize)]
struct Refusal {
    error: Problem,
}

#[derive(Deserialize)]
struct Problem {
    code: String,
}

impl Hetzner {
    fn request(&self, method: Method, path: &[&str]) -> Request<'_> {
        let path = ["zones"].iter().chain(path).copied();
        self.service.api.request(method, path).secret_header("authorization", &self.authorization)
    }

    /// The set at a name, if there is one.
    async fn read(&self, cx: &Context, zone: &str, place: &Place) -> Result<Option<RrSet>> {
        let request = self.request(Method::GET, &[zone, "rrsets", place.relative("@"), "TXT"]);
        let Some(answer) = look(cx, request).await? else { return Ok(None) };
        Ok(Some(answer.json::<SetAnswer>()?.rrset))
    }

    /// Looks at the set and carries out `action`, until the value is there as `wanted`.
    ///
    /// Actions go on in the background. They are not waited for: what counts is what the name servers answer.
    async fn change(&self, cx: &Context, fqdn: &str, value: &str, action: &str, wanted: bool) -> Result<()> {
        let (place, zone) = find(self, cx, fqdn).await?;
        let mut refused = None;
        for _ in 0..ATTEMPTS {
            let set = self.read(cx, &zone, &place).await?;
            let there = set.iter().flat_map(|set| &set.records).any(|record| unquote(&record.value) == value);
            if there == wanted {
                return Ok(());
            }
            cx.check_cancelled(Self::OPERATION)?;
            let mut body = json!({ "records": [{ "value": quote(value) }] });
            // A set has one time to live, and another one than it has is refused.
            if set.is_none() {
                body["ttl"] = self.service.ttl.into();
            }
            let path = [zone.as_str(), "rrsets", place.relative("@"), "TXT", "actions", action];
            let answer = self.request(Method::POST, &path).json(&body).send(cx).await?;
            if answer.is_success() {
                return started(&answer);
            }
            let error = refusal(&answer);
            if !matches!(answer.status(), 404 | 409 | 422) {
                return Err(error);
            }
            // Somebody was faster, perhaps with the very same change.
            refused = Some(error);
        }
        Err(refused
            .unwrap_or_else(|| Error::transient(Self::OPERATION, "set_contended", "others keep changing the set")))
    }
}

fn started(answer: &Answer) -> Result<()> {
    match answer.json::<ActionAnswer>()?.action.status.as_str() {
        "error" => Err(answer.error(ErrorClass::IoTransient, "action_failed", "the service did not carry it out")),
        _ => Ok(()),
    }
}

fn refusal(answer: &Answer) -> Error {
    let code = answer.json::<Refusal>().map(|refusal| refusal.error.code).unwrap_or_default();
    let known = match code.as_str() {
        "conflict" | "locked" => Some((ErrorClass::IoTransient, "set_contended")),
        _ => None,
    };
    refused_with(answer, Some(&code), known)
}

impl Hosted for Hetzner {
    const KIND: &'static str = "hetzner";
    const OPERATION: &'static str = "dns.hetzner";
    const TTL: u32 = 60;
    type Config = Nothing;
    type Credentials = HetznerCredentials;

    fn api_url(_: &Nothing) -> Option<String> {
        Some("https://api.hetzner.cloud/v1".to_owned())
    }

    fn connect(seat: Seat<'_>, _: Nothing, credentials: HetznerCredentials) -> Result<Self> {
        Ok(Self { service: seat.service, authorization: bearer(&credentials.api_token) })
    }
}

#[async_trait]
impl Zones for Hetzner {
    type Zone = String;

    fn service(&self) -> &Service {
        &self.service
    }

    async fn zone(&self, cx: &Context, name: &str) -> Result<Option<String>> {
        let Some(answer) = look(cx, self.request(Method::GET, &[name])).await? else { return Ok(None) };
        let found: ZoneAnswer = answer.json()?;
        Ok(Some(found.zone.name).filter(|found| found.eq_ignore_ascii_case(name)))
    }
}

#[async_trait]
impl DnsProvider for Hetzner {
    async fn add_txt(&self, cx: &Context, fqdn: &str, value: &str) -> Result<()> {
        self.change(cx, fqdn, value, "add_records", true).await
    }

    async fn remove_txt(&self, cx: &Context, fqdn: &str, value: &str) -> Result<()> {
        self.change(cx, fqdn, value, "remove_records", false).await
    }
}
