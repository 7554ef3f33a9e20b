//! The `ssh` module with `sudo`: OpenSSH, Debian's `sudo`, and a user without any right to the target.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::PathBuf;

use certlib_core::module::RollbackOutcome;
use certlib_core::{Effect, ErrorClass};
use certlib_testkit::counterpart::{KeyType, Sshd, SudoUser};
use certlib_testkit::require;
use serde_json::{Value, json};
use tempfile::TempDir;

use self::common::{Subject, certificate, journal, served};

/// A host with a folder that only root may enter.
struct Machine {
    sshd: Sshd,
    user: SudoUser,
    folder: TempDir,
}

impl Machine {
    async fn start(trusted: bool) -> certlib_testkit::Result<Self> {
        let user = SudoUser::create(trusted).await?;
        Ok(Self { sshd: Sshd::start().await?, user, folder: tempfile::tempdir().unwrap() })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn subject(&self, changes: Value, paths: Value) -> Subject {
        let mut config =
            json!({"host_key": {"known_hosts": fs::read_to_string(self.sshd.known_hosts()).unwrap()}, "sudo": true});
        for (name, value) in changes.as_object().unwrap() {
            config[name] = value.clone();
        }
        let address = self.sshd.addr();
        let location = json!({"host": address.ip().to_string(), "port": address.port(), "paths": paths});
        let key = fs::read_to_string(self.sshd.user_key(KeyType::Ed25519)).unwrap();
        let credentials = json!({"user": self.user.name(), "private_key": key, "pfx_password": "secret"});
        Subject::new("ssh", config, location, Some(credentials))
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

#[tokio::test]
async fn files_that_only_root_may_touch_are_replaced_and_taken_back() {
    let machine = require!(Machine::start(true).await);
    fs::write(machine.at("real.key"), "old key").unwrap();
    fs::set_permissions(machine.at("real.key"), fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(machine.at("real.key"), Some(0), Some(12345)).unwrap();
    symlink(machine.at("real.key"), machine.at("link.key")).unwrap();
    let odd = machine.at("it's a \"path\" $(id) `id`; ls");
    let paths = json!({
        "key": machine.at("link.key"),
        "cert": {"path": odd, "mode": "0444", "owner": machine.user.name(), "group": "12346"},
        "pfx": machine.at("site.pfx"),
    });
    let (_, bundle) = certificate(&["localhost"]);
    let plain = machine.subject(json!({"sudo": false}), paths.clone()).plan(&bundle).await.unwrap_err();
    assert_eq!((plain.code(), plain.class()), ("permission_denied", ErrorClass::IoPermanent));

    let reload = format!("id -u >'{}'", machine.at("whoami").display());
    let subject = machine.subject(json!({"reload_command": reload, "test_command": "test -r /etc/shadow"}), paths);
    let plan = subject.plan(&bundle).await.unwrap();
    assert_eq!(machine.names(), ["link.key", "real.key"], "a dry run changes nothing");
    let journal = journal();
    let facts = subject.execute(&bundle, plan, &journal).await.unwrap();
    assert_eq!((&facts.0["owner_kept"], &facts.0["replaced_with_gap"]), (&json!(true), &json!(false)));
    assert!(served(&subject.validate(&bundle).await.unwrap()));
    assert!(!subject.plan(&bundle).await.unwrap().changes_anything());

    assert_eq!(fs::read_to_string(machine.at("real.key")).unwrap(), *bundle.key_pem().unwrap().expose());
    let key = fs::metadata(machine.at("real.key")).unwrap();
    assert_eq!((key.mode() & 0o7777, key.uid(), key.gid()), (0o640, 0, 12345));
    assert!(fs::symlink_metadata(machine.at("link.key")).unwrap().is_symlink());
    let cert = fs::metadata(&odd).unwrap();
    assert_eq!((cert.mode() & 0o7777, cert.gid()), (0o444, 12346));
    assert_ne!(cert.uid(), 0);
    let pfx = fs::metadata(machine.at("site.pfx")).unwrap();
    assert_eq!((pfx.mode() & 0o7777, pfx.uid()), (0o600, 0), "a new file is root's");
    assert_eq!(fs::read_to_string(machine.at("whoami")).unwrap(), "0\n", "commands are run as root, too");
    assert!(!machine.names().iter().any(|name| name.contains(".certlib-")), "{:?}", machine.names());

    for _ in 0..2 {
        assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
        assert_eq!(machine.names(), ["link.key", "real.key", "whoami"]);
        assert_eq!(fs::read_to_string(machine.at("real.key")).unwrap(), "old key");
        let key = fs::metadata(machine.at("real.key")).unwrap();
        assert_eq!((key.mode() & 0o7777, key.uid(), key.gid()), (0o640, 0, 12345));
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_path_is_named_as_without_sudo() {
    let machine = require!(Machine::start(true).await);
    let (_, bundle) = certificate(&["localhost"]);
    fs::write(machine.at("large"), vec![b'x'; 1024 * 1024 + 1]).unwrap();
    fs::write(machine.at("full"), vec![b'x'; 1024 * 1024]).unwrap();
    symlink("nowhere", machine.at("dangling")).unwrap();
    fs::create_dir(machine.at("inside")).unwrap();
    symlink(machine.folder.path(), machine.at("inside/out")).unwrap();
    let code =
        async |path: &str| match machine.subject(json!({}), json!({"cert": machine.at(path)})).plan(&bundle).await {
            Ok(_) => "ok".to_owned(),
            Err(error) => error.code().to_owned(),
        };
    assert_eq!(code("full").await, "ok");
    assert_eq!(code("large").await, "file_too_large");
    assert_eq!(code("dangling").await, "link_dangling");
    assert_eq!(code("inside").await, "path_not_a_file");
    assert_eq!(code("none/cert.pem").await, "directory_missing");
    let mut escaping = machine.subject(json!({}), json!({"cert": machine.at("inside/out/cert.pem")}));
    escaping.target.location["root"] = machine.at("inside").to_str().unwrap().into();
    assert_eq!(escaping.plan(&bundle).await.unwrap_err().code(), "path_escapes_root");
}

/// A service that owns the directory of its key could have root write anywhere.
#[tokio::test]
async fn a_directory_of_somebody_elses_is_refused_by_the_dry_run() {
    let machine = require!(Machine::start(true).await);
    let (_, bundle) = certificate(&["localhost"]);
    let place = machine.at("service");
    fs::create_dir(&place).unwrap();
    fs::write(machine.at("secret"), "secret").unwrap();
    symlink(machine.at("secret"), machine.at("planted")).unwrap();
    let plan = async |path: &str| {
        let subject = machine.subject(json!({}), json!({"key": machine.at(path)}));
        subject.plan(&bundle).await.map_err(|error| (error.code().to_owned(), error.class(), error.effect()))
    };
    let refused = |code: &str| Err((code.to_owned(), ErrorClass::Validation, Effect::None));
    plan("service/key.pem").await.unwrap();
    std::os::unix::fs::chown(&place, Some(54_321), None).unwrap();
    assert_eq!(plan("service/key.pem").await, refused("directory_not_protected"));
    std::os::unix::fs::chown(&place, Some(0), None).unwrap();
    fs::set_permissions(&place, fs::Permissions::from_mode(0o775)).unwrap();
    assert_eq!(plan("service/key.pem").await, refused("directory_not_protected"));
    fs::set_permissions(&place, fs::Permissions::from_mode(0o1777)).unwrap();
    plan("service/key.pem").await.unwrap();
    plan("planted").await.unwrap();
    std::os::unix::fs::lchown(machine.at("planted"), Some(54_321), None).unwrap();
    assert_eq!(plan("planted").await, refused("link_not_protected"));
    assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
}

/// It takes root a while to get the key, and the owner of the directory no time to plant a link: the directory changes
/// hands between the dry run and the delivery.
#[tokio::test]
async fn nothing_is_written_where_the_directory_has_changed_hands() {
    let machine = require!(Machine::start(true).await);
    let (_, bundle) = certificate(&["localhost"]);
    let place = machine.at("service");
    fs::create_dir(&place).unwrap();
    let subject = machine.subject(json!({}), json!({"key": place.join("key.pem")}));
    let plan = subject.plan(&bundle).await.unwrap();
    std::os::unix::fs::chown(&place, Some(54_321), None).unwrap();
    let error = subject.execute(&bundle, plan, &journal()).await.unwrap_err();
    assert_eq!((error.code(), error.effect()), ("directory_not_protected", Effect::None));
    assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
}

/// Each operation is a session of its own, and a hardened host allows few of them.
#[tokio::test]
async fn a_host_that_allows_few_sessions_is_no_obstacle() {
    let user = require!(SudoUser::create(true).await);
    let sshd = require!(Sshd::builder().option("MaxSessions", "5").start().await);
    let machine = Machine { sshd, user, folder: tempfile::tempdir().unwrap() };
    let (_, bundle) = certificate(&["localhost"]);
    let paths = ["cert", "chain", "fullchain", "key", "combined", "pfx", "der"];
    let paths: Value = paths.iter().map(|name| ((*name).to_owned(), json!(machine.at(name)))).collect();
    let (subject, journal) = (machine.subject(json!({"reload_command": "true"}), paths), journal());
    subject.deliver(&bundle, &journal).await.unwrap();
    assert_eq!(machine.names().len(), 7);
    assert!(served(&subject.validate(&bundle).await.unwrap()));
    assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
    assert!(machine.names().is_empty());
}

#[tokio::test]
async fn a_user_that_sudo_asks_for_a_password_is_told_so() {
    let machine = require!(Machine::start(false).await);
    let (_, bundle) = certificate(&["localhost"]);
    let error = machine.subject(json!({}), json!({"cert": machine.at("c.pem")})).plan(&bundle).await.unwrap_err();
    assert_eq!((error.code(), error.class(), error.effect()), ("sudo_refused", ErrorClass::IoPermanent, Effect::None));
    assert!(error.to_string().contains("NOPASSWD"), "{error}");
    assert!(machine.names().is_empty());
}

#[tokio::test]
async fn a_host_without_sudo_is_named() {
    let user = require!(SudoUser::create(false).await);
    let sshd = require!(Sshd::builder().option("SetEnv", "PATH=/nonexistent").start().await);
    let machine = Machine { sshd, user, folder: tempfile::tempdir().unwrap() };
    let (_, bundle) = certificate(&["localhost"]);
    let error = machine.subject(json!({}), json!({"cert": machine.at("c.pem")})).plan(&bundle).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("sudo_missing", ErrorClass::IoPermanent));
}
