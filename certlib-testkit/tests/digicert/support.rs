//! Requests for certificates, and requests over HTTP.

use certlib_testkit::{digicert::DigiCertSim, tls};
use rcgen::{CertificateParams, DnType, KeyPair, PublicKeyData as _};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// A new key, and a request for a certificate with it, DER.
pub(crate) fn request_der(names: &[&str]) -> (KeyPair, Vec<u8>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    params.distinguished_name.push(DnType::CommonName, names[0]);
    let request = params.serialize_request(&key).unwrap();
    (key, request.der().to_vec())
}

/// The same in PEM.
pub(crate) fn request(names: &[&str]) -> (KeyPair, String) {
    let (key, der) = request_der(names);
    (key, pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", der)))
}

/// The body of an order of a year.
pub(crate) fn order(csr: &str, names: &[&str]) -> Value {
    json!({
        "certificate": { "common_name": names[0], "dns_names": names, "csr": csr, "signature_hash": "sha256" },
        "organization": { "id": DigiCertSim::ORGANIZATION },
        "order_validity": { "days": 365 },
    })
}

pub(crate) async fn send(ca: &DigiCertSim, key: &str, method: &str, path: &str, body: &Value) -> Option<Response> {
    let client = match ca.ca_pem() {
        Some(pem) => tls::http_client(pem).unwrap(),
        None => reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap(),
    };
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let mut request = client.request(method, format!("{}/{path}", ca.url())).header("x-dc-devkey", key);
    if !body.is_null() {
        request = request.header("content-type", "application/json").body(body.to_string());
    }
    request.send().await.ok()
}

/// Status and body of the answer to a request with the administrator's key.
pub(crate) async fn ask(ca: &DigiCertSim, method: &str, path: &str, body: Value) -> (u16, Value) {
    with(ca, ca.api_key(), method, path, body).await
}

/// The same with another key.
pub(crate) async fn with(ca: &DigiCertSim, key: &str, method: &str, path: &str, body: Value) -> (u16, Value) {
    let response = send(ca, key, method, path, &body).await.unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or(Value::Null))
}

/// Places an order for one name as `ssl_basic`; its id and the whole answer.
pub(crate) async fn place(ca: &DigiCertSim, name: &str) -> (u64, Value) {
    let (_, csr) = request(&[name]);
    let (status, answer) = ask(ca, "POST", "order/certificate/ssl_basic", order(&csr, &[name])).await;
    assert_eq!(status, 201, "{answer}");
    (answer["id"].as_u64().unwrap(), answer)
}

/// The order with this id.
pub(crate) async fn read(ca: &DigiCertSim, id: u64) -> Value {
    let (status, answer) = ask(ca, "GET", &format!("order/certificate/{id}"), Value::Null).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

/// The code of a refusal.
pub(crate) fn code(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["errors"][0]["code"].as_str().unwrap_or_default())
}

/// Whether a certificate has this key.
pub(crate) fn has_key(pem: &str, key: &KeyPair) -> bool {
    let der = pem::parse(pem).unwrap().into_contents();
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    certificate.public_key().subject_public_key.data.as_ref() == key.der_bytes()
}
