use std::sync::atomic::Ordering;

use certlib_core::client::{Request, Revocation};
use certlib_core::model::{CertificateState, RunState};

use crate::common::{Fault, World};
use crate::{MINUTE, MS, issued, over, status};

#[tokio::test]
async fn an_operator_goes_back_and_nothing_undoes_it_until_the_next_version() {
    let world = World::new();
    let running = world.builder().build().unwrap().start();
    let client = running.client();
    let id = world.certificate(&client, &["a", "b"]).await;
    issued(&world, &client, &id).await;
    let first = world.fleet.served("a");
    client.renew("shop", &id).await.unwrap();
    over(&world, &client, &id, 2).await;
    let second = world.fleet.served("a");
    assert_ne!(first, second);

    client.go_back("shop", &id, 1, &Request::of("ada")).await.unwrap();
    over(&world, &client, &id, 1).await;
    assert_eq!(status(&client, &id).await.run.state, RunState::Succeeded);
    assert_eq!((world.fleet.served("a"), world.fleet.served("b")), (first, first));
    let certificate = client.certificate("shop", &id).await.unwrap();
    assert_eq!((certificate.active_version, certificate.held_version), (Some(1), Some(1)));
    assert_eq!((certificate.latest_version, certificate.state), (2, CertificateState::Active));

    // Sweeps of two days leave it there.
    let swaps = world.fleet.swaps.load(Ordering::SeqCst);
    for _ in 0..48 {
        world.clock.advance(60 * MINUTE);
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!((world.fleet.served("a"), world.fleet.swaps.load(Ordering::SeqCst)), (first, swaps));

    // The newest again, on request; and a new one, as always.
    client.distribute("shop", &id).await.unwrap();
    over(&world, &client, &id, 2).await;
    assert_eq!(world.fleet.served("b"), second);
    assert_eq!(client.certificate("shop", &id).await.unwrap().held_version, None);
    client.go_back("shop", &id, 1, &Request::of("ada")).await.unwrap();
    over(&world, &client, &id, 1).await;
    client.renew("shop", &id).await.unwrap();
    over(&world, &client, &id, 3).await;
    let certificate = client.certificate("shop", &id).await.unwrap();
    assert_eq!((certificate.active_version, certificate.held_version), (Some(3), None));
    running.shutdown().await;
}

#[tokio::test]
async fn runs_that_are_under_way_do_not_undo_what_an_operator_decides() {
    let world = World::new();
    let running = world.builder().build().unwrap().start();
    let client = running.client();
    let id = world.certificate(&client, &["a", "b"]).await;
    issued(&world, &client, &id).await;
    let first = world.fleet.served("a");
    // Version 2 is on its ladder for b when an operator goes back to version 1.
    world.fleet.fault("b", Some(Fault::Unreachable));
    client.renew("shop", &id).await.unwrap();
    world.until(MS, || async { status(&client, &id).await.run.state == RunState::Waiting }).await;
    let second_run = status(&client, &id).await.run.id;
    world.fleet.fault("b", None);
    client.go_back("shop", &id, 1, &Request::of("ada")).await.unwrap();
    over(&world, &client, &id, 1).await;
    world
        .until(MINUTE, || async { client.run_status("shop", &second_run).await.unwrap().run.finished_at.is_some() })
        .await;
    assert_eq!((world.fleet.served("a"), world.fleet.served("b")), (first, first));
    assert_eq!(client.certificate("shop", &id).await.unwrap().active_version, Some(1));

    // And a way back that waits does not undo the version that comes meanwhile.
    world.fleet.fault("b", Some(Fault::Unreachable));
    client.distribute("shop", &id).await.unwrap();
    world
        .until(MS, || async {
            status(&client, &id).await.run.passes > 0 && status(&client, &id).await.run.version == 2
        })
        .await;
    client.go_back("shop", &id, 1, &Request::of("ada")).await.unwrap();
    world
        .until(MS, || async {
            status(&client, &id).await.run.passes > 0 && status(&client, &id).await.run.version == 1
        })
        .await;
    let back = status(&client, &id).await.run.id;
    world.fleet.fault("b", None);
    client.renew("shop", &id).await.unwrap();
    over(&world, &client, &id, 3).await;
    let third = world.fleet.served("b");
    world.until(MINUTE, || async { client.run_status("shop", &back).await.unwrap().run.finished_at.is_some() }).await;
    assert_eq!((world.fleet.served("a"), world.fleet.served("b")), (third, third));
    assert_ne!(third, first);
    running.shutdown().await;
}

#[tokio::test]
async fn a_held_version_that_is_revoked_gives_way_to_the_newest() {
    let world = World::new();
    let running = world.builder().build().unwrap().start();
    let client = running.client();
    let id = world.certificate(&client, &["a"]).await;
    issued(&world, &client, &id).await;
    client.renew("shop", &id).await.unwrap();
    over(&world, &client, &id, 2).await;
    let second = world.fleet.served("a");
    client.go_back("shop", &id, 1, &Request::of("ada")).await.unwrap();
    over(&world, &client, &id, 1).await;
    client.revoke("shop", &id, Revocation { version: Some(1), ..Revocation::default() }).await.unwrap();
    over(&world, &client, &id, 2).await;
    assert_eq!(world.fleet.served("a"), second);
    let certificate = client.certificate("shop", &id).await.unwrap();
    assert_eq!((certificate.active_version, certificate.held_version), (Some(2), None));
    running.shutdown().await;
}

#[tokio::test]
async fn nobody_goes_back_to_what_is_revoked_or_all_but_over() {
    let world = World::new();
    let running = world.builder().build().unwrap().start();
    let client = running.client();
    let id = world.certificate(&client, &["a"]).await;
    issued(&world, &client, &id).await;
    client.renew("shop", &id).await.unwrap();
    over(&world, &client, &id, 2).await;
    let revocation = Revocation { version: Some(1), replace: false, ..Revocation::default() };
    client.revoke("shop", &id, revocation).await.unwrap();
    world.until(MS, || async { client.is_revoked("shop", &id, 1).await.unwrap() }).await;
    let request = Request::of("ada");
    assert_eq!(client.go_back("shop", &id, 1, &request).await.unwrap_err().code(), "version_revoked");
    assert!(client.go_back("shop", &id, 9, &request).await.unwrap_err().is_not_found());
    world.stop(running).await;
    world.clock.advance(90 * 24 * 60 * MINUTE);
    let client = world.builder().build().unwrap().client();
    assert_eq!(client.go_back("shop", &id, 2, &request).await.unwrap_err().code(), "version_expired");
}
