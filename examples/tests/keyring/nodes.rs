//! Node processes, signals and journals.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use certlib_core::scheduler::LEASE;
use certlib_core::store::SharedStore;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

/// How long anything may take that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Node processes on one store.
pub(crate) struct Cluster {
    pub(crate) store: SharedStore,
    url: String,
    folder: TempDir,
    pub(crate) nodes: Vec<Node>,
}

/// One process.
pub(crate) struct Node {
    pub(crate) name: String,
    what: &'static str,
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Cluster {
    /// A cluster without nodes.
    pub(crate) fn new(url: &str, store: SharedStore) -> Self {
        Self { store, url: url.to_owned(), folder: tempfile::tempdir().unwrap(), nodes: Vec::new() }
    }

    /// Adds a node that has the keys `keys`, such as `1,2`, and does `what`. It is not ready yet.
    pub(crate) fn add(&mut self, what: &'static str, keys: &str) {
        let name = format!("{what}-{}", self.nodes.len());
        let node = self.spawn(name, what, keys);
        self.nodes.push(node);
    }

    /// Kills a node with SIGKILL and starts another in its place, which is not ready yet.
    pub(crate) async fn replace(&mut self, number: usize, keys: &str) {
        let node = &mut self.nodes[number];
        node.process.start_kill().unwrap();
        node.process.wait().await.unwrap();
        let (name, what) = (node.name.clone(), node.what);
        self.nodes[number] = self.spawn(name, what, keys);
    }

    fn spawn(&self, name: String, what: &'static str, keys: &str) -> Node {
        let mut process = Command::new(env!("CARGO_BIN_EXE_keyring-node"))
            .args([&*self.url, &*name])
            .arg(self.journal(&name))
            .args([keys, what])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log(&self.folder.path().join(format!("{name}.log"))))
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Node { name, what, process, output }
    }

    /// Waits until all nodes have started their work.
    pub(crate) async fn ready(&mut self) {
        for node in &mut self.nodes {
            node.ready().await;
        }
    }

    /// Asks all nodes to stop, and waits until they have.
    pub(crate) async fn stop(&mut self) {
        for node in &self.nodes {
            node.signal("-TERM").await;
        }
        for node in &mut self.nodes {
            let ended = timeout(PATIENCE, node.process.wait()).await.expect("the node stops").unwrap();
            assert!(ended.success(), "{}: {ended}", node.name);
        }
    }

    /// The number of the node that leads, and the id of its process in the store.
    pub(crate) async fn leader(&self) -> Option<(usize, String)> {
        let lease = self.store.inspect(LEASE).await.ok()??;
        let number = self.nodes.iter().position(|node| lease.holder.starts_with(&format!("{}/", node.name)))?;
        (!lease.remaining.is_zero()).then_some((number, lease.holder))
    }

    fn journal(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.journal"))
    }

    /// Every line of the node's journal.
    pub(crate) fn lines(&self, node: &Node) -> Vec<String> {
        let text = fs::read_to_string(self.journal(&node.name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// The end of what the nodes said.
    pub(crate) fn logs(&self) -> String {
        let tail = |node: &Node| {
            let text = fs::read_to_string(self.folder.path().join(format!("{}.log", node.name))).unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(10).collect();
            lines.into_iter().rev().collect::<Vec<_>>().join("\n")
        };
        self.nodes.iter().map(tail).collect::<Vec<_>>().join("\n--\n")
    }
}

impl Node {
    /// Returns when the process has started its work.
    pub(crate) async fn ready(&mut self) {
        let line = self.line().await;
        assert_eq!(line, "ready");
    }

    /// What it says next.
    pub(crate) async fn line(&mut self) -> String {
        let mut line = String::new();
        timeout(PATIENCE, self.output.read_line(&mut line)).await.expect("the node speaks").unwrap();
        line.trim().to_owned()
    }

    /// Tells it a line.
    pub(crate) async fn tell(&mut self, line: &str) {
        let input = self.process.stdin.as_mut().unwrap();
        input.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        input.flush().await.unwrap();
    }

    pub(crate) async fn signal(&self, name: &str) {
        let pid = self.process.id().expect("it runs").to_string();
        assert!(Command::new("kill").args([name, &pid]).status().await.unwrap().success());
    }
}

fn log(path: &Path) -> Stdio {
    fs::OpenOptions::new().append(true).create(true).open(path).unwrap().into()
}
