//! Relays that refuse, lie, or fall silent.

use certlib_testkit::counterpart::{Aiosmtpd, SmtpFault};
use certlib_testkit::require;

use super::*;

fn reply(at: &'static str, lines: &str) -> SmtpFault {
    SmtpFault::Reply(at, lines.to_owned())
}

/// A delivery after a fault, with short time-outs.
fn case(server: &Aiosmtpd, certificate: &RelayCertificate) -> Case {
    let timeouts = json!({ "connect_ms": 20_000, "response_ms": 20_000, "total_ms": 40_000 });
    let config = json!({ "tls": certificate.tls(), "timeouts": timeouts });
    Case::new(server.addr(), json!({}), config).log_in(password(server.login()))
}

fn impatient(server: &Aiosmtpd, certificate: &RelayCertificate) -> Case {
    let timeouts = json!({ "connect_ms": 20_000, "response_ms": 1_500, "total_ms": 1_500 });
    let config = json!({ "tls": certificate.tls(), "timeouts": timeouts });
    Case::new(server.addr(), json!({}), config).log_in(password(server.login()))
}

/// The verbs of the last connection.
fn verbs(server: &Aiosmtpd) -> Vec<String> {
    let commands = server.commands().unwrap();
    let last = commands.iter().rposition(|command| command.verb == "EHLO" && !command.tls).unwrap_or(0);
    commands[last..].iter().map(|command| command.verb.clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_without_starttls_gets_no_login_and_no_mail() {
    let certificate = RelayCertificate::new();
    let server = require!(misbehaving(&certificate).await);
    for (faults, class) in [
        // Somebody in between took the line away, or replaced it, or has the login come in the clear.
        (reply("EHLO", "250-mail.test\r\n250 SIZE 1000000"), ErrorClass::IoPermanent),
        (reply("EHLO", "250-mail.test\r\n250-XXXXXXXX\r\n250 AUTH PLAIN LOGIN XOAUTH2"), ErrorClass::IoPermanent),
        (reply("EHLO", "250-mail.test\r\n250-AUTH=PLAIN\r\n250 AUTH PLAIN"), ErrorClass::IoPermanent),
        (reply("STARTTLS", "454 4.7.0 TLS not available"), ErrorClass::IoTransient),
        (reply("STARTTLS", "502 5.5.1 what?"), ErrorClass::IoPermanent),
        (reply("STARTTLS", "554 5.7.3 no"), ErrorClass::IoPermanent),
    ] {
        server.inject(std::slice::from_ref(&faults)).unwrap();
        let case = case(&server, &certificate);
        let error = case.execute().await.unwrap_err();
        assert_refused(&error, class, "tls_required", Effect::None);
        let verbs = verbs(&server);
        assert!(!verbs.iter().any(|verb| ["AUTH", "MAIL", "RCPT", "DATA"].contains(&verb.as_str())), "{verbs:?}");
        assert!(case.journal.steps().is_empty());
    }
    assert!(server.mails().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_injected_before_tls_are_noticed() {
    let certificate = RelayCertificate::new();
    let server = require!(misbehaving(&certificate).await);
    for injected in ["250-mail.test\r\n250 AUTH PLAIN", "235 2.7.0 welcome", "x"] {
        server.inject(&[SmtpFault::Inject(injected.to_owned())]).unwrap();
        let error = case(&server, &certificate).execute().await.unwrap_err();
        assert_refused(&error, ErrorClass::IoPermanent, "protocol", Effect::None);
        assert_eq!(verbs(&server), ["EHLO", "STARTTLS"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_smtp_is_noticed_early() {
    let certificate = RelayCertificate::new();
    let server = require!(misbehaving(&certificate).await);
    for fault in [
        SmtpFault::Endless("220-welcome\r\n".to_owned()),
        SmtpFault::Endless("220 welcome to a line without an end ".to_owned()),
        reply("GREETING", "HTTP/1.1 400 Bad Request"),
        reply("GREETING", "220-one\r\n250 two"),
        reply("GREETING", "220 one\n220 two"),
        reply("EHLO", &format!("250-mail.test\r\n{}250 HELP", "250-X\r\n".repeat(200))),
        reply("EHLO", &format!("250-mail.test\r\n250 {}", "x".repeat(5_000))),
        reply("EHLO", "334 go on"),
        reply("MAIL", "354 what?"),
        reply("DATA", "250 done already"),
    ] {
        server.inject(std::slice::from_ref(&fault)).unwrap();
        let error = case(&server, &certificate).execute().await.unwrap_err();
        assert_refused(&error, ErrorClass::IoPermanent, "protocol", Effect::None);
        assert!(!error.to_string().contains("welcome"), "{error}");
    }
    assert!(server.mails().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_are_classified_at_every_stage() {
    use ErrorClass as C;
    let certificate = RelayCertificate::new();
    let server = require!(misbehaving(&certificate).await);
    for (at, stage, line, class, code) in [
        ("GREETING", "greeting", "421 4.3.2 shutting down", C::IoTransient, "smtp_status"),
        ("GREETING", "greeting", "554 5.7.1 go away", C::IoPermanent, "smtp_status"),
        ("EHLO", "hello", "421 4.3.2 busy", C::IoTransient, "smtp_status"),
        ("EHLO", "hello", "502 what?", C::IoPermanent, "smtp_status"),
        ("AUTH", "auth", "535 5.7.8 canary", C::Auth, "auth_failed"),
        ("AUTH", "auth", "534 5.7.9 too weak", C::Auth, "auth_failed"),
        ("AUTH", "auth", "454 4.7.0 later", C::IoTransient, "smtp_status"),
        ("AUTH", "auth", "504 5.5.4 unknown", C::IoPermanent, "smtp_status"),
        ("AUTH", "auth", "334 bW9yZT8=", C::IoPermanent, "protocol"),
        ("MAIL", "mail", "451 4.7.1 greylisted", C::IoTransient, "smtp_status"),
        ("MAIL", "mail", "530 5.7.0 log in", C::Auth, "auth_required"),
        ("MAIL", "mail", "552 5.3.4 too large", C::IoPermanent, "message_too_large"),
        ("MAIL", "mail", "550 5.7.1 not you", C::IoPermanent, "smtp_status"),
        ("RCPT", "recipient", "450 4.2.0 greylisted", C::IoTransient, "smtp_status"),
        ("RCPT", "recipient", "550 5.1.1 who?", C::IoPermanent, "recipient_refused"),
        ("RCPT", "recipient", "553 5.1.3 what?", C::IoPermanent, "recipient_refused"),
        ("DATA", "data", "421 4.3.2 shutting down", C::IoTransient, "smtp_status"),
        ("DATA", "data", "554 5.5.1 no valid recipients", C::IoPermanent, "smtp_status"),
        ("END", "message", "452 4.3.1 disk full", C::IoTransient, "smtp_status"),
        ("END", "message", "550 5.7.1 looks like spam", C::IoPermanent, "smtp_status"),
        ("END", "message", "552 5.2.2 mailbox full", C::IoPermanent, "message_too_large"),
    ] {
        server.inject(&[reply(at, line)]).unwrap();
        let case = case(&server, &certificate);
        let error = case.execute().await.unwrap_err();
        assert_refused(&error, class, code, Effect::None);
        assert_context(&error, "stage", stage);
        assert_context(&error, "status", &line[..3]);
        assert!(!error.to_string().contains("canary"), "{error}");
        // What is certainly not there is not taken back.
        let steps = case.journal.steps();
        let expected: &[&str] = if ["DATA", "END"].contains(&at) { &["send", "not_taken"] } else { &[] };
        assert_eq!(steps, expected, "{line}");
        assert_eq!(case.rollback().await.unwrap(), RollbackOutcome::NothingToDo);
    }
    assert!(server.mails().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_goes_away_or_falls_silent_before_the_end_has_nothing() {
    let certificate = RelayCertificate::new();
    let server = require!(misbehaving(&certificate).await);
    for at in ["GREETING", "EHLO", "STARTTLS", "AUTH", "MAIL", "RCPT", "DATA"] {
        server.inject(&[SmtpFault::Close(at)]).unwrap();
        let error = case(&server, &certificate).execute().await.unwrap_err();
        assert_refused(&error, ErrorClass::Network, "connection_lost", Effect::None);
        server.inject(&[SmtpFault::Silent(at)]).unwrap();
        let error = impatient(&server, &certificate).execute().await.unwrap_err();
        assert_refused(&error, ErrorClass::Network, "timeout", Effect::None);
    }
    assert!(server.mails().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_there_is_a_network_error() {
    let certificate = RelayCertificate::new();
    let config = json!({ "tls": certificate.tls() });
    let nowhere = Case::new(certlib_testkit::ports::free_addr().unwrap(), json!({}), config.clone());
    assert_refused(&nowhere.execute().await.unwrap_err(), ErrorClass::Network, "connect_failed", Effect::None);
    // A relay that waits for STARTTLS is no partner for TLS from the first byte, and the other way round.
    let server = require!(misbehaving(&certificate).await);
    let implicit = Case::new(server.addr(), json!({ "security": "tls" }), config.clone());
    assert_refused(&implicit.execute().await.unwrap_err(), ErrorClass::IoPermanent, "tls_policy", Effect::None);
    let timeouts = json!({ "connect_ms": 5_000, "response_ms": 1_000, "total_ms": 10_000 });
    let explicit = Case::new(server.tls_addr(), json!({}), merged(config, json!({ "timeouts": timeouts })));
    assert_refused(&explicit.execute().await.unwrap_err(), ErrorClass::Network, "timeout", Effect::None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_are_chosen_from_what_is_offered_under_tls() {
    let certificate = RelayCertificate::new();
    let plain_less = require!(Aiosmtpd::builder().tls(&certificate.issued).login().without("PLAIN").start().await);
    case(&plain_less, &certificate).execute().await.unwrap();
    let auth: Vec<_> = plain_less.commands().unwrap().into_iter().filter(|command| command.verb == "AUTH").collect();
    let [login] = &auth[..] else { panic!("{auth:?}") };
    assert!(login.tls && login.argument == "LOGIN", "{login:?}");

    let none = require!(Aiosmtpd::builder().tls(&certificate.issued).without("PLAIN").without("LOGIN").start().await);
    let error = case(&none, &certificate).execute().await.unwrap_err();
    assert_refused(&error, ErrorClass::Auth, "auth_not_offered", Effect::None);
    assert!(!none.commands().unwrap().iter().any(|command| ["AUTH", "MAIL"].contains(&command.verb.as_str())));

    // XOAUTH2 explains a refusal in a challenge, which has to be answered with an empty line.
    let server = require!(misbehaving(&certificate).await);
    let token = |token: &str| json!({ "username": server.login().user(), "access_token": token });
    let error = case(&server, &certificate).log_in(token("canary")).execute().await.unwrap_err();
    assert_refused(&error, ErrorClass::Auth, "auth_failed", Effect::None);
    assert!(
        std::fs::read_to_string(server.folder().join("events.jsonl"))
            .unwrap()
            .contains("\"xoauth2_problem_answer\": \"\"")
    );
    case(&server, &certificate).log_in(token(server.login().token())).execute().await.unwrap();
    assert_eq!(server.mails().unwrap().len(), 1);
}
