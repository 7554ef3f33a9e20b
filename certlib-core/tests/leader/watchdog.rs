//! A sweep that blocks its thread: real threads, real time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use certlib_core::Result;
use certlib_core::clock::SystemClock;
use certlib_core::lock::LeaderLock as _;
use certlib_core::memory::MemoryStore;
use certlib_core::model::Event;
use certlib_core::runtime::{Role, RunningRuntime, Runtime};
use certlib_core::scheduler::{LEASE, Leadership, Sweep, SweepContext, TermEnd};
use certlib_core::secret::{Keyring, KeyringEnvelope};
use serde_json::json;

const TTL: Duration = Duration::from_secs(1);

/// Blocks its thread until it is let go.
#[derive(Debug, Default)]
struct Blocking {
    seen: Arc<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    let_go: AtomicBool,
    context: Mutex<Option<SweepContext>>,
    begun: Mutex<Option<Instant>>,
    over: Mutex<Option<Instant>>,
    cancelled: Mutex<Option<Instant>>,
    late_commit: Mutex<Option<String>>,
}

#[async_trait]
impl Sweep for Blocking {
    fn name(&self) -> &'static str {
        "blocking"
    }

    async fn run(&self, cx: &SweepContext) -> Result<usize> {
        *self.seen.context.lock().unwrap() = Some(cx.clone());
        *self.seen.begun.lock().unwrap() = Some(Instant::now());
        let patience = Instant::now() + 10 * TTL;
        while !self.seen.let_go.load(Ordering::SeqCst) && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(2));
            let now = Instant::now();
            if !cx.gate().is_open() {
                self.seen.over.lock().unwrap().get_or_insert(now);
            }
            if cx.cancel.is_cancelled() {
                self.seen.cancelled.lock().unwrap().get_or_insert(now);
            }
        }
        let event = Event::new("shop", "swept", "x", json!({}), cx.clock.now());
        let error = cx.commit(cx.batch().insert(&event)?).await.unwrap_err();
        *self.seen.late_commit.lock().unwrap() = Some(error.code().to_owned());
        Ok(0)
    }
}

struct Stuck {
    node: RunningRuntime,
    store: Arc<MemoryStore>,
    seen: Arc<Seen>,
    told: Arc<Mutex<Vec<(Leadership, Instant)>>>,
    epochs: Arc<Mutex<Vec<u64>>>,
}

fn start() -> Stuck {
    let clock = SystemClock::shared();
    let store = Arc::new(MemoryStore::new(clock.clone()));
    let sweep = Blocking::default();
    let (seen, told) = (sweep.seen.clone(), Arc::new(Mutex::new(Vec::new())));
    let epochs = Arc::new(Mutex::new(Vec::new()));
    let node = Runtime::builder(store.clone(), Arc::new(KeyringEnvelope::new(Keyring::generate().unwrap())))
        .clock(clock)
        .settings(|settings| {
            settings.roles = vec![Role::Scheduler];
            (settings.leader_ttl, settings.leader_heartbeat) = (TTL, TTL / 5);
            settings.leader_poll = TTL / 20;
        })
        .on_leadership({
            let told = told.clone();
            move |what| told.lock().unwrap().push((what.clone(), Instant::now()))
        })
        .on_leadership(|_| panic!("a callback that fails keeps nobody from being told"))
        .on_leadership_stuck({
            let epochs = epochs.clone();
            move |epoch| epochs.lock().unwrap().push(epoch)
        })
        .sweep(sweep)
        .build()
        .unwrap()
        .start();
    Stuck { node, store, seen, told, epochs }
}

async fn until(mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "it did not happen within 20 s");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The sweep holds the only thread of the executor, so nothing that runs there can act.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_gate_closes_and_the_host_is_told_even_if_the_executor_is_blocked() {
    let Stuck { node, store, seen, told, epochs } = start();
    until(|| !epochs.lock().unwrap().is_empty()).await;
    assert_eq!(*epochs.lock().unwrap(), [1]);
    assert!(!seen.let_go.load(Ordering::SeqCst) && !node.is_leader());
    let stuck_at = told.lock().unwrap().iter().find(|(what, _)| *what == Leadership::Stuck { epoch: 1 }).unwrap().1;
    let (begun, over) = (seen.begun.lock().unwrap().unwrap(), seen.over.lock().unwrap().unwrap());
    let cancelled = seen.cancelled.lock().unwrap().unwrap();
    assert!(over - begun <= TTL.mul_f64(0.75), "{:?}", over - begun);
    assert!(cancelled >= over && stuck_at > cancelled);
    assert!(stuck_at - begun >= TTL.mul_f64(0.6), "{:?}", stuck_at - begun);

    seen.let_go.store(true, Ordering::SeqCst);
    until(|| told.lock().unwrap().iter().any(|(what, _)| matches!(what, Leadership::Ended { .. }))).await;
    assert_eq!(seen.late_commit.lock().unwrap().as_deref(), Some("lease_lost"));
    assert!(seen.context.lock().unwrap().as_ref().unwrap().is_over());
    // Its lease expires, and the node could have it back many times over: it does not stand again.
    until(|| store_is_free(&store)).await;
    tokio::time::timeout(TTL / 2, until(|| node.is_leader())).await.unwrap_err();
    let lease = store.inspect(LEASE).await.unwrap().unwrap();
    assert!(lease.epoch == 1 && !lease.released, "{lease:?}");
    node.shutdown().await;
}

/// With a thread to spare the node can even stop, but does not give back what its work may still rely on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_does_not_wait_for_ever_and_keeps_the_lease() {
    let Stuck { node, store, seen, told, epochs } = start();
    until(|| seen.begun.lock().unwrap().is_some()).await;
    node.shutdown().await;
    assert!(!seen.let_go.load(Ordering::SeqCst));
    assert_eq!(*epochs.lock().unwrap(), [1]);
    let ended = Leadership::Ended { epoch: 1, why: TermEnd::Stopped };
    assert_eq!(told.lock().unwrap().last().unwrap().0, ended);
    assert!(!store.inspect(LEASE).await.unwrap().unwrap().released);
    seen.let_go.store(true, Ordering::SeqCst);
    until(|| seen.late_commit.lock().unwrap().is_some()).await;
}

fn store_is_free(store: &MemoryStore) -> bool {
    use futures::FutureExt as _;
    let lease = store.inspect(LEASE).now_or_never().unwrap().unwrap().unwrap();
    lease.remaining.is_zero()
}
