//! Requests to the API server, and what its answers mean.

use std::sync::Arc;
use std::{fmt, io};

use async_trait::async_trait;
use certlib_core::Context;
use certlib_core::error::{Error, Result};
use certlib_core::secret::SecretString;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SubjectAccessReviewStatus,
};
use kube::Resource as _;
use kube::core::params::{DeleteParams, GetParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::{Request, request};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::Zeroizing;

use super::OPERATION;
use super::config::{KubernetesConfig, KubernetesCredentials, KubernetesLocation};
use super::found::Found;
use super::login::{Login, Surroundings};
use super::refusal::refusal;
use crate::net::{Answer, Api, Lookup};

/// A Secret's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) namespace: String,
    pub(super) name: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What must still hold for a change to be made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Version<'a> {
    pub(super) uid: &'a str,
    pub(super) resource_version: &'a str,
}

/// An API server that we are logged in to.
///
/// Requests are made by the `kube` crate and sent by [`Api`], so that the address policy, time-outs and limits of all
/// modules hold here too, and nothing is tried twice behind our back.
pub(super) struct Cluster {
    api: Api,
    token: Option<SecretString>,
    pub(super) namespace: Option<String>,
}

impl Cluster {
    /// Logs in, as far as that takes no request.
    ///
    /// # Errors
    /// As [`Login::new`] and [`Login::identify`]; as [`Api::new`].
    pub(super) async fn open(
        config: &KubernetesConfig,
        credentials: &KubernetesCredentials,
        location: &KubernetesLocation,
        surroundings: &Surroundings<'_>,
        lookup: Arc<dyn Lookup>,
    ) -> Result<Self> {
        let mut login = Login::new(config, credentials, location, surroundings)?;
        let identity = login.identify().await?;
        let lookup = match &login.server_name {
            Some(_) => Arc::new(Renamed { host: host(&login.server), lookup }) as Arc<dyn Lookup>,
            None => lookup,
        };
        let url = login.url()?;
        let api = Api::new(OPERATION, &url, &login.connection, identity.certificate.as_ref(), lookup)?;
        Ok(Self { api, token: identity.token, namespace: login.namespace })
    }

    /// Where it is.
    pub(super) fn server(&self) -> String {
        self.api.base().to_string()
    }

    /// The Secret; `None` when there is none. Cancel-safe.
    ///
    /// # Errors
    /// As [`Cluster::send`].
    pub(super) async fn get(&self, cx: &Context, place: &Place) -> Result<Option<Found>> {
        let request = secrets(place).get(&place.name, &GetParams::default()).map_err(unbuildable)?;
        let answer = self.send(cx, request, "get", place).await?;
        if answer.status() == 404 {
            return Ok(None);
        }
        accepted(answer, "get", place)?.json().map(Some)
    }

    /// Server-side apply. Not cancel-safe.
    ///
    /// # Errors
    /// As [`Cluster::send`] and [`refusal`].
    pub(super) async fn apply(
        &self,
        cx: &Context,
        place: &Place,
        body: &impl Serialize,
        params: &PatchParams,
    ) -> Result<Applied> {
        // Who applies what is not there yet needs both verbs, and the answer does not say which one is missing.
        let verb = "patch or create";
        let request = secrets(place).patch(&place.name, params, &Patch::Apply(body)).map_err(unbuildable)?;
        let answer = accepted(self.send(cx, request, verb, place).await?, verb, place)?;
        Ok(Applied { created: answer.status() == 201, found: answer.json()? })
    }

    /// Changes who owns the fields, if nothing else changed meanwhile. Not cancel-safe.
    ///
    /// # Errors
    /// As [`Cluster::send`] and [`refusal`].
    pub(super) async fn set_managers(
        &self,
        cx: &Context,
        place: &Place,
        resource_version: &str,
        managers: &Value,
        params: &PatchParams,
    ) -> Result<()> {
        let patch = serde_json::json!([
            {"op": "test", "path": "/metadata/resourceVersion", "value": resource_version},
            {"op": "replace", "path": "/metadata/managedFields", "value": managers},
        ]);
        // `Patch::Json` needs another crate for what is three lines here; the kind of patch is in the content type.
        let mut request = secrets(place).patch(&place.name, params, &Patch::Merge(&patch)).map_err(unbuildable)?;
        let json_patch = http::HeaderValue::from_static("application/json-patch+json");
        request.headers_mut().insert(http::header::CONTENT_TYPE, json_patch);
        accepted(self.send(cx, request, "patch", place).await?, "patch", place).map(drop)
    }

    /// Deletes exactly this version; `false` when there was none. Not cancel-safe.
    ///
    /// # Errors
    /// As [`Cluster::send`] and [`refusal`].
    pub(super) async fn delete(&self, cx: &Context, place: &Place, version: Version<'_>) -> Result<bool> {
        let (uid, resource_version) = (version.uid.to_owned(), version.resource_version.to_owned());
        let preconditions = Preconditions { uid: Some(uid), resource_version: Some(resource_version) };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let request = secrets(place).delete(&place.name, &params).map_err(unbuildable)?;
        let answer = self.send(cx, request, "delete", place).await?;
        if answer.status() == 404 {
            return Ok(false);
        }
        accepted(answer, "delete", place).map(|_| true)
    }

    /// Whether we may delete the Secret; `None` when the cluster does not say. Cancel-safe.
    ///
    /// # Errors
    /// As [`Cluster::send`].
    pub(super) async fn may_delete(&self, cx: &Context, place: &Place) -> Result<Option<bool>> {
        let attributes = ResourceAttributes {
            namespace: Some(place.namespace.clone()),
            name: Some(place.name.clone()),
            verb: Some("delete".to_owned()),
            resource: Some("secrets".to_owned()),
            ..ResourceAttributes::default()
        };
        let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
        let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
        let body = serde_json::to_vec(&review).map_err(|error| unbuildable(request::Error::SerializeBody(error)))?;
        let path = Request::new(SelfSubjectAccessReview::url_path(&(), None));
        let request = path.create(&PostParams::default(), body).map_err(unbuildable)?;
        let answer = self.send(cx, request, "create", place).await?;
        #[derive(Deserialize)]
        struct Reviewed {
            status: Option<SubjectAccessReviewStatus>,
        }
        let reviewed = if answer.is_success() { answer.json::<Reviewed>()?.status } else { None };
        Ok(reviewed.map(|status| status.allowed))
    }

    /// Sends a request, and gives the answer unless it is one that no caller can do anything about.
    ///
    /// # Errors
    /// `Network` and `Auth` as [`crate::net::Request::send`]; [`refusal`] for 401, 403, 429 and 5xx.
    async fn send(
        &self,
        cx: &Context,
        request: http::Request<Vec<u8>>,
        verb: &'static str,
        place: &Place,
    ) -> Result<Answer> {
        let (head, body) = request.into_parts();
        let body = Zeroizing::new(body);
        // Names were checked: no segment needs to be encoded, and none is empty.
        let segments = head.uri.path().split('/').filter(|segment| !segment.is_empty());
        let pairs: Vec<(String, String)> = head
            .uri
            .query()
            .map(|query| url::form_urlencoded::parse(query.as_bytes()).into_owned().collect())
            .unwrap_or_default();
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let mut request = self.api.request(head.method, segments);
        if !pairs.is_empty() {
            request = request.query(&pairs);
        }
        request = request.header("accept", "application/json");
        if let Some(token) = &self.token {
            request = request.secret_header("authorization", &bearer(token));
        }
        if !body.is_empty() {
            request = request.body(content_type(&head.headers), body);
        }
        let answer = request.send(cx).await?;
        match answer.status() {
            401 | 403 | 429 | 500.. => Err(refusal(&answer, verb, place)),
            _ => Ok(answer),
        }
    }
}

/// What came of a server-side apply.
#[derive(Debug)]
pub(super) struct Applied {
    /// Whether there was no such Secret before.
    pub(super) created: bool,
    /// How it is now.
    pub(super) found: Found,
}

fn secrets(place: &Place) -> Request {
    Request::new(k8s_openapi::api::core::v1::Secret::url_path(&(), Some(&place.namespace)))
}

fn unbuildable(_: request::Error) -> Error {
    // The source is dropped: it may quote the body.
    Error::validation(OPERATION, "request_invalid", "a request to the API server cannot be made of this target's names")
}

fn bearer(token: &SecretString) -> SecretString {
    format!("Bearer {}", token.expose()).into()
}

/// The kinds of bodies that the API server knows, as static text.
fn content_type(headers: &http::HeaderMap) -> &'static str {
    const KNOWN: [&str; 3] = ["application/apply-patch+yaml", "application/json-patch+json", "application/json"];
    let given = headers.get(http::header::CONTENT_TYPE).map(|value| value.as_bytes()).unwrap_or_default();
    KNOWN.into_iter().find(|known| known.as_bytes() == given).unwrap_or("application/json")
}

fn accepted(answer: Answer, verb: &'static str, place: &Place) -> Result<Answer> {
    if answer.is_success() { Ok(answer) } else { Err(refusal(&answer, verb, place)) }
}

fn host(server: &str) -> String {
    let url = crate::net::HttpUrl::parse(server, true);
    url.map(|url| url.host().to_owned()).unwrap_or_default()
}

/// Finds the addresses of the server under whatever name its certificate is for.
#[derive(Debug)]
struct Renamed {
    host: String,
    lookup: Arc<dyn Lookup>,
}

#[async_trait]
impl Lookup for Renamed {
    async fn lookup(&self, _name: &str) -> io::Result<Vec<std::net::IpAddr>> {
        match self.host.parse() {
            Ok(address) => Ok(vec![address]),
            Err(_) => self.lookup.lookup(&self.host).await,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use certlib_core::error::Effect;
    use serde_json::json;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::net::{Connection, SystemLookup};

    /// A cluster that answers everything with this.
    pub(in super::super) async fn cluster(status: u16, headers: &str, body: String) -> Cluster {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let length = body.len();
        let answer =
            format!("HTTP/1.1 {status} X\r\n{headers}connection: close\r\ncontent-length: {length}\r\n\r\n{body}");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut seen = [0; 4096];
                let _ = stream.read(&mut seen).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        let connection = json!({"allow_http": true, "addresses": {"allow_loopback": true}});
        let connection: Connection = serde_json::from_value(connection).unwrap();
        let api = Api::new(OPERATION, &base, &connection, None, Arc::new(SystemLookup)).unwrap();
        Cluster { api, token: Some("canary".to_owned().into()), namespace: None }
    }

    pub(in super::super) fn place() -> Place {
        Place { namespace: "shop".to_owned(), name: "www".to_owned() }
    }

    #[tokio::test]
    async fn what_only_reads_has_no_effect_and_absence_is_an_answer() {
        let cx = Context::new("t");
        let failing = cluster(500, "", String::new()).await;
        assert_eq!(failing.get(&cx, &place()).await.unwrap_err().effect(), Effect::None);
        let empty = cluster(404, "", "{}".to_owned()).await;
        assert!(empty.get(&cx, &place()).await.unwrap().is_none());
        let version = Version { uid: "u", resource_version: "1" };
        assert!(!empty.delete(&cx, &place(), version).await.unwrap());
        assert_eq!(empty.may_delete(&cx, &place()).await.unwrap(), None);
        let proxy = cluster(200, "", "<html>canary".to_owned()).await;
        let error = proxy.get(&cx, &place()).await.unwrap_err();
        assert_eq!((error.code(), error.effect()), ("answer_invalid", Effect::None));
    }
}
