//! A real BIG-IP, where `F5_ADDR` (a URL), `F5_USER`, `F5_PASSWORD` and `F5_PROFILE` (a client-ssl profile made for this
//! test, such as `/Common/certlib_test`) name one. Its certificate is not verified. Everything is taken back.

use std::env;

use certlib_core::module::RollbackOutcome;
use serde_json::json;

use crate::common::{Subject, certificate, journal, served};

#[tokio::test]
async fn a_real_unit_takes_a_certificate_and_gives_it_back() {
    let variable = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let Some(url) = variable("F5_ADDR") else {
        eprintln!("left out: a real BIG-IP (F5_ADDR)");
        return;
    };
    let needed = |name: &str| variable(name).unwrap_or_else(|| panic!("{name} must be set along with F5_ADDR"));
    let config = json!({
        "connection": {
            "tls": { "insecure_skip_verify": true, "acknowledge_insecure": true },
            "addresses": { "allow": ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"], "allow_loopback": true },
            "timeouts": { "response_ms": 60_000, "total_ms": 120_000 },
        },
    });
    let location = json!({ "url": url, "profiles": [{ "name": needed("F5_PROFILE") }] });
    let credentials = json!({ "username": needed("F5_USER"), "password": needed("F5_PASSWORD") });
    let subject = Subject::new("f5", config, location, Some(credentials));
    let (_, bundle) = certificate(&["certlib-test.example"]);
    let (plan, log) = (subject.plan(&bundle).await.unwrap(), journal());
    println!("{plan}");
    subject.execute(&bundle, plan, &log).await.unwrap();
    let validation = subject.validate(&bundle).await.unwrap();
    let again = subject.plan(&bundle).await.unwrap();
    let outcome = subject.rollback(&log).await.unwrap();
    assert!(served(&validation), "{validation:?}");
    assert!(!again.changes_anything(), "{again}");
    assert_eq!(outcome, RollbackOutcome::RolledBack);
    assert!(!served(&subject.validate(&bundle).await.unwrap()));
    assert_eq!(subject.rollback(&log).await.unwrap(), RollbackOutcome::NothingToDo);
}
