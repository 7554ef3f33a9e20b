//! Answers before they become HTTP.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use super::hresult::Hresult;

/// An answer.
#[derive(Debug, Default)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) body: Vec<u8>,
    pub(super) location: Option<&'static str>,
    /// The code of the error in it.
    pub(super) code: Option<Hresult>,
    /// The request that it is about.
    pub(super) request_id: Option<u32>,
}

impl Reply {
    pub(super) fn new(status: u16, content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self { status, content_type, body: body.into(), ..Self::default() }
    }

    /// A page.
    pub(super) fn html(status: u16, body: String) -> Self {
        Self::new(status, "text/html", body)
    }

    /// An error page of IIS.
    pub(super) fn page(status: u16) -> Self {
        let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Error");
        let body = format!(
            "<!DOCTYPE html PUBLIC \"-//W3C//DTD XHTML 1.0 Strict//EN\" \
             \"http://www.w3.org/TR/xhtml1/DTD/xhtml1-strict.dtd\">\r\n<html>\r\n<head><title>{status} - {reason}\
             </title></head>\r\n<body><h1>Server Error</h1><h2>{status} - {reason}</h2></body>\r\n</html>\r\n"
        );
        Self::html(status, body)
    }

    /// It says which request it is about.
    pub(super) fn about(mut self, request_id: Option<u32>) -> Self {
        self.request_id = request_id;
        self
    }

    /// It says what went wrong.
    pub(super) fn with_code(mut self, code: Option<Hresult>) -> Self {
        self.code = code;
        self
    }

    pub(super) fn into_response(self) -> Response<Bytes> {
        let mut response = raw(self.status, self.content_type, self.body);
        if let Some(location) = self.location {
            response.headers_mut().insert(header::LOCATION, HeaderValue::from_static(location));
        }
        response
    }
}

/// An answer of any kind, as IIS sends it.
pub(super) fn raw(status: u16, content_type: &str, body: Vec<u8>) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    let headers = response.headers_mut();
    headers.insert(header::SERVER, HeaderValue::from_static("Microsoft-IIS/10.0"));
    headers.insert("x-powered-by", HeaderValue::from_static("ASP.NET"));
    if let Ok(value) = HeaderValue::from_str(content_type) {
        headers.insert(header::CONTENT_TYPE, value);
    }
    response
}

/// Tells when to come again.
pub(super) fn with_retry_after(mut response: Response<Bytes>, after: Option<Duration>) -> Response<Bytes> {
    if let Some(after) = after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs()));
    }
    response
}
