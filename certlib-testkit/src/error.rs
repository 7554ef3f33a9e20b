use std::{io, path::Path, time::Duration};

/// What went wrong while finding, starting or asking a counterpart.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `CERTLIB_WITHOUT` names this counterpart, so it was not looked for. See [`require!`](crate::require).
    #[error("{name} was left out on purpose (CERTLIB_WITHOUT)")]
    LeftOut {
        /// The counterpart's name, as given to `--without`.
        name: &'static str,
    },
    /// A program was not found and could not be installed.
    #[error("{program} is missing: {remedy}")]
    Missing {
        /// The program that was looked for.
        program: &'static str,
        /// What to install or set, or how to leave the counterpart out.
        remedy: String,
    },
    /// A counterpart did not come up.
    #[error("{name} did not start: {reason}\n--- end of its log ---\n{log}")]
    Start {
        /// The counterpart's name.
        name: &'static str,
        /// Why it counts as not started.
        reason: String,
        /// The last lines it wrote.
        log: String,
    },
    /// Something awaited did not happen in time.
    #[error("{what} did not happen within {limit:?}")]
    Timeout {
        /// What was awaited.
        what: String,
        /// How long.
        limit: Duration,
    },
    /// A helper command ended with an error.
    #[error("`{command}` failed ({status}): {output}")]
    Command {
        /// The command line.
        command: String,
        /// Its exit status.
        status: String,
        /// What it wrote to standard output and standard error.
        output: String,
    },
    /// A counterpart answered with something unexpected.
    #[error("unexpected answer from {peer}: {message}")]
    Protocol {
        /// Who answered.
        peer: String,
        /// What was wrong with the answer.
        message: String,
    },
    /// A key or certificate could not be made or read.
    #[error("certificate or key: {0}")]
    Crypto(String),
    /// A file, socket or process operation failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The operating system's error.
        source: io::Error,
    },
}

/// The result of every fallible operation in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let what = what.into();
        move |source| Error::Io { what, source }
    }

    pub(crate) fn file(verb: &str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        Error::io(format!("{verb} {}", path.display()))
    }

    pub(crate) fn protocol(peer: impl Into<String>, message: impl ToString) -> Error {
        Error::Protocol { peer: peer.into(), message: message.to_string() }
    }
}

impl From<rcgen::Error> for Error {
    fn from(error: rcgen::Error) -> Self {
        Error::Crypto(error.to_string())
    }
}
