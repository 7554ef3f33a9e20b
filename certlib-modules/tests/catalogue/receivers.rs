//! What receivers of requests and notifications see, and what they answer.

use certlib_core::error::{Effect, ErrorClass, codes};
use certlib_core::{Error, Secret};
use certlib_modules::webhook::{TOLERANCE, verify};
use certlib_testkit::attacks::HEADER_BREAKS;
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::common::{Subject, certificate, journal};
use crate::surfaces::Surface;

/// Text with a break at its start, its end, and in its middle.
fn broken(bad: &str) -> [String; 3] {
    [format!("{bad}x"), format!("x{bad}"), format!("x{bad}Bcc: thief@evil.example")]
}

type Change = fn(&mut Value, &str);

/// Everything that ends up in a header of HTTP or mail, or in a line of SMTP, and the code it is refused with.
///
/// Mail is sent in `smtp/policy.rs`, with the same rows; here it is enough that the target is refused.
#[test]
fn no_field_of_any_module_breaks_a_header() {
    type Row = (Surface, &'static str, Change, &'static [&'static str]);
    let config: [Row; 10] = [
        (Surface::Webhook, "value", |config, text| config["headers"] = json!({ "X-A": text }), &["header_invalid"]),
        (Surface::Webhook, "name", |config, text| config["headers"] = json!({ text: "a" }), &["header_invalid"]),
        (
            Surface::Smtp,
            "from",
            |config, text| config["from"] = json!(format!("{text} <a@b.example>")),
            &["header_invalid"],
        ),
        (
            Surface::Smtp,
            "from address",
            |config, text| config["from"] = json!(format!("{text}@b.example")),
            &["header_invalid"],
        ),
        (
            Surface::Smtp,
            "reply_to",
            |config, text| config["reply_to"] = json!(format!("{text}@b.example")),
            &["header_invalid"],
        ),
        (Surface::Smtp, "subject", |config, text| config["subject"] = json!(text), &["header_invalid"]),
        (Surface::Smtp, "rollback", |config, text| config["rollback_subject"] = json!(text), &["header_invalid"]),
        (Surface::Smtp, "helo", |config, text| config["helo"] = json!(text), &["header_invalid"]),
        (Surface::Smtp, "header", |config, text| config["headers"] = json!({ "X-Q": text }), &["header_invalid"]),
        (
            Surface::Smtp,
            "file",
            |config, text| config["attachments"] = json!([{ "file_name": text }]),
            &["header_invalid"],
        ),
    ];
    let location: [Row; 5] = [
        (
            Surface::Smtp,
            "to",
            |location, text| location["to"] = json!([format!("{text} <a@b.example>")]),
            &["header_invalid"],
        ),
        (
            Surface::Smtp,
            "cc",
            |location, text| location["cc"] = json!([format!("{text}@b.example")]),
            &["header_invalid"],
        ),
        (
            Surface::Smtp,
            "bcc",
            |location, text| location["bcc"] = json!([format!("{text}@b.example")]),
            &["header_invalid"],
        ),
        (Surface::Smtp, "host", |location, text| location["host"] = json!(text), &["location_invalid"]),
        (Surface::Vault, "namespace", |location, text| location["namespace"] = json!(text), &["location_invalid"]),
    ];
    let credentials: [Row; 7] = [
        (Surface::Webhook, "bearer", |login, text| login["bearer"] = json!(text), &["credentials_invalid"]),
        (Surface::Vault, "token", |login, text| login["token"] = json!(text), &["credentials_invalid"]),
        (Surface::Huawei, "access_key", |login, text| login["access_key"] = json!(text), &["credentials_invalid"]),
        (Surface::Huawei, "secret_key", |login, text| login["secret_key"] = json!(text), &["credentials_invalid"]),
        (Surface::Huawei, "token", |login, text| login["security_token"] = json!(text), &["credentials_invalid"]),
        (Surface::Kubernetes, "token", |login, text| login["token"] = json!(text), &["token_invalid"]),
        (Surface::WinRm, "user", |login, text| login["login"]["user"] = json!(text), &["user_invalid"]),
    ];
    let mut refusals = 0;
    for bad in HEADER_BREAKS {
        for text in broken(bad) {
            for (part, rows) in
                [("config", &config[..]), ("location", &location[..]), ("credentials", &credentials[..])]
            {
                for (surface, field, change, expected) in rows {
                    let place = if *surface == Surface::Smtp { "mail.example.com" } else { "https://hook.example.com" };
                    let mut target = surface.target(place, None);
                    match part {
                        "config" => change(&mut target.config, &text),
                        "location" => change(&mut target.location, &text),
                        _ => {
                            let login = target.credentials.take().unwrap();
                            let mut login: Value = serde_json::from_str(login.expose()).unwrap();
                            change(&mut login, &text);
                            target.credentials = Some(Secret::new(login.to_string()));
                        }
                    }
                    let what = format!("{surface:?} {field} {text:?}");
                    let error = surface.check(&target).expect_err(&what);
                    assert_eq!((error.class(), error.effect()), (ErrorClass::Validation, Effect::None), "{what}");
                    assert!(expected.contains(&error.code()), "{what}: {error:?}");
                    assert!(!error.to_string().contains(['\r', '\n', '\0', '\u{2028}', '\u{2029}']), "{what}");
                    refusals += 1;
                }
            }
        }
    }
    assert_eq!(refusals, HEADER_BREAKS.len() * 3 * 22);
}

// --- the signature ----------------------------------------------------------------------------------------------

const SECRET: &str = "whsec_Y2VydGxpYi1leGFtcGxlLXNlY3JldC0zMi1ieXRlcyE=";
const OTHER: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// Of [`SECRET`], over `evt_01.1767225600.{"type":"certificate.deployed"}`.
const SIGNATURE: &str = "v1,ZFljUS/Q5gf2cogHZHJg/rDFcwFAfOYDoyG2SGBApVI=";
const BODY: &str = r#"{"type":"certificate.deployed"}"#;
const SENT: i64 = 1_767_225_600;

#[test]
fn what_a_receiver_is_to_refuse() {
    let text = SENT.to_string();
    let later = (SENT + 60).to_string();
    let long = "9".repeat(100);
    let truncated = &SIGNATURE[..SIGNATURE.len() - 4];
    let many = ["v1,AAAA"; 10_000].join(" ");
    let table = [
        ("as sent", SECRET, "evt_01", text.as_str(), SIGNATURE, BODY, 0, "fine"),
        ("300 s later", SECRET, "evt_01", &text, SIGNATURE, BODY, 300, "fine"),
        ("a clock 300 s behind", SECRET, "evt_01", &text, SIGNATURE, BODY, -300, "fine"),
        ("among signatures of others", SECRET, "evt_01", &text, &format!("v1,AAAA {SIGNATURE}"), BODY, 0, "fine"),
        ("replayed after 5 min", SECRET, "evt_01", &text, SIGNATURE, BODY, 301, "timestamp_invalid"),
        ("a clock 10 min behind", SECRET, "evt_01", &text, SIGNATURE, BODY, -600, "timestamp_invalid"),
        ("a clock 10 min ahead", SECRET, "evt_01", &text, SIGNATURE, BODY, 600, "timestamp_invalid"),
        ("no time", SECRET, "evt_01", "", SIGNATURE, BODY, 0, "timestamp_invalid"),
        ("a word as time", SECRET, "evt_01", "now", SIGNATURE, BODY, 0, "timestamp_invalid"),
        ("a time beyond numbers", SECRET, "evt_01", &long, SIGNATURE, BODY, 0, "timestamp_invalid"),
        ("a replay with a new time", SECRET, "evt_01", &later, SIGNATURE, BODY, 60, "signature_invalid"),
        ("another id", SECRET, "evt_02", &text, SIGNATURE, BODY, 0, "signature_invalid"),
        ("another body", SECRET, "evt_01", &text, SIGNATURE, "{}", 0, "signature_invalid"),
        ("one space more", SECRET, "evt_01", &text, SIGNATURE, &format!("{BODY} "), 0, "signature_invalid"),
        ("another secret", OTHER, "evt_01", &text, SIGNATURE, BODY, 0, "signature_invalid"),
        ("no signature", SECRET, "evt_01", &text, "", BODY, 0, "signature_invalid"),
        ("an empty one", SECRET, "evt_01", &text, "v1,", BODY, 0, "signature_invalid"),
        ("half of it", SECRET, "evt_01", &text, truncated, BODY, 0, "signature_invalid"),
        ("another version", SECRET, "evt_01", &text, &SIGNATURE.replace("v1", "v2"), BODY, 0, "signature_invalid"),
        ("no base64", SECRET, "evt_01", &text, "v1,!!!!", BODY, 0, "signature_invalid"),
        ("10 000 wrong ones", SECRET, "evt_01", &text, &many, BODY, 0, "signature_invalid"),
        ("no secret", "whsec_", "evt_01", &text, SIGNATURE, BODY, 0, "secret_invalid"),
    ];
    assert_eq!(TOLERANCE, Duration::minutes(5));
    for (what, secret, id, timestamp, signature, body, skew, expected) in table {
        let now = OffsetDateTime::from_unix_timestamp(SENT + skew).unwrap();
        let outcome = verify(&Secret::new(secret.to_owned()), id, timestamp, signature, body.as_bytes(), now);
        let code = outcome.as_ref().map_or_else(Error::code, |()| "fine");
        assert_eq!(code, expected, "{what}");
    }
}

// --- answers ----------------------------------------------------------------------------------------------------

/// 410 says that there will never be anybody: the code has the engine pause the target, for a delivery as for the notice
/// that takes one back.
#[tokio::test]
async fn a_receiver_that_is_gone_for_good() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        // Takes the first delivery, and then nothing more.
        for status in std::iter::once("200 OK").chain(std::iter::repeat("410 Gone")) {
            let Ok((mut stream, _)) = listener.accept().await else { break };
            let mut seen = [0; 16_384];
            let _ = stream.read(&mut seen).await;
            let _ = stream.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes()).await;
        }
    });
    let config = json!({ "allow_http": true, "addresses": { "allow_loopback": true } });
    let subject = Subject::new("webhook", config, json!({ "url": url }), Some(json!({ "secret": SECRET })));
    let (_, bundle) = certificate(&["localhost"]);
    let sent = journal();
    subject.deliver(&bundle, &sent).await.unwrap();
    let error = subject.rollback(&sent).await.unwrap_err();
    assert_eq!((error.code(), error.class()), (codes::TARGET_GONE, ErrorClass::IoPermanent), "{error:?}");
    let error = subject.deliver(&bundle, &journal()).await.unwrap_err();
    let seen = (error.code(), error.class(), error.effect());
    assert_eq!(seen, (codes::TARGET_GONE, ErrorClass::IoPermanent, Effect::None), "{error:?}");
}
