//! Known bugs: applied one at a time, each must be caught. They show that the checks see what they are there to see.
//!
//! To add one, add a variant with its name and its place in [`crate::backend`], where requests pass on their way to the store.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// Commits do not look at the leader's epoch.
    NoLeaseCondition,
    /// Commits do not look at the claim's epoch.
    NoClaimCondition,
    /// A job is settled by whoever says so, as long as it is in progress.
    SettleByState,
    /// A heartbeat keeps whatever claim there is.
    ExtendWithoutEpoch,
    /// Whoever renews the lease keeps it.
    RenewWithoutEpoch,
    /// Whoever releases the lease frees it.
    ReleaseWithoutOwner,
    /// Jobs are taken back from workers that still have time.
    ReapTooEarly,
    /// The lease is granted again before it ends.
    GrantTooEarly,
    /// Jobs are handed out before they are due.
    ClaimTooEarly,
    /// An active job of the same key is not noticed.
    NoDedupe,
    /// What is enqueued while its twin runs is forgotten.
    ForgetRerun,
    /// A job is given up in silence.
    SilentDeadLetter,
    /// A job that kills its workers is handed out again and again.
    NoPoison,
    /// A retry does not wait.
    HastyRetry,
    /// Some settlements are acknowledged, but not kept.
    LostSettlement,
    /// The way back from a delivery is not kept.
    NoJournal,
    /// A leader trusts its lease for twice its length.
    TrustTooLong,
    /// Secrets are stored under whatever key.
    NoFence,
}

impl Mutant {
    pub const ALL: [Self; 18] = [
        Self::NoLeaseCondition,
        Self::NoClaimCondition,
        Self::SettleByState,
        Self::ExtendWithoutEpoch,
        Self::RenewWithoutEpoch,
        Self::ReleaseWithoutOwner,
        Self::ReapTooEarly,
        Self::GrantTooEarly,
        Self::ClaimTooEarly,
        Self::NoDedupe,
        Self::ForgetRerun,
        Self::SilentDeadLetter,
        Self::NoPoison,
        Self::HastyRetry,
        Self::LostSettlement,
        Self::NoJournal,
        Self::TrustTooLong,
        Self::NoFence,
    ];
}
