//! Records to store, and processes to kill.
#![allow(dead_code)]

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use certlib_core::queue::{Lane, NewJob};
use certlib_core::store::{Index, Record};
use certlib_store_sql::{SqliteOptions, SqliteStore};
use serde::{Deserialize, Serialize};
use sqlx::{ConnectOptions, Row, SqliteConnection};

/// Names the database to the process that a test starts from itself.
const DATABASE: &str = "CERTLIB_TEST_DATABASE";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Item {
    pub(crate) id: String,
    pub(crate) number: i64,
    pub(crate) text: String,
}

impl Item {
    pub(crate) fn new(id: impl Into<String>, number: i64) -> Self {
        Self { id: id.into(), number, text: String::new() }
    }

    pub(crate) fn sized(id: impl Into<String>, bytes: usize) -> Self {
        Self { text: "x".repeat(bytes), ..Self::new(id, 0) }
    }
}

impl Record for Item {
    const KIND: &'static str = "item";
    const FIELDS: &'static [&'static str] = &["number"];

    fn id(&self) -> &str {
        &self.id
    }

    fn index(&self) -> Index {
        Index::new().field("number", self.number)
    }
}

pub(crate) fn job() -> NewJob {
    NewJob::new("test_job", Lane::Issuance, serde_json::Value::Null)
}

pub(crate) async fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(path, SqliteOptions::new()).await.unwrap()
}

/// A connection that knows nothing of certlib.
pub(crate) async fn raw(path: &Path) -> SqliteConnection {
    sqlx::sqlite::SqliteConnectOptions::new().filename(path).connect().await.unwrap()
}

pub(crate) async fn assert_intact(path: &Path) {
    let mut connection = raw(path).await;
    let row = sqlx::query("PRAGMA integrity_check").fetch_one(&mut connection).await.unwrap();
    assert_eq!(row.get::<String, _>(0), "ok");
    let orphans = "SELECT count(*) FROM certlib_record_index AS i
                   LEFT JOIN certlib_records AS r ON r.kind = i.kind AND r.id = i.id WHERE r.id IS NULL";
    let row = sqlx::query(orphans).fetch_one(&mut connection).await.unwrap();
    assert_eq!(row.get::<i64, _>(0), 0, "every index entry has its record");
}

/// The database to work on, in a process that a test started from itself.
pub(crate) fn child_database() -> Option<std::path::PathBuf> {
    std::env::var_os(DATABASE).map(Into::into)
}

/// Tells the parent.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n@{line}").unwrap();
    out.flush().unwrap();
}

/// Another process that runs one test of this binary on a database.
pub(crate) struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    pub(crate) fn start(test: &str, database: &Path) -> Self {
        Self::start_as(test, database, |_| {})
    }

    pub(crate) fn start_as(test: &str, database: &Path, adjust: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(DATABASE, database);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        adjust(&mut command);
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// What it says next; `None` when it has ended.
    pub(crate) fn next_line(&mut self) -> Option<String> {
        self.lines.by_ref().map_while(Result::ok).find_map(|line| line.strip_prefix('@').map(str::to_owned))
    }

    /// Kills it as a power cut would, and returns what it had said and was not read.
    pub(crate) fn kill(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        let rest = std::iter::from_fn(|| self.next_line()).collect();
        self.child.wait().unwrap();
        rest
    }

    /// Waits until it ends by itself, and returns what it said.
    pub(crate) fn finish(mut self) -> Vec<String> {
        let said = std::iter::from_fn(|| self.next_line()).collect();
        assert!(self.child.wait().unwrap().success());
        said
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Gone already, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
