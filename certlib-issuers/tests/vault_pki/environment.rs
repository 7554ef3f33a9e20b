//! The server that the environment names is used, and left as it was.

use std::process::Command;

use certlib_testkit::process;
use certlib_testkit::vault::VaultSim;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_named_by_the_environment_is_used_and_left_as_it_was() {
    let vault = VaultSim::builder().tls().start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, vault.ca_pem().unwrap()).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "issues_what_was",
            "the_names_are",
            "what_a_role",
            "another_issuer",
            "what_vault_does",
            "is_revoked_once",
        ])
        .env("VAULT_ADDR", vault.address())
        .env("VAULT_TOKEN", vault.root_token())
        .env("VAULT_CACERT", ca);
    let output = process::run(command, b"").await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("6 passed"), "{text}");
    assert!(vault.count("certlib-test-") > 20);
    let mounts = vault.read("sys/mounts").unwrap();
    assert!(mounts.as_object().unwrap().is_empty(), "{:?}", mounts.as_object().unwrap().keys());
}
