//! Dynamic update (RFC 2136) signed with a shared key (RFC 8945).

use std::fmt;
use std::net::SocketAddr;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certlib_core::secret::SecretString;
use certlib_core::{Context, Effect, Error, ErrorClass, Result};
use hickory_proto::op::{Message, MessageType, ResponseCode, update_message};
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::{Name, RData, RecordSet, RecordType, TSigner};
use serde::{Deserialize, Serialize};

use super::zone::{is_zone, zone_candidates, zone_not_found};
use super::{DnsProvider, absolute, text, wire};

const OPERATION: &str = "rfc2136.update";
/// How far clocks may differ, in seconds; what RFC 8945 section 10 recommends.
const FUDGE: u16 = 300;

/// Configuration of [`Rfc2136`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rfc2136Config {
    /// The primary server, `host:port`. It is updated over TCP.
    pub server: String,
    /// The zone to update. Default: found by asking the server.
    #[serde(default)]
    pub zone: Option<String>,
    /// The name of the key.
    pub key_name: String,
    /// The key's algorithm. Default `hmac-sha256`.
    #[serde(default)]
    pub algorithm: TsigAlgorithm,
    /// Time to live of the records, in seconds. Default 60.
    #[serde(default = "default_ttl")]
    pub ttl: u32,
}

fn default_ttl() -> u32 {
    60
}

/// How updates are signed. Older algorithms (MD5, SHA-1) are not offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum TsigAlgorithm {
    /// HMAC-SHA-256.
    #[default]
    #[serde(rename = "hmac-sha256")]
    HmacSha256,
    /// HMAC-SHA-384.
    #[serde(rename = "hmac-sha384")]
    HmacSha384,
    /// HMAC-SHA-512.
    #[serde(rename = "hmac-sha512")]
    HmacSha512,
}

impl Rfc2136Config {
    pub(crate) fn check(&self) -> Result<()> {
        let invalid = |field: &str, why: &str| {
            Err(Error::validation("rfc2136.config", "config_invalid", format!("{field}: {why}")).with("field", field))
        };
        let parts = self.server.rsplit_once(':');
        if !parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0)) {
            return invalid("server", "host:port");
        }
        if absolute(&self.key_name).is_err() {
            return invalid("key_name", "a domain name");
        }
        if self.zone.as_deref().is_some_and(|zone| absolute(zone).is_err()) {
            return invalid("zone", "a domain name");
        }
        if self.ttl > 24 * 3600 {
            return invalid("ttl", "at most one day");
        }
        Ok(())
    }
}

/// A [`DnsProvider`] for any server that takes signed dynamic updates.
pub struct Rfc2136 {
    server: String,
    zone: Option<Name>,
    ttl: u32,
    signer: TSigner,
}

impl Rfc2136 {
    /// A provider with the key `secret`, in base64 as key files hold it.
    ///
    /// # Errors
    /// `Validation` `config_invalid`, and `credentials_invalid` when the secret is not base64.
    pub fn new(config: &Rfc2136Config, secret: &SecretString) -> Result<Self> {
        use hickory_proto::rr::rdata::tsig::TsigAlgorithm as Wire;

        config.check()?;
        let invalid =
            || Error::validation("rfc2136.config", "credentials_invalid", "the secret of the TSIG key is not base64");
        let key = STANDARD.decode(secret.expose().trim()).map_err(|_| invalid())?;
        if key.is_empty() {
            return Err(invalid());
        }
        let algorithm = match config.algorithm {
            TsigAlgorithm::HmacSha256 => Wire::HmacSha256,
            TsigAlgorithm::HmacSha384 => Wire::HmacSha384,
            TsigAlgorithm::HmacSha512 => Wire::HmacSha512,
        };
        // Key names are compared in lower case, RFC 8945 section 4.2.
        let name = absolute(&config.key_name)?.to_lowercase();
        let signer = TSigner::new(key, algorithm, name, FUDGE).map_err(|error| {
            Error::permanent("rfc2136.config", "algorithm_unsupported", "this algorithm is not available")
                .with_source(error)
        })?;
        let zone = config.zone.as_deref().map(absolute).transpose()?;
        Ok(Self { server: config.server.clone(), zone, ttl: config.ttl, signer })
    }

    async fn zone_of(&self, name: &Name) -> Result<Name> {
        if let Some(zone) = &self.zone {
            return Ok(zone.clone());
        }
        let servers = wire::addresses(&self.server).await?;
        for candidate in zone_candidates(name) {
            if is_zone(&candidate, &ask(&servers, &candidate).await?) {
                return Ok(candidate);
            }
        }
        Err(zone_not_found(name))
    }

    async fn update(&self, cx: &Context, fqdn: &str, value: &str, change: Change) -> Result<()> {
        let name = absolute(fqdn)?;
        let zone = self.zone_of(&name).await?;
        if !zone.zone_of(&name) {
            return Err(Error::validation(OPERATION, "not_in_zone", "the name is not in the zone to update")
                .with("name", fqdn)
                .with("zone", text(&zone)));
        }
        let mut records = RecordSet::with_ttl(name, RecordType::TXT, self.ttl);
        records.add_rdata(RData::TXT(TXT::new(vec![value.to_owned()])));
        let mut message = match change {
            Change::Add => update_message::append(records, zone, false, false),
            Change::Remove => update_message::delete_by_rdata(records, zone, false),
        };
        cx.check_cancelled(OPERATION)?;
        let now = u64::try_from(cx.clock.now().unix_timestamp()).unwrap_or_default();
        let unsigned = |_| Error::permanent(OPERATION, "signing_failed", "the update could not be signed");
        let verifier = message.finalize(&self.signer, now).map_err(unsigned)?;
        let bytes = message.to_vec().map_err(unsigned)?;

        let servers = wire::addresses(&self.server).await?;
        let answer = wire::exchange(&servers, &bytes).await.map_err(|error| error.with_effect(Effect::Possible))?;
        let unverified = || {
            Error::auth(OPERATION, "tsig_unverified", "the server's answer is not signed with our key, or is too old")
                .with("server", &self.server)
                .with_effect(Effect::Possible)
        };
        let parsed = Message::from_vec(&answer).map_err(|_| unverified())?;
        if parsed.metadata.id != message.metadata.id || parsed.metadata.message_type != MessageType::Response {
            return Err(unverified());
        }
        // A refusal may come unsigned (RFC 8945 section 5.3.2), a success may not.
        self.check_code(&parsed)?;
        let mut verifier = verifier.ok_or_else(unverified)?;
        verifier.verify(&answer).map_err(|_| unverified())?;
        Ok(())
    }

    fn check_code(&self, answer: &Message) -> Result<()> {
        let (class, code, message) = match answer.metadata.response_code {
            ResponseCode::NoError => return Ok(()),
            ResponseCode::Refused => (ErrorClass::Auth, "update_refused", "the server does not let this key update"),
            ResponseCode::NotAuth => {
                (ErrorClass::Auth, "update_notauth", "the server does not know the key, or the zone is not its own")
            }
            ResponseCode::NotZone => (ErrorClass::Validation, "update_notzone", "the name is not in this zone"),
            ResponseCode::ServFail => (ErrorClass::IoTransient, "update_servfail", "the server failed"),
            _ => (ErrorClass::IoPermanent, "update_failed", "the server does not carry out the update"),
        };
        let mut error = Error::new(class, OPERATION, code, message)
            .with("server", &self.server)
            .with("answer", answer.metadata.response_code);
        if let Some(reason) = answer.signature().and_then(|record| record.data.error) {
            error = error.with("tsig", format_args!("{reason:?}"));
        }
        Err(error)
    }
}

/// The SOA record at `name`, from the first of `servers` that answers.
async fn ask(servers: &[SocketAddr], name: &Name) -> Result<Message> {
    let mut result = Err(Error::network(OPERATION, "dns_unreachable", "the server's name has no address"));
    for server in servers {
        result = wire::query(*server, name, RecordType::SOA, false).await;
        if result.is_ok() {
            break;
        }
    }
    result
}

#[derive(Clone, Copy)]
enum Change {
    Add,
    Remove,
}

impl fmt::Debug for Rfc2136 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rfc2136")
            .field("server", &self.server)
            .field("zone", &self.zone.as_ref().map(text))
            .field("key_name", &text(self.signer.signer_name()))
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl DnsProvider for Rfc2136 {
    async fn add_txt(&self, cx: &Context, fqdn: &str, value: &str) -> Result<()> {
        self.update(cx, fqdn, value, Change::Add).await
    }

    async fn remove_txt(&self, cx: &Context, fqdn: &str, value: &str) -> Result<()> {
        self.update(cx, fqdn, value, Change::Remove).await
    }
}

#[cfg(test)]
mod tests {
    use certlib_core::secret::Secret;
    use hickory_proto::op::OpCode;
    use hickory_proto::rr::TSigResponseContext;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    fn config(server: String) -> Rfc2136Config {
        serde_json::from_value(serde_json::json!({ "server": server, "zone": "example.test", "key_name": "Key" }))
            .unwrap()
    }

    fn key(secret: &str) -> Secret<String> {
        Secret::new(STANDARD.encode(secret))
    }

    /// How a scripted server answers an update.
    enum Answer {
        Unsigned(ResponseCode),
        /// Signed with this secret, so many seconds after the request.
        Signed(&'static str, u64),
    }

    /// What becomes of an update that is answered so.
    async fn outcome(answer: Answer) -> Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = config(listener.local_addr().unwrap().to_string());
        let provider = Rfc2136::new(&config, &key("ours")).unwrap();
        let cx = Context::new("test");
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut request).await.unwrap();
            let request = Message::from_vec(&request).unwrap();
            let tsig = &request.signature().expect("updates are signed").data;
            let mut response = Message::response(request.metadata.id, OpCode::Update);
            match answer {
                Answer::Unsigned(code) => response.metadata.response_code = code,
                Answer::Signed(secret, later) => {
                    let signer = Rfc2136::new(&config, &key(secret)).unwrap().signer;
                    let context = TSigResponseContext::new(
                        request.metadata.id,
                        tsig.time + later,
                        signer,
                        tsig.mac.clone(),
                        None,
                    );
                    let signature = context.sign(&response.to_vec().unwrap()).unwrap();
                    response.set_signature(signature);
                }
            }
            let bytes = response.to_vec().unwrap();
            let length = u16::try_from(bytes.len()).unwrap();
            stream.write_all(&[&length.to_be_bytes()[..], &bytes].concat()).await.unwrap();
        };
        tokio::join!(provider.add_txt(&cx, "_acme-challenge.example.test", "value"), server).0
    }

    #[tokio::test]
    async fn only_an_answer_signed_with_our_key_and_in_time_is_a_success() {
        outcome(Answer::Signed("ours", 0)).await.unwrap();
        outcome(Answer::Signed("ours", 200)).await.unwrap();
        for forged in [
            Answer::Unsigned(ResponseCode::NoError),
            Answer::Signed("theirs", 0),
            Answer::Signed("ours", 2 * u64::from(FUDGE)),
        ] {
            let error = outcome(forged).await.unwrap_err();
            assert_eq!((error.class(), error.code()), (ErrorClass::Auth, "tsig_unverified"), "{error}");
            assert_eq!(error.effect(), Effect::Possible);
        }
    }

    #[tokio::test]
    async fn refusals_have_their_class() {
        for (code, class) in [
            (ResponseCode::Refused, ErrorClass::Auth),
            (ResponseCode::NotAuth, ErrorClass::Auth),
            (ResponseCode::NotZone, ErrorClass::Validation),
            (ResponseCode::ServFail, ErrorClass::IoTransient),
            (ResponseCode::FormErr, ErrorClass::IoPermanent),
            (ResponseCode::NotImp, ErrorClass::IoPermanent),
        ] {
            let error = outcome(Answer::Unsigned(code)).await.unwrap_err();
            assert_eq!(error.class(), class, "{error}");
        }
    }

    #[test]
    fn odd_settings_are_refused() {
        for server in ["", "ns.example", ":53", "ns.example:", "ns.example:0", "ns.example:x"] {
            assert_eq!(config(server.to_owned()).check().unwrap_err().code(), "config_invalid", "{server}");
        }
        let mut odd = config("ns.example:53".to_owned());
        assert!(odd.check().is_ok());
        odd.key_name = String::new();
        assert_eq!(odd.check().unwrap_err().code(), "config_invalid");
        let error =
            Rfc2136::new(&config("ns.example:53".to_owned()), &Secret::new("not base64!".to_owned())).unwrap_err();
        assert_eq!(error.code(), "credentials_invalid");
        assert!(!format!("{error:?}").contains("not base64!"));
    }
}
