//! What arrives.

use std::process::Command;

use certlib_core::module::{ErasedModule as _, RollbackOutcome, Validation};
use certlib_testkit::counterpart::Exim;
use certlib_testkit::locate::locate;
use certlib_testkit::{process, require};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_of_tls_and_login_delivers() {
    let certificate = RelayCertificate::new();
    let exim = require!(exim(&certificate).await);
    let login = exim.login();
    let mut delivered = 0;
    for (security, addr) in [("starttls", exim.addr()), ("tls", exim.tls_addr())] {
        for (auth, credentials) in [
            ("auto", password(login)),
            ("plain", password(login)),
            ("login", password(login)),
            ("xoauth2", json!({ "username": login.user(), "access_token": login.token() })),
        ] {
            let config = json!({ "tls": certificate.tls(), "auth": auth });
            let case = Case::new(addr, json!({ "security": security }), config).log_in(credentials);
            let facts =
                case.execute().await.unwrap_or_else(|error| panic!("{security} {auth}: {error:?}\n{}", exim.log()));
            assert_eq!(facts.0["accepted"], json!(["ops@example.com"]));
            delivered += 1;
            exim.await_mails(delivered, SOON).await.unwrap();
        }
    }
    let log = exim.log();
    // Exim itself says that each came over TLS and after a login.
    assert_eq!(log.matches(" A=plain:certlib").count(), 4, "{log}");
    assert_eq!(log.matches(" A=login:certlib").count(), 2, "{log}");
    assert_eq!(log.matches(" A=xoauth2:certlib").count(), 2, "{log}");
    assert_eq!(log.matches(" X=TLS1.").count(), 8, "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_arrives_byte_for_byte_and_is_taken_back() {
    let certificate = RelayCertificate::new();
    let exim = require!(exim(&certificate).await);
    let location = json!({ "to": ["Ops <ops@example.com>", "dba@example.com"], "cc": ["Bürö <office@example.com>"], "bcc": ["audit@example.com"] });
    let body = "Für {names} ({version}):\n\n.\n\n..zwei\nFrom here\n.\n{fingerprint}\n";
    let config = json!({
        "tls": certificate.tls(),
        "from": "Zertifikate für alle <certs@example.com>",
        "reply_to": "help@example.com",
        "subject": "Zertifikat für {name}: ein langer Betreff, der umbrochen wird, weil er länger als eine Zeile ist",
        "body": body,
        "headers": { "X-Queue": "tls & mehr – ü" },
        "attachments": [{ "content": "certificate" }, { "content": "fullchain", "file_name": "Kette für alle.pem" }],
    });
    let case = Case::new(exim.addr(), location, config).log_in(password(exim.login()));
    let facts = case.execute().await.unwrap();
    let mails = exim.await_mails(1, SOON).await.unwrap();
    let mail = Parsed::read(&mails[0]).await;

    assert_eq!(mail.header("from"), Some("Zertifikate für alle <certs@example.com>"));
    assert_eq!(mail.header("reply-to"), Some("help@example.com"));
    assert_eq!(mail.header("to"), Some("Ops <ops@example.com>, dba@example.com"));
    assert_eq!(mail.header("cc"), Some("Bürö <office@example.com>"));
    assert_eq!(mail.header("bcc"), None);
    let envelope = mail.header("envelope-to").unwrap();
    for address in ["ops@example.com", "dba@example.com", "office@example.com", "audit@example.com"] {
        assert!(envelope.contains(address), "{envelope}");
    }
    assert_eq!(mail.header("return-path"), Some("<certs@example.com>"));
    let subject =
        "Zertifikat für shop.example.com: ein langer Betreff, der umbrochen wird, weil er länger als eine Zeile ist";
    assert_eq!(mail.header("subject"), Some(subject));
    assert_eq!(mail.header("date"), Some("Mon, 01 Mar 2027 12:00:00 +0000"));
    assert_eq!(mail.header("x-queue"), Some("tls & mehr – ü"));
    assert_eq!(mail.header("auto-submitted"), Some("auto-generated"));
    assert_eq!(mail.header("message-id").map(str::to_owned), facts.0["message_id"].as_str().map(str::to_owned));
    let fingerprint = case.bundle.fingerprint();
    let text = format!("Für shop.example.com, *.shop.example.com (3):\n\n.\n\n..zwei\nFrom here\n.\n{fingerprint}\n");
    assert_eq!(mail.text(), text);
    let attachments = mail.attachments();
    let expected = [
        (
            "shop.example.com.crt.pem".to_owned(),
            "application/x-pem-file".to_owned(),
            case.bundle.leaf_pem().into_bytes(),
        ),
        (
            "Kette für alle.pem".to_owned(),
            "application/x-pem-file".to_owned(),
            case.bundle.fullchain_pem().into_bytes(),
        ),
    ];
    assert_eq!(attachments, expected);
    assert!(!String::from_utf8_lossy(&mails[0]).contains("PRIVATE"));
    assert_eq!(case.module.validate(&case.cx, &case.spec, &case.bundle).await.unwrap(), Validation::Skipped);

    for _ in 0..2 {
        assert_eq!(case.rollback().await.unwrap(), RollbackOutcome::RolledBack);
    }
    let mails = exim.await_mails(3, SOON).await.unwrap();
    let notices = [Parsed::read(&mails[1]).await, Parsed::read(&mails[2]).await];
    for notice in &notices {
        assert_eq!(notice.header("in-reply-to"), mail.header("message-id"));
        assert_eq!(notice.header("references"), mail.header("message-id"));
        assert!(notice.header("subject").unwrap().starts_with("Disregard: certificate for shop.example.com, serial "));
        assert!(notice.text().contains(mail.header("message-id").unwrap()));
        assert!(notice.text().contains(&fingerprint.to_string()));
        assert!(notice.attachments().is_empty());
        assert_ne!(notice.header("message-id"), mail.header("message-id"));
        assert!(notice.header("envelope-to").unwrap().contains("audit@example.com"));
    }
    assert_eq!(notices[0].header("message-id"), notices[1].header("message-id"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_default_message_says_what_matters() {
    let certificate = RelayCertificate::new();
    let exim = require!(exim(&certificate).await);
    let case = Case::new(exim.addr(), json!({}), json!({ "tls": certificate.tls() })).log_in(password(exim.login()));
    case.execute().await.unwrap();
    let mail = Parsed::read(&exim.await_mails(1, SOON).await.unwrap()[0]).await;
    let leaf = case.bundle.leaf();
    for part in [
        "shop.example.com, *.shop.example.com",
        &leaf.serial,
        &leaf.fingerprint.to_string(),
        "smtp test intermediate",
        "operations",
    ] {
        assert!(mail.text().contains(part), "{part} is missing in {}", mail.text());
    }
    assert!(mail.header("subject").unwrap().starts_with("Certificate for shop.example.com, valid until 20"));
    let [(name, _, bytes)] = &mail.attachments()[..] else { panic!("{mail:?}") };
    assert_eq!((name.as_str(), bytes.as_slice()), ("shop.example.com.pem", case.bundle.fullchain_pem().as_bytes()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_arrive_as_agreed() {
    let certificate = RelayCertificate::new();
    let exim = require!(exim(&certificate).await);
    let openssl = require!(locate("openssl").await);
    let config = json!({
        "tls": certificate.tls(),
        "include_private_key": true,
        "allow_unencrypted_key": true,
        "attachments": [{ "content": "combined" }, { "content": "pkcs12" }],
    });
    let credentials = merged(password(exim.login()), json!({ "pkcs12_password": CONTAINER_PASSWORD }));
    let mut case = Case::new(exim.tls_addr(), json!({ "security": "tls" }), config).log_in(credentials);
    let plan = case.plan().await.unwrap();
    assert_eq!(plan, case.plan().await.unwrap(), "a container is encrypted afresh each time, and the plan is the same");
    let facts = case.execute().await.unwrap();
    let mail = Parsed::read(&exim.await_mails(1, SOON).await.unwrap()[0]).await;
    let attachments = mail.attachments();
    let [(pem_name, _, pem), (name, kind, container)] = &attachments[..] else { panic!("{mail:?}") };
    let key = case.bundle.key_pem().unwrap();
    assert_eq!(pem_name, "shop.example.com.key.pem");
    assert_eq!(*pem, format!("{}{}", case.bundle.fullchain_pem(), key.expose()).into_bytes());
    assert_eq!((name.as_str(), kind.as_str()), ("shop.example.com.p12", "application/x-pkcs12"));

    let opened = async |password: &str, options: &[&str]| {
        let mut command = Command::new(&openssl);
        command.args(["pkcs12", "-passin", "env:CONTAINER"]).args(options).env("CONTAINER", password);
        process::capture(command, container).await.unwrap()
    };
    let info = opened(CONTAINER_PASSWORD, &["-info", "-noout"]).await;
    let info = String::from_utf8_lossy(&info.stderr).into_owned();
    assert!(info.contains("MAC: sha256") && info.contains("AES-256-CBC") && info.contains("hmacWithSHA256"), "{info}");
    let shown = opened(CONTAINER_PASSWORD, &["-nodes"]).await;
    assert!(shown.status.success());
    let held = CertificateBundle::from_pem(&shown.stdout).unwrap();
    assert_eq!(held.certificates(), case.bundle.certificates());
    assert_eq!(held.key_pem().unwrap().expose(), key.expose());
    assert!(!opened("wrong", &["-nodes"]).await.status.success());

    let journal = case.journal.entries().await.unwrap();
    let seen = journal
        .iter()
        .fold(format!("{plan:?} {facts:?}"), |seen, entry| seen + &String::from_utf8_lossy(entry.expose()));
    for secret in [CONTAINER_PASSWORD, exim.login().password(), key.expose().lines().nth(1).unwrap()] {
        assert!(!seen.contains(secret), "{seen}");
    }

    case.bundle = CertificateBundle::new(case.bundle.certificates().to_vec(), None).unwrap();
    assert_eq!(case.execute().await.unwrap_err().code(), "key_missing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_on_this_machine_may_do_without_tls() {
    let exim = require!(Exim::builder().start().await);
    require!(locate("aiosmtpd").await);
    let case = Case::new(exim.addr(), json!({ "security": "none" }), json!({}));
    case.execute().await.unwrap();
    let mail = Parsed::read(&exim.await_mails(1, SOON).await.unwrap()[0]).await;
    assert_eq!(mail.attachments().len(), 1);
    // It introduced itself with its address.
    assert!(exim.log().contains("H=([127.0.0.1])"), "{}", exim.log());
    let named = Case::new(exim.addr(), json!({ "security": "none" }), json!({ "helo": "client.example.com" }));
    named.execute().await.unwrap();
    assert!(exim.log().contains("H=(client.example.com)"), "{}", exim.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recipients_that_are_refused() {
    let certificate = RelayCertificate::new();
    let exim = require!(exim(&certificate).await);
    let case = |to: &[&str], partial: bool| {
        let config = json!({ "tls": certificate.tls(), "allow_partial_delivery": partial });
        Case::new(exim.addr(), json!({ "to": to }), config).log_in(password(exim.login()))
    };
    let gone = case(&["ops@example.com", "nobody@example.com"], false);
    let error = gone.execute().await.unwrap_err();
    assert_refused(&error, ErrorClass::IoPermanent, "recipient_refused", Effect::None);
    assert_context(&error, "recipient", "nobody@example.com");
    assert_context(&error, "status", "550");
    assert!(gone.journal.steps().is_empty());
    let busy = case(&["busy@example.com"], true).execute().await.unwrap_err();
    assert_refused(&busy, ErrorClass::IoTransient, "smtp_status", Effect::None);
    let nobody = case(&["nobody@example.com", "busy@example.com"], true).execute().await.unwrap_err();
    assert_refused(&nobody, ErrorClass::IoPermanent, "recipient_refused", Effect::None);

    let some = case(&["nobody@example.com", "ops@example.com", "busy@example.com"], true);
    let facts = some.execute().await.unwrap();
    assert_eq!(facts.0["accepted"], json!(["ops@example.com"]));
    assert_eq!(facts.0["refused"], json!(["nobody@example.com (550)", "busy@example.com (451)"]));
    let mails = exim.await_mails(1, SOON).await.unwrap();
    assert_eq!(mails.len(), 1, "nothing of the refused ones arrived");
    let envelope = Parsed::read(&mails[0]).await.header("envelope-to").unwrap().to_owned();
    assert_eq!(envelope, "ops@example.com");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sizes_have_limits_on_both_sides() {
    let certificate = RelayCertificate::new();
    let exim = require!(Exim::builder().tls(&certificate.issued).size("1K").start().await);
    let error = Case::new(exim.addr(), json!({}), json!({ "tls": certificate.tls() })).execute().await.unwrap_err();
    assert_refused(&error, ErrorClass::Validation, "message_too_large", Effect::None);
    assert_context(&error, "limit", "1024");
    let ours = Case::new(exim.addr(), json!({}), json!({ "tls": certificate.tls(), "max_message_bytes": 2000 }));
    let error = ours.execute().await.unwrap_err();
    assert_refused(&error, ErrorClass::Validation, "message_too_large", Effect::None);
    assert_context(&error, "limit", "2000");
    assert!(exim.mails().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_logins_are_refused_by_the_real_thing() {
    let certificate = RelayCertificate::new();
    let exim = require!(exim(&certificate).await);
    for credentials in [
        json!({ "username": exim.login().user(), "password": "canary-wrong" }),
        json!({ "username": "canary-user", "password": exim.login().password() }),
        json!({ "username": exim.login().user(), "access_token": "canary-token" }),
    ] {
        let case = Case::new(exim.addr(), json!({}), json!({ "tls": certificate.tls() })).log_in(credentials);
        let error = case.execute().await.unwrap_err();
        assert_refused(&error, ErrorClass::Auth, "auth_failed", Effect::None);
        let text = format!("{error:?}");
        assert!(!text.contains("canary") && !text.contains(exim.login().password()), "{text}");
        assert!(case.journal.steps().is_empty());
    }
    assert!(exim.mails().unwrap().is_empty());
}
