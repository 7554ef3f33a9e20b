//! What can go wrong while a simulated host is set up.

use std::io;

/// Why a [`SimHost`](super::SimHost) could not be set up.
///
/// Faults that a running host plays are never errors of this type: the client sees those over the wire.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A socket could not be opened on the loopback interface.
    #[error("{doing}: {source}")]
    Io {
        /// What was being opened.
        doing: &'static str,
        /// The operating system's answer.
        source: io::Error,
    },
    /// A key given for a user, or the host key, is not usable.
    #[error("unusable SSH key: {0}")]
    Key(String),
    /// A certificate or its private key is not usable.
    #[error("unusable certificate: {0}")]
    Certificate(String),
    /// A path, a command or an extension given to the builder is not usable.
    #[error("unusable set-up: {0}")]
    Setup(String),
}

impl Error {
    pub(super) fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }
}
