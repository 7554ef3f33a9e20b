//! The simulated CertCentral, seen by the handler of acme2certifier and by a plain HTTP client.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod control;
mod faults;
mod lists;
mod orders;
mod support;

use std::process::Command;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use certlib_testkit::{
    digicert::{Approvals, Course, DigiCertSim, KeyRole},
    locate::locate,
    process, require,
};

const SCRIPT: &str = include_str!("acme2certifier.py");

/// Runs the handler with a key and a product; the number of checks that it passed.
async fn handler(python: &std::path::Path, ca: &DigiCertSim, key: &str, product: &str, arguments: &[&str]) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str| std::fs::write(folder.path().join(name), content).unwrap();
    write("script.py", SCRIPT);
    write("ca.pem", ca.ca_pem().unwrap());
    let (_, der) = support::request_der(&["one.example.com"]);
    write("one.b64", &URL_SAFE_NO_PAD.encode(der));
    let config = format!(
        "[CAhandler]\napi_url: {}/\napi_key: {key}\norganization_name: Simulated, Inc.\ncert_type: {product}\n\
         request_retries: 0\n",
        ca.url()
    );
    write("config", &config);
    let mut command = Command::new(python);
    command.arg(folder.path().join("script.py")).arg(folder.path()).args(arguments).current_dir(folder.path());
    let output = process::run(command, b"").await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().last().and_then(|line| line.strip_suffix(" checks")?.parse().ok()).unwrap_or_else(|| panic!("{text}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_handler_of_acme2certifier_enrolls_and_revokes() {
    let python = require!(locate("acme2certifier").await);
    let ca = DigiCertSim::start().await.unwrap();
    assert_eq!(handler(&python, &ca, ca.api_key(), "ssl_basic", &["issue"]).await, 15);
    assert_eq!(ca.count("POST", "order/certificate/ssl_basic"), 1);
    assert_eq!(ca.count("PUT", "/revoke"), 2);
    let [order] = ca.orders().try_into().unwrap();
    assert_eq!((order.status.as_str(), order.common_name.as_str()), ("revoked", "one.example.com"));

    ca.set_course(Course::default().pending(1));
    assert_eq!(handler(&python, &ca, ca.api_key(), "ssl_basic", &["pending"]).await, 1);
    ca.set_course(Course::default());
    ca.set_approvals(Approvals::Skippable);
    assert_eq!(handler(&python, &ca, ca.api_key(), "ssl_basic", &["pending"]).await, 1);
    let statuses: Vec<_> = ca.orders().into_iter().map(|order| order.status).collect();
    assert_eq!(statuses, ["revoked", "pending", "needs_approval"]);

    assert_eq!(handler(&python, &ca, ca.api_key(), "no_such", &["refused", "not_found|product"]).await, 2);
    ca.add_key("READER", KeyRole::ViewOnly);
    assert_eq!(handler(&python, &ca, "READER", "ssl_basic", &["refused", "missing_permission"]).await, 2);
}
