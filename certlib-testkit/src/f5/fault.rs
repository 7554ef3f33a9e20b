//! Everything a simulated BIG-IP can do wrong, and when.

use std::time::Duration;

use serde_json::Value;

/// One way in which an [`F5Sim`](super::F5Sim) misbehaves.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// The token of the request ends just before it arrives, and so does the right to use it: `401`.
    ExpireToken,
    /// An error of iControl REST with this status. Nothing is done.
    Error {
        /// The HTTP status.
        status: u16,
        /// The `message` of the body.
        message: String,
    },
    /// `503`: the REST daemon is busy. Nothing is done.
    Busy,
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
    /// The request is carried out, but the answer is an error with this status.
    HideReply {
        /// The HTTP status.
        status: u16,
    },
    /// Meets only commits of transactions, which fail with this message (`01070317:3: ...`), all of them undone.
    TransactionFails {
        /// The code and the text after `transaction failed:`.
        message: String,
    },
    /// Somebody else makes this change just before the request is carried out, as by
    /// [`F5Sim::operate`](super::F5Sim::operate).
    Meanwhile {
        /// The method, such as `PATCH`.
        method: String,
        /// The path after `/mgmt/`.
        path: String,
        /// The body.
        body: Value,
    },
}

/// A [`Fault`], and which requests it meets: all, until [`F5Sim::clear_faults`](super::F5Sim::clear_faults).
#[derive(Clone, Debug, PartialEq)]
pub struct Injection {
    fault: Fault,
    method: Option<String>,
    prefix: String,
    skip: u32,
    left: Option<u32>,
}

impl Injection {
    /// Meets every request.
    pub fn new(fault: Fault) -> Self {
        Self { fault, method: None, prefix: String::new(), skip: 0, left: None }
    }

    /// Meets only requests with this method whose path, after `/mgmt/`, begins like this.
    #[must_use]
    pub fn on(mut self, method: &str, prefix: &str) -> Self {
        self.method = Some(method.to_owned());
        prefix.clone_into(&mut self.prefix);
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
        self.left != Some(0)
            && self.method.as_ref().is_none_or(|wanted| wanted == method)
            && path.starts_with(&self.prefix)
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
        let mut faults = vec![Injection::new(Fault::Busy).on("POST", "tm/sys/").after(1).times(1)];
        assert_eq!(meet(&mut faults, "GET", "tm/sys/config"), None);
        assert_eq!(meet(&mut faults, "POST", "tm/ltm"), None);
        assert_eq!(meet(&mut faults, "POST", "tm/sys/config"), None, "the first passes");
        assert_eq!(meet(&mut faults, "POST", "tm/sys/config"), Some(Fault::Busy));
        assert_eq!(meet(&mut faults, "POST", "tm/sys/config"), None);
        assert!(faults.is_empty());
    }
}
