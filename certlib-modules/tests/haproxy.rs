//! HAProxy's runtime API, through the `file` module and through the `ssh` module with OpenSSH.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;

use certlib_core::module::{JournalSink as _, MemoryJournal, RollbackOutcome, Validation};
use certlib_core::{CertificateBundle, Effect, ErrorClass};
use certlib_testkit::counterpart::{CertificateFiles, Haproxy, KeyType, Sshd};
use certlib_testkit::pki::{Issued, TestCa};
use certlib_testkit::{require, tls};
use serde_json::{Value, json};
use tempfile::TempDir;

use self::common::{Subject, certificate, journal, served};

/// HAProxy with a certificate, and the way to it: on this machine, or by SSH.
struct Machine {
    haproxy: Haproxy,
    files: CertificateFiles,
    sshd: Option<Sshd>,
    old: Issued,
    folder: TempDir,
}

impl Machine {
    async fn start(sshd: Option<Sshd>) -> certlib_testkit::Result<Self> {
        let folder = tempfile::tempdir().unwrap();
        let files = CertificateFiles::new(folder.path());
        let (old, _) = certificate(&["localhost"]);
        files.write(&old).unwrap();
        let haproxy = Haproxy::start(&files).await?;
        Ok(Self { haproxy, files, sshd, old, folder })
    }

    fn subject(&self, changes: Value) -> Subject {
        let paths = json!({"combined": self.files.combined()});
        self.subject_at(paths, changes)
    }

    fn subject_at(&self, paths: Value, changes: Value) -> Subject {
        let address = self.haproxy.addr();
        let mut config = json!({
            "test_command": self.haproxy.test_command(),
            "haproxy": {"socket": self.haproxy.socket()},
            // One look has to do: what is committed is served at once.
            "endpoints": [{
                "host": address.ip().to_string(), "port": address.port(), "server_name": "localhost", "tries": 1,
                "delay_ms": 0,
            }],
        });
        let mut location = json!({"paths": paths});
        for (name, value) in changes.as_object().unwrap() {
            config[name] = value.clone();
        }
        let Some(sshd) = &self.sshd else { return Subject::new("file", config, location, None) };
        config["host_key"] = json!({"known_hosts": fs::read_to_string(sshd.known_hosts()).unwrap()});
        location["host"] = sshd.addr().ip().to_string().into();
        location["port"] = sshd.addr().port().into();
        let key = fs::read_to_string(sshd.user_key(KeyType::Ed25519)).unwrap();
        Subject::new("ssh", config, location, Some(json!({"user": sshd.user(), "private_key": key})))
    }

    async fn serves(&self) -> String {
        self.haproxy.served_fingerprint().await.unwrap()
    }

    fn holds(&self, issued: &Issued) -> bool {
        fs::read_to_string(self.files.combined()).unwrap() == issued.combined()
    }

    async fn has_transaction(&self) -> bool {
        self.haproxy.command("show ssl cert").await.unwrap().contains("# transaction")
    }

    /// Opens a transaction as another client would.
    async fn open_transaction(&self, name: &str, content: &str) {
        let answer = self.haproxy.command(&format!("set ssl cert {name} <<\n{content}")).await.unwrap();
        assert!(answer.contains("Transaction created"), "{answer}");
    }
}

async fn everything(machine: Machine) {
    let worker = machine.haproxy.worker().await.unwrap();
    let subject = machine.subject(json!({}));
    let (new, bundle) = certificate(&["localhost"]);

    let plan = subject.plan(&bundle).await.unwrap();
    assert_eq!(plan, subject.plan(&bundle).await.unwrap());
    let text = plan.to_string();
    let path = machine.files.combined().display().to_string();
    let socket = machine.haproxy.socket().display().to_string();
    assert!(text.contains(&format!("call HAProxy at {socket}: set and commit ssl cert {path}")), "{text}");
    assert!(!machine.has_transaction().await && machine.serves().await == machine.old.fingerprint);

    let journal = journal();
    let facts = subject.execute(&bundle, plan, &journal).await.unwrap();
    assert_eq!((&facts.0["reloaded"], &facts.0["haproxy"]), (&json!(false), &json!(true)));
    assert_eq!(journal.steps(), ["swap", "commit"]);
    assert_eq!(machine.serves().await, new.fingerprint);
    assert!(machine.holds(&new) && served(&subject.validate(&bundle).await.unwrap()));
    assert!(!subject.plan(&bundle).await.unwrap().changes_anything());
    assert_eq!(machine.haproxy.worker().await.unwrap(), worker, "it was not reloaded");

    // Again, as after a crash: nothing changes.
    let plan = subject.plan(&bundle).await.unwrap();
    subject.execute(&bundle, plan, &journal).await.unwrap();
    assert_eq!(machine.serves().await, new.fingerprint);

    for _ in 0..2 {
        assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
        assert!(machine.holds(&machine.old) && machine.serves().await == machine.old.fingerprint);
    }
    assert_eq!(machine.haproxy.worker().await.unwrap(), worker, "it was not reloaded");
    assert!(!machine.has_transaction().await);

    subject.deliver(&bundle, &common::journal()).await.unwrap();
    let Machine { haproxy, files, folder, .. } = machine;
    haproxy.stop().await.unwrap();
    let haproxy = Haproxy::start(&files).await.unwrap();
    assert_eq!(haproxy.served_fingerprint().await.unwrap(), new.fingerprint, "its next start reads the same");
    drop(folder);
}

#[tokio::test]
async fn a_certificate_is_served_without_a_reload() {
    everything(require!(Machine::start(None).await)).await;
}

#[tokio::test]
async fn a_certificate_is_served_without_a_reload_over_ssh() {
    let sshd = require!(Sshd::start().await);
    everything(require!(Machine::start(Some(sshd)).await)).await;
}

#[tokio::test]
async fn the_wrong_socket_is_found_before_anything_changes() {
    let sshd = require!(Sshd::start().await);
    let (_, bundle) = certificate(&["localhost"]);
    for sshd in [None, Some(sshd)] {
        let machine = require!(Machine::start(sshd).await);
        let error = async |haproxy: Value| {
            let error = machine.subject(json!({"haproxy": haproxy})).plan(&bundle).await.unwrap_err();
            assert_eq!(error.effect(), Effect::None);
            (error.code().to_owned(), error.class())
        };
        let none = machine.folder.path().join("none");
        assert_eq!(error(json!({"socket": none})).await, ("socket_missing".into(), ErrorClass::IoPermanent));
        let dead = machine.folder.path().join("dead");
        drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
        assert_eq!(error(json!({"socket": dead})).await, ("socket_refused".into(), ErrorClass::Network));
        let socket = machine.haproxy.socket();
        let unknown = error(json!({"socket": socket, "certificate": "other.pem"})).await;
        assert_eq!(unknown, ("haproxy_certificate_unknown".into(), ErrorClass::Validation));
        let bad = error(json!({"socket": socket, "certificate": "a;shutdown"})).await;
        assert_eq!(bad, ("haproxy_name_invalid".into(), ErrorClass::Validation));
        let other = machine.subject_at(json!({"fullchain": machine.files.full_chain()}), json!({}));
        assert_eq!(other.plan(&bundle).await.unwrap_err().code(), "haproxy_needs_combined");
        assert!(machine.holds(&machine.old));
    }
}

#[tokio::test]
async fn another_program_at_the_socket_is_not_taken_for_haproxy() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let machine = require!(Machine::start(None).await);
    let path = machine.folder.path().join("other");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let server = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
            stream.write_all(b"500 what?\n").await.unwrap();
        }
    });
    let (_, bundle) = certificate(&["localhost"]);
    let error = machine.subject(json!({"haproxy": {"socket": path}})).plan(&bundle).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("haproxy_not_understood", ErrorClass::IoPermanent));
    server.abort();
}

#[tokio::test]
async fn a_host_that_passes_nothing_on_says_so() {
    let sshd = require!(Sshd::builder().option("AllowStreamLocalForwarding", "no").start().await);
    let machine = require!(Machine::start(Some(sshd)).await);
    let (_, bundle) = certificate(&["localhost"]);
    let error = machine.subject(json!({})).plan(&bundle).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("socket_refused", ErrorClass::Network), "OpenSSH does not say why");
}

#[tokio::test]
async fn what_haproxy_refuses_is_not_served_and_taken_back() {
    let machine = require!(Machine::start(None).await);
    let subject = machine.subject(json!({}));
    // More than fits into one of its buffers.
    let names: Vec<String> = (0..600).map(|number| format!("host-{number}.a-rather-long-domain.test")).collect();
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.push("localhost");
    let (_, large) = certificate(&names);
    let journal = journal();
    let error = subject.deliver(&large, &journal).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("haproxy_refused", ErrorClass::IoPermanent), "{error}");
    assert_eq!(error.effect(), Effect::Possible);
    assert!(!error.to_string().contains("BEGIN"), "{error}");
    assert_eq!(machine.serves().await, machine.old.fingerprint);
    assert!(!machine.has_transaction().await);
    assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
    assert!(machine.holds(&machine.old));
}

/// The file held a pair that does not fit when the delivery began, so that is what has to come back.
#[tokio::test]
async fn a_pair_that_does_not_fit_is_refused_by_haproxy() {
    let machine = require!(Machine::start(None).await);
    let (stranger, _) = certificate(&["localhost"]);
    let spoilt = format!("{}{}", machine.old.full_chain(), stranger.key_pem);
    fs::write(machine.files.combined(), &spoilt).unwrap();
    let (new, bundle) = certificate(&["localhost"]);
    let subject = machine.subject(json!({}));
    let journal = journal();
    subject.deliver(&bundle, &journal).await.unwrap();
    // Without this, the configuration check would notice first.
    let subject = machine.subject(json!({"test_command": null}));
    let error = subject.rollback(&journal).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("haproxy_refused", ErrorClass::IoPermanent), "{error}");
    assert_eq!(fs::read_to_string(machine.files.combined()).unwrap(), spoilt);
    assert_eq!(machine.serves().await, new.fingerprint, "it goes on with what it has");
    assert!(!machine.has_transaction().await);
}

#[tokio::test]
async fn a_transaction_that_was_left_open_is_aborted() {
    let machine = require!(Machine::start(None).await);
    let (stranger, _) = certificate(&["localhost"]);
    machine.open_transaction(&machine.files.combined().display().to_string(), &stranger.combined()).await;
    let (new, bundle) = certificate(&["localhost"]);
    machine.subject(json!({})).deliver(&bundle, &journal()).await.unwrap();
    assert_eq!(machine.serves().await, new.fingerprint);
    assert!(!machine.has_transaction().await);
}

/// A delivery that died, of another certificate, must not keep all others from HAProxy.
#[tokio::test]
async fn somebody_elses_transaction_is_waited_for_and_then_aborted() {
    let folder = tempfile::tempdir().unwrap();
    let others = CertificateFiles::new(folder.path());
    let (before, _) = certificate(&["other.test"]);
    others.write(&before).unwrap();
    let mut machine = require!(Machine::start(None).await);
    machine.haproxy = require!(Haproxy::start_with(&[&machine.files, &others]).await);
    let (theirs, _) = certificate(&["other.test"]);
    let name = others.combined().display().to_string();
    machine.open_transaction(&name, &theirs.combined()).await;

    let (new, bundle) = certificate(&["localhost"]);
    machine.subject(json!({})).deliver(&bundle, &journal()).await.unwrap();
    assert_eq!(machine.serves().await, new.fingerprint);
    assert!(!machine.has_transaction().await);
    let served = tls::leaf_fingerprint(machine.haproxy.addr(), "other.test").await.unwrap();
    assert_eq!(served, before.fingerprint, "it is aborted, not committed");
}

/// Somebody who is at work gives the transaction another content now and then.
#[tokio::test]
async fn somebody_who_is_at_work_keeps_the_transaction() {
    let folder = tempfile::tempdir().unwrap();
    let others = CertificateFiles::new(folder.path());
    others.write(&certificate(&["other.test"]).0).unwrap();
    let mut machine = require!(Machine::start(None).await);
    machine.haproxy = require!(Haproxy::start_with(&[&machine.files, &others]).await);
    let (theirs, also_theirs) = (certificate(&["other.test"]).0, certificate(&["other.test"]).0);
    let name = others.combined().display().to_string();
    machine.open_transaction(&name, &theirs.combined()).await;

    let (_, bundle) = certificate(&["localhost"]);
    let (subject, journal) = (machine.subject(json!({})), journal());
    let plan = subject.plan(&bundle).await.unwrap();
    let delivery = subject.execute(&bundle, plan, &journal);
    let work = async {
        for content in [also_theirs.combined(), theirs.combined()].iter().cycle() {
            machine.haproxy.command(&format!("set ssl cert {name} <<\n{content}")).await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    };
    let error = tokio::select! {
        delivered = delivery => delivered.unwrap_err(),
        () = work => unreachable!(),
    };
    assert_eq!((error.code(), error.class()), ("haproxy_busy", ErrorClass::IoTransient));
    assert_eq!(machine.serves().await, machine.old.fingerprint);
    let answer = machine.haproxy.command(&format!("commit ssl cert {name}")).await.unwrap();
    assert!(answer.contains("Success"), "{answer}");
}

/// `set ssl cert` writes into whichever transaction is open, so two deliveries could exchange their certificates.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_that_meet_do_not_mix_their_certificates() {
    let folder = tempfile::tempdir().unwrap();
    let others = CertificateFiles::new(folder.path());
    others.write(&certificate(&["other.test"]).0).unwrap();
    let mut machine = require!(Machine::start(None).await);
    machine.haproxy = require!(Haproxy::start_with(&[&machine.files, &others]).await);
    let one = machine.subject(json!({"test_command": null}));
    let two =
        machine.subject_at(json!({"combined": others.combined()}), json!({"test_command": null, "endpoints": []}));
    let ca = TestCa::new("test root").unwrap();
    let issue = |name: &str| {
        let issued = ca.issue(&[name]).unwrap();
        let bundle = CertificateBundle::from_pem(issued.combined().as_bytes()).unwrap();
        (issued, bundle)
    };
    for round in 0..10 {
        let ((first, first_bundle), (second, second_bundle)) = (issue("localhost"), issue("other.test"));
        let (journal_one, journal_two) = (journal(), journal());
        let (a, b) = tokio::join!(one.deliver(&first_bundle, &journal_one), two.deliver(&second_bundle, &journal_two));
        assert!(a.is_ok() && b.is_ok(), "round {round}: {a:?} {b:?}");
        assert_eq!(machine.serves().await, first.fingerprint, "round {round}");
        let other = tls::leaf_fingerprint(machine.haproxy.addr(), "other.test").await.unwrap();
        assert_eq!(other, second.fingerprint, "round {round}");
    }
    assert!(!machine.has_transaction().await);
}

#[tokio::test]
async fn memory_that_is_behind_the_file_is_brought_up() {
    let machine = require!(Machine::start(None).await);
    let (new, bundle) = certificate(&["localhost"]);
    // Without endpoints, what HAProxy says is the proof.
    let subject = machine.subject(json!({"endpoints": []}));
    let plan = subject.plan(&bundle).await.unwrap();
    machine.files.write(&new).unwrap();
    assert_eq!(subject.execute(&bundle, plan, &journal()).await.unwrap_err().code(), "plan_stale");
    let Validation::NotServed { reason, .. } = subject.validate(&bundle).await.unwrap() else { panic!("not told yet") };
    assert!(reason.contains("haproxy"), "{reason}");

    let journal = journal();
    let plan = subject.plan(&bundle).await.unwrap();
    assert!(plan.changes_anything());
    subject.execute(&bundle, plan.clone(), &journal).await.unwrap();
    assert_eq!(machine.serves().await, new.fingerprint);
    assert!(served(&subject.validate(&bundle).await.unwrap()));
    assert_eq!(journal.steps(), ["commit"]);
    // Again, as after a crash.
    subject.execute(&bundle, plan.clone(), &journal).await.unwrap();
    assert_eq!(machine.serves().await, new.fingerprint);
    // What HAProxy had before is nowhere: the file had the new certificate from the beginning.
    let outcome = subject.rollback(&journal).await.unwrap();
    assert!(matches!(outcome, RollbackOutcome::Refused { code, .. } if code == "haproxy_former_lost"));
    assert_eq!(machine.serves().await, new.fingerprint);
    machine.files.write(&machine.old).unwrap();
    assert_eq!(subject.execute(&bundle, plan, &journal).await.unwrap_err().code(), "plan_stale");
    assert!(machine.holds(&machine.old));
    // Now it can be had from the file.
    assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!(machine.serves().await, machine.old.fingerprint);
    assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::NothingToDo);

    // Died before the commit, with the transaction open.
    let name = machine.files.combined().display().to_string();
    machine.open_transaction(&name, &new.combined()).await;
    assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::NothingToDo);
    assert!(!machine.has_transaction().await && machine.serves().await == machine.old.fingerprint);

    let (theirs, _) = certificate(&["localhost"]);
    machine.open_transaction(&name, &theirs.combined()).await;
    machine.haproxy.command(&format!("commit ssl cert {name}")).await.unwrap();
    let outcome = subject.rollback(&journal).await.unwrap();
    assert!(matches!(outcome, RollbackOutcome::Refused { code, .. } if code == "foreign_change"));
    assert_eq!(machine.serves().await, theirs.fingerprint);
}

/// There was no file, so there is nothing to give back; but what HAProxy was given and did not take is withdrawn.
#[tokio::test]
async fn a_transaction_is_aborted_even_without_a_former_file() {
    let machine = require!(Machine::start(None).await);
    let subject = machine.subject(json!({"test_command": null}));
    let (new, bundle) = certificate(&["localhost"]);
    let journal = journal();
    let plan = {
        fs::remove_file(machine.files.combined()).unwrap();
        subject.plan(&bundle).await.unwrap()
    };
    subject.execute(&bundle, plan, &journal).await.unwrap();
    // As if it had died after `set`.
    let name = machine.files.combined().display().to_string();
    machine.open_transaction(&name, &machine.old.combined()).await;
    machine.haproxy.command(&format!("commit ssl cert {name}")).await.unwrap();
    machine.open_transaction(&name, &new.combined()).await;
    assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
    assert!(!machine.has_transaction().await && machine.serves().await == machine.old.fingerprint);
    assert!(!machine.files.combined().exists());
}

/// Somebody gives HAProxy a certificate over its socket: nothing of that is overwritten.
#[tokio::test]
async fn what_others_gave_haproxy_stays() {
    let machine = require!(Machine::start(None).await);
    let subject = machine.subject(json!({}));
    let (_, bundle) = certificate(&["localhost"]);
    let (theirs, _) = certificate(&["localhost"]);
    let name = machine.files.combined().display().to_string();
    let plan = subject.plan(&bundle).await.unwrap();
    let journal = journal();
    subject.execute(&bundle, plan.clone(), &journal).await.unwrap();
    machine.open_transaction(&name, &theirs.combined()).await;
    machine.haproxy.command(&format!("commit ssl cert {name}")).await.unwrap();
    assert_eq!(subject.execute(&bundle, plan, &journal).await.unwrap_err().code(), "foreign_change");
    let outcome = subject.rollback(&journal).await.unwrap();
    assert!(matches!(outcome, RollbackOutcome::Refused { code, .. } if code == "foreign_change"));
    assert_eq!(machine.serves().await, theirs.fingerprint);
}

/// The file was gone while HAProxy still served it: then nobody has what would have to come back.
#[tokio::test]
async fn a_former_certificate_that_nobody_has_is_not_invented() {
    let machine = require!(Machine::start(None).await);
    fs::remove_file(machine.files.combined()).unwrap();
    let subject = machine.subject(json!({}));
    let (new, bundle) = certificate(&["localhost"]);
    let journal = journal();
    subject.deliver(&bundle, &journal).await.unwrap();
    let outcome = subject.rollback(&journal).await.unwrap();
    assert!(matches!(outcome, RollbackOutcome::Refused { code, .. } if code == "haproxy_former_lost"));
    assert!(machine.holds(&new) && machine.serves().await == new.fingerprint);
}

/// HAProxy is down when it should be told: the files go back all the same, for its next start.
#[tokio::test]
async fn a_dead_haproxy_does_not_keep_the_files_from_going_back() {
    let machine = require!(Machine::start(None).await);
    let subject = machine.subject(json!({"test_command": null}));
    let (_, bundle) = certificate(&["localhost"]);
    let journal: MemoryJournal = journal();
    subject.deliver(&bundle, &journal).await.unwrap();
    assert_eq!(journal.entries().await.unwrap().len(), 2);
    let Machine { haproxy, files, old, folder, .. } = machine;
    haproxy.stop().await.unwrap();
    let error = subject.rollback(&journal).await.unwrap_err();
    assert!(["socket_missing", "socket_refused"].contains(&error.code()), "{error}");
    assert_eq!(fs::read_to_string(files.combined()).unwrap(), old.combined());
    drop(folder);
}
