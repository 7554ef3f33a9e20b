//! One node of the keyring test, which stops, continues and kills it. It stands for leader, and
//!
//! - `writes`: seals secrets anew, at random;
//! - `reads`: opens secrets, at random;
//! - `pauses`: for each line `insert ID` or `update ID` it is given, seals a secret, says `sealed KEY`, and waits for
//!   another line before it stores it; says `stored KEY` or `refused by KIND`, and in the latter case seals again and
//!   says `stored KEY` in the end;
//! - `leads`: nothing else.
//!
//! What it does is in its journal, a line each, before it does the next. `FAILED` is what must not be.
//!
//! `keyring-node URL NAME JOURNAL KEY,KEY.. writes|reads|pauses|leads`

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::time::Duration;

use certlib_core::client::Client;
use certlib_core::secret::Keyring;
use certlib_core::store::{SharedStore, StoreExt as _, Versioned, WriteBatch};
use certlib_core::{Error, Result};
use rand::RngExt as _;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

#[path = "database.rs"]
mod database;
#[path = "kept.rs"]
mod kept;

use kept::{KeptSecret, is_away, is_fenced};

/// Between two reads or writes: two cores are to be enough for eight nodes and a database.
const PAUSE: Duration = Duration::from_millis(20);

#[tokio::main]
async fn main() {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).with_max_level(tracing::Level::WARN).init();
    let args: Vec<String> = std::env::args().collect();
    let [_, url, name, journal, versions, what] = args.as_slice() else { panic!("URL NAME JOURNAL KEYS WHAT") };
    let journal = OpenOptions::new().append(true).create(true).open(journal).expect("the journal");
    let store = loop {
        match kept::open(url).await {
            Ok(store) => break store,
            // A database may be busy.
            Err(error) => {
                eprintln!("{error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    let versions = || versions.split(',').map(|version| version.parse().expect("a version"));
    let keys = kept::keyring(versions());
    let running = kept::runtime(store.clone(), keys.clone(), |settings| settings.node_name.clone_from(name)).start();
    let alone = keys.keks().len() == 1;
    let node = Worker { client: running.client(), store, keys, alone, journal };
    println!("ready");
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).expect("signals");
    tokio::select! {
        _ = terminate.recv() => {}
        () = node.work(what) => {}
    }
    running.shutdown().await;
}

struct Worker {
    client: Client,
    store: SharedStore,
    keys: Keyring,
    /// Whether it has one key only.
    alone: bool,
    journal: File,
}

impl Worker {
    async fn work(&self, what: &str) {
        loop {
            let id = kept::id(rand::rng().random_range(0..kept::SECRETS));
            match what {
                "writes" => self.write(&id).await,
                "reads" => drop(self.read(&id).await),
                "pauses" => self.pause().await,
                _ => std::future::pending().await,
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn note(&self, line: &str) {
        (&self.journal).write_all(format!("{line}\n").as_bytes()).expect("the journal");
    }

    fn note_error(&self, what: &str, error: &Error) {
        self.note(&format!("{} {what}: {error}", if is_away(error) { "away" } else { "FAILED" }));
    }

    /// Opens a secret; `None` if the store was away, or if it failed, which is a note then.
    async fn read(&self, id: &str) -> Option<Versioned<KeptSecret>> {
        let moment = if self.alone { "one key only".to_owned() } else { kept::moment(&self.store).await };
        let kept = match self.store.load::<KeptSecret>(id).await {
            Ok(kept) => kept,
            Err(error) => {
                self.note_error("load", &error);
                return None;
            }
        };
        if let Err(why) = kept.check(&self.client).await {
            self.note(&format!("FAILED open: {why}"));
            return None;
        }
        self.note(&format!("read {moment}"));
        Some(kept)
    }

    /// Seals a secret anew, until it is stored.
    async fn write(&self, id: &str) {
        loop {
            let Some(kept) = self.read(id).await else { return };
            match self.replace(&kept).await {
                Ok(()) => return self.note(&format!("wrote {id} {}", kept.writes + 1)),
                Err(error) if is_fenced(&error) => self.note("fenced"),
                Err(error) if error.is_conflict() => self.note("conflict"),
                // Whether it was stored nobody knows; the next read tells.
                Err(error) => return self.note_error("write", &error),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn replace(&self, kept: &Versioned<KeptSecret>) -> Result<()> {
        let record = KeptSecret::seal(&self.client, &kept.id, kept.writes + 1).await?;
        self.store.commit(WriteBatch::new().update(&Versioned { record, revision: kept.revision })?).await?;
        Ok(())
    }

    async fn pause(&self) {
        let mut lines = lines();
        while let Some(order) = lines.recv().await {
            let (how, id) = order.split_once(' ').expect("two words");
            let (record, batch) = self.prepare(how, id).await.expect("it is sealed");
            println!("sealed {}", record.key(&self.keys).expect("a key of ours"));
            lines.recv().await;
            match self.store.commit(batch).await {
                Ok(_) => {
                    println!("stored {}", record.key(&self.keys).expect("a key of ours"));
                    continue;
                }
                Err(error) if is_fenced(&error) => println!("refused by kek_fence"),
                Err(error) if error.is_conflict() => println!("refused by {}", kind(&error)),
                Err(error) => panic!("{error:?}"),
            }
            loop {
                let (record, batch) = self.prepare(how, id).await.expect("it is sealed");
                match self.store.commit(batch).await {
                    Ok(_) => break println!("stored {}", record.key(&self.keys).expect("a key of ours")),
                    // This node has not looked yet which key seals.
                    Err(error) if error.is_conflict() => tokio::time::sleep(PAUSE).await,
                    Err(error) => panic!("{error:?}"),
                }
            }
        }
    }

    /// A secret, sealed, and what stores it.
    async fn prepare(&self, how: &str, id: &str) -> Result<(KeptSecret, WriteBatch)> {
        if how == "insert" {
            let record = KeptSecret::seal(&self.client, id, 1).await?;
            let batch = WriteBatch::new().insert(&record)?;
            return Ok((record, batch));
        }
        let Versioned { record, revision } = self.store.load::<KeptSecret>(id).await?;
        let record = KeptSecret::seal(&self.client, id, record.writes + 1).await?;
        let versioned = Versioned { record, revision };
        let batch = WriteBatch::new().update(&versioned)?;
        Ok((versioned.record, batch))
    }
}

/// The lines of the standard input.
fn lines() -> UnboundedReceiver<String> {
    let (sender, receiver) = unbounded_channel();
    std::thread::spawn(move || std::io::stdin().lines().map_while(|line| sender.send(line.ok()?).ok()).count());
    receiver
}

/// The kind of the record that refused a commit.
fn kind(error: &Error) -> &str {
    error.context().find(|(key, _)| *key == "kind").map_or("nobody", |(_, value)| value)
}
