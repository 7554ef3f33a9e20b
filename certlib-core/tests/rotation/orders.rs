//! An order whose key is wrapped anew while the CA is asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use certlib_core::model::{CertificateState, KekFence, KeyringState, Order, RotationPhase, record_kinds};
use certlib_core::runtime::{Role, Settings};
use certlib_core::scheduler::RotationSweep;
use certlib_core::secret::KeyringEnvelope;
use certlib_core::store::{StoreExt as _, TypedQuery, Write, WriteBatch};
use futures::FutureExt as _;

use crate::common::World;
use crate::hooked::Hooked;
use crate::lab::{Lab, kek, ring};

fn places_an_order(batch: &WriteBatch) -> bool {
    let is_placed = |body: &str| serde_json::from_str::<Order>(body).unwrap().handle.is_some();
    batch.writes.iter().any(|write| matches!(write, Write::Put { kind: "order", body, .. } if is_placed(body)))
}

/// Has a certificate issued, with `meanwhile` between the CA's answer to the order and its being kept; afterwards
/// there must have been one order, under version 2.
async fn issue<F: Future<Output = ()> + Send>(meanwhile: impl Fn(Arc<Lab>) -> F + Send + Sync + Copy + 'static) {
    let world = World { envelope: Arc::new(KeyringEnvelope::new(ring(&[1]))), ..World::new() };
    world.builder().build().unwrap().client().keyring().await.unwrap();
    world.envelope.replace(ring(&[1, 2])).unwrap();
    let lab = Arc::new(Lab { world });
    let world = &lab.world;
    let done = Arc::new(AtomicBool::new(false));
    let (hook_done, hook_lab) = (done.clone(), lab.clone());
    let store = Hooked::new(world.store.clone(), move |batch| {
        let is_first = places_an_order(batch) && !hook_done.swap(true, Ordering::SeqCst);
        let lab = hook_lab.clone();
        async move {
            if is_first {
                meanwhile(lab).await;
            }
        }
        .boxed()
    });
    let workers = |settings: &mut Settings| {
        settings.roles = vec![Role::Worker];
        // Its clock leaps meanwhile.
        settings.job_lease = Duration::from_secs(3_600);
        settings.node_heartbeat = Duration::from_millis(500);
    };
    let node = world.builder_on(store).settings(workers).build().unwrap().start();
    let client = node.client();
    let id = world.certificate(&client, &[]).await;
    client.issue("shop", &id).await.unwrap();
    let active = || async { client.certificate("shop", &id).await.unwrap().state == CertificateState::Active };
    world.until(Duration::from_millis(50), active).await;
    assert!(done.load(Ordering::SeqCst));
    assert_eq!(world.ca.submits.load(Ordering::SeqCst), 1);
    let orders = world.store.list_all(TypedQuery::<Order>::new()).await.unwrap();
    assert_eq!(orders.iter().map(|order| order.key.kek()).collect::<Vec<_>>(), [Some(kek(2))]);
    assert_eq!(lab.state().await.primary.version, 2);
    node.shutdown().await;
}

#[tokio::test]
async fn what_the_ca_answered_is_not_lost_over_a_rotation() {
    issue(async |lab: Arc<Lab>| {
        lab.client(&[1, 2]).rotate_kek(2).await.unwrap();
        let cx = lab.leader_on(lab.store(), "leader").await;
        lab.finish(&RotationSweep::new(lab.world.envelope.clone(), record_kinds()), &cx).await;
    })
    .await;
}

#[tokio::test]
async fn nor_when_its_key_was_not_wrapped_anew_in_time() {
    issue(async |lab: Arc<Lab>| {
        lab.client(&[1, 2]).rotate_kek(2).await.unwrap();
        let mut state = lab.store().load::<KeyringState>(KeyringState::ID).await.unwrap();
        let rotation = state.rotation.as_mut().unwrap();
        rotation.phase = RotationPhase::Verify;
        state.primary = state.rotation.as_ref().unwrap().to.clone();
        let fences = KekFence::of(&kek(1));
        let batch = fences.fold(WriteBatch::new(), |batch, fence| batch.delete::<KekFence>(&fence.id));
        lab.store().commit(batch.update(&state).unwrap()).await.unwrap();
    })
    .await;
}
