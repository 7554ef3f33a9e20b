//! The simulated Huawei Cloud, seen by the vendor's SDK, by TLS clients, and under faults.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod faults;

use std::process::Command;
use std::time::Duration;

use aws_lc_rs::digest;
use certlib_testkit::{
    huawei::{CdnSource, HuaweiSim},
    locate::locate,
    pki::{Issued, TestCa},
    process, require, tls,
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::{Value, json};

const SCRIPT: &str = include_str!("sdk_client.py");
const NAMES: [&str; 2] = ["shop.example.com", "www.shop.example.com"];

fn sha1(issued: &Issued) -> String {
    let der = CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes()).unwrap();
    let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &der);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn described(issued: &Issued, names: &[&str]) -> Value {
    json!({
        "leaf": issued.certificate_pem,
        "chain": issued.issuer_pem,
        "key": issued.key_pem,
        "names": names,
        "sha1": sha1(issued),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_vendors_sdk_finds_what_it_expects() {
    let python = require!(locate("huaweicloudsdk").await);
    let cloud = HuaweiSim::builder().tls().cdn_settles(Duration::from_secs(1)).start().await.unwrap();
    let ca = TestCa::new("root").unwrap();
    let others = ["other.example.com"];
    let certificates: Vec<Value> =
        [&NAMES[..], &NAMES[..], &others[..]].map(|names| described(&ca.issue(names).unwrap(), names)).to_vec();
    cloud.add_access_key("TEMPORARY", "temporary-secret", Some("temporary-token"));
    let first = ca.issue(&NAMES).unwrap();
    let elb = cloud.put_elb_certificate("elb-first", &first).unwrap();
    let listener = cloud.add_listener("HTTPS", Some(&elb), &[]).unwrap();
    let waf = cloud.put_waf_certificate("waf-first", &first).unwrap();
    let host = cloud.add_waf_host("shop.example.com", false, Some(&waf)).unwrap();
    let dedicated = cloud.add_waf_host("www.shop.example.com", true, Some(&waf)).unwrap();
    cloud.add_cdn_domain("shop.example.com").unwrap();

    let folder = tempfile::tempdir().unwrap();
    let (script, root) = (folder.path().join("sdk_client.py"), folder.path().join("ca.pem"));
    std::fs::write(&script, SCRIPT).unwrap();
    std::fs::write(&root, cloud.ca_pem().unwrap()).unwrap();
    let mut command = Command::new(python);
    command.arg(script).arg(cloud.url()).arg(root);
    command.args([cloud.project_id(), cloud.account_id(), cloud.region(), &listener, &host, &dedicated]);
    command.arg("shop.example.com");
    let input = json!({
        "access_key": cloud.access_key(),
        "secret_key": cloud.secret_key(),
        "temporary_key": "TEMPORARY",
        "temporary_secret": "temporary-secret",
        "temporary_token": "temporary-token",
        "certificates": certificates,
    });
    let output = process::run(command, input.to_string().as_bytes()).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let checks: usize = text.trim().strip_suffix(" checks").unwrap_or_else(|| panic!("{text}")).parse().unwrap();
    assert!(checks >= 100, "only {checks} checks");
}

#[tokio::test]
async fn a_listener_serves_what_it_refers_to() {
    let cloud = HuaweiSim::start().await.unwrap();
    let ca = TestCa::new("root").unwrap();
    let (default, exact) = (ca.issue(&["default.example.com"]).unwrap(), ca.issue(&["a.example.com"]).unwrap());
    let wild = ca.issue(&["*.b.example.com"]).unwrap();
    let ids = [&default, &exact, &wild].map(|issued| cloud.put_elb_certificate("one", issued).unwrap());
    let listener = cloud.add_listener("HTTPS", Some(&ids[0]), &[&ids[1], &ids[2]]).unwrap();
    let address = cloud.listener_address(&listener).unwrap();
    for (name, expected) in [
        ("default.example.com", &default),
        ("a.example.com", &exact),
        ("x.b.example.com", &wild),
        ("x.y.b.example.com", &default),
        ("elsewhere.example.com", &default),
    ] {
        assert_eq!(tls::leaf_fingerprint(address, name).await.unwrap(), expected.fingerprint, "{name}");
    }
    cloud.point_listener(&listener, &ids[1], &[]).unwrap();
    assert_eq!(tls::leaf_fingerprint(address, "x.b.example.com").await.unwrap(), exact.fingerprint);
    let renewed = ca.issue(&["a.example.com"]).unwrap();
    cloud.replace_elb_certificate(&ids[1], &renewed).unwrap();
    assert_eq!(tls::leaf_fingerprint(address, "a.example.com").await.unwrap(), renewed.fingerprint, "in place");
    cloud.delete_elb_certificate(&ids[1]);
    assert!(tls::leaf_fingerprint(address, "a.example.com").await.is_err(), "nothing to serve");
}

#[tokio::test]
async fn hosts_and_domains_serve_too() {
    let cloud = HuaweiSim::start().await.unwrap();
    let ca = TestCa::new("root").unwrap();
    let (one, two) = (ca.issue(&["a.example.com"]).unwrap(), ca.issue(&["a.example.com"]).unwrap());
    let waf = cloud.put_waf_certificate("one", &one).unwrap();
    let host = cloud.add_waf_host("a.example.com", false, Some(&waf)).unwrap();
    let address = cloud.waf_host_address(&host).unwrap();
    assert_eq!(tls::leaf_fingerprint(address, "a.example.com").await.unwrap(), one.fingerprint);

    cloud.add_cdn_domain("a.example.com").unwrap();
    let address = cloud.cdn_address("a.example.com").unwrap();
    assert!(tls::leaf_fingerprint(address, "a.example.com").await.is_err(), "HTTPS is off");
    let scm = cloud.import_scm("two", &two).unwrap();
    cloud.set_cdn_certificate("a.example.com", CdnSource::Scm(&scm)).unwrap();
    assert_eq!(tls::leaf_fingerprint(address, "a.example.com").await.unwrap(), two.fingerprint);
    cloud.set_cdn_certificate("a.example.com", CdnSource::Own("one", &one)).unwrap();
    assert_eq!(tls::leaf_fingerprint(address, "a.example.com").await.unwrap(), one.fingerprint);
}
