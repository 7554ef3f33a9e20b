//! Everything the simulated certificate services can do wrong, and when.

use std::time::Duration;

use super::hresult::Hresult;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// The policy service: which templates, authorities and addresses there are.
    GetPolicies,
    /// The enrolment service: a new certificate, from PKCS#10.
    Issue,
    /// The enrolment service: a renewal, signed by the former certificate.
    Renew,
    /// The enrolment service: what became of a request.
    QueryStatus,
    /// The web pages: a new certificate.
    Submit,
    /// The web pages: what became of a request.
    CheckPending,
    /// The web pages: an issued certificate, alone or with its chain.
    Fetch,
    /// The web pages: the authority's certificate or its chain.
    CaCertificate,
    /// The web pages: any other.
    Page,
    /// Anything else, which is refused, and logins on their way.
    Other,
}

/// One way in which the simulated certificate services misbehave.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The request waits for a manager, whatever its template says.
    Pend,
    /// The request is pending so many times that somebody asks for it, and is issued the next time.
    PendFor(u32),
    /// The request is denied, and kept as such.
    Deny(Hresult),
    /// The certificate is for another key than the request's.
    WrongKey,
    /// The certificate is for these names and no others.
    WrongNames(Vec<String>),
    /// `429`: too many requests. Nothing is done.
    Throttled {
        /// What `Retry-After` says, in whole seconds.
        retry_after: Option<Duration>,
    },
    /// A 5xx with the page of IIS. Nothing is done.
    Broken {
        /// The HTTP status.
        status: u16,
        /// What `Retry-After` says, in whole seconds.
        retry_after: Option<Duration>,
    },
    /// The credentials count as wrong. Nothing is done.
    BadCredentials,
    /// The web service cannot reach the authority, [`Hresult::RPC_UNAVAILABLE`]. Nothing is done.
    Unreachable,
    /// A fault of SOAP, or the error page that stands for it. Nothing is done.
    Soap {
        /// The code in its detail; no detail without one.
        code: Option<Hresult>,
        /// What its text says.
        reason: String,
        /// Whether its detail blames the request.
        invalid_request: bool,
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
    /// The request is carried out, and only the first half of the answer's body comes.
    Truncated,
    /// The request is carried out, and what should be a certificate in the answer is none.
    Garbled,
    /// The request is carried out this much later.
    Slow(Duration),
    /// The connection ends before anything is done.
    LoseRequest,
    /// The request is carried out, and the connection ends before the answer.
    LoseReply,
}

/// A [`Fault`], and which requests it meets: all that are logged in, until
/// [`AdcsSim::clear_faults`](super::AdcsSim::clear_faults).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injection {
    fault: Fault,
    operation: Option<Operation>,
    skip: u32,
    left: Option<u32>,
}

impl Injection {
    /// Meets every request. A fault that only a new certificate can have is left for the next one.
    pub fn new(fault: Fault) -> Self {
        Self { fault, operation: None, skip: 0, left: None }
    }

    /// Meets only requests for this.
    #[must_use]
    pub fn on(mut self, operation: Operation) -> Self {
        self.operation = Some(operation);
        self
    }

    /// Lets so many of the requests that it could meet pass first.
    #[must_use]
    pub fn after(mut self, skip: u32) -> Self {
        self.skip = skip;
        self
    }

    /// Meets only so many requests.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.left = Some(times);
        self
    }

    fn is_for(&self, operation: Operation) -> bool {
        let submits = matches!(operation, Operation::Issue | Operation::Renew | Operation::Submit);
        let named = self.operation.is_none_or(|wanted| wanted == operation);
        named && self.left != Some(0) && (submits || !self.fault.is_about_issuing())
    }
}

impl Fault {
    /// Whether it changes what the authority does with a new request.
    fn is_about_issuing(&self) -> bool {
        matches!(self, Self::Pend | Self::PendFor(_) | Self::Deny(_) | Self::WrongKey | Self::WrongNames(_))
    }
}

/// The fault that a request meets, if any; counts it.
pub(super) fn meet(faults: &mut [Injection], operation: Operation) -> Option<Fault> {
    for injection in faults.iter_mut().filter(|injection| injection.is_for(operation)) {
        if injection.skip > 0 {
            injection.skip -= 1;
            continue;
        }
        if let Some(left) = &mut injection.left {
            *left -= 1;
        }
        return Some(injection.fault.clone());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_meets_what_it_is_meant_for() {
        let mut faults = vec![
            Injection::new(Fault::Unreachable).on(Operation::QueryStatus).after(1).times(2),
            Injection::new(Fault::Pend).times(1),
        ];
        let mut query = || meet(&mut faults, Operation::QueryStatus).is_some();
        assert_eq!([query(), query(), query(), query()], [false, true, true, false]);
        assert_eq!(meet(&mut faults, Operation::Fetch), None);
        assert_eq!(meet(&mut faults, Operation::Submit), Some(Fault::Pend));
        assert_eq!(meet(&mut faults, Operation::Submit), None);
    }
}
