//! Whether a run may go on to its next target.

use crate::model::Rollout;

/// What a run does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pace {
    /// It begins with another target.
    Go,
    /// It waits for those at work.
    Wait,
    /// It begins with none any more.
    Stop(&'static str),
}

/// How a run goes on of whose targets `fine` have the new certificate, `failed` do not, and `at_work` are being worked on.
pub fn pace(rollout: &Rollout, fine: usize, failed: usize, at_work: usize) -> Pace {
    if rollout.stop_after.is_some_and(|most| failed >= most) {
        return Pace::Stop("stop_after");
    }
    if fine >= rollout.canary {
        return Pace::Go;
    }
    match (failed, fine + at_work) {
        (1.., _) => Pace::Stop("canary"),
        (0, begun) if begun >= rollout.canary => Pace::Wait,
        (0, _) => Pace::Go,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn by_default_nothing_stops_a_run() {
        for failed in [0, 1, 1000] {
            assert_eq!(pace(&Rollout::default(), 0, failed, 10), Pace::Go);
        }
    }

    #[test]
    fn canaries_go_first_and_alone() {
        let rollout = Rollout { canary: 2, stop_after: None };
        assert_eq!(pace(&rollout, 0, 0, 1), Pace::Go);
        assert_eq!(pace(&rollout, 1, 0, 1), Pace::Wait);
        assert_eq!(pace(&rollout, 2, 0, 0), Pace::Go);
        assert_eq!(pace(&rollout, 1, 1, 0), Pace::Stop("canary"));
        assert_eq!(pace(&rollout, 2, 5, 0), Pace::Go, "later failures stop nothing");
    }

    proptest! {
        /// Whatever fails in whatever order: no more targets fail than the threshold and those at work allow, and nobody
        /// but canaries is touched until enough of them are fine.
        #[test]
        fn a_run_keeps_to_its_limits(
            canary in 0_usize..4,
            most in proptest::option::of(1_usize..5),
            batch in 1_usize..6,
            outcomes in proptest::collection::vec(any::<bool>(), 0..40),
        ) {
            let rollout = Rollout { canary, stop_after: most };
            let (mut fine, mut failed, mut at_work) = (0, 0, std::collections::VecDeque::new());
            let mut next = outcomes.iter();
            loop {
                let may = at_work.len() < batch && pace(&rollout, fine, failed, at_work.len()) == Pace::Go;
                match next.clone().next().filter(|_| may) {
                    Some(outcome) => {
                        next.next();
                        at_work.push_back(*outcome);
                        if fine < canary {
                            prop_assert!(fine + at_work.len() <= canary && failed == 0);
                        }
                    }
                    None => match at_work.pop_front() {
                        Some(true) => fine += 1,
                        Some(false) => failed += 1,
                        None => break,
                    },
                }
                prop_assert!(most.is_none_or(|most| failed < most + batch));
            }
            let all = fine + failed == outcomes.len();
            prop_assert_eq!(all || matches!(pace(&rollout, fine, failed, 0), Pace::Stop(_)), true);
        }
    }
}
