//! Requests over HTTP, with a certificate and a token.

use certlib_testkit::{globalsign::GlobalSignSim, pki::Issued};
use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};
use reqwest::{Certificate, Client, Identity, Method, Response};
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer as _, X509Certificate};

pub(crate) const JSON: &str = "application/json;charset=utf-8";

/// A client with this certificate, or none.
pub(crate) fn http(ca: &GlobalSignSim, issued: Option<&Issued>) -> Client {
    let root = Certificate::from_pem(ca.ca_pem().as_bytes()).unwrap();
    let builder = Client::builder().tls_certs_only([root]).no_proxy().pool_max_idle_per_host(0);
    let Some(issued) = issued else { return builder.build().unwrap() };
    let identity = format!("{}{}", issued.full_chain(), issued.key_pem);
    builder.identity(Identity::from_pem(identity.as_bytes()).unwrap()).build().unwrap()
}

/// A client that has logged in.
pub(crate) struct Session<'a> {
    pub(crate) ca: &'a GlobalSignSim,
    pub(crate) client: Client,
    pub(crate) token: String,
}

impl<'a> Session<'a> {
    pub(crate) async fn new(ca: &'a GlobalSignSim) -> Self {
        let client = http(ca, Some(ca.client()));
        let mut session = Session { ca, client, token: String::new() };
        session.token = session.login().await;
        session
    }

    pub(crate) async fn login(&self) -> String {
        let body = json!({ "api_key": self.ca.api_key(), "api_secret": self.ca.api_secret() });
        let (status, answer) = read(self.send("POST", "login", &body, JSON).await.unwrap()).await;
        assert_eq!(status, 200, "{answer}");
        answer["access_token"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn send(&self, method: &str, path: &str, body: &Value, content_type: &str) -> Option<Response> {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.client.request(method, format!("{}/{path}", self.ca.url())).bearer_auth(&self.token);
        if !body.is_null() {
            request = request.header("content-type", content_type).body(body.to_string());
        }
        request.send().await.ok()
    }

    /// Status and body of the answer.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        read(self.send(method, path, &body, JSON).await.unwrap()).await
    }

    /// Asks for a certificate; its serial number.
    pub(crate) async fn request(&self, body: &Value) -> String {
        let answer = self.send("POST", "certificates", body, JSON).await.unwrap();
        assert_eq!(answer.status().as_u16(), 201, "{:?}", answer.text().await);
        let location = answer.headers()["location"].to_str().unwrap().to_owned();
        assert_eq!(answer.text().await.unwrap(), "");
        location.strip_prefix(&format!("{}/certificates/", self.ca.url())).unwrap().to_owned()
    }
}

pub(crate) async fn read(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    if status >= 400 {
        assert_eq!(response.headers()["content-type"], "application/problem+json");
    }
    (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or(Value::Null))
}

/// A new key, and the body of a request that the default policy allows.
pub(crate) fn body(now: i64, names: &[&str]) -> (KeyPair, Value) {
    let key = KeyPair::generate().unwrap();
    let csr = CertificateParams::new(Vec::new()).unwrap().serialize_request(&key).unwrap().pem().unwrap();
    let body = json!({
        "validity": { "not_before": now, "not_after": now + 90 * 86_400 },
        "subject_dn": { "common_name": names[0] },
        "san": { "dns_names": names },
        "extended_key_usages": ["1.3.6.1.5.5.7.3.1"],
        "public_key": csr,
    });
    (key, body)
}

pub(crate) fn now() -> i64 {
    time::OffsetDateTime::now_utc().unix_timestamp()
}

/// Whether a certificate has this key.
pub(crate) fn has_key(pem: &str, key: &KeyPair) -> bool {
    let der = pem::parse(pem).unwrap().into_contents();
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    certificate.public_key().subject_public_key.data.as_ref() == key.der_bytes()
}
