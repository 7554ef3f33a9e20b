//! Requests to the Services API, and what its refusals say.

use std::sync::Arc;

use certlib_core::secret::SecretString;
use certlib_core::{Context, Error, Result};
use certlib_net::{Answer, Api, Request, SystemLookup};
use reqwest::Method;
use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::config::{DigiCertConfig, DigiCertCredentials};

pub(super) const OPERATION: &str = "digicert";

/// The API, with the key of one user.
#[derive(Debug)]
pub(super) struct Client {
    api: Api,
    key: SecretString,
}

/// An order, as far as it matters here.
#[derive(Debug, Deserialize)]
pub(super) struct Order {
    pub(super) id: u64,
    pub(super) status: String,
    pub(super) certificate: Certificate,
    #[serde(default)]
    pub(super) product: Product,
    #[serde(default)]
    pub(super) requests: Vec<Wish>,
    pub(super) order_valid_till: Option<String>,
}

/// A certificate of an order.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Certificate {
    pub(super) id: Option<u64>,
    pub(super) common_name: Option<String>,
    #[serde(default)]
    pub(super) dns_names: Vec<String>,
    pub(super) csr: Option<String>,
    /// Of reissues only.
    pub(super) status: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Product {
    pub(super) name_id: Option<String>,
}

/// What somebody asked for, and may have to approve.
#[derive(Debug, Deserialize)]
pub(super) struct Wish {
    pub(super) id: u64,
    pub(super) status: Option<String>,
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) comments: Option<String>,
}

/// An order in a list.
#[derive(Debug, Deserialize)]
pub(super) struct Listed {
    pub(super) id: u64,
    pub(super) status: Option<String>,
    pub(super) date_created: Option<String>,
}

impl Client {
    /// # Errors
    /// As [`Api::new`].
    pub(super) fn new(config: &DigiCertConfig, credentials: DigiCertCredentials) -> Result<Self> {
        let api = Api::new(OPERATION, &config.url, &config.connection, None, Arc::new(SystemLookup))?;
        Ok(Self { api, key: credentials.api_key })
    }

    /// Reads, whatever the answer.
    pub(super) async fn get(&self, cx: &Context, path: &[&str], query: &[(&str, &str)]) -> Result<Answer> {
        let mut request = self.api.get(path.iter().copied());
        if !query.is_empty() {
            request = request.query(query);
        }
        self.signed(request).header("accept", "application/json").send(cx).await
    }

    /// Reads a file, whatever the answer.
    pub(super) async fn download(&self, cx: &Context, certificate: u64) -> Result<Answer> {
        let id = certificate.to_string();
        let request = self.api.get(["certificate", &id, "download", "format", "pem_noroot"]);
        self.signed(request).header("accept", "*/*").send(cx).await
    }

    /// Changes something, whatever the answer.
    pub(super) async fn send(&self, cx: &Context, method: Method, path: &[&str], body: &Value) -> Result<Answer> {
        let request = self.api.request(method, path.iter().copied());
        self.signed(request).header("accept", "application/json").json(body).send(cx).await
    }

    fn signed<'a>(&self, request: Request<'a>) -> Request<'a> {
        request.secret_header("x-dc-devkey", &self.key)
    }
}

/// The error that an answer without success is, with DigiCert's code for it.
pub(super) fn refused(answer: &Answer) -> Error {
    explain(answer.refused(), answer)
}

/// Adds DigiCert's code.
pub(super) fn explain(error: Error, answer: &Answer) -> Error {
    match code(answer) {
        Some(code) => error.with("ca_code", code),
        None => error,
    }
}

/// DigiCert's code for what is wrong, if the answer has one that can be shown. Codes such as `access_denied|invalid_api_key`
/// are cut to their last part.
pub(super) fn code(answer: &Answer) -> Option<String> {
    code_in(answer.body())
}

/// Whether a refusal is DigiCert's own, rather than that of the network in front of it.
pub(super) fn is_own(answer: &Answer) -> bool {
    serde_json::from_slice::<Refusal>(answer.body()).is_ok()
}

/// A time as DigiCert writes it.
pub(super) fn moment(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok()
}

#[derive(Deserialize)]
struct Refusal {
    errors: Vec<Fault>,
}

#[derive(Deserialize)]
struct Fault {
    code: Option<String>,
}

fn code_in(body: &[u8]) -> Option<String> {
    let refusal: Refusal = serde_json::from_slice(body).ok()?;
    let code = refusal.errors.into_iter().find_map(|fault| fault.code)?;
    let last = code.rsplit('|').next().unwrap_or_default();
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte);
    ((1..=64).contains(&last.len()) && last.bytes().all(fits)).then(|| last.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_words_or_nothing() {
        for (body, expected) in [
            (r#"{"errors":[{"code":"invalid_csr","message":"x"}]}"#, Some("invalid_csr")),
            (r#"{"errors":[{"code":"access_denied|invalid_api_key"}]}"#, Some("invalid_api_key")),
            (r#"{"errors":[{"code":"two words"}]}"#, None),
            (r#"{"errors":[{"message":"x"}]}"#, None),
            (r#"{"errors":[]}"#, None),
            ("<html>", None),
        ] {
            assert_eq!(code_in(body.as_bytes()).as_deref(), expected, "{body}");
        }
    }

    #[test]
    fn times_have_an_offset() {
        assert_eq!(moment("2026-05-04T10:20:30+00:00").unwrap().unix_timestamp(), 1_777_890_030);
        assert!(moment("2026-05-04").is_none());
    }
}
