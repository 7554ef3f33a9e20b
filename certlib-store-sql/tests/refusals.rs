#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::Duration;

use certlib_core::error::{Effect, Error, ErrorClass};
use certlib_core::lock::{LeaderLock, LeaseRequest};
use certlib_core::queue::JobQueue;
use certlib_core::store::{Store, StoreExt, TypedQuery, WriteBatch};
use certlib_store_sql::{SqliteOptions, SqliteStore};
use futures::future::join_all;
use tempfile::TempDir;

use self::support::{Item, Process, assert_intact, child_database, job, open, raw, say};

async fn refused(path: &Path) -> Error {
    SqliteStore::open(path, SqliteOptions::new()).await.expect_err("should have been refused")
}

#[tokio::test]
async fn a_newer_schema_is_left_alone() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("certlib.db");
    open(&path).await.close().await;
    let mut connection = raw(&path).await;
    sqlx::query("INSERT INTO certlib_schema VALUES (99, 0)").execute(&mut connection).await.unwrap();
    let error = refused(&path).await;
    assert_eq!((error.code(), error.class()), ("schema_version", ErrorClass::IoPermanent));
    let context: Vec<_> = error.context().filter(|(key, _)| *key != "path").collect();
    assert_eq!(context, [("have", "99"), ("need", "1")]);
    sqlx::query("DELETE FROM certlib_schema WHERE version = 99").execute(&mut connection).await.unwrap();
    open(&path).await.insert(Item::new("a", 1)).await.unwrap();
}

#[tokio::test]
async fn only_databases_are_opened() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("text"), "-----BEGIN CERTIFICATE-----\n").unwrap();
    std::fs::write(path("noise"), (0..16_384_u32).map(|n| (n * 31 % 251) as u8).collect::<Vec<_>>()).unwrap();
    for name in ["text", "noise"] {
        let before = std::fs::read(path(name)).unwrap();
        let error = refused(&path(name)).await;
        assert_eq!((error.code(), error.class()), ("not_a_database", ErrorClass::IoPermanent), "{error:?}");
        assert_eq!(std::fs::read(path(name)).unwrap(), before, "and are not touched otherwise");
    }
    std::fs::write(path("empty"), "").unwrap();
    open(&path("empty")).await.insert(Item::new("a", 1)).await.unwrap();
}

#[tokio::test]
async fn a_damaged_database_is_refused() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("certlib.db");
    open(&path).await.close().await;
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[4096..].fill(0xff);
    std::fs::write(&path, bytes).unwrap();
    let error = refused(&path).await;
    assert_eq!((error.code(), error.class()), ("database_corrupt", ErrorClass::IoPermanent), "{error:?}");
}

#[tokio::test]
async fn a_path_that_cannot_be_is_named() {
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("file"), "").unwrap();
    for (path, code) in [
        (directory.path().join("missing/certlib.db"), "directory_missing"),
        (directory.path().join("file/certlib.db"), "path_invalid"),
        (directory.path().to_owned(), "path_invalid"),
        ("/".into(), "path_invalid"),
        ("".into(), "path_invalid"),
        // Nobody can create a file there, not even root.
        ("/proc/self/certlib.db".into(), "cannot_open"),
    ] {
        let error = refused(&path).await;
        assert_eq!((error.code(), error.class()), (code, ErrorClass::IoPermanent), "{error:?}");
        assert!(error.context().any(|(key, _)| key == "path"));
    }
    let missing = SqliteOptions::new().with_create(false);
    let error = SqliteStore::open(directory.path().join("certlib.db"), missing).await.unwrap_err();
    assert_eq!(error.code(), "database_missing");
    assert!(!directory.path().join("certlib.db").exists());
}

#[tokio::test]
async fn what_cannot_be_written_is_refused() {
    if let Some(directory) = child_database() {
        for name in ["new.db", "old.db"] {
            say(refused(&directory.join(name)).await.code());
        }
        return;
    }
    let directory = TempDir::new().unwrap();
    open(&directory.path().join("old.db")).await.close().await;
    let set_mode = |path: &Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    set_mode(&directory.path().join("old.db"), 0o444);
    set_mode(directory.path(), 0o555);
    // Permissions do not bind root: then somebody else tries.
    let root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    let said = Process::start_as("what_cannot_be_written_is_refused", directory.path(), |command| {
        if root {
            command.uid(65_534).gid(65_534);
        }
    })
    .finish();
    set_mode(directory.path(), 0o755);
    assert_eq!(said, ["cannot_open", "read_only"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_what_does_not_fit_and_nothing_else() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("certlib.db");
    let options = SqliteOptions::new().with_max_bytes(1024 * 1024);
    let store = SqliteStore::open(&path, options).await.unwrap();
    let error = store.insert(Item::sized("large", 2 * 1024 * 1024)).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("disk_full", ErrorClass::IoPermanent), "{error:?}");
    assert_eq!(error.effect(), Effect::None);

    // At the same time as others, which share its transaction and must not share its fate. Each deletes something
    // first, which must come back.
    let kept: Vec<_> = (0..40).map(|number| Item::new(format!("kept-{number}"), 0)).collect();
    let batch = kept.iter().fold(WriteBatch::new(), |batch, item| batch.put(item).unwrap());
    store.commit(batch).await.unwrap();
    let writes = (0..40_i64).map(|number| {
        let (store, large) = (store.clone(), number % 4 == 0);
        tokio::spawn(async move {
            let item = Item::sized(format!("{number}"), if large { 2 * 1024 * 1024 } else { 100 });
            let batch = WriteBatch::new().delete::<Item>(&format!("kept-{number}"));
            (large, store.commit(batch.insert(&item).unwrap()).await)
        })
    });
    for write in join_all(writes).await {
        let (large, result) = write.unwrap();
        match result {
            Ok(_) => assert!(!large),
            Err(error) => assert!(large && error.code() == "disk_full", "{error:?}"),
        }
    }
    let stored = store.list_all(TypedQuery::<Item>::new()).await.unwrap();
    let is_kept = |item: &Item| item.id.starts_with("kept-");
    assert_eq!(stored.iter().filter(|item| is_kept(item)).count(), 10, "those of the writes that failed");
    assert_eq!(stored.iter().filter(|item| !is_kept(item)).count(), 30);

    // Filled to the brim, it still reads, and deleting makes room again.
    let mut filled = 0;
    while store.insert(Item::sized(format!("fill-{filled}"), 20_000)).await.is_ok() {
        filled += 1;
        assert!(filled < 100, "the limit holds");
    }
    assert!(store.load::<Item>("fill-0").await.unwrap().text.len() == 20_000);
    let batch = (0..filled).fold(WriteBatch::new(), |batch, n| batch.delete::<Item>(&format!("fill-{n}")));
    store.commit(batch).await.unwrap();
    store.insert(Item::sized("again", 20_000)).await.unwrap();
    store.close().await;
    assert_intact(&path).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_database_is_a_passing_trouble() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("certlib.db");
    let options = SqliteOptions::new().with_busy_timeout(Duration::from_millis(50));
    let store = SqliteStore::open(&path, options).await.unwrap();
    store.insert(Item::new("before", 1)).await.unwrap();
    let mut other = raw(&path).await;
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let writes = join_all((0..3).map(|n| store.insert(Item::new(format!("during-{n}"), 1)))).await;
    for write in writes {
        let error = write.unwrap_err();
        assert_eq!((error.code(), error.class()), ("database_busy", ErrorClass::IoTransient), "{error:?}");
        assert_eq!(error.effect(), Effect::None);
    }
    assert_eq!(store.load::<Item>("before").await.unwrap().number, 1, "reads go on");
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    store.insert(Item::new("after", 1)).await.unwrap();
    assert!(store.find::<Item>("during-0").await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_share_a_transaction_are_answered_for_themselves() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory.path().join("certlib.db")).await;
    // Every id is inserted by four tasks: one of each may win.
    let writes = (0..400).map(|n| {
        let store = store.clone();
        tokio::spawn(async move {
            let batch = WriteBatch::new().insert(&Item::new(format!("{}", n % 100), n)).unwrap();
            let also = Item::new(format!("also-{n}"), n);
            store.commit(batch.put(&also).unwrap().enqueue(job().with_key(n.to_string()))).await.map(|_| n)
        })
    });
    let mut won = Vec::new();
    for write in join_all(writes).await {
        match write.unwrap() {
            Ok(number) => won.push(number),
            Err(error) => assert!(error.is_conflict(), "{error:?}"),
        }
    }
    assert_eq!(won.len(), 100);
    for number in &won {
        assert_eq!(store.load::<Item>(&(number % 100).to_string()).await.unwrap().number, *number);
        store.load::<Item>(&format!("also-{number}")).await.unwrap();
    }
    assert_eq!(store.list_all(TypedQuery::<Item>::new()).await.unwrap().len(), 200);
    assert_eq!(store.stats().await.unwrap().by_kind["test_job"].pending, 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_fails_halfway_leaves_no_trace_and_takes_nobody_with_it() {
    // How much SQLite itself undoes: the statement, nothing, or the whole transaction.
    for action in ["ABORT", "FAIL", "ROLLBACK"] {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("certlib.db");
        let store = open(&path).await;
        let mut other = raw(&path).await;
        let trigger = format!(
            "CREATE TRIGGER refuse BEFORE INSERT ON certlib_jobs WHEN NEW.project = 'refused'
             BEGIN SELECT RAISE({action}, 'refused'); END; BEGIN IMMEDIATE"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(trigger)).execute(&mut other).await.unwrap();
        let mut writes: Vec<_> = (0..40)
            .map(|n| {
                let batch = WriteBatch::new().insert(&Item::new(n.to_string(), n)).unwrap();
                store.commit(batch.enqueue(job().with_project(if n % 4 == 2 { "refused" } else { "" })))
            })
            .collect();
        // All are waiting before the first can begin, so that they share a transaction.
        for write in &mut writes {
            assert!(futures::poll!(write).is_pending());
        }
        sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
        for (n, result) in join_all(writes).await.into_iter().enumerate() {
            match result {
                Ok(_) => assert!(n % 4 != 2, "{n} {action}"),
                Err(error) => assert!(n % 4 == 2 && error.code() == "database_error", "{n} {action}: {error:?}"),
            }
            assert_eq!(store.find::<Item>(&n.to_string()).await.unwrap().is_some(), n % 4 != 2, "{n} {action}");
        }
        assert_eq!(store.stats().await.unwrap().by_kind["test_job"].pending, 30);
        store.close().await;
        assert_intact(&path).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_store_finishes_what_it_took_and_says_no_to_the_rest() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("certlib.db");
    let store = open(&path).await;
    let writes: Vec<_> = (0..50)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { store.insert(Item::new(n.to_string(), n)).await.map(drop) })
        })
        .collect();
    store.close().await;
    let mut kept = 0;
    for write in join_all(writes).await {
        match write.unwrap() {
            Ok(()) => kept += 1,
            Err(error) => assert_eq!((error.code(), error.effect()), ("store_closed", Effect::None), "{error:?}"),
        }
    }
    for error in [
        store.insert(Item::new("late", 1)).await.map(drop).unwrap_err(),
        store.find::<Item>("0").await.map(drop).unwrap_err(),
        store.acquire(&LeaseRequest::new("leader", "node", "", Duration::from_secs(1))).await.map(drop).unwrap_err(),
        store.stats().await.map(drop).unwrap_err(),
    ] {
        assert_eq!(error.code(), "store_closed", "{error:?}");
    }
    store.close().await;
    assert_eq!(open(&path).await.list_all(TypedQuery::<Item>::new()).await.unwrap().len(), kept);
}

#[tokio::test]
async fn it_lives_beside_other_tables() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("host.db");
    let mut host = sqlx::sqlite::SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    host = host.pragma("user_version", "42");
    let mut connection = sqlx::ConnectOptions::connect(&host).await.unwrap();
    sqlx::query("CREATE TABLE records (id TEXT)").execute(&mut connection).await.unwrap();
    let store = open(&path).await;
    store.insert(Item::new("a", 1)).await.unwrap();
    let row = sqlx::query("SELECT count(*) FROM records").fetch_one(&mut connection).await.unwrap();
    assert_eq!(sqlx::Row::get::<i64, _>(&row, 0), 0);
}
