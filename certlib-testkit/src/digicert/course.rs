//! What becomes of an order, as decided before it is placed.

use crate::pki::Flaw;

/// What becomes of orders, reissues and duplicates that are placed from now on; set with
/// [`DigiCertSim::set_course`](super::DigiCertSim::set_course). The default: issued at once, and rightly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Course {
    pub(super) polls: u32,
    pub(super) shown_as: Option<String>,
    pub(super) end: End,
    pub(super) flaw: Option<Flaw>,
}

/// How it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum End {
    #[default]
    Issued,
    Rejected,
    Canceled,
}

impl Course {
    /// So many looks at the order see it pending; the next one sees how it ended. Looks count once nothing else holds
    /// it back, such as an approval.
    #[must_use]
    pub fn pending(mut self, polls: u32) -> Self {
        self.polls = polls;
        self
    }

    /// The status that an order has while it is pending for the sake of [`Course::pending`], such as `processing`, or a
    /// word that nobody knows. Default `pending`.
    #[must_use]
    pub fn shown_as(mut self, status: &str) -> Self {
        self.shown_as = Some(status.to_owned());
        self
    }

    /// In the end the authority rejects it.
    #[must_use]
    pub fn rejected(mut self) -> Self {
        self.end = End::Rejected;
        self
    }

    /// In the end somebody cancels it.
    #[must_use]
    pub fn canceled(mut self) -> Self {
        self.end = End::Canceled;
        self
    }

    /// The certificate is not what was asked for.
    #[must_use]
    pub fn flawed(mut self, flaw: Flaw) -> Self {
        self.flaw = Some(flaw);
        self
    }
}

/// Whether a person has to approve what is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Approvals {
    /// The account has no such step for orders, reissues and duplicates. Revocations have it unless it is skipped.
    #[default]
    Off,
    /// Yes, unless an administrator's key asks for `skip_approval`.
    Skippable,
    /// Yes, whatever is asked for.
    Always,
}
