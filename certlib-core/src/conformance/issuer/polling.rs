//! How the CA is asked about an order, and what its answers mean.

use std::time::Duration;

use super::lab::PROJECT;
use super::{CaFault, IssuerHarness, Lab};
use crate::issuer::Recovery;
use crate::model::{CertificateState, OrderStage};
use crate::queue::{JobFilter, JobState};

/// How much later than planned a poll may begin in the lab.
const LATE: f64 = 2.0;

/// A pending order is polled at once, and then as the issuer's schedule says, each wait within its spread; the last poll
/// of the round is made at its deadline.
pub async fn poll_schedule_exact(harness: &impl IssuerHarness) {
    let lab = Lab::new(harness).await;
    lab.ca.set(CaFault::Pending).await;
    let node = lab.start();
    lab.client().issue(PROJECT, &lab.certificate).await.unwrap();
    lab.until("placed", async || !lab.polls().is_empty()).await;
    let schedule = lab.issuer().poll_schedule();
    let started = lab.order().await.round_started_at;
    let deadline = started + Duration::from_secs(schedule.max_wait);
    lab.until("a round", async || lab.polls().last().is_some_and(|at| *at >= deadline)).await;
    let mut polls: Vec<_> = lab.polls().iter().map(|at| (*at - started).as_seconds_f64()).collect();
    assert!(polls[0] < LATE, "the first at once: {polls:?}");
    let (mut planned, length) = (polls[0], schedule.max_wait as f64);
    // The next round may have begun already.
    let round = polls.iter().take_while(|poll| **poll < length).count();
    polls.truncate(round + 1);
    for (number, poll) in polls.iter().enumerate().skip(1) {
        let step = schedule.steps.get(number - 1).or(schedule.steps.last()).copied().unwrap_or(300) as f64;
        let (soonest, latest) = (planned + step * (1.0 - schedule.spread), planned + step * (1.0 + schedule.spread));
        assert!(*poll >= soonest.min(length) - 0.1, "poll {number} too early: {polls:?}");
        assert!(*poll <= latest.min(length) + LATE, "poll {number} too late: {polls:?}");
        planned = *poll;
    }
    lab.stop(node).await;
}

/// After the deadline the order is still pending; a later round goes on with it.
pub async fn deadline_returns_still_pending(harness: &impl IssuerHarness) {
    let lab = Lab::new(harness).await;
    lab.ca.set(CaFault::Pending).await;
    let node = lab.start();
    lab.client().issue(PROJECT, &lab.certificate).await.unwrap();
    lab.until("placed", async || !lab.polls().is_empty()).await;
    let schedule = lab.issuer().poll_schedule();
    lab.go_on(Duration::from_secs(schedule.max_wait + 60)).await;
    let order = lab.order().await;
    assert_eq!((order.stage, lab.state().await), (OrderStage::Placed, CertificateState::Issuing));
    assert!(order.round_started_at > lab.clock_now(), "it rests until the next round");
    let asked = lab.polls().len();
    let job = lab.store.jobs(&JobFilter::default()).await.unwrap().remove(0);
    assert_eq!(job.state, JobState::Pending, "no worker is held");
    lab.until("the next round", async || lab.polls().len() > asked).await;
    lab.ca.set(CaFault::None).await;
    lab.until("issued", async || lab.state().await == CertificateState::Active).await;
    assert_eq!(lab.ca.orders().await, 1);
    lab.stop(node).await;
}

/// What each kind of answer to "where is my order?" leads to.
pub async fn triage_table(harness: &impl IssuerHarness) {
    // (answer, whether the order goes on by itself, the stage it is left in otherwise)
    let rows = [
        (Some(400), false, OrderStage::Rejected),
        (Some(401), false, OrderStage::Placed),
        (Some(403), false, OrderStage::Placed),
        (Some(404), false, OrderStage::Rejected),
        (Some(429), true, OrderStage::Placed),
        (Some(500), true, OrderStage::Placed),
        (Some(502), true, OrderStage::Placed),
        (Some(503), true, OrderStage::Placed),
        (None, false, OrderStage::Placed),
    ];
    for (status, goes_on, stage) in rows {
        let lab = Lab::new(harness).await;
        // Long enough for the CA to be expected to know its own order.
        lab.ca.set(CaFault::Pending).await;
        let node = lab.start();
        lab.client().issue(PROJECT, &lab.certificate).await.unwrap();
        lab.go_on(Duration::from_secs(90)).await;
        let asked = lab.polls().len();
        lab.ca.set(status.map_or(CaFault::Garbage, |status| CaFault::Status { status, retry_after: None })).await;
        if goes_on {
            // G31: about as often as if it were pending.
            lab.go_on(Duration::from_secs(3600)).await;
            let asked = lab.polls().len() - asked;
            assert!((2..=48).contains(&asked), "{status:?}: {asked} calls an hour");
            assert!(lab.calls().iter().any(|called| called.error.is_some()), "{status:?}: nothing was noticed");
        } else {
            lab.until("the job ended", async || lab.is_idle().await).await;
            assert_eq!(lab.polls().len() - asked, 1, "{status:?} is not asked again");
        }
        // One that costs nothing is not kept for an answer that cannot be read.
        let costs_nothing = matches!(lab.issuer().recovery(), Recovery::Repeat);
        let stage = if status.is_none() && costs_nothing { OrderStage::Rejected } else { stage };
        assert_eq!(lab.order().await.stage, stage, "{status:?}");
        lab.ca.set(CaFault::None).await;
        if !goes_on {
            // Once somebody asks again, it goes on with the order that the CA has.
            lab.client().issue(PROJECT, &lab.certificate).await.unwrap();
        }
        lab.until("issued", async || lab.state().await == CertificateState::Active).await;
        let orders = if stage == OrderStage::Placed { 1 } else { 2 };
        assert_eq!(lab.ca.orders().await, orders, "{status:?}");
        lab.stop(node).await;
    }
    retry_after_is_kept(harness).await;
}

async fn retry_after_is_kept(harness: &impl IssuerHarness) {
    let lab = Lab::new(harness).await;
    let wait = Duration::from_secs(77);
    lab.ca.set(CaFault::Status { status: 429, retry_after: Some(wait) }).await;
    let node = lab.start();
    lab.client().issue(PROJECT, &lab.certificate).await.unwrap();
    lab.until("three polls", async || lab.polls().len() >= 3).await;
    for pair in lab.polls().windows(2) {
        let waited = (pair[1] - pair[0]).as_seconds_f64();
        assert!((76.9..77.0 + LATE).contains(&waited), "{waited}");
    }
    lab.stop(node).await;
}
