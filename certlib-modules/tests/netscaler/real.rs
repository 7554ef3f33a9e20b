//! A real appliance, where there is one. The pair must exist, and may be changed: it is put back at the end.

use std::env;

use certlib_core::module::{RollbackOutcome, TargetSpec};
use certlib_testkit::pki::TestCa;
use serde_json::json;

use crate::support::{Delivered, NAME, Work, login, served};

#[tokio::test]
async fn delivers_to_a_real_appliance_and_back() {
    let Ok(addr) = env::var("NETSCALER_ADDR") else {
        eprintln!("left out: NETSCALER_ADDR is not set");
        return;
    };
    let wanted = |name: &str| env::var(name).unwrap_or_else(|_| panic!("{name} is not set, but NETSCALER_ADDR is"));
    // Whoever sets this knows the machine; its certificate is self-signed as a rule.
    let config = json!({
        "save": false,
        "connection": {
            "addresses": { "allow": ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"], "allow_loopback": true },
            "tls": { "insecure_skip_verify": true, "acknowledge_insecure": true },
        },
    });
    let url = if addr.contains("://") { addr } else { format!("https://{addr}") };
    let location = json!({ "url": url, "certkey": wanted("NETSCALER_CERTKEY") });
    let credentials = login(&wanted("NETSCALER_USER"), &wanted("NETSCALER_PASSWORD"));
    let mut work = Work::new(TargetSpec::new("t-1", "real", config, location, credentials));
    let root = TestCa::new("certlib test root").unwrap();
    let lower = root.intermediate("certlib test authority").unwrap();
    let new = Delivered::new(lower.issue(&[NAME]).unwrap(), &[&lower, &root]);
    let before = work.plan(&new.bundle()).await.unwrap();
    work.deliver(&new.bundle()).await.unwrap();
    assert!(served(&work.validate(&new.bundle()).await));
    assert!(!work.plan(&new.bundle()).await.unwrap().changes_anything());
    assert_eq!(work.rollback().await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!(work.plan(&new.bundle()).await.unwrap().base, before.base, "as it was");
}
