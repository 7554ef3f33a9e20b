//! Google Cloud DNS.
//!
//! <https://cloud.google.com/dns/docs/reference/rest/v1/changes/create>

use async_trait::async_trait;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use certlib_core::secret::SecretString;
use certlib_core::{Context, Error, Result};
use certlib_net::signature::encode;
use certlib_net::{Answer, Api};
use reqwest::Method;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::service::{Hosted, Place, Seat, Service, Zones, check_word, refused};
use super::sets::{Set, SetApi, Written};
use super::token::{TokenCache, grant};
use super::txt::{quote, unquote};

const SCOPE: &str = "https://www.googleapis.com/auth/ndev.clouddns.readwrite";
const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// How long an assertion is good for, in seconds; the longest that is taken.
const ASSERTION_LIFE: i64 = 3600;

/// Settings of provider `google`, beside those of [`ServiceConfig`](super::ServiceConfig).
///
/// ```json
/// { "kind": "google", "project": "my-project", "zone": "example.com" }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoogleConfig {
    /// The project that the zones are in.
    pub project: String,
    /// Where tokens are issued. Default `https://oauth2.googleapis.com/token`; what a key file says is not followed.
    #[serde(default = "token_url")]
    pub token_url: String,
}

fn token_url() -> String {
    "https://oauth2.googleapis.com/token".to_owned()
}

/// Credentials of provider `google`, two fields of the key file of a service account. It needs a role with
/// `dns.managedZones.list`, `dns.resourceRecordSets.list`, `.create`, `.update` and `.delete`, and `dns.changes.create`;
/// of the ready-made ones, `roles/dns.admin` on the one zone and `dns.managedZones.list` on the project.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoogleCredentials {
    /// The account's address.
    pub client_email: String,
    /// Its RSA key, PEM (PKCS #8).
    pub private_key: SecretString,
}

#[derive(Debug)]
pub(super) struct Google {
    service: Service,
    config: GoogleConfig,
    account: Account,
    login: Api,
    token: TokenCache,
}

/// Who signs assertions.
struct Account {
    email: String,
    key: KeyPair,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account").field("email", &self.email).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ZoneList {
    #[serde(default)]
    managed_zones: Vec<ManagedZone>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ManagedZone {
    name: String,
    dns_name: String,
    #[serde(default)]
    visibility: Option<String>,
}

#[derive(Deserialize)]
struct SetList {
    #[serde(default)]
    rrsets: Vec<RrSet>,
}

#[derive(Deserialize)]
struct RrSet {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    ttl: u32,
    #[serde(default)]
    rrdatas: Vec<Value>,
}

impl Account {
    /// # Errors
    /// `Validation` `credentials_invalid`.
    fn new(credentials: &GoogleCredentials) -> Result<Self> {
        let invalid =
            || Error::validation(Google::OPERATION, "credentials_invalid", "private_key is no RSA key in PEM");
        let der = PrivatePkcs8KeyDer::from_pem_slice(credentials.private_key.expose().as_bytes());
        let der = Zeroizing::new(der.map_err(|_| invalid())?.secret_pkcs8_der().to_vec());
        let key = KeyPair::from_pkcs8(&der).map_err(|_| invalid())?;
        Ok(Self { email: credentials.client_email.clone(), key })
    }

    /// An assertion (RFC 7523), signed by RS256.
    fn assertion(&self, audience: &str, now: i64) -> Result<String> {
        let claims = json!({
            "iss": self.email, "scope": SCOPE, "aud": audience, "iat": now, "exp": now + ASSERTION_LIFE,
        });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", part(&json!({ "alg": "RS256", "typ": "JWT" })), part(&claims));
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature)
            .map_err(|_| Error::permanent(Google::OPERATION, "signing_failed", "the assertion could not be signed"))?;
        Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

impl Google {
    /// Sends a request below the zones of the project, whatever the answer.
    async fn ask(
        &self,
        cx: &Context,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Answer> {
        let whole = ["projects", &self.config.project, "managedZones"].into_iter().chain(path.iter().copied());
        let token = self.token.get(cx, || self.fetch(cx)).await?;
        let mut request = self.service.api.request(method, whole);
        if !query.is_empty() {
            request = request.query(query);
        }
        request = request.secret_header("authorization", &token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send(cx).await?;
        if answer.status() == 401 {
            self.token.forget().await;
        }
        Ok(answer)
    }

    async fn fetch(&self, cx: &Context) -> Result<Answer> {
        let assertion = self.account.assertion(&self.config.token_url, cx.clock.now().unix_timestamp())?;
        let form = format!("grant_type={}&assertion={}", encode(GRANT.as_bytes()), encode(assertion.as_bytes()));
        let form = Zeroizing::new(form.into_bytes());
        grant(cx, self.login.post([]).body("application/x-www-form-urlencoded", form)).await
    }
}

impl Hosted for Google {
    const KIND: &'static str = "google";
    const OPERATION: &'static str = "dns.google";
    const TTL: u32 = 60;
    type Config = GoogleConfig;
    type Credentials = GoogleCredentials;

    fn api_url(_: &GoogleConfig) -> Option<String> {
        Some("https://dns.googleapis.com/dns/v1".to_owned())
    }

    fn check(config: &GoogleConfig) -> Result<()> {
        check_word("project", &config.project)
    }

    fn connect(seat: Seat<'_>, config: GoogleConfig, credentials: GoogleCredentials) -> Result<Self> {
        let login = seat.another(Self::OPERATION, &config.token_url)?;
        let account = Account::new(&credentials)?;
        Ok(Self { service: seat.service, config, account, login, token: TokenCache::default() })
    }
}

#[async_trait]
impl Zones for Google {
    type Zone = String;

    fn service(&self) -> &Service {
        &self.service
    }

    async fn zone(&self, cx: &Context, name: &str) -> Result<Option<String>> {
        let dotted = format!("{name}.");
        let answer = self.ask(cx, Method::GET, &[], &[("dnsName", &dotted)], None).await?;
        if !answer.is_success() {
            return Err(refused(&answer));
        }
        let mut zones = answer.json::<ZoneList>()?.managed_zones.into_iter();
        let public = |zone: &ManagedZone| zone.visibility.as_deref().is_none_or(|visibility| visibility == "public");
        let zone = zones.find(|zone| zone.dns_name.eq_ignore_ascii_case(&dotted) && public(zone));
        Ok(zone.map(|zone| zone.name))
    }
}

#[async_trait]
impl SetApi for Google {
    /// A change that takes a set away has to name it exactly as it is; both halves are made or none.
    const COMPARES: bool = true;

    async fn read(&self, cx: &Context, zone: &String, place: &Place) -> Result<Option<Set>> {
        let name = place.dotted();
        let query = [("name", name.as_str()), ("type", "TXT")];
        let answer = self.ask(cx, Method::GET, &[zone, "rrsets"], &query, None).await?;
        if !answer.is_success() {
            return Err(refused(&answer));
        }
        let mut sets = answer.json::<SetList>()?.rrsets.into_iter();
        let set = sets.find(|set| set.kind == "TXT" && set.name.eq_ignore_ascii_case(&name));
        Ok(set.map(|set| Set { records: set.rrdatas, ttl: set.ttl, tag: String::new() }))
    }

    async fn write(&self, cx: &Context, zone: &String, place: &Place, old: Option<&Set>, new: &Set) -> Result<Written> {
        let set = |set: &Set| json!({ "name": place.dotted(), "type": "TXT", "ttl": set.ttl, "rrdatas": set.records });
        let additions: Vec<Value> = Some(new).filter(|new| !new.records.is_empty()).map(set).into_iter().collect();
        let deletions: Vec<Value> = old.map(set).into_iter().collect();
        let body = json!({ "additions": additions, "deletions": deletions });
        let answer = self.ask(cx, Method::POST, &[zone, "changes"], &[], Some(&body)).await?;
        match answer.status() {
            // There already, not there, or not like this.
            404 | 409 | 412 => Ok(Written::Stale),
            _ if answer.is_success() => Ok(Written::Done),
            _ => Err(refused(&answer)),
        }
    }

    fn value(&self, record: &Value) -> String {
        record.as_str().map(unquote).unwrap_or_default()
    }

    fn record(&self, value: &str) -> Value {
        quote(value).into()
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    #[test]
    fn an_assertion_is_signed() {
        let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let der: Pkcs8V1Der<'_> = key.as_der().unwrap();
        let pem =
            format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der.as_ref()));
        let credentials = |private_key: String| GoogleCredentials {
            client_email: "a@p.iam.gserviceaccount.com".to_owned(),
            private_key: private_key.into(),
        };
        let account = Account::new(&credentials(pem)).unwrap();
        let assertion = account.assertion("https://oauth2.googleapis.com/token", 1_767_225_600).unwrap();
        let (text, signature) = assertion.rsplit_once('.').unwrap();
        let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public_key().as_ref());
        public.verify(text.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();
        let claims: Value =
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text.split('.').nth(1).unwrap()).unwrap()).unwrap();
        assert_eq!((&claims["iat"], &claims["exp"]), (&json!(1_767_225_600), &json!(1_767_229_200)));
        assert_eq!((&claims["scope"], &claims["aud"]), (&json!(SCOPE), &json!("https://oauth2.googleapis.com/token")));

        let error = Account::new(&credentials("canary".to_owned())).unwrap_err();
        assert_eq!(error.code(), "credentials_invalid");
        assert!(!format!("{error:?}{account:?}").contains("canary"));
    }
}
