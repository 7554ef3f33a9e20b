//! The simulated NetScaler, seen by Ansible's module for NITRO, by TLS clients, and by a plain HTTP client.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{process::Command, time::Duration};

use certlib_testkit::{
    locate::locate,
    netscaler::{AdminCall, Fault, Injection, NetscalerSim},
    pki::{Issued, TestCa},
    process, require, tls,
};
use http::Method;
use serde_json::{Value, json};

const PLAYBOOK: &str = include_str!("nitro_request.yml");

/// Status and body of the answer to a request that logs in by headers.
async fn ask(url: &str, ca: &str, method: Method, path: &str, body: Value) -> (u16, Value) {
    let client = tls::http_client(ca).unwrap();
    let mut request = client
        .request(method, format!("{url}/nitro/v1/config/{path}"))
        .header("x-nitro-user", "nsroot")
        .header("x-nitro-pass", "nsroot-password");
    if !body.is_null() {
        request = request.body(body.to_string());
    }
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or(Value::Null))
}

async fn get(sim: &NetscalerSim, path: &str) -> (u16, Value) {
    ask(sim.url(), sim.ca_pem().unwrap(), Method::GET, path, Value::Null).await
}

fn pair() -> (TestCa, Issued, Issued) {
    let ca = TestCa::new("root").unwrap();
    let (one, two) = (ca.issue(&["shop.example"]).unwrap(), ca.issue(&["shop.example"]).unwrap());
    (ca, one, two)
}

/// The appliance of most tests: `shop`, bound to `web`.
async fn shop() -> (NetscalerSim, TestCa, Issued) {
    let sim = NetscalerSim::builder().high_availability().vserver("", "web").start().await.unwrap();
    let (ca, one, _) = pair();
    sim.put_pair("", "shop", &one.certificate_pem, &one.key_pem).unwrap();
    sim.bind("", "web", "shop", false).unwrap();
    (sim, ca, one)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ansible_finds_what_it_expects() {
    let ansible = require!(locate("ansible-playbook").await);
    let sim = NetscalerSim::builder().partition("tenant").vserver("", "web").start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let root = TestCa::new("root").unwrap();
    let upper = root.intermediate("upper").unwrap();
    let lower = upper.intermediate("lower").unwrap();
    let mut certificates = serde_json::Map::new();
    let mut put = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        certificates.insert(name.to_owned(), json!(path));
    };
    put("upper.cer", upper.certificate_pem());
    put("lower.cer", lower.certificate_pem());
    let domains =
        [("one", "shop.example"), ("two", "shop.example"), ("other", "other.example"), ("other2", "other.example")];
    let mut two = String::new();
    for (name, domain) in domains {
        let issued = lower.issue(&[domain]).unwrap();
        put(&format!("{name}.cer"), &issued.certificate_pem);
        put(&format!("{name}.key"), &issued.key_pem);
        if name == "two" {
            two = issued.fingerprint;
        }
    }
    let (playbook, ca) = (folder.path().join("playbook.yml"), folder.path().join("ca.pem"));
    std::fs::write(&playbook, PLAYBOOK).unwrap();
    std::fs::write(&ca, sim.ca_pem().unwrap()).unwrap();
    let variables = json!({
        "nsip": sim.addr().to_string(),
        "user": sim.user(),
        "password": sim.password(),
        "certificates": certificates,
        "ansible_python_interpreter": "auto_silent",
    });
    let mut command = Command::new(ansible);
    command
        .args(["-i", "localhost,", "-e"])
        .arg(variables.to_string())
        .arg(playbook)
        .env("HOME", folder.path())
        .env("ANSIBLE_LOCAL_TEMP", folder.path().join("local"))
        .env("ANSIBLE_REMOTE_TEMP", folder.path().join("remote"))
        .env("ANSIBLE_NOCOLOR", "1")
        .env("ANSIBLE_RETRY_FILES_ENABLED", "0")
        .env("SSL_CERT_FILE", &ca)
        .env("LC_ALL", "C.UTF-8")
        .env_remove("NETSCALER_NSIP")
        .env_remove("NETSCALER_NITRO_USER")
        .env_remove("NETSCALER_NITRO_PASS");
    let output = process::run(command, b"").await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let recap = text.lines().rev().find(|line| line.starts_with("localhost")).unwrap_or_else(|| panic!("{text}"));
    let number = |name: &str| -> usize {
        let field = recap.split_whitespace().find_map(|field| field.strip_prefix(name)).unwrap();
        field.parse().unwrap()
    };
    assert_eq!((number("failed="), number("unreachable=")), (0, 0), "{text}");
    assert!(number("ok=") >= 50, "only {recap}");
    // What Ansible bound is really served, with the chain as it was before the last task took it apart.
    let web = sim.vserver("", "web").unwrap();
    assert_eq!(tls::leaf_fingerprint(web, "shop.example").await.unwrap(), two);
    assert!(sim.history().iter().any(|record| record.query.starts_with("filter=cert:")));
}

#[tokio::test]
async fn a_handshake_shows_what_is_bound_at_that_moment() {
    let (sim, ca, one) = shop().await;
    let web = sim.vserver("", "web").unwrap();
    assert_eq!(tls::leaf_fingerprint(web, "shop.example").await.unwrap(), one.fingerprint);
    let other = ca.issue(&["other.example", "*.wild.example"]).unwrap();
    sim.put_pair("", "other", &other.certificate_pem, &other.key_pem).unwrap();
    sim.bind("", "web", "other", true).unwrap();
    for (name, wanted) in [("other.example", &other), ("a.wild.example", &other), ("shop.example", &one)] {
        assert_eq!(tls::leaf_fingerprint(web, name).await.unwrap(), wanted.fingerprint, "{name}");
    }
    let two = ca.issue(&["shop.example"]).unwrap();
    sim.put_pair("", "shop2", &two.certificate_pem, &two.key_pem).unwrap();
    sim.bind("", "web", "shop2", false).unwrap();
    assert_eq!(tls::leaf_fingerprint(web, "shop.example").await.unwrap(), two.fingerprint, "displaced");
    let unbind = AdminCall::delete("sslvserver_sslcertkey_binding/web?args=certkeyname:shop2");
    sim.call("", &unbind).unwrap();
    assert!(tls::leaf_fingerprint(web, "shop.example").await.is_err(), "nothing is bound");
}

#[tokio::test]
async fn a_file_that_changes_changes_nothing_until_it_is_loaded() {
    let (sim, ca, one) = shop().await;
    let web = sim.vserver("", "web").unwrap();
    let two = ca.issue(&["shop.example"]).unwrap();
    sim.put_file("", "shop.cer", two.certificate_pem.as_bytes());
    sim.put_file("", "shop.key", two.key_pem.as_bytes());
    assert_eq!(tls::leaf_fingerprint(web, "shop.example").await.unwrap(), one.fingerprint);
    sim.restart();
    assert_eq!(tls::leaf_fingerprint(web, "shop.example").await.unwrap(), two.fingerprint);
    sim.call("", &AdminCall::delete("systemfile/shop.key?args=filelocation:%2Fnsconfig%2Fssl")).unwrap();
    sim.restart();
    assert!(sim.certkeys("").is_empty(), "a pair without its files is lost");
}

#[tokio::test]
async fn what_is_not_saved_is_lost() {
    let (sim, ca, one) = shop().await;
    let two = ca.issue(&["shop.example"]).unwrap();
    sim.put_file("", "two.cer", two.certificate_pem.as_bytes());
    sim.put_file("", "two.key", two.key_pem.as_bytes());
    let before = sim.snapshot("");
    let fields = json!({ "certkey": "shop", "cert": "two.cer", "key": "two.key" });
    sim.call("", &AdminCall::post("sslcertkey?action=update", fields)).unwrap();
    assert!(sim.has_unsaved_changes(""));
    assert_ne!(sim.snapshot(""), before);
    sim.restart();
    assert_eq!(sim.snapshot(""), before);
    let web = sim.vserver("", "web").unwrap();
    assert_eq!(tls::leaf_fingerprint(web, "shop.example").await.unwrap(), one.fingerprint);
}

#[tokio::test]
async fn a_secondary_node_answers_and_forgets() {
    let (sim, _, _) = shop().await;
    let (peer, ca) = (sim.peer_url().unwrap().to_owned(), sim.ca_pem().unwrap().to_owned());
    let state = |body: &Value| body["hanode"][0]["state"].as_str().unwrap().to_owned();
    let (_, body) = ask(&peer, &ca, Method::GET, "hanode", Value::Null).await;
    assert_eq!((state(&body).as_str(), body["hanode"].as_array().unwrap().len()), ("Secondary", 2));
    let before = sim.snapshot("");
    let unbind = "sslvserver_sslcertkey_binding/web?args=certkeyname:shop";
    assert_eq!(ask(&peer, &ca, Method::DELETE, unbind, Value::Null).await.0, 200, "done, it says");
    assert_eq!(sim.snapshot(""), before, "and lost");
    sim.fail_over();
    let (_, body) = ask(&peer, &ca, Method::GET, "hanode", Value::Null).await;
    assert_eq!(state(&body), "Primary");
    assert_eq!(ask(&peer, &ca, Method::DELETE, unbind, Value::Null).await.0, 200);
    assert_ne!(sim.snapshot(""), before);
    let told: Vec<_> =
        sim.history().into_iter().filter(|one| one.is_change()).map(|one| (one.node, one.primary)).collect();
    assert_eq!(told, [(1, false), (1, true)]);
}

#[tokio::test]
async fn sessions_expire_by_its_clock() {
    let (sim, _, _) = shop().await;
    let client = tls::http_client(sim.ca_pem().unwrap()).unwrap();
    let url = format!("{}/nitro/v1/config", sim.url());
    let login = json!({ "login": { "username": "nsroot", "password": "nsroot-password", "timeout": 60 } });
    let answer = client.post(format!("{url}/login")).body(login.to_string()).send().await.unwrap();
    let cookie = answer.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let look = async || {
        let response = client.get(format!("{url}/sslcertkey")).header("cookie", &cookie).send().await.unwrap();
        let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
        body["errorcode"].as_u64().unwrap()
    };
    assert_eq!(look().await, 0, "the cookie as it was set");
    sim.advance(Duration::from_secs(50));
    assert_eq!(look().await, 0);
    sim.advance(Duration::from_secs(50));
    assert_eq!(look().await, 0, "it was used in between");
    sim.advance(Duration::from_secs(61));
    assert_eq!(look().await, 444);
    assert_eq!((sim.logins(), sim.sessions()), (1, 0));
}

#[tokio::test]
async fn faults_meet_what_they_are_meant_for() {
    let (sim, _, _) = shop().await;
    sim.inject(Injection::new(Fault::Refuse { status: 599, errorcode: 4711 }).on(Method::GET, "sslcertkey").times(1));
    assert_eq!(get(&sim, "sslcertkey/shop").await.1["errorcode"], 4711);
    assert_eq!(get(&sim, "sslcertkey/shop").await.1["errorcode"], 0);
    sim.inject(Injection::new(Fault::Busy { retry_after: Some(Duration::from_secs(3)) }).times(1));
    assert_eq!(get(&sim, "hanode").await.0, 503);
    sim.inject(Injection::new(Fault::AnotherAdmin(vec![AdminCall::delete("sslcertkey/shop")])).times(1));
    assert_eq!(get(&sim, "sslcertkey/shop").await.0, 200, "it is bound, so it stays");
    sim.inject(Injection::new(Fault::FailOver).times(1));
    assert_eq!(get(&sim, "hanode").await.1["hanode"][0]["state"], "Secondary");
    sim.deny("GET", "sslcertkey");
    let (status, body) = get(&sim, "sslcertkey").await;
    assert_eq!((status, body["errorcode"].as_u64()), (403, Some(2138)));
    sim.allow_everything();
    assert_eq!(get(&sim, "sslcertkey").await.0, 200);
}

#[tokio::test]
async fn older_builds_differ() {
    let sim = NetscalerSim::builder().older_build().start().await.unwrap();
    let (_, one, _) = pair();
    let (status, body) = get(&sim, "sslcertkey/shop").await;
    assert_eq!((status, body["errorcode"].as_u64()), (599, Some(1540)));
    let long = "x".repeat(32);
    assert!(sim.put_pair("", &long, &one.certificate_pem, &one.key_pem).is_err());
    let upload = |query: &str| {
        AdminCall::post(
            &format!("systemfile{query}"),
            json!({ "filename": "a", "filelocation": "/nsconfig/ssl", "filecontent": "QQ==" }),
        )
    };
    sim.call("", &upload("")).unwrap();
    assert!(sim.call("", &upload("?override=yes")).is_err(), "not known yet");
    let newer = NetscalerSim::builder().plain_http().start().await.unwrap();
    newer.call("", &upload("")).unwrap();
    newer.call("", &upload("?override=yes")).unwrap();
    assert!(newer.url().starts_with("http://") && newer.ca_pem().is_none());
}

#[tokio::test]
async fn an_encrypted_key_needs_its_pass_phrase() {
    let sim = NetscalerSim::builder().start().await.unwrap();
    let (_, one, _) = pair();
    sim.put_file("", "one.cer", one.certificate_pem.as_bytes());
    sim.put_locked_key("", "one.key", &one.key_pem, "sesame");
    let add = |more: Value| {
        let mut fields = json!({ "certkey": "shop", "cert": "one.cer", "key": "one.key" });
        fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        sim.call("", &AdminCall::post("sslcertkey", fields))
    };
    assert!(add(json!({})).unwrap_err().to_string().contains("1537"));
    assert!(add(json!({ "passplain": "wrong" })).is_err());
    add(json!({ "passplain": "sesame" })).unwrap();
    assert!(add(json!({ "passplain": "sesame" })).is_err());
}
