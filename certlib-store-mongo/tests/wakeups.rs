//! Hearing of other processes, and shares of the connections.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::time::Duration;

use bson::doc;
use certlib_core::lock::{LeaderLock, LeaseRequest};
use certlib_core::queue::{JobQueue, Lane, Outcome, Settlement};
use certlib_core::store::{Store, StoreExt, WriteBatch};
use certlib_store_mongo::{MongoOptions, MongoStore};
use certlib_testkit::counterpart::MongoReplicaSet;
use certlib_testkit::require;
use tokio::sync::watch;

use self::support::{Item, LEASE, fail_command, fail_nothing, fresh, job, open, request, set, success};

const SOON: Duration = Duration::from_secs(15);

async fn hears(receiver: &mut watch::Receiver<u64>, of: &str) {
    tokio::time::timeout(SOON, receiver.changed()).await.unwrap_or_else(|_| panic!("nobody heard of {of}")).unwrap();
}

/// Whatever makes a job due in one process wakes the workers of another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_hear_of_other_processes() {
    let Some(set) = set() else { return };
    let name = fresh();
    let (here, there) = (open(set, &name).await, open(set, &name).await);
    let mut wakeups = here.wakeups();
    there.enqueue(vec![job(), job().with_key("k")]).await.unwrap();
    hears(&mut wakeups, "an enqueue").await;
    there.commit(WriteBatch::new().put(&Item::new("a", 1)).unwrap().enqueue(job())).await.unwrap();
    hears(&mut wakeups, "a commit").await;
    let claimed = there.claim(&request(10)).await.unwrap();
    assert_eq!(claimed.len(), 3);
    let settle = |number: usize, outcome| {
        let claim = claimed[number].claim();
        Settlement { claim, outcome, duration: Duration::ZERO }
    };
    assert_eq!(there.settle(vec![settle(0, Outcome::Release)]).await.unwrap(), [true]);
    hears(&mut wakeups, "a release").await;
    assert!(there.enqueue(vec![job().with_key("k")]).await.unwrap()[0].deduplicated);
    assert_eq!(there.settle(vec![settle(1, Outcome::Succeeded)]).await.unwrap(), [true]);
    hears(&mut wakeups, "a job that runs again").await;
    there.cancel(&claimed[0].id).await.unwrap();
    there.retry(&claimed[0].id, Duration::ZERO).await.unwrap();
    hears(&mut wakeups, "a retry").await;
    there.enqueue(vec![job().with_key("later").with_delay(LEASE)]).await.unwrap();
    there.enqueue(vec![job().with_key("later")]).await.unwrap();
    hears(&mut wakeups, "a job that was hurried").await;

    // What is not due wakes nobody. The last call is heard of after the others, and only once.
    wakeups.mark_unchanged();
    let before = *wakeups.borrow();
    there.enqueue(vec![job().with_delay(LEASE)]).await.unwrap();
    assert_eq!(there.settle(vec![success(&claimed[2])]).await.unwrap(), [true]);
    there.enqueue((0..50).map(|_| job()).collect()).await.unwrap();
    hears(&mut wakeups, "many jobs").await;
    assert_eq!(*wakeups.borrow_and_update(), before + 1);
    // Nor does a store hear its own calls twice.
    let own = *there.wakeups().borrow();
    here.enqueue(vec![job()]).await.unwrap();
    let mut others = there.wakeups();
    if *others.borrow_and_update() == own {
        hears(&mut others, "the other direction").await;
    }
    assert_eq!(*others.borrow(), own + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn candidates_hear_of_a_release_elsewhere() {
    let Some(set) = set() else { return };
    let name = fresh();
    let (here, there) = (open(set, &name).await, open(set, &name).await);
    let mut vacancies = here.vacancies();
    let lease = there.acquire(&LeaseRequest::new("leader", "there", "1", LEASE)).await.unwrap().unwrap();
    assert!(here.acquire(&LeaseRequest::new("leader", "here", "1", LEASE)).await.unwrap().is_none());
    assert!(!vacancies.has_changed().unwrap());
    assert!(there.release(&lease).await.unwrap());
    hears(&mut vacancies, "the release").await;
    let mine = here.acquire(&LeaseRequest::new("leader", "here", "1", LEASE)).await.unwrap().unwrap();
    assert!(mine.epoch > lease.epoch);
    there.raise("leader", 100).await.unwrap();
    hears(&mut vacancies, "the floor").await;
}

/// The stream is taken up again where it broke, when the primary changes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stream_survives_an_election() {
    let set = require!(MongoReplicaSet::start(3).await);
    let (here, there) = (open(&set, "certlib").await, open(&set, "certlib").await);
    let mut wakeups = here.wakeups();
    for round in 0..2 {
        set.step_down().await.unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while let Err(error) = there.enqueue(vec![job()]).await {
            assert!(error.class().is_retryable() && std::time::Instant::now() < deadline, "{error:?}");
        }
        hears(&mut wakeups, if round == 0 { "the first election" } else { "the second election" }).await;
    }
}

/// Calls of a lane that hang use up the lane's connections, and no others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_that_hangs_stops_nobody_else() {
    let set = require!(MongoReplicaSet::start(1).await);
    let options = MongoOptions::new().with_database("certlib").with_max_pool_size(8);
    let store =
        MongoStore::connect(&set.url().into(), options.with_operation_timeout(Duration::from_secs(4))).await.unwrap();
    store.insert(Item::new("a", 1)).await.unwrap();
    let lane = store.lane(Lane::Discovery).unwrap();
    let other = store.lane(Lane::Issuance).unwrap();
    // Nothing else here deletes.
    let hang = doc! { "failCommands": ["delete"], "blockConnection": true, "blockTimeMS": 5_000 };
    fail_command(&set, 0, 1000, hang).await;
    let stuck: Vec<_> = (0..20)
        .map(|_| {
            let lane = lane.clone();
            tokio::spawn(async move { lane.commit(WriteBatch::new().delete::<Item>("absent")).await })
        })
        .collect();
    // As soon as those that fit in hang, the lane is full.
    let full = async {
        loop {
            let read = tokio::time::timeout(Duration::from_millis(200), lane.get("item", "a")).await;
            if read.is_err() {
                break;
            }
        }
    };
    tokio::time::timeout(SOON, full).await.expect("the lane waits for itself");
    for _ in 0..20 {
        let quick = async {
            assert!(other.get("item", "a").await.unwrap().is_some());
            store.insert(Item::new(certlib_core::model::new_id(), 1)).await.unwrap();
            store.acquire(&LeaseRequest::new("leader", "node", "1", LEASE)).await.unwrap().unwrap();
        };
        tokio::time::timeout(Duration::from_secs(3), quick).await.expect("the others do not wait");
    }
    for stuck in stuck {
        let error = stuck.await.unwrap().unwrap_err();
        assert!(["timeout", "database_busy"].contains(&error.code()), "{error:?}");
        assert!(error.class().is_retryable());
    }
    fail_nothing(&set, 0).await;
    let free = async { while lane.get("item", "a").await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(30), free).await.expect("the lane is usable again");
}
