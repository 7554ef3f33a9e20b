//! Simulated hosts, seen by a Rust SSH client and by the clients of OpenSSH.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod commands;
mod faults;
mod files;
mod logins;
mod openssh;
mod support;

use std::{fs, time::Instant};

use certlib_testkit::{
    process,
    simhost::{Action, Operation, Service, SimFleet, SimHost, TestCertificate, UserAuth},
    tls,
};
use tokio::net::TcpStream;

use crate::support::*;

#[tokio::test]
async fn a_delivered_certificate_is_served_after_the_reload() {
    let host = builder().start().await.unwrap();
    let before = TestCertificate::shared().unwrap();
    assert_eq!(served(&host).await, before.fingerprint());

    let new = renewed();
    let client = connect(&host).await.unwrap();
    let sftp = client.sftp().await;
    deliver_pair(&sftp, new.certificate_pem(), new.key_pem()).await.unwrap();
    assert_eq!(served(&host).await, before.fingerprint(), "nothing changes before the reload");

    assert_eq!(client.run("certlib-sim test").await.status, Some(0));
    assert_eq!(client.run("/bin/sh -c 'certlib-sim reload'").await.status, Some(0));
    assert_eq!(served(&host).await, new.fingerprint());
    assert_eq!(host.file(CERTIFICATE).unwrap(), new.certificate_pem().as_bytes());
    assert_eq!(host.info(KEY).unwrap().mode, 0o600);

    assert_eq!(host.commands(), ["certlib-sim test", "/bin/sh -c 'certlib-sim reload'"]);
    let order: Vec<_> = renames(&host).into_iter().map(|(_, to)| to).collect();
    assert_eq!(order, [CERTIFICATE, KEY]);
    let history = host.history();
    assert!(matches!(
        &history[0].operation,
        Operation::Login { user, method: "password", accepted: true } if user == "root"
    ));
    assert!(history.iter().all(|entry| entry.connection == 1));
    assert!(history.iter().any(|entry| matches!(&entry.operation, Operation::Synced { .. })));
    assert_eq!((host.connections(), host.open_connections()), (1, 1));

    // HTTPS clients get an answer, too.
    let http = tls::http_client(new.certificate_pem()).unwrap();
    let refused = http.get(format!("https://{}/", host.tls_addr())).send().await;
    assert!(refused.is_err(), "the certificate is for another name");
    assert!(host.tls_connections() >= 3);
}

#[tokio::test]
async fn a_key_of_another_certificate_fails_the_test_and_the_reload() {
    let host = builder().start().await.unwrap();
    let before = served(&host).await;
    let client = connect(&host).await.unwrap();
    let sftp = client.sftp().await;
    deliver_pair(&sftp, renewed().certificate_pem(), renewed().key_pem()).await.unwrap();
    for command in ["certlib-sim test", "certlib-sim reload"] {
        let ran = client.run(command).await;
        assert_eq!(ran.status, Some(1));
        assert!(ran.stderr.contains("do not fit"), "{}", ran.stderr);
    }
    deliver(&sftp, CERTIFICATE, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 0o644)
        .await
        .unwrap();
    assert_eq!(client.run("certlib-sim test").await.status, Some(1));
    sftp.remove(KEY).await.unwrap();
    let ran = client.run("certlib-sim reload").await;
    assert_eq!(ran.status, Some(1));
    assert_eq!(served(&host).await, before);
}

#[tokio::test]
async fn services_read_combined_files_and_chains_and_may_start_empty() {
    let new = renewed();
    let combined = SimHost::builder()
        .user("root", UserAuth::password(PASSWORD))
        .service(Service::combined("/etc/haproxy/site.pem").without_initial_certificate())
        .start()
        .await
        .unwrap();
    assert_eq!(combined.served_fingerprint(), None);
    assert!(tls::leaf_fingerprint(combined.tls_addr(), "localhost").await.is_err());
    combined.put_file("/etc/haproxy/site.pem", new.combined_pem(), 0o600).unwrap();
    let client = connect(&combined).await.unwrap();
    assert_eq!(client.run("certlib-sim reload").await.status, Some(0));
    assert_eq!(served(&combined).await, new.fingerprint());

    let with_chain = Service::new(CERTIFICATE, KEY).chain("/etc/ssl/chain.pem").initial_certificate(new.clone());
    let chained = builder().service(with_chain).start().await.unwrap();
    assert_eq!(served(&chained).await, new.fingerprint());
    assert_eq!(chained.file("/etc/ssl/chain.pem").unwrap(), b"");

    // Files that are there already are served, not overwritten.
    let kept =
        builder().initial_files([(CERTIFICATE, new.certificate_pem()), (KEY, new.key_pem())]).start().await.unwrap();
    assert_eq!(served(&kept).await, new.fingerprint());

    let other = renewed();
    let mismatch = builder().initial_files([(CERTIFICATE, new.certificate_pem()), (KEY, other.key_pem())]);
    assert!(mismatch.start().await.is_err());
    let plain = SimHost::builder().start().await.unwrap();
    assert_eq!(served(&plain).await, TestCertificate::shared().unwrap().fingerprint());
}

#[tokio::test]
async fn mistakes_in_the_set_up_are_reported() {
    for builder in [
        builder().without_extension("posix-rename"),
        builder().file("relative", "x", 0o644),
        builder().file("/etc/ssl/a/b", "x", 0o644).file("/etc/ssl/a", "x", 0o644),
        builder().user("deploy", UserAuth::public_key("ssh-ed25519 nonsense")),
        builder().command("a; b", Action::Hang),
        builder().command("a 'b", Action::Hang),
    ] {
        assert!(builder.start().await.is_err());
    }
}

/// Resident memory of this process in bytes.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_hosts_live_in_one_process() {
    const HOSTS: usize = 200;
    // What is shared is made before the measurement.
    builder().start().await.unwrap().stop().await;
    let before = resident();
    let began = Instant::now();
    let fleet = SimFleet::start(HOSTS, |index| builder().name(format!("web-{index:03}"))).await.unwrap();
    let took = began.elapsed();
    let each = resident().saturating_sub(before) / HOSTS;
    eprintln!("{HOSTS} hosts started in {took:?}; {each} bytes of resident memory per idle host");
    assert!(each < 256 * 1024, "{each} bytes per idle host");

    let mut keys: Vec<_> = fleet.iter().map(SimHost::host_key_fingerprint).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), HOSTS, "every host has a key of its own");
    assert_eq!(fleet[7].name(), "web-007");

    let new = renewed();
    let deliveries = fleet.iter().map(async |host| {
        let client = connect(host).await.unwrap();
        let sftp = client.sftp().await;
        deliver_pair(&sftp, new.certificate_pem(), new.key_pem()).await.unwrap();
        assert_eq!(client.run("certlib-sim test && certlib-sim reload").await.status, Some(0));
        served(host).await
    });
    for seen in futures::future::join_all(deliveries).await {
        assert_eq!(seen, new.fingerprint());
    }
    let addresses: Vec<_> = fleet.iter().map(|host| (host.ssh_addr(), host.tls_addr())).collect();
    within(fleet.stop()).await;
    for (ssh, tls) in addresses {
        assert!(TcpStream::connect(ssh).await.is_err());
        assert!(TcpStream::connect(tls).await.is_err());
    }
}

#[tokio::test]
async fn a_host_ends_its_connections_when_it_stops_or_is_dropped() {
    let host = builder().start().await.unwrap();
    let client = connect(&host).await.unwrap();
    host.stop().await;
    client.closed().await;

    let host = builder().start().await.unwrap();
    let client = connect(&host).await.unwrap();
    let address = host.ssh_addr();
    drop(host);
    client.closed().await;
    process::poll_until("the port to close", LIMIT, async || TcpStream::connect(address).await.is_err().then_some(()))
        .await
        .unwrap();
}
