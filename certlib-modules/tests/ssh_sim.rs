//! The `ssh` module against simulated hosts, with every fault they can play.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::time::Duration;

use certlib_core::module::{JournalSink, RollbackOutcome, Validation};
use certlib_core::{CertificateBundle, Effect, ErrorClass};
use certlib_testkit::simhost::{
    Action, DropPoint, Fault, Operation, Service, SimFleet, SimHost, SimHostBuilder, TestCertificate, UserAuth,
};
use serde_json::{Value, json};

use self::common::{Subject, certificate, journal, served};

const CERT: &str = "/etc/ssl/site.pem";
const KEY: &str = "/etc/ssl/site.key";
const PASSWORD: &str = "correct horse";

fn builder() -> SimHostBuilder {
    SimHost::builder().name("web-07").user("root", UserAuth::password(PASSWORD)).service(Service::new(CERT, KEY))
}

async fn host() -> SimHost {
    builder().start().await.unwrap()
}

fn credentials() -> Value {
    json!({"user": "root", "password": PASSWORD})
}

fn location(host: &SimHost) -> Value {
    let address = host.ssh_addr();
    json!({
        "host": address.ip().to_string(),
        "port": address.port(),
        "paths": {"fullchain": CERT, "key": KEY},
    })
}

fn config(host: &SimHost) -> Value {
    let tls = host.tls_addr();
    json!({
        "host_key": {"known_hosts": host.known_hosts_line()},
        "test_command": "certlib-sim test",
        "reload_command": "certlib-sim reload",
        "endpoints": [{
            "host": tls.ip().to_string(), "port": tls.port(), "server_name": "localhost", "tries": 1, "delay_ms": 0,
        }],
    })
}

fn merged(mut base: Value, changes: Value) -> Value {
    let object = base.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            object.remove(name);
        } else {
            object.insert(name.clone(), value.clone());
        }
    }
    base
}

fn subject(host: &SimHost) -> Subject {
    Subject::new("ssh", config(host), location(host), Some(credentials()))
}

fn subject_with(host: &SimHost, changes: Value) -> Subject {
    Subject::new("ssh", merged(config(host), changes), location(host), Some(credentials()))
}

/// Commands about labels that a host was given.
fn label_commands(host: &SimHost) -> Vec<String> {
    let commands = host.commands();
    commands.into_iter().filter(|command| command.contains("chcon") || command.contains("restorecon")).collect()
}

#[tokio::test]
async fn labels_are_kept_where_selinux_is_enabled() {
    let (_, bundle) = certificate(&["localhost"]);
    let plain = host().await;
    let facts = subject(&plain).deliver(&bundle, &journal()).await.unwrap();
    assert_eq!(facts.0["label_kept"], true);
    assert!(label_commands(&plain).is_empty(), "{:?}", label_commands(&plain));

    let host = host().await;
    host.put_file("/sys/fs/selinux/enforce", "1", 0o644).unwrap();
    let fresh = "/etc/ssl/it's new.der";
    let mut subject = subject(&host);
    subject.target.location["paths"]["der"] = fresh.into();
    let journal = journal();
    let facts = subject.deliver(&bundle, &journal).await.unwrap();
    assert_eq!(facts.0["label_kept"], true);
    let commands = label_commands(&host);
    assert_eq!(commands.len(), 3, "{commands:?}");
    for path in [CERT, KEY] {
        let (_, name) = path.rsplit_once('/').unwrap();
        let wanted = |command: &&String| {
            command.contains(&format!("chcon --reference={path} -- /etc/ssl/.{name}.certlib-"))
                || command.contains(&format!("chcon --reference='\\''{path}'\\'' -- '\\''/etc/ssl/.{name}.certlib-"))
        };
        assert!(commands.iter().any(|command| wanted(&command)), "{commands:?}");
    }
    assert!(commands[2].contains("restorecon -- ") && commands[2].contains("new.der"), "{commands:?}");
    let operations: Vec<_> = host.history().into_iter().map(|entry| format!("{:?}", entry.operation)).collect();
    let first = |what: &str| operations.iter().position(|operation| operation.contains(what)).unwrap();
    assert!(first("chcon") < first("Renamed"), "readers never see a file with the wrong label");
    assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!(label_commands(&host).len(), 5, "the former files get their labels, too");
}

#[tokio::test]
async fn a_label_that_cannot_be_set_is_a_fact() {
    let host = host().await;
    host.put_file("/sys/fs/selinux/enforce", "1", 0o644).unwrap();
    let chain = "/etc/ssl/new.der";
    let restore = format!("restorecon -- '{chain}'");
    let refusal = Action::Reply { exit_code: 1, stdout: String::new(), stderr: "not permitted".into() };
    host.set_command(&restore, refusal).unwrap();
    let mut subject = subject(&host);
    subject.target.location["paths"]["der"] = chain.into();
    let (_, bundle) = certificate(&["localhost"]);
    let facts = subject.deliver(&bundle, &journal()).await.unwrap();
    assert_eq!(facts.0["label_kept"], false);
    assert!(is(&pair(&host), &bundle));
}

/// Certificate and key on the host, whether they belong together, and no temporary file beside them.
/// Each try may take half a minute where commands are not run, and is of no use once one has failed.
#[tokio::test]
async fn labels_are_not_tried_again_after_a_failure() {
    let host = host().await;
    host.put_file("/sys/fs/selinux/enforce", "1", 0o644).unwrap();
    let chain = "/etc/ssl/new chain";
    let refusal = Action::Reply { exit_code: 1, stdout: String::new(), stderr: "not permitted".into() };
    host.set_command(&format!("restorecon -- '{chain}'"), refusal).unwrap();
    let mut subject = subject(&host);
    subject.target.location["paths"]["chain"] = chain.into();
    let (_, bundle) = certificate(&["localhost"]);
    let facts = subject.deliver(&bundle, &journal()).await.unwrap();
    assert_eq!(facts.0["label_kept"], false);
    assert!(is(&pair(&host), &bundle));
    let commands = label_commands(&host);
    assert!(commands.len() == 1 && commands[0].contains("restorecon"), "{commands:?}");
}

fn pair(host: &SimHost) -> (String, String) {
    let text = |path| String::from_utf8(host.file(path).unwrap()).unwrap();
    (text(CERT), text(KEY))
}

fn strays(host: &SimHost) -> Vec<String> {
    host.files().into_iter().map(|info| info.path).filter(|path| path.contains(".certlib-")).collect()
}

fn is(pair: &(String, String), bundle: &CertificateBundle) -> bool {
    pair.0 == bundle.fullchain_pem() && pair.1 == *bundle.key_pem().unwrap().expose()
}

fn reloads(host: &SimHost) -> usize {
    host.commands().iter().filter(|command| command.contains("certlib-sim reload")).count()
}

// ---------------------------------------------------------------- the normal case

#[tokio::test]
async fn delivered_served_and_taken_back() {
    let host = host().await;
    let subject = subject(&host);
    let before = pair(&host);
    let (issued, bundle) = certificate(&["localhost"]);

    let plan = subject.plan(&bundle).await.unwrap();
    assert_eq!(plan, subject.plan(&bundle).await.unwrap(), "two dry runs of an unchanged host are equal");
    assert!(host.changes().is_empty() && host.commands().is_empty(), "a dry run changes nothing");
    let text = plan.to_string();
    assert!(text.contains(&format!("replace {CERT}")) && text.contains("reload certlib-sim reload"), "{text}");

    let journal = journal();
    let facts = subject.execute(&bundle, plan, &journal).await.unwrap();
    assert_eq!(facts.0["reloaded"], true);
    assert_eq!(journal.steps(), ["swap", "reload"]);
    assert!(is(&pair(&host), &bundle));
    assert_eq!(host.info(KEY).unwrap().mode, 0o600);
    assert_eq!(host.served_fingerprint().as_deref(), Some(issued.fingerprint.as_str()));
    assert!(served(&subject.validate(&bundle).await.unwrap()));
    assert!(strays(&host).is_empty());

    let renames: Vec<_> = host
        .changes()
        .into_iter()
        .filter_map(|change| match change {
            Operation::Renamed { to, .. } => Some(to),
            _ => None,
        })
        .collect();
    assert_eq!(renames, [CERT, KEY]);
    let births: Vec<_> = host
        .changes()
        .into_iter()
        .filter_map(|change| match change {
            Operation::Created { mode, .. } => Some(mode),
            _ => None,
        })
        .collect();
    assert_eq!(births, [0o600, 0o600], "no temporary file is ever readable by others");
    assert!(host.history().iter().any(|entry| matches!(entry.operation, Operation::Synced { .. })));
    assert_eq!(host.connections(), 1, "the connection of the dry run carried the delivery");

    for expected in [RollbackOutcome::RolledBack, RollbackOutcome::RolledBack] {
        assert_eq!(subject.rollback(&journal).await.unwrap(), expected);
        assert_eq!(pair(&host), before);
    }
    let shared = TestCertificate::shared().unwrap();
    assert_eq!(host.served_fingerprint().as_deref(), Some(shared.fingerprint()));
    assert!(strays(&host).is_empty());
}

#[tokio::test]
async fn delivering_again_does_nothing() {
    let host = host().await;
    let subject = subject(&host);
    let (_, bundle) = certificate(&["localhost"]);
    subject.deliver(&bundle, &journal()).await.unwrap();
    let (changes, commands) = (host.changes().len(), host.commands().len());

    let plan = subject.plan(&bundle).await.unwrap();
    assert!(!plan.changes_anything(), "{plan}");
    let facts = subject.execute(&bundle, plan, &journal()).await.unwrap();
    assert_eq!(facts.0["reloaded"], false);
    assert_eq!((host.changes().len(), host.commands().len()), (changes, commands));
}

#[tokio::test]
async fn files_in_place_that_are_not_served_are_reloaded() {
    let host = host().await;
    let (_, bundle) = certificate(&["localhost"]);
    host.put_file(CERT, bundle.fullchain_pem(), 0o644).unwrap();
    host.put_file(KEY, bundle.key_pem().unwrap().expose().as_str(), 0o600).unwrap();
    let subject = subject(&host);
    subject.deliver(&bundle, &journal()).await.unwrap();
    assert!(host.changes().is_empty());
    assert!(served(&subject.validate(&bundle).await.unwrap()));
}

#[tokio::test]
async fn without_endpoints_files_are_read_back() {
    let host = host().await;
    let subject = subject_with(&host, json!({"endpoints": null}));
    let (_, bundle) = certificate(&["localhost"]);
    let Validation::NotServed { endpoints, reason } = subject.validate(&bundle).await.unwrap() else {
        panic!("the old files pass for the new ones")
    };
    assert_eq!(endpoints[0].endpoint, "files");
    assert!(reason.contains(CERT) && reason.contains(KEY), "{reason}");
    subject.deliver(&bundle, &journal()).await.unwrap();
    assert!(served(&subject.validate(&bundle).await.unwrap()));
}

#[tokio::test]
async fn every_form_of_the_certificate() {
    let host = builder().start().await.unwrap();
    let paths = json!({
        "chain": "/d/chain.pem", "cert": "/d/it's \"cert\".pem", "fullchain": "/d/full chain.pem", "key": "/d/$(id).key",
        "combined": {"path": "/d/combined.pem", "mode": "0640", "owner": "33", "group": "33"},
        "pfx": "/d/site.pfx", "der": "/d/site.der",
    });
    host.put_file("/d/keep", "", 0o644).unwrap();
    let location = merged(location(&host), json!({"paths": paths, "root": "/d"}));
    let config = merged(config(&host), json!({"endpoints": null, "test_command": null, "reload_command": null}));
    let credentials = merged(credentials(), json!({"pfx_password": "pfx"}));
    let subject = Subject::new("ssh", config, location, Some(credentials));
    let (issued, bundle) = certificate(&["localhost"]);
    let journal = journal();
    subject.deliver(&bundle, &journal).await.unwrap();
    assert!(served(&subject.validate(&bundle).await.unwrap()));
    assert_eq!(host.file("/d/chain.pem").unwrap(), issued.issuer_pem.as_bytes());
    assert_eq!(host.file("/d/$(id).key").unwrap(), bundle.key_pem().unwrap().expose().as_bytes());
    assert_eq!(host.file("/d/site.der").unwrap(), bundle.leaf_der());
    assert_eq!(host.info("/d/it's \"cert\".pem").unwrap().mode, 0o644);
    assert_eq!(host.info("/d/site.pfx").unwrap().mode, 0o600);
    let combined = host.info("/d/combined.pem").unwrap();
    assert_eq!((combined.mode, combined.uid, combined.gid), (0o640, 33, 33));
    assert!(!subject.plan(&bundle).await.unwrap().changes_anything(), "the container is recognised, too");

    assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
    let left: Vec<_> = host.files().into_iter().map(|info| info.path).filter(|path| path.starts_with("/d/")).collect();
    assert_eq!(left, ["/d/keep"]);
    assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::NothingToDo);
}

#[tokio::test]
async fn a_symbolic_link_stays_and_its_file_is_replaced() {
    let shared = TestCertificate::shared().unwrap();
    let host = builder()
        .file("/srv/real.pem", shared.certificate_pem(), 0o644)
        .file("/srv/real.key", shared.key_pem(), 0o600)
        .symlink(CERT, "/srv/real.pem")
        .symlink(KEY, "/srv/real.key")
        .start()
        .await
        .unwrap();
    let subject = subject(&host);
    let (_, bundle) = certificate(&["localhost"]);
    let journal = journal();
    subject.deliver(&bundle, &journal).await.unwrap();
    assert!(served(&subject.validate(&bundle).await.unwrap()));
    assert_eq!(host.info(CERT).unwrap().kind, certlib_testkit::simhost::FileKind::Symlink);
    assert_eq!(host.file("/srv/real.pem").unwrap(), bundle.fullchain_pem().as_bytes());

    let rooted =
        Subject::new("ssh", config(&host), merged(location(&host), json!({"root": "/etc/ssl"})), Some(credentials()));
    assert_eq!(rooted.plan(&bundle).await.unwrap_err().code(), "path_escapes_root");
}

// ---------------------------------------------------------------- who the host is

#[tokio::test]
async fn nothing_is_sent_to_a_host_that_is_not_the_right_one() {
    let (host, other) = (host().await, self::host().await);
    let (_, bundle) = certificate(&["localhost"]);
    let other_key = other.known_hosts_line().split_once(' ').unwrap().1.to_owned();
    let at_host = host.known_hosts_line().split_once(' ').unwrap().0.to_owned();
    let cases = [
        (json!({"known_hosts": ""}), "host_key_unknown"),
        (json!({"known_hosts": other.known_hosts_line()}), "host_key_unknown"),
        (json!({"known_hosts": format!("{at_host} {other_key}")}), "host_key_changed"),
        (
            json!({"known_hosts": format!("@revoked * {0}\n{1}", host.known_hosts_line().split_once(' ').unwrap().1, host.known_hosts_line())}),
            "host_key_revoked",
        ),
        (json!({"fingerprint": other.host_key_fingerprint()}), "host_key_changed"),
        (json!({"host_ca": other_key}), "host_key_unknown"),
    ];
    for (host_key, code) in cases {
        let subject = subject_with(&host, json!({"host_key": host_key}));
        let error = subject.plan(&bundle).await.unwrap_err();
        assert_eq!((error.code(), error.class()), (code, ErrorClass::Auth), "{error:?}");
        assert_eq!(error.effect(), Effect::None);
    }
    assert!(host.history().is_empty(), "{:?}", host.history());

    host.set_fault(Some(Fault::WrongHostKey)).await.unwrap();
    for host_key in
        [json!({"known_hosts": host.known_hosts_line()}), json!({"fingerprint": host.host_key_fingerprint()})]
    {
        let error = subject_with(&host, json!({"host_key": host_key})).plan(&bundle).await.unwrap_err();
        assert_eq!(error.code(), "host_key_changed");
    }
    assert!(host.history().is_empty());

    let careless = subject_with(&host, json!({"host_key": {"insecure_accept_any": true}}));
    careless.plan(&bundle).await.unwrap();
}

#[tokio::test]
async fn a_refused_login_is_not_retried() {
    let host = host().await;
    let (_, bundle) = certificate(&["localhost"]);
    let wrong = json!({"user": "root", "password": "wrong"});
    let subject = Subject::new("ssh", config(&host), location(&host), Some(wrong));
    let error = subject.plan(&bundle).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("auth_refused", ErrorClass::Auth));
    assert!(!format!("{error:?}").contains("wrong"));
    host.set_fault(Some(Fault::AuthRefused)).await.unwrap();
    assert_eq!(self::subject(&host).plan(&bundle).await.unwrap_err().code(), "auth_refused");
}

#[tokio::test]
async fn a_kept_connection_is_only_for_whom_it_was_opened() {
    let host = builder().user("deploy", UserAuth::password("other")).start().await.unwrap();
    let (_, bundle) = certificate(&["localhost"]);
    let registry = certlib_modules::registry().unwrap();
    let as_whom = |credentials| Subject::of(&registry, "ssh", config(&host), location(&host), Some(credentials));
    as_whom(credentials()).plan(&bundle).await.unwrap();
    let wrong = as_whom(json!({"user": "root", "password": "wrong"}));
    assert_eq!(wrong.plan(&bundle).await.unwrap_err().code(), "auth_refused");
    let careless = merged(config(&host), json!({"host_key": {"known_hosts": ""}}));
    let unknown = Subject::of(&registry, "ssh", careless, location(&host), Some(credentials()));
    assert_eq!(unknown.plan(&bundle).await.unwrap_err().code(), "host_key_unknown");
    as_whom(json!({"user": "deploy", "password": "other"})).plan(&bundle).await.unwrap();
    assert_eq!(host.connections(), 3);
}

#[tokio::test]
async fn nothing_secret_is_shown() {
    let host = host().await;
    let (_, bundle) = certificate(&["localhost"]);
    let secrets = ["canary-password", "canary-passphrase", "canary-pfx", "PRIVATE KEY", "canary-key"];
    let mut seen = String::new();
    for (user, key) in [("root", Value::Null), ("root", "canary-key".into()), ("nobody", Value::Null)] {
        let credentials = json!({
            "user": user, "password": "canary-password", "private_key": key, "passphrase": "canary-passphrase",
            "pfx_password": "canary-pfx",
        });
        let subject = Subject::new("ssh", config(&host), location(&host), Some(credentials));
        seen += &format!("{:?} {subject:?}", subject.plan(&bundle).await);
    }
    let subject = subject(&host);
    let journal = journal();
    let plan = subject.plan(&bundle).await.unwrap();
    seen += &format!("{plan} {plan:?} {}", serde_json::to_string(&plan).unwrap());
    seen += &format!("{:?} {journal:?}", subject.execute(&bundle, plan, &journal).await);
    seen += &format!("{:?}", subject.validate(&bundle).await);
    host.set_fault(Some(Fault::DiskFull { after_bytes: 0 })).await.unwrap();
    seen += &format!("{:?}", subject.rollback(&journal).await);
    assert!(seen.contains("auth_refused") && seen.contains("write_failed"), "{seen}");
    for secret in secrets {
        assert!(!seen.contains(secret), "{secret} in {seen}");
    }
}

// ---------------------------------------------------------------- the network

#[tokio::test]
async fn unreachable_and_silent_hosts_are_network_errors() {
    let host = host().await;
    let (_, bundle) = certificate(&["localhost"]);
    host.set_fault(Some(Fault::Refuse)).await.unwrap();
    let error = subject(&host).plan(&bundle).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("connect_refused", ErrorClass::Network));
    host.set_fault(Some(Fault::Hang)).await.unwrap();
    let hasty = subject_with(&host, json!({"handshake_timeout_ms": 200}));
    let error = hasty.plan(&bundle).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("handshake_timeout", ErrorClass::Network));
}

/// Cuts the connection at one point, then either goes on or goes back: the pair is always whole in the end.
#[tokio::test]
async fn lost_connections_are_survived() {
    let (_, bundle) = certificate(&["localhost"]);
    let points = [
        DropPoint::Write(1),
        DropPoint::Write(2),
        DropPoint::BeforeRename(1),
        DropPoint::AfterRename(1),
        DropPoint::BeforeRename(2),
        DropPoint::AfterRename(2),
        DropPoint::Exec(1),
        DropPoint::Exec(2),
    ];
    for point in points {
        for go_on in [true, false] {
            let host = host().await;
            let subject = subject(&host);
            let before = pair(&host);
            let plan = subject.plan(&bundle).await.unwrap();
            host.set_fault(Some(Fault::DropAt(point))).await.unwrap();
            let journal = journal();
            let error = subject.execute(&bundle, plan.clone(), &journal).await.unwrap_err();
            assert_eq!((error.class(), error.effect()), (ErrorClass::Network, Effect::Possible), "{point:?} {error:?}");
            host.set_fault(None).await.unwrap();
            if go_on {
                let facts = subject.execute(&bundle, plan, &journal).await.unwrap();
                assert_eq!(facts.0["resumed"], true);
                assert!(is(&pair(&host), &bundle), "{point:?}");
                assert!(served(&subject.validate(&bundle).await.unwrap()), "{point:?}");
                assert_eq!(journal.steps().iter().filter(|step| *step == "swap").count(), 1);
            } else {
                for _ in 0..3 {
                    subject.rollback(&journal).await.unwrap();
                    assert_eq!(pair(&host), before, "{point:?}");
                }
                let shared = TestCertificate::shared().unwrap();
                assert_eq!(host.served_fingerprint().as_deref(), Some(shared.fingerprint()), "{point:?}");
            }
            assert!(strays(&host).is_empty(), "{point:?}");
        }
    }
}

#[tokio::test]
async fn a_host_that_dies_before_validation_is_not_served() {
    let host = host().await;
    let subject = subject_with(
        &host,
        json!({"endpoints": [{
            "host": "127.0.0.1", "port": host.tls_addr().port(), "tries": 2, "delay_ms": 1, "dial_timeout_ms": 500,
        }]}),
    );
    let (_, bundle) = certificate(&["localhost"]);
    subject.deliver(&bundle, &journal()).await.unwrap();
    host.stop().await;
    let Validation::NotServed { endpoints, reason } = subject.validate(&bundle).await.unwrap() else {
        panic!("a dead host serves nothing")
    };
    assert_eq!(endpoints[0].tries, 2);
    assert!(reason.contains("connect"), "{reason}");
}

// ---------------------------------------------------------------- disks and rights

#[tokio::test]
async fn a_full_disk_leaves_everything_as_it_was() {
    let host = host().await;
    let subject = subject(&host);
    let before = pair(&host);
    let (_, bundle) = certificate(&["localhost"]);
    let plan = subject.plan(&bundle).await.unwrap();
    host.set_fault(Some(Fault::DiskFull { after_bytes: 100 })).await.unwrap();
    let journal = journal();
    let error = subject.execute(&bundle, plan, &journal).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("write_failed", ErrorClass::IoPermanent));
    assert!(error.context().any(|(name, _)| name == "free_bytes"), "{error}");
    assert_eq!(error.effect(), Effect::None, "the temporary files are gone again");
    assert_eq!(pair(&host), before);
    assert!(strays(&host).is_empty());
    assert!(host.commands().is_empty());
    assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::NothingToDo);
    assert_eq!(subject.plan(&bundle).await.unwrap_err().code(), "disk_full", "the next dry run sees it coming");
}

#[tokio::test]
async fn missing_rights_are_permanent() {
    let host = host().await;
    let subject = subject(&host);
    let (_, bundle) = certificate(&["localhost"]);
    let plan = subject.plan(&bundle).await.unwrap();
    host.set_fault(Some(Fault::PermissionDenied { path: "/etc/ssl".into() })).await.unwrap();
    let error = subject.execute(&bundle, plan, &journal()).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("permission_denied", ErrorClass::IoPermanent));
    assert_eq!(error.effect(), Effect::None);
}

#[tokio::test]
async fn servers_without_extensions() {
    let (_, bundle) = certificate(&["localhost"]);
    for hidden in [
        vec!["posix-rename@openssh.com"],
        vec!["posix-rename@openssh.com", "fsync@openssh.com", "statvfs@openssh.com", "hardlink@openssh.com"],
    ] {
        let host =
            hidden.iter().fold(builder(), |builder, name| builder.without_extension(*name)).start().await.unwrap();
        let subject = subject(&host);
        let before = pair(&host);
        let journal = journal();
        let facts = subject.deliver(&bundle, &journal).await.unwrap();
        assert_eq!(facts.0["replaced_with_gap"], false, "mv does it in one step");
        assert!(served(&subject.validate(&bundle).await.unwrap()));
        subject.rollback(&journal).await.unwrap();
        assert_eq!(pair(&host), before);

        // A move whose status is lost has happened all the same.
        host.set_fault(Some(Fault::NoExitStatus)).await.unwrap();
        let journal = common::journal();
        let error = subject.deliver(&bundle, &journal).await.unwrap_err();
        assert_eq!(error.code(), "command_no_status");
        assert!(is(&pair(&host), &bundle));
        assert!(strays(&host).is_empty());
    }
}

#[tokio::test]
async fn a_host_without_sftp_is_refused_at_once() {
    let host = builder().without_sftp().start().await.unwrap();
    let (_, bundle) = certificate(&["localhost"]);
    let error = subject(&host).plan(&bundle).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("sftp_unavailable", ErrorClass::IoPermanent));
}

#[tokio::test]
async fn a_missing_directory_is_named() {
    let host = host().await;
    let location = merged(location(&host), json!({"paths": {"cert": "/no/such/site.pem"}}));
    let subject = Subject::new("ssh", config(&host), location, Some(credentials()));
    let (_, bundle) = certificate(&["localhost"]);
    assert_eq!(subject.plan(&bundle).await.unwrap_err().code(), "directory_missing");
}

// ---------------------------------------------------------------- commands

#[tokio::test]
async fn a_failing_test_command_prevents_the_reload() {
    let host = host().await;
    let reply = Action::Reply { exit_code: 1, stdout: String::new(), stderr: "bad directive".into() };
    host.set_command("certlib-sim test", reply).unwrap();
    let subject = subject(&host);
    let before = pair(&host);
    let (_, bundle) = certificate(&["localhost"]);
    let journal = journal();
    let error = subject.deliver(&bundle, &journal).await.unwrap_err();
    assert_eq!((error.code(), error.effect()), ("test_failed", Effect::Possible));
    assert!(error.to_string().contains("bad directive") && error.to_string().contains("exit=1"), "{error}");
    assert_eq!(reloads(&host), 0);
    assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!(pair(&host), before);
    assert_eq!(reloads(&host), 0, "what was never reloaded needs no second reload");
}

#[tokio::test]
async fn failing_reloads_are_told_apart_and_undone() {
    let (_, bundle) = certificate(&["localhost"]);
    let cases = [
        (Fault::ReloadFails { exit_code: 3, stderr: "no".into() }, "command_failed", ErrorClass::IoPermanent),
        (Fault::ReloadHangs, "command_timeout", ErrorClass::IoTransient),
        (Fault::ReloadFloods, "command_timeout", ErrorClass::IoTransient),
    ];
    for (fault, code, class) in cases {
        let host = host().await;
        let subject = subject_with(&host, json!({"command_timeout_ms": 300}));
        let blind = subject_with(&host, json!({"command_timeout_ms": 300, "endpoints": null}));
        let before = pair(&host);
        host.set_fault(Some(fault.clone())).await.unwrap();
        let journal = journal();
        let error = subject.deliver(&bundle, &journal).await.unwrap_err();
        assert_eq!((error.code(), error.class(), error.effect()), (code, class, Effect::Possible), "{fault:?}");
        assert!(error.to_string().len() < 4096);
        // The files are back; that the service is, too, has to be seen.
        assert_eq!(blind.rollback(&journal).await.unwrap_err().code(), code);
        assert_eq!(pair(&host), before);
        assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
        host.set_fault(None).await.unwrap();
        assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
        assert_eq!(pair(&host), before);
    }
}

#[tokio::test]
async fn a_command_without_status_counts_as_failed() {
    let host = host().await;
    let subject = subject(&host);
    host.set_fault(Some(Fault::NoExitStatus)).await.unwrap();
    let (_, bundle) = certificate(&["localhost"]);
    let error = subject.deliver(&bundle, &journal()).await.unwrap_err();
    assert_eq!((error.code(), error.effect()), ("command_no_status", Effect::Possible));
    assert_eq!(reloads(&host), 0);
}

#[tokio::test]
async fn a_reload_that_lies_is_found_out() {
    let host = host().await;
    let subject = subject(&host);
    host.set_fault(Some(Fault::ServesOldCertificate)).await.unwrap();
    let (_, bundle) = certificate(&["localhost"]);
    subject.deliver(&bundle, &journal()).await.unwrap();
    let Validation::NotServed { endpoints, .. } = subject.validate(&bundle).await.unwrap() else {
        panic!("the old certificate passes for the new one")
    };
    let shared: certlib_core::Fingerprint = TestCertificate::shared().unwrap().fingerprint().parse().unwrap();
    assert_eq!(endpoints[0].found, Some(shared));
}

// ---------------------------------------------------------------- other people's changes

#[tokio::test]
async fn a_change_after_the_plan_is_noticed() {
    let host = host().await;
    let subject = subject(&host);
    let (_, bundle) = certificate(&["localhost"]);
    let plan = subject.plan(&bundle).await.unwrap();
    host.put_file(CERT, "by somebody else", 0o644).unwrap();
    let error = subject.execute(&bundle, plan, &journal()).await.unwrap_err();
    assert_eq!((error.code(), error.effect()), ("plan_stale", Effect::None));
    assert!(host.changes().is_empty());
}

#[tokio::test]
async fn what_somebody_else_put_there_is_never_overwritten() {
    let host = host().await;
    let subject = subject(&host);
    let (_, bundle) = certificate(&["localhost"]);
    let journal = journal();
    let plan = subject.plan(&bundle).await.unwrap();
    subject.execute(&bundle, plan.clone(), &journal).await.unwrap();
    host.put_file(KEY, "by somebody else", 0o600).unwrap();
    let changes = host.changes().len();
    let RollbackOutcome::Refused { code, reason } = subject.rollback(&journal).await.unwrap() else {
        panic!("foreign file overwritten")
    };
    assert_eq!(code, "foreign_change");
    assert!(reason.contains(KEY));
    let error = subject.execute(&bundle, plan, &journal).await.unwrap_err();
    assert_eq!(error.code(), "foreign_change");
    assert_eq!(host.changes().len(), changes, "nothing was touched");
    assert_eq!(host.file(KEY).unwrap(), b"by somebody else");
}

#[tokio::test]
async fn cancellation_is_heeded_before_the_first_change_only() {
    let host = host().await;
    let mut subject = subject(&host);
    let (_, bundle) = certificate(&["localhost"]);
    let plan = subject.plan(&bundle).await.unwrap();
    let cancel = tokio_util::sync::CancellationToken::new();
    cancel.cancel();
    subject.cx.cancel = cancel;
    let journal = journal();
    let error = subject.execute(&bundle, plan, &journal).await.unwrap_err();
    assert_eq!((error.code(), error.effect()), ("cancelled", Effect::None));
    assert!(host.changes().is_empty() && journal.entries().await.unwrap().is_empty());
}

// ---------------------------------------------------------------- bad settings

#[test]
fn bad_settings_are_named_before_anybody_is_asked() {
    let config = json!({"host_key": {"fingerprint": format!("SHA256:{}", "A".repeat(43))}});
    let check = |config: &Value, location: Value, credentials: Value| {
        let subject = Subject::new("ssh", config.clone(), location, Some(credentials));
        subject.module.check(&subject.target).map_err(|error| error.code().to_owned())
    };
    let location = |path: &str| json!({"host": "h", "paths": {"cert": path}});
    assert_eq!(check(&config, location("/etc/it's a \"path\".pem"), credentials()), Ok(()));
    for path in ["relative", "/a/../b", "/a\nb", "/a\u{0}b", "/a/", "/a//b"] {
        assert_eq!(check(&config, location(path), credentials()), Err("path_invalid".into()), "{path:?}");
    }
    let cases = [
        (json!({}), location("/a"), credentials(), "config_invalid"),
        (json!({"host_key": {"insecure_accept_any": false}}), location("/a"), credentials(), "host_key_missing"),
        (merged(config.clone(), json!({"reload": "x"})), location("/a"), credentials(), "config_invalid"),
        (merged(config.clone(), json!({"reload_command": " "})), location("/a"), credentials(), "command_invalid"),
        (merged(config.clone(), json!({"command_timeout_ms": 0})), location("/a"), credentials(), "timeout_invalid"),
        (merged(config.clone(), json!({"dial_timeout_ms": 0})), location("/a"), credentials(), "timeout_invalid"),
        (config.clone(), json!({"host": "a b", "paths": {"cert": "/a"}}), credentials(), "host_invalid"),
        (config.clone(), json!({"host": "h", "paths": {}}), credentials(), "paths_empty"),
        (config.clone(), json!({"host": "h", "paths": {"pfx": "/a"}}), credentials(), "pfx_password_missing"),
        (config.clone(), location("/a"), json!({"user": "root"}), "credentials_incomplete"),
        (config.clone(), location("/a"), json!({"password": "x"}), "credentials_invalid"),
    ];
    for (config, location, credentials, code) in cases {
        assert_eq!(check(&config, location, credentials), Err(code.into()));
    }
}

#[tokio::test]
async fn keys_that_cannot_be_read_are_refused_before_anybody_is_asked() {
    let host = host().await;
    let (issued, bundle) = certificate(&["localhost"]);
    for (key, code) in [("nonsense", "private_key_invalid"), (issued.certificate_pem.as_str(), "private_key_invalid")] {
        let credentials = json!({"user": "root", "private_key": key});
        let subject = Subject::new("ssh", config(&host), location(&host), Some(credentials));
        assert_eq!(subject.plan(&bundle).await.unwrap_err().code(), code);
    }
    assert_eq!(host.connections(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_side_by_side() {
    let fleet = SimFleet::start(40, |_| builder()).await.unwrap().into_hosts();
    let registry = certlib_modules::registry().unwrap();
    let (_, bundle) = certificate(&["localhost"]);
    let work = fleet.iter().map(async |host| {
        let subject = Subject::of(&registry, "ssh", config(host), location(host), Some(credentials()));
        let journal = journal();
        subject.deliver(&bundle, &journal).await.unwrap();
        assert!(served(&subject.validate(&bundle).await.unwrap()));
        assert_eq!(host.connections(), 1);
    });
    futures::future::join_all(work).await;
}

#[tokio::test]
async fn a_slow_host_is_only_slow() {
    let host = builder().fault(Fault::Slow(Duration::from_millis(10))).start().await.unwrap();
    let subject = subject(&host);
    let (_, bundle) = certificate(&["localhost"]);
    subject.deliver(&bundle, &journal()).await.unwrap();
    assert!(served(&subject.validate(&bundle).await.unwrap()));
}
