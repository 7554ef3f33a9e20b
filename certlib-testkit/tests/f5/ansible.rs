//! `f5_modules`, F5's own collection for Ansible, finds what it expects.

use std::{net::Ipv4Addr, process::Command};

use certlib_testkit::{
    f5::{F5Sim, Role},
    locate::locate,
    pki::TestCa,
    process, require, tls,
};
use serde_json::json;

const PLAYBOOK: &str = include_str!("f5_modules.yml");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ansible_finds_what_it_expects() {
    let ansible = require!(locate("ansible-playbook").await);
    let bigip = F5Sim::builder()
        .folder("/Tenant")
        .device_group("pair")
        .user("watcher", "watcher-password", Role::Guest)
        .start()
        .await
        .unwrap();
    let ca = TestCa::new("root").unwrap();
    let (one, two) = (ca.issue(&["shop.example"]).unwrap(), ca.issue(&["shop.example"]).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str| std::fs::write(folder.path().join(name), content).unwrap();
    write("playbook.yml", PLAYBOOK);
    write("ca.pem", bigip.ca_pem());
    write("chain.crt", ca.certificate_pem());
    for (name, issued) in [("one", &one), ("two", &two)] {
        write(&format!("{name}.crt"), &issued.certificate_pem);
        write(&format!("{name}.key"), &issued.key_pem);
    }
    let variables = json!({
        "server": Ipv4Addr::LOCALHOST,
        "port": bigip.addr().port(),
        "user": F5Sim::USER,
        "password": F5Sim::PASSWORD,
        "other": "watcher",
        "other_password": "watcher-password",
        "folder": folder.path(),
        "ansible_python_interpreter": "auto_silent",
    });
    let mut command = Command::new(ansible);
    command
        .args(["-i", "localhost,", "-e"])
        .arg(variables.to_string())
        .arg(folder.path().join("playbook.yml"))
        .env("HOME", folder.path())
        .env("ANSIBLE_LOCAL_TEMP", folder.path().join("local"))
        .env("ANSIBLE_REMOTE_TEMP", folder.path().join("remote"))
        .env("ANSIBLE_NOCOLOR", "1")
        .env("ANSIBLE_PIPELINING", "1")
        .env("ANSIBLE_RETRY_FILES_ENABLED", "0")
        .env("F5_TELEMETRY_OFF", "1")
        .env("SSL_CERT_FILE", folder.path().join("ca.pem"))
        .env("LC_ALL", "C.UTF-8");
    for variable in ["F5_SERVER", "F5_SERVER_PORT", "F5_USER", "F5_PASSWORD", "F5_PARTITION", "F5_TEEM"] {
        command.env_remove(variable);
    }
    let output = process::run(command, b"").await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let recap = text.lines().rev().find(|line| line.starts_with("localhost")).unwrap_or_else(|| panic!("{text}"));
    let number = |name: &str| -> usize {
        let field = recap.split_whitespace().find_map(|field| field.strip_prefix(name)).unwrap();
        field.parse().unwrap()
    };
    assert_eq!((number("failed="), number("unreachable=")), (0, 0), "{text}");
    assert!(number("ok=") >= 44, "only {recap}");
    // What Ansible put in place is really served, and would be after a reboot.
    let web = bigip.virtual_address("/Common/web").unwrap();
    assert_eq!(tls::leaf_fingerprint(web, "shop.example").await.unwrap(), two.fingerprint);
    assert!(bigip.is_saved());
    assert_eq!(bigip.live_tokens(), 0, "every module has logged out");
    let longer = |record: &certlib_testkit::f5::Record| record.method == "PATCH" && record.path.contains("tokens/");
    let history = bigip.history();
    assert!(history.iter().any(longer) && history.iter().any(|record| record.coordination.is_some()));
}
