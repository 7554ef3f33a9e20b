//! Every fault, one by one.

use std::time::{Duration, Instant};

use certlib_testkit::simhost::{DropPoint, Fault, TestCertificate};
use russh::{ChannelMsg, Sig};
use russh_sftp::{
    client::{RawSftpSession, error::Error as SftpError},
    protocol::{FileAttributes, OpenFlags, StatusCode},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::support::*;

#[tokio::test]
async fn refuse_closes_the_port_and_keeps_it() {
    let host = faulty(Fault::Refuse).await;
    let dial = || TcpStream::connect(host.ssh_addr());
    assert_eq!(dial().await.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(served(&host).await, TestCertificate::shared().unwrap().fingerprint());
    for _ in 0..3 {
        host.set_fault(None).await.unwrap();
        let client = connect(&host).await.unwrap();
        host.set_fault(Some(Fault::Refuse)).await.unwrap();
        assert_eq!(dial().await.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
        assert_eq!(client.run("true").await.status, Some(0), "open connections go on");
    }
}

#[tokio::test]
async fn hang_accepts_and_says_nothing() {
    let host = faulty(Fault::Hang).await;
    let mut stream = TcpStream::connect(host.ssh_addr()).await.unwrap();
    stream.write_all(b"SSH-2.0-test\r\n").await.unwrap();
    let mut byte = [0];
    assert!(timeout(Duration::from_millis(200), stream.read(&mut byte)).await.is_err());
    host.stop().await;
    let ended = within(stream.read(&mut byte)).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
}

#[tokio::test]
async fn slow_delays_every_operation() {
    let host = builder().start().await.unwrap();
    let sftp = connect(&host).await.unwrap().sftp().await;
    let delay = Duration::from_millis(60);
    host.set_fault(Some(Fault::Slow(delay))).await.unwrap();
    let began = Instant::now();
    for _ in 0..3 {
        sftp.stat(KEY).await.unwrap();
    }
    assert!(began.elapsed() >= 3 * delay);
    let began = Instant::now();
    let client = connect(&host).await.unwrap();
    assert_eq!(client.run("true").await.status, Some(0));
    assert!(began.elapsed() >= 3 * delay, "greeting, login, command");
}

#[tokio::test]
async fn a_wrong_host_key_stops_the_client_before_it_sends_anything() {
    let host = faulty(Fault::WrongHostKey).await;
    assert!(connect(&host).await.is_err());
    assert_eq!(host.connections(), 1);
    assert_eq!(host.history(), []);
    host.set_fault(None).await.unwrap();
    assert!(connect(&host).await.is_ok());
}

#[tokio::test]
async fn a_full_disk_stores_what_fits_and_fails() {
    let host = faulty(Fault::DiskFull { after_bytes: 5000 }).await;
    let client = connect(&host).await.unwrap();
    let sftp = client.sftp().await;
    let free = async || {
        let space = sftp.statvfs("/").await.unwrap();
        space.blocks_avail * space.fragment_size
    };
    assert_eq!(free().await, 4096);
    assert_eq!(code(write_new(&sftp, "/tmp/a", &[7; 6000], 0o600).await), StatusCode::Failure);
    assert_eq!(host.file("/tmp/a").unwrap().len(), 5000);
    assert_eq!(free().await, 0);
    let ran = client.run_with("cat > /tmp/b", b"x").await;
    assert_eq!(ran.status, Some(1));
    assert!(ran.stderr.contains("No space left"), "{}", ran.stderr);
    host.set_fault(None).await.unwrap();
    write_new(&sftp, "/tmp/c", &[7; 6000], 0o600).await.unwrap();
}

#[tokio::test]
async fn permission_denied_protects_a_path_from_every_change() {
    let host = faulty(Fault::PermissionDenied { path: "/etc/ssl".into() }).await;
    let client = connect(&host).await.unwrap();
    let sftp = client.sftp().await;
    let denied = StatusCode::PermissionDenied;
    sftp.open(KEY, OpenFlags::READ, FileAttributes::empty()).await.expect("reading works");
    assert_eq!(code(write_new(&sftp, "/etc/ssl/new", b"x", 0o600).await), denied);
    assert_eq!(code(sftp.open(KEY, OpenFlags::WRITE, FileAttributes::empty()).await), denied);
    assert_eq!(code(sftp.rename(KEY, "/tmp/key").await), denied);
    assert_eq!(code(sftp.remove(KEY).await), denied);
    assert_eq!(code(sftp.setstat(KEY, permissions(0o644)).await), denied);
    assert_eq!(code(sftp.mkdir("/etc/ssl/dir", FileAttributes::empty()).await), denied);
    assert_eq!(code(sftp.hardlink(KEY, "/etc/ssl/key.bak").await), denied);
    assert_eq!(code(sftp.symlink("x", "/etc/ssl/link").await), denied);
    write_new(&sftp, "/tmp/new", b"x", 0o600).await.expect("other paths work");
    assert_eq!(code(posix_rename(&sftp, "/tmp/new", KEY).await), denied);
    let ran = client.run("mv -f -- /tmp/new /etc/ssl/site.key").await;
    assert_eq!(ran.status, Some(1));
    assert!(ran.stderr.contains("Permission denied"), "{}", ran.stderr);
    assert_eq!(client.run("test -w /etc/ssl").await.status, Some(1));
    assert_eq!(client.run("test -w /tmp").await.status, Some(0));
    assert!(host.changes().iter().all(|change| !format!("{change:?}").contains("/etc/ssl")));
}

#[tokio::test]
async fn the_connection_drops_at_the_point_asked_for_and_only_once() {
    let new = renewed();
    let pair = (new.certificate_pem(), new.key_pem());
    // How many renames have happened when the connection is gone.
    for (point, happened) in [
        (DropPoint::Write(1), 0),
        (DropPoint::Write(2), 1),
        (DropPoint::BeforeRename(1), 0),
        (DropPoint::AfterRename(1), 1),
        (DropPoint::BeforeRename(2), 1),
        (DropPoint::AfterRename(2), 2),
    ] {
        let host = faulty(Fault::DropAt(point)).await;
        let client = connect(&host).await.unwrap();
        let sftp = client.sftp().await;
        sftp.set_timeout(1);
        let failed = within(deliver_pair(&sftp, pair.0, pair.1)).await;
        assert!(matches!(&failed, Err(error) if !matches!(error, SftpError::Status(_))), "{point:?}: {failed:?}");
        client.closed().await;
        assert_eq!(renames(&host).len(), happened, "{point:?}");

        let again = connect(&host).await.expect("a new connection is fine");
        let sftp = again.sftp().await;
        for path in [CERTIFICATE, KEY] {
            let _ = sftp.remove(format!("{path}.new")).await;
        }
        deliver_pair(&sftp, pair.0, pair.1).await.unwrap();
        assert_eq!(again.run("certlib-sim reload").await.status, Some(0));
        assert_eq!(served(&host).await, new.fingerprint());
    }

    let host = faulty(Fault::DropAt(DropPoint::Exec(2))).await;
    let client = connect(&host).await.unwrap();
    assert_eq!(client.run("true").await.status, Some(0));
    let channel = client.session().await.unwrap();
    channel.exec(true, "certlib-sim reload").await.unwrap();
    client.closed().await;
    assert_eq!(host.commands().len(), 2);

    // A rename by command counts as well.
    let host = builder().fault(Fault::DropAt(DropPoint::AfterRename(1))).file("/a", "a", 0o600).start().await.unwrap();
    let client = connect(&host).await.unwrap();
    let channel = client.session().await.unwrap();
    channel.exec(true, "mv /a /b").await.unwrap();
    client.closed().await;
    assert!(host.file("/b").is_some());
}

#[tokio::test]
async fn reloads_fail_hang_flood_or_lie() {
    let new = renewed();
    let host = builder().start().await.unwrap();
    let before = served(&host).await;
    host.put_file(CERTIFICATE, new.certificate_pem(), 0o644).unwrap();
    host.put_file(KEY, new.key_pem(), 0o600).unwrap();
    let client = connect(&host).await.unwrap();

    host.set_fault(Some(Fault::ReloadFails { exit_code: 7, stderr: "bind() failed".into() })).await.unwrap();
    assert_eq!(client.run("certlib-sim test").await.status, Some(0), "only reloads are affected");
    let ran = client.run("certlib-sim reload").await;
    assert_eq!((ran.status, ran.stderr.as_str()), (Some(7), "bind() failed\n"));

    host.set_fault(Some(Fault::ReloadHangs)).await.unwrap();
    let mut channel = client.session().await.unwrap();
    channel.exec(true, "certlib-sim reload").await.unwrap();
    channel.eof().await.unwrap();
    assert!(matches!(within(channel.wait()).await, Some(ChannelMsg::Success)));
    assert!(timeout(Duration::from_millis(200), channel.wait()).await.is_err());
    channel.close().await.unwrap();
    assert_eq!(client.run("true").await.status, Some(0), "the connection is still good");

    host.set_fault(Some(Fault::ReloadFloods)).await.unwrap();
    let mut channel = client.session().await.unwrap();
    channel.exec(true, "certlib-sim reload").await.unwrap();
    let mut received = 0;
    while received < 8 << 20 {
        match within(channel.wait()).await.expect("the flood goes on") {
            ChannelMsg::Data { data } => received += data.len(),
            ChannelMsg::Success | ChannelMsg::WindowAdjusted { .. } => {}
            other => panic!("unexpected {other:?}"),
        }
    }
    channel.signal(Sig::KILL).await.unwrap();
    assert!(collect(&mut channel).await.signal);
    assert_eq!(client.run("true").await.status, Some(0), "the connection is still good");

    host.set_fault(Some(Fault::ServesOldCertificate)).await.unwrap();
    assert_eq!(client.run("certlib-sim reload").await.status, Some(0));
    assert_eq!(served(&host).await, before);

    host.set_fault(None).await.unwrap();
    assert_eq!(client.run("certlib-sim reload").await.status, Some(0));
    assert_eq!(served(&host).await, new.fingerprint());
}

#[tokio::test]
async fn posix_rename_and_exit_status_can_be_missing() {
    let host = builder().fault(Fault::NoPosixRename).file("/srv/a", "a", 0o644).start().await.unwrap();
    let client = connect(&host).await.unwrap();
    let channel = client.session().await.unwrap();
    channel.request_subsystem(true, "sftp").await.unwrap();
    let sftp = RawSftpSession::new(channel.into_stream());
    assert!(!sftp.init().await.unwrap().extensions.contains_key("posix-rename@openssh.com"));
    assert_eq!(code(posix_rename(&sftp, "/srv/a", "/srv/b").await), StatusCode::OpUnsupported);
    assert_eq!(client.run("mv -f -- /srv/a /srv/b").await.status, Some(0), "the way around");

    host.set_fault(Some(Fault::NoExitStatus)).await.unwrap();
    let ran = client.run("echo done").await;
    assert_eq!((ran.status, ran.signal, &ran.stdout[..]), (None, false, &b"done\n"[..]));
}
