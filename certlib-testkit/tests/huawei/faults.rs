//! What goes wrong on demand.

use std::time::Duration;

use certlib_testkit::{
    huawei::{Fault, HuaweiSim, Injection},
    pki::TestCa,
};
use reqwest::Client;

fn http() -> Client {
    Client::builder().no_proxy().pool_max_idle_per_host(0).timeout(Duration::from_secs(60)).build().unwrap()
}

/// Status, `Retry-After` and code of the answer to an unsigned request; `None` when there was none.
async fn ask(cloud: &HuaweiSim) -> Option<(u16, Option<String>, String)> {
    let response = http().get(format!("{}/v3/scm/certificates", cloud.url())).send().await.ok()?;
    let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let (status, wait) = (response.status().as_u16(), header("retry-after"));
    assert_eq!(header("x-request-id").map(|id| id.len()), Some(32));
    let body: serde_json::Value = serde_json::from_slice(&response.bytes().await.ok()?).ok()?;
    Some((status, wait, body["error_code"].as_str()?.to_owned()))
}

#[tokio::test]
async fn refusals() {
    let cloud = HuaweiSim::start().await.unwrap();
    let table = [
        (Fault::Throttled { retry_after: Some(Duration::from_secs(7)) }, 429, Some("7"), "APIGW.0308"),
        (Fault::Broken { status: 503 }, 503, None, "APIG.9999"),
        (Fault::Forbidden, 403, None, "APIGW.0302"),
        (Fault::ExpiredCredentials, 401, None, "APIGW.0301"),
        (Fault::Conflict, 409, None, "ELB.8907"),
    ];
    for (fault, status, wait, code) in table {
        cloud.inject(Injection::new(fault).on("GET", "/scm/").times(1));
        assert_eq!(ask(&cloud).await, Some((status, wait.map(str::to_owned), code.to_owned())));
    }
    assert_eq!(ask(&cloud).await.unwrap().0, 401, "and then it only wants a signature");
}

#[tokio::test]
async fn lost_and_slow() {
    let cloud = HuaweiSim::start().await.unwrap();
    for fault in [Fault::LoseRequest, Fault::LoseReply] {
        cloud.inject(Injection::new(fault).times(1));
        assert_eq!(ask(&cloud).await, None);
    }
    let by = Duration::from_millis(50);
    cloud.inject(Injection::new(Fault::Slow(by)));
    let start = std::time::Instant::now();
    assert_eq!(ask(&cloud).await.unwrap().0, 401);
    assert!(start.elapsed() >= by);
    cloud.clear_faults();
    let statuses: Vec<_> = cloud.history().iter().map(|record| record.status).collect();
    assert_eq!(statuses, [None, None, Some(401)]);
}

#[tokio::test]
async fn a_snapshot_changes_with_every_change_and_has_no_key() {
    let cloud = HuaweiSim::start().await.unwrap();
    let ca = TestCa::new("root").unwrap();
    let (one, two) = (ca.issue(&["a.example.com"]).unwrap(), ca.issue(&["a.example.com"]).unwrap());
    let mut seen = vec![cloud.snapshot()];
    let mut changed = |what: &str| {
        let now = cloud.snapshot();
        assert!(!seen.contains(&now), "{what}");
        seen.push(now);
    };
    cloud.import_scm("one", &one).unwrap();
    changed("an import");
    let id = cloud.put_elb_certificate("one", &one).unwrap();
    changed("a certificate");
    cloud.replace_elb_certificate(&id, &two).unwrap();
    changed("its content");
    let listener = cloud.add_listener("HTTPS", Some(&id), &[]).unwrap();
    changed("a listener");
    cloud.point_listener(&listener, &id, &[&id]).unwrap();
    changed("what it refers to");
    let line = one.key_pem.lines().nth(1).unwrap();
    assert!(seen.iter().all(|text| !text.contains(line)));
}
