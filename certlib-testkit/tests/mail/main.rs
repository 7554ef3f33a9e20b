//! Mail servers, seen by Python's own client.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{net::SocketAddr, path::Path, process::Command, time::Duration};

use certlib_testkit::{
    counterpart::{Aiosmtpd, Exim, Login, SmtpFault},
    locate::locate,
    pki::TestCa,
    process, require,
};
use tokio::net::TcpStream;

const SOON: Duration = Duration::from_secs(60);

/// Runs the client and gives the number of its checks.
async fn client(python: &Path, ca: &TestCa, addrs: (SocketAddr, SocketAddr), login: &Login) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let (script, roots) = (folder.path().join("client.py"), folder.path().join("ca.pem"));
    std::fs::write(&script, include_str!("client.py")).unwrap();
    std::fs::write(&roots, ca.certificate_pem()).unwrap();
    let mut command = Command::new(python);
    command.arg(script).args([addrs.0.port().to_string(), addrs.1.port().to_string()]).arg(roots);
    command.args([login.user(), login.password()]);
    let output = process::run(command, b"").await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.trim().strip_suffix(" checks").unwrap().parse().unwrap()
}

#[tokio::test]
async fn exim_takes_mail_from_python() {
    let python = require!(locate("aiosmtpd").await);
    let ca = TestCa::new("mail root").unwrap();
    let issued = ca.issue(&["mail.test"]).unwrap();
    let exim = require!(Exim::builder().tls(&issued).login().start().await);
    let checks = client(&python, &ca, (exim.addr(), exim.tls_addr()), exim.login()).await;
    assert!(checks >= 7, "{checks}");
    let mails = exim.await_mails(2, SOON).await.unwrap();
    assert!(String::from_utf8_lossy(&mails[0]).ends_with("\n\n.\n..two\n"), "{mails:?}");
    assert!(exim.log().contains("A=login:certlib") || exim.log().contains("A=plain:certlib"), "{}", exim.log());
    let (folder, addr) = (exim.folder().to_owned(), exim.addr());
    exim.stop().await.unwrap();
    assert!(TcpStream::connect(addr).await.is_err() && !folder.exists());
}

#[tokio::test]
async fn aiosmtpd_takes_mail_from_python_and_misbehaves_when_told() {
    let python = require!(locate("aiosmtpd").await);
    let ca = TestCa::new("mail root").unwrap();
    let issued = ca.issue(&["mail.test"]).unwrap();
    let server = require!(Aiosmtpd::builder().tls(&issued).login().start().await);
    assert_eq!(server.connections().await.unwrap(), 0);
    let checks = client(&python, &ca, (server.addr(), server.tls_addr()), server.login()).await;
    assert!(checks >= 7, "{checks}");
    assert_eq!(server.connections().await.unwrap(), 1);
    let mails = server.await_mails(2, SOON).await.unwrap();
    assert_eq!(mails[0].bytes, b"Subject: one\r\n\r\n.\r\n..two\r\n");
    assert!(mails[1].tls && mails[1].to == ["b@example.com", "c@example.com"]);
    assert!(!server.commands().unwrap().iter().any(|command| command.verb == "AUTH" && !command.tls));

    server.inject(&[SmtpFault::Reply("GREETING", "554 go away".to_owned())]).unwrap();
    let mut command = Command::new(&python);
    command.args(["-c", "import smtplib, sys; smtplib.SMTP('127.0.0.1', int(sys.argv[1]))"]);
    command.arg(server.addr().port().to_string());
    let output = process::capture(command, b"").await.unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("SMTPConnectError: (554"), "{output:?}");
    let (folder, addr) = (server.folder().to_owned(), server.addr());
    server.stop().await.unwrap();
    assert!(TcpStream::connect(addr).await.is_err() && !folder.exists());
}
