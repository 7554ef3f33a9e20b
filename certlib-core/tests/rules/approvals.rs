use std::sync::atomic::Ordering;
use std::time::Duration;

use certlib_core::bundle::Fingerprint;
use certlib_core::client::{Client, Request, TargetRules};
use certlib_core::model::{
    ApprovalRequest, ApprovalRule, ApprovalState, CertificateState, RunState, TargetStatus, Trigger,
};
use certlib_core::queue::JobFilter;

use crate::common::{Fault, World};
use crate::{MINUTE, MS, count, issued, over, over_within, status, target, told};

fn rule(needed: u32, approvers: &[&str]) -> ApprovalRule {
    ApprovalRule { needed, approvers: approvers.iter().map(|name| (*name).to_owned()).collect(), ttl_seconds: 3600 }
}

/// Asks for delivery, and waits for the request for approval.
async fn ask(world: &World, client: &Client, id: &str, by: &str) -> ApprovalRequest {
    client.distribute_as("shop", id, &Request::of(by)).await.unwrap();
    asked(world, client).await
}

async fn asked(world: &World, client: &Client) -> ApprovalRequest {
    let pending = || async { client.approvals("shop", Some(ApprovalState::Pending), None, 10).await.unwrap().records };
    world.until(MS, || async { !pending().await.is_empty() }).await;
    pending().await.pop().unwrap().record
}

async fn with_rule(world: &World, client: &Client, id: &str, rule: ApprovalRule) {
    let distribution = client.distributions("shop", id).await.unwrap().remove(0);
    client.set_distribution_rules("shop", &distribution.id, "root", Some(rule), distribution.rollout).await.unwrap();
    let _ = world;
}

#[tokio::test]
async fn fifty_targets_are_approved_and_the_one_that_changed_is_refused() {
    let world = World::new();
    let running = world.builder().build().unwrap().start();
    let client = running.client();
    let names: Vec<_> = (0..50).map(|n| format!("web-{n:02}")).collect();
    let id = world.certificate(&client, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    issued(&world, &client, &id).await;
    with_rule(&world, &client, &id, rule(1, &[])).await;
    client.renew("shop", &id).await.unwrap();
    let request = asked(&world, &client).await;
    assert_eq!((&*request.requested_by, request.needed), ("scheduler", 1));
    let run = status(&client, &id).await.run;
    assert_eq!((run.state, run.version), (RunState::AwaitingApproval, 2));

    // The approver sees what will be done to each.
    let plans = client.approval_plans("shop", &request.id).await.unwrap();
    assert_eq!(plans.iter().map(|plan| &plan.target_name).collect::<Vec<_>>(), names.iter().collect::<Vec<_>>());
    let shown = plans[7].plan.as_ref().unwrap();
    let former = world.fleet.served("web-07").unwrap();
    assert!(shown.to_string().contains(&format!("replace file: {former} -> ")), "{shown}");
    let swaps = world.fleet.swaps.load(Ordering::SeqCst);

    let theirs = Fingerprint::from_bytes([7; 32]);
    world.fleet.with("web-07", |target| target.file = Some(theirs));
    client.decide_approval("shop", &request.id, "ada", true, "looks right").await.unwrap();
    over(&world, &client, &id, 2).await;
    assert_eq!(count(&client, &id, TargetStatus::Validated).await, 49);
    let refused = target(&client, &id, "web-07").await;
    assert_eq!(refused.status, TargetStatus::Failed);
    let error = refused.error.unwrap();
    assert_eq!(error.code, "plan_stale");
    let said = error.message;
    assert!(said.contains(&former.to_string()) && said.contains(&theirs.to_string()), "{said}");
    assert_eq!(world.fleet.swaps.load(Ordering::SeqCst), swaps + 49);
    assert_eq!(world.fleet.with("web-07", |target| target.file), Some(theirs), "it was left alone");
    let told = told(&client).await;
    for kind in ["approval.requested", "approval.approved", "distribution.partial_failure"] {
        assert!(told.iter().any(|event| event == kind), "{kind}");
    }
    running.shutdown().await;
}

#[tokio::test]
async fn nothing_is_delivered_before_enough_others_agree() {
    let world = World::new();
    let running = world.builder().build().unwrap().start();
    let client = running.client();
    let id = world.certificate(&client, &["a", "b"]).await;
    // One target wants two of four, the certificate wants one of three: the strictest of both holds.
    let targets = client.targets("shop").await.unwrap();
    let rules = TargetRules { approval: Some(rule(2, &["ada", "bob", "eve", "joe"])), ..TargetRules::default() };
    client.set_target_rules("shop", &targets[0].id, "root", rules).await.unwrap();
    with_rule(&world, &client, &id, rule(1, &["ada", "bob", "joe"])).await;
    client.issue("shop", &id).await.unwrap();
    let first = asked(&world, &client).await;
    assert_eq!((first.needed, &*first.approvers), (2, &["ada", "bob", "joe"].map(str::to_owned)[..]));
    assert_eq!(client.certificate("shop", &id).await.unwrap().state, CertificateState::Distributing);

    let request = ask_again(&world, &client, &id, &first).await;
    let own = client.decide_approval("shop", &request.id, "ada", true, "").await.unwrap_err();
    assert_eq!(own.code(), "approval_own");
    assert_eq!(
        client.decide_approval("shop", &request.id, "eve", true, "").await.unwrap_err().code(),
        "approval_not_asked"
    );
    client.decide_approval("shop", &first.id, "ada", true, "").await.unwrap();
    world.clock.advance(Duration::from_secs(30));
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.fleet.swaps.load(Ordering::SeqCst), 0, "one of two is not enough");
    client.decide_approval("shop", &first.id, "bob", true, "").await.unwrap();
    world
        .until(MS, || async { client.run_status("shop", &first.subject_id).await.unwrap().run.finished_at.is_some() })
        .await;
    assert_eq!(client.run_status("shop", &first.subject_id).await.unwrap().run.state, RunState::Succeeded);
    running.shutdown().await;
}

/// A second request, asked for by somebody who may decide on others'.
async fn ask_again(world: &World, client: &Client, id: &str, first: &ApprovalRequest) -> ApprovalRequest {
    client.distribute_as("shop", id, &Request::of("ada")).await.unwrap();
    let other = || async {
        let page = client.approvals("shop", Some(ApprovalState::Pending), None, 10).await.unwrap();
        page.records.into_iter().map(|request| request.record).find(|request| request.id != first.id)
    };
    world.until(MS, || async { other().await.is_some() }).await;
    other().await.unwrap()
}

#[tokio::test]
async fn a_rejection_and_a_time_that_passed_end_the_run() {
    let world = World::new();
    let running = world.patient_builder().build().unwrap().start();
    let client = running.client();
    let id = world.certificate(&client, &["a"]).await;
    issued(&world, &client, &id).await;
    with_rule(&world, &client, &id, rule(1, &[])).await;
    let former = world.fleet.served("a");

    client.renew("shop", &id).await.unwrap();
    let request = asked(&world, &client).await;
    client.decide_approval("shop", &request.id, "ada", false, "not today").await.unwrap();
    let run = status(&client, &id).await.run;
    assert_eq!((run.state, run.finished_at.is_some()), (RunState::Rejected, true));
    let certificate = client.certificate("shop", &id).await.unwrap();
    assert_eq!((certificate.active_version, certificate.state), (Some(1), CertificateState::DistributionFailed));
    assert_eq!(certificate.last_error.unwrap().code, "approval_rejected");

    let request = ask(&world, &client, &id, "joe").await;
    world.until(Duration::from_secs(60), || async { status(&client, &id).await.run.state == RunState::Rejected }).await;
    let expired = client.approval("shop", &request.id).await.unwrap();
    assert_eq!(expired.state, ApprovalState::Expired);
    assert_eq!(client.decide_approval("shop", &request.id, "ada", true, "").await.unwrap_err().code(), "approval_over");
    assert_eq!((world.fleet.served("a"), world.fleet.swaps.load(Ordering::SeqCst)), (former, 1));
    let told = told(&client).await;
    for kind in ["approval.rejected", "approval.expired", "distribution.rejected"] {
        assert!(told.iter().any(|event| event == kind), "{kind}");
    }
    running.shutdown().await;
}

#[tokio::test]
async fn an_approval_does_not_hold_for_ever_and_a_retry_asks_anew() {
    let world = World::new();
    let running = world.builder().build().unwrap().start();
    let client = running.client();
    let id = world.certificate(&client, &["a"]).await;
    with_rule(&world, &client, &id, rule(1, &[])).await;
    world.fleet.fault("a", Some(Fault::KeepsServingOld));
    client.issue("shop", &id).await.unwrap();
    let request = asked(&world, &client).await;
    client.decide_approval("shop", &request.id, "ada", true, "").await.unwrap();
    // Tried until the approval has passed: then not any more, although the ladder is longer.
    over_within(&world, &client, &id, 1, MINUTE).await;
    let run = status(&client, &id).await.run;
    assert_eq!(run.state, RunState::Failed);
    let swaps = world.fleet.swaps.load(Ordering::SeqCst);
    assert!((2..6).contains(&swaps), "{swaps}");
    let error = client.certificate("shop", &id).await.unwrap().last_error.unwrap();
    assert_eq!(error.code, "approval_expired");

    world.fleet.fault("a", None);
    let filter = JobFilter { key: Some(run.id.clone()), limit: 1, ..JobFilter::default() };
    let job = client.jobs("shop", filter).await.unwrap().remove(0);
    client.retry_job("shop", &job.id).await.unwrap();
    let again = asked(&world, &client).await;
    assert_ne!(again.id, request.id);
    assert_eq!(world.fleet.swaps.load(Ordering::SeqCst), swaps);
    client.decide_approval("shop", &again.id, "bob", true, "").await.unwrap();
    world
        .until(MS, || async { client.certificate("shop", &id).await.unwrap().state == CertificateState::Active })
        .await;
    running.shutdown().await;
}

#[tokio::test]
async fn a_rule_that_comes_later_holds_for_what_waits_and_one_that_grows_needs_more() {
    let world = World::new();
    let running = world.builder().build().unwrap().start();
    let client = running.client();
    let id = world.certificate(&client, &["a"]).await;
    world.fleet.fault("a", Some(Fault::Unreachable));
    client.issue("shop", &id).await.unwrap();
    world.until(MS, || async { status_or_none(&client, &id).await == Some(RunState::Waiting) }).await;
    with_rule(&world, &client, &id, rule(1, &[])).await;
    world.fleet.fault("a", None);
    let request = asked(&world, &client).await;
    assert_eq!(world.fleet.swaps.load(Ordering::SeqCst), 0, "it was not needed when the run began, and is now");

    with_rule(&world, &client, &id, rule(2, &[])).await;
    client.decide_approval("shop", &request.id, "ada", true, "").await.unwrap();
    over(&world, &client, &id, 1).await;
    assert_eq!(world.fleet.swaps.load(Ordering::SeqCst), 0);
    let error = client.certificate("shop", &id).await.unwrap().last_error.unwrap();
    assert_eq!(error.code, "approval_insufficient");
    running.shutdown().await;
}

#[tokio::test]
async fn two_requests_that_expire_together_end_both_runs() {
    let world = World::new();
    let running = world.builder().build().unwrap().start();
    let client = running.client();
    let id = world.certificate(&client, &["a", "b"]).await;
    issued(&world, &client, &id).await;
    let targets = client.targets("shop").await.unwrap();
    let second = client.attach("shop", &id, vec![targets[0].id.clone()], None, Trigger::Manual).await.unwrap();
    with_rule(&world, &client, &id, rule(1, &[])).await;
    let rollout = certlib_core::model::Rollout::default();
    client.set_distribution_rules("shop", &second.id, "root", Some(rule(1, &[])), rollout).await.unwrap();
    let runs = client.distribute_as("shop", &id, &Request::of("joe")).await.unwrap();
    assert_eq!(runs.len(), 2);
    let ended = || async {
        let mut ended = 0;
        for run in &runs {
            ended += usize::from(client.run_status("shop", &run.id).await.unwrap().run.state == RunState::Rejected);
        }
        ended == 2
    };
    world.until(MINUTE, ended).await;
    running.shutdown().await;
}

#[tokio::test]
async fn rules_that_leave_nobody_to_agree_fail_at_once() {
    let world = World::new();
    let running = world.builder().build().unwrap().start();
    let client = running.client();
    let id = world.certificate(&client, &["a"]).await;
    issued(&world, &client, &id).await;
    with_rule(&world, &client, &id, rule(1, &["ada"])).await;
    let run = client.distribute_as("shop", &id, &Request::of("ada")).await.unwrap().remove(0);
    let over = || async { client.run_status("shop", &run.id).await.unwrap().run.finished_at.is_some() };
    world.until(MS, over).await;
    let error = client.certificate("shop", &id).await.unwrap().last_error.unwrap();
    assert_eq!(error.code, "approval_impossible");
    running.shutdown().await;
}

async fn status_or_none(client: &Client, id: &str) -> Option<RunState> {
    client.distribution_status("shop", id).await.unwrap().map(|status| status.run.state)
}

#[tokio::test]
async fn who_could_not_be_planned_is_shown_and_not_delivered_to() {
    let world = World::new();
    let running = world.builder().build().unwrap().start();
    let client = running.client();
    let id = world.certificate(&client, &["a", "b"]).await;
    with_rule(&world, &client, &id, rule(1, &[])).await;
    world.fleet.fault("b", Some(Fault::Refuses));
    client.issue("shop", &id).await.unwrap();
    let request = asked(&world, &client).await;
    let plans = client.approval_plans("shop", &request.id).await.unwrap();
    assert!(plans[0].plan.is_ok());
    assert_eq!(plans[1].plan.as_ref().unwrap_err().code, "login_refused");
    world.fleet.fault("b", None);
    client.decide_approval("shop", &request.id, "ada", true, "").await.unwrap();
    over(&world, &client, &id, 1).await;
    assert_eq!(target(&client, &id, "a").await.status, TargetStatus::Validated);
    assert_eq!(target(&client, &id, "b").await.status, TargetStatus::Failed);
    assert_eq!(world.fleet.served("b"), None);
    running.shutdown().await;
}
