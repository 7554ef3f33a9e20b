//! Everything a simulated NetScaler can do wrong, and when.

use std::time::Duration;

use serde_json::Value;

use super::nitro::Call;

/// One way in which a [`NetscalerSim`](super::NetscalerSim) misbehaves.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// The session ends before the request: `401` with 444. Nothing is done.
    SessionExpires,
    /// An error in NITRO's own shape. Nothing is done.
    Refuse {
        /// The HTTP status.
        status: u16,
        /// The number in the body.
        errorcode: u32,
    },
    /// `503`, as while another change is going on. Nothing is done.
    Busy {
        /// What `Retry-After` says, in whole seconds.
        retry_after: Option<Duration>,
    },
    /// Another answer altogether, such as the page of a proxy. Nothing is done.
    Answer {
        /// The HTTP status.
        status: u16,
        /// The body.
        body: String,
    },
    /// The request is carried out this much later.
    Slow(Duration),
    /// The connection ends before anything is done.
    LoseRequest,
    /// The request is carried out, and the connection ends before the answer.
    LoseReply,
    /// Roles change just before the request.
    FailOver,
    /// Another administrator does this in the default partition just before the request.
    AnotherAdmin(Vec<AdminCall>),
}

/// What an administrator asks NITRO for.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct AdminCall {
    pub(super) method: http::Method,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) fields: Value,
}

impl AdminCall {
    /// `POST`: adds to a resource such as `sslcertkey`; with `?action=` at its end, does something to it.
    pub fn post(resource: &str, fields: Value) -> Self {
        Self::new(http::Method::POST, resource, fields)
    }

    /// `PUT`: changes, or binds.
    pub fn put(resource: &str, fields: Value) -> Self {
        Self::new(http::Method::PUT, resource, fields)
    }

    /// `DELETE`, such as `sslcertkey/shop`.
    pub fn delete(path: &str) -> Self {
        Self::new(http::Method::DELETE, path, Value::Null)
    }

    pub(super) fn get(path: &str) -> Self {
        Self::new(http::Method::GET, path, Value::Null)
    }

    fn new(method: http::Method, path: &str, fields: Value) -> Self {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        Self { method, path: path.to_owned(), query: query.to_owned(), fields }
    }
}

/// A [`Fault`], and which requests it meets: all, until [`NetscalerSim::clear_faults`](super::NetscalerSim::clear_faults).
#[derive(Clone, Debug, PartialEq)]
pub struct Injection {
    pub(super) fault: Fault,
    method: Option<http::Method>,
    resource: Option<String>,
    action: Option<String>,
    skip: u32,
    left: Option<u32>,
}

impl Injection {
    /// Meets every request.
    pub fn new(fault: Fault) -> Self {
        Self { fault, method: None, resource: None, action: None, skip: 0, left: None }
    }

    /// Meets only requests to this resource; `sslcertkey?action=link` means those with this action.
    #[must_use]
    pub fn on(mut self, method: http::Method, resource: &str) -> Self {
        let (resource, action) = match resource.split_once("?action=") {
            Some((resource, action)) => (resource, action),
            None => (resource, ""),
        };
        self.method = Some(method);
        self.resource = Some(resource.to_owned());
        self.action = Some(action.to_ascii_lowercase());
        self
    }

    /// Meets only requests that change something; logging in and out are none.
    #[must_use]
    pub fn on_changes(mut self) -> Self {
        self.resource = Some(String::new());
        self
    }

    /// Lets so many requests pass first.
    #[must_use]
    pub fn after(mut self, requests: u32) -> Self {
        self.skip = requests;
        self
    }

    /// Meets only so many requests.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.left = Some(times);
        self
    }

    fn is_for(&self, call: &Call) -> bool {
        if self.resource.as_deref() == Some("") {
            let session = matches!(call.resource.as_str(), "login" | "logout" | "nspartition");
            return call.method != http::Method::GET && !session;
        }
        self.method.as_ref().is_none_or(|method| *method == call.method)
            && self.resource.as_ref().is_none_or(|resource| *resource == call.resource)
            && self.action.as_ref().is_none_or(|action| *action == call.action().unwrap_or_default())
    }
}

/// The fault that a request meets, if any; counts it.
pub(super) fn meet(faults: &mut Vec<Injection>, call: &Call) -> Option<Fault> {
    let at = faults.iter().position(|injection| injection.left != Some(0) && injection.is_for(call))?;
    let injection = &mut faults[at];
    if injection.skip > 0 {
        injection.skip -= 1;
        return None;
    }
    let fault = injection.fault.clone();
    if let Some(left) = &mut injection.left {
        *left -= 1;
        if *left == 0 {
            faults.remove(at);
        }
    }
    Some(fault)
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn call(method: Method, path: &str, query: &str) -> Call {
        Call::new(method, path, query, "").unwrap()
    }

    #[test]
    fn a_fault_meets_what_it_is_meant_for() {
        let mut faults = vec![
            Injection::new(Fault::LoseReply).on(Method::POST, "sslcertkey?action=update").times(1),
            Injection::new(Fault::LoseRequest).on_changes().after(1),
        ];
        assert_eq!(meet(&mut faults, &call(Method::GET, "sslcertkey/a", "")), None);
        assert_eq!(meet(&mut faults, &call(Method::POST, "login", "")), None);
        assert_eq!(meet(&mut faults, &call(Method::POST, "sslcertkey", "")), None, "let pass");
        let update = call(Method::POST, "sslcertkey", "action=update");
        assert_eq!(meet(&mut faults, &update), Some(Fault::LoseReply));
        assert_eq!(meet(&mut faults, &update), Some(Fault::LoseRequest));
    }
}
