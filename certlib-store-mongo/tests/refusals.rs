#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bson::{Document, doc};
use certlib_core::clock::ManualClock;
use certlib_core::lock::{LeaderLock, LeaseRequest};
use certlib_core::queue::JobQueue;
use certlib_core::store::{Condition, Store, StoreExt, WriteBatch};
use certlib_core::{Effect, Error};
use certlib_store_mongo::{MongoOptions, MongoStore};
use certlib_testkit::counterpart::{MongoReplicaSet, Mongod};
use certlib_testkit::require;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use self::support::{Item, fail_command, fail_nothing, fresh, job, open, raw, request, set, success};

async fn refusal(url: &str) -> Error {
    let options = MongoOptions::new().with_database(fresh()).with_server_selection_timeout(Duration::from_secs(5));
    MongoStore::connect(&url.to_owned().into(), options).await.expect_err("should be refused")
}

#[track_caller]
fn assert_refused(error: &Error, code: &str, setting: &str, found: &str, needed: &str) {
    assert_eq!(error.code(), code, "{error:?}");
    let expected = [("setting", setting), ("found", found), ("needed", needed)];
    assert_eq!(error.context().collect::<Vec<_>>(), expected);
    assert!(!error.class().is_retryable() && error.effect() == Effect::None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weak_settings_in_the_connection_string_are_refused() {
    let Some(set) = set() else { return };
    for (option, code, setting, found, needed) in [
        ("w=1", "write_concern", "w", "1", "majority"),
        ("w=2", "write_concern", "w", "2", "majority"),
        ("w=0", "write_concern", "w", "0", "majority"),
        ("w=dc_east", "write_concern", "w", "dc_east", "majority"),
        ("journal=false", "journal", "journal", "false", "true"),
        ("w=majority&journal=false", "journal", "journal", "false", "true"),
        ("readPreference=secondary", "read_preference", "readPreference", "secondary", "primary"),
        ("readPreference=primaryPreferred", "read_preference", "readPreference", "primaryPreferred", "primary"),
        ("readPreference=secondaryPreferred", "read_preference", "readPreference", "secondaryPreferred", "primary"),
        ("readPreference=nearest", "read_preference", "readPreference", "nearest", "primary"),
        ("readConcernLevel=local", "read_concern", "readConcernLevel", "local", "majority"),
        ("readConcernLevel=available", "read_concern", "readConcernLevel", "available", "majority"),
    ] {
        let error = refusal(&format!("{}&{option}", set.url())).await;
        assert_refused(&error, code, setting, found, needed);
    }
    for option in ["w=majority&journal=true", "readPreference=primary", "readConcernLevel=majority"] {
        let options = MongoOptions::new().with_database(fresh());
        MongoStore::connect(&format!("{}&{option}", set.url()).into(), options).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_replication_is_refused() {
    let server = require!(Mongod::standalone().await);
    let error = refusal(&server.url()).await;
    let needed = "a replica set (one member is enough)";
    assert_refused(&error, "topology", "replication", "a server without replication", needed);
    let databases = server.command("admin", doc! { "listDatabases": 1, "nameOnly": true }).await.unwrap();
    assert!(!databases.to_string().contains("certlib"), "nothing was created: {databases}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secondary_is_refused() {
    let Some(set) = set() else { return };
    let secondary = (set.primary().await.unwrap() + 1) % 3;
    let error = refusal(&set.direct_url(secondary)).await;
    let needed = "a replica set (one member is enough)";
    assert_refused(&error, "topology", "replication", "a direct connection to a secondary", needed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_feature_compatibility_is_refused() {
    let set = require!(MongoReplicaSet::start(1).await);
    let server = set.primary().await.unwrap();
    let version = set.command(server, "admin", doc! { "buildInfo": 1 }).await.unwrap();
    let major: u32 = version.get_str("version").unwrap().split('.').next().unwrap().parse().unwrap();
    // The oldest that this server can be set to is 5.0, which will do; older ones are answered by a proxy below.
    let oldest = format!("{}.0", major - 1);
    let lower = doc! { "setFeatureCompatibilityVersion": oldest, "confirm": true };
    let lowered = match set.command(server, "admin", lower.clone()).await {
        Ok(_) => true,
        Err(_) => {
            let mut plain = lower;
            plain.remove("confirm");
            set.command(server, "admin", plain).await.is_ok()
        }
    };
    assert!(lowered);
    open(&set, "certlib").await;
}

/// Passes everything on to a server, and changes bytes of its answers.
async fn proxy(server: SocketAddr, change: fn(&mut [u8])) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(server).await.unwrap();
            let (mut client_reads, mut client_writes) = client.into_split();
            let (mut server_reads, mut server_writes) = server.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut client_reads, &mut server_writes).await });
            tokio::spawn(async move {
                // Whole messages, so that nothing to change is cut in two.
                while let Ok(length) = server_reads.read_i32_le().await {
                    let mut message = vec![0; usize::try_from(length).unwrap()];
                    message[..4].copy_from_slice(&length.to_le_bytes());
                    if server_reads.read_exact(&mut message[4..]).await.is_err() {
                        break;
                    }
                    change(&mut message);
                    if client_writes.write_all(&message).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    addr
}

/// Replaces what follows each `name` by `value`.
fn overwrite(message: &mut [u8], name: &[u8], value: &[u8]) {
    let places: Vec<usize> =
        message.windows(name.len()).enumerate().filter(|(_, part)| *part == name).map(|(at, _)| at).collect();
    for at in places {
        if let Some(place) = message.get_mut(at + name.len()..at + name.len() + value.len()) {
            place.copy_from_slice(value);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_are_too_old_or_live_in_another_time_are_refused() {
    let Some(set) = set() else { return };
    let primary = set.primary().await.unwrap();
    let addr = set.addrs()[primary];
    let through = async |change: fn(&mut [u8])| {
        let proxy = proxy(addr, change).await;
        refusal(&format!("mongodb://{proxy}/?directConnection=true")).await
    };
    // BSON: the type, the name, the value; a text begins with its length.
    let old = through(|message| overwrite(message, b"\x02version\0\x06\0\0\0", b"4.4.9\0")).await;
    assert_refused(&old, "server_version", "version", "4.4.9", "5.0");
    let lowered = through(|message| {
        overwrite(message, b"\x03featureCompatibilityVersion\0\x16\0\0\0\x02version\0\x04\0\0\0", b"4.4\0");
    });
    let lowered = lowered.await;
    assert_refused(&lowered, "feature_compatibility", "featureCompatibilityVersion", "4.4", "5.0");
    let memory = through(|message| overwrite(message, b"\x08persistent\0", b"\0")).await;
    assert_refused(&memory, "storage_engine", "storage.engine", "wiredTiger", "wiredTiger");
    // 1970.
    let skewed = through(|message| overwrite(message, b"\x09localTime\0", &[0; 8])).await;
    assert_eq!(skewed.code(), "clock_skew", "{skewed:?}");
    let context: Vec<_> = skewed.context().collect();
    assert_eq!((context[0], context[2]), (("setting", "the clock of the database"), ("needed", "at most 10 s")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passwords_are_shown_nowhere() {
    let secret = "s3cr3t-Pa55";
    for url in [
        format!("mongodb://certlib:{secret}@127.0.0.1:1/?replicaSet=rs0&serverSelectionTimeoutMS=100"),
        format!("mongodb://certlib:{secret}@127.0.0.1:port/"),
        format!("mongodb://certlib:{secret}@/"),
        format!("mongodb://certlib:{secret}@127.0.0.1/?w=1"),
        format!("mongodb://certlib:{secret}:{secret}@127.0.0.1/"),
        format!("postgres://certlib:{secret}@127.0.0.1/"),
        format!("mongodb://certlib:{secret}@127.0.0.1/?unknown={secret}&authMechanism={secret}"),
    ] {
        let options = MongoOptions::new().with_server_selection_timeout(Duration::from_millis(200));
        let error = MongoStore::connect(&url.into(), options).await.unwrap_err();
        assert!(!format!("{error} {error:?}").contains(secret), "{}", error.code());
    }
    let error = MongoStore::connect(&"mongodb://127.0.0.1/?unknown=1".to_owned().into(), MongoOptions::new())
        .await
        .unwrap_err();
    assert_eq!(error.code(), "url_invalid");
    let Some(set) = set() else { return };
    let store = open(set, &fresh()).await;
    assert!(format!("{store:?}").starts_with("MongoStore { database: \"certlib_test_"), "{store:?}");
    let wrong = set.url().replace("mongodb://", &format!("mongodb://certlib:{secret}@"));
    let error = MongoStore::connect(&wrong.into(), MongoOptions::new()).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (certlib_core::ErrorClass::Auth, "authentication_failed"));
    assert!(!format!("{error} {error:?}").contains(secret));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_databases_are_checked() {
    let Some(set) = set() else { return };
    for name in ["", "a b", "a.b", "$x", "a/b", "x\0", &"x".repeat(39)] {
        let options = MongoOptions::new().with_database(name);
        let error = MongoStore::connect(&set.url().into(), options).await.unwrap_err();
        assert_eq!(error.code(), "database_name_invalid", "{name:?}");
    }
}

/// A reply can say `ok` and still confess that the write is not safe.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_concern_error_is_never_read_as_success() {
    let set = require!(MongoReplicaSet::start(1).await);
    let primary = set.primary().await.unwrap();
    let clock = ManualClock::new(time::macros::datetime!(2027-01-01 00:00 UTC));
    let options = MongoOptions::new().with_clock(Arc::new(clock)).with_database("certlib");
    let store = MongoStore::connect(&set.url().into(), options).await.unwrap();
    let lease = |name: &str| LeaseRequest::new(name, "node", "nonce", Duration::from_secs(60));
    let held = store.acquire(&lease("held")).await.unwrap().unwrap();
    store.enqueue((0..3).map(|_| job()).collect()).await.unwrap();
    let running = store.claim(&request(1)).await.unwrap().remove(0);

    let unsafe_reply = |command: &str| {
        doc! {
            "failCommands": [command],
            "writeConcernError": { "code": 64, "codeName": "WriteConcernFailed", "errmsg": "waiting timed out" },
        }
    };
    let fail = async |command: &str| fail_command(&set, primary, 1, unsafe_reply(command)).await;
    let assert_unsafe = |error: Error| {
        assert_eq!((error.code(), error.effect()), ("write_concern_failed", Effect::Possible), "{error:?}");
        assert!(error.class().is_retryable());
    };

    fail("findAndModify").await;
    assert_unsafe(store.acquire(&lease("leader")).await.unwrap_err());
    fail("update").await;
    assert_unsafe(store.renew(&held, Duration::from_secs(60)).await.unwrap_err());
    fail("update").await;
    assert_unsafe(store.release(&held).await.unwrap_err());
    fail("findAndModify").await;
    assert_unsafe(store.claim(&request(1)).await.unwrap_err());
    fail("update").await;
    assert_unsafe(store.claim(&request(10)).await.unwrap_err());
    fail("update").await;
    assert_unsafe(store.settle(vec![success(&running)]).await.unwrap_err());
    fail("insert").await;
    assert_unsafe(store.enqueue(vec![job(), job()]).await.unwrap_err());
    fail("insert").await;
    assert_unsafe(store.insert(Item::new("a", 1)).await.unwrap_err());
    let mut record = store.insert(Item::new("b", 1)).await.unwrap();
    fail("update").await;
    assert_unsafe(store.update(&mut record).await.unwrap_err());
    assert_eq!(record.revision, 1);
    fail("delete").await;
    assert_unsafe(store.commit(WriteBatch::new().delete::<Item>("b")).await.unwrap_err());
    let two = || WriteBatch::new().put(&Item::new("c", 1)).unwrap().put(&Item::new("d", 1)).unwrap();
    let anew = store.acquire(&lease("another")).await.unwrap().unwrap();
    // A commit may be asked for again, so it succeeds if that does.
    fail("commitTransaction").await;
    store.commit(two()).await.unwrap();
    fail_command(&set, primary, 1000, unsafe_reply("commitTransaction")).await;
    assert_unsafe(store.commit(two()).await.unwrap_err());
    assert_unsafe(store.commit(two().require(Condition::Lease(anew))).await.unwrap_err());
    fail_nothing(&set, primary).await;
    store.commit(two()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_version_wrote_is_reported() {
    let Some(set) = set() else { return };
    let name = fresh();
    let store = open(set, &name).await;
    let id = store.enqueue(vec![job()]).await.unwrap().remove(0).id;
    let jobs = raw(set, &name).await.collection::<Document>("certlib_jobs");
    jobs.update_one(doc! { "_id": &id }, doc! { "$set": { "state": "dreaming" } }).await.unwrap();
    assert_eq!(store.job(&id).await.unwrap_err().code(), "row_unreadable");
}
