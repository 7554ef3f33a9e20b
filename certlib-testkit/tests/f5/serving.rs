//! What virtual servers serve.

use certlib_testkit::{f5::F5Sim, pki::TestCa, tls::leaf_fingerprint};
use serde_json::json;

#[tokio::test]
async fn a_profile_selects_what_is_served() {
    let bigip = F5Sim::start().await.unwrap();
    let ca = TestCa::new("root").unwrap();
    let (one, two) = (ca.issue(&["shop.example"]).unwrap(), ca.issue(&["shop.example"]).unwrap());
    bigip.install("/Common/one", &one).unwrap();
    bigip.install("/Common/two", &two).unwrap();
    bigip.add_client_ssl("/Common/shop", &["/Common/one"]).unwrap();
    bigip.operate("POST", "tm/ltm/profile/client-ssl", json!({ "name": "child", "defaultsFrom": "shop" })).unwrap();
    let (own, child) = (
        bigip.add_virtual("/Common/vs", &["/Common/shop"]).unwrap(),
        bigip.add_virtual("/Common/vs_child", &["/Common/child"]).unwrap(),
    );
    assert_eq!(leaf_fingerprint(own, "shop.example").await.unwrap(), one.fingerprint);
    assert_eq!(leaf_fingerprint(child, "shop.example").await.unwrap(), one.fingerprint, "inherited");
    let entry = json!({ "name": "two", "cert": "/Common/two.crt", "key": "/Common/two.key" });
    let path = "tm/ltm/profile/client-ssl/~Common~shop";
    bigip.operate("PATCH", path, json!({ "certKeyChain": [entry] })).unwrap();
    assert_eq!(leaf_fingerprint(own, "shop.example").await.unwrap(), two.fingerprint);
    assert_eq!(leaf_fingerprint(child, "shop.example").await.unwrap(), two.fingerprint);
}

#[tokio::test]
async fn the_server_name_selects_the_profile() {
    let bigip = F5Sim::start().await.unwrap();
    let ca = TestCa::new("root").unwrap();
    let (one, two) = (ca.issue(&["a.example"]).unwrap(), ca.issue(&["b.example"]).unwrap());
    for (stem, issued) in [("/Common/a", &one), ("/Common/b", &two)] {
        bigip.install(stem, issued).unwrap();
        bigip.add_client_ssl(stem, &[stem]).unwrap();
    }
    let change = |name: &str, body| bigip.operate("PATCH", &format!("tm/ltm/profile/client-ssl/{name}"), body).unwrap();
    change("a", json!({ "serverName": "a.example" }));
    assert!(bigip.add_virtual("/Common/vs", &["/Common/a", "/Common/b"]).is_err(), "no default");
    change("b", json!({ "sniDefault": "true" }));
    let address = bigip.add_virtual("/Common/vs", &["/Common/a", "/Common/b"]).unwrap();
    assert_eq!(leaf_fingerprint(address, "a.example").await.unwrap(), one.fingerprint);
    assert_eq!(leaf_fingerprint(address, "other.example").await.unwrap(), two.fingerprint);
}

#[tokio::test]
async fn a_virtual_server_made_over_rest_listens_too() {
    let bigip = F5Sim::start().await.unwrap();
    let issued = TestCa::new("root").unwrap().issue(&["a.example"]).unwrap();
    bigip.install("/Common/a", &issued).unwrap();
    bigip.add_client_ssl("/Common/a", &["/Common/a"]).unwrap();
    let body = json!({ "name": "vs", "destination": "10.0.0.1:443", "profiles": ["http", "/Common/a"] });
    let (status, made) = crate::ask(&bigip, "POST", "tm/ltm/virtual", body).await;
    assert_eq!((status, &made["destination"]), (200, &json!("/Common/10.0.0.1:443")));
    let address = bigip.virtual_address("/Common/vs").unwrap();
    assert_eq!(leaf_fingerprint(address, "a.example").await.unwrap(), issued.fingerprint);
    let change = |body| bigip.operate("PATCH", "tm/ltm/virtual/vs", body).unwrap();
    let off = change(json!({ "disabled": true, "ipProtocol": 17, "description": "off" }));
    assert_eq!((&off["disabled"], off.get("enabled"), &off["ipProtocol"]), (&json!(true), None, &json!("udp")));
    assert!(leaf_fingerprint(address, "a.example").await.is_err(), "disabled");
    let on = change(json!({ "enabled": true }));
    assert_eq!((on.get("disabled"), &on["description"], &on["source"]), (None, &json!("off"), &json!("0.0.0.0/0")));
    assert_eq!(leaf_fingerprint(address, "a.example").await.unwrap(), issued.fingerprint);
    let refusal = bigip.operate("DELETE", "tm/ltm/profile/client-ssl/a", serde_json::Value::Null).unwrap_err();
    assert!(refusal.to_string().contains("01070265:3"), "{refusal}");
}
