//! Which nodes live: what a rotation waits for.

use std::collections::BTreeMap;
use std::time::Duration;

use time::OffsetDateTime;

use crate::model::Node;
use crate::store::Versioned;

/// What was seen of the nodes' records: the revision, and since when, by the monotonic clock.
#[derive(Debug, Default)]
pub(super) struct Fleet {
    seen: BTreeMap<String, (u64, Duration)>,
}

impl Fleet {
    /// Those of `nodes` that live, at `now` of the wall clock and `monotonic` of the other.
    ///
    /// A node is gone when three of its heartbeats are missing while we look, or when it is stale by wall clocks and one
    /// and a half are missing: if our clock is ahead of its, it must not be left behind without the key that is to
    /// seal; if ours is behind, it must not be waited for for long.
    pub(super) fn live(
        &mut self,
        mut nodes: Vec<Versioned<Node>>,
        now: OffsetDateTime,
        monotonic: Duration,
    ) -> Vec<Versioned<Node>> {
        self.seen.retain(|id, _| nodes.iter().any(|node| node.id == *id));
        nodes.retain(|node| {
            let seen = self.seen.entry(node.id.clone()).or_insert((node.revision, monotonic));
            if seen.0 != node.revision {
                *seen = (node.revision, monotonic);
            }
            let patience = Duration::try_from(node.stale_at - node.heartbeat_at).unwrap_or_default();
            let patience = if node.is_stale(now) { patience / 2 } else { patience };
            monotonic.saturating_sub(seen.1) < patience
        });
        nodes
    }
}

/// Names some nodes, for people.
pub(super) fn names(nodes: &[Versioned<Node>]) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<_> = nodes.iter().take(SHOWN).map(|node| &*node.id).collect();
    let more = nodes.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2027-01-01 00:00 UTC);
    const SECOND: Duration = Duration::from_secs(1);

    fn node(id: &str, heartbeat_at: OffsetDateTime, revision: u64) -> Versioned<Node> {
        let record = Node {
            id: id.to_owned(),
            name: id.to_owned(),
            roles: Vec::new(),
            version: String::new(),
            pid: 1,
            hostname: String::new(),
            started_at: heartbeat_at,
            heartbeat_at,
            stale_at: heartbeat_at + 90 * SECOND,
            keks: Vec::new(),
            keyring_epoch: 1,
            lanes: BTreeMap::new(),
            epochs: BTreeMap::new(),
        };
        Versioned { record, revision }
    }

    #[test]
    fn a_node_is_gone_only_when_it_is_silent() {
        let mut fleet = Fleet::default();
        let hour = time::Duration::hours(1);
        let mut live = |at: u32, revision: u64| {
            let nodes =
                vec![node("ahead", NOW + hour, 4), node("behind", NOW - hour, revision), node("dead", NOW - hour, 7)];
            names(&fleet.live(nodes, NOW, at * SECOND))
        };
        assert_eq!(live(0, 1), "ahead, behind, dead", "nothing is known yet");
        assert_eq!(live(30, 2), "ahead, behind, dead");
        assert_eq!(live(44, 2), "ahead, behind, dead");
        assert_eq!(live(45, 2), "ahead, behind");
        assert_eq!(live(60, 3), "ahead, behind");
        assert_eq!(live(89, 3), "ahead, behind");
        assert_eq!(live(90, 4), "behind", "three heartbeats are missing, whatever the clocks say");
        assert_eq!(live(134, 4), "behind");
        assert_eq!(live(135, 4), "");
    }

    #[test]
    fn many_nodes_are_not_all_named() {
        let nodes: Vec<_> = (0..7).map(|number| node(&number.to_string(), NOW, 1)).collect();
        assert_eq!(names(&nodes), "0, 1, 2, 3, 4 and 2 more");
    }
}
