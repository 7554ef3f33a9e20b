//! A session on the primary node, in the right partition.

use std::sync::Arc;

use certlib_core::error::{Error, Result};
use certlib_core::secret::{Secret, SecretString};
use certlib_core::{Context, ErrorClass};
use reqwest::Method;
use serde::Serialize;
use serde_json::Value;
use zeroize::Zeroizing;

use super::nitro::{self, Failed, Why, text};
use super::{NetScalerConfig, NetScalerCredentials, NetScalerLocation, OPERATION};
use crate::net::{Api, Lookup};

/// How long the appliance keeps an idle session, in seconds, should it never be closed.
const IDLE: u32 = 900;
/// The longest answer: a list of ten thousand pairs.
const ANSWER_MAX: usize = 16 * 1024 * 1024;

/// Somebody logged in.
#[derive(Debug)]
pub(super) struct Session<'a> {
    cx: &'a Context,
    api: Api,
    credentials: &'a NetScalerCredentials,
    partition: Option<&'a str>,
    token: Option<SecretString>,
    /// A fresh login was made: there is no third one.
    renewed: bool,
}

#[derive(Serialize)]
struct Login<'a> {
    username: &'a str,
    password: &'a str,
    timeout: u32,
}

/// A body: the fields, below the name of the resource.
struct Body<'a, F>(&'a str, &'a F);

impl<F: Serialize> Serialize for Body<'_, F> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map([(self.0, self.1)])
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    method: &'a Method,
    resource: &'a str,
    name: Option<&'a str>,
    query: &'a str,
    /// Having been done twice, it is as if done once.
    repeatable: bool,
}

impl<'a> Call<'a> {
    pub(super) fn get(resource: &'a str) -> Self {
        Self { method: &Method::GET, resource, name: None, query: "", repeatable: true }
    }

    pub(super) fn post(resource: &'a str) -> Self {
        Self { method: &Method::POST, ..Self::get(resource) }
    }

    pub(super) fn put(resource: &'a str) -> Self {
        Self { method: &Method::PUT, ..Self::get(resource) }
    }

    pub(super) fn delete(resource: &'a str) -> Self {
        Self { method: &Method::DELETE, ..Self::get(resource) }
    }

    pub(super) fn name(self, name: &'a str) -> Self {
        Self { name: Some(name), ..self }
    }

    /// The query, encoded already.
    pub(super) fn query(self, query: &'a str) -> Self {
        Self { query, ..self }
    }

    pub(super) fn once(self) -> Self {
        Self { repeatable: false, ..self }
    }
}

impl<'a> Session<'a> {
    /// Logs in where the primary node is, and goes to the partition.
    ///
    /// # Errors
    /// `Auth` `login_refused`; `IoTransient` `not_primary`; `Validation` `object_missing` for the partition; and as
    /// [`Api`] about connections.
    pub(super) async fn open(
        cx: &'a Context,
        location: &'a NetScalerLocation,
        config: &'a NetScalerConfig,
        credentials: &'a NetScalerCredentials,
        lookup: &Arc<dyn Lookup>,
    ) -> Result<Self> {
        let mut next = Some(location.url.as_str());
        let mut peer = location.peer_url.as_deref();
        loop {
            let Some(url) = next else { return Err(not_primary()) };
            next = peer.take();
            let base = format!("{}/nitro/v1/config", url.trim_end_matches('/'));
            let api = Api::new(OPERATION, &base, &config.connection, None, Arc::clone(lookup))?;
            let partition = location.partition.as_deref();
            let mut session = Self { cx, api, credentials, partition: None, token: None, renewed: false };
            let opened = session.begin(partition).await;
            let other_node_may = matches!(&opened, Err(error) if error.class() == ErrorClass::Network)
                || matches!(&opened, Err(error) if error.code() == NOT_PRIMARY);
            match opened {
                Ok(()) => return Ok(session),
                Err(error) => {
                    session.close().await;
                    if !other_node_may || next.is_none() {
                        return Err(error);
                    }
                    tracing::info!(%error, "trying the other node");
                }
            }
        }
    }

    async fn begin(&mut self, partition: Option<&'a str>) -> Result<()> {
        self.log_in().await?;
        self.require_primary().await?;
        self.partition = partition;
        self.enter().await.map_err(Error::from)
    }

    /// Ends the session. Best effort: the appliance ends it by itself later.
    pub(super) async fn close(mut self) {
        if self.token.is_some() {
            self.renewed = true;
            let ended = self.send(&Call::post("logout"), Some(&Empty {})).await;
            if let Err(Failed { error, .. }) = ended {
                tracing::debug!(%error, "the session was not ended");
            }
        }
    }

    /// Refuses to go on when the node is not (or not any more) the primary one.
    pub(super) async fn require_primary(&mut self) -> Result<()> {
        let body = match self.send(&Call::get("hanode"), NOTHING).await {
            Ok(body) => body,
            Err(failed) => {
                // Who administers a partition only may not look at this; inside of one, nobody may on some builds.
                let hidden = match failed.why {
                    Why::NotAllowed => failed.error.code() != "login_refused",
                    Why::Absent => true,
                    Why::Declined => self.partition.is_some(),
                    _ => false,
                };
                if !hidden {
                    return Err(failed.error);
                }
                tracing::warn!("`hanode` may not be read, so whether the node is primary is not known");
                return Ok(());
            }
        };
        let nodes = nitro::items(&body, "hanode");
        let own = nodes.iter().find(|node| text(node, "id").as_deref() == Some("0")).or_else(|| nodes.first());
        let state = own.and_then(|node| text(node, "state").or_else(|| text(node, "masterstate")));
        match state {
            Some(state) if !state.eq_ignore_ascii_case("primary") => Err(not_primary().with("url", self.api.base())),
            // A node that stands alone may have nothing to say.
            _ => Ok(()),
        }
    }

    /// Sends a request; logs in once more if the session is over; repeats a request whose answer was lost, if that does
    /// no harm.
    pub(super) async fn send<F: Serialize + Sync>(
        &mut self,
        call: &Call<'_>,
        fields: Option<&F>,
    ) -> Result<Value, Failed> {
        let mut lost_one = false;
        loop {
            let outcome = self.exchange(call, fields).await;
            let Err(failed) = outcome else { return outcome };
            let lost = matches!(failed.error.code(), "connection_lost" | "no_answer");
            if failed.why == Why::SessionOver && !self.renewed {
                self.renewed = true;
                tracing::info!("the session is over; logging in once more");
                self.log_in().await?;
                self.enter().await?;
            } else if lost && call.repeatable && !lost_one {
                lost_one = true;
                tracing::info!(error = %failed.error, "asking again");
            } else {
                return Err(failed);
            }
        }
    }

    async fn exchange<F: Serialize + Sync>(&self, call: &Call<'_>, fields: Option<&F>) -> Result<Value, Failed> {
        let segments = std::iter::once(call.resource).chain(call.name);
        let mut request = self.api.request(call.method.clone(), segments).longest_answer(ANSWER_MAX);
        if !call.query.is_empty() {
            request = request.raw_query(call.query);
        }
        if let Some(token) = &self.token {
            let cookie = Secret::new(format!("NITRO_AUTH_TOKEN={}", token.expose()));
            request = request.secret_header("cookie", &cookie);
        }
        if let Some(fields) = fields {
            request = request.json(&Body(call.resource, fields));
        }
        nitro::body(&request.send(self.cx).await?)
    }

    async fn log_in(&mut self) -> Result<(), Failed> {
        self.token = None;
        let NetScalerCredentials { username, password, .. } = self.credentials;
        let login = Login { username, password: password.expose(), timeout: IDLE };
        let body = self.exchange(&Call::post("login"), Some(&login)).await;
        let body = match body {
            Err(Failed { why: Why::SessionOver, error }) => return Err(Failed { why: Why::NotAllowed, error }),
            other => Zeroizing::new(text(&other?, "sessionid").unwrap_or_default()),
        };
        if body.is_empty() || body.bytes().any(|byte| !byte.is_ascii_graphic() || b";,\"\\".contains(&byte)) {
            let why = "the answer to the login has no session that can be used; is this a NetScaler?";
            return Err(Error::transient(OPERATION, "answer_invalid", why).into());
        }
        self.token = Some(Secret::new(body.to_string()));
        Ok(())
    }

    async fn enter(&mut self) -> Result<(), Failed> {
        let Some(partition) = self.partition else { return Ok(()) };
        let call = Call::post("nspartition").query("action=Switch");
        self.exchange(&call, Some(&Partition { partitionname: partition }))
            .await
            .map(drop)
            .map_err(|failed| Failed { error: failed.error.with("partition", partition), ..failed })
    }
}

/// A request without a body.
pub(super) const NOTHING: Option<&Empty> = None;

/// A body without fields.
#[derive(Debug, Serialize)]
pub(super) struct Empty {}

#[derive(Serialize)]
struct Partition<'a> {
    partitionname: &'a str,
}

const NOT_PRIMARY: &str = "not_primary";

fn not_primary() -> Error {
    let why = "the node is not the primary one of its pair, and what is changed there is lost; \
               give the address of the primary node, or the other node's address as `peer_url`";
    Error::transient(OPERATION, NOT_PRIMARY, why)
}
