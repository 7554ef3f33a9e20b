//! Everything a simulated Entrust service can do wrong, and when.

use std::time::Duration;

/// One way in which an [`EcsSim`](super::EcsSim) or a [`CagwSim`](super::CagwSim) misbehaves.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// `429`. Nothing is done.
    Throttled {
        /// What `Retry-After` says, in whole seconds.
        retry_after: Option<Duration>,
    },
    /// `500` or another 5xx, in the service's words. Nothing is done.
    Broken {
        /// The HTTP status.
        status: u16,
    },
    /// `503` with a page of HTML, as a proxy in front of the service says it. Nothing is done.
    Unavailable,
    /// `200` with a text that claims to be JSON and is none. The request is carried out.
    Malformed,
    /// `401`: user or key are wrong. Nothing is done.
    BadCredentials,
    /// `403`: the client's certificate is refused. Nothing is done.
    Forbidden,
    /// Another answer altogether. Nothing is done.
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

/// A [`Fault`], and which requests it meets: all, until `clear_faults`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injection {
    fault: Fault,
    method: Option<String>,
    part: String,
    skip: u32,
    left: Option<u32>,
}

impl Injection {
    /// Meets every request.
    pub fn new(fault: Fault) -> Self {
        Self { fault, method: None, part: String::new(), skip: 0, left: None }
    }

    /// Meets only requests with this method whose path has this part, such as `POST` and `/certificates`.
    #[must_use]
    pub fn on(mut self, method: &str, part: &str) -> Self {
        self.method = Some(method.to_owned());
        part.clone_into(&mut self.part);
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

    fn concerns(&self, method: &str, path: &str) -> bool {
        self.left != Some(0) && self.method.as_ref().is_none_or(|wanted| wanted == method) && path.contains(&self.part)
    }
}

/// The fault that a request meets, if any; counts it.
pub(super) fn meet(faults: &mut Vec<Injection>, method: &str, path: &str) -> Option<Fault> {
    let mut met = None;
    for injection in faults.iter_mut().filter(|injection| injection.concerns(method, path)) {
        if injection.skip > 0 {
            injection.skip -= 1;
            continue;
        }
        if let Some(left) = &mut injection.left {
            *left -= 1;
        }
        met = Some(injection.fault.clone());
        break;
    }
    faults.retain(|injection| injection.left != Some(0));
    met
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_meets_what_it_is_meant_for() {
        let mut faults = vec![Injection::new(Fault::Forbidden).on("GET", "/certificates/").after(1).times(1)];
        assert_eq!(meet(&mut faults, "POST", "/enterprise/v2/certificates/1"), None);
        assert_eq!(meet(&mut faults, "GET", "/enterprise/v2/organizations"), None);
        assert_eq!(meet(&mut faults, "GET", "/enterprise/v2/certificates/1"), None, "the first passes");
        assert_eq!(meet(&mut faults, "GET", "/enterprise/v2/certificates/1"), Some(Fault::Forbidden));
        assert_eq!(meet(&mut faults, "GET", "/enterprise/v2/certificates/1"), None);
        assert!(faults.is_empty());
    }
}
