//! What happens to orders.

use std::{process::Command, time::Duration};

use certlib_testkit::{
    locate::locate,
    pki::Flaw,
    process, require,
    sectigo::{ChainOrder, SectigoSim, Status},
    tls,
};
use rcgen::PublicKeyData as _;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{ask, collect, enroll, enrolment, request};

#[tokio::test]
async fn polls_and_lag_are_counted() {
    for code in [0, -103, -109, -183, -1400] {
        let sim = SectigoSim::builder().pending_polls(2).collect_lag(1).not_ready_code(code).start().await.unwrap();
        let id = enroll(&sim, &request("shop.example").0).await;
        assert_eq!(sim.order(id).unwrap().status, Status::Applied);
        for _ in 0..2 {
            assert_eq!(collect(&sim, id).await, (400, code));
        }
        let (_, details) = ask(&sim, "GET", &format!("ssl/v1/{id}"), Value::Null).await;
        assert_eq!(details["status"], "Issued");
        assert_eq!(collect(&sim, id).await, (400, code), "and yet not to be had");
        assert_eq!(collect(&sim, id).await, (200, 1));
        let collections = sim.history().iter().filter(|record| record.path.contains("/collect/")).count();
        assert_eq!(collections, 4);
    }
}

#[tokio::test]
async fn a_human_decides() {
    let sim = SectigoSim::builder().approvals().start().await.unwrap();
    let csr = request("shop.example").0;
    let (yes, no, over_http) = (enroll(&sim, &csr).await, enroll(&sim, &csr).await, enroll(&sim, &csr).await);
    for id in [yes, no] {
        for _ in 0..3 {
            assert_eq!(collect(&sim, id).await, (400, -183), "as long as it takes");
        }
        assert_eq!(sim.order(id).unwrap().status, Status::Requested);
    }
    sim.approve(yes).unwrap();
    assert_eq!(collect(&sim, yes).await, (200, 1));
    sim.decline(no).unwrap();
    assert_eq!(collect(&sim, no).await, (400, -183), "only the status tells");
    let (_, details) = ask(&sim, "GET", &format!("ssl/v1/{no}"), Value::Null).await;
    assert_eq!((&details["status"], details["declined"].is_string()), (&json!("Declined"), true));
    assert!(sim.approve(no).is_err() && sim.decline(yes).is_err() && sim.approve(1).is_err());

    let path = format!("ssl/v1/approve/{over_http}");
    assert_eq!(ask(&sim, "POST", &path, json!({})).await.1["code"], -7);
    assert_eq!(ask(&sim, "POST", &path, json!({ "message": "fine" })).await.0, 204);
    assert_eq!(ask(&sim, "POST", &path, json!({ "message": "fine" })).await.1["code"], -1112);
    assert_eq!(sim.order(over_http).unwrap().status, Status::Issued);

    sim.set_approvals(false);
    sim.set_pending_polls(9);
    let (rejected, finished) = (enroll(&sim, &csr).await, enroll(&sim, &csr).await);
    sim.reject(rejected).unwrap();
    sim.finish(finished).unwrap();
    assert_eq!(sim.order(rejected).unwrap().status, Status::Rejected);
    assert_eq!(sim.order(finished).unwrap().status, Status::Issued);
}

#[tokio::test]
async fn a_certificate_may_be_wrong() {
    let sim = SectigoSim::start().await.unwrap();
    let (csr, key) = request("shop.example");
    let key = key.subject_public_key_info();
    sim.spoil_next(Flaw::OtherKey);
    sim.spoil_next(Flaw::OtherNames);
    sim.spoil_next(Flaw::Expired);
    // The key is right, the name is right, it is valid.
    for expected in [(false, true, true), (true, false, true), (true, true, false), (true, true, true)] {
        let id = enroll(&sim, &csr).await;
        let (_, text) = ask(&sim, "GET", &format!("ssl/v1/collect/{id}/x509CO"), Value::Null).await;
        let der = pem::parse(text.as_str().unwrap()).unwrap().into_contents();
        let (_, read) = X509Certificate::from_der(&der).unwrap();
        let named = der.windows(12).any(|part| part == b"shop.example");
        assert_eq!((read.public_key().raw == key, named, read.validity().is_valid()), expected);
        assert_eq!(sim.order(id).unwrap().fingerprint, Some(tls::fingerprint(&der)));
    }
}

#[tokio::test]
async fn time_passes() {
    let sim = SectigoSim::start().await.unwrap();
    let id = enroll(&sim, &request("shop.example").0).await;
    let (_, details) = ask(&sim, "GET", &format!("ssl/v1/{id}"), Value::Null).await;
    assert_eq!(details["expires"].as_str().unwrap().len(), "01/31/2026".len());
    let day = Duration::from_secs(86_400);
    sim.advance(89 * day);
    assert_eq!(sim.order(id).unwrap().status, Status::Issued);
    sim.advance(2 * day);
    assert_eq!(sim.order(id).unwrap().status, Status::Expired);
    let revoke = json!({ "reason": "too late" });
    assert_eq!(ask(&sim, "POST", &format!("ssl/v1/revoke/{id}"), revoke).await.1["code"], -102);
    let (status, renewed) = ask(&sim, "POST", &format!("ssl/v1/renewById/{id}"), json!("")).await;
    assert_eq!(status, 200);
    assert_eq!(sim.order(renewed["sslId"].as_i64().unwrap()).unwrap().status, Status::Issued);
    let days = sim.history();
    assert!(days.last().unwrap().at - days[0].at > time::Duration::days(90));
}

#[tokio::test]
async fn the_authority_may_reject_everything() {
    let sim = SectigoSim::start().await.unwrap();
    let csr = request("shop.example").0;
    sim.set_rejections(true);
    let no = enroll(&sim, &csr).await;
    sim.set_rejections(false);
    let yes = enroll(&sim, &csr).await;
    assert_eq!((sim.order(no).unwrap().status, sim.order(yes).unwrap().status), (Status::Rejected, Status::Issued));
    assert_eq!((collect(&sim, no).await, collect(&sim, yes).await), ((400, -183), (200, 1)));
}

#[tokio::test]
async fn renewing_by_renew_id() {
    let sim = SectigoSim::start().await.unwrap();
    let id = enroll(&sim, &request("shop.example").0).await;
    let renew_id = sim.order(id).unwrap().renew_id;
    let (status, body) = ask(&sim, "POST", &format!("ssl/v1/renew/{renew_id}"), json!({})).await;
    assert_eq!(status, 200);
    let new = sim.order(body["sslId"].as_i64().unwrap()).unwrap();
    assert_eq!(new.names, ["shop.example"]);
    assert_ne!(new.serial, sim.order(id).unwrap().serial);
    assert_eq!(ask(&sim, "POST", "ssl/v1/renew/unknown", json!({})).await.0, 404);

    let fixed = sim.add_profile("not renewable", &[30], false);
    let mut body = enrolment(&request("shop.example").0);
    (body["certType"], body["term"]) = (fixed.into(), 30.into());
    let (_, body) = ask(&sim, "POST", "ssl/v1/enroll", body).await;
    let path = format!("ssl/v1/renewById/{}", body["sslId"]);
    assert_eq!(ask(&sim, "POST", &path, json!({})).await.1["code"], -180);
}

#[tokio::test]
async fn names_need_a_validated_domain() {
    let sim = SectigoSim::builder().domain_validation().start().await.unwrap();
    let csr = request("www.shop.example").0;
    let refused = async || ask(&sim, "POST", "ssl/v1/enroll", enrolment(&csr)).await.1["code"].as_i64();
    assert_eq!(refused().await, Some(-107), "an unknown domain");
    sim.add_domain("shop.example");
    assert_eq!(refused().await, Some(-107), "not validated");
    let domain = json!({ "domain": "shop.example" });
    let start = "dcv/v1/validation/start/domain/cname";
    let (_, record) = ask(&sim, "POST", start, domain.clone()).await;
    let submit = async || ask(&sim, "POST", "dcv/v1/validation/submit/domain/cname", domain.clone()).await.1;
    sim.publish_cname(record["host"].as_str().unwrap(), "elsewhere.example.");
    assert_eq!(submit().await["status"], "NOT_VALIDATED");
    sim.publish_cname(record["host"].as_str().unwrap(), record["point"].as_str().unwrap());
    let state = submit().await;
    assert_eq!((&state["status"], state["expirationDate"].is_string()), (&json!("VALIDATED"), true));
    assert_eq!(refused().await, None, "ordered");
    let id = sim.orders()[0].id;
    let (status, log) = ask(&sim, "POST", &format!("ssl/v1/dcv/recheck/{id}"), json!({})).await;
    assert_eq!((status, &log["dcvLog"]["log"][0]["dcvStatus"]), (202, &json!("Validated")));

    sim.advance(Duration::from_secs(199 * 86_400));
    assert_eq!(refused().await, Some(-107), "a proof is not for ever");
    let (_, state) = ask(&sim, "POST", "dcv/v2/validation/status", domain.clone()).await;
    assert_eq!(state["status"], "EXPIRED");
    let (_, state) = ask(&sim, "POST", "dcv/v1/validation/clear", domain).await;
    assert_eq!((&state["status"], &state["orderStatus"]), (&json!("NOT_VALIDATED"), &json!("NOT_INITIATED")));
}

#[tokio::test]
async fn a_shuffled_chain_and_a_bag_hold_the_same() {
    let openssl = require!(locate("openssl").await);
    let sim = SectigoSim::builder().chain_order(ChainOrder::Shuffled).start().await.unwrap();
    let id = enroll(&sim, &request("shop.example").0).await;
    let get = async |format: &str| {
        let (_, text) = ask(&sim, "GET", &format!("ssl/v1/collect/{id}/{format}"), Value::Null).await;
        text.as_str().unwrap().to_owned()
    };
    let (chain, leaf) = (get("x509").await, get("x509CO").await);
    assert_eq!(chain, [sim.issuer_pem(), &leaf, sim.root_pem()].concat());

    let mut command = Command::new(openssl);
    command.args(["pkcs7", "-print_certs"]);
    let output = process::run(command, get("base64").await.as_bytes()).await.unwrap();
    let read =
        |text: &str| pem::parse_many(text).unwrap().into_iter().map(|one| one.into_contents()).collect::<Vec<_>>();
    assert_eq!(read(std::str::from_utf8(&output.stdout).unwrap()), read(&chain));
}
