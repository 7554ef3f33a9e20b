//! The same hosts, seen by the clients of OpenSSH.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Output};

use certlib_testkit::{
    locate, require,
    simhost::{DropPoint, Fault, Operation, SimHost, SimHostBuilder, TestCertificate, UserAuth},
};

use crate::support::*;

/// Everything OpenSSH needs to reach one host.
struct OpenSsh {
    folder: tempfile::TempDir,
    key: PathBuf,
    port: u16,
}

impl OpenSsh {
    fn options(&self, port_flag: &str) -> Vec<String> {
        let known_hosts = self.folder.path().join("known_hosts");
        let mut options = vec!["-F".into(), "none".into(), port_flag.into(), self.port.to_string()];
        options.extend(["-i".into(), self.key.display().to_string()]);
        for option in [
            format!("UserKnownHostsFile={}", known_hosts.display()),
            "GlobalKnownHostsFile=/dev/null".into(),
            "StrictHostKeyChecking=yes".into(),
            "IdentitiesOnly=yes".into(),
            "IdentityAgent=none".into(),
            "BatchMode=yes".into(),
        ] {
            options.extend(["-o".into(), option]);
        }
        options
    }

    async fn ssh(&self, command: &str) -> Output {
        let mut ssh = tokio::process::Command::new(locate::locate("ssh").await.unwrap());
        ssh.args(self.options("-p")).arg("root@127.0.0.1").arg(command).stdin(std::process::Stdio::null());
        within(ssh.kill_on_drop(true).output()).await.unwrap()
    }

    async fn sftp(&self, batch: &str) -> Output {
        let file = self.folder.path().join("batch");
        fs::write(&file, batch).unwrap();
        let mut sftp = tokio::process::Command::new(locate::locate("sftp").await.unwrap());
        sftp.arg("-b").arg(file).args(self.options("-P")).arg("root@127.0.0.1");
        within(sftp.kill_on_drop(true).output()).await.unwrap()
    }
}

/// A host, and OpenSSH set up for it with a key of this kind.
async fn openssh(kind: &str, builder: SimHostBuilder) -> (SimHost, OpenSsh) {
    let folder = tempfile::tempdir().unwrap();
    let key = keygen(folder.path(), kind).await;
    let public = fs::read_to_string(key.with_extension("pub")).unwrap();
    let host = builder.user("root", UserAuth::public_key(public)).start().await.unwrap();
    fs::write(folder.path().join("known_hosts"), host.known_hosts_line() + "\n").unwrap();
    let port = host.ssh_addr().port();
    (host, OpenSsh { folder, key, port })
}

#[tokio::test]
async fn openssh_logs_in_with_every_kind_of_key_and_runs_commands() {
    require!(locate::locate("ssh").await);
    for kind in ["ed25519", "ecdsa", "rsa"] {
        let (host, openssh) = openssh(kind, builder().file("/srv/a", "hello", 0o644)).await;
        let output = openssh.ssh("cat /srv/a; cat /none").await;
        assert_eq!(output.status.code(), Some(1), "{kind}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.stdout, b"hello");
        assert!(String::from_utf8_lossy(&output.stderr).contains("No such file"));
        assert_eq!(openssh.ssh("exit 42").await.status.code(), Some(42));
        assert_eq!(openssh.ssh("certlib-sim reload").await.status.code(), Some(0));
        assert_eq!(openssh.ssh("unheard-of").await.status.code(), Some(127));
        assert_eq!(host.commands().len(), 4);
    }
}

#[tokio::test]
async fn openssh_delivers_files_over_sftp() {
    require!(locate::locate("sftp").await);
    let (host, openssh) = openssh("ed25519", builder()).await;
    let new = renewed();
    let local = openssh.folder.path();
    fs::write(local.join("site.pem"), new.certificate_pem()).unwrap();
    fs::write(local.join("site.key"), new.key_pem()).unwrap();
    fs::set_permissions(local.join("site.key"), fs::Permissions::from_mode(0o600)).unwrap();
    let here = local.display();
    let output = openssh
        .sftp(&format!(
            "put {here}/site.pem /etc/ssl/.new.pem\n\
             put -p {here}/site.key /etc/ssl/.new.key\n\
             ln {CERTIFICATE} /etc/ssl/site.pem.bak\n\
             chmod 640 /etc/ssl/.new.key\n\
             chown 33 /etc/ssl/.new.key\n\
             rename /etc/ssl/.new.pem {CERTIFICATE}\n\
             rename /etc/ssl/.new.key {KEY}\n\
             ln -s site.pem /etc/ssl/current.pem\n\
             mkdir /etc/ssl/archive\n\
             rename /etc/ssl/site.pem.bak /etc/ssl/archive/1.pem\n\
             get /etc/ssl/current.pem {here}/back.pem\n\
             df /etc\n\
             cd /etc/ssl\n\
             ls -la\n"
        ))
        .await;
    let listing = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{listing}{}", String::from_utf8_lossy(&output.stderr));
    assert!(listing.contains("archive") && listing.contains("-rw-r-----"), "{listing}");
    assert_eq!(fs::read_to_string(local.join("back.pem")).unwrap(), new.certificate_pem());
    let key = host.info(KEY).unwrap();
    assert_eq!((key.mode, key.uid), (0o640, 33));
    let old = TestCertificate::shared().unwrap();
    assert_eq!(host.file("/etc/ssl/archive/1.pem").unwrap(), old.certificate_pem().as_bytes());
    let created = host.changes().into_iter().find_map(|change| match change {
        Operation::SymlinkCreated { path, target } => Some((path, target)),
        _ => None,
    });
    assert_eq!(created, Some(("/etc/ssl/current.pem".into(), "site.pem".into())));
    let replaced = |change: &Operation| matches!(change, Operation::Renamed { replaced: true, .. });
    assert_eq!(host.changes().iter().filter(|change| replaced(change)).count(), 2);

    assert_eq!(openssh.ssh("certlib-sim test && certlib-sim reload").await.status.code(), Some(0));
    assert_eq!(served(&host).await, new.fingerprint());

    // Without the extension OpenSSH falls back to the plain rename, which never replaces.
    host.set_fault(Some(Fault::NoPosixRename)).await.unwrap();
    let refused = openssh.sftp(&format!("rename /etc/ssl/archive/1.pem {CERTIFICATE}\n")).await;
    assert!(!refused.status.success());
    host.set_fault(Some(Fault::DiskFull { after_bytes: 10 })).await.unwrap();
    assert!(!openssh.sftp(&format!("put {here}/site.pem /etc/ssl/full.pem\n")).await.status.success());
    host.set_fault(Some(Fault::PermissionDenied { path: CERTIFICATE.into() })).await.unwrap();
    let refused = openssh.sftp(&format!("rm {CERTIFICATE}\n")).await;
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Permission denied"));
}

#[tokio::test]
async fn openssh_sees_the_faults_of_the_connection() {
    require!(locate::locate("ssh").await);
    let (host, openssh) = openssh("ed25519", builder()).await;
    let message = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();

    host.set_fault(Some(Fault::WrongHostKey)).await.unwrap();
    let output = openssh.ssh("true").await;
    assert_eq!(output.status.code(), Some(255));
    assert!(message(&output).contains("REMOTE HOST IDENTIFICATION HAS CHANGED"), "{}", message(&output));
    assert_eq!(host.history(), []);

    host.set_fault(Some(Fault::AuthRefused)).await.unwrap();
    let output = openssh.ssh("true").await;
    assert!(message(&output).contains("Permission denied"), "{}", message(&output));

    host.set_fault(Some(Fault::Refuse)).await.unwrap();
    let output = openssh.ssh("true").await;
    assert!(message(&output).contains("Connection refused"), "{}", message(&output));

    host.set_fault(Some(Fault::DropAt(DropPoint::Exec(1)))).await.unwrap();
    assert_eq!(openssh.ssh("true").await.status.code(), Some(255));
    assert_eq!(openssh.ssh("true").await.status.code(), Some(0));

    host.set_fault(Some(Fault::NoExitStatus)).await.unwrap();
    assert_eq!(openssh.ssh("true").await.status.code(), Some(255));
}
