use std::time::{Duration, Instant};

use certlib_core::error::codes;
use certlib_core::lock::{LeaderLock, Lease, LeaseRequest};
use certlib_core::store::{Condition, Store, WriteBatch};
use certlib_store_sql::{MysqlOptions, MysqlStore};
use certlib_testkit::counterpart::Mariadb;
use certlib_testkit::process::{START_LIMIT, poll_until};
use certlib_testkit::require;

use crate::mysql_support::{Database, secret};
use crate::support::{Process, child_database, say};

const TTL: Duration = Duration::from_secs(90);

/// Sessions that hold a lock of the server: those of leases.
const LEADERS: &str = "id IN (SELECT IS_USED_LOCK(CONCAT('certlib.', LEFT(SHA2(CONCAT_WS('/', 'lease', db, HEX(name), \
     epoch), 256), 48))) FROM certlib_leases)";

async fn take(store: &MysqlStore, holder: &str) -> Option<Lease> {
    store.acquire(&LeaseRequest::new("scheduler", holder, holder, TTL)).await.unwrap()
}

async fn kill_leader(database: &Database) {
    let wanted = LEADERS.replace("certlib_leases", &format!("{}.certlib_leases", database.name));
    database.kill(&wanted).await;
}

async fn writes(store: &MysqlStore, lease: &Lease) -> bool {
    match store.commit(WriteBatch::new().require(Condition::Lease(lease.clone()))).await {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.code(), codes::LEASE_LOST, "{error:?}");
            false
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_connection_died_is_replaced_at_once_and_fenced() {
    let database = require!(Database::fresh().await);
    let (one, two) = (database.open().await, database.open().await);
    // Of a lease from its first moments a server does not tell early that its holder is gone.
    up_for_a_while(&database.server).await;
    let first = take(&one, "one").await.unwrap();
    assert_eq!(take(&two, "two").await, None);
    kill_leader(&database).await;
    let asked = Instant::now();
    let second = poll_until("the takeover", START_LIMIT, async || take(&two, "two").await).await.unwrap();
    assert!(asked.elapsed() < TTL / 2, "long before the lease ended");
    assert_eq!(second.epoch, first.epoch + 1);
    assert!(!writes(&one, &first).await && writes(&two, &second).await);
    assert!(!one.renew(&first, TTL).await.unwrap());
    assert_eq!(take(&one, "one").await, None, "the new one has its lock");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_lives_takes_its_lock_again() {
    let database = require!(Database::fresh().await);
    let (one, two) = (database.open().await, database.open().await);
    let lease = take(&one, "one").await.unwrap();
    for _ in 0..5 {
        kill_leader(&database).await;
        assert!(one.renew(&lease, TTL).await.unwrap());
        // The lock may have had to wait for the end of the connection before.
        poll_until("the lock", START_LIMIT, async || {
            assert!(one.renew(&lease, TTL).await.unwrap());
            is_locked(&database).await.then_some(())
        })
        .await
        .unwrap();
        assert_eq!(take(&two, "two").await, None);
    }
    kill_leader(&database).await;
    let same = one.acquire(&LeaseRequest::new("scheduler", "one", "one", TTL)).await.unwrap();
    assert_eq!(same, Some(lease.clone()), "repeating the request does it too");
    assert!(writes(&one, &lease).await);
    assert!(one.release(&lease).await.unwrap());
    assert!(take(&two, "two").await.is_some());
}

/// Returns when the server has been up for a moment: it says only in whole seconds for how long.
async fn up_for_a_while(server: &Mariadb) {
    poll_until("a server that has been up for a while", START_LIMIT, async || {
        let uptime = server.sql("SHOW GLOBAL STATUS LIKE 'Uptime'").await.ok()?;
        (uptime.split_whitespace().last()?.parse::<u32>().ok()? >= 3).then_some(())
    })
    .await
    .unwrap();
}

/// Whether a connection of some leader holds the lock that tells others that it lives.
async fn is_locked(database: &Database) -> bool {
    let held = LEADERS.replace("certlib_leases", &format!("{}.certlib_leases", database.name));
    let sql = format!("SELECT id FROM information_schema.processlist WHERE db = '{}' AND {held}", database.name);
    !database.server.sql(&sql).await.unwrap().is_empty()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_leads_no_longer() {
    if let Some(url) = child_database() {
        let url = url.to_str().unwrap();
        let store =
            MysqlStore::connect(&secret(url), MysqlOptions::new().allow_unsafe_durability_for_tests()).await.unwrap();
        let lease = take(&store, "child").await.unwrap();
        say(&lease.epoch.to_string());
        return std::future::pending().await;
    }
    let database = require!(Database::fresh().await);
    let store = database.open().await;
    // Of a lease from its first moments a server does not tell early that its holder is gone.
    up_for_a_while(&database.server).await;
    for round in 1..=3_u64 {
        let test = "leases::a_killed_process_leads_no_longer";
        let mut child = Process::start(test, std::path::Path::new(&database.url));
        let epoch: u64 = child.next_line().unwrap().parse().unwrap();
        assert_eq!(take(&store, "parent").await, None, "round {round}");
        // Without its lock, which comes after the grant, nobody can tell that the leader died.
        poll_until("the lock", START_LIMIT, async || is_locked(&database).await.then_some(())).await.unwrap();
        child.kill();
        let killed = Instant::now();
        let mine = poll_until("the takeover", START_LIMIT, async || take(&store, "parent").await).await.unwrap();
        assert!(killed.elapsed() < TTL / 2);
        assert_eq!(mine.epoch, epoch + 1);
        assert!(store.release(&mine).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_the_server_ends_no_lease() {
    let mut server = require!(Mariadb::builder().option("innodb-flush-log-at-trx-commit", "2").start().await);
    let url = server.create_database("certlib").await.unwrap();
    let open = async || {
        MysqlStore::connect(&secret(&url), MysqlOptions::new().allow_unsafe_durability_for_tests()).await.unwrap()
    };
    let (one, two) = (open().await, open().await);
    let lease = take(&one, "one").await.unwrap();
    server.restart().await.unwrap();
    let refused = poll_until("an answer", START_LIMIT, async || {
        two.acquire(&LeaseRequest::new("scheduler", "two", "two", TTL)).await.ok()
    });
    assert_eq!(refused.await.unwrap(), None, "all locks are gone, which says nothing about the leader");
    assert!(one.renew(&lease, TTL).await.unwrap());
    assert_eq!(take(&two, "two").await, None);
    up_for_a_while(&server).await;
    assert!(one.renew(&lease, TTL).await.unwrap());
    one.close().await;
    let taken = poll_until("the takeover", START_LIMIT, async || take(&two, "two").await).await.unwrap();
    assert_eq!(taken.epoch, lease.epoch + 1, "and now it is told from a leader that went");
}
