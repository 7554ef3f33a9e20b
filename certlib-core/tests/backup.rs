//! Backup and restore: what is in the file, what is refused, what is found before traffic, what works afterwards.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;
#[path = "backup/damage.rs"]
mod damage;
#[path = "backup/file.rs"]
mod file;
#[path = "backup/keys.rs"]
mod keys;
#[path = "backup/moment.rs"]
mod moment;
#[path = "backup/restoring.rs"]
mod restoring;

use std::io::Cursor;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use certlib_core::backup::{KeyReport, Progress, RestoreOptions, RestoreReport, check_backup};
use certlib_core::client::Client;
use certlib_core::clock::ManualClock;
use certlib_core::memory::MemoryStore;
use certlib_core::model::{Credential, record_kinds};
use certlib_core::runtime::Runtime;
use certlib_core::secret::{KEK_LEN, Keyring, KeyringEnvelope};
use certlib_core::store::{PAGE_MAX, Query, SharedStore, StoreExt as _, TypedQuery};
use certlib_core::{Result, Secret};

use crate::common::START;

/// A key, always the same one for `seed`.
fn key(seed: u8) -> Secret<[u8; KEK_LEN]> {
    Secret::new(std::array::from_fn(|n| u8::try_from(n).unwrap() ^ seed))
}

/// Keys by version and seed.
fn keys(of: &[(u32, u8)]) -> Arc<KeyringEnvelope> {
    let mut ring = Keyring::default();
    for (version, seed) in of {
        ring.add(*version, key(*seed)).unwrap();
    }
    Arc::new(KeyringEnvelope::new(ring))
}

fn empty_store() -> SharedStore {
    Arc::new(MemoryStore::new(Arc::new(ManualClock::new(START))))
}

fn client(store: &SharedStore, envelope: &Arc<KeyringEnvelope>) -> Client {
    let clock = Arc::new(ManualClock::new(START));
    Runtime::builder(store.clone(), envelope.clone()).clock(clock).build().unwrap().client()
}

/// A project with so many credentials, on a store of its own.
async fn shop(envelope: &Arc<KeyringEnvelope>, credentials: usize) -> Client {
    let client = client(&empty_store(), envelope);
    client.create_project("shop").await.unwrap();
    for number in 0..credentials {
        let secret = Secret::new(format!("\"canary-{number}\""));
        client.create_credential("shop", &format!("c{number}"), &secret).await.unwrap();
    }
    client
}

fn quiet() -> impl FnMut(Progress) + Send {
    |_| {}
}

async fn backup(client: &Client) -> Vec<u8> {
    let mut file = Vec::new();
    client.backup(&mut file, &mut quiet()).await.unwrap();
    file
}

async fn check(file: &[u8], envelope: &Arc<KeyringEnvelope>) -> Result<KeyReport> {
    check_backup(file, &record_kinds(), &**envelope, &mut quiet()).await
}

async fn restore(client: &Client, file: &[u8]) -> Result<RestoreReport> {
    client.restore(&mut Cursor::new(file.to_vec()), &RestoreOptions::default(), &mut quiet()).await
}

/// A backup with these records, in their order.
fn file_with(header: &str, records: &[impl AsRef<str>], end: impl Fn(usize) -> String) -> Vec<u8> {
    let mut text = format!("{header}\n");
    for record in records {
        text.push_str(record.as_ref());
        text.push('\n');
    }
    text.push_str(&end(records.len()));
    let sum: String = digest(&SHA256, text.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    text.push_str(&format!("\"sha256\":\"{sum}\"}}\n"));
    text.into_bytes()
}

/// The lines of `file`, changed by `change`, as a backup whose checksum is right. The last line counts what it counted.
fn forged(file: &[u8], change: impl FnOnce(&mut Vec<String>)) -> Vec<u8> {
    let text = String::from_utf8(file.to_vec()).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let (header, end) = (lines.remove(0), lines.pop().unwrap());
    let end = end[..end.find("\"sha256\"").unwrap()].to_owned();
    change(&mut lines);
    file_with(&header, &lines, |_| end.clone())
}

async fn credentials(store: &SharedStore) -> Vec<Credential> {
    let all = store.list_all(TypedQuery::<Credential>::new()).await.unwrap();
    all.into_iter().map(|credential| credential.record).collect()
}

/// Kind, id and body of all records, except those that a restore makes anew.
async fn contents(client: &Client) -> Vec<(String, String, String)> {
    let mut all = Vec::new();
    for kind in record_kinds().iter().filter(|kind| !["kek_fence", "backup"].contains(&kind.name())) {
        let mut query = raw_query(kind.name());
        loop {
            let page = client.store().query(&query).await.unwrap();
            let entries = page.records.iter();
            all.extend(entries.map(|raw| (kind.name().to_owned(), raw.id.clone(), raw.body.to_string())));
            match page.next {
                Some(next) => query.after = Some(next),
                None => break,
            }
        }
    }
    all
}

fn raw_query(kind: &'static str) -> Query {
    let mut query = TypedQuery::<Credential>::new().limit(PAGE_MAX).into_raw().unwrap();
    query.kind = kind;
    query
}
