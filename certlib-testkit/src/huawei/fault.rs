//! Everything a simulated cloud can do wrong, and when.

use std::time::Duration;

/// One way in which a [`HuaweiSim`](super::HuaweiSim) misbehaves.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// `429` `APIGW.0308`: too many requests. Nothing is done.
    Throttled {
        /// What `Retry-After` says, in whole seconds.
        retry_after: Option<Duration>,
    },
    /// `500` or another 5xx, in the gateway's words. Nothing is done.
    Broken {
        /// The HTTP status.
        status: u16,
    },
    /// `401` `APIGW.0301`: the access key has expired. Nothing is done.
    ExpiredCredentials,
    /// `403` `APIGW.0302`: the access key lacks a permission. Nothing is done.
    Forbidden,
    /// `409`: the object is being changed by another request. Nothing is done.
    Conflict,
    /// Another answer altogether, such as the page of a proxy. Nothing is done.
    Answer {
        /// The HTTP status.
        status: u16,
        /// What `Content-Type` says.
        content_type: String,
        /// The body.
        body: String,
    },
    /// The request is carried out this much later.
    Slow(Duration),
    /// The connection ends before anything is done.
    LoseRequest,
    /// The request is carried out, and the connection ends before the answer.
    LoseReply,
}

/// A [`Fault`], and which requests it meets: all, until [`HuaweiSim::clear_faults`](super::HuaweiSim::clear_faults).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injection {
    pub(super) fault: Fault,
    method: Option<String>,
    part: String,
    left: Option<u32>,
}

impl Injection {
    /// Meets every request.
    pub fn new(fault: Fault) -> Self {
        Self { fault, method: None, part: String::new(), left: None }
    }

    /// Meets only requests with this method whose path has this part, such as `PUT` and `/elb/listeners/`.
    #[must_use]
    pub fn on(mut self, method: &str, part: &str) -> Self {
        self.method = Some(method.to_owned());
        part.clone_into(&mut self.part);
        self
    }

    /// Meets only so many requests.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.left = Some(times);
        self
    }

    fn meets(&self, method: &str, path: &str) -> bool {
        self.left != Some(0) && self.method.as_ref().is_none_or(|wanted| wanted == method) && path.contains(&self.part)
    }
}

/// The fault that a request meets, if any; counts it.
pub(super) fn meet(faults: &mut Vec<Injection>, method: &str, path: &str) -> Option<Fault> {
    let at = faults.iter().position(|injection| injection.meets(method, path))?;
    let injection = &mut faults[at];
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
    use super::*;

    #[test]
    fn a_fault_meets_what_it_is_meant_for() {
        let mut faults = vec![Injection::new(Fault::Forbidden).on("PUT", "/listeners/").times(2)];
        assert_eq!(meet(&mut faults, "GET", "/v3/p/elb/listeners/l"), None);
        assert_eq!(meet(&mut faults, "PUT", "/v3/p/elb/certificates/c"), None);
        assert_eq!(meet(&mut faults, "PUT", "/v3/p/elb/listeners/l"), Some(Fault::Forbidden));
        assert_eq!(meet(&mut faults, "PUT", "/v3/p/elb/listeners/l"), Some(Fault::Forbidden));
        assert_eq!(meet(&mut faults, "PUT", "/v3/p/elb/listeners/l"), None);
    }
}
