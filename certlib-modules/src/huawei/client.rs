//! Signed requests to the services, and what their refusals mean.

use std::borrow::Cow;
use std::sync::Arc;

use certlib_core::error::{Error, ErrorClass, Result, codes};
use certlib_core::{Context, classify};
use certlib_net::signature::{self, Signed, sdk_hmac};
use reqwest::Method;
use serde::Serialize;
use serde_json::Value;
use time::format_description::well_known::Rfc2822;
use time::{Duration, OffsetDateTime};
use tokio::sync::OnceCell;
use zeroize::Zeroizing;

use super::config::{HuaweiConfig, HuaweiCredentials, HuaweiLocation, Resource, Service};
use super::{HuaweiCloud, OPERATION};
use crate::net::{Answer, Api, Lookup};

/// How far the time of a signature may be from the service's.
const SKEW: Duration = Duration::minutes(15);

/// The account behind a target, for the length of one operation.
#[derive(Debug)]
pub(super) struct Cloud<'a> {
    pub(super) config: &'a HuaweiConfig,
    pub(super) location: &'a HuaweiLocation,
    /// The target's id: what the names of its certificates are made of.
    pub(super) target_id: &'a str,
    credentials: &'a HuaweiCredentials,
    lookup: Arc<dyn Lookup>,
    apis: Vec<(Service, Api)>,
    project: OnceCell<String>,
}

/// A request to a service.
pub(super) struct Call<'c> {
    pub(super) method: Method,
    pub(super) path: &'c [&'c str],
    pub(super) query: &'c [(&'c str, &'c str)],
    /// JSON.
    pub(super) body: Option<Zeroizing<Vec<u8>>>,
}

/// A request that has no body.
pub(super) const NOTHING: Option<&()> = None;

impl<'a> Cloud<'a> {
    /// The account of `target`, whose settings have been checked.
    ///
    /// # Errors
    /// As [`Api::new`].
    pub(super) fn new(target: certlib_core::module::Target<'a, HuaweiCloud>, lookup: Arc<dyn Lookup>) -> Result<Self> {
        let mut cloud = Self {
            config: target.config,
            location: target.location,
            target_id: target.id,
            credentials: target.credentials,
            lookup,
            apis: Vec::new(),
            project: OnceCell::new(),
        };
        let service = match target.location.resource {
            Resource::Scm {} => None,
            Resource::Elb { .. } => Some(Service::Elb),
            Resource::Cdn { .. } => Some(Service::Cdn),
            Resource::Waf { .. } => Some(Service::Waf),
        };
        for service in [Some(Service::Scm), service].into_iter().flatten() {
            cloud.apis.push((service, cloud.connect(service)?));
        }
        Ok(cloud)
    }

    pub(super) fn connect(&self, service: Service) -> Result<Api> {
        let url = self.location.url(service);
        Api::new(OPERATION, &url, &self.config.connection, None, Arc::clone(&self.lookup))
    }

    /// The project's id: the configured one, or that of the region.
    ///
    /// # Errors
    /// As `find_project`.
    pub(super) async fn project(&self, cx: &Context) -> Result<&str> {
        match &self.location.project_id {
            Some(id) => Ok(id),
            None => self.project.get_or_try_init(|| self.find_project(cx)).await.map(String::as_str),
        }
    }

    /// Reads.
    pub(super) async fn get(
        &self,
        cx: &Context,
        service: Service,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> Result<Answer> {
        self.send(cx, service, Method::GET, path, query, NOTHING).await
    }

    /// Sends a request and demands success.
    ///
    /// # Errors
    /// As [`Request::send`](crate::net::Request::send) and [`refused`].
    pub(super) async fn send(
        &self,
        cx: &Context,
        service: Service,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&impl Serialize>,
    ) -> Result<Answer> {
        let answer = self.ask(cx, service, method, path, query, body).await?;
        if answer.is_success() { Ok(answer) } else { Err(refused(&answer, cx.clock.now())) }
    }

    /// Sends a request, whatever the answer.
    ///
    /// # Errors
    /// As [`Request::send`](crate::net::Request::send).
    pub(super) async fn ask(
        &self,
        cx: &Context,
        service: Service,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&impl Serialize>,
    ) -> Result<Answer> {
        let body = body.map(serde_json::to_vec).transpose();
        let Ok(body) = body.map(|body| body.map(Zeroizing::new)) else {
            return Err(Error::validation(OPERATION, "body_invalid", "a request cannot be written as JSON"));
        };
        let project = if service.in_project() { Some(self.project(cx).await?) } else { None };
        self.deliver(cx, service, project, Call { method, path, query, body }).await
    }

    /// Signs and sends; `project` is the one that the request names.
    pub(super) async fn deliver(
        &self,
        cx: &Context,
        service: Service,
        project: Option<&str>,
        call: Call<'_>,
    ) -> Result<Answer> {
        let api = match self.apis.iter().find(|(of, _)| *of == service) {
            Some((_, api)) => Cow::Borrowed(api),
            None => Cow::Owned(self.connect(service)?),
        };
        let mut request = api.request(call.method.clone(), call.path.iter().copied());
        if !call.query.is_empty() {
            request = request.query(call.query);
        }
        let host = signature::host(request.url());
        let mut headers = vec![("host", host.as_str())];
        headers.extend(project.map(|id| ("x-project-id", id)));
        let token = self.credentials.security_token.as_ref();
        headers.extend(token.map(|token| ("x-security-token", token.expose().as_str())));
        let date = sdk_hmac::date(cx.clock.now());
        let signed = Signed {
            method: call.method.as_str(),
            url: request.url(),
            headers: &headers,
            body: call.body.as_deref().map_or(&[], Vec::as_slice),
        };
        let key = self.credentials.access_key.expose();
        let authorization = sdk_hmac::authorization(&signed, &date, key, &self.credentials.secret_key).into();
        request = request.header("x-sdk-date", &date).secret_header("authorization", &authorization);
        if let Some(id) = project {
            request = request.header("x-project-id", id);
        }
        if let Some(token) = token {
            request = request.secret_header("x-security-token", token);
        }
        if let Some(body) = call.body {
            request = request.body("application/json", body);
        }
        request.send(cx).await
    }

    /// The enterprise project as a pair of a query, if one is configured.
    pub(super) fn enterprise_project(&self) -> Vec<(&str, &str)> {
        self.location.enterprise_project_id.iter().map(|id| ("enterprise_project_id", id.as_str())).collect()
    }
}

/// The error that an answer without success is, by its status and the vendor's code. What the peer says in words is
/// not quoted: on a bad signature it repeats the request.
///
/// # Errors
/// Classes and codes: `Auth` `credentials_refused`, `clock_skew`, `not_permitted`, `scm_delegation_missing`;
/// `IoTransient` `throttled`, `service_failed`; `Validation` `not_found`, `certificate_refused`, `refused`;
/// `IoPermanent` `quota_exhausted`, `refused`.
pub(super) fn refused(answer: &Answer, now: OffsetDateTime) -> Error {
    let vendor = vendor_code(answer.body());
    let status = answer.status();
    let (class, code, message) = match (status, vendor.as_deref().unwrap_or_default()) {
        (429, _) | (_, "APIGW.0308") => {
            (ErrorClass::IoTransient, "throttled", "the service takes no more requests for now")
        }
        (500.., _) => (ErrorClass::IoTransient, "service_failed", "the service is in trouble"),
        (401, _) | (_, "APIGW.0301") if is_skewed(answer, now) => {
            let why = "the signature's time is more than 15 minutes off; set this machine's clock";
            (ErrorClass::Auth, "clock_skew", why)
        }
        (401, _) | (_, "APIGW.0301") => {
            let why = "the access key is unknown or expired, or the secret key or security token does not belong to it";
            (ErrorClass::Auth, "credentials_refused", why)
        }
        (_, "CDN.00010198") => {
            let why =
                "the delivery network may not read the certificate manager; delegate that in the console of the CDN";
            (ErrorClass::Auth, "scm_delegation_missing", why)
        }
        (_, "SCM.0006") => {
            let why = "the certificate manager cannot read the certificate or its key";
            (ErrorClass::Validation, "certificate_refused", why)
        }
        (_, "SCM.0011") => {
            let why = "the certificate manager takes no more uploads; delete certificates or raise the quota";
            (ErrorClass::IoPermanent, "quota_exhausted", why)
        }
        (403, _) | (_, "SCM.0003") => {
            let why = "the access key lacks a permission; see this module's documentation for those it needs";
            (ErrorClass::Auth, "not_permitted", why)
        }
        (404, _) => {
            let why = "there is no such object; check the ids, the project and the region";
            (ErrorClass::Validation, codes::NOT_FOUND, why)
        }
        (status, _) => (classify::http(status), "refused", "the service refuses the request; its code says why"),
    };
    let mut error = answer.error(class, code, message);
    if let Some(vendor) = vendor {
        error = error.with("vendor_code", vendor);
    }
    match answer.header("x-request-id").and_then(word) {
        Some(id) => error.with("request_id", id),
        None => error,
    }
}

/// Whether the service's clock differs too much from ours.
fn is_skewed(answer: &Answer, now: OffsetDateTime) -> bool {
    let theirs = answer.header("date").and_then(|date| OffsetDateTime::parse(date, &Rfc2822).ok());
    theirs.is_some_and(|theirs| (theirs - now).abs() > SKEW)
}

/// The code in an error's body, in any of the forms that services use.
fn vendor_code(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let inner = body.as_object()?.values().find(|value| value.is_object());
    [Some(&body), inner].into_iter().flatten().find_map(|object| {
        ["error_code", "code", "errorCode"].into_iter().find_map(|name| object.get(name)?.as_str().and_then(word))
    })
}

/// `text`, if it is a word that a record can keep.
pub(super) fn word(text: &str) -> Option<String> {
    let fits = (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    fits.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_in_every_form() {
        for body in [
            r#"{"error_code": "SCM.0006", "error_msg": "x"}"#,
            r#"{"code": "SCM.0006", "message": "x", "request_id": "r"}"#,
            r#"{"error": {"code": "SCM.0006", "message": "x"}}"#,
            r#"{"error": {"error_code": "SCM.0006", "error_msg": "x"}, "request_id": "r"}"#,
            r#"{"errorCode": "SCM.0006", "errorMsg": "x"}"#,
        ] {
            assert_eq!(vendor_code(body.as_bytes()).as_deref(), Some("SCM.0006"), "{body}");
        }
        for body in ["", "<html>", "[]", r#"{"error_code": 7}"#, r#"{"error_code": "two words"}"#] {
            assert_eq!(vendor_code(body.as_bytes()), None, "{body}");
        }
    }
}
