//! When a run has succeeded: pure.

use crate::model::{RunState, RunSummary, TargetStatus};

/// How one target ended, as far as the run's outcome depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TargetResult {
    /// Its status.
    pub status: TargetStatus,
    /// Whether its module can verify delivery.
    pub verifiable: bool,
    /// Whether another attempt may help.
    pub retryable: bool,
}

/// The outcome of a run whose targets have all come to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Judgement {
    /// The state the run ends in, should nothing be tried again.
    pub state: RunState,
    /// Whether the delivered version is live.
    pub live: bool,
    /// Whether trying again may improve the outcome.
    pub retry: bool,
}

/// Judges a run by its targets.
///
/// The version is live as soon as one target validated. Targets that cannot be verified count only where there are
/// no others. A run without targets has nothing to prove.
pub fn judge(targets: &[TargetResult]) -> Judgement {
    let count = |status| targets.iter().filter(|target| target.status == status).count();
    let validated = count(TargetStatus::Validated);
    let unverified = count(TargetStatus::Unverified);
    let any_verifiable = targets.iter().any(|target| target.verifiable);
    let all_fine = validated + unverified == targets.len();
    let state = match (any_verifiable, all_fine) {
        _ if targets.is_empty() => RunState::Succeeded,
        (true, true) if validated > 0 => RunState::Succeeded,
        (true, false) if validated > 0 => RunState::PartialFailure,
        (false, true) => RunState::SucceededUnverified,
        (false, false) if unverified > 0 => RunState::PartialFailure,
        _ => RunState::Failed,
    };
    Judgement {
        state,
        live: state != RunState::Failed,
        retry: !all_fine && targets.iter().any(|target| target.retryable),
    }
}

/// Counts targets by status.
pub(super) fn summarize(statuses: impl Iterator<Item = TargetStatus>) -> RunSummary {
    let mut summary = RunSummary::default();
    for status in statuses {
        summary.targets += 1;
        match status {
            TargetStatus::Queued => summary.queued += 1,
            TargetStatus::Running => summary.running += 1,
            TargetStatus::Validated => summary.validated += 1,
            TargetStatus::Unverified => summary.unverified += 1,
            TargetStatus::RolledBack => summary.rolled_back += 1,
            TargetStatus::Failed => summary.failed += 1,
        }
    }
    summary
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(outcome: usize, verifiable: bool) -> TargetResult {
        let fine = if verifiable { TargetStatus::Validated } else { TargetStatus::Unverified };
        let status = [fine, TargetStatus::RolledBack, TargetStatus::Failed][outcome];
        TargetResult { status, verifiable, retryable: outcome == 1 }
    }

    /// The rule as prose says it, target by target, without the shortcuts of `judge`.
    fn model(targets: &[TargetResult]) -> (bool, bool) {
        let (mut one_validated, mut one_acknowledged, mut one_verifiable) = (false, false, false);
        for target in targets {
            one_validated |= target.status == TargetStatus::Validated;
            one_acknowledged |= target.status == TargetStatus::Unverified;
            one_verifiable |= target.verifiable;
        }
        let live = targets.is_empty() || if one_verifiable { one_validated } else { one_acknowledged };
        let failed = targets.iter().any(|t| matches!(t.status, TargetStatus::RolledBack | TargetStatus::Failed));
        (live, failed)
    }

    #[test]
    fn every_outcome_of_up_to_five_targets() {
        let mut cases = 0;
        for n in 0..=5_u32 {
            for code in 0..3_usize.pow(n) {
                for mask in 0..1_usize << n {
                    let targets: Vec<_> =
                        (0..n).map(|i| target(code / 3_usize.pow(i) % 3, mask >> i & 1 == 1)).collect();
                    let judgement = judge(&targets);
                    let (live, failed) = model(&targets);
                    assert_eq!(judgement.live, live, "{targets:?}");
                    assert_eq!(judgement.state == RunState::PartialFailure, live && failed, "{targets:?}");
                    cases += 1;
                }
            }
        }
        assert!(cases > 9000);
    }

    #[test]
    fn retry_only_where_it_may_help() {
        let fine = target(0, true);
        let hopeless = target(2, true);
        let may_recover = target(1, true);
        assert!(!judge(&[fine]).retry);
        assert!(!judge(&[fine, hopeless]).retry);
        assert!(judge(&[fine, hopeless, may_recover]).retry);
    }
}
