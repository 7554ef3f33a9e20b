//! Rotations while writers and readers are killed.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use certlib_core::client::Client;
use certlib_core::model::{Rotation, RotationPhase};
use rand::RngExt as _;
use tokio::time::Instant;

use crate::kept::{self, SECRETS};
use crate::nodes::{Cluster, PATIENCE};
use crate::steps;

/// Of each kind.
const NODES: usize = 4;
const KILLS: usize = 60;
/// How many of them come before the second rotation, and before the last node has the third key.
const KILLS_IN_FIRST: usize = 30;
const KILLS_BEFORE_KEY: usize = 40;
/// How many nodes may be starting while another is killed.
const STARTING: usize = 4;

/// From key 1 to 2, and at once to 3, which the nodes are given meanwhile, one by one; then 1 and 2 are removed and
/// taken from the nodes. All the time nodes are killed, leaders first, and no read fails.
pub(crate) async fn two_rotations(url: &str) {
    let store = kept::open(url).await.unwrap();
    steps::fill(&store, SECRETS).await;
    let mut cluster = Cluster::new(url, store.clone());
    for _ in 0..NODES {
        cluster.add("writes", "1,2");
        cluster.add("reads", "1,2");
    }
    cluster.ready().await;
    let mut storm = Storm { client: steps::client(&store, 1..=3), cluster, keys: "1,2", struck: Struck::default() };
    storm.until_read("1, 0 retired").await;

    let began = Instant::now();
    steps::insist(async || storm.client.rotate_kek(2).await).await.unwrap();
    let refused = steps::insist(async || storm.client.rotate_kek(3).await).await.unwrap_err();
    assert_eq!(refused.code(), "rotation_unfinished", "{refused}");
    storm.strike_until(KILLS_IN_FIRST).await;
    steps::until_over(&store, 2).await;
    eprintln!("from 1 to 2 in {:?}, with {} kills", began.elapsed(), storm.struck.count);

    let began = Instant::now();
    steps::insist(async || storm.client.rotate_kek(3).await).await.unwrap();
    storm.keys = "1,2,3";
    storm.hand_out().await;
    steps::until(&store, RotationPhase::Rewrap).await;
    storm.strike_until(KILLS).await;
    steps::until_over(&store, 3).await;
    eprintln!("from 2 to 3 in {:?}, with {} kills in all", began.elapsed(), storm.struck.count);

    storm.settle().await;
    for version in [1, 2] {
        steps::remove(&storm.client, version).await;
    }
    for number in 0..storm.cluster.nodes.len() {
        storm.cluster.replace(number, "3").await;
    }
    storm.cluster.ready().await;
    storm.until_read("one key only").await;
    storm.cluster.stop().await;
    storm.check().await;
}

struct Storm {
    client: Client,
    cluster: Cluster,
    /// The keys that nodes are started with now.
    keys: &'static str,
    struck: Struck,
}

#[derive(Default)]
struct Struck {
    count: usize,
    leaders: usize,
    /// By what the rotation was doing.
    moments: BTreeMap<String, usize>,
    /// The leader that was killed last, whose lease outlives it.
    leader: String,
    /// Those that are not ready yet.
    starting: VecDeque<usize>,
}

impl Storm {
    /// Kills nodes until `count` were killed in all, evenly over what the rotation has yet to do. The leader is killed
    /// each third time, whenever it does more than there are kills for, and to the end of the rotation always.
    async fn strike_until(&mut self, count: usize) {
        let (before, planned) = (self.struck.count, count - self.struck.count);
        let deadline = Instant::now() + 2 * PATIENCE;
        while self.struck.count < count {
            let struck = self.struck.count - before;
            let Some(rotation) = steps::rotation(&self.cluster.store).await else { return };
            let due = progress(&rotation) * planned / 1000 + 1;
            if due > struck {
                let ends = rotation.phase == RotationPhase::Verify;
                self.strike(ends || due > struck + 2 || struck % 3 == 2, None).await;
            } else {
                assert!(Instant::now() < deadline, "{rotation:?}\n{}", self.cluster.logs());
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        }
    }

    /// Kills any node, or the leader, if there is one and it is wanted; but not `spare`.
    async fn strike(&mut self, leader: bool, spare: Option<usize>) {
        if leader
            && let Some((number, id)) = self.cluster.leader().await
            && id != self.struck.leader
            && Some(number) != spare
        {
            self.struck.leader = id;
            self.struck.leaders += 1;
            return self.kill(number).await;
        }
        let others = (0..self.cluster.nodes.len()).filter(|number| Some(*number) != spare).collect::<Vec<_>>();
        self.kill(others[rand::rng().random_range(0..others.len())]).await;
    }

    async fn kill(&mut self, number: usize) {
        *self.struck.moments.entry(kept::moment(&self.cluster.store).await).or_default() += 1;
        self.cluster.replace(number, self.keys).await;
        self.struck.count += 1;
        self.struck.starting.retain(|starting| *starting != number);
        self.struck.starting.push_back(number);
        // Others are always at work.
        if self.struck.starting.len() > STARTING {
            let number = self.struck.starting.pop_front().expect("there are some");
            self.cluster.nodes[number].ready().await;
        }
    }

    /// Waits until all nodes are at work.
    async fn settle(&mut self) {
        for number in std::mem::take(&mut self.struck.starting) {
            self.cluster.nodes[number].ready().await;
        }
    }

    /// Gives all nodes the third key, by killing them. The rotation waits for the last.
    async fn hand_out(&mut self) {
        let last = self.cluster.nodes.len() - 1;
        for number in 0..last {
            self.kill(number).await;
        }
        while self.struck.count < KILLS_BEFORE_KEY {
            self.strike(false, Some(last)).await;
        }
        self.settle().await;
        let name = self.cluster.nodes[last].name.clone();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let lacking = self.lacking(3).await;
            assert!(lacking.contains(&name), "{name} does not have the key: {lacking:?}");
            let rotation = steps::rotation(&self.cluster.store).await.expect("it waits");
            assert_eq!(rotation.phase, RotationPhase::Prepare, "{name} does not have the key: {rotation:?}");
            if lacking.len() == 1 && rotation.note.as_ref().is_some_and(|note| note.contains(&name)) {
                break;
            }
            assert!(Instant::now() < deadline, "{lacking:?} {rotation:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.kill(last).await;
    }

    /// The names of the live nodes that lack a key.
    async fn lacking(&self, version: u32) -> Vec<String> {
        let readiness = steps::insist(async || self.client.check_kek(version).await).await.unwrap();
        readiness.lack.iter().filter_map(|id| id.split('/').next()).map(str::to_owned).collect()
    }

    /// Waits until every node has read something in the given moment.
    async fn until_read(&self, moment: &str) {
        let line = format!("read {moment}");
        for node in &self.cluster.nodes {
            let deadline = Instant::now() + PATIENCE;
            while !self.cluster.lines(node).contains(&line) {
                assert!(Instant::now() < deadline, "{} never {line}\n{}", node.name, self.cluster.logs());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    async fn check(&self) {
        let (mut reads, mut other) = (BTreeMap::<String, usize>::new(), BTreeMap::<String, usize>::new());
        let mut failed = Vec::new();
        let mut wrote: HashSet<(String, u64)> = HashSet::new();
        let mut newest: HashMap<String, u64> = HashMap::new();
        for line in self.cluster.nodes.iter().flat_map(|node| self.cluster.lines(node)) {
            let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
            match word {
                "FAILED" => failed.push(rest.to_owned()),
                "read" => *reads.entry(rest.to_owned()).or_default() += 1,
                "wrote" => {
                    let (id, writes) = rest.split_once(' ').unwrap();
                    let writes = writes.parse().unwrap();
                    assert!(wrote.insert((id.to_owned(), writes)), "two writers made write {writes} of {id}");
                    let latest = newest.entry(id.to_owned()).or_default();
                    *latest = writes.max(*latest);
                }
                word => *other.entry(word.to_owned()).or_default() += 1,
            }
        }
        let all: usize = reads.values().sum();
        eprintln!("{all} reads, {} failed: {reads:#?}", failed.len());
        eprintln!("{} writes; other answers: {other:?}", wrote.len());
        eprintln!("{} kills, {} of leaders: {:#?}", self.struck.count, self.struck.leaders, self.struck.moments);
        assert!(failed.is_empty(), "{} failed, such as {:#?}", failed.len(), &failed[..failed.len().min(5)]);
        assert_eq!(self.struck.count, KILLS, "the rotations were too fast");
        assert!(self.struck.leaders >= KILLS / 10, "only {} leaders were killed", self.struck.leaders);
        // The first rotation has nobody to wait for.
        let first = ["1 to 2, rewrap", "1 to 2, verify"];
        let second = ["2 to 3, prepare", "2 to 3, rewrap", "2 to 3, settle", "2 to 3, verify"];
        for moment in first.into_iter().chain(second) {
            assert!(reads.contains_key(moment), "nobody read during {moment}");
        }
        let kept = steps::check_all(&self.cluster.store, SECRETS, 3).await;
        // What was answered with success is there.
        assert!(wrote.len() > SECRETS / 10, "only {} writes", wrote.len());
        for kept in kept {
            assert!(kept.writes >= newest.get(&kept.id).copied().unwrap_or(0), "a write of {} was lost", kept.id);
        }
    }
}

/// How far a rotation is, in thousandths; a little too much, so that something is left to do in the end.
fn progress(rotation: &Rotation) -> usize {
    let share = |done: u64| usize::try_from(done * 1000 / rotation.total.max(1)).unwrap().min(1000);
    match rotation.phase {
        RotationPhase::Prepare => 0,
        RotationPhase::Rewrap => share(rotation.rewrapped) * 3 / 4,
        RotationPhase::Settle => 850,
        _ => 850 + share(rotation.verified) * 3 / 8,
    }
}
