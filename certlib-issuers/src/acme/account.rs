//! The account at the CA: its key is kept before the CA hears of it, so that no crash can lose an account.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certlib_core::bundle::{KeyType, PrivateKey};
use certlib_core::issuer::IssuerState;
use certlib_core::secret::{Secret, SecretBytes, SecretString};
use certlib_core::{Context, Error, Result};
use http::Request;
use http::header::CONTENT_TYPE;
use instant_acme::BodyWrapper;
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::json;
use tokio::sync::Mutex;

use super::client::{Client, call};
use super::config::AcmeConfig;
use super::jws::AccountKey;

const OPERATION: &str = "acme.account";
const DIRECTORY: &str = "acme.directory";
/// How often another node may be faster before we give up.
const ATTEMPTS: usize = 5;
const DIRECTORY_AGE: Duration = Duration::from_secs(3600);

/// An account that the CA knows.
pub(super) struct Account {
    client: Client,
    directory_url: String,
    url: String,
    /// PKCS#8.
    key: SecretBytes,
    /// The account with the CA's directory, and when that was fetched, by the monotonic clock.
    at_ca: Mutex<Option<(Duration, instant_acme::Account)>>,
}

impl Account {
    /// The account, ready to sign, with a directory that is at most an hour old.
    pub(super) async fn at_ca(&self, cx: &Context) -> Result<instant_acme::Account> {
        let mut kept = self.at_ca.lock().await;
        let now = cx.clock.monotonic();
        if let Some((fetched, account)) = &*kept
            && now.saturating_sub(*fetched) < DIRECTORY_AGE
        {
            return Ok(account.clone());
        }
        let (account, _) = call!(cx, DIRECTORY, {
            let key = PrivatePkcs8KeyDer::from(self.key.expose().as_slice());
            let builder = instant_acme::Account::builder_with_http(Box::new(self.client.clone()));
            builder.from_parts(self.url.clone(), key, self.directory_url.clone())
        });
        let account = account?;
        *kept = Some((now, account.clone()));
        Ok(account)
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("url", &self.url).finish_non_exhaustive()
    }
}

/// The parts of the directory that instant-acme leaves out, and what it takes to use them.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Directory {
    new_nonce: String,
    new_account: String,
    #[serde(default)]
    meta: Meta,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Meta {
    terms_of_service: Option<String>,
    external_account_required: bool,
}

#[derive(Deserialize)]
struct Registered {
    status: String,
}

/// What is kept, sealed: the accounts of every directory this issuer was ever configured for.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    accounts: Vec<KeptAccount>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptAccount {
    directory_url: String,
    /// PKCS#8, base64.
    #[serde(serialize_with = "exposed")]
    key: SecretString,
    /// `None` until the CA has answered.
    url: Option<String>,
}

fn exposed<S: Serializer>(secret: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose())
}

/// The account for the configured directory; made, kept and registered as far as it is not yet.
///
/// Registering the same key again finds the same account, so being interrupted anywhere does no harm.
pub(super) async fn open(
    cx: &Context,
    state: &dyn IssuerState,
    client: Client,
    config: &AcmeConfig,
    external: Option<(String, SecretBytes)>,
) -> Result<Account> {
    for _ in 0..ATTEMPTS {
        let (mut kept, revision) = match state.load().await? {
            Some((kept, revision)) => (decode(&kept)?, Some(revision)),
            None => (Kept::default(), None),
        };
        let position = kept.accounts.iter().position(|account| account.directory_url == config.directory_url);
        let saved = match position {
            None => {
                let key = PrivateKey::generate(KeyType::EcdsaP256)?;
                let key = Secret::new(STANDARD.encode(key.pkcs8().expose()));
                kept.accounts.push(KeptAccount { directory_url: config.directory_url.clone(), key, url: None });
                state.save(&encode(&kept)?, revision).await
            }
            Some(position) => {
                let account = &mut kept.accounts[position];
                let key = STANDARD.decode(account.key.expose()).map(Secret::new).map_err(|_| invalid())?;
                let signer = AccountKey::from_pkcs8(key.expose())?;
                if let Some(url) = account.url.take() {
                    let directory_url = config.directory_url.clone();
                    return Ok(Account { client, directory_url, url, key, at_ca: Mutex::default() });
                }
                account.url = Some(register(cx, &client, config, &signer, external.as_ref()).await?);
                state.save(&encode(&kept)?, revision).await
            }
        };
        match saved {
            // Read back what is kept now: ours or that of a faster node.
            Ok(_) => {}
            Err(error) if error.is_conflict() => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::transient(OPERATION, "state_contended", "other nodes keep changing the account; try again"))
}

/// Makes the account known to the CA, or finds it there, and returns its URL.
async fn register(
    cx: &Context,
    client: &Client,
    config: &AcmeConfig,
    key: &AccountKey,
    external: Option<&(String, SecretBytes)>,
) -> Result<String> {
    let (fetched, answer) = call!(cx, DIRECTORY, async {
        client.send(Request::get(&config.directory_url).body(BodyWrapper::default())?).await
    });
    let directory: Directory = fetched.and_then(|_| answer.json())?;
    if let Some(terms) = directory.meta.terms_of_service.as_deref().filter(|_| !config.terms_of_service_agreed) {
        return Err(Error::validation(OPERATION, "terms_not_agreed", "agree to the CA's terms of service first")
            .with("terms", terms.escape_debug()));
    }
    if directory.meta.external_account_required && external.is_none() {
        return Err(Error::auth(
            OPERATION,
            "external_account_required",
            "the CA wants an external account: set eab_kid and the credential eab_hmac_key",
        ));
    }
    let mut payload = json!({ "contact": config.contact });
    if config.terms_of_service_agreed {
        payload["termsOfServiceAgreed"] = true.into();
    }
    if let Some((kid, mac_key)) = external {
        payload["externalAccountBinding"] = key.bind(kid, mac_key.expose(), &directory.new_account);
    }
    let (sent, answer) = call!(cx, OPERATION, async {
        let url = &directory.new_account;
        let body = key.sign(&client.nonce(&directory.new_nonce).await?, url, &payload)?;
        client.send(Request::post(url).header(CONTENT_TYPE, "application/jose+json").body(body.into())?).await
    });
    let account: Registered = sent.and_then(|_| answer.json())?;
    if account.status != "valid" {
        return Err(Error::auth(OPERATION, "account_unusable", "the CA has closed this account")
            .with("status", account.status.escape_debug()));
    }
    answer.location.ok_or_else(|| Error::transient(OPERATION, "answer_invalid", "the CA does not name the account"))
}

fn decode(kept: &SecretBytes) -> Result<Kept> {
    serde_json::from_slice(kept.expose()).map_err(|_| invalid())
}

fn encode(kept: &Kept) -> Result<SecretBytes> {
    // Room enough from the start: growing would leave copies of the keys behind.
    let mut bytes = Vec::with_capacity(1024 * (kept.accounts.len() + 1));
    serde_json::to_writer(&mut bytes, kept).map_err(|_| invalid())?;
    Ok(Secret::new(bytes))
}

fn invalid() -> Error {
    Error::permanent(OPERATION, "state_invalid", "what is kept for this issuer is no list of accounts")
}
