//! The simulated Windows host, seen by pywinrm, by pypsrp and by a plain client.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod client;
mod faults;
mod logins;
mod scripts;

use std::{path::Path, process::Command};

use certlib_testkit::{
    locate::locate,
    pki::TestCa,
    process, require,
    winrm::{WinRmSim, WinRmSimBuilder},
};

const PYWINRM: &str = include_str!("pywinrm_client.py");
const PYPSRP: &str = include_str!("pypsrp_client.py");
const USER: &str = "Administrator";
const PASSWORD: &str = "Pässw0rd!";

/// A host that the clients know: an account, and a certificate for it.
async fn host(folder: &Path) -> WinRmSim {
    let issued = TestCa::new("clients").unwrap().issue(&["client"]).unwrap();
    std::fs::write(folder.join("client.pem"), &issued.certificate_pem).unwrap();
    std::fs::write(folder.join("client.key"), &issued.key_pem).unwrap();
    let host = builder().certificate_user(&issued.certificate_pem, USER).start().await.unwrap();
    std::fs::write(folder.join("ca.pem"), host.ca_pem()).unwrap();
    host
}

fn builder() -> WinRmSimBuilder {
    WinRmSim::builder().user(USER, PASSWORD)
}

/// Runs a Python client and gives the number of its checks.
async fn run(python: &Path, script: &str, addresses: [String; 2], folder: &Path) -> usize {
    let path = folder.join("client.py");
    std::fs::write(&path, script).unwrap();
    let mut command = Command::new(python);
    command.arg(path).args(addresses);
    for file in ["ca.pem", "client.pem", "client.key"] {
        command.arg(folder.join(file));
    }
    for variable in ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
        command.env_remove(variable);
    }
    let output = process::run(command, format!("{USER} {PASSWORD}").as_bytes()).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.trim().strip_suffix(" checks").unwrap_or_else(|| panic!("{text}")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pywinrm_finds_what_it_expects() {
    let python = require!(locate("pywinrm").await);
    let folder = tempfile::tempdir().unwrap();
    let host = host(folder.path()).await;
    let checks = run(&python, PYWINRM, [host.https_url(), host.http_url()], folder.path()).await;
    assert!(checks >= 95, "only {checks} checks");
    assert_eq!(host.open_shells(), 0);
    assert!(logged_in_by(&host, &["Basic", "NTLM", "Certificate"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pypsrp_finds_what_it_expects() {
    let python = require!(locate("pypsrp").await);
    let folder = tempfile::tempdir().unwrap();
    let host = host(folder.path()).await;
    let ports = [host.https_addr().port().to_string(), host.http_addr().port().to_string()];
    let checks = run(&python, PYPSRP, ports, folder.path()).await;
    assert!(checks >= 53, "only {checks} checks");
    assert_eq!(host.open_shells(), 0);
    assert!(logged_in_by(&host, &["Basic", "Negotiate", "Certificate"]));
}

/// Whether these schemes were used, and messages were encrypted over HTTP.
fn logged_in_by(host: &WinRmSim, schemes: &[&str]) -> bool {
    let history = host.history();
    let used = |scheme: &&str| history.iter().any(|record| record.scheme == Some(scheme));
    schemes.iter().all(used)
        && history.iter().any(|record| !record.https && record.sealed && record.status == Some(200))
}
