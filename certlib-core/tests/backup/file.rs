//! What is in the file, and where it is put.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use aws_lc_rs::digest::{SHA256, digest};
use certlib_core::backup::{Progress, RestoreOptions, Stage};
use certlib_core::client::Client;
use certlib_core::model::{Event, Target};
use certlib_core::store::WriteBatch;
use certlib_core::{ErrorClass, Secret};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::io::AsyncWrite;

use crate::common::START;
use crate::{backup, check, client, contents, empty_store, keys, quiet, restore, shop};

#[tokio::test]
async fn any_tool_can_read_and_verify_it() {
    let client = shop(&keys(&[(1, 1)]), 3).await;
    let mut file = Vec::new();
    let (header, end) = client.backup(&mut file, &mut quiet()).await.unwrap();
    let text = std::str::from_utf8(&file).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["format"], &lines[0]["version"]), (&json!("certlib-backup"), &json!(1)));
    assert_eq!((&lines[0]["id"], &lines[0]["taken_at"]), (&json!(header.id), &json!("2027-01-01T00:00:00Z")));
    let last = lines.last().unwrap();
    assert_eq!(last["records"], json!(lines.len() - 2));
    let mut kinds = BTreeMap::<String, u64>::new();
    for line in &lines[1..lines.len() - 1] {
        *kinds.entry(line["kind"].as_str().unwrap().to_owned()).or_default() += 1;
        assert_eq!(line["id"], line["body"]["id"]);
        assert_eq!(line["revision"], json!(1));
    }
    assert_eq!((json!(kinds), kinds["credential"], kinds["project"]), (last["kinds"].clone(), 3, 1));
    assert_eq!(last["keks"], json!([{ "id": end.keks[0].id, "version": 1, "provider": "local", "envelopes": 3 }]));
    // head -c -77 FILE | sha256sum
    let covered = &file[..file.len() - 77];
    let sum: String = digest(&SHA256, covered).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(last["sha256"], json!(sum));
    assert_eq!(sum, end.sha256);
}

#[tokio::test]
async fn progress_ends_with_all_records_and_bytes() {
    let envelope = keys(&[(1, 1)]);
    let source = shop(&envelope, 450).await;
    let mut seen = Vec::new();
    let mut file = Vec::new();
    let (_, end) = source.backup(&mut file, &mut |progress: Progress| seen.push(progress)).await.unwrap();
    assert!(seen.len() > 3 && seen.is_sorted_by_key(|progress| (progress.records, progress.bytes)));
    assert_eq!(seen.last().unwrap().records, end.records);
    let mut stages = BTreeMap::new();
    let mut note = |progress: Progress| {
        stages.insert(format!("{:?}", progress.stage), (progress.records, progress.bytes));
    };
    let target = client(&empty_store(), &envelope);
    let mut input = io::Cursor::new(file.clone());
    target.restore(&mut input, &RestoreOptions::default(), &mut note).await.unwrap();
    let bytes = u64::try_from(file.len()).unwrap();
    assert_eq!(stages["Check"], (end.records, bytes));
    assert_eq!(stages["Restore"], (end.records - 1, bytes), "the state of the keyring comes last of all");
    assert_eq!(stages["Count"], (end.records - 1, 0));
    assert!(!stages.contains_key(&format!("{:?}", Stage::Backup)));
}

#[tokio::test]
async fn a_backup_is_accounted_for_until_it_is_forgotten() {
    let envelope = keys(&[(1, 1)]);
    let client = shop(&envelope, 2).await;
    let mut file = Vec::new();
    let (header, end) = client.backup(&mut file, &mut quiet()).await.unwrap();
    let kept = client.backups().await.unwrap();
    assert_eq!(kept.len(), 1);
    assert_eq!((&kept[0].id, kept[0].records, kept[0].taken_at), (&header.id, end.records, START));
    assert_eq!(kept[0].keks, [end.keks[0].kek()]);
    // The next one has the former in it, and the store restored from it keeps account of both.
    let second = backup(&client).await;
    let restored = crate::client(&empty_store(), &envelope);
    restore(&restored, &second).await.unwrap();
    assert_eq!(restored.backups().await.unwrap(), client.backups().await.unwrap());
    client.forget_backup(&header.id).await.unwrap();
    assert_eq!(client.forget_backup(&header.id).await.unwrap_err().code(), "not_found");
    assert_eq!(client.backups().await.unwrap().len(), 1);
}

/// Takes so many bytes and then fails.
struct Full(usize);

impl AsyncWrite for Full {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.0 == 0 {
            return Poll::Ready(Err(io::ErrorKind::StorageFull.into()));
        }
        let taken = self.0.min(bytes.len());
        self.0 -= taken;
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_full_disk_leaves_no_account_of_what_is_no_backup() {
    let client = shop(&keys(&[(1, 1)]), 1000).await;
    let length = backup(&client).await.len();
    let kept = client.backups().await.unwrap().len();
    // What is in the buffer is written only at the end.
    for room in [0, 100, length / 2] {
        let error = client.backup(&mut Full(room), &mut quiet()).await.unwrap_err();
        assert_eq!((error.code(), error.class()), ("io_failed", ErrorClass::IoPermanent));
        assert_eq!(client.backups().await.unwrap().len(), kept, "{room} bytes");
    }
    // The last line may have been written: better a record too many.
    client.backup(&mut Full(length - 1), &mut quiet()).await.unwrap_err();
    assert_eq!(client.backups().await.unwrap().len(), kept + 1);
}

#[tokio::test]
async fn a_file_is_private_whole_and_replaces_nothing_unasked() {
    let envelope = keys(&[(1, 1)]);
    let client = shop(&envelope, 3).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("certlib.backup");
    let (_, end) = client.backup_to(&path, false, &mut quiet()).await.unwrap();
    let file = std::fs::read(&path).unwrap();
    assert_eq!(check(&file, &envelope).await.unwrap().sha256, Some(end.sha256));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let error = client.backup_to(&path, false, &mut quiet()).await.unwrap_err();
    assert_eq!(error.code(), "backup_exists");
    assert_eq!(std::fs::read(&path).unwrap(), file);
    assert_eq!(client.backups().await.unwrap().len(), 1);
    client.backup_to(&path, true, &mut quiet()).await.unwrap();
    assert_ne!(std::fs::read(&path).unwrap(), file);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left lying about");
}

#[tokio::test]
async fn a_backup_needs_no_key() {
    let envelope = keys(&[(1, 1)]);
    let source = shop(&envelope, 2).await;
    let other = client(source.store(), &keys(&[(9, 9)]));
    let file = backup(&other).await;
    assert_eq!(check(&file, &envelope).await.unwrap().keks[0].opened, 2);
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), Just("\"}\n,\"body\":{\u{2028}\\".to_owned()), Just("{\"records\":1".to_owned())]
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::btree_map(text(), inner, 0..6).prop_map(Value::from_iter),
        ]
    })
}

fn id() -> impl Strategy<Value = String> {
    "[^\\pC]{1,20}".prop_filter("fits", |id| id.len() <= 100 && !id.chars().any(char::is_control))
}

async fn insert(client: &Client, records: &[(String, Value, u8)]) {
    let mut batch = WriteBatch::new();
    let mut ids = BTreeSet::new();
    for (id, data, what) in records {
        if !ids.insert((what % 2, id.clone())) {
            continue;
        }
        batch = match what % 2 {
            0 => {
                let mut event = Event::new("shop", "test", "subject", data.clone(), START);
                event.id.clone_from(id);
                batch.insert(&event).unwrap()
            }
            _ => {
                let target = Target {
                    approval: None,
                    window: None,
                    paused: false,
                    id: id.clone(),
                    project: "shop".to_owned(),
                    name: "t".to_owned(),
                    module: "m".to_owned(),
                    config: data.clone(),
                    location: Value::Null,
                    credential_id: None,
                    created_at: START,
                };
                batch.insert(&target).unwrap()
            }
        };
    }
    client.store().commit(batch).await.unwrap();
    let secret = Secret::new("\"secret\"".to_owned());
    client.create_project("shop").await.unwrap();
    client.create_credential("shop", "c", &secret).await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_record_comes_back_as_it_was(
        records in proptest::collection::vec((id(), json_value(), any::<u8>()), 0..30),
    ) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
            let envelope = keys(&[(1, 1)]);
            let source = client(&empty_store(), &envelope);
            insert(&source, &records).await;
            let file = backup(&source).await;
            let target = client(&empty_store(), &envelope);
            let report = restore(&target, &file).await.unwrap();
            assert!(report.checked.may_serve());
            assert_eq!(contents(&target).await, contents(&source).await);
            assert!(target.check_store(&mut quiet()).await.unwrap().may_serve());
            // A backup of the copy differs only in what it says of itself.
            let again = String::from_utf8(backup(&target).await).unwrap();
            let first = String::from_utf8(file).unwrap();
            let is_record = |line: &&str| line.starts_with("{\"kind\"") && !line.starts_with("{\"kind\":\"backup\"");
            assert!(again.lines().filter(is_record).eq(first.lines().filter(is_record)));
        });
    }
}
