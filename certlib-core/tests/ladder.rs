//! The ladder and the classes of failure, on the engine and against a model of their own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use certlib_core::backoff::Jitter;
use certlib_core::clock::{Clock as _, ManualClock};
use certlib_core::memory::MemoryStore;
use certlib_core::queue::{
    ClaimRequest, Job, JobQueue as _, JobState, Lane, Outcome, RetryPolicy, Settlement, after_failure,
};
use certlib_core::runtime::Role;
use certlib_core::store::Store as _;
use certlib_core::{Error, ErrorClass};
use futures::FutureExt as _;
use proptest::prelude::*;
use proptest::sample::select;
use time::OffsetDateTime;

use crate::common::jobs::{Act, job, tick};
use crate::common::{START, World};

const LADDER: [u64; 6] = [60, 300, 900, 3600, 14_400, 43_200];
const DAY: u64 = 86_400;

/// Runs a job that fails every time with what `failure` makes of the attempt's number; returns when it was started,
/// when it was to be started, and how it ended.
async fn run_to_the_end(
    failure: impl Fn(u32) -> Error + Send + Sync + 'static,
) -> (Vec<OffsetDateTime>, Vec<OffsetDateTime>, Job) {
    let world = World::new();
    let starts = Arc::new(Mutex::new(Vec::new()));
    let act = Act::new("fails", Lane::Notification, {
        let (clock, starts) = (world.clock.clone(), starts.clone());
        move |job, _| {
            starts.lock().unwrap().push(clock.now());
            let error = failure(job.attempt);
            async move {
                assert!(error.code() != "panic", "as it was asked to");
                Err(error)
            }
        }
    });
    let node =
        world.builder().handler(act).settings(|settings| settings.roles = vec![Role::Worker]).build().unwrap().start();
    let id = world.store.enqueue(vec![job("fails")]).await.unwrap().remove(0).id;
    let mut due = Vec::new();
    loop {
        tick(&world.clock, Duration::ZERO).await;
        let job = world.store.job(&id).await.unwrap().unwrap();
        if !job.state.is_active() {
            drop(node);
            let starts = starts.lock().unwrap().clone();
            return (starts, due, job);
        }
        if job.state == JobState::Pending && job.attempt > 0 && due.last() != Some(&job.run_at) {
            due.push(job.run_at);
        }
        // Long steps while it is far away, short ones near its time: it must not start early.
        let left = (job.run_at - world.clock.now()).whole_seconds();
        let step = if left > 10 { Duration::from_secs(left as u64 - 5) } else { Duration::from_millis(500) };
        tick(&world.clock, step).await;
    }
}

fn seconds(from: OffsetDateTime, to: OffsetDateTime) -> f64 {
    (to - from).as_seconds_f64()
}

#[tokio::test]
async fn seven_executions_on_the_ladder() {
    for class in [ErrorClass::Network, ErrorClass::IoTransient] {
        let (starts, due, job) = run_to_the_end(move |_| Error::new(class, "t", "down", "down")).await;
        assert_eq!((starts.len(), job.state, job.attempt), (7, JobState::DeadLetter, 7), "{class}");
        assert_eq!(due.len(), 6);
        for (step, wait) in LADDER.iter().enumerate() {
            let exact = *wait as f64;
            let failed_at = job.attempts[step].at;
            let wait = seconds(failed_at, due[step]);
            assert!(wait >= exact * 0.9 - 0.001 && wait <= exact * 1.1 + 0.001, "step {step}: {wait} s");
            assert!(starts[step + 1] >= due[step], "started before its time");
            assert!(seconds(due[step], starts[step + 1]) <= 2.0, "started late");
        }
        let sum = seconds(starts[0], starts[6]);
        let exact = LADDER.iter().sum::<u64>() as f64;
        assert_eq!(exact, (17.0 * 60.0 + 21.0) * 60.0);
        assert!((sum - exact).abs() <= exact * 0.1 + 12.0, "{sum} s");
    }
}

#[tokio::test]
async fn a_panic_is_a_failure_like_another() {
    let (starts, _, job) = run_to_the_end(|attempt| match attempt {
        1 | 2 => Error::transient("t", "panic", ""),
        _ => Error::auth("t", "refused", "no"),
    })
    .await;
    assert_eq!((starts.len(), job.state), (3, JobState::Failed));
    let first = &job.attempts[0].error;
    assert_eq!((first.class, &*first.operation, &*first.code), (ErrorClass::IoTransient, "worker.run", "panic"));
}

#[tokio::test]
async fn what_a_retry_cannot_mend_fails_at_once() {
    for class in [ErrorClass::Auth, ErrorClass::Validation, ErrorClass::IoPermanent] {
        let (starts, _, job) = run_to_the_end(move |_| Error::new(class, "t", "refused", "no")).await;
        assert_eq!((starts.len(), job.state), (1, JobState::Failed), "{class}");
    }
}

#[tokio::test]
async fn never_before_the_peer_said_but_within_reason() {
    let after = |attempt| match attempt {
        1 => Some(Duration::from_secs(1000)),
        2 => Some(Duration::from_secs(1)),
        3 => Some(Duration::from_secs(365 * DAY)),
        _ => None,
    };
    let (starts, _, job) =
        run_to_the_end(move |attempt| Error::transient("t", "busy", "busy").with_retry_after(after(attempt))).await;
    assert_eq!(starts.len(), 7);
    let waits: Vec<_> = (0..3).map(|step| seconds(job.attempts[step].at, starts[step + 1])).collect();
    assert!((1000.0..1003.0).contains(&waits[0]), "{waits:?}");
    assert!((270.0..333.0).contains(&waits[1]), "the ladder, if that is longer: {waits:?}");
    assert!((7.0 * DAY as f64..7.0 * DAY as f64 + 3.0).contains(&waits[2]), "{waits:?}");
}

#[tokio::test]
async fn a_job_that_nobody_here_can_run_waits_for_another_node() {
    let world = World::new();
    let node = world.builder().settings(|settings| settings.roles = vec![Role::Worker]).build().unwrap().start();
    let id = world.store.enqueue(vec![job("unheard-of")]).await.unwrap().remove(0).id;
    for _ in 0..100 {
        tick(&world.clock, Duration::from_secs(10)).await;
    }
    let job = world.store.job(&id).await.unwrap().unwrap();
    assert!(job.claim_epoch > 5, "it was looked at {} times", job.claim_epoch);
    assert_eq!((job.state, job.attempt, job.attempts.len()), (JobState::Pending, 0, 0));
    world.stop(node).await;
}

/// What happens to a claimed job.
#[derive(Debug, Clone)]
enum Happens {
    Success,
    Failure(ErrorClass, Option<u64>),
    Snooze(u64),
    Release,
    Crash,
    Cancel,
    EnqueuedAgain,
    RetriedByHand,
}

fn happens() -> impl Strategy<Value = Happens> {
    let class = select(vec![
        ErrorClass::Network,
        ErrorClass::IoTransient,
        ErrorClass::Network,
        ErrorClass::IoTransient,
        ErrorClass::Network,
        ErrorClass::Auth,
        ErrorClass::Validation,
        ErrorClass::IoPermanent,
    ]);
    let after = proptest::option::of(select(vec![0, 1, 600, 40_000, 1_000_000_000_000]));
    prop_oneof![
        1 => Just(Happens::Success),
        12 => (class, after).prop_map(|(class, after)| Happens::Failure(class, after)),
        2 => (0_u64..10_000).prop_map(Happens::Snooze),
        1 => Just(Happens::Release),
        2 => Just(Happens::Crash),
        1 => Just(Happens::Cancel),
        1 => Just(Happens::EnqueuedAgain),
        3 => Just(Happens::RetriedByHand),
    ]
}

/// The rules once more, in words as few as possible.
#[derive(Debug, Clone, Copy)]
struct Model {
    state: JobState,
    attempt: u32,
    crashes: u32,
    cancel: bool,
    again: bool,
    /// The least and the most that it waits.
    wait: (f64, f64),
    dead_letters: usize,
}

impl Model {
    fn end(&mut self, state: JobState) {
        if self.again {
            (self.attempt, self.crashes, self.cancel, self.again) = (0, 0, false, false);
            (self.state, self.wait) = (JobState::Pending, (0.0, 0.0));
        } else {
            self.state = state;
            self.dead_letters += usize::from(state == JobState::DeadLetter);
        }
    }

    fn rest(&mut self, wait: (f64, f64)) {
        if self.cancel {
            return self.end(JobState::Cancelled);
        }
        (self.state, self.wait, self.again) = (JobState::Pending, wait, false);
    }

    fn step(attempt: u32) -> Option<(f64, f64)> {
        LADDER.get(attempt as usize - 1).map(|wait| (*wait as f64 * 0.9, *wait as f64 * 1.1))
    }

    fn apply(&mut self, happens: &Happens) {
        match happens {
            Happens::Cancel if self.state == JobState::InProgress => (self.cancel, self.again) = (true, false),
            Happens::EnqueuedAgain if self.state == JobState::InProgress => self.again = true,
            Happens::RetriedByHand if !self.state.is_active() && self.state != JobState::Succeeded => {
                (self.state, self.attempt, self.crashes, self.cancel) = (JobState::Pending, 0, 0, false);
                self.wait = (0.0, 0.0);
            }
            _ if self.state != JobState::InProgress => {}
            Happens::Success => self.settled(|model| model.end(JobState::Succeeded)),
            Happens::Snooze(wait) => self.settled(|model| {
                model.attempt -= u32::from(!model.cancel);
                model.rest((*wait as f64, *wait as f64));
            }),
            Happens::Release => self.settled(|model| {
                model.attempt -= u32::from(!model.cancel);
                model.rest((0.0, 0.0));
            }),
            Happens::Failure(ErrorClass::Network | ErrorClass::IoTransient, after) => self.settled(|model| {
                let after = after.unwrap_or(0).min(7 * DAY) as f64;
                match Self::step(model.attempt) {
                    Some((least, most)) => model.rest((least.max(after), most.max(after))),
                    None => model.end(JobState::DeadLetter),
                }
            }),
            Happens::Failure(..) => self.settled(|model| model.end(JobState::Failed)),
            Happens::Crash => {
                self.crashes += 1;
                match self.crashes {
                    _ if self.cancel => self.end(JobState::Cancelled),
                    3.. => self.end(JobState::DeadLetter),
                    _ => {
                        let last = LADDER[5] as f64;
                        self.rest(Self::step(self.attempt).unwrap_or((last, last)));
                    }
                }
            }
            Happens::Cancel | Happens::EnqueuedAgain | Happens::RetriedByHand => {}
        }
    }

    fn settled(&mut self, how: impl FnOnce(&mut Self)) {
        self.crashes = 0;
        how(self);
    }
}

/// Lets the same happen to a job in a real queue; returns when that was.
async fn apply(store: &MemoryStore, clock: &ManualClock, job: &Job, happens: &Happens) -> OffsetDateTime {
    let policy = RetryPolicy::default();
    let settle = |outcome| {
        let settlement = Settlement { claim: job.claim(), outcome, duration: Duration::ZERO };
        async { store.settle(vec![settlement]).await.unwrap() }
    };
    let held = job.state == JobState::InProgress;
    match happens {
        Happens::Cancel if held => drop(store.cancel(&job.id).await.unwrap()),
        Happens::EnqueuedAgain if held => {
            drop(store.enqueue(vec![common::jobs::job("modelled").with_key("k")]).await.unwrap());
        }
        Happens::RetriedByHand if !job.state.is_active() => drop(store.retry(&job.id, Duration::ZERO).await),
        _ if !held => {}
        Happens::Success => drop(settle(Outcome::Succeeded).await),
        Happens::Snooze(wait) => drop(settle(Outcome::Snooze { delay: Duration::from_secs(*wait) }).await),
        Happens::Release => drop(settle(Outcome::Release).await),
        Happens::Failure(class, after) => {
            let error = Error::new(*class, "t", "c", "m").with_retry_after(after.map(Duration::from_secs));
            drop(settle(after_failure(&policy, job.attempt, &error, Jitter::random())).await);
        }
        Happens::Crash => {
            clock.advance(Duration::from_secs(60));
            assert_eq!(store.reap(&policy, 10).await.unwrap().len(), 1);
        }
        _ => {}
    }
    clock.now()
}

async fn same_as_the_model(sequence: Vec<Happens>) {
    let clock = Arc::new(ManualClock::new(START));
    let store = MemoryStore::new(clock.clone());
    let id = store.enqueue(vec![job("modelled").with_key("k")]).await.unwrap().remove(0).id;
    let mut model = Model {
        state: JobState::Pending,
        attempt: 0,
        crashes: 0,
        cancel: false,
        again: false,
        wait: (0.0, 0.0),
        dead_letters: 0,
    };
    for happens in sequence {
        let mut job = store.job(&id).await.unwrap().unwrap();
        if job.state == JobState::Pending {
            clock.advance((job.run_at - clock.now()).try_into().unwrap_or_default());
            let request = ClaimRequest::new(Lane::Notification, "w", 1, Duration::from_secs(60));
            job = store.claim(&request).await.unwrap().remove(0);
            model.state = JobState::InProgress;
            model.attempt += 1;
        }
        model.apply(&happens);
        let at = apply(&store, &clock, &job, &happens).await;
        let after = store.job(&id).await.unwrap().unwrap();
        assert_eq!((after.state, after.attempt), (model.state, model.attempt), "{happens:?} of {job:?}");
        if after.state == JobState::Pending {
            let wait = seconds(at, after.run_at);
            let (least, most) = model.wait;
            assert!(wait >= least - 0.001 && wait <= most.max(least) + 0.001, "{happens:?}: {wait} s, {model:?}");
        }
    }
    let events = certlib_core::store::TypedQuery::<certlib_core::model::Event>::new().into_raw().unwrap();
    assert_eq!(store.query(&events).await.unwrap().records.len(), model.dead_letters);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_sequence_is_as_the_model_says(sequence in proptest::collection::vec(happens(), 1..24)) {
        // The store in memory never waits.
        same_as_the_model(sequence).now_or_never().unwrap();
    }
}
