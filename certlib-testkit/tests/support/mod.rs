//! An ACME client for the tests of the certificate authorities: instant-acme over an HTTP client with a given root.

use std::{error::Error as StdError, future::Future, pin::Pin};

use certlib_testkit::tls;
use http_body_util::BodyExt as _;
use instant_acme::{
    Account, BodyWrapper, BytesResponse, ChallengeType, Error, ExternalAccountKey, HttpClient, Identifier, NewAccount,
    NewOrder, Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};

struct Bridge(reqwest::Client);

impl HttpClient for Bridge {
    fn request(
        &self,
        request: http::Request<BodyWrapper<tokio_util::bytes::Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let client = self.0.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map_err(other)?.to_bytes();
            let request = client.request(parts.method, parts.uri.to_string()).headers(parts.headers).body(body);
            let response = request.send().await.map_err(other)?;
            let mut parts = http::Response::new(()).into_parts().0;
            parts.status = response.status();
            parts.headers = response.headers().clone();
            let body = response.bytes().await.map_err(other)?;
            Ok(BytesResponse { parts, body: Box::new(body) })
        })
    }
}

fn other(error: impl StdError + Send + Sync + 'static) -> Error {
    Error::Other(Box::new(error))
}

/// Registers an account.
pub(crate) async fn account(
    directory: &str,
    api_root: &str,
    external: Option<&ExternalAccountKey>,
) -> Result<Account, Error> {
    let client = Box::new(Bridge(tls::http_client(api_root).unwrap()));
    let new = NewAccount { contact: &[], terms_of_service_agreed: true, only_return_existing: false };
    let created = Account::builder_with_http(client).create(&new, directory.to_owned(), external).await;
    created.map(|(account, _)| account)
}

/// Names as identifiers.
pub(crate) fn identifiers(names: &[&str]) -> Vec<Identifier> {
    names.iter().map(|name| Identifier::Dns((*name).to_owned())).collect()
}

/// Fulfils one challenge of every pending authorization: `publish` gets the challenge's place and value, for DNS-01
/// the record's name and value, otherwise the token and the key authorization.
pub(crate) async fn authorize(order: &mut Order, kind: ChallengeType, mut publish: impl AsyncFnMut(String, String)) {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.unwrap();
        let Some(mut challenge) = authorization.challenge(kind.clone()) else { panic!("no such challenge") };
        let key = challenge.key_authorization();
        let place = match kind {
            ChallengeType::Dns01 => format!("_acme-challenge.{}", challenge.identifier()),
            _ => challenge.token.clone(),
        };
        let value = if kind == ChallengeType::Dns01 { key.dns_value() } else { key.as_str().to_owned() };
        publish(place, value).await;
        challenge.set_ready().await.unwrap();
    }
    assert_eq!(order.poll_ready(&RetryPolicy::default()).await.unwrap(), OrderStatus::Ready);
}

/// Finalizes a ready order and gives the chain, PEM.
pub(crate) async fn certificate(order: &mut Order, names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name = DistinguishedName::new();
    let csr = params.serialize_request(&KeyPair::generate().unwrap()).unwrap();
    order.finalize_csr(csr.der()).await.unwrap();
    order.poll_certificate(&RetryPolicy::default()).await.unwrap()
}

/// The certificates of a PEM text, DER.
pub(crate) fn chain(text: &str) -> Vec<Vec<u8>> {
    pem::parse_many(text).unwrap().into_iter().map(pem::Pem::into_contents).collect()
}

/// A whole issuance with the challenges taken as fulfilled.
pub(crate) async fn issue(account: &Account, new_order: &NewOrder<'_>, names: &[&str]) -> String {
    let mut order = account.new_order(new_order).await.unwrap();
    authorize(&mut order, ChallengeType::Dns01, async |_, _| ()).await;
    certificate(&mut order, names).await
}
