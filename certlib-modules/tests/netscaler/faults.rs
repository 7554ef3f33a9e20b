//! The appliance, or the way to it, misbehaves.

use std::time::Duration;

use certlib_core::error::{Effect, ErrorClass};
use certlib_testkit::netscaler::{Fault, Injection};
use reqwest::Method;
use serde_json::json;

use crate::support::{NAME, Shop, endpoint, refused, served, take_theirs};

#[tokio::test]
async fn a_session_that_expires_is_renewed_once_wherever_it_happens() {
    let shop = Shop::new().await;
    let mut requests = 0;
    loop {
        let new = shop.pki.by_b();
        let work = shop.work(json!({ "endpoints": [endpoint(shop.web(), NAME)] }));
        let plan = work.plan(&new.bundle()).await.unwrap();
        let logins = shop.sim.logins();
        let seen = shop.sim.history().len();
        shop.sim.inject(Injection::new(Fault::SessionExpires).after(requests).times(1));
        work.execute(&new.bundle(), &plan).await.unwrap();
        assert!(served(&work.validate(&new.bundle()).await), "request {requests}");
        shop.sim.clear_faults();
        if u32::try_from(shop.sim.history().len() - seen).unwrap() <= requests {
            break;
        }
        assert!(shop.sim.logins() - logins <= 2, "request {requests}");
        work.rollback().await.unwrap();
        requests += 1;
    }
    assert!(requests > 20, "{requests}");
}

#[tokio::test]
async fn there_is_no_third_login() {
    let shop = Shop::new().await;
    let work = shop.work(json!({}));
    shop.sim.inject(Injection::new(Fault::SessionExpires).on(Method::GET, "sslcertkey"));
    let error = work.plan(&shop.pki.by_b().bundle()).await.unwrap_err();
    assert_eq!((error.class(), error.code(), error.effect()), (ErrorClass::Auth, "session_over", Effect::None));
    assert_eq!(shop.sim.logins(), 2);
}

#[tokio::test]
async fn an_idle_session_ends_by_the_clock_of_the_appliance() {
    let shop = Shop::new().await;
    let mut work = shop.work(json!({}));
    // Each request comes twenty minutes after the one before it: fifteen are allowed.
    shop.sim.advance(Duration::from_secs(1200));
    work.deliver(&shop.pki.by_b().bundle()).await.unwrap();
    assert_eq!(shop.sim.sessions(), 0, "closed when done");
}

#[tokio::test]
async fn a_lost_answer_is_found_out_at_once() {
    let shop = Shop::new().await;
    let cases = [
        (Method::POST, "systemfile"),
        (Method::POST, "sslcertkey"),
        (Method::POST, "sslcertkey?action=update"),
        (Method::POST, "sslcertkey?action=link"),
        (Method::POST, "sslcertkey?action=unlink"),
        (Method::POST, "nsconfig?action=save"),
        (Method::GET, "sslcertkey"),
        (Method::POST, "login"),
    ];
    for (method, resource) in cases {
        for fault in [Fault::LoseReply, Fault::LoseRequest] {
            let before = shop.sim.snapshot("");
            let new = shop.pki.by_b();
            let mut work = shop.work(json!({ "endpoints": [endpoint(shop.web(), NAME)] }));
            shop.sim.inject(Injection::new(fault.clone()).on(method.clone(), resource).times(1));
            if let Err(error) = work.deliver(&new.bundle()).await {
                // A login is not repeated blindly, the rest is.
                assert_eq!((resource, error.class()), ("login", ErrorClass::Network), "{error:?}");
                work.deliver(&new.bundle()).await.unwrap();
            }
            assert!(served(&work.validate(&new.bundle()).await), "{fault:?} {resource}");
            assert!(shop.is_trusted().await, "{fault:?} {resource}");
            work.rollback().await.unwrap();
            assert_eq!(shop.sim.snapshot(""), before, "{fault:?} {resource}");
        }
    }
}

#[tokio::test]
async fn lost_answers_about_bindings() {
    let shop = Shop::new().await;
    let resource = "sslvserver_sslcertkey_binding";
    for method in [Method::PUT, Method::DELETE, Method::GET] {
        let before = shop.sim.snapshot("");
        let new = shop.pki.by_b();
        let mut work = shop.work(json!({ "switch": "rebind", "endpoints": [endpoint(shop.web(), NAME)] }));
        shop.sim.inject(Injection::new(Fault::LoseReply).on(method.clone(), resource).times(1));
        work.deliver(&new.bundle()).await.unwrap();
        assert!(served(&work.validate(&new.bundle()).await), "{method}");
        work.rollback().await.unwrap();
        shop.sim.clear_faults();
        assert_eq!(shop.sim.snapshot(""), before, "{method}");
    }
}

#[tokio::test]
async fn busy_is_for_later_and_a_proxy_is_told_from_the_appliance() {
    let shop = Shop::new().await;
    let new = shop.pki.by_b();
    let mut work = shop.work(json!({}));
    let wait = Some(Duration::from_secs(7));
    shop.sim.inject(Injection::new(Fault::Busy { retry_after: wait }).on(Method::POST, "sslcertkey?action=update"));
    let error = work.deliver(&new.bundle()).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::IoTransient, "busy"), "{error:?}");
    assert_eq!((error.retry_after(), error.effect()), (wait, Effect::Possible));
    work.rollback().await.unwrap();
    shop.sim.clear_faults();

    let page = Fault::Answer { status: 200, body: "<html>log in</html>".to_owned() };
    shop.sim.inject(Injection::new(page).on(Method::GET, "sslcertkey").times(1));
    let error = work.plan(&new.bundle()).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::IoTransient, "answer_invalid"), "{error:?}");
    assert!(!format!("{error:?}").contains("html"));

    let gateway = Fault::Answer { status: 502, body: "Bad Gateway".to_owned() };
    shop.sim.inject(Injection::new(gateway).on(Method::POST, "login").times(1));
    let error = work.plan(&new.bundle()).await.unwrap_err();
    assert_eq!((error.class(), error.effect()), (ErrorClass::IoTransient, Effect::None), "{error:?}");
}

#[tokio::test]
async fn a_slow_appliance_is_waited_for_within_limits() {
    let shop = Shop::new().await;
    let new = shop.pki.by_b();
    let mut work = shop.work(json!({}));
    shop.sim.inject(Injection::new(Fault::Slow(Duration::from_millis(150))).on(Method::POST, "nsconfig?action=save"));
    work.deliver(&new.bundle()).await.unwrap();
    work.target.config["connection"]["timeouts"] = json!({ "response_ms": 50, "connect_ms": 50 });
    shop.sim.clear_faults();
    shop.sim.inject(Injection::new(Fault::Slow(Duration::from_secs(30))).on(Method::GET, "sslcertkey"));
    let error = work.plan(&new.bundle()).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::Network, "timeout"), "{error:?}");
}

/// Whenever another administrator updates the pair, theirs stays.
#[tokio::test]
async fn another_administrators_change_is_never_overwritten() {
    let mut noticed = 0;
    for at in 0.. {
        let shop = Shop::new().await;
        shop.meddle();
        // Back to what it was: the files are there for the fault.
        let fields = json!({ "certkey": "shop", "cert": "shop.cer", "key": "shop.key", "nodomaincheck": true });
        let back = certlib_testkit::netscaler::AdminCall::post("sslcertkey?action=update", fields);
        shop.sim.call("", &back).unwrap();
        let new = shop.pki.by_b();
        let work = shop.work(json!({}));
        let plan = work.plan(&new.bundle()).await.unwrap();
        let fault = Fault::AnotherAdmin(vec![take_theirs()]);
        shop.sim.inject(Injection::new(fault).on(Method::GET, "sslcertkey").after(at).times(1));
        let outcome = work.execute(&new.bundle(), &plan).await;
        let theirs = shop.pair("shop")["cert"] == "theirs.cer";
        match outcome {
            Ok(_) if !theirs => break,
            Ok(_) => panic!("look {at}: it did not notice"),
            Err(error) => {
                assert!(theirs, "look {at}: overwritten, {error:?}");
                noticed += 1;
                let code = error.code();
                assert!(matches!(code, "plan_stale" | "foreign_change" | "switch_failed"), "look {at}: {error:?}");
                if code != "plan_stale" {
                    assert_eq!(refused(work.rollback().await.unwrap()), "foreign_change", "look {at}");
                    assert_eq!(shop.pair("shop")["cert"], "theirs.cer", "look {at}");
                }
            }
        }
    }
    assert!(noticed >= 4, "{noticed}");
}

#[tokio::test]
async fn a_failed_update_leaves_a_way_back_and_says_why() {
    let shop = Shop::new().await;
    for (errorcode, status, code, class) in [
        (1537, 599, "key_unusable", ErrorClass::Validation),
        (1614, 599, "key_mismatch", ErrorClass::Validation),
        (1647, 599, "file_missing", ErrorClass::Validation),
        (2138, 403, "not_authorised", ErrorClass::Auth),
        (99_999, 599, "declined", ErrorClass::IoPermanent),
    ] {
        let before = shop.sim.snapshot("");
        let mut work = shop.work(json!({}));
        let fault = Injection::new(Fault::Refuse { status, errorcode });
        shop.sim.inject(fault.on(Method::POST, "sslcertkey?action=update").times(1));
        let error = work.deliver(&shop.pki.by_b().bundle()).await.unwrap_err();
        assert_eq!((error.code(), error.class(), error.effect()), (code, class, Effect::Possible), "{error:?}");
        work.rollback().await.unwrap();
        assert_eq!(shop.sim.snapshot(""), before, "{code}");
    }
}
