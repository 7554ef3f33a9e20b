//! Cloudflare.
//!
//! <https://developers.cloudflare.com/api/resources/dns/subresources/records/>

use async_trait::async_trait;
use certlib_core::secret::SecretString;
use certlib_core::{Context, ErrorClass, Result};
use certlib_net::{Answer, Request};
use reqwest::Method;
use serde::Deserialize;
use serde_json::json;

use super::records::{Record, RecordApi};
use super::service::{Hosted, Nothing, Place, Seat, Service, Zones, bearer, refused_with};
use super::txt::{quote, unquote};

/// "An identical record already exists."
const IDENTICAL: u64 = 81058;
/// "Record does not exist."
const ABSENT: u64 = 81044;
/// The key or the token is not one, by its form.
const MALFORMED: [u64; 3] = [6003, 6103, 6111];

/// Credentials of provider `cloudflare`, which takes no settings of its own.
///
/// ```json
/// { "kind": "cloudflare", "zone": "example.com" }
/// ```
///
/// The token needs `Zone / Zone / Read` and `Zone / DNS / Edit`, for the one zone.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloudflareCredentials {
    /// An API token; the global key of an account is not taken.
    pub api_token: SecretString,
}

#[derive(Debug)]
pub(super) struct Cloudflare {
    service: Service,
    authorization: SecretString,
}

/// What wraps every answer.
#[derive(Deserialize)]
struct Envelope<T> {
    result: T,
}

#[derive(Deserialize)]
struct Refusal {
    errors: Vec<Problem>,
}

#[derive(Deserialize)]
struct Problem {
    code: u64,
    #[serde(default)]
    error_chain: Vec<Problem>,
}

#[derive(Deserialize)]
struct Named {
    id: String,
    name: String,
}

#[derive(Deserialize)]
struct Txt {
    id: String,
    name: String,
    #[serde(rename = "type")]
    kind: String,
    content: String,
}

impl Cloudflare {
    fn request(&self, method: Method, path: &[&str], query: &[(&str, &str)]) -> Request<'_> {
        let mut request = self.service.api.request(method, path.iter().copied());
        if !query.is_empty() {
            request = request.query(query);
        }
        request.secret_header("authorization", &self.authorization)
    }

    /// # Errors
    /// As [`refused_with`], unless it has one of the codes `fine`.
    async fn send(&self, cx: &Context, request: Request<'_>, fine: &[u64]) -> Result<Answer> {
        let answer = request.send(cx).await?;
        if answer.is_success() {
            return Ok(answer);
        }
        let problems = answer.json::<Refusal>().map(|refusal| refusal.errors).unwrap_or_default();
        let codes: Vec<u64> = problems
            .iter()
            .flat_map(|problem| problem.error_chain.iter().map(|problem| problem.code).chain([problem.code]))
            .collect();
        if codes.iter().any(|code| fine.contains(code)) {
            return Ok(answer);
        }
        let malformed = codes.iter().any(|code| MALFORMED.contains(code));
        let known = malformed.then_some((ErrorClass::Auth, "credentials_refused"));
        let code = problems.first().map(|problem| problem.code.to_string());
        Err(refused_with(&answer, code.as_deref(), known))
    }
}

impl Hosted for Cloudflare {
    const KIND: &'static str = "cloudflare";
    const OPERATION: &'static str = "dns.cloudflare";
    const TTL: u32 = 120;
    type Config = Nothing;
    type Credentials = CloudflareCredentials;

    fn api_url(_: &Nothing) -> Option<String> {
        Some("https://api.cloudflare.com/client/v4".to_owned())
    }

    fn connect(seat: Seat<'_>, _: Nothing, credentials: CloudflareCredentials) -> Result<Self> {
        Ok(Self { service: seat.service, authorization: bearer(&credentials.api_token) })
    }
}

#[async_trait]
impl Zones for Cloudflare {
    type Zone = String;

    fn service(&self) -> &Service {
        &self.service
    }

    async fn zone(&self, cx: &Context, name: &str) -> Result<Option<String>> {
        let request = self.request(Method::GET, &["zones"], &[("name", name), ("per_page", "50")]);
        let zones: Envelope<Vec<Named>> = self.send(cx, request, &[]).await?.json()?;
        Ok(zones.result.into_iter().find(|zone| zone.name.eq_ignore_ascii_case(name)).map(|zone| zone.id))
    }
}

#[async_trait]
impl RecordApi for Cloudflare {
    async fn list(&self, cx: &Context, zone: &String, place: &Place) -> Result<Vec<Record>> {
        let query = [("type", "TXT"), ("name", place.fqdn.as_str()), ("per_page", "1000")];
        let request = self.request(Method::GET, &["zones", zone, "dns_records"], &query);
        let found: Envelope<Vec<Txt>> = self.send(cx, request, &[]).await?.json()?;
        let ours = |record: &Txt| record.kind == "TXT" && record.name.eq_ignore_ascii_case(&place.fqdn);
        let records = found.result.into_iter().filter(ours);
        Ok(records.map(|record| Record { id: record.id, value: unquote(&record.content) }).collect())
    }

    async fn create(&self, cx: &Context, zone: &String, place: &Place, value: &str) -> Result<()> {
        let body = json!({ "type": "TXT", "name": place.fqdn, "content": quote(value), "ttl": self.service.ttl });
        let request = self.request(Method::POST, &["zones", zone, "dns_records"], &[]).json(&body);
        self.send(cx, request, &[IDENTICAL]).await.map(drop)
    }

    async fn delete(&self, cx: &Context, zone: &String, id: &str) -> Result<()> {
        let request = self.request(Method::DELETE, &["zones", zone, "dns_records", id], &[]);
        self.send(cx, request, &[ABSENT]).await.map(drop)
    }
}
