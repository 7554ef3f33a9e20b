//! Everything the simulated host can do wrong, and when.

use std::{fmt, sync::Arc, time::Duration};

use super::windows::Windows;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// An empty request, or one that only logs in.
    Login,
    /// The question that needs no login.
    Identify,
    /// A new shell.
    Create,
    /// A new command.
    Command,
    /// Standard input.
    Send,
    /// Output.
    Receive,
    /// A signal to a command.
    Signal,
    /// The end of a shell.
    Delete,
    /// A question about the configuration or a shell.
    Get,
    /// A list.
    Enumerate,
    /// Anything else.
    Other,
}

/// One way in which the simulated host misbehaves.
#[derive(Clone)]
#[non_exhaustive]
pub enum Fault {
    /// `401`, and the login of the connection is forgotten: it has expired. Nothing is done.
    LoginExpired,
    /// The fault `5`, access denied. Nothing is done.
    AccessDenied,
    /// The fault `2150858793`, operation timed out, at once. Nothing is done.
    TimedOut,
    /// The fault for too many shells. Nothing is done.
    ShellQuota,
    /// The fault for too many operations. Nothing is done.
    OperationQuota,
    /// All shells are gone, as after an idle timeout; then the request is carried out.
    ShellsLost,
    /// Any fault of WS-Management. Nothing is done.
    Wsman {
        /// The code in `WSManFault`.
        code: u32,
        /// The subcode, such as `w:InternalError`.
        subcode: String,
        /// What the text says.
        reason: String,
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
    /// The request is carried out, but the signature of the encrypted answer is wrong; over TLS without encryption
    /// nothing changes.
    BadSeal,
    /// Somebody else changes something just before the request is carried out.
    Meanwhile(Change),
}

/// A change by somebody else.
#[derive(Clone)]
pub struct Change(Arc<dyn Fn(&mut Windows) + Send + Sync>);

impl Change {
    /// What is changed.
    pub fn new(change: impl Fn(&mut Windows) + Send + Sync + 'static) -> Self {
        Self(Arc::new(change))
    }

    pub(super) fn apply(&self, windows: &mut Windows) {
        (self.0)(windows);
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LoginExpired => f.write_str("LoginExpired"),
            Self::AccessDenied => f.write_str("AccessDenied"),
            Self::TimedOut => f.write_str("TimedOut"),
            Self::ShellQuota => f.write_str("ShellQuota"),
            Self::OperationQuota => f.write_str("OperationQuota"),
            Self::ShellsLost => f.write_str("ShellsLost"),
            Self::Wsman { code, .. } => write!(f, "Wsman({code})"),
            Self::Answer { status, .. } => write!(f, "Answer({status})"),
            Self::Slow(by) => write!(f, "Slow({by:?})"),
            Self::LoseRequest => f.write_str("LoseRequest"),
            Self::LoseReply => f.write_str("LoseReply"),
            Self::BadSeal => f.write_str("BadSeal"),
            Self::Meanwhile(_) => f.write_str("Meanwhile"),
        }
    }
}

/// A [`Fault`], and which requests it meets: all, until [`WinRmSim::clear_faults`](super::WinRmSim::clear_faults).
#[derive(Clone, Debug)]
pub struct Injection {
    fault: Fault,
    operation: Option<Operation>,
    script: Option<String>,
    skip: u32,
    left: Option<u32>,
}

impl Injection {
    /// Meets every request but those that log in or ask without a login.
    pub fn new(fault: Fault) -> Self {
        Self { fault, operation: None, script: None, skip: 0, left: None }
    }

    /// Meets only requests for this.
    #[must_use]
    pub fn on(mut self, operation: Operation) -> Self {
        self.operation = Some(operation);
        self
    }

    /// Meets only the request that makes a script of this marker run: the one that creates its command, or that ends
    /// its standard input if it reads that. With [`Fault::LoseRequest`] the script has not run, with
    /// [`Fault::LoseReply`] it has.
    #[must_use]
    pub fn on_script(mut self, marker: &str) -> Self {
        self.script = Some(marker.to_owned());
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

    fn is_for(&self, operation: Operation, script: Option<&str>) -> bool {
        let named = match self.operation {
            Some(wanted) => wanted == operation,
            None => !matches!(operation, Operation::Login | Operation::Identify),
        };
        named && self.left != Some(0) && self.script.as_deref().is_none_or(|wanted| script == Some(wanted))
    }
}

/// The fault that a request meets, if any; counts it. `script` is the marker of the script that the request makes run.
pub(super) fn meet(faults: &mut [Injection], operation: Operation, script: Option<&str>) -> Option<Fault> {
    for injection in faults.iter_mut().filter(|injection| injection.is_for(operation, script)) {
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
            Injection::new(Fault::TimedOut).on(Operation::Receive).after(1).times(2),
            Injection::new(Fault::LoseReply).on_script("bind").times(1),
        ];
        let mut receive = || meet(&mut faults, Operation::Receive, None).is_some();
        assert_eq!([receive(), receive(), receive(), receive()], [false, true, true, false]);
        assert!(meet(&mut faults, Operation::Send, None).is_none());
        assert!(meet(&mut faults, Operation::Command, Some("other")).is_none());
        assert!(matches!(meet(&mut faults, Operation::Command, Some("bind")), Some(Fault::LoseReply)));
        assert!(meet(&mut faults, Operation::Command, Some("bind")).is_none());
        faults.push(Injection::new(Fault::AccessDenied));
        assert!(meet(&mut faults, Operation::Login, None).is_none());
    }
}
