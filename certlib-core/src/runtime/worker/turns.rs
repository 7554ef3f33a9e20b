//! Whose turn it is: which parents a claim passes over, so that one with thousands of jobs keeps no other waiting for
//! longer than a job takes.
//!
//! While more is due than fits, claims go in rounds: who was served in this round is passed over until everybody was.
//! At any time, whoever holds half of the lane is passed over for those who do not.

use std::collections::{BTreeMap, BTreeSet};

/// How many parents are passed over at most: beyond that, the order of age is fair enough.
const AVOID_MAX: usize = 100;

/// The turns of one lane on one node.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// More was due than was claimed.
    backlog: bool,
    /// Who was served in this round.
    served: BTreeSet<String>,
    /// Beside these nobody has anything due, as far as is known.
    alone: Option<BTreeSet<String>>,
}

impl Turns {
    /// What to ask for, one after the other until there is enough: each time, whom to pass over.
    ///
    /// `held`: how many of the lane's `slots` each parent has.
    pub(super) fn asks(&mut self, held: &BTreeMap<String, usize>, slots: usize) -> Vec<BTreeSet<String>> {
        let hogs: BTreeSet<String> =
            held.iter().filter(|(_, count)| **count * 2 >= slots).map(|(parent, _)| parent.clone()).collect();
        let mut first = hogs.clone();
        if self.backlog {
            first.extend(self.served.iter().cloned());
            if self.is_known_alone(&first) {
                self.served.clear();
                first = hogs.clone();
            }
        }
        let mut asks = Vec::with_capacity(3);
        for ask in [first, hogs] {
            if !ask.is_empty() && !self.is_known_alone(&ask) && !asks.contains(&ask) {
                asks.push(ask);
            }
        }
        asks.push(BTreeSet::new());
        asks
    }

    /// Takes note of whose jobs were `found` when `wanted` were asked for besides those of `avoided`.
    pub(super) fn answered<'a>(
        &mut self,
        avoided: BTreeSet<String>,
        wanted: usize,
        found: impl ExactSizeIterator<Item = &'a str>,
    ) {
        let enough = found.len() >= wanted;
        for parent in found {
            if self.served.len() < AVOID_MAX && !parent.is_empty() && !self.served.contains(parent) {
                self.served.insert(parent.to_owned());
            }
        }
        match (enough, avoided.is_empty()) {
            (true, true) => self.backlog = true,
            (true, false) => {}
            (false, true) => {
                self.backlog = false;
                self.served.clear();
            }
            (false, false) => {
                // Everybody had a turn: the next round begins.
                self.served.clear();
                self.alone = Some(avoided);
            }
        }
    }

    /// Something may have become due since.
    pub(super) fn forget(&mut self) {
        self.alone = None;
    }

    fn is_known_alone(&self, avoided: &BTreeSet<String>) -> bool {
        self.alone.as_ref().is_some_and(|alone| alone.is_subset(avoided))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(parents: &[&str]) -> BTreeSet<String> {
        parents.iter().map(|parent| (*parent).to_owned()).collect()
    }

    fn held(parents: &[(&str, usize)]) -> BTreeMap<String, usize> {
        parents.iter().map(|(parent, count)| ((*parent).to_owned(), *count)).collect()
    }

    #[test]
    fn who_holds_half_is_asked_last() {
        let mut turns = Turns::default();
        assert_eq!(turns.asks(&held(&[]), 4), [set(&[])]);
        assert_eq!(turns.asks(&held(&[("a", 1)]), 4), [set(&[])]);
        assert_eq!(turns.asks(&held(&[("a", 2), ("b", 1)]), 4), [set(&["a"]), set(&[])]);
        assert_eq!(turns.asks(&held(&[("a", 2), ("b", 2)]), 4), [set(&["a", "b"]), set(&[])]);
        assert_eq!(turns.asks(&held(&[("a", 1)]), 1), [set(&["a"]), set(&[])]);
    }

    #[test]
    fn an_answer_that_found_nobody_else_is_not_asked_for_again() {
        let mut turns = Turns::default();
        let hog = held(&[("a", 3)]);
        turns.answered(set(&["a"]), 1, [].into_iter());
        assert_eq!(turns.asks(&hog, 4), [set(&[])]);
        turns.forget();
        assert_eq!(turns.asks(&hog, 4), [set(&["a"]), set(&[])]);
    }

    #[test]
    fn with_one_slot_the_parent_that_ran_last_waits() {
        let mut turns = Turns::default();
        turns.answered(set(&[]), 1, ["a"].into_iter());
        assert_eq!(turns.asks(&held(&[]), 1), [set(&["a"]), set(&[])]);
    }

    #[test]
    fn without_a_backlog_and_without_a_parent_nobody_is_passed_over() {
        let mut turns = Turns::default();
        turns.answered(set(&[]), 3, ["a"].into_iter());
        turns.answered(set(&[]), 1, [""].into_iter());
        assert_eq!(turns.asks(&held(&[]), 4), [set(&[])]);
    }

    /// A lane of jobs that each take one tick, on a queue that is asked like a store.
    struct Lane {
        slots: usize,
        running: Vec<usize>,
        queue: Vec<usize>,
        turns: Turns,
        asked: usize,
    }

    fn name(parent: usize) -> String {
        format!("p{parent:02}")
    }

    impl Lane {
        fn claim(&mut self) {
            let mut by_parent = BTreeMap::new();
            self.running.iter().for_each(|parent| *by_parent.entry(name(*parent)).or_default() += 1);
            for avoid in self.turns.asks(&by_parent, self.slots) {
                let wanted = self.slots - self.running.len();
                if wanted == 0 {
                    return;
                }
                self.asked += 1;
                let mut found = Vec::new();
                self.queue.retain(|parent| {
                    let take = found.len() < wanted && !avoid.contains(&name(*parent));
                    if take {
                        found.push(*parent);
                    }
                    !take
                });
                let names: Vec<_> = found.iter().map(|parent| name(*parent)).collect();
                self.turns.answered(avoid, wanted, names.iter().map(String::as_str));
                self.running.extend(found);
            }
        }
    }

    proptest! {
        /// However large and old the others' backlogs, a newcomer starts after each of them had one more turn.
        #[test]
        fn nobody_waits_longer_than_a_round(
            slots in 1_usize..=8,
            backlog in proptest::collection::vec(0_usize..6, 20..200),
            order in proptest::collection::vec(0_usize..8, 400),
            warm in 0_usize..100,
        ) {
            let newcomer = 99;
            let mut lane = Lane { slots, running: Vec::new(), queue: backlog, turns: Turns::default(), asked: 0 };
            lane.claim();
            let mut ends = 0;
            for (tick, which) in order.iter().enumerate() {
                if tick == warm {
                    lane.queue.push(newcomer);
                    lane.turns.forget();
                    ends = 0;
                    lane.claim();
                }
                if lane.running.contains(&newcomer) {
                    break;
                }
                if lane.running.is_empty() {
                    continue;
                }
                let ended = which % lane.running.len();
                lane.running.remove(ended);
                lane.claim();
                ends += 1;
                if tick > warm {
                    prop_assert!(ends <= 2 * 6 + 1, "still waiting after {ends} jobs ended");
                }
            }
        }

        /// Asking costs at most one claim more for each job that ends, and for each wake-up.
        #[test]
        fn asking_is_cheap(slots in 1_usize..=8, backlog in proptest::collection::vec(0_usize..4, 50..200)) {
            let jobs = backlog.len();
            let mut lane = Lane { slots, running: Vec::new(), queue: backlog, turns: Turns::default(), asked: 0 };
            lane.claim();
            while !lane.running.is_empty() {
                lane.running.remove(0);
                lane.claim();
            }
            prop_assert!(lane.asked <= 2 * jobs + 5, "{} claims for {jobs} jobs", lane.asked);
        }
    }
}
