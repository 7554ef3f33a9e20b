//! Old certificates go, ours alone.

use std::sync::Arc;
use std::time::Duration;

use certlib_core::Context;
use certlib_core::clock::ManualClock;
use certlib_core::module::Verb;
use certlib_testkit::pki::Issued;
use certlib_testkit::winrm::thumbprint;
use serde_json::json;
use time::OffsetDateTime;

use crate::common::journal;
use crate::{bundle, host_with, install, issue, subject};

#[tokio::test]
async fn two_generations_stay_and_nothing_of_others_goes() {
    let former = issue();
    let host = host_with(&former).await;
    let hash = |issued: &Issued| thumbprint(bundle(issued).leaf_der());
    let (bystander, bound, elsewhere) = (issue(), issue(), issue());
    host.with(|windows| {
        install(windows, &bystander);
        // Of this target and old, but shown by somebody; and of another target.
        for (issued, name) in [(&bound, "certlib:t-1:20200101T000000Z"), (&elsewhere, "certlib:t-2:20200101T000000Z")] {
            let hash = install(windows, issued);
            windows.certificates.set_friendly_name("My", &hash, name).unwrap();
        }
        windows.iis.add_site("Old");
        windows.add_binding("Old", "https", "*:6443:", 0).unwrap();
        windows.add_ssl_certificate("Old", "*:6443:", &hash(&bound), "My").unwrap();
    });
    let clock = ManualClock::new(OffsetDateTime::now_utc());
    let mut subject = subject(&host, json!({}));
    subject.cx = Context::with(Arc::new(clock.clone()), Default::default(), "t");
    let generations: Vec<Issued> = (0..4).map(|_| issue()).collect();
    let there = || -> Vec<String> {
        host.with(|windows| windows.certificates.list("My").iter().map(|found| found.thumbprint.clone()).collect())
    };
    for (number, issued) in generations.iter().enumerate() {
        clock.advance(Duration::from_secs(3600));
        let new = bundle(issued);
        let plan = subject.plan(&new).await.unwrap();
        let goes: Vec<_> = plan.steps.iter().filter(|step| step.verb == Verb::Delete).collect();
        let facts = subject.execute(&new, plan.clone(), &journal()).await.unwrap();
        let removed = facts.0["removed"].as_array().unwrap().len();
        assert_eq!((goes.len(), removed), if number < 2 { (0, 0) } else { (1, 1) }, "{number}: {plan} {facts:?}");
        if number >= 2 {
            let gone = hash(&generations[number - 2]);
            assert!(goes[0].subject.ends_with(&gone) && !goes[0].reversible, "{plan}");
            assert!(!there().contains(&gone));
        }
    }
    let mut expected: Vec<String> =
        [&former, &bystander, &bound, &elsewhere, &generations[2], &generations[3]].map(hash).to_vec();
    expected.sort();
    let mut left = there();
    left.sort();
    assert_eq!(left, expected);
}

/// Deliveries within one second bear the same time; what was just replaced stays all the same.
#[tokio::test]
async fn the_former_certificate_stays_whatever_the_clock_says() {
    let host = host_with(&issue()).await;
    let clock = ManualClock::new(OffsetDateTime::now_utc());
    let mut subject = subject(&host, json!({}));
    subject.cx = Context::with(Arc::new(clock), Default::default(), "t");
    let generations: Vec<Issued> = (0..5).map(|_| issue()).collect();
    for pair in generations.windows(2) {
        subject.deliver(&bundle(&pair[0]), &journal()).await.unwrap();
        let undo = journal();
        subject.deliver(&bundle(&pair[1]), &undo).await.unwrap();
        let hash = thumbprint(bundle(&pair[0]).leaf_der());
        assert!(host.with(|windows| windows.certificates.get("My", &hash).is_ok()));
    }
}
