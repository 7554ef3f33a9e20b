//! Requests to a gateway, and what its refusals say.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certlib_core::{Context, Error, Result};
use certlib_net::{Answer, Api, ClientIdentity, SystemLookup};
use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::macros::format_description;

use crate::entrust::config::CaGatewayConfig;
use crate::{keys, triage};

pub(super) const OPERATION: &str = "entrust.ca_gateway";

/// The gateway, as one client of it sees one authority.
#[derive(Debug)]
pub(super) struct Client {
    api: Api,
    ca_id: String,
}

/// A certificate, as the gateway keeps it.
#[derive(Debug, Deserialize)]
pub(super) struct Kept {
    pub(super) certificate: Certificate,
    #[serde(default)]
    pub(super) chain: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Certificate {
    pub(super) status: Option<String>,
    /// DER in base64.
    pub(super) certificate_data: Option<String>,
}

/// Something that happened to a certificate.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Event {
    pub(super) serial_number: Option<String>,
    pub(super) certificate: Option<InEvent>,
}

/// How an event shows the certificate: no source says which.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum InEvent {
    /// DER in base64.
    Data(String),
    /// As elsewhere.
    Whole(Certificate),
    /// Otherwise: it has to be asked for.
    Other(serde::de::IgnoredAny),
}

/// A page of events, and the index of the next one.
#[derive(Debug)]
pub(super) struct Events {
    pub(super) events: Vec<Event>,
    pub(super) next: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    #[serde(default)]
    events: Vec<Event>,
    #[serde(default)]
    more_pages: bool,
    next_page_index: Option<Value>,
}

#[derive(Deserialize)]
struct Refusal {
    error: Fault,
}

#[derive(Deserialize)]
struct Fault {
    code: Option<String>,
}

impl InEvent {
    /// DER in base64, if it is there.
    pub(super) fn data(&self) -> Option<&str> {
        match self {
            Self::Data(data) => Some(data),
            Self::Whole(certificate) => certificate.certificate_data.as_deref(),
            Self::Other(_) => None,
        }
    }
}

impl Client {
    /// # Errors
    /// As [`Api::new`].
    pub(super) fn new(config: &CaGatewayConfig, identity: &ClientIdentity) -> Result<Self> {
        let api = Api::new(OPERATION, &config.url, &config.connection, Some(identity), Arc::new(SystemLookup))?;
        Ok(Self { api, ca_id: config.ca_id.clone() })
    }

    /// Reads something of the authority, whatever the answer. None at all says nothing about an order.
    pub(super) async fn get(&self, cx: &Context, path: &[&str], query: &[(&str, &str)]) -> Result<Answer> {
        let mut request = self.api.get(self.path(path));
        if !query.is_empty() {
            request = request.query(query);
        }
        request.header("accept", "application/json").send(cx).await.map_err(triage::unanswered)
    }

    /// Changes something of the authority, whatever the answer.
    pub(super) async fn post(&self, cx: &Context, path: &[&str], body: &Value) -> Result<Answer> {
        self.api.post(self.path(path)).header("accept", "application/json").json(body).send(cx).await
    }

    fn path<'a>(&'a self, path: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
        ["v1", "certificate-authorities", self.ca_id.as_str()].into_iter().chain(path.iter().copied())
    }

    /// A certificate by its serial number, however that is spelled. `None` if there is none.
    pub(super) async fn certificate(&self, cx: &Context, serial: &str) -> Result<Option<Kept>> {
        for serial in keys::spellings(serial) {
            let answer = self.get(cx, &["certificates", &serial], &[]).await?;
            match answer.status() {
                404 if is_own(&answer) => {}
                404 => return Err(triage::astray(&answer)),
                _ if answer.is_success() => return triage::read(&answer).map(Some),
                _ => return Err(refused(&answer)),
            }
        }
        Ok(None)
    }

    /// A page of what happened since then: the first, or the one that the former page named.
    pub(super) async fn events(&self, cx: &Context, since: OffsetDateTime, index: Option<&str>) -> Result<Events> {
        let since = since.to_offset(time::UtcOffset::UTC);
        let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
        let start = since.format(format).map_err(|error| {
            Error::permanent(OPERATION, "time_invalid", "a time cannot be written").with_source(error)
        })?;
        let mut query = vec![("startDate", start.as_str())];
        query.extend(index.map(|index| ("nextPageIndex", index)));
        let answer = self.get(cx, &["certificate-events"], &query).await?;
        if answer.status() == 404 && !is_own(&answer) {
            return Err(triage::astray(&answer));
        }
        if !answer.is_success() {
            return Err(refused(&answer));
        }
        let page: Page = triage::read(&answer)?;
        let next = match page.next_page_index {
            Some(Value::String(text)) if page.more_pages => Some(text),
            Some(Value::Number(number)) if page.more_pages => Some(number.to_string()),
            _ => None,
        };
        Ok(Events { events: page.events, next })
    }
}

/// The error that an answer without success is, with the gateway's code for it.
pub(super) fn refused(answer: &Answer) -> Error {
    let error = answer.refused();
    match fault(answer).and_then(|fault| crate::entrust::shown_code(&fault.code?)) {
        Some(code) => error.with("ca_code", code),
        None => error,
    }
}

/// Whether a refusal is the gateway's own, rather than that of the network in front of it.
pub(super) fn is_own(answer: &Answer) -> bool {
    fault(answer).is_some()
}

/// Bytes from base64, however it is broken into lines.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let text: String = text.split_whitespace().collect();
    STANDARD.decode(text).ok()
}

fn fault(answer: &Answer) -> Option<Fault> {
    serde_json::from_slice::<Refusal>(answer.body()).ok().map(|refusal| refusal.error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_show_certificates_in_several_ways() {
        for (text, expected) in [
            (r#"{"serialNumber":"1","certificate":"AA=="}"#, Some("AA==")),
            (r#"{"certificate":{"certificateData":"AA==","status":"normal"}}"#, Some("AA==")),
            (r#"{"certificate":17}"#, None),
            (r#"{"action":"issued"}"#, None),
        ] {
            let event: Event = serde_json::from_str(text).unwrap();
            assert_eq!(event.certificate.as_ref().and_then(InEvent::data), expected, "{text}");
        }
        assert_eq!(decode("AA\r\nEC\n").unwrap(), [0, 1, 2]);
        assert_eq!(decode("<html>"), None);
    }
}
