//! Every counterpart starts, answers a real client, changes while it runs, and leaves no process behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bson::{Document, doc};
use certlib_testkit::{
    counterpart::{
        Acme2Certifier, Apache, Bind, CertificateFiles, Haproxy, KeyType, Mariadb, MongoReplicaSet, Mongod, Nginx,
        Pebble, Postgres, PowerDns, RenewalWindow, Sshd, WebServer, random_mac_key, s_client_fingerprint,
    },
    locate,
    pki::TestCa,
    process::{self, START_LIMIT},
    require, tls,
};
use instant_acme::{
    AuthorizationStatus, CertificateIdentifier, ChallengeType, ExternalAccountKey, NewOrder, OrderStatus,
    RevocationRequest,
};
use tokio::net::TcpStream;

/// Processes whose command line mentions the counterpart's own temporary directory.
fn processes_in(folder: &Path) -> Vec<String> {
    let needle = folder.display().to_string();
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).filter(|line| line.contains(&needle)).collect()
}

async fn assert_gone(folder: &Path, addr: SocketAddr) {
    assert_eq!(processes_in(folder), Vec::<String>::new());
    assert!(TcpStream::connect(addr).await.is_err(), "something still listens on {addr}");
    assert!(!folder.exists(), "{} was left behind", folder.display());
}

// --- OpenSSH ---

#[tokio::test]
async fn sshd_runs_commands_and_transfers_files() {
    let sshd = require!(Sshd::start().await);
    let answer = sshd.ssh("printf '%s:' \"$USER\"; echo hello; exit 3").await.unwrap();
    assert_eq!(answer.status.code(), Some(3));
    assert_eq!(String::from_utf8_lossy(&answer.stdout), format!("{}:hello\n", sshd.user()));

    let (from, to) = (sshd.folder().join("from"), sshd.folder().join("to"));
    fs::write(&from, "content").unwrap();
    sshd.sftp(&format!("put {} {}\n", from.display(), to.display())).await.unwrap();
    assert_eq!(fs::read_to_string(to).unwrap(), "content");

    let (folder, addr) = (sshd.folder().to_owned(), sshd.addr());
    sshd.stop().await.unwrap();
    assert_gone(&folder, addr).await;
}

#[tokio::test]
async fn sshd_accepts_every_kind_of_user_key() {
    let sshd = require!(Sshd::start().await);
    for kind in KeyType::ALL {
        let line = format!(
            "ssh -F none -i {} -o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=yes \
             -o UserKnownHostsFile={} -p {} {}@127.0.0.1 true",
            sshd.user_key(kind).display(),
            sshd.known_hosts().display(),
            sshd.addr().port(),
            sshd.user(),
        );
        process::shell(&line).await.unwrap_or_else(|error| panic!("{kind:?}: {error}\n{}", sshd.log()));
        assert!(sshd.host_key_fingerprint(kind).await.unwrap().starts_with("SHA256:"));
        assert!(sshd.user_public_key(kind).unwrap().contains(' '));
    }
}

#[tokio::test]
async fn sshd_restarts_with_the_same_or_with_other_host_keys() {
    let sshd = require!(Sshd::start().await);
    let before = sshd.host_public_key(KeyType::Ed25519).unwrap();
    let known_hosts = fs::read_to_string(sshd.known_hosts()).unwrap();
    let sshd = sshd.restart().await.unwrap();
    assert!(sshd.ssh("true").await.unwrap().status.success());

    let sshd = sshd.replace_host_keys().await.unwrap();
    assert_ne!(sshd.host_public_key(KeyType::Ed25519).unwrap(), before);
    assert!(sshd.ssh("true").await.unwrap().status.success());

    fs::write(sshd.known_hosts(), known_hosts).unwrap();
    let refused = sshd.ssh("true").await.unwrap();
    assert_eq!(refused.status.code(), Some(255));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("HOST IDENTIFICATION HAS CHANGED"));
}

#[tokio::test]
async fn sshd_presents_a_host_certificate() {
    let sshd = require!(Sshd::builder().host_certificate().start().await);
    let authority = sshd.host_ca().unwrap().expect("there is an authority");
    fs::write(sshd.known_hosts(), format!("@cert-authority * {authority}\n")).unwrap();
    let answer = sshd.ssh("true").await.unwrap();
    assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
}

#[tokio::test]
async fn sshd_takes_options() {
    let sshd = require!(Sshd::builder().without_sftp().option("ForceCommand", "echo forced").start().await);
    let answer = sshd.ssh("true").await.unwrap();
    assert_eq!(String::from_utf8_lossy(&answer.stdout), "forced\n");
    assert!(sshd.host_ca().unwrap().is_none());
    assert!(sshd.sftp("ls\n").await.is_err());
}

#[tokio::test]
async fn sshd_takes_its_sessions_along() {
    let sshd = require!(Sshd::start().await);
    let note = sshd.folder().join("session");
    let session = {
        let line = format!("echo $$ >{}; exec sleep 300", note.display());
        // The client ends when its server does.
        let sshd = &sshd;
        async move { sshd.ssh(&line).await }
    };
    let observed = async {
        process::poll_until("the session", START_LIMIT, async || {
            fs::read_to_string(&note).ok()?.trim().parse::<u32>().ok()
        })
        .await
        .unwrap()
    };
    let id = {
        tokio::pin!(session);
        tokio::select! {
            id = observed => id,
            answer = &mut session => panic!("the session ended early: {answer:?}"),
        }
    };
    drop(sshd);
    process::poll_until("the end of the session", START_LIMIT, async || {
        (!PathBuf::from(format!("/proc/{id}")).exists()).then_some(())
    })
    .await
    .unwrap();
}

// --- web servers ---

struct Delivery {
    ca: TestCa,
    files: CertificateFiles,
    first: String,
    _folder: tempfile::TempDir,
}

fn delivery() -> Delivery {
    let ca = TestCa::new("delivery root").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let files = CertificateFiles::new(folder.path());
    let issued = ca.issue(&["localhost", "127.0.0.1"]).unwrap();
    files.write(&issued).unwrap();
    Delivery { ca, files, first: issued.fingerprint, _folder: folder }
}

/// What every web server must do. `refuses` says whether its reload command notices an invalid configuration.
async fn serves_and_reloads(server: &WebServer, delivery: &Delivery, refuses: bool) {
    let client = tls::http_client(delivery.ca.certificate_pem()).unwrap();
    let answer = client.get(format!("https://{}/", server.addr())).send().await.unwrap();
    assert!(!answer.text().await.unwrap().is_empty());
    assert_eq!(server.served_fingerprint().await.unwrap(), delivery.first);
    process::shell(server.test_command()).await.unwrap();

    let second = delivery.ca.issue(&["localhost"]).unwrap();
    delivery.files.write(&second).unwrap();
    assert_eq!(server.served_fingerprint().await.unwrap(), delivery.first, "it changed without a reload");
    server.reload().await.unwrap();
    server.await_served(&second.fingerprint).await.unwrap();
    let seen = s_client_fingerprint(server.addr(), "localhost").await;
    assert!(
        matches!(&seen, Ok(seen) if *seen == second.fingerprint)
            || matches!(seen, Err(certlib_testkit::Error::LeftOut { .. })),
        "{seen:?}"
    );

    server.break_config().unwrap();
    assert!(process::shell(server.test_command()).await.is_err(), "the test command accepts nonsense");
    let third = delivery.ca.issue(&["localhost"]).unwrap();
    delivery.files.write(&third).unwrap();
    assert_eq!(server.reload().await.is_err(), refuses, "{}", server.log());
    assert_eq!(server.served_fingerprint().await.unwrap(), second.fingerprint, "an invalid configuration was taken up");

    server.restore_config().unwrap();
    process::shell(server.test_command()).await.unwrap();
    server.reload().await.unwrap();
    server.await_served(&third.fingerprint).await.unwrap_or_else(|error| panic!("{error}\n{}", server.log()));
}

#[tokio::test]
async fn nginx_serves_and_reloads() {
    let delivery = delivery();
    let nginx = require!(Nginx::start(&delivery.files).await);
    serves_and_reloads(&nginx, &delivery, true).await;
    let (folder, addr) = (nginx.folder().to_owned(), nginx.addr());
    nginx.stop().await.unwrap();
    assert_gone(&folder, addr).await;
}

#[tokio::test]
async fn haproxy_serves_and_reloads() {
    let delivery = delivery();
    let haproxy = require!(Haproxy::start(&delivery.files).await);
    assert!(haproxy.socket().exists());
    serves_and_reloads(&haproxy, &delivery, false).await;
    let (folder, addr) = (haproxy.folder().to_owned(), haproxy.addr());
    haproxy.stop().await.unwrap();
    assert_gone(&folder, addr).await;
}

#[tokio::test]
async fn apache_serves_and_reloads() {
    let delivery = delivery();
    let apache = require!(Apache::start(&delivery.files).await);
    serves_and_reloads(&apache, &delivery, true).await;
    let (folder, addr) = (apache.folder().to_owned(), apache.addr());
    apache.stop().await.unwrap();
    assert_gone(&folder, addr).await;
}

#[tokio::test]
async fn a_key_that_does_not_match_fails_the_test_command() {
    let delivery = delivery();
    let nginx = require!(Nginx::start(&delivery.files).await);
    let other = delivery.ca.issue(&["localhost"]).unwrap();
    fs::write(delivery.files.private_key(), &other.key_pem).unwrap();
    let error = process::shell(nginx.test_command()).await.unwrap_err().to_string();
    assert!(error.contains("key values mismatch"), "{error}");
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let result = Nginx::start(&CertificateFiles::new(folder.path())).await;
    if let Err(certlib_testkit::Error::LeftOut { name }) = result {
        eprintln!("left out: {name}");
        return;
    }
    let error = result.unwrap_err().to_string();
    assert!(error.contains("nginx did not start") && error.contains("fullchain.pem"), "{error}");
}

// --- Pebble ---

#[tokio::test]
async fn pebble_issues_over_dns_01_and_knows_about_revocation() {
    let pebble = require!(Pebble::builder().nonce_reject_percent(0).start().await);
    let account = support::account(&pebble.directory_url(), pebble.api_root_pem(), None).await.unwrap();
    let names = ["www.example.test", "*.example.test"];
    let mut order = account.new_order(&NewOrder::new(&support::identifiers(&names))).await.unwrap();
    assert_eq!(pebble.order_count(), 1);
    // The companion keeps several values of one name, as the wildcard and its base name need.
    let publish = async |name: String, value: String| pebble.set_txt(&name.replace("*.", ""), &value).await.unwrap();
    support::authorize(&mut order, ChallengeType::Dns01, publish).await;
    let chain = support::chain(&support::certificate(&mut order, &names).await);
    assert_eq!(chain.len(), 2);

    let root = pebble.root_pem().await.unwrap();
    assert!(tls::client_config(&root).is_ok());
    let (_, leaf) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
    let serial: String = leaf.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(pebble.certificate_status(&serial).await.unwrap()["Status"], "Valid");
    let der = chain[0].clone().into();
    account.revoke(&RevocationRequest { certificate: &der, reason: None }).await.unwrap();
    assert_eq!(pebble.certificate_status(&serial).await.unwrap()["Status"], "Revoked");

    let (folder, addr) = (pebble.folder().to_owned(), pebble.addr());
    pebble.stop().await.unwrap();
    assert_gone(&folder, addr).await;
}

#[tokio::test]
async fn pebble_lets_its_companion_answer_http_01() {
    let pebble = require!(
        Pebble::builder().nonce_reject_percent(0).serve_http_01().validity(Duration::from_secs(3600)).start().await
    );
    let account = support::account(&pebble.directory_url(), pebble.api_root_pem(), None).await.unwrap();
    let names = ["http.example.test"];
    let mut order = account.new_order(&NewOrder::new(&support::identifiers(&names))).await.unwrap();
    let publish = async |token: String, key: String| pebble.add_http_01(&token, &key).await.unwrap();
    support::authorize(&mut order, ChallengeType::Http01, publish).await;
    let chain = support::chain(&support::certificate(&mut order, &names).await);
    let (_, leaf) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
    let lifetime = leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp();
    assert!((3590..=3610).contains(&lifetime), "{lifetime}");
}

#[tokio::test]
async fn pebble_requires_an_external_account() {
    let mac = random_mac_key();
    let pebble = require!(Pebble::builder().nonce_reject_percent(0).external_account("kid-1", &mac).start().await);
    let (url, root) = (pebble.directory_url(), pebble.api_root_pem().to_owned());
    assert!(support::account(&url, &root, None).await.is_err());
    let wrong = ExternalAccountKey::new("kid-1".to_owned(), b"another key, which is long enough");
    assert!(support::account(&url, &root, Some(&wrong)).await.is_err());
    let right = ExternalAccountKey::new("kid-1".to_owned(), &URL_SAFE_NO_PAD.decode(&mac).unwrap());
    support::account(&url, &root, Some(&right)).await.unwrap();
    assert!(!format!("{:?}", Pebble::builder().external_account("kid-1", &mac)).contains(&mac));
}

#[tokio::test]
async fn pebble_options_reach_the_program() {
    let pebble = require!(
        Pebble::builder()
            .nonce_reject_percent(90)
            .authz_reuse_percent(100)
            .always_valid()
            .chain_length(3)
            .validation_delay(Duration::from_secs(2))
            .start()
            .await
    );
    let log = pebble.log();
    for line in ["reject 90% of good nonces", "reuse for each identifier 100%"] {
        assert!(log.contains(line), "{line} is missing in:\n{log}");
    }
    let chain = log.lines().find(|line| line.contains("issuance chain")).expect("it prints the chain");
    assert_eq!(chain.matches("->").count(), 3, "{chain}");
}

#[tokio::test]
async fn pebble_resolves_at_bind() {
    let bind = require!(Bind::start("example.test").await);
    let pebble = require!(Pebble::builder().nonce_reject_percent(0).dns_server(bind.addr()).start().await);
    let account = support::account(&pebble.directory_url(), pebble.api_root_pem(), None).await.unwrap();
    let names = ["api.example.test"];
    let mut order = account.new_order(&NewOrder::new(&support::identifiers(&names))).await.unwrap();
    let publish = async |name: String, value: String| {
        bind.update(&format!("update add {name} 60 TXT \"{value}\"")).await.unwrap();
    };
    support::authorize(&mut order, ChallengeType::Dns01, publish).await;
    assert_eq!(support::chain(&support::certificate(&mut order, &names).await).len(), 2);
}

// --- acme2certifier ---

/// The suggested window and the wait before the next question.
async fn window(account: &instant_acme::Account, leaf: &[u8]) -> (i64, i64, Duration) {
    let der = leaf.to_vec().into();
    let id = CertificateIdentifier::try_from(&der).unwrap();
    let (info, retry_after) = account.renewal_info(&id).await.unwrap();
    // The client turns the header into a moment and back.
    let retry_after = Duration::from_secs_f64(retry_after.as_secs_f64().round());
    let window = info.suggested_window;
    (window.start.unix_timestamp(), window.end.unix_timestamp(), retry_after)
}

fn now() -> i64 {
    i64::try_from(SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()).unwrap()
}

#[tokio::test]
async fn acme2certifier_issues_by_profile_and_suggests_when_to_renew() {
    const DAY: i64 = 24 * 3600;
    let builder = Acme2Certifier::builder().profile("server", "for servers").profile("short", "for a short time");
    let mut ca = require!(builder.validity_days(10).start().await);
    let account = support::account(&ca.directory_url(), ca.api_root_pem(), None).await.unwrap();
    let mut profiles: Vec<String> = account.profiles().map(|profile| profile.name.to_owned()).collect();
    profiles.sort();
    assert_eq!(profiles, ["server", "short"]);

    let names = ["www.example.com"];
    let ids = support::identifiers(&names);
    let chain = support::chain(&support::issue(&account, &NewOrder::new(&ids).profile("short"), &names).await);
    assert_eq!((chain.len(), ca.order_count()), (2, 1));
    assert!(account.new_order(&NewOrder::new(&ids).profile("unknown")).await.is_err());

    // 85 % of ten days, until the end.
    let (start, end, retry_after) = window(&account, &chain[0]).await;
    assert!((start - (now() + 85 * DAY / 10)).abs() < 600, "{start}");
    assert!((end - (now() + 10 * DAY)).abs() < 600, "{end}");
    assert_eq!(retry_after, Duration::from_secs(600));

    let past = RenewalWindow::default().start_percent(-10.0).length(Duration::from_secs(3600));
    ca.set_renewal_window(past.retry_after(Duration::from_secs(5))).unwrap();
    let (start, end, retry_after) = window(&account, &chain[0]).await;
    assert!((start - (now() - DAY)).abs() < 600, "{start}");
    assert_eq!((end - start, retry_after), (3600, Duration::from_secs(5)));

    ca.set_renewal_window(RenewalWindow::default().forced()).unwrap();
    let (start, end, _) = window(&account, &chain[0]).await;
    assert!(start < now() - 300 * DAY && (end - (now() + DAY)).abs() < 600, "{start} {end}");

    // It takes an order that replaces a certificate, but does not repeat the field; this client calls that an error.
    let der = chain[0].clone().into();
    let id = CertificateIdentifier::try_from(&der).unwrap();
    let order = account.new_order(&NewOrder::new(&ids).profile("server").replaces(id)).await;
    assert!(order.is_err_and(|error| error.to_string().contains("replaces field mismatch")));
    assert_eq!(ca.order_count(), 2);

    ca.set_renewal_window(RenewalWindow::default().disabled()).unwrap();
    let client = tls::http_client(ca.api_root_pem()).unwrap();
    let directory = client.get(ca.directory_url()).send().await.unwrap().text().await.unwrap();
    assert!(!directory.contains("renewalInfo"), "{directory}");
}

#[tokio::test]
async fn acme2certifier_revokes_without_moving_the_renewal_window() {
    let ca = require!(Acme2Certifier::start().await);
    let account = support::account(&ca.directory_url(), ca.api_root_pem(), None).await.unwrap();
    let names = ["revoked.example.com"];
    let chain = support::chain(&support::issue(&account, &NewOrder::new(&support::identifiers(&names)), &names).await);
    let before = window(&account, &chain[0]).await;
    assert!(ca.crl_pem().is_none());

    let der = chain[0].clone().into();
    account.revoke(&RevocationRequest { certificate: &der, reason: None }).await.unwrap();
    assert!(ca.crl_pem().expect("there is a list now").contains("X509 CRL"));
    assert!(account.revoke(&RevocationRequest { certificate: &der, reason: None }).await.is_err());
    assert_eq!(window(&account, &chain[0]).await, before);

    let (folder, addr) = (ca.folder().to_owned(), ca.addr());
    ca.stop().await.unwrap();
    assert_gone(&folder, addr).await;
}

#[tokio::test]
async fn acme2certifier_requires_an_external_account() {
    let mac = random_mac_key();
    let ca = require!(Acme2Certifier::builder().external_account("kid-2", &mac).start().await);
    let (url, root) = (ca.directory_url(), ca.api_root_pem().to_owned());
    assert!(support::account(&url, &root, None).await.is_err());
    let right = ExternalAccountKey::new("kid-2".to_owned(), &URL_SAFE_NO_PAD.decode(&mac).unwrap());
    support::account(&url, &root, Some(&right)).await.unwrap();
}

#[tokio::test]
async fn acme2certifier_validates_dns_01_and_http_01_for_real() {
    let bind = require!(Bind::start("example.com").await);
    // Pebble's companion serves the HTTP-01 answers.
    let pebble = require!(Pebble::builder().serve_http_01().start().await);
    let builder = Acme2Certifier::builder().dns_server(bind.addr()).http_01_port(pebble.http_01_addr().port());
    let ca = require!(builder.start().await);
    let account = support::account(&ca.directory_url(), ca.api_root_pem(), None).await.unwrap();

    let names = ["dns.example.com"];
    let mut order = account.new_order(&NewOrder::new(&support::identifiers(&names))).await.unwrap();
    let publish = async |name: String, value: String| {
        bind.update(&format!("update add {name} 60 TXT \"{value}\"")).await.unwrap();
    };
    support::authorize(&mut order, ChallengeType::Dns01, publish).await;
    support::certificate(&mut order, &names).await;

    let names = ["http.example.com"];
    let mut order = account.new_order(&NewOrder::new(&support::identifiers(&names))).await.unwrap();
    let publish = async |token: String, key: String| pebble.add_http_01(&token, &key).await.unwrap();
    support::authorize(&mut order, ChallengeType::Http01, publish).await;
    support::certificate(&mut order, &names).await;

    // And it is no formality: without an answer the authorization does not become valid.
    let mut order = account.new_order(&NewOrder::new(&support::identifiers(&["none.example.com"]))).await.unwrap();
    {
        let mut authorizations = order.authorizations();
        let mut authorization = authorizations.next().await.unwrap().unwrap();
        authorization.challenge(ChallengeType::Dns01).unwrap().set_ready().await.unwrap();
    }
    let mut order = account.order(order.url().to_owned()).await.unwrap();
    assert_eq!(order.state().status, OrderStatus::Pending);
    let mut authorizations = order.authorizations();
    let authorization = authorizations.next().await.unwrap().unwrap();
    assert_eq!(authorization.status, AuthorizationStatus::Invalid);
}

// --- BIND ---

#[tokio::test]
async fn bind_takes_signed_updates_only() {
    let bind = require!(Bind::start("example.test").await);
    assert_eq!(bind.dig("anything.example.test", "A").await.unwrap(), ["127.0.0.1"]);
    let name = "_acme-challenge.www.example.test";
    bind.update(&format!("update add {name} 60 TXT \"one\"")).await.unwrap();
    bind.update(&format!("update add {name} 60 TXT \"two\"")).await.unwrap();
    let mut values = bind.txt(name).await.unwrap();
    values.sort();
    assert_eq!(values, ["one", "two"]);
    bind.update(&format!("update delete {name} TXT")).await.unwrap();
    assert!(bind.txt(name).await.unwrap().is_empty());

    let unsigned = format!(
        "printf 'server 127.0.0.1 {}\\nzone example.test\\nupdate add {name} 60 TXT \"three\"\\nsend\\n' | {}",
        bind.addr().port(),
        locate::locate("nsupdate").await.unwrap().display(),
    );
    assert!(process::shell(&unsigned).await.is_err());
    assert!(bind.txt(name).await.unwrap().is_empty());
    assert!(!format!("{bind:?}").contains(bind.key_secret()));

    let (folder, addr) = (bind.folder().to_owned(), bind.addr());
    bind.stop().await.unwrap();
    assert_gone(&folder, addr).await;
}

// --- PowerDNS ---

#[tokio::test]
async fn powerdns_takes_changes_with_its_key_only() {
    let server = require!(PowerDns::start(&["example.test", "sub.example.test"]).await);
    assert_eq!(server.dig("anything.sub.example.test", "A").await.unwrap(), ["127.0.0.1"]);
    let name = "_acme-challenge.www.sub.example.test";
    server.insert(name, "TXT", "\"one\"").await.unwrap();
    assert_eq!(server.txt(name).await.unwrap(), ["one"]);
    let patch = async |key: &str| {
        let body = format!(
            r#"{{"rrsets":[{{"name":"{name}.","type":"TXT","changetype":"REPLACE","ttl":60,"records":[{{"content":"\"two\"","disabled":false}}]}}]}}"#
        );
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("{}/servers/localhost/zones/sub.example.test.", server.api_url());
        client.patch(url).header("X-API-Key", key).body(body).send().await.unwrap().status().as_u16()
    };
    assert_eq!(patch("wrong").await, 401);
    assert_eq!(server.txt(name).await.unwrap(), ["one"]);
    assert_eq!(patch(server.api_key()).await, 204);
    assert_eq!(server.txt(name).await.unwrap(), ["two"]);
    assert!(!format!("{server:?}").contains(server.api_key()));

    let (folder, addr) = (server.folder().to_owned(), server.addr());
    server.stop().await.unwrap();
    assert_gone(&folder, addr).await;
}

// --- MariaDB ---

#[tokio::test]
async fn mariadb_keeps_what_it_acknowledged_over_crashes_and_restarts() {
    let ca = TestCa::new("database root").unwrap();
    let certificate = ca.issue(&["127.0.0.1"]).unwrap();
    let builder = Mariadb::builder().option("innodb-flush-log-at-trx-commit", "2").tls(certificate);
    let mut server = require!(builder.start().await);
    let url = server.create_database("shop").await.unwrap();
    assert_eq!(url, server.url_for("shop"));
    assert!(!format!("{server:?}").contains(server.password()), "the password is not shown");
    server.sql("CREATE TABLE shop.kept (id INT PRIMARY KEY); INSERT INTO shop.kept VALUES (7)").await.unwrap();
    let settings = server.sql("SELECT @@innodb_flush_log_at_trx_commit, @@have_ssl").await.unwrap();
    assert_eq!(settings, "2\tYES\n");

    let (folder, addr) = (server.folder().to_owned(), server.addr());
    server.kill();
    assert!(TcpStream::connect(addr).await.is_err());
    assert!(server.sql("SELECT 1").await.is_err());
    server.restart().await.unwrap();
    server.restart().await.unwrap();
    assert_eq!(server.addr(), addr);
    assert_eq!(server.sql("SELECT id FROM shop.kept").await.unwrap(), "7\n");
    assert!(server.sql("SELECT nonsense").await.is_err());

    server.stop().await.unwrap();
    assert_gone(&folder, addr).await;
}

// --- PostgreSQL ---

#[tokio::test]
async fn postgres_keeps_what_it_acknowledged() {
    let mut postgres = require!(Postgres::builder().durable().setting("work_mem", "5MB").start().await);
    let url = postgres.create_database("some \"db\"").await.unwrap();
    assert!(url.starts_with(&format!("postgres://postgres@{}/", postgres.addr())));
    let ask = async |postgres: &Postgres, script: &str| postgres.psql("some \"db\"", script).await;
    assert_eq!(ask(&postgres, "SHOW fsync; SHOW work_mem;").await.unwrap(), "on\n5MB");
    ask(&postgres, "CREATE TABLE t (n int); INSERT INTO t VALUES (1);").await.unwrap();
    postgres.kill();
    assert!(ask(&postgres, "SELECT 1").await.is_err());
    postgres.resume().await.unwrap();
    ask(&postgres, "INSERT INTO t VALUES (2)").await.unwrap();
    postgres.restart().await.unwrap();
    assert_eq!(ask(&postgres, "SELECT sum(n) FROM t").await.unwrap(), "3");
    assert!(ask(&postgres, "SELECT broken").await.unwrap_err().to_string().contains("broken"));

    let (folder, addr) = (postgres.folder().to_owned(), postgres.addr());
    postgres.stop().await.unwrap();
    assert_gone(&folder, addr).await;
}

#[tokio::test]
async fn postgres_insists_on_tls_and_password_and_feeds_a_standby() {
    let ca = TestCa::new("postgres root").unwrap();
    let builder = Postgres::builder().password().tls(&ca.issue(&["127.0.0.1"]).unwrap());
    let postgres = require!(builder.start().await);
    let password = postgres.password().expect("it has one");
    assert!(postgres.url().contains(password) && !format!("{postgres:?}").contains(password));
    let sessions = "SELECT count(*) FROM pg_stat_ssl WHERE pid = pg_backend_pid() AND ssl";
    assert_eq!(postgres.psql("postgres", sessions).await.unwrap(), "1");

    let standby = postgres.standby().await.unwrap();
    assert_eq!(standby.psql("postgres", "SELECT pg_is_in_recovery()").await.unwrap(), "t");
}

// --- MongoDB ---

#[tokio::test]
async fn a_mongodb_set_elects_another_primary_and_keeps_what_a_majority_has() {
    let set = require!(MongoReplicaSet::start(3).await);
    let first = set.primary().await.unwrap();
    let concern = || doc! { "w": "majority", "j": true, "wtimeout": 20_000 };
    let insert = |id: i32| doc! { "insert": "kept", "documents": [doc! { "_id": id }], "writeConcern": concern() };
    let find = || doc! { "find": "kept", "filter": {} };
    let count = |answer: &Document| answer.get_document("cursor").unwrap().get_array("firstBatch").unwrap().len();
    set.command(first, "test", insert(1)).await.unwrap();

    assert_eq!(set.kill_primary().await.unwrap(), first);
    let second = set.primary().await.unwrap();
    assert_ne!(first, second);
    assert_eq!(count(&set.command(second, "test", find()).await.unwrap()), 1);
    set.command(second, "test", insert(2)).await.unwrap();
    set.start_member(first).await.unwrap();

    assert_eq!(set.step_down().await.unwrap(), second);
    let third = set.primary().await.unwrap();
    assert_ne!(second, third);
    assert_eq!(count(&set.command(third, "test", find()).await.unwrap()), 2);

    set.pause_member(third).unwrap();
    let other = (third + 1) % 3;
    let elected = process::poll_until("an election without the paused member", START_LIMIT, async || {
        let hello = set.command(other, "admin", doc! { "hello": 1 }).await.unwrap();
        let primary = hello.get_str("primary").ok()?.to_owned();
        (primary != set.addrs()[third].to_string()).then_some(primary)
    });
    elected.await.unwrap();
    set.resume_member(third).unwrap();

    let (folder, addrs) = (set.folder().to_owned(), set.addrs());
    set.stop().await.unwrap();
    for addr in addrs {
        assert_gone(&folder, addr).await;
    }
}

#[tokio::test]
async fn a_mongod_alone_has_no_transactions() {
    let server = require!(Mongod::standalone().await);
    let hello = server.command("admin", doc! { "hello": 1 }).await.unwrap();
    assert!(hello.get("setName").is_none(), "{hello}");
    assert!(server.command("admin", doc! { "replSetGetStatus": 1 }).await.is_err());
    let (folder, addr) = (server.folder().to_owned(), server.addr());
    server.stop().await.unwrap();
    assert_gone(&folder, addr).await;
}
