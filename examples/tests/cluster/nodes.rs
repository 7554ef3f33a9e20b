//! Node processes and signals.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use certlib_core::store::SharedStore;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{Instant, timeout};

use crate::database;

/// How long anything may take that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Three nodes on one database.
pub(crate) struct Cluster {
    pub(crate) store: SharedStore,
    url: String,
    what: &'static str,
    folder: TempDir,
    pub(crate) nodes: Vec<Node>,
}

/// One process.
pub(crate) struct Node {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Cluster {
    /// `what` the nodes do: `leads` or `works`.
    pub(crate) async fn start(url: &str, what: &'static str) -> Self {
        let store = database::open(url).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut cluster = Self { store, url: url.to_owned(), what, folder, nodes: Vec::new() };
        for number in 0..3 {
            let node = cluster.spawn(number);
            cluster.nodes.push(node);
        }
        for node in &mut cluster.nodes {
            node.ready().await;
        }
        cluster
    }

    fn journal(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("node-{number}.journal"))
    }

    fn spawn(&self, number: usize) -> Node {
        let mut process = Command::new(env!("CARGO_BIN_EXE_cluster-node"))
            .arg(&self.url)
            .arg(format!("node-{number}"))
            .arg(self.journal(number))
            .arg(self.what)
            .stdout(Stdio::piped())
            .stderr(log(&self.folder.path().join(format!("node-{number}.log"))))
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Node { process, output }
    }

    /// Kills a node with SIGKILL and starts another in its place, which is not ready yet.
    pub(crate) async fn replace(&mut self, number: usize) {
        self.nodes[number].process.start_kill().unwrap();
        self.nodes[number].process.wait().await.unwrap();
        self.nodes[number] = self.spawn(number);
    }

    /// The number of the node that leads, and the epoch, as soon as there is one.
    pub(crate) async fn leader(&self, after: u64) -> (usize, u64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "no leader after epoch {after}\n{}", self.logs());
            // The database itself may be between two primaries.
            if let Ok(Some(lease)) = self.store.inspect(certlib_core::scheduler::LEASE).await
                && lease.epoch > after
                && !lease.remaining.is_zero()
                && let Some(number) = lease.holder.strip_prefix("node-").and_then(|rest| rest[..1].parse().ok())
            {
                return (number, lease.epoch);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Whether node `number` has written as leader under `epoch`.
    pub(crate) fn has_written(&self, number: usize, epoch: u64) -> bool {
        let journal = fs::read_to_string(self.journal(number)).unwrap_or_default();
        let epoch = epoch.to_string();
        journal.lines().rev().filter_map(|line| line.split_once(' ')).any(|line| line.0 != "refused" && line.1 == epoch)
    }

    /// Every line of every node's journal.
    pub(crate) fn journals(&self) -> Vec<String> {
        let read = |number| fs::read_to_string(self.journal(number)).unwrap_or_default();
        (0..self.nodes.len()).flat_map(|number| read(number).lines().map(str::to_owned).collect::<Vec<_>>()).collect()
    }

    /// The end of what the nodes said.
    pub(crate) fn logs(&self) -> String {
        let tail = |number: usize| {
            let text = fs::read_to_string(self.folder.path().join(format!("node-{number}.log"))).unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(10).collect();
            lines.into_iter().rev().collect::<Vec<_>>().join("\n")
        };
        (0..self.nodes.len()).map(tail).collect::<Vec<_>>().join("\n--\n")
    }
}

impl Node {
    /// Returns when the process has started its work.
    pub(crate) async fn ready(&mut self) {
        let mut line = String::new();
        timeout(PATIENCE, self.output.read_line(&mut line)).await.expect("the node starts").unwrap();
        assert_eq!(line.trim(), "ready");
    }

    pub(crate) async fn signal(&self, name: &str) {
        let pid = self.process.id().expect("it runs").to_string();
        assert!(Command::new("kill").args([name, &pid]).status().await.unwrap().success());
    }
}

fn log(path: &Path) -> Stdio {
    fs::OpenOptions::new().append(true).create(true).open(path).unwrap().into()
}
