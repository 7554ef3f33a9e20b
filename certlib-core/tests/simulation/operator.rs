//! What people do meanwhile: they ask for things, change their minds, and ask again.

use std::sync::Arc;
use std::time::Duration;

use certlib_core::client::Client;
use certlib_core::queue::JobQueue as _;
use certlib_core::runtime::Runtime;

use crate::history::Stage;
use crate::store::SimStore;
use crate::tasks::Deed;
use crate::world::{ASKED_MAX, World};

pub struct Operator {
    pub store: Arc<SimStore>,
    pub runtime: Runtime,
}

impl Operator {
    pub fn client(&self) -> Client {
        self.runtime.client()
    }
}

/// Keeps the nodes busy until the plan's time is over.
pub async fn operate(world: &Arc<World>, operator: &Operator, certificate: &str) {
    let stage = &world.stage;
    let client = operator.client();
    let end = stage.now() + world.plan.span;
    // What is refused, because it is too late for it, is refused for good reason: the account beside the store says so.
    let _ = client.issue("shop", certificate).await;
    world.ca.asked.lock().unwrap().push(stage.now());
    if world.plan.killers {
        operator.store.enqueue(vec![Deed::Kill.job()]).await.unwrap();
    }
    while stage.now() < end {
        tokio::time::sleep(stage.millis(200..=12_000)).await;
        match stage.draw(0..=9) {
            0..=4 => {
                let count = stage.draw(1..=3);
                let jobs = (0..count).map(|_| task(stage)).collect();
                operator.store.enqueue(jobs).await.unwrap();
            }
            5 | 6 => {
                if let Some(id) = some_job(world) {
                    let _ = operator.store.cancel(&id).await;
                }
            }
            7 => {
                if let Some(id) = some_job(world) {
                    let _ = operator.store.retry(&id, Duration::from_secs(stage.draw(0..=20))).await;
                }
            }
            8 => {
                let _ = client.renew("shop", certificate).await;
                world.ca.asked.lock().unwrap().push(stage.now());
            }
            _ => {
                let _ = client.distribute("shop", certificate).await;
            }
        }
    }
}

fn task(stage: &Stage) -> certlib_core::queue::NewJob {
    let deed = match stage.draw(0..=9) {
        0..=3 => Deed::Nothing,
        4 | 5 => Deed::Fail {
            times: u32::try_from(stage.draw(1..=8)).unwrap(),
            retry_after: stage.happens(0.5).then(|| stage.draw(1..=ASKED_MAX)),
        },
        6 => Deed::Refuse,
        7 | 8 => Deed::Work { steps: u32::try_from(stage.draw(1..=6)).unwrap(), millis: stage.draw(10..=12_000) },
        _ => Deed::Snooze { times: u32::try_from(stage.draw(1..=3)).unwrap(), seconds: stage.draw(1..=40) },
    };
    let mut job = deed.job();
    if stage.happens(0.5) {
        job = job.with_key(format!("key-{}", stage.draw(0..=3)));
    }
    if stage.happens(0.3) {
        job = job.with_delay(Duration::from_secs(stage.draw(1..=40)));
    }
    job.with_priority(i16::try_from(stage.draw(0..=2)).unwrap())
}

/// Any job there is.
fn some_job(world: &World) -> Option<String> {
    let ledger = world.backend.ledger.lock().unwrap();
    let ids: Vec<_> = ledger.jobs.keys().cloned().collect();
    drop(ledger);
    (!ids.is_empty()).then(|| world.stage.pick(&ids).clone())
}
