//! One replica set for all tests of a process, databases in it, records to store, and processes to kill.
#![allow(dead_code)]

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bson::{Document, doc};
use certlib_core::queue::{ClaimRequest, Job, Lane, NewJob, Outcome, Settlement};
use certlib_core::store::{Index, Record};
use certlib_store_mongo::{MongoOptions, MongoStore};
use certlib_testkit::counterpart::MongoReplicaSet;
use mongodb::Client;
use serde::{Deserialize, Serialize};

pub(crate) const LEASE: Duration = Duration::from_secs(60);

/// Names the connection string and the database to the process that a test starts from itself.
const DATABASE: &str = "CERTLIB_TEST_DATABASE";

static SET: OnceLock<Option<MongoReplicaSet>> = OnceLock::new();
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// The set that the tests of this process share, unless MongoDB was left out on purpose. Tests that stop members have
/// one of their own.
pub(crate) fn set() -> Option<&'static MongoReplicaSet> {
    let start = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        require_some(runtime.block_on(MongoReplicaSet::start(3)))
    };
    SET.get_or_init(|| std::thread::spawn(start).join().unwrap()).as_ref()
}

fn require_some<T>(started: certlib_testkit::Result<T>) -> Option<T> {
    match started {
        Ok(started) => Some(started),
        Err(certlib_testkit::Error::LeftOut { name }) => {
            eprintln!("left out: {name}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// The name of a database that nobody has used.
pub(crate) fn fresh() -> String {
    format!("certlib_test_{}", DATABASES.fetch_add(1, Ordering::Relaxed))
}

pub(crate) async fn open(set: &MongoReplicaSet, database: &str) -> MongoStore {
    MongoStore::connect(&set.url().into(), MongoOptions::new().with_database(database)).await.unwrap()
}

/// A connection that knows nothing of certlib.
pub(crate) async fn raw(set: &MongoReplicaSet, database: &str) -> mongodb::Database {
    Client::with_uri_str(set.url()).await.unwrap().database(database)
}

/// The names of the indexes of every collection, in order.
pub(crate) async fn indexes(database: &mongodb::Database) -> Vec<String> {
    let mut names = Vec::new();
    for collection in ["certlib_records", "certlib_jobs", "certlib_leases"] {
        let collection = database.collection::<Document>(collection);
        names.extend(collection.list_index_names().await.unwrap());
    }
    names.sort();
    names
}

/// Lets the next commands of a member fail as `data` says, `times` times.
pub(crate) async fn fail_command(set: &MongoReplicaSet, member: usize, times: i32, data: Document) {
    let point = doc! { "configureFailPoint": "failCommand", "mode": { "times": times }, "data": data };
    set.command(member, "admin", point).await.unwrap();
}

pub(crate) async fn fail_nothing(set: &MongoReplicaSet, member: usize) {
    let point = doc! { "configureFailPoint": "failCommand", "mode": "off" };
    set.command(member, "admin", point).await.unwrap();
}

pub(crate) fn job() -> NewJob {
    NewJob::new("test_job", Lane::Issuance, serde_json::Value::Null)
}

pub(crate) fn request(limit: usize) -> ClaimRequest {
    ClaimRequest::new(Lane::Issuance, "worker", limit, LEASE)
}

pub(crate) fn success(job: &Job) -> Settlement {
    Settlement { claim: job.claim(), outcome: Outcome::Succeeded, duration: Duration::from_millis(1) }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Item {
    pub(crate) id: String,
    pub(crate) number: i64,
}

impl Item {
    pub(crate) fn new(id: impl Into<String>, number: i64) -> Self {
        Self { id: id.into(), number }
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

/// The store to work on, in a process that a test started from itself.
pub(crate) async fn child_store() -> Option<MongoStore> {
    let (url, database) = child_database()?;
    Some(MongoStore::connect(&url.into(), MongoOptions::new().with_database(database)).await.unwrap())
}

pub(crate) fn child_database() -> Option<(String, String)> {
    let value = std::env::var(DATABASE).ok()?;
    let (url, database) = value.rsplit_once(' ')?;
    Some((url.to_owned(), database.to_owned()))
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
    pub(crate) fn start(test: &str, set: &MongoReplicaSet, database: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
        command.env(DATABASE, format!("{} {database}", set.url()));
        command.stdout(Stdio::piped()).stderr(Stdio::null());
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
