//! Requests to the Enterprise API, and what its refusals say.

use std::sync::Arc;

use certlib_core::secret::SecretString;
use certlib_core::{Context, Error, Result};
use certlib_net::{Answer, Api, SystemLookup};
use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::entrust::config::{EcsConfig, EcsCredentials};
use crate::paging::Pages;
use crate::triage;

pub(super) const OPERATION: &str = "entrust.ecs";

/// How many certificates a list is asked for at once: it could give a thousand, in an answer longer than need be.
const PAGE: usize = 200;

/// How many pages of a list are read, at most.
const PAGES: usize = 500;

/// The API, with one user and their certificate.
#[derive(Debug)]
pub(super) struct Client {
    api: Api,
    username: String,
    key: SecretString,
}

/// A certificate, or an order for one, as far as it matters here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Certificate {
    pub(super) status: String,
    pub(super) end_entity_cert: Option<String>,
    #[serde(default)]
    pub(super) chain_certs: Option<Vec<String>>,
    pub(super) csr: Option<String>,
    pub(super) tracking: Option<Tracking>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Tracking {
    pub(super) tracking_info: Option<String>,
}

/// A certificate, or an order for one, in a list.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Listed {
    pub(super) tracking_id: u64,
    pub(super) status: Option<String>,
    pub(super) dn: Option<String>,
    pub(super) serial_number: Option<String>,
    pub(super) issue_date_time: Option<String>,
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    certificates: Vec<Listed>,
    summary: Option<Summary>,
}

#[derive(Deserialize)]
struct Summary {
    total: Option<usize>,
}

#[derive(Deserialize)]
struct Refusal {
    errors: Vec<Fault>,
}

#[derive(Deserialize)]
struct Fault {
    code: Option<Value>,
}

impl Client {
    /// # Errors
    /// As [`Api::new`].
    pub(super) fn new(config: &EcsConfig, credentials: EcsCredentials) -> Result<Self> {
        let identity = credentials.identity();
        let lookup = Arc::new(SystemLookup);
        let api = Api::new(OPERATION, &config.url, &config.connection, Some(&identity), lookup)?;
        Ok(Self { api, username: credentials.username, key: credentials.api_key })
    }

    /// Reads, whatever the answer.
    pub(super) async fn get(&self, cx: &Context, path: &[&str], query: &[(&str, &str)]) -> Result<Answer> {
        let mut request = self.api.get(path.iter().copied());
        if !query.is_empty() {
            request = request.query(query);
        }
        request.basic(&self.username, &self.key).header("accept", "application/json").send(cx).await
    }

    /// Changes something, whatever the answer.
    pub(super) async fn post(&self, cx: &Context, path: &[&str], body: &Value) -> Result<Answer> {
        let request = self.api.post(path.iter().copied()).basic(&self.username, &self.key);
        request.header("accept", "application/json").json(body).send(cx).await
    }

    /// One certificate or order.
    pub(super) async fn certificate(&self, cx: &Context, id: u64) -> Result<Certificate> {
        let answer = self.get(cx, &["certificates", &id.to_string()], &[]).await?;
        if answer.is_success() { triage::read(&answer) } else { Err(refused(&answer)) }
    }

    /// All certificates and orders that the filters let pass.
    pub(super) async fn list(&self, cx: &Context, filters: &[(&str, &str)]) -> Result<Vec<Listed>> {
        let limit = PAGE.to_string();
        let (mut found, mut pages) = (Vec::new(), Pages::new(OPERATION, PAGE));
        for _ in 0..PAGES {
            // A page may have less than it was asked for.
            let offset = found.len().to_string();
            let mut query = vec![("limit", limit.as_str()), ("offset", offset.as_str())];
            query.extend_from_slice(filters);
            let answer = self.get(cx, &["certificates"], &query).await?;
            if !answer.is_success() {
                return Err(refused(&answer));
            }
            let page: Page = triage::read(&answer)?;
            let total = page.summary.and_then(|summary| summary.total);
            let ids = page.certificates.iter().map(|listed| listed.tracking_id.to_string());
            let goes_on = pages.goes_on(ids, total)?;
            found.extend(page.certificates);
            if !goes_on {
                return Ok(found);
            }
        }
        let why = "Entrust lists more certificates than can be looked through";
        Err(Error::permanent(OPERATION, "too_many_orders", why).with("pages", PAGES))
    }
}

/// The error that an answer without success is, with Entrust's code for it.
pub(super) fn refused(answer: &Answer) -> Error {
    let error = answer.refused();
    match code(answer) {
        Some(code) => error.with("ca_code", code),
        None => error,
    }
}

/// Whether a refusal is Entrust's own, rather than that of the network in front of it.
pub(super) fn is_own(answer: &Answer) -> bool {
    serde_json::from_slice::<Refusal>(answer.body()).is_ok()
}

/// A moment as Entrust writes it.
pub(super) fn moment(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok()
}

fn code(answer: &Answer) -> Option<String> {
    let refusal: Refusal = serde_json::from_slice(answer.body()).ok()?;
    refusal.errors.into_iter().find_map(|fault| match fault.code? {
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => crate::entrust::shown_code(&text),
        _ => None,
    })
}
