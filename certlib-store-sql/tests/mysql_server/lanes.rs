use std::time::Duration;

use certlib_core::lock::{LeaderLock, LeaseRequest};
use certlib_core::queue::{ClaimRequest, Extension, JobQueue, Lane, NewJob, Outcome, Settlement};
use certlib_core::store::{Store, StoreExt};
use certlib_testkit::process::{START_LIMIT, poll_until};
use certlib_testkit::require;
use serde_json::Value;

use crate::mysql_support::{Database, raw};
use crate::support::Item;

const LEASE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_that_is_stuck_delays_no_other() {
    let database = require!(Database::fresh().await);
    let store = database.open().await;
    let stuck = store.lane(Lane::Distribution).unwrap();
    let free = store.lane(Lane::Notification).unwrap();
    store.insert(Item::new("locked", 1)).await.unwrap();
    let notify = || NewJob::new("tell", Lane::Notification, Value::Null);
    let running = {
        store.enqueue(vec![NewJob::new("put", Lane::Distribution, Value::Null)]).await.unwrap();
        stuck.claim(&ClaimRequest::new(Lane::Distribution, "worker", 1, LEASE)).await.unwrap().remove(0)
    };

    let mut other = raw(&database.url).await;
    sqlx::raw_sql("BEGIN; SELECT * FROM certlib_records FOR UPDATE").execute(&mut other).await.unwrap();
    let blocked: Vec<_> = (0..8)
        .map(|n| {
            let stuck = stuck.clone();
            tokio::spawn(async move {
                let mut item = stuck.load::<Item>("locked").await?;
                item.number = n;
                stuck.update(&mut item).await
            })
        })
        .collect();
    let waiting = format!(
        "SELECT COUNT(*) FROM information_schema.processlist WHERE db = '{}' AND info LIKE '%certlib_records%UPDATE'",
        database.name
    );
    poll_until("all connections of the lane are taken", START_LIMIT, async || {
        (database.server.sql(&waiting).await.ok()?.trim() == "4").then_some(())
    })
    .await
    .unwrap();

    let quickly = Duration::from_secs(2);
    let others = async {
        free.enqueue(vec![notify()]).await.unwrap();
        let job = free.claim(&ClaimRequest::new(Lane::Notification, "w", 1, LEASE)).await.unwrap().remove(0);
        let done = Settlement { claim: job.claim(), outcome: Outcome::Succeeded, duration: LEASE };
        assert_eq!(free.settle(vec![done]).await.unwrap(), [true]);
        let lease = store.acquire(&LeaseRequest::new("scheduler", "n", "n", LEASE)).await.unwrap().unwrap();
        assert!(store.renew(&lease, LEASE).await.unwrap());
        // The heartbeat of the stuck lane itself.
        let held = stuck.extend(&[running.claim()], LEASE).await.unwrap();
        assert!(matches!(held[..], [Extension::Held { cancel_requested: false }]));
    };
    tokio::time::timeout(quickly, others).await.expect("nothing else waits");
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    let mut updated = 0;
    for task in blocked {
        updated += usize::from(task.await.unwrap().is_ok());
    }
    assert!(updated >= 1, "the lane goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_enqueues_wakes_the_workers_of_every_view() {
    let database = require!(Database::fresh().await);
    let store = database.open().await;
    let lane = store.lane(Lane::Issuance).unwrap();
    let mut wakeups = lane.wakeups();
    wakeups.borrow_and_update();
    store.enqueue(vec![NewJob::new("later", Lane::Issuance, Value::Null).with_delay(LEASE)]).await.unwrap();
    assert!(!wakeups.has_changed().unwrap(), "nothing is due");
    store.enqueue(vec![NewJob::new("now", Lane::Issuance, Value::Null)]).await.unwrap();
    assert!(wakeups.has_changed().unwrap());
    assert_eq!(lane.claim(&ClaimRequest::new(Lane::Issuance, "w", 9, LEASE)).await.unwrap().len(), 1);
}
