//! What a job says is kept, in order and within limits, and can be read as it is said.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use certlib_core::clock::Clock as _;
use certlib_core::model::{JobLog, JobLogLine, LogLevel};
use certlib_core::queue::{JobState, Lane};
use certlib_core::runtime::{Handled, Role, RunningRuntime, Settings};
use certlib_core::store::{StoreExt as _, TypedQuery};
use certlib_core::{Client, Error};
use futures::{StreamExt as _, TryStreamExt as _};

use crate::common::World;
use crate::common::jobs::{Act, job, tick};

const MS: Duration = Duration::from_millis(50);

fn worker(world: &World, act: Act) -> RunningRuntime {
    let settings = |settings: &mut Settings| settings.roles = vec![Role::Worker];
    world.builder().handler(act).settings(settings).build().unwrap().start()
}

async fn run(world: &World, client: &Client, kind: &str) -> String {
    let id = world.store.enqueue(vec![job(kind)]).await.unwrap().remove(0).id;
    while client.job("shop", &id).await.unwrap().state.is_active() {
        tick(&world.clock, Duration::from_secs(2)).await;
    }
    id
}

fn texts(lines: &[JobLogLine]) -> Vec<&str> {
    lines.iter().map(|line| &*line.message).collect()
}

#[tokio::test]
async fn attempts_steps_failures_and_the_end_are_there_in_order() {
    let world = World::new();
    let act = Act::new("talks", Lane::Notification, |job, cx| async move {
        cx.log(LogLevel::Info, format!("step of attempt {}\nwith\x1b[31m two lines", job.attempt));
        if job.attempt < 3 { Err(Error::network("talk", "down", "nobody there")) } else { Ok(Handled::Succeeded) }
    });
    let node = worker(&world, act);
    let client = node.client();
    let id = run(&world, &client, "talks").await;
    let lines = client.job_log("shop", &id, None, 0).await.unwrap();
    let texts = texts(&lines);
    assert_eq!(lines.len(), 3 + 1 + 3 + 1 + 3, "{texts:?}");
    assert!(texts[0].starts_with("attempt 1 starts on "));
    assert_eq!(texts[1], "step of attempt 1\\nwith\\u{1b}[31m two lines");
    assert_eq!(texts[2], "[network] talk: nobody there (down)");
    assert!(texts[3].starts_with("attempt failed; the next one in "));
    assert!(texts[4].starts_with("attempt 2 starts on ") && texts[8].starts_with("attempt 3 starts on "));
    assert_eq!(texts[10], "succeeded");
    assert_eq!(lines[2].level, LogLevel::Warn);
    assert!(lines.windows(2).all(|pair| pair[0].position < pair[1].position && pair[0].at <= pair[1].at));

    // Page by page.
    let mut paged = Vec::new();
    loop {
        let after = paged.last().map(|line: &JobLogLine| line.position);
        let page = client.job_log("shop", &id, after, 3).await.unwrap();
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 3);
        paged.extend(page);
    }
    assert_eq!(paged, lines);
    assert!(client.job_log("other", &id, None, 0).await.unwrap_err().is_not_found());
    world.stop(node).await;
}

#[tokio::test]
async fn a_job_without_anything_to_say_leaves_no_log_unless_it_takes_its_time() {
    let world = World::new();
    let act = Act::new("quiet", Lane::Notification, {
        let clock = world.clock.clone();
        move |job, _| {
            let (clock, slow) = (clock.clone(), job.priority > 0);
            async move {
                if slow {
                    clock.sleep(Duration::from_secs(30)).await;
                }
                Ok(Handled::Succeeded)
            }
        }
    });
    let node = worker(&world, act);
    let client = node.client();
    let quick = run(&world, &client, "quiet").await;
    assert!(client.job_log("shop", &quick, None, 0).await.unwrap().is_empty());
    let slow = world.store.enqueue(vec![job("quiet").with_priority(1)]).await.unwrap().remove(0).id;
    for _ in 0..80 {
        tick(&world.clock, MS).await;
    }
    assert_eq!(client.job("shop", &slow).await.unwrap().state, JobState::InProgress);
    assert_eq!(client.job_log("shop", &slow, None, 0).await.unwrap().len(), 1, "it says that it runs");
    world.stop(node).await;
}

#[tokio::test]
async fn a_log_has_its_limits() {
    let world = World::new();
    let act = Act::new("chatters", Lane::Notification, |job, cx| async move {
        match job.attempt {
            1 => (0..600).for_each(|number| cx.log(LogLevel::Info, format!("line {number}"))),
            2 => (0..5000).for_each(|number| cx.log(LogLevel::Info, format!("line {number}"))),
            _ => cx.log(LogLevel::Info, "more"),
        }
        if job.attempt < 4 { Err(Error::network("talk", "down", "nobody there")) } else { Ok(Handled::Succeeded) }
    });
    let wide = Act::new("shouts", Lane::Notification, |_, cx| async move {
        (0..100).for_each(|_| cx.log(LogLevel::Info, "é".repeat(100_000)));
        Ok(Handled::Succeeded)
    });
    let settings = |settings: &mut Settings| settings.roles = vec![Role::Worker];
    let node = world.builder().handler(act).handler(wide).settings(settings).build().unwrap().start();
    let client = node.client();
    let id = run(&world, &client, "chatters").await;
    let lines = client.job_log("shop", &id, None, 1000).await.unwrap();
    assert_eq!(lines.len(), 1000);
    let rest = client.job_log("shop", &id, lines.last().map(|line| line.position), 1000).await.unwrap();
    assert_eq!(texts(&rest), ["the log is full: further lines of this job are left out"]);

    let id = run(&world, &client, "shouts").await;
    let lines = client.job_log("shop", &id, None, 1000).await.unwrap();
    assert!(lines.iter().all(|line| line.message.len() <= JobLog::LINE_MAX));
    let bytes: usize = lines.iter().map(|line| line.message.len()).sum();
    assert!(bytes <= 256 * 1024 + 100 && bytes > 240 * 1024, "{bytes}");
    assert!(lines.last().unwrap().message.starts_with("the log is full"));
    world.stop(node).await;
}

#[tokio::test]
async fn what_is_said_last_is_there_when_the_job_has_ended() {
    let world = World::new();
    let act = Act::new("ends", Lane::Notification, |_, cx| async move {
        cx.log(LogLevel::Info, "the last word");
        Ok(Handled::Succeeded)
    });
    let node = worker(&world, act);
    let client = node.client();
    let ids = world.store.enqueue((0..20).map(|_| job("ends")).collect()).await.unwrap();
    let mut seen = 0;
    while seen < ids.len() {
        tokio::task::yield_now().await;
        world.clock.advance(Duration::from_millis(1));
        seen = 0;
        for job in &ids {
            if !client.job("shop", &job.id).await.unwrap().state.is_active() {
                let lines = client.job_log("shop", &job.id, None, 0).await.unwrap();
                assert_eq!(texts(&lines)[1..], ["the last word", "succeeded"]);
                seen += 1;
            }
        }
    }
    world.stop(node).await;
}

#[tokio::test]
async fn a_log_can_be_followed_on_this_node_and_on_others() {
    let world = World::new();
    let act = Act::new("goes_on", Lane::Notification, {
        let clock = world.clock.clone();
        move |_, cx| {
            let clock = clock.clone();
            async move {
                for number in 1..=5 {
                    cx.log(LogLevel::Info, format!("line {number}"));
                    clock.sleep(Duration::from_secs(10)).await;
                }
                Ok(Handled::Succeeded)
            }
        }
    });
    let node = worker(&world, act);
    // Another node, on the same store, that does not run the job.
    let other = world.builder().build().unwrap().client();
    let id = world.store.enqueue(vec![job("goes_on")]).await.unwrap().remove(0).id;
    let here = Arc::new(AtomicUsize::new(0));
    let follow = |client: &Client, count: Option<Arc<AtomicUsize>>| {
        let lines = client.follow_job_log("shop", &id, None);
        tokio::spawn(async move {
            let lines = lines.inspect(move |_| {
                if let Some(count) = &count {
                    count.fetch_add(1, Ordering::SeqCst);
                }
            });
            lines.try_collect::<Vec<_>>().await.unwrap()
        })
    };
    let (local, remote) = (follow(&node.client(), Some(here.clone())), follow(&other, None));
    // Without the clock moving by more than moments: the greeting and the first line are there at once.
    for _ in 0..10 {
        tick(&world.clock, Duration::from_millis(1)).await;
    }
    assert_eq!(here.load(Ordering::SeqCst), 2);
    while !(local.is_finished() && remote.is_finished()) {
        tick(&world.clock, Duration::from_millis(500)).await;
    }
    let (local, remote) = (local.await.unwrap(), remote.await.unwrap());
    assert_eq!(local, remote);
    assert_eq!(texts(&local)[1..], ["line 1", "line 2", "line 3", "line 4", "line 5", "succeeded"]);
    // Nobody here: the stream says so, and ends.
    let mut missing = Box::pin(other.follow_job_log("shop", "missing", None));
    assert!(missing.next().await.unwrap().unwrap_err().is_not_found());
    assert!(missing.next().await.is_none());
    world.stop(node).await;
}

#[tokio::test]
async fn jobs_that_ended_long_ago_are_deleted_with_their_logs() {
    let world = World::new();
    let act = Act::new("past", Lane::Notification, |job, cx| async move {
        cx.log(LogLevel::Info, "said");
        if job.priority > 0 { Err(Error::auth("t", "refused", "no")) } else { Ok(Handled::Succeeded) }
    });
    let node = worker(&world, act);
    let client = node.client();
    let succeeded = run(&world, &client, "past").await;
    let failed = world.store.enqueue(vec![job("past").with_priority(1)]).await.unwrap().remove(0).id;
    while client.job("shop", &failed).await.unwrap().state.is_active() {
        tick(&world.clock, MS).await;
    }
    world.stop(node).await;
    let day = Duration::from_secs(86_400);
    let there = || async {
        let jobs = [world.store.job(&succeeded).await.unwrap(), world.store.job(&failed).await.unwrap()];
        let logs = world.store.list(TypedQuery::<JobLog>::new()).await.unwrap().records.len();
        (jobs.map(|job| job.is_some()), logs)
    };
    let sweep = || async {
        let sweep = certlib_core::scheduler::JobCleanupSweep::new(&Settings::default());
        certlib_core::scheduler::Sweep::run(&sweep, &world.leader("cleaner").await).await.unwrap()
    };
    assert_eq!(there().await, ([true, true], 2));
    world.clock.advance(6 * day);
    assert_eq!((sweep().await, there().await), (0, ([true, true], 2)));
    world.clock.advance(2 * day);
    assert_eq!((sweep().await, there().await), (1, ([false, true], 1)));
    world.clock.advance(80 * day);
    assert_eq!((sweep().await, there().await), (0, ([false, true], 1)));
    world.clock.advance(4 * day);
    assert_eq!((sweep().await, there().await), (1, ([false, false], 0)));
}
