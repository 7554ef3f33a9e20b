//! Connections that break, are full, or stall; and what other processes hear and see.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "postgres_support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use certlib_core::error::codes;
use certlib_core::lock::{LeaderLock, Lease, LeaseRequest};
use certlib_core::queue::{ClaimRequest, JobQueue, JobState, Lane, NewJob, Outcome, Settlement};
use certlib_core::store::{Condition, Store, StoreExt, WriteBatch};
use certlib_store_sql::PostgresStore;
use certlib_testkit::counterpart::Postgres;
use futures::future::join_all;
use sqlx::Connection;

use self::support::{Item, assert_intact, database, eventually, execute, job, number, open, options, raw, secret};

const LEASE: Duration = Duration::from_secs(60);
const TTL: Duration = Duration::from_secs(90);
/// Far below the TTL, far above what a busy machine needs.
const SOON: Duration = Duration::from_secs(20);

async fn take(store: &PostgresStore, holder: &str) -> Option<Lease> {
    store.acquire(&LeaseRequest::new("leader", holder, holder, TTL)).await.unwrap()
}

fn done(job: &certlib_core::queue::Job) -> Settlement {
    Settlement { claim: job.claim(), outcome: Outcome::Succeeded, duration: Duration::ZERO }
}

fn claim(lane: Lane, limit: usize) -> ClaimRequest {
    ClaimRequest::new(lane, "worker", limit, LEASE)
}

/// Ends the sessions of a database, except its own.
const TERMINATE: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_outlives_a_restart_of_its_server() {
    if support::left_out().await {
        return;
    }
    let mut server = Postgres::builder().durable().start().await.unwrap();
    let store = PostgresStore::connect(&secret(&server.url()), options()).await.unwrap();
    let lease = take(&store, "one").await.unwrap();
    let mut item = store.insert(Item::new("a", 1)).await.unwrap();
    let mut wakeups = store.wakeups();
    for round in 0..2 {
        if round == 0 {
            server.restart().await.unwrap();
        } else {
            server.kill();
            server.resume().await.unwrap();
        }
        item.number += 1;
        store.update(&mut item).await.unwrap();
        assert_eq!(store.load::<Item>("a").await.unwrap().number, item.number);
        assert!(store.renew(&lease, TTL).await.unwrap(), "nobody took it meanwhile");
    }
    // Whoever listens does so again.
    wakeups.borrow_and_update();
    let other = PostgresStore::connect(&secret(&server.url()), options()).await.unwrap();
    eventually("hearing again", async || {
        other.enqueue(vec![job()]).await.unwrap();
        wakeups.has_changed().unwrap().then_some(())
    })
    .await;
}

/// Sessions are ended all the time; jobs go on to be claimed and settled, each exactly once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_goes_on_while_sessions_are_terminated() {
    if support::left_out().await {
        return;
    }
    let url = database().await;
    let store = open(&url).await;
    let jobs: Vec<NewJob> = (0..400).map(|_| job()).collect();
    store.enqueue(jobs).await.unwrap();
    let (stop, struck) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let terminator = tokio::spawn({
        let (url, stop, struck) = (url.clone(), stop.clone(), struck.clone());
        async move {
            let mut connection = raw(&url).await;
            while !stop.load(Ordering::Relaxed) {
                let ended = number(&mut connection, TERMINATE).await;
                struck.fetch_add(usize::try_from(ended).unwrap(), Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(15)).await;
            }
        }
    });
    let settled = AtomicUsize::new(0);
    // A claim whose answer was lost belongs to nobody: it is not reaped here, so those jobs remain.
    let worker = async || {
        while struck.load(Ordering::Relaxed) < 60 || settled.load(Ordering::Relaxed) < 100 {
            let claimed = match store.claim(&claim(Lane::Issuance, 2)).await {
                Ok(claimed) if claimed.is_empty() => break,
                Ok(claimed) => claimed,
                Err(error) => {
                    assert!(error.class().is_retryable(), "{error:?}");
                    continue;
                }
            };
            match store.settle(claimed.iter().map(done).collect()).await {
                Ok(accepted) => drop(settled.fetch_add(accepted.iter().filter(|yes| **yes).count(), Ordering::Relaxed)),
                Err(error) => assert!(error.class().is_retryable(), "{error:?}"),
            }
        }
    };
    join_all((0..4).map(|_| worker())).await;
    stop.store(true, Ordering::Relaxed);
    terminator.await.unwrap();
    assert!(struck.load(Ordering::Relaxed) > 20, "sessions were ended");
    let mut connection = raw(&url).await;
    let all = number(&mut connection, "SELECT count(*) FROM certlib_jobs").await;
    let succeeded = number(&mut connection, "SELECT count(*) FROM certlib_jobs WHERE state = 'succeeded'").await;
    let counted = i64::try_from(settled.load(Ordering::Relaxed)).unwrap();
    assert!(all == 400 && succeeded >= counted && counted >= 50, "{all} {succeeded} {counted}");
    let twice = number(&mut connection, "SELECT count(*) FROM certlib_jobs WHERE claim_epoch > 1").await;
    assert_eq!(twice, 0, "no job was claimed twice within its lease");
    connection.close().await.unwrap();
    eventually("a calm store", async || store.stats().await.ok()).await;
    assert_intact(&url).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_of_others_are_no_trouble() {
    if support::left_out().await {
        return;
    }
    let url = database().await;
    let idle = join_all((0..300).map(|_| raw(&url))).await;
    let store = open(&url).await;
    store.enqueue((0..50).map(|_| job()).collect()).await.unwrap();
    let claimed = store.claim(&claim(Lane::Issuance, 50)).await.unwrap();
    assert_eq!(store.settle(claimed.iter().map(done).collect()).await.unwrap(), [true; 50]);
    let mut connection = raw(&url).await;
    let ours = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                AND application_name = 'certlib'";
    assert!(number(&mut connection, ours).await <= 4 + 2, "and it takes few itself");
    drop(idle);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_server_is_an_error_that_passes() {
    if support::left_out().await {
        return;
    }
    let server = Postgres::builder().setting("max_connections", "12").start().await.unwrap();
    let hasty = options().with_connect_timeout(Duration::from_secs(1));
    let store = PostgresStore::connect(&secret(&server.url()), hasty).await.unwrap();
    let mut hogs = Vec::new();
    while let Ok(hog) = sqlx::postgres::PgConnection::connect(&server.url()).await {
        hogs.push(hog);
    }
    let lane = store.lane(Lane::Discovery).unwrap();
    let error = lane.insert(Item::new("a", 1)).await.unwrap_err();
    assert!(error.class().is_retryable() && error.code() == "no_connection", "{error:?}");
    drop(hogs);
    eventually("room", async || lane.insert(Item::new("a", 1)).await.ok()).await;
}

/// Another process hears of a job, however it became due.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_processes_hear_of_jobs() {
    if support::left_out().await {
        return;
    }
    let url = database().await;
    let (here, there) = (open(&url).await, open(&url).await);
    let stranger = open(&database().await).await;
    let (mut heard, unheard) = (there.wakeups(), stranger.wakeups());
    let mut hear = async |what: &str| {
        let told = tokio::time::timeout(SOON, heard.changed()).await;
        told.unwrap_or_else(|_| panic!("{what} was not heard")).unwrap();
        heard.borrow_and_update();
    };
    here.enqueue(vec![job()]).await.unwrap();
    hear("an enqueue").await;
    here.commit(WriteBatch::new().enqueue(job().with_key("k"))).await.unwrap();
    hear("a commit").await;
    here.enqueue(vec![job().with_key("late").with_delay(TTL), job().with_key("later").with_delay(TTL)]).await.unwrap();
    here.enqueue(vec![job().with_key("late"), job().with_key("k")]).await.unwrap();
    hear("a hurried job").await;
    let claimed = here.claim(&claim(Lane::Issuance, 100)).await.unwrap();
    assert_eq!(claimed.len(), 3);
    let error = certlib_core::error::Error::network("t", "c", "m").to_record();
    let retry = Settlement { outcome: Outcome::Retry { error, delay: Duration::ZERO }, ..done(&claimed[0]) };
    assert_eq!(here.settle(vec![retry]).await.unwrap(), [true]);
    hear("a retry").await;
    assert!(!unheard.has_changed().unwrap(), "another database hears nothing");

    // One call, one message: and nothing is said of what is not due.
    let mut listener = sqlx::postgres::PgListener::connect(&url).await.unwrap();
    listener.listen("certlib_jobs").await.unwrap();
    here.enqueue(vec![job().with_delay(TTL)]).await.unwrap();
    here.enqueue((0..50).map(|_| job()).collect()).await.unwrap();
    let keyed = (0..50).map(|n| job().with_key(format!("key-{n}"))).collect();
    here.enqueue(keyed).await.unwrap();
    execute(&mut raw(&url).await, "NOTIFY certlib_jobs, 'end'").await;
    let mut messages = 0;
    while listener.recv().await.unwrap().payload() != "end" {
        messages += 1;
    }
    assert_eq!(messages, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn candidates_in_other_processes_hear_of_a_release() {
    if support::left_out().await {
        return;
    }
    let url = database().await;
    let (here, there) = (open(&url).await, open(&url).await);
    let lease = take(&here, "one").await.unwrap();
    assert_eq!(take(&there, "two").await, None);
    let mut vacancies = there.vacancies();
    vacancies.borrow_and_update();
    assert!(here.release(&lease).await.unwrap());
    tokio::time::timeout(SOON, vacancies.changed()).await.expect("it is told").unwrap();
    assert_eq!(take(&there, "two").await.unwrap().epoch, lease.epoch + 1);
}

/// The database knows when the leader's session is gone. Who only lost its connection is fenced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_session_is_gone_is_replaced_before_its_lease_ends() {
    if support::left_out().await {
        return;
    }
    let url = database().await;
    let (leader, candidate) = (open(&url).await, open(&url).await);
    let lease = take(&leader, "one").await.unwrap();
    assert!(leader.renew(&lease, TTL).await.unwrap());
    assert_eq!(take(&candidate, "two").await, None, "while it lives, nobody gets it");

    let begun = Instant::now();
    let mut connection = raw(&url).await;
    let session = "SELECT count(pg_terminate_backend(backend_pid)) FROM certlib_leases";
    assert_eq!(number(&mut connection, session).await, 1);
    let successor = eventually("a successor", async || take(&candidate, "two").await).await;
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    assert_eq!(successor.epoch, lease.epoch + 1);

    let write =
        |lease: &Lease| WriteBatch::new().require(Condition::Lease(lease.clone())).put(&Item::new("a", 1)).unwrap();
    assert_eq!(leader.commit(write(&lease)).await.unwrap_err().code(), codes::LEASE_LOST);
    assert!(!leader.renew(&lease, TTL).await.unwrap());
    assert!(!leader.release(&lease).await.unwrap());
    candidate.commit(write(&successor)).await.unwrap();
    assert_eq!(take(&leader, "one").await, None);
}

/// Who is quick enough to renew over a new session keeps the lease.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_registers_a_new_session() {
    if support::left_out().await {
        return;
    }
    let url = database().await;
    let (leader, candidate) = (open(&url).await, open(&url).await);
    let lease = take(&leader, "one").await.unwrap();
    let mut connection = raw(&url).await;
    for _ in 0..3 {
        let session = "SELECT count(pg_terminate_backend(backend_pid, 10000)) FROM certlib_leases";
        assert_eq!(number(&mut connection, session).await, 1);
        assert!(leader.renew(&lease, TTL).await.unwrap());
        assert_eq!(take(&candidate, "two").await, None);
    }
    // Closing is not releasing, but the session is gone.
    leader.close().await;
    assert_eq!(eventually("a successor", async || take(&candidate, "two").await).await.epoch, lease.epoch + 1);
    assert_eq!(leader.renew(&lease, TTL).await.unwrap_err().code(), "store_closed");
}

/// A leader's write keeps others from being granted the lease until it is done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_takeover_waits_for_the_write_in_flight() {
    if support::left_out().await {
        return;
    }
    let url = database().await;
    let store = open(&url).await;
    let lease = take(&store, "one").await.unwrap();
    let mut writer = raw(&url).await;
    let mut tx = writer.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM certlib_leases WHERE name = 'leader' AND epoch = 1 FOR SHARE")
        .fetch_one(&mut *tx)
        .await
        .unwrap();
    let mut connection = raw(&url).await;
    let release = tokio::spawn({
        let (store, lease) = (store.clone(), lease.clone());
        async move { store.release(&lease).await.unwrap() }
    });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    eventually("the wait", async || (number(&mut connection, waits).await > 0).then_some(())).await;
    assert!(!release.is_finished());
    tx.commit().await.unwrap();
    assert!(release.await.unwrap());
}

/// Every connection of one lane is stuck behind a lock: the others, and heartbeats, do not notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stuck_lane_delays_no_other() {
    if support::left_out().await {
        return;
    }
    let url = database().await;
    let store = open(&url).await;
    let [stuck, free] = [Lane::Distribution, Lane::Issuance].map(|lane| store.lane(lane).unwrap());
    stuck.insert(Item::new("hot", 1)).await.unwrap();
    store.enqueue(vec![job(), NewJob::new("test_job", Lane::Distribution, serde_json::Value::Null)]).await.unwrap();
    let held = stuck.claim(&claim(Lane::Distribution, 1)).await.unwrap().remove(0);

    let mut locker = raw(&url).await;
    let mut tx = locker.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM certlib_records WHERE id = 'hot' FOR UPDATE").fetch_one(&mut *tx).await.unwrap();
    let blocked: Vec<_> = (0..12)
        .map(|_| {
            let stuck = stuck.clone();
            tokio::spawn(async move { stuck.commit(WriteBatch::new().put(&Item::new("hot", 2)).unwrap()).await })
        })
        .collect();
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    let mut connection = raw(&url).await;
    eventually("the jam", async || (number(&mut connection, waits).await == 4).then_some(())).await;

    let begun = Instant::now();
    let claimed = free.claim(&claim(Lane::Issuance, 1)).await.unwrap();
    assert_eq!(free.settle(vec![done(&claimed[0])]).await.unwrap(), [true]);
    assert!(matches!(
        stuck.extend(&[held.claim()], LEASE).await.unwrap()[..],
        [certlib_core::queue::Extension::Held { .. }]
    ));
    let lease = take(&store, "one").await.unwrap();
    assert!(store.renew(&lease, TTL).await.unwrap());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(blocked.iter().all(|task| !task.is_finished()), "the jam lasted");
    tx.commit().await.unwrap();
    for task in blocked {
        task.await.unwrap().unwrap();
    }
    assert_eq!(store.load::<Item>("hot").await.unwrap().revision, 13);
}

/// A condition that a record is absent holds until the commit, also when that record is not written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_commits_cannot_both_find_the_other_absent() {
    if support::left_out().await {
        return;
    }
    let store = open(&database().await).await;
    for round in 0..40 {
        let name = |side: &str| format!("{side}-{round}");
        let batch = |mine: &str, other: &str| {
            let absent = Condition::Record { kind: "item", id: name(other), revision: None };
            WriteBatch::new().require(absent).put(&Item::new(name(mine), 1)).unwrap()
        };
        let (left, right) = tokio::join!(store.commit(batch("left", "right")), store.commit(batch("right", "left")));
        let outcomes = [left.map(drop), right.map(drop)];
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
        assert!(outcomes.into_iter().flat_map(Result::err).all(|error| error.is_conflict()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_leaves_nothing_behind() {
    if support::left_out().await {
        return;
    }
    let url = database().await;
    let store = open(&url).await;
    store.enqueue((0..20).map(|n| job().with_key(n.to_string())).collect()).await.unwrap();
    let claimed = store.claim(&claim(Lane::Issuance, 15)).await.unwrap();
    store.settle(claimed.iter().map(done).collect()).await.unwrap();
    eventually("the end of them all", async || {
        store.purge(JobState::Succeeded, Duration::ZERO, 4).await.unwrap();
        (store.stats().await.unwrap().by_kind["test_job"].pending == 5
            && store.jobs(&certlib_core::queue::JobFilter::default()).await.unwrap().len() == 5)
            .then_some(())
    })
    .await;
    assert!(store.purge(JobState::Pending, Duration::ZERO, 100).await.unwrap().is_empty());
    assert_intact(&url).await;
}
