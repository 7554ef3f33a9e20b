//! What cannot work is said before anything is changed.

use certlib_core::ErrorClass;
use certlib_testkit::winrm::{CENTRAL_STORE, SNI, Windows};
use serde_json::{Value, json};

use crate::{SHOP, bundle, host_of_build, host_with, issue, state, subject};

#[tokio::test]
async fn machines_that_do_not_fit_are_named() {
    type Arrange = fn(&mut Windows);
    let table: [(&str, Arrange, Value, ErrorClass); 7] = [
        ("not_elevated", |windows| windows.elevated = false, json!({}), ErrorClass::Auth),
        (
            "iis_missing",
            |windows| {
                windows.modules.remove("WebAdministration");
            },
            json!({}),
            ErrorClass::Validation,
        ),
        ("site_missing", |_| {}, json!({ "bindings": [{ "site": "No" }] }), ErrorClass::Validation),
        ("binding_missing", |_| {}, json!({ "bindings": [{ "site": "Shop", "port": 1443 }] }), ErrorClass::Validation),
        ("endpoint_missing", |_| {}, json!({ "http_sys": [{ "endpoint": "localhost:1" }] }), ErrorClass::Validation),
        (
            "binding_uses_central_store",
            |windows| windows.add_binding(SHOP.0, "https", "*:446:localhost", SNI | CENTRAL_STORE).unwrap(),
            json!({ "bindings": [{ "site": "Shop", "host": "localhost", "port": 446 }] }),
            ErrorClass::Validation,
        ),
        (
            "name_not_covered",
            |_| {},
            json!({ "http_sys": [{ "endpoint": "other.test:443", "appid": crate::SERVICE_ID }] }),
            ErrorClass::Validation,
        ),
    ];
    for (code, arrange, location, class) in table {
        let host = host_with(&issue()).await;
        host.with(arrange);
        let before = state(&host);
        let mut subject = subject(&host, json!({}));
        subject.target.location.as_object_mut().unwrap().extend(location.as_object().unwrap().clone());
        let error = subject.plan(&bundle(&issue())).await.unwrap_err();
        assert_eq!((error.code(), error.class()), (code, class), "{error:?}");
        assert_eq!(state(&host), before);
    }
}

#[tokio::test]
async fn what_old_windows_cannot_do_is_named() {
    let binding = |host: &str| json!([{ "site": "Shop", "host": host, "port": 1443, "create": true }]);
    let legacy = json!({ "pfx": { "profile": "legacy" } });
    for (build, name, code) in [(7_601, "localhost", "sni_unsupported"), (9_600, "*.localhost", "wildcard_unsupported")]
    {
        let host = host_of_build(&issue(), build).await;
        let mut subject = subject(&host, legacy.clone());
        subject.target.location["bindings"] = binding(name);
        let ca = certlib_testkit::pki::TestCa::new("root").unwrap();
        let issued = ca.issue(&["localhost", "*.localhost"]).unwrap();
        assert_eq!(subject.plan(&bundle(&issued)).await.unwrap_err().code(), code);
    }
}

#[tokio::test]
async fn pools_and_keys_are_asked_for_first() {
    let host = host_with(&issue()).await;
    let error = subject(&host, json!({ "app_pools": ["No"] })).plan(&bundle(&issue())).await.unwrap_err();
    assert_eq!(error.code(), "pool_missing");
    let keyless = certlib_core::CertificateBundle::from_pem(issue().full_chain().as_bytes()).unwrap();
    let error = subject(&host, json!({})).plan(&keyless).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("key_missing", ErrorClass::Validation));
}

#[tokio::test]
async fn a_plan_of_before_is_stale() {
    let host = host_with(&issue()).await;
    let new = bundle(&issue());
    let subject = subject(&host, json!({}));
    let plan = subject.plan(&new).await.unwrap();
    // Somebody has imported the same certificate meanwhile.
    let undo = crate::common::journal();
    subject.deliver(&new, &undo).await.unwrap();
    let before = state(&host);
    let error = subject.execute(&new, plan, &crate::common::journal()).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("plan_stale", ErrorClass::Validation));
    assert_eq!(state(&host), before);
}

#[test]
fn settings_are_checked_without_the_machine() {
    let code = |config: Value, location: Value| {
        let credentials = json!({ "login": { "method": "ntlm", "user": "u", "password": "p" } });
        let subject = crate::common::Subject::new("iis", config, location, Some(credentials));
        subject.module.check(&subject.target).map_or_else(|error| error.code().to_owned(), |()| "fine".to_owned())
    };
    let url = "https://web.example.com:5986/wsman";
    let good = || json!({ "url": url, "bindings": [{ "site": "Shop" }] });
    let central = |rest: Value| json!({ "url": url, "central_store": rest });
    let table = [
        (json!({}), good(), "fine"),
        (json!({ "keep": 1 }), good(), "keep_invalid"),
        (json!({ "app_pools": ["a'b"] }), good(), "pool_invalid"),
        (json!({ "iisreset": true }), good(), "config_invalid"),
        (json!({}), json!({ "url": url }), "nothing_to_bind"),
        (json!({}), json!({ "url": url, "store": "Root", "bindings": [{ "site": "Shop" }] }), "location_invalid"),
        (json!({}), central(json!({ "directory": r"C:\ccs", "hosts": ["a.test"] })), "pfx_password_missing"),
        (json!({}), central(json!({ "directory": "ccs", "hosts": ["a.test"] })), "path_invalid"),
        (json!({}), central(json!({ "directory": r"C:\ccs", "hosts": ["a.test", "A.test"] })), "path_duplicate"),
        (json!({}), json!({ "url": "http://web.example.com/", "bindings": [{ "site": "Shop" }] }), "url_invalid"),
    ];
    for (config, location, expected) in table {
        assert_eq!(code(config.clone(), location.clone()), expected, "{config} {location}");
    }
}
