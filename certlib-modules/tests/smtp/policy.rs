//! What is refused before anything is sent, and whom the module speaks to.

use std::sync::atomic::Ordering;

use certlib_core::module::ErasedModule as _;
use certlib_testkit::require;

use super::*;

fn text_variants(bad: &str) -> [String; 3] {
    [format!("{bad}x"), format!("x{bad}"), format!("x{bad}Bcc: thief@evil.example")]
}

const INJECTIONS: [&str; 7] = ["\r\n", "\r", "\n", "\0", "\u{2028}", "\u{2029}", "\r\n "];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_injects_a_header_is_sent() {
    let certificate = RelayCertificate::new();
    let server = require!(misbehaving(&certificate).await);
    let mut refused = 0;
    for bad in INJECTIONS {
        for text in text_variants(bad) {
            let address = format!("{text}@example.com");
            let named = format!("{text} <ops@example.com>");
            let tables: Vec<(Value, Value, &str)> = vec![
                (json!({ "to": [address] }), json!({}), "to[0]"),
                (json!({ "to": [named] }), json!({}), "to[0]"),
                (json!({ "cc": [named] }), json!({}), "cc[0]"),
                (json!({ "bcc": ["a@example.com", address] }), json!({}), "bcc[1]"),
                (json!({}), json!({ "from": named }), "from"),
                (json!({}), json!({ "reply_to": address }), "reply_to"),
                (json!({}), json!({ "subject": text }), "subject"),
                (json!({}), json!({ "rollback_subject": text }), "rollback_subject"),
                (json!({}), json!({ "helo": text }), "helo"),
                (json!({}), json!({ "headers": { "X-Queue": text } }), "X-Queue"),
                (json!({}), json!({ "attachments": [{ "file_name": text }] }), "attachments[0].file_name"),
            ];
            for (location, config, field) in tables {
                let case = Case::new(server.addr(), location, merged(json!({ "tls": certificate.tls() }), config));
                for error in [case.module.check(&case.spec).unwrap_err(), case.execute().await.unwrap_err()] {
                    assert_refused(&error, ErrorClass::Validation, "header_invalid", Effect::None);
                    assert_context(&error, "field", field);
                    assert!(!error.to_string().contains(['\r', '\n', '\0', '\u{2028}', '\u{2029}']), "{error}");
                }
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 7 * 3 * 11);
    assert_eq!(server.connections().await.unwrap(), 0);
}

/// What a certificate says is not the configuration's, so it is not refused, but made harmless.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_targets_cannot_inject_either() {
    let certificate = RelayCertificate::new();
    let server = require!(misbehaving(&certificate).await);
    let mut case = Case::new(server.addr(), json!({}), json!({ "tls": certificate.tls(), "subject": "For {target}" }))
        .log_in(password(server.login()));
    case.spec.name = "web\r\nBcc: thief@evil.example\r\n\r\nbody\u{202e}".to_owned();
    case.execute().await.unwrap();
    let mails = server.mails().unwrap();
    let mail = Parsed::read(&mails[0].bytes).await;
    assert_eq!(mail.header("subject"), Some("For webBcc: thief@evil.examplebody"));
    assert_eq!(mail.header("bcc"), None);
    assert_eq!(mails[0].to, ["ops@example.com"]);
}

#[test]
fn settings_are_refused_by_name() {
    let addr = "127.0.0.1:2525".parse().unwrap();
    let many: Vec<String> = (0..101).map(|n| format!("n{n}@example.com")).collect();
    let key = json!([{ "content": "combined" }]);
    for (location, config, credentials, code) in [
        (json!({ "to": [] }), json!({}), json!(null), "recipients_missing"),
        (json!({ "to": many }), json!({}), json!(null), "limit_exceeded"),
        (json!({ "to": ["-X@example.com"] }), json!({}), json!(null), "address_invalid"),
        (json!({ "to": ["Ops <-oQ/tmp@example.com>"] }), json!({}), json!(null), "address_invalid"),
        (json!({ "to": ["ops"] }), json!({}), json!(null), "address_invalid"),
        (json!({}), json!({ "from": "" }), json!(null), "address_invalid"),
        (json!({ "host": "" }), json!({}), json!(null), "location_invalid"),
        (json!({ "host": "mail.test\r\n" }), json!({}), json!(null), "location_invalid"),
        (json!({ "host": "user@mail.test" }), json!({}), json!(null), "location_invalid"),
        (json!({ "port": 0 }), json!({}), json!(null), "location_invalid"),
        (json!({ "port": 65536 }), json!({}), json!(null), "location_invalid"),
        (json!({ "server_name": "a b" }), json!({}), json!(null), "location_invalid"),
        (json!({ "security": "opportunistic" }), json!({}), json!(null), "location_invalid"),
        (json!({ "host": "169.254.169.254" }), json!({}), json!(null), "address_forbidden"),
        (json!({ "host": "10.0.0.1" }), json!({}), json!(null), "address_forbidden"),
        (json!({ "host": "93.184.215.14", "security": "none" }), json!({}), json!(null), "tls_required"),
        (json!({ "security": "none" }), json!({}), json!({ "username": "u", "password": "p" }), "auth_needs_tls"),
        (json!({}), json!({}), json!({ "username": "u" }), "credentials_invalid"),
        (json!({}), json!({ "auth": "plain" }), json!(null), "credentials_invalid"),
        (json!({}), json!({ "subject": "{key}" }), json!(null), "template_invalid"),
        (json!({}), json!({ "body": "{name" }), json!(null), "template_invalid"),
        (json!({}), json!({ "helo": "local host" }), json!(null), "header_invalid"),
        (json!({}), json!({ "headers": { "Bcc": "a@example.com" } }), json!(null), "header_invalid"),
        (json!({}), json!({ "attachments": key }), json!(null), "key_consent_missing"),
        (json!({}), json!({ "attachments": key, "include_private_key": true }), json!(null), "unencrypted_key_refused"),
        (json!({}), json!({ "attachments": [] }), json!(null), "attachment_invalid"),
        (json!({}), json!({ "attachments": [{ "file_name": "../a" }] }), json!(null), "attachment_invalid"),
        (json!({}), json!({ "tls": { "insecure_skip_verify": true } }), json!(null), "insecure_not_acknowledged"),
        (
            json!({}),
            json!({ "tls": { "insecure_skip_verify": true, "acknowledge_insecure": true } }),
            json!(null),
            "insecure_unsupported",
        ),
        (json!({}), json!({ "tls": { "ca_pem": "none" } }), json!(null), "ca_invalid"),
        (json!({}), json!({ "max_message_bytes": 0 }), json!(null), "limit_exceeded"),
        (json!({}), json!({ "timeouts": { "response_ms": 0 } }), json!(null), "timeout_invalid"),
        (json!({}), json!({ "starttls": "optional" }), json!(null), "config_invalid"),
    ] {
        let case = Case::new(addr, location.clone(), config.clone()).log_in(credentials);
        let error = case.module.check(&case.spec).unwrap_err();
        assert_refused(&error, ErrorClass::Validation, code, Effect::None);
        assert!(!error.to_string().contains('\n'), "{location} {config}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_is_spoken_to_only_if_it_is_who_it_should_be() {
    let certificate = RelayCertificate::new();
    let exim = require!(exim(&certificate).await);
    let server = require!(misbehaving(&certificate).await);
    let stranger = TestCa::new("another root").unwrap();
    let lookup = || Script::new("wrong.test", &[&["127.0.0.1"]]);
    for (security, addr) in
        [("starttls", exim.addr()), ("tls", exim.tls_addr()), ("starttls", server.addr()), ("tls", server.tls_addr())]
    {
        for (location, tls, reason) in [
            // The right CA, another name: RUSTSEC-2026-0141 was a client that did not look.
            (json!({ "host": "wrong.test" }), certificate.tls(), "name"),
            (json!({ "server_name": "mail.test.example" }), certificate.tls(), "name"),
            (json!({ "host": "127.0.0.1" }), certificate.tls(), "name"),
            (json!({}), json!({ "ca_pem": stranger.certificate_pem() }), "unknown_issuer"),
            (json!({}), json!({}), "unknown_issuer"),
        ] {
            let location = merged(json!({ "security": security }), location);
            let lookup =
                if location["host"] == "wrong.test" { lookup() } else { Script::new("mail.test", &[&["127.0.0.1"]]) };
            let case = Case::with_lookup(addr, location.clone(), json!({ "tls": tls }), lookup)
                .log_in(json!({ "username": "certlib", "password": "canary" }));
            let error = case.execute().await.unwrap_err();
            assert_refused(&error, ErrorClass::Auth, "tls_untrusted", Effect::None);
            assert_context(&error, "reason", reason);
            assert!(case.journal.steps().is_empty());
        }
        // The name on the certificate may be said apart from the host.
        let location = json!({ "security": security, "host": "127.0.0.1", "server_name": "mail.test" });
        let login = if addr.port() == exim.addr().port() || addr.port() == exim.tls_addr().port() {
            exim.login()
        } else {
            server.login()
        };
        let case = Case::new(addr, location, json!({ "tls": certificate.tls() })).log_in(password(login));
        case.execute().await.unwrap();
    }
    let verbs: Vec<String> =
        server.commands().unwrap().into_iter().filter(|command| !command.tls).map(|command| command.verb).collect();
    assert!(verbs.iter().all(|verb| ["EHLO", "STARTTLS"].contains(&verb.as_str())), "{verbs:?}");
    assert_eq!(server.commands().unwrap().iter().filter(|command| command.verb == "AUTH").count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forbidden_addresses_are_never_dialled() {
    let certificate = RelayCertificate::new();
    let server = require!(misbehaving(&certificate).await);
    let config = |addresses: Value| json!({ "tls": certificate.tls(), "addresses": addresses });
    let loopback = json!({ "allow_loopback": true });
    for (answers, addresses) in [
        (vec![&["127.0.0.1"][..]], json!({})),
        (vec![&["127.0.0.1"][..]], json!({ "allow": ["0.0.0.0/0"] })),
        (vec![&["127.0.0.1", "169.254.169.254"][..]], loopback.clone()),
        (vec![&["127.0.0.1", "10.0.0.1"][..]], loopback.clone()),
        (vec![&["::ffff:127.0.0.1"][..]], json!({})),
        // The dry run sees an allowed address, the delivery another one.
        (vec![&["127.0.0.1"][..], &["169.254.169.254"][..]], loopback),
    ] {
        let lookup = Script::new("mail.test", &answers);
        let case = Case::with_lookup(server.addr(), json!({}), config(addresses), Arc::clone(&lookup));
        let error = case.execute().await.unwrap_err();
        assert_refused(&error, ErrorClass::Validation, "address_forbidden", Effect::None);
        assert!(lookup.asked.load(Ordering::SeqCst) <= 2);
    }
    assert_eq!(server.connections().await.unwrap(), 0);

    // Resolved once for a delivery, and what was checked is dialled: the second answer would be forbidden.
    let lookup = Script::new("mail.test", &[&["127.0.0.1"], &["127.0.0.1"], &["169.254.169.254"]]);
    let case =
        Case::with_lookup(server.addr(), json!({}), config(json!({ "allow_loopback": true })), Arc::clone(&lookup))
            .log_in(password(server.login()));
    case.execute().await.unwrap();
    assert_eq!(lookup.asked.load(Ordering::SeqCst), 2);

    // Without TLS only this machine will do, whatever else is admitted.
    let lookup = Script::new("mail.test", &[&["10.1.2.3"]]);
    let location = json!({ "security": "none" });
    let case = Case::with_lookup(server.addr(), location, json!({ "addresses": { "allow": ["10.0.0.0/8"] } }), lookup);
    assert_refused(&case.execute().await.unwrap_err(), ErrorClass::Validation, "tls_required", Effect::None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_shows_everything_and_sends_nothing() {
    let certificate = RelayCertificate::new();
    let server = require!(misbehaving(&certificate).await);
    let location = json!({ "to": ["Ops <ops@example.com>"], "cc": ["dba@example.com"], "bcc": ["audit@example.com"] });
    let config = json!({
        "tls": certificate.tls(),
        "include_private_key": true,
        "attachments": [{}, { "content": "certificate" }, { "content": "pkcs12", "file_name": "web.p12" }],
    });
    let credentials = json!({ "username": "u", "password": "login-canary", "pkcs12_password": CONTAINER_PASSWORD });
    let case = Case::new(server.addr(), location.clone(), config.clone()).log_in(credentials.clone());
    let plan = case.plan().await.unwrap();
    case.clock.advance(Duration::from_secs(60));
    assert_eq!(plan, case.plan().await.unwrap());
    let text = plan.plan().to_string();
    let (fullchain, leaf) = (case.bundle.fullchain_pem().len(), case.bundle.leaf_pem().len());
    let port = server.addr().port();
    for part in [
        &format!("call message via mail.test:{port} (starttls)"),
        "Ops <ops@example.com>",
        "dba@example.com",
        "audit@example.com",
        "Certificate for shop.example.com, valid until",
        &format!("create attachment shop.example.com.pem: 2 certificates, PEM, {fullchain} bytes, sha256:"),
        &format!("create attachment shop.example.com.crt.pem: certificate, PEM, {leaf} bytes, sha256:"),
        "create attachment web.p12: 2 certificates and the private key, PKCS#12, encrypted with AES-256, sha256:",
        &case.bundle.fingerprint().to_string(),
    ] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    let key = case.bundle.key_pem().unwrap();
    for secret in ["canary", CONTAINER_PASSWORD, key.expose().lines().nth(1).unwrap()] {
        assert!(!format!("{plan:?}{text}").contains(secret));
    }
    assert!(plan.plan().changes_anything() && plan.plan().steps.iter().all(|step| step.reversible));
    assert_eq!(server.connections().await.unwrap(), 0);

    let silent =
        Case::new(server.addr(), location, merged(config, json!({ "notify_rollback": false }))).log_in(credentials);
    assert!(silent.plan().await.unwrap().plan().steps.iter().all(|step| !step.reversible));
    let unknown = Case::with_lookup(server.addr(), json!({}), json!({}), Script::new("other.test", &[&["127.0.0.1"]]));
    assert_refused(&unknown.plan().await.unwrap_err(), ErrorClass::Network, "dns_failed", Effect::None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_for_something_else_is_stale() {
    let certificate = RelayCertificate::new();
    let server = require!(misbehaving(&certificate).await);
    let new = |to: &str| Case::new(server.addr(), json!({ "to": [to] }), json!({ "tls": certificate.tls() }));
    let mut case = new("ops@example.com");
    let plan = case.plan().await.unwrap();
    let other = new("dba@example.com");
    let error = other.module.execute(&other.cx, &other.spec, &other.bundle, &plan, &other.journal).await.unwrap_err();
    assert_refused(&error, ErrorClass::Validation, "plan_stale", Effect::None);
    case.bundle = bundle();
    let error = case.module.execute(&case.cx, &case.spec, &case.bundle, &plan, &case.journal).await.unwrap_err();
    assert_refused(&error, ErrorClass::Validation, "plan_stale", Effect::None);
    assert!(case.journal.steps().is_empty());
    assert_eq!(server.connections().await.unwrap(), 0);
}
