//! Records: one write primitive, all or nothing.

use super::StoreHarness;
use super::fixture::{Fixture, Item, Other, Undeclared, assert_code, at_once, job};
use crate::queue::JobFilter;
use crate::store::{StoreExt, TypedQuery, Versioned, WriteBatch};

/// A record is read back byte for byte; one that is not there is not found.
pub async fn a_record_reads_as_it_was_written(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    for note in ["", "plain", "quote ' \" \\ % _ ; --", "é 🦀 \u{7f} \r\n\t", &"long ".repeat(20_000)] {
        let item = Item { note: note.to_owned(), ..Item::ranked("a/b:c'%\"$", "g", -7) };
        f.commit(WriteBatch::new().put(&item).unwrap()).await.unwrap();
        assert_eq!(f.item(&item.id).await, Some(item));
    }
    assert_eq!(f.item("absent").await, None);
    assert_code(f.load::<Item>("absent").await, "not_found");
}

/// A revision is 1 at first and grows by one with each put, also within one batch.
pub async fn a_revision_grows_by_one_with_each_put(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let mut item = f.insert(Item::new("a", "g")).await.unwrap();
    assert_eq!((item.revision, f.load::<Item>("a").await.unwrap().revision), (1, 1));
    for revision in 2..=5 {
        item.note = format!("{revision}");
        f.update(&mut item).await.unwrap();
        assert_eq!((item.revision, f.load::<Item>("a").await.unwrap().revision), (revision, revision));
    }
    let batch = WriteBatch::new().put(&item.record).unwrap().put(&Item::new("b", "g")).unwrap();
    let commit = f.commit(batch.put(&item.record).unwrap()).await.unwrap();
    assert_eq!(commit.revisions, [6, 1, 7]);
}

/// An insert over an existing record is a conflict.
pub async fn an_insert_needs_an_absent_record(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    f.insert(Item::new("a", "first")).await.unwrap();
    assert_code(f.insert(Item::new("a", "second")).await, "conflict");
    assert_eq!(f.item("a").await.unwrap().group, "first");
}

/// An update of something that was written, deleted or never there since is a conflict.
pub async fn a_stale_update_is_refused(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let mut mine = f.insert(Item::new("a", "g")).await.unwrap();
    let mut theirs = f.load::<Item>("a").await.unwrap();
    theirs.note = "theirs".to_owned();
    f.update(&mut theirs).await.unwrap();
    mine.note = "mine".to_owned();
    assert_code(f.update(&mut mine).await, "conflict");
    assert_eq!(mine.revision, 1, "a refused update leaves the caller's revision alone");
    assert_eq!(f.item("a").await.unwrap().note, "theirs");

    f.commit(WriteBatch::new().delete::<Item>("a")).await.unwrap();
    assert_code(f.update(&mut theirs).await, "conflict");
    let mut never = Versioned { record: Item::new("never", "g"), revision: 1 };
    assert_code(f.update(&mut never).await, "conflict");
    assert_eq!(f.item("never").await, None);
}

/// When one condition fails, nothing of the batch is seen: no write, no delete, no job.
pub async fn a_batch_is_applied_whole_or_not_at_all(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    f.insert(Item::new("kept", "g")).await.unwrap();
    f.insert(Item::new("taken", "g")).await.unwrap();
    let batch = || {
        WriteBatch::new().put(&Item::new("new", "h")).unwrap().delete::<Item>("kept").enqueue(job().with_key("once"))
    };
    assert_code(f.commit(batch().insert(&Item::new("taken", "h")).unwrap()).await, "conflict");
    assert_eq!(f.item("new").await, None);
    assert!(f.item("kept").await.is_some());
    assert!(f.list_all(TypedQuery::<Item>::new().equal("group", "h")).await.unwrap().is_empty());
    assert!(f.jobs(&JobFilter::default()).await.unwrap().is_empty());

    let commit = f.commit(batch().insert(&Item::new("free", "h")).unwrap()).await.unwrap();
    assert_eq!(commit.revisions, [1, 1]);
    assert!(!commit.jobs[0].deduplicated);
    assert_eq!(f.item("kept").await, None);
    assert_eq!(f.list_all(TypedQuery::<Item>::new().equal("group", "h")).await.unwrap().len(), 2);
    assert_eq!(f.jobs(&JobFilter::default()).await.unwrap().len(), 1);
}

/// Later writes of a batch win over earlier ones.
pub async fn writes_take_effect_in_order(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    f.commit(WriteBatch::new().put(&Item::new("a", "g")).unwrap().delete::<Item>("a")).await.unwrap();
    assert_eq!(f.item("a").await, None);
    f.commit(WriteBatch::new().put(&Item::new("b", "g")).unwrap()).await.unwrap();
    let commit = f.commit(WriteBatch::new().delete::<Item>("b").put(&Item::new("b", "h")).unwrap()).await.unwrap();
    assert_eq!(commit.revisions, [1], "a record that was deleted begins a new life");
    assert_eq!(f.item("b").await.unwrap().group, "h");
    assert!(f.list_all(TypedQuery::<Item>::new().equal("group", "g")).await.unwrap().is_empty());
}

/// A deleted record is found neither by id nor by its fields; deleting what is not there is fine.
pub async fn a_deleted_record_is_gone(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    f.insert(Item::ranked("a", "g", 1)).await.unwrap();
    f.commit(WriteBatch::new().delete::<Item>("a").delete::<Item>("absent")).await.unwrap();
    assert_eq!(f.item("a").await, None);
    assert!(f.list_all(TypedQuery::<Item>::new().equal("group", "g")).await.unwrap().is_empty());
    assert!(f.list_all(TypedQuery::<Item>::new().order_by("rank")).await.unwrap().is_empty());
    assert_eq!(f.insert(Item::new("a", "g")).await.unwrap().revision, 1);
}

/// The same id in two kinds is two records.
pub async fn kinds_do_not_mix(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    f.insert(Item::new("a", "g")).await.unwrap();
    assert!(f.find::<Other>("a").await.unwrap().is_none());
    f.insert(Other { id: "a".to_owned() }).await.unwrap();
    f.commit(WriteBatch::new().delete::<Item>("a")).await.unwrap();
    assert!(f.find::<Other>("a").await.unwrap().is_some());
    assert!(f.list_all(TypedQuery::<Item>::new()).await.unwrap().is_empty());
    assert_eq!(f.list_all(TypedQuery::<Other>::new()).await.unwrap().len(), 1);
}

/// Ids and index values out of bounds never reach the store; the largest that are allowed do.
pub async fn an_invalid_record_is_refused(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    for id in ["", "nul\0", "line\nbreak", &"x".repeat(201)] {
        assert_code(f.insert(Item::new(id, "g")).await, "record_invalid");
    }
    for group in [&*"x".repeat(301), "nul\0"] {
        assert_code(f.insert(Item::new("a", group)).await, "record_invalid");
    }
    assert_code(f.insert(Undeclared { id: "a".to_owned() }).await, "record_invalid");

    let largest = Item::new(&"é".repeat(100), &"é".repeat(150));
    f.insert(largest.clone()).await.unwrap();
    let found = f.list_all(TypedQuery::<Item>::new().equal("group", &*largest.group)).await.unwrap();
    assert_eq!(found[0].record, largest);
}

/// Eight writers that read, add one and write back reach the exact sum.
pub async fn concurrent_writers_lose_no_update(harness: &impl StoreHarness) {
    const WRITERS: usize = 8;
    const EACH: usize = 10;
    let f = Fixture::new(harness).await;
    f.insert(Item::ranked("sum", "g", 0)).await.unwrap();
    at_once(WRITERS, |_| {
        let store = f.store.clone();
        async move {
            let mut done = 0;
            while done < EACH {
                let mut sum = store.load::<Item>("sum").await.unwrap();
                sum.rank = sum.rank.map(|rank| rank + 1);
                match store.update(&mut sum).await {
                    Ok(()) => done += 1,
                    Err(error) => assert!(error.is_conflict(), "{error:?}"),
                }
            }
        }
    })
    .await;
    let sum = f.load::<Item>("sum").await.unwrap();
    let expected = WRITERS * EACH;
    assert_eq!((sum.rank, sum.revision), (i64::try_from(expected).ok(), expected as u64 + 1));
}
