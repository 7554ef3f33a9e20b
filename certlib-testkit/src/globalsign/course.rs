//! What becomes of a request for a certificate, as decided before it is made.

use crate::pki::Flaw;

/// What becomes of certificates that are asked for from now on; set with
/// [`GlobalSignSim::set_course`](super::GlobalSignSim::set_course). The default: there at once, and right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Course {
    pub(super) looks: u32,
    pub(super) lost: bool,
    pub(super) flaw: Option<Flaw>,
}

impl Course {
    /// So many looks at the certificate are answered with `202`.
    #[must_use]
    pub fn pending(mut self, looks: u32) -> Self {
        self.looks = looks;
        self
    }

    /// In the end there is none: `404`.
    #[must_use]
    pub fn lost(mut self) -> Self {
        self.lost = true;
        self
    }

    /// The certificate is not what was asked for.
    #[must_use]
    pub fn flawed(mut self, flaw: Flaw) -> Self {
        self.flaw = Some(flaw);
        self
    }
}
