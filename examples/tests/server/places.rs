//! Keys in other places, and several servers.

use std::path::Path;
use std::process::Command;

use certlib_testkit::counterpart::{Postgres, SoftHsm};
use certlib_testkit::require;
use certlib_testkit::vault::VaultSim;
use serde_json::{Value, json};

use crate::child::{Said, command, key_file, run, serve, write_key_file};
use crate::keys::{Http, certificate, with_key};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_move_from_a_file_to_an_hsm_and_on_to_vault_while_the_server_runs() {
    let hsm = require!(SoftHsm::start("certlib").await);
    let vault = VaultSim::start().await.unwrap();
    vault.write("sys/mounts/transit", json!({ "type": "transit" })).unwrap();
    vault.write("transit/keys/certlib", json!({})).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let running = serve(&mut command(data, &[]));
    let token = Http::of(&running, None).token;
    assert_eq!(running.end("TERM").0, Some(0));

    let file = data.join("server.toml");
    let toml = format!(
        "[kek.pkcs11]\nmodule = {:?}\ntoken = {{ label = {:?} }}\n\
         [kek.vault_transit]\naddress = {:?}\nkeys = [{{ name = \"certlib\", first_version = 3 }}]\n",
        hsm.module(),
        hsm.label(),
        vault.address()
    );
    std::fs::write(&file, toml).unwrap();
    let (name, value) = hsm.environment();
    let with = |arguments: &[&str]| -> Command {
        let mut command = command(data, arguments);
        command.env("CERTLIB_CONFIG", &file).env(name, &value).env("CERTLIB_PKCS11_PIN", hsm.pin());
        command.env("CERTLIB_VAULT_TOKEN", vault.root_token());
        command
    };
    let kek = |arguments: &[&str]| -> Said { run(&mut with(&[&["kek"], arguments].concat())) };

    let mut running = serve(&mut with(&[]));
    let http = Http::of(&running, Some(&token));
    let path = certificate(&http).await;
    let material = with_key(&http, &path).await;
    let made = kek(&["generate", "--version", "2", "--pkcs11"]).expect(0);
    assert!(made.out.starts_with("v2 (pkcs11, "), "{made:?}");
    running.signal("HUP");
    let line = running.until("a key was added");
    assert!(line.contains("\"version\":2") && line.contains("pkcs11"), "{line}");
    for (version, provider) in [(2, "pkcs11"), (3, "vault-transit")] {
        kek(&["rotate", "--to-version", &version.to_string(), "--wait"]).expect(0);
        let status = kek(&["status", "--json"]).expect(0).json();
        assert_eq!(
            (&status["primary"]["version"], &status["primary"]["provider"]),
            (&json!(version), &json!(provider))
        );
        assert_eq!(with_key(&http, &path).await, material);
    }
    // And nothing else is needed any more.
    kek(&["remove", "--version", "1", "--yes"]).expect(0);
    kek(&["remove", "--version", "2", "--yes"]).expect(0);
    std::fs::remove_file(data.join("kek")).unwrap();
    running.signal("HUP");
    running.until("a key was removed");
    let (code, said) = running.end("TERM");
    assert_eq!(code, Some(0), "{said}");
    for secret in [hsm.pin(), vault.root_token()] {
        assert!(!said.contains(secret), "{said}");
    }
    let running = serve(&mut with(&[]));
    assert_eq!(with_key(&Http::of(&running, Some(&token)), &path).await, material);
    assert_eq!(running.end("TERM").0, Some(0));
    assert!(!data.join("kek").exists(), "a key in Vault is a key");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_waits_for_every_server_of_a_shared_database() {
    let postgres = require!(Postgres::builder().durable().start().await);
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (format!("v1 {}\n", "ab12".repeat(16)), format!("v2 {}\n", "cd34".repeat(16)));
    let data = ["a", "b"].map(|name| folder.path().join(name));
    let with = |data: &Path, arguments: &[&str]| -> Command {
        let mut command = command(data, arguments);
        command.env("CERTLIB_DATABASE_URL", postgres.url());
        command.env("CERTLIB_INSTANCE_NAME", data.file_name().unwrap());
        command
    };
    // No server makes a key for a database that others may use.
    std::fs::create_dir(&data[0]).unwrap();
    run(&mut with(&data[0], &[])).expect_refusal(1, "kek_missing");
    std::fs::create_dir(&data[1]).unwrap();
    data.iter().for_each(|data| write_key_file(data, &old));
    let mut first = serve(&mut with(&data[0], &[]));
    let mut second = serve(&mut with(&data[1], &[]));
    let http = Http::of(&first, None);
    let path = certificate(&http).await;
    let material = with_key(&http, &path).await;
    let kek = |arguments: &[&str]| -> Said { run(&mut with(&data[0], &[&["kek"], arguments].concat())) };

    write_key_file(&data[0], &format!("{old}{new}"));
    first.signal("HUP");
    first.until("a key was added");
    let begun = kek(&["rotate", "--to-version", "2"]).expect(0);
    assert!(begun.err.contains("b/"), "it says who lacks the key: {begun:?}");
    let lacking = kek(&["verify", "--target", "2"]).expect(1);
    assert!(lacking.out.contains("lacks  b/"), "{lacking:?}");
    let status = http.get("/api/v1/settings/keyring").await;
    assert_eq!((&status["primary"]["version"], &status["rotation"]["phase"]), (&json!(1), &json!("prepare")));

    write_key_file(&data[1], &format!("{old}{new}"));
    second.signal("HUP");
    second.until("a key was added");
    let start = std::time::Instant::now();
    let done = loop {
        let status = http.get("/api/v1/settings/keyring").await;
        if status["rotation"] == Value::Null {
            break status;
        }
        assert!(start.elapsed() < crate::child::PATIENCE, "{status:#}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    assert_eq!((&done["primary"]["version"], &done["retired"][0]["version"]), (&json!(2), &json!(1)));
    let other = Http::of(&second, Some(&http.token));
    assert_eq!(with_key(&other, &path).await, material);
    assert!(key_file(&data[0]).contains("v2 "));
    for server in [first, second] {
        let (code, said) = server.end("TERM");
        assert_eq!(code, Some(0), "{said}");
        assert!(!said.contains(&postgres.url()), "{said}");
    }
}
