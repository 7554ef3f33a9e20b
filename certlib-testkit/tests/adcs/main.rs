//! Simulated AD Certificate Services, seen by two Python clients of the web pages, and by a plain client of the policy
//! and enrolment services.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod client;
mod enrolment;
mod faults;
mod pages;
mod policies;
mod renewals;

use std::{path::Path, process::Command};

use certlib_testkit::{
    adcs::{AdcsSim, AdcsSimBuilder, Disposition, Hardening, Hresult, Operation, Template},
    locate::locate,
    pki::TestCa,
    process, require,
};

const CERTSRV: &str = include_str!("certsrv_client.py");
const MSCERTSRV: &str = include_str!("mscertsrv_client.py");
const USER: &str = "svc-certs";
const PASSWORD: &str = "Pässw0rd!";
const OTHER: &str = "somebody";
const OTHER_PASSWORD: &str = "el5e";

/// Services with two accounts and a template for every outcome.
fn builder() -> AdcsSimBuilder {
    AdcsSim::builder()
        .user(USER, PASSWORD)
        .user(OTHER, OTHER_PASSWORD)
        .template(Template::new("WebServer"))
        .template(Template::new("Approved").manager_approval().renews_without_approval())
        .template(Template::new("OthersOnly").only_for(&[OTHER]))
        .template(Template::new("Agents").signatures(1))
        .template(Template::new("Machine").subject_from_directory().purposes(&["1.3.6.1.5.5.7.3.2"]))
}

/// Runs a Python client and gives the words of its last line.
async fn run(python: &Path, script: &str, arguments: &[&str], input: &str, folder: &Path) -> Vec<String> {
    let path = folder.join("client.py");
    std::fs::write(&path, script).unwrap();
    let mut command = Command::new(python);
    command.arg(path).args(arguments).env("PYTHONUTF8", "1");
    for variable in ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
        command.env_remove(variable);
    }
    let output = process::run(command, input.as_bytes()).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().last().unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certsrv_finds_what_it_expects() {
    let python = require!(locate("certsrv").await);
    let folder = tempfile::tempdir().unwrap();
    let issued = TestCa::new("clients").unwrap().issue(&["client"]).unwrap();
    let services = builder()
        .certificate_user(&issued.certificate_pem, USER)
        .hardening(Hardening::Strict)
        .ca_renewals(2)
        .first_request_id(41)
        .start()
        .await
        .unwrap();
    let file = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name).display().to_string()
    };
    let files = [
        file("ca.pem", services.ca_pem()),
        file("client.pem", &issued.certificate_pem),
        file("client.key", &issued.key_pem),
    ];
    let address = services.addr().to_string();
    let mut arguments = vec![address.as_str()];
    arguments.extend(files.iter().map(String::as_str));
    arguments.push("first");
    let input = format!("{USER} {PASSWORD} {OTHER} {OTHER_PASSWORD}");
    let words = run(&python, CERTSRV, &arguments, &input, folder.path()).await;
    let [approved, denied, checks] = words.as_slice() else { panic!("{words:?}") };
    let checks: usize = checks.parse().unwrap();
    assert!(checks >= 139, "only {checks} checks");

    let (issued, refused) = (approved.parse().unwrap(), denied.parse().unwrap());
    services.approve(issued).unwrap();
    services.deny(refused).unwrap();
    assert!(services.deny(refused).is_err() && services.approve(refused).is_err(), "a decision is final");
    assert_eq!(services.request(refused).unwrap().disposition, Disposition::Denied(Hresult::ADMIN_DENIED));
    arguments.pop();
    arguments.extend(["then", approved.as_str(), denied.as_str()]);
    let words = run(&python, CERTSRV, &arguments, &input, folder.path()).await;
    assert_eq!(words, ["4"]);

    let history = services.history();
    for scheme in ["Basic", "NTLM", "Certificate"] {
        assert!(history.iter().any(|record| record.scheme == Some(scheme) && record.operation == Operation::Submit));
    }
    assert!(services.requests().iter().all(|request| request.id >= 41));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acme2certifiers_handler_finds_what_it_expects() {
    let python = require!(locate("acme2certifier").await);
    let folder = tempfile::tempdir().unwrap();
    let services = builder().start().await.unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, services.ca_pem()).unwrap();
    let (address, ca) = (services.addr().to_string(), ca.display().to_string());
    let input = format!("{USER} {PASSWORD}");
    let words = run(&python, MSCERTSRV, &[&address, &ca], &input, folder.path()).await;
    let [checks, word] = words.as_slice() else { panic!("{words:?}") };
    assert_eq!(word, "checks");
    let checks: usize = checks.parse().unwrap();
    assert!(checks >= 48, "only {checks} checks");
    assert_eq!(services.count(Operation::Submit), 7);
}
