//! The `ssh` module against OpenSSH, with nginx, HAProxy and Apache behind it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use certlib_core::ErrorClass;
use certlib_core::module::RollbackOutcome;
use certlib_testkit::counterpart::{
    Apache, CertificateFiles, Haproxy, KeyType, Nginx, Sshd, WebServer, s_client_fingerprint,
};
use certlib_testkit::locate::locate;
use certlib_testkit::simhost::{SimHost, UserAuth};
use certlib_testkit::{process, require};
use serde_json::{Value, json};

use self::common::{Subject, certificate, journal, served};

fn location(address: SocketAddr, paths: Value) -> Value {
    json!({"host": address.ip().to_string(), "port": address.port(), "paths": paths})
}

fn credentials(sshd: &Sshd, kind: KeyType) -> Value {
    json!({"user": sshd.user(), "private_key": fs::read_to_string(sshd.user_key(kind)).unwrap()})
}

fn known_hosts(sshd: &Sshd) -> Value {
    json!({"known_hosts": fs::read_to_string(sshd.known_hosts()).unwrap()})
}

/// A target for one web server.
fn subject(sshd: &Sshd, server: &WebServer, paths: Value) -> Subject {
    let address = server.addr();
    let config = json!({
        "host_key": known_hosts(sshd),
        "test_command": server.test_command(),
        "reload_command": server.reload_command(),
        // A loaded machine needs more patience than the default.
        "endpoints": [{
            "host": address.ip().to_string(), "port": address.port(), "server_name": "localhost",
            "tries": 100, "delay_ms": 100,
        }],
    });
    Subject::new("ssh", config, location(sshd.addr(), paths), Some(credentials(sshd, KeyType::Ed25519)))
}

/// Delivery, proof, a broken configuration, and the way back: for any server.
async fn deliver_and_take_back(sshd: &Sshd, server: &WebServer, paths: Value, old: &str) {
    let subject = subject(sshd, server, paths);
    let (issued, bundle) = certificate(&["localhost", "127.0.0.1"]);

    let journal = journal();
    let facts = subject.deliver(&bundle, &journal).await.unwrap();
    assert_eq!(facts.0["replaced_with_gap"], false);
    let validation = subject.validate(&bundle).await.unwrap();
    assert!(served(&validation), "{validation:?}");
    server.await_served(&issued.fingerprint).await.unwrap();
    assert_eq!(s_client_fingerprint(server.addr(), "localhost").await.unwrap(), issued.fingerprint);

    assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
    server.await_served(old).await.unwrap();

    server.break_config().unwrap();
    let journal = common::journal();
    let error = subject.deliver(&bundle, &journal).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("test_failed", ErrorClass::IoPermanent), "{error}");
    assert_eq!(journal.steps(), ["swap"], "a configuration that is refused is never loaded");
    assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!(s_client_fingerprint(server.addr(), "localhost").await.unwrap(), old);
    server.restore_config().unwrap();
}

fn folder() -> tempfile::TempDir {
    // Servers that give up their rights must be able to enter.
    tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempdir().unwrap()
}

#[tokio::test]
async fn nginx_takes_certificate_and_key() {
    let sshd = require!(Sshd::start().await);
    let folder = folder();
    let files = CertificateFiles::new(folder.path());
    let (old, _) = certificate(&["localhost"]);
    files.write(&old).unwrap();
    let nginx = require!(Nginx::start(&files).await);
    let paths = json!({"fullchain": files.full_chain(), "key": files.private_key()});
    deliver_and_take_back(&sshd, &nginx, paths, &old.fingerprint).await;
}

#[tokio::test]
async fn haproxy_takes_one_combined_file() {
    let sshd = require!(Sshd::start().await);
    let folder = folder();
    let files = CertificateFiles::new(folder.path());
    let (old, _) = certificate(&["localhost"]);
    files.write(&old).unwrap();
    let haproxy = require!(Haproxy::start(&files).await);
    deliver_and_take_back(&sshd, &haproxy, json!({"combined": files.combined()}), &old.fingerprint).await;
}

#[tokio::test]
async fn apache_takes_certificate_and_key() {
    let sshd = require!(Sshd::start().await);
    let folder = folder();
    let files = CertificateFiles::new(folder.path());
    let (old, _) = certificate(&["localhost"]);
    files.write(&old).unwrap();
    let apache = require!(Apache::start(&files).await);
    let paths = json!({"fullchain": files.full_chain(), "key": files.private_key()});
    deliver_and_take_back(&sshd, &apache, paths, &old.fingerprint).await;
}

/// A target whose only work is to write one file.
fn plain(sshd: &Sshd, path: &Path, host_key: Value, credentials: Value) -> Subject {
    let config = json!({"host_key": host_key});
    Subject::new("ssh", config, location(sshd.addr(), json!({"cert": path})), Some(credentials))
}

/// Such a host starts SFTP whatever the command, which waits for requests until there are no more. What then ends well
/// must not count as a service that was reloaded.
#[tokio::test]
async fn a_host_that_has_only_sftp_runs_no_commands_and_says_so_at_once() {
    let server = "/usr/lib/openssh/sftp-server";
    assert!(Path::new(server).exists(), "openssh-sftp-server comes with Debian's openssh-server");
    for (forced, code) in [("internal-sftp", "command_failed"), (server, "exec_refused")] {
        let sshd = require!(Sshd::builder().option("ForceCommand", forced).start().await);
        let folder = folder();
        let path = folder.path().join("cert.pem");
        let (issued, bundle) = certificate(&["localhost"]);
        let subject = plain(&sshd, &path, known_hosts(&sshd), credentials(&sshd, KeyType::Ed25519));
        subject.deliver(&bundle, &journal()).await.unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), issued.certificate_pem);

        let config = json!({"host_key": known_hosts(&sshd), "reload_command": "true"});
        let location = location(sshd.addr(), json!({"der": folder.path().join("cert.der")}));
        let subject = Subject::new("ssh", config, location, Some(credentials(&sshd, KeyType::Ed25519)));
        let error = subject.deliver(&bundle, &journal()).await.unwrap_err();
        assert_eq!((error.code(), error.class()), (code, ErrorClass::IoPermanent), "{error}");
    }
}

#[tokio::test]
async fn every_way_to_know_a_host() {
    let sshd = require!(Sshd::builder().host_certificate().start().await);
    let folder = tempfile::tempdir().unwrap();
    let (_, bundle) = certificate(&["localhost"]);
    let code = async |host_key: Value| {
        let subject = plain(&sshd, &folder.path().join("cert.pem"), host_key, credentials(&sshd, KeyType::Ed25519));
        match subject.plan(&bundle).await {
            Ok(_) => "ok".to_owned(),
            Err(error) => error.code().to_owned(),
        }
    };
    // The host has keys of all kinds; the one that is known has to be asked for.
    for kind in KeyType::ALL {
        assert_eq!(code(json!({"known_hosts": sshd.known_hosts_line(kind).unwrap()})).await, "ok", "{kind:?}");
        assert_eq!(
            code(json!({"fingerprint": sshd.host_key_fingerprint(kind).await.unwrap()})).await,
            "ok",
            "{kind:?}"
        );
    }
    let ca = sshd.host_ca().unwrap().unwrap();
    assert_eq!(code(json!({"host_ca": ca})).await, "ok");
    assert_eq!(code(json!({"known_hosts": format!("@cert-authority [127.0.0.1]:* {ca}")})).await, "ok");
    assert_eq!(code(json!({"host_ca": sshd.host_public_key(KeyType::Ed25519).unwrap()})).await, "host_key_unknown");

    let hashed = folder.path().join("hashed");
    fs::copy(sshd.known_hosts(), &hashed).unwrap();
    let mut keygen = Command::new(locate("ssh-keygen").await.unwrap());
    keygen.args(["-q", "-H", "-f"]).arg(&hashed);
    process::run(keygen, b"").await.unwrap();
    let text = fs::read_to_string(&hashed).unwrap();
    assert!(text.starts_with("|1|") && !text.contains("127.0.0.1"));
    assert_eq!(code(json!({"known_hosts": text})).await, "ok");

    let swapped = format!("[127.0.0.1]:{} {}", sshd.addr().port(), sshd.user_public_key(KeyType::Ecdsa).unwrap());
    assert_eq!(code(json!({"known_hosts": swapped})).await, "host_key_changed");
}

#[tokio::test]
async fn a_reinstalled_host_is_refused_before_the_login() {
    let sshd = require!(Sshd::start().await);
    let folder = tempfile::tempdir().unwrap();
    let (_, bundle) = certificate(&["localhost"]);
    let subject =
        plain(&sshd, &folder.path().join("cert.pem"), known_hosts(&sshd), credentials(&sshd, KeyType::Ed25519));
    subject.plan(&bundle).await.unwrap();
    let sshd = sshd.replace_host_keys().await.unwrap();
    // The kept connection is to the former host, and gone with it.
    let error = subject.plan(&bundle).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("host_key_changed", ErrorClass::Auth));
    let log = sshd.log();
    let since = log.rsplit("Server listening").next().unwrap();
    assert!(!since.contains("Accepted") && !since.contains("Postponed publickey"), "{since}");
}

#[tokio::test]
async fn a_kept_connection_that_died_is_replaced() {
    let sshd = require!(Sshd::start().await);
    let folder = tempfile::tempdir().unwrap();
    let (_, bundle) = certificate(&["localhost"]);
    let path = folder.path().join("cert.pem");
    let subject = plain(&sshd, &path, known_hosts(&sshd), credentials(&sshd, KeyType::Ed25519));
    let plan = subject.plan(&bundle).await.unwrap();
    let _sshd = sshd.restart().await.unwrap();
    subject.execute(&bundle, plan, &journal()).await.unwrap();
    assert_eq!(fs::read_to_string(path).unwrap(), bundle.leaf_pem());
}

#[tokio::test]
async fn every_kind_of_key_logs_in() {
    let sshd = require!(Sshd::start().await);
    let folder = tempfile::tempdir().unwrap();
    let (_, bundle) = certificate(&["localhost"]);
    for kind in KeyType::ALL {
        let path = folder.path().join(format!("{kind:?}.pem"));
        let subject = plain(&sshd, &path, known_hosts(&sshd), credentials(&sshd, kind));
        subject.deliver(&bundle, &journal()).await.unwrap();
        assert!(served(&subject.validate(&bundle).await.unwrap()), "{kind:?}");
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o644);
    }
}

async fn keygen(arguments: &[&str], path: &Path) {
    let mut command = Command::new(locate("ssh-keygen").await.unwrap());
    command.arg("-q").args(arguments).arg(path);
    process::run(command, b"").await.unwrap();
}

/// Generates a key pair with ssh-keygen; gives the private key and the public line.
async fn key_pair(folder: &Path, name: &str, kind: &str, format: &str, passphrase: &str) -> (String, String) {
    let path = folder.join(name);
    keygen(&["-t", kind, "-m", format, "-N", passphrase, "-C", "", "-f"], &path).await;
    (fs::read_to_string(&path).unwrap(), fs::read_to_string(path.with_extension("pub")).unwrap())
}

#[tokio::test]
async fn every_format_of_private_keys_is_read() {
    require!(locate("ssh-keygen").await);
    let folder = tempfile::tempdir().unwrap();
    let (_, bundle) = certificate(&["localhost"]);
    let cases = [
        ("ed25519", "RFC4716", ""),
        ("ed25519", "RFC4716", "a pass phrase"),
        ("ecdsa", "RFC4716", "a pass phrase"),
        ("ecdsa", "PKCS8", ""),
        ("ecdsa", "PEM", ""),
        ("rsa", "RFC4716", "a pass phrase"),
        ("rsa", "PKCS8", ""),
        ("rsa", "PKCS8", "a pass phrase"),
        ("rsa", "PEM", ""),
    ];
    for (index, (kind, format, passphrase)) in cases.into_iter().enumerate() {
        let (private, public) = key_pair(folder.path(), &format!("k{index}"), kind, format, passphrase).await;
        let host = SimHost::builder().user("root", UserAuth::public_key(public)).start().await.unwrap();
        host.put_file("/d/keep", "", 0o644).unwrap();
        let attempt = async |credentials: Value| {
            let config = json!({"host_key": {"known_hosts": host.known_hosts_line()}});
            let subject =
                Subject::new("ssh", config, location(host.ssh_addr(), json!({"cert": "/d/c"})), Some(credentials));
            subject.plan(&bundle).await.map_err(|error| error.code().to_owned())
        };
        let mut credentials = json!({"user": "root", "private_key": private});
        if !passphrase.is_empty() {
            let without = attempt(credentials.clone()).await.unwrap_err();
            assert!(["passphrase_missing", "private_key_invalid"].contains(&without.as_str()), "{without}");
            credentials["passphrase"] = "wrong".into();
            assert_eq!(attempt(credentials.clone()).await.unwrap_err(), "private_key_invalid");
            assert_eq!(host.connections(), 0);
            credentials["passphrase"] = passphrase.into();
        }
        let result = attempt(credentials).await;
        assert!(result.is_ok(), "{kind} {format} {passphrase:?}: {result:?}");
    }
}

#[tokio::test]
async fn a_user_certificate_logs_in() {
    require!(locate("ssh-keygen").await);
    let folder = tempfile::tempdir().unwrap();
    key_pair(folder.path(), "ca", "ed25519", "RFC4716", "").await;
    let ca = folder.path().join("ca");
    let trusted = ca.with_extension("pub").display().to_string();
    let sshd = require!(
        Sshd::builder().option("AuthorizedKeysFile", "none").option("TrustedUserCAKeys", &trusted).start().await
    );
    let (private, _) = key_pair(folder.path(), "user", "ed25519", "RFC4716", "").await;
    let (_, bundle) = certificate(&["localhost"]);
    let path = folder.path().join("cert.pem");

    let credentials = json!({"user": sshd.user(), "private_key": private});
    let error = plain(&sshd, &path, known_hosts(&sshd), credentials.clone()).plan(&bundle).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("auth_refused", ErrorClass::Auth));

    let public = folder.path().join("user.pub");
    keygen(&["-s", ca.to_str().unwrap(), "-I", "test", "-n", sshd.user()], &public).await;
    let mut with_certificate = credentials;
    with_certificate["certificate"] = fs::read_to_string(folder.path().join("user-cert.pub")).unwrap().into();
    plain(&sshd, &path, known_hosts(&sshd), with_certificate).plan(&bundle).await.unwrap();
}

/// Which agent to use is a matter of the process's environment, so the test runs itself again with another one.
#[tokio::test]
async fn an_agent_logs_in() {
    const HANDED_OVER: &str = "CERTLIB_TEST_AGENT_TARGET";
    if let Ok(handed_over) = std::env::var(HANDED_OVER) {
        let target: Value = serde_json::from_str(&handed_over).unwrap();
        let part = |name: &str| target[name].clone();
        let subject = Subject::new("ssh", part("config"), part("location"), Some(part("credentials")));
        let (_, bundle) = certificate(&["localhost"]);
        subject.deliver(&bundle, &journal()).await.unwrap();
        return;
    }
    let sshd = require!(Sshd::start().await);
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent");
    let ssh_agent = locate("ssh-keygen").await.unwrap().with_file_name("ssh-agent");
    let mut command = Command::new(&ssh_agent);
    command.args(["-D", "-a"]).arg(&socket);
    let agent = process::Child::spawn("ssh-agent", command, folder.path()).unwrap();
    process::poll_until("the agent", process::START_LIMIT, async || socket.exists().then_some(())).await.unwrap();
    for kind in KeyType::ALL {
        // Only this key is in the agent, so this key has to do.
        for arguments in [vec![PathBuf::from("-D")], vec![PathBuf::from("-q"), sshd.user_key(kind)]] {
            let mut add = Command::new(ssh_agent.with_file_name("ssh-add"));
            add.args(arguments).env("SSH_AUTH_SOCK", &socket);
            process::run(add, b"").await.unwrap();
        }
        let path = folder.path().join(format!("{kind:?}.pem"));
        let target = json!({
            "config": {"host_key": known_hosts(&sshd)},
            "location": location(sshd.addr(), json!({"cert": path})),
            "credentials": {"user": sshd.user(), "agent": true},
        });
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", "an_agent_logs_in"]).env(HANDED_OVER, target.to_string()).env("SSH_AUTH_SOCK", &socket);
        process::run(again, b"").await.unwrap();
        assert!(path.exists(), "{kind:?}");
    }
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn owners_links_and_odd_paths_on_a_real_host() {
    let sshd = require!(Sshd::start().await);
    let folder = tempfile::tempdir().unwrap();
    let (_, bundle) = certificate(&["localhost"]);
    let odd = folder.path().join("it's a \"path\" $(id) `id`; ls");
    let real = folder.path().join("real.key");
    fs::write(&real, "old").unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
    let link = folder.path().join("link.key");
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let me = fs::metadata(folder.path()).unwrap();
    let paths = json!({
        "cert": {"path": odd, "mode": "0444", "owner": me.uid().to_string()},
        "key": link,
    });
    let config = json!({"host_key": known_hosts(&sshd)});
    let subject = Subject::new("ssh", config, location(sshd.addr(), paths), Some(credentials(&sshd, KeyType::Ed25519)));
    let journal = journal();
    subject.deliver(&bundle, &journal).await.unwrap();
    assert!(served(&subject.validate(&bundle).await.unwrap()));
    assert_eq!(fs::read_to_string(&odd).unwrap(), bundle.leaf_pem());
    assert_eq!(fs::metadata(&odd).unwrap().mode() & 0o777, 0o444);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::metadata(&real).unwrap().mode() & 0o777, 0o640);
    assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!(fs::read_to_string(&real).unwrap(), "old");
    assert!(!odd.exists());

    let mut fifo = Command::new("mkfifo");
    fifo.arg(folder.path().join("fifo"));
    process::run(fifo, b"").await.unwrap();
    for (name, code) in [("fifo", "path_not_a_file"), ("none/cert.pem", "directory_missing"), ("", "path_not_a_file")] {
        let path = folder.path().join(name);
        let path = path.to_str().unwrap().trim_end_matches('/').to_owned();
        let subject = plain(&sshd, Path::new(&path), known_hosts(&sshd), credentials(&sshd, KeyType::Ed25519));
        assert_eq!(subject.plan(&bundle).await.unwrap_err().code(), code, "{name}");
    }
}

#[tokio::test]
async fn commands_run_in_sh_and_end_with_their_time() {
    let sshd = require!(Sshd::start().await);
    let folder = tempfile::tempdir().unwrap();
    let (_, bundle) = certificate(&["localhost"]);
    let run = async |command: &str| {
        let config = json!({"host_key": known_hosts(&sshd), "reload_command": command, "command_timeout_ms": 1000});
        let paths = json!({"cert": folder.path().join("cert.pem")});
        let subject =
            Subject::new("ssh", config, location(sshd.addr(), paths), Some(credentials(&sshd, KeyType::Ed25519)));
        fs::write(folder.path().join("cert.pem"), "old").unwrap();
        subject.deliver(&bundle, &journal()).await.map(drop).map_err(|error| error.code().to_owned())
    };
    let mark = folder.path().join("mark");
    let quoting = format!("v=\"it's\"; printf '%s|%s' \"$v\" 'a\"b' > '{}'", mark.display());
    assert_eq!(run(&quoting).await, Ok(()));
    assert_eq!(fs::read_to_string(&mark).unwrap(), "it's|a\"b");
    assert_eq!(run("exit 7").await, Err("command_failed".into()));
    assert_eq!(run("kill -KILL $$").await, Err("command_failed".into()));
    assert_eq!(run("head -c 5000000 /dev/zero").await, Ok(()), "a finite flood is only read away");
    assert_eq!(run("cat /dev/zero").await, Err("command_timeout".into()));
    assert_eq!(run("exec sleep 20").await, Err("command_timeout".into()));
}
