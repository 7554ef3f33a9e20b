//! Bindings are switched, and proven.

use certlib_core::module::{RollbackOutcome, Validation, Verb};
use certlib_core::{Effect, ErrorClass};
use certlib_testkit::winrm::{CENTRAL_STORE, Fault, Injection, SNI, SslKey, WindowsError, pfx_of, thumbprint};
use serde_json::json;

use crate::common::journal;
use crate::{
    ADMIN, SERVICE_ID, SHOP, bound, bundle, endpoints, host_of_build, host_with, issue, owner, state, subject,
};

#[tokio::test]
async fn everything_shows_the_new_certificate_and_then_the_former() {
    let (former, new) = (issue(), issue());
    let host = host_with(&former).await;
    let before = state(&host);
    let subject = subject(&host, json!({ "endpoints": endpoints(&host).await, "app_pools": ["Shop"] }));
    let (old, bundle) = (bundle(&former), bundle(&new));
    let plan = subject.plan(&bundle).await.unwrap();
    let verbs: Vec<_> = plan.steps.iter().map(|step| step.verb).collect();
    assert_eq!(verbs, [Verb::Create, Verb::Replace, Verb::Replace, Verb::Replace, Verb::Reload], "{plan}");
    assert!(matches!(subject.validate(&old).await.unwrap(), Validation::Served { .. }));
    assert!(matches!(subject.validate(&bundle).await.unwrap(), Validation::NotServed { .. }));

    let done = journal();
    let facts = subject.execute(&bundle, plan, &done).await.unwrap();
    let hash = thumbprint(bundle.leaf_der());
    assert_eq!((facts.0["thumbprint"].as_str(), done.steps().len()), (Some(hash.as_str()), 3), "{facts:?}");
    assert!(matches!(subject.validate(&bundle).await.unwrap(), Validation::Served { .. }));
    host.with(|windows| {
        let imported = windows.certificates.get("My", &hash).unwrap();
        assert!(!imported.exportable && imported.persisted && imported.friendly_name.starts_with("certlib:t-1:20"));
        assert_eq!(windows.iis.binding(SHOP.0, "https", SHOP.1).unwrap().ssl_flags, SNI | 4, "flags stay");
        let service = windows.http_sys.get(&SslKey::IpPort("0.0.0.0".into(), 9443)).unwrap();
        assert_eq!((service.app_id.as_str(), &service.certificate_hash), (SERVICE_ID, &hash), "its owner stays");
        assert_eq!(windows.iis.pool("Shop").unwrap().recycles, 1);
    });
    assert_eq!(owner(&host), certlib_testkit::winrm::IIS_APP_ID);
    let again = subject.plan(&bundle).await.unwrap();
    assert!(!again.changes_anything(), "{again}");

    assert_eq!(subject.rollback(&done).await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!(state(&host), before);
    assert!(matches!(subject.validate(&old).await.unwrap(), Validation::Served { .. }));
    assert_eq!(host.open_shells(), 0);
}

#[tokio::test]
async fn keys_and_passwords_are_seen_on_no_command_line() {
    let host = host_with(&issue()).await;
    let new = issue();
    subject(&host, json!({})).deliver(&bundle(&new), &journal()).await.unwrap();
    let mut lines: Vec<_> = host.executed().into_iter().map(|executed| executed.command_line).collect();
    lines.sort();
    lines.dedup();
    assert_eq!(lines.len(), 1, "{lines:?}");
}

#[tokio::test]
async fn a_binding_is_made_and_taken_away_again() {
    let (former, new) = (issue(), issue());
    let host = host_with(&former).await;
    host.with(|windows| windows.add_binding(ADMIN.0, "https", "*:444:", 0).unwrap());
    let before = state(&host);
    let mut subject = subject(&host, json!({}));
    subject.target.location["bindings"] = json!([
        { "site": "shop", "host": "127-0-0-1.test", "port": 4443, "create": true },
        { "site": ADMIN.0, "port": 444 },
    ]);
    subject.target.location["http_sys"] = json!([{ "endpoint": "localhost:5443", "appid": SERVICE_ID }]);
    let error = subject.plan(&bundle(&new)).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("name_not_covered", ErrorClass::Validation));
    subject.target.location["bindings"][0]["host"] = json!("localhost");

    let bundle = bundle(&new);
    let plan = subject.plan(&bundle).await.unwrap();
    let verbs: Vec<_> = plan.steps.iter().map(|step| step.verb).collect();
    assert_eq!(verbs, [Verb::Create, Verb::Create, Verb::Replace, Verb::Create], "{plan}");
    let done = journal();
    subject.execute(&bundle, plan, &done).await.unwrap();
    let hash = Some(thumbprint(bundle.leaf_der()));
    assert_eq!(bound(&host, ("Shop", "*:4443:localhost")), hash);
    assert_eq!(bound(&host, (ADMIN.0, "*:444:")), hash);
    host.with(|windows| {
        assert_eq!(windows.iis.binding("Shop", "https", "*:4443:localhost").unwrap().ssl_flags, SNI);
        assert!(windows.http_sys.get(&SslKey::HostPort("localhost".into(), 5443)).is_some());
    });
    assert!(matches!(subject.validate(&bundle).await.unwrap(), Validation::Served { .. }));
    assert_eq!(subject.rollback(&done).await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!(state(&host), before);
}

#[tokio::test]
async fn who_else_changes_is_said() {
    let host = host_with(&issue()).await;
    host.with(|windows| {
        windows.iis.add_site("Other");
        windows.add_binding("Other", "https", "*:8443:other.test", 0).unwrap();
    });
    let plan = subject(&host, json!({})).plan(&bundle(&issue())).await.unwrap();
    assert!(plan.to_string().contains("Other *:8443:other.test"), "{plan}");
}

#[tokio::test]
async fn a_certificate_that_is_there_already_is_not_ours() {
    let (former, new) = (issue(), issue());
    let host = host_with(&former).await;
    host.with(|windows| crate::install(windows, &new));
    let before = state(&host);
    let subject = subject(&host, json!({}));
    let bundle = bundle(&new);
    let plan = subject.plan(&bundle).await.unwrap();
    assert_eq!(plan.steps[0].verb, Verb::Keep, "{plan}");
    let done = journal();
    subject.execute(&bundle, plan, &done).await.unwrap();
    assert_eq!((done.steps(), host.count("iis.import")), (vec!["bind".to_owned()], 0));
    assert_eq!(subject.rollback(&done).await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!(state(&host), before);
}

#[tokio::test]
async fn a_certificate_whose_key_is_gone_is_imported_again() {
    let new = issue();
    let host = host_with(&issue()).await;
    let subject = subject(&host, json!({}));
    let bundle = bundle(&new);
    subject.deliver(&bundle, &journal()).await.unwrap();
    let hash = thumbprint(bundle.leaf_der());
    host.with(|windows| windows.certificates.drop_key("My", &hash).unwrap());
    let Validation::NotServed { reason, .. } = subject.validate(&bundle).await.unwrap() else { panic!("served") };
    assert!(reason.contains("key"), "{reason}");
    subject.deliver(&bundle, &journal()).await.unwrap();
    assert!(host.with(|windows| windows.certificates.get("My", &hash).unwrap().has_private_key()));
    assert!(matches!(subject.validate(&bundle).await.unwrap(), Validation::Served { .. }));
}

#[tokio::test]
async fn old_windows_gets_what_it_can_read() {
    let host = host_of_build(&issue(), 14_393).await;
    let bundle = bundle(&issue());
    let error = subject(&host, json!({})).plan(&bundle).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("pfx_profile_unsupported", ErrorClass::Validation));
    let legacy = subject(&host, json!({ "pfx": { "profile": "legacy" }, "exportable": true }));
    legacy.deliver(&bundle, &journal()).await.unwrap();
    let hash = thumbprint(bundle.leaf_der());
    assert!(host.with(|windows| windows.certificates.get("My", &hash).unwrap().exportable));
}

#[tokio::test]
async fn keys_that_are_not_there_at_once_are_waited_for() {
    let bundle = bundle(&issue());
    let host = host_with(&issue()).await;
    host.with(|windows| windows.iis.fail(SHOP.0, 0, 1, WindowsError::no_logon_session()));
    subject(&host, json!({})).deliver(&bundle, &journal()).await.unwrap();
    assert_eq!(bound(&host, SHOP), Some(thumbprint(bundle.leaf_der())));

    let host = host_with(&issue()).await;
    host.with(|windows| windows.iis.fail(SHOP.0, 0, 2, WindowsError::no_logon_session()));
    let error = subject(&host, json!({})).deliver(&bundle, &journal()).await.unwrap_err();
    let found = (error.code(), error.class(), error.effect());
    assert_eq!(found, ("key_not_ready", ErrorClass::IoTransient, Effect::Possible));
}

#[tokio::test]
async fn the_central_store_is_a_directory_of_files() {
    let (former, new) = (issue(), issue());
    let host = host_with(&former).await;
    let pfx = pfx_of(&former, "central secret").unwrap();
    host.with(|windows| {
        windows.files.put(r"C:\ccs\localhost.pfx", pfx).unwrap();
        windows.add_binding(SHOP.0, "https", "*:446:localhost", SNI | CENTRAL_STORE).unwrap();
        windows.iis.central_store.enabled = true;
        windows.iis.central_store.path = r"C:\ccs".into();
        windows.iis.central_store.password = "central secret".into();
    });
    let before = state(&host);
    let address = host.tls_addr(446).await.unwrap();
    let endpoint =
        json!([{ "host": address.ip().to_string(), "port": address.port(), "server_name": "localhost", "tries": 1 }]);
    let mut subject = subject(&host, json!({ "endpoints": endpoint }));
    subject.target.location["bindings"] = json!([]);
    subject.target.location["http_sys"] = json!([]);
    subject.target.location["central_store"] = json!({ "directory": r"C:\ccs", "hosts": ["localhost"] });
    let (old, bundle) = (bundle(&former), bundle(&new));
    assert!(matches!(subject.validate(&old).await.unwrap(), Validation::Served { .. }));
    let done = journal();
    subject.deliver(&bundle, &done).await.unwrap();
    assert_eq!(done.steps(), ["swap"]);
    assert!(matches!(subject.validate(&bundle).await.unwrap(), Validation::Served { .. }));
    assert!(!subject.plan(&bundle).await.unwrap().changes_anything());
    assert_eq!(subject.rollback(&done).await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!(state(&host), before);
    assert!(matches!(subject.validate(&old).await.unwrap(), Validation::Served { .. }));
}

/// Whichever request of a delivery loses its answer: another attempt delivers, or all is taken back.
#[tokio::test]
async fn a_lost_connection_at_any_step_is_recovered_from() {
    let (former, new) = (issue(), issue());
    let bundle = bundle(&new);
    let mut failures = 0;
    for roll_back in [false, true] {
        for after in 0.. {
            let host = host_with(&former).await;
            let before = state(&host);
            // Fewer rounds to encrypt with: it is done a hundred times here.
            let subject = subject(&host, json!({ "pfx": { "profile": "legacy" } }));
            let plan = subject.plan(&bundle).await.unwrap();
            let requests = host.history().len();
            let journal = journal();
            host.inject(Injection::new(Fault::LoseReply).after(after).times(1));
            let result = subject.execute(&bundle, plan.clone(), &journal).await;
            let all = host.history().len() - requests;
            host.clear_faults();
            if let Err(error) = &result {
                failures += 1;
                assert!(matches!(error.class(), ErrorClass::Network | ErrorClass::IoTransient), "{after}: {error:?}");
                assert!(error.effect() == Effect::Possible || state(&host) == before, "{after}: {error:?}");
            }
            if roll_back {
                let outcome = subject.rollback(&journal).await.unwrap();
                assert!(!matches!(outcome, RollbackOutcome::Refused { .. }), "{after}: {outcome:?}");
                assert_eq!(state(&host), before, "{after}");
            } else {
                subject.execute(&bundle, plan, &journal).await.unwrap_or_else(|error| panic!("{after}: {error:?}"));
                assert!(!subject.plan(&bundle).await.unwrap().changes_anything(), "{after}");
            }
            if usize::try_from(after).unwrap() >= all {
                break;
            }
        }
    }
    assert!(failures > 10, "{failures}");
}
