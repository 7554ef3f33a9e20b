//! Everything a simulated Vault can do wrong, and when.

use std::time::Duration;

use serde_json::Value;

/// One way in which a [`VaultSim`](super::VaultSim) misbehaves.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// `412`: the node has not seen yet what an earlier request wrote. Nothing is done.
    Stale,
    /// `429`: a rate limit quota is used up. Nothing is done.
    RateLimited {
        /// What `Retry-After` says, in whole seconds.
        retry_after: Option<Duration>,
    },
    /// `500`. Nothing is done.
    InternalError,
    /// `307` to this URL. Nothing is done.
    Redirect {
        /// What `Location` says.
        location: String,
    },
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
    /// The request is carried out, but these are the `data` of the answer.
    ReplaceData(Value),
}

/// A [`Fault`], and which requests it meets: all, until [`VaultSim::clear_faults`](super::VaultSim::clear_faults).
#[derive(Clone, Debug, PartialEq)]
pub struct Injection {
    pub(super) fault: Fault,
    method: Option<&'static str>,
    prefix: String,
    left: Option<u32>,
}

impl Injection {
    /// Meets every request.
    pub fn new(fault: Fault) -> Self {
        Self { fault, method: None, prefix: String::new(), left: None }
    }

    /// Meets only requests whose path, after `/v1/`, begins like this.
    #[must_use]
    pub fn on(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.prefix);
        self
    }

    /// Meets only requests with this method, such as `POST`.
    #[must_use]
    pub fn method(mut self, method: &'static str) -> Self {
        self.method = Some(method);
        self
    }

    /// Meets only so many requests.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.left = Some(times);
        self
    }
}

/// The fault that the request to `path` meets, if any; counts it.
pub(super) fn meet(faults: &mut Vec<Injection>, method: &str, path: &str) -> Option<Fault> {
    let at = faults.iter().position(|injection| {
        path.starts_with(&injection.prefix)
            && injection.method.is_none_or(|wanted| wanted == method)
            && injection.left != Some(0)
    })?;
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
        let mut faults =
            vec![Injection::new(Fault::Stale).on("transit/").times(2), Injection::new(Fault::LoseReply).times(0)];
        assert_eq!(meet(&mut faults, "GET", "sys/health"), None);
        assert_eq!(meet(&mut faults, "GET", "transit/keys/a"), Some(Fault::Stale));
        assert_eq!(meet(&mut faults, "POST", "transit/keys/a"), Some(Fault::Stale));
        assert_eq!(meet(&mut faults, "GET", "transit/keys/a"), None);
        faults.push(Injection::new(Fault::Stale).method("POST"));
        assert_eq!(meet(&mut faults, "GET", "a"), None);
        assert_eq!(meet(&mut faults, "POST", "a"), Some(Fault::Stale));
    }
}
