//! Everything that can go wrong between a simulated authority and its client, and when.

use std::time::Duration;

/// One way in which a simulated authority misbehaves.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// `429` in the words of the API: too many requests. Nothing is done.
    RateLimited {
        /// What `Retry-After` says, in whole seconds.
        retry_after: Option<Duration>,
    },
    /// `500` or another 5xx in the words of the API. Nothing is done.
    Broken {
        /// The HTTP status.
        status: u16,
    },
    /// `503` with a page in HTML, as in a maintenance window. Nothing is done.
    Maintenance,
    /// `401` in the words of the API: the credentials count for nothing. Nothing is done.
    Unauthorized,
    /// `403` in the words of the API: the credentials do not suffice. Nothing is done.
    Forbidden,
    /// Another answer altogether, such as the page of a proxy. Nothing is done.
    Answer {
        /// The HTTP status.
        status: u16,
        /// What `Content-Type` says.
        content_type: String,
        /// The body.
        body: String,
    },
    /// The request is carried out, but half of the body of the answer is missing.
    Truncated,
    /// The request is carried out, but the body of the answer is not JSON, whatever its header says.
    Garbled,
    /// The request is carried out this much later.
    Slow(Duration),
    /// The connection ends before anything is done.
    LoseRequest,
    /// The request is carried out, and the connection ends before the answer.
    LoseReply,
}

/// A [`Fault`], and which requests it meets: all, until the faults are cleared.
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

    /// Meets only requests with this method whose path has this part, such as `POST` and `order/certificate`.
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
pub(crate) fn meet(faults: &mut Vec<Injection>, method: &str, path: &str) -> Option<Fault> {
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
        let mut faults = vec![Injection::new(Fault::Maintenance).on("POST", "order/").after(1).times(1)];
        assert_eq!(meet(&mut faults, "GET", "order/certificate"), None);
        assert_eq!(meet(&mut faults, "POST", "organization"), None);
        assert_eq!(meet(&mut faults, "POST", "order/certificate"), None, "the first passes");
        assert_eq!(meet(&mut faults, "POST", "order/certificate"), Some(Fault::Maintenance));
        assert_eq!(meet(&mut faults, "POST", "order/certificate"), None);
        assert!(faults.is_empty());
    }
}
