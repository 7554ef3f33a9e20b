//! Requests to the API of Sectigo Certificate Manager, and what its refusals say.

use std::sync::Arc;

use certlib_core::error::{Effect, ErrorClass};
use certlib_core::secret::SecretString;
use certlib_core::{Context, Error, Result};
use certlib_net::{Answer, Api, Request, SystemLookup};
use serde::Deserialize;
use serde_json::Value;
use time::Date;
use time::macros::format_description;

use super::config::{Proof, SectigoConfig, SectigoCredentials};
use crate::paging::{self, Pages};
use crate::triage;

pub(super) const OPERATION: &str = "sectigo";

/// How many orders a list gives at once: the most that it can.
const PAGE: usize = 200;

/// How many pages of a list are read, at most.
const PAGES: usize = 200;

/// The API, with one login.
#[derive(Debug)]
pub(super) struct Client {
    api: Api,
    login: String,
    customer_uri: String,
    /// None when the client certificate stands for it.
    password: Option<SecretString>,
}

/// An order, as far as it matters here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Order {
    pub(super) status: Option<String>,
    pub(super) comments: Option<String>,
    pub(super) requested: Option<String>,
}

/// An order in a list.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Listed {
    pub(super) ssl_id: u64,
    pub(super) common_name: Option<String>,
    pub(super) subject_alternative_names: Option<Vec<String>>,
    pub(super) serial_number: Option<String>,
}

/// A certificate profile.
#[derive(Debug, Deserialize)]
pub(super) struct Profile {
    pub(super) id: u64,
    pub(super) name: String,
    /// Days.
    #[serde(default)]
    pub(super) terms: Vec<u32>,
}

#[derive(Deserialize)]
struct Refusal {
    code: i64,
    description: Option<String>,
}

impl Client {
    /// # Errors
    /// As [`Api::new`].
    pub(super) fn new(config: &SectigoConfig, credentials: SectigoCredentials) -> Result<Self> {
        let SectigoCredentials { login, customer_uri, proof } = credentials;
        let (password, identity) = match proof {
            Proof::Password(password) => (Some(password), None),
            Proof::Certificate(identity) => (None, Some(identity)),
        };
        let lookup = Arc::new(SystemLookup);
        let api = Api::new(OPERATION, &config.url, &config.connection, identity.as_ref(), lookup)?;
        Ok(Self { api, login, customer_uri, password })
    }

    /// Reads, whatever the answer.
    pub(super) async fn get(&self, cx: &Context, path: &[&str], query: &[(&str, &str)]) -> Result<Answer> {
        let mut request = self.api.get(path.iter().copied());
        if !query.is_empty() {
            request = request.query(query);
        }
        self.signed(request).send(cx).await
    }

    /// Changes something, whatever the answer.
    pub(super) async fn post(&self, cx: &Context, path: &[&str], body: &Value) -> Result<Answer> {
        self.signed(self.api.post(path.iter().copied())).json(body).send(cx).await
    }

    fn signed<'a>(&self, request: Request<'a>) -> Request<'a> {
        let request = request.header("login", &self.login).header("customeruri", &self.customer_uri);
        match &self.password {
            Some(password) => request.secret_header("password", password),
            None => request,
        }
    }

    /// All orders that the filters let pass.
    pub(super) async fn list(&self, cx: &Context, filters: &[(&str, &str)]) -> Result<Vec<Listed>> {
        let (mut found, mut pages) = (Vec::new(), Pages::new(OPERATION, PAGE));
        let (size, mut position) = (PAGE.to_string(), 0_usize);
        for _ in 0..PAGES {
            let start = position.to_string();
            let mut query = vec![("size", size.as_str()), ("position", start.as_str())];
            query.extend_from_slice(filters);
            let answer = self.get(cx, &["ssl", "v1"], &query).await?;
            if !answer.is_success() {
                return Err(refused(&answer));
            }
            let page: Vec<Listed> = triage::read(&answer)?;
            let ids = page.iter().map(|listed| listed.ssl_id.to_string());
            let goes_on = pages.goes_on(ids, paging::total(&answer, "x-total-count"))?;
            // A page may have less than it was asked for.
            position += page.len();
            found.extend(page);
            if !goes_on {
                return Ok(found);
            }
        }
        let why = "Sectigo lists more orders than can be looked through; does it heed the filter?";
        Err(Error::permanent(OPERATION, "too_many_orders", why).with("pages", PAGES))
    }
}

/// What an answer without success is, by Sectigo's code where it has one: most refusals come with the status 400.
pub(super) fn refused(answer: &Answer) -> Error {
    let Some(code) = code(answer) else { return answer.refused() };
    let error = match code {
        // Internal errors: whether they came before or after the change, nobody knows.
        -1 | -2 if answer.status() == 400 => {
            let why = "the CA has an internal error";
            let error = answer.error(ErrorClass::IoTransient, "ca_internal", why);
            error.with_effect(Effect::Possible)
        }
        -140 | -195 if answer.status() == 400 => {
            answer.error(ErrorClass::IoTransient, "ca_unavailable", "a service behind the CA is not available")
        }
        -3 | -16 | -25 | -37 => answer.error(ErrorClass::Auth, "denied", "the CA refuses the login, or what it may do"),
        -107 | -737 => {
            let why = "control over a domain is not proven yet; validate it at the CA";
            answer.error(ErrorClass::Validation, "domain_not_validated", why)
        }
        _ => answer.refused(),
    };
    error.with("ca_code", code)
}

/// Sectigo's code for what is wrong, if the answer has one.
pub(super) fn code(answer: &Answer) -> Option<i64> {
    if answer.is_success() {
        return None;
    }
    serde_json::from_slice::<Refusal>(answer.body()).ok().map(|refusal| refusal.code)
}

/// Whether a refusal means that the certificate cannot be collected yet.
pub(super) fn is_not_ready(answer: &Answer) -> bool {
    let refusal = serde_json::from_slice::<Refusal>(answer.body()).ok();
    answer.status() == 400
        && refusal.is_some_and(|refusal| match refusal.code {
            -103 | -107 | -109 | -183 | -737 | -1400 => true,
            // The code for nothing in particular.
            0 => refusal.description.is_some_and(|text| text.to_ascii_lowercase().contains("being processed")),
            _ => false,
        })
}

/// Whether a refusal means that there is no such certificate.
pub(super) fn is_unknown(answer: &Answer) -> bool {
    matches!(answer.status(), 400 | 404) && matches!(code(answer), Some(-124 | -5101))
}

/// A day as Sectigo writes it.
pub(super) fn day(text: &str) -> Option<Date> {
    Date::parse(text, format_description!("[month]/[day]/[year]"))
        .or_else(|_| Date::parse(text.get(..10).unwrap_or(text), format_description!("[year]-[month]-[day]")))
        .ok()
}

#[cfg(test)]
mod tests {
    use time::macros::date;

    use super::*;

    #[test]
    fn days_are_read_in_both_ways() {
        assert_eq!(day("01/31/2026"), Some(date!(2026 - 01 - 31)));
        assert_eq!(day("2026-01-31T10:00:00.000+0000"), Some(date!(2026 - 01 - 31)));
        assert_eq!(day("yesterday"), None);
    }
}
