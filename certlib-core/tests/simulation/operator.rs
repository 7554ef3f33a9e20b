//! What people do meanwhile: they ask for things, change their minds, and ask again.

use std::sync::Arc;
use std::time::Duration;

use certlib_core::client::Client;
use certlib_core::model::Credential;
use certlib_core::queue::JobQueue as _;
use certlib_core::runtime::Runtime;
use certlib_core::secret::Aad;
use certlib_core::store::{Record as _, StoreExt as _};

use crate::history::{Stage, demand};
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

/// Rotates the key-encryption key and removes old ones, as often as it is let, while others seal and take their time.
pub async fn change_keys(world: &Arc<World>, operator: &Operator) {
    let stage = &world.stage;
    let client = operator.client();
    let end = stage.now() + world.plan.span;
    let mut number = 0;
    while world.plan.rotates && stage.now() < end {
        tokio::time::sleep(stage.millis(1_000..=20_000)).await;
        number += 1;
        tokio::spawn(keep_slowly(stage.clone(), client.clone(), number));
        let version = u32::try_from(stage.draw(1..=3)).unwrap();
        let (what, result) = match stage.draw(0..=5) {
            0..=2 => ("rotate", client.rotate_kek(version).await.map(drop)),
            3 | 4 => ("remove", client.remove_kek(version, false).await),
            _ => ("cancel", client.cancel_rotation().await),
        };
        let answer = result.map_or_else(|error| error.code().to_owned(), |()| "done".to_owned());
        stage.note(&"people".into(), format!("{what} v{version}: {answer}"));
    }
}

/// Stands still between sealing and storing; when it was too late, tries once more.
async fn keep_slowly(stage: Arc<Stage>, client: Client, number: u32) {
    let id = format!("slow-{number}");
    let mut pause = stage.millis(0..=90_000);
    let mut refusals = 0;
    loop {
        let aad = Aad::new("shop", Credential::KIND, &id, "secret");
        let sealed = client.seal(b"{}", &aad).await.unwrap();
        tokio::time::sleep(pause).await;
        let credential = Credential {
            id: id.clone(),
            project: "shop".to_owned(),
            name: id.clone(),
            sealed,
            created_at: client.clock().now(),
        };
        match client.store().insert(credential).await {
            Ok(_) => return,
            Err(error) if error.is_conflict() && refusals == 0 => refusals += 1,
            Err(error) => return stage.judge(demand(false, "G21", || format!("{id} cannot be stored: {error}"))),
        }
        stage.note(&"people".into(), format!("{id} came too late"));
        // What was seen of the keyring is forgotten.
        tokio::time::sleep(Duration::from_secs(1)).await;
        pause = Duration::ZERO;
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
