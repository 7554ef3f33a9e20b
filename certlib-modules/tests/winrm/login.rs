//! Every way to log in, with and without TLS.

use certlib_core::{Effect, ErrorClass};
use certlib_testkit::pki::TestCa;
use certlib_testkit::winrm::{Fault, Hardening, Injection, Operation, WinRmSim, WinRmSimBuilder};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::common::{Subject, certificate, journal};
use crate::windows::{PASSWORD, USER, WRONG, connection, host, ntlm};
use crate::{CERT, location, state};

/// Starts a host with the directory for files and nothing in it.
async fn start(builder: WinRmSimBuilder) -> WinRmSim {
    builder.windows(|windows| windows.files.create_directories(r"C:\tls").unwrap()).start().await.unwrap()
}

fn over_tls(host: &WinRmSim, login: Value) -> Subject {
    let config = json!({ "connection": connection(host) });
    Subject::new("winrm", config, location(&host.https_url()), Some(json!({ "login": login })))
}

fn in_the_clear(host: &WinRmSim, login: Value) -> Subject {
    let config = json!({ "connection": { "addresses": { "allow_loopback": true }, "allow_http": true } });
    Subject::new("winrm", config, location(&host.http_url()), Some(json!({ "login": login })))
}

fn login(method: &str, user: &str) -> Value {
    json!({ "method": method, "user": user, "password": PASSWORD })
}

/// Delivers, and tells how messages went.
async fn deliver(host: &WinRmSim, subject: &Subject) -> (Vec<Option<&'static str>>, bool) {
    let (_, bundle) = certificate(&["localhost"]);
    subject.deliver(&bundle, &journal()).await.unwrap();
    assert!(host.with(|windows| windows.files.exists(CERT)));
    assert_eq!(host.open_shells(), 0, "shells are closed");
    let work: Vec<_> = host.history().into_iter().filter(|record| record.operation != Operation::Login).collect();
    assert!(work.len() > 5 && work.iter().all(|record| record.status == Some(200)), "{work:?}");
    let mut schemes: Vec<_> = work.iter().map(|record| record.scheme).collect();
    schemes.dedup();
    (schemes, work.iter().all(|record| record.sealed))
}

#[tokio::test]
async fn ntlm_is_sealed_without_tls() {
    for user in [USER, r"WINSIM\Administrator", "administrator@WORKGROUP"] {
        let host = start(host()).await;
        let subject = in_the_clear(&host, login("ntlm", user));
        let (schemes, sealed) = deliver(&host, &subject).await;
        assert_eq!((schemes.len(), sealed), (1, true), "{schemes:?}");
    }
}

#[tokio::test]
async fn ntlm_is_bound_to_tls() {
    for hardening in [Hardening::Strict, Hardening::Relaxed, Hardening::None] {
        let host = start(host().hardening(hardening)).await;
        let subject = over_tls(&host, login("ntlm", USER));
        let (_, sealed) = deliver(&host, &subject).await;
        assert!(!sealed, "TLS is enough");
    }
}

#[tokio::test]
async fn spnego_works_both_ways() {
    let tls = start(host().hardening(Hardening::Strict)).await;
    deliver(&tls, &over_tls(&tls, login("negotiate", USER))).await;
    let clear = start(host()).await;
    let (_, sealed) = deliver(&clear, &in_the_clear(&clear, login("negotiate", USER))).await;
    assert!(sealed);
}

#[tokio::test]
async fn basic_works_over_tls() {
    let host = start(host()).await;
    let (schemes, _) = deliver(&host, &over_tls(&host, login("basic", USER))).await;
    assert_eq!(schemes, [Some("Basic")]);
}

#[tokio::test]
async fn a_client_certificate_is_a_login() {
    let ca = TestCa::new("clients").unwrap();
    let (known, stranger) = (ca.issue(&["deploy"]).unwrap(), ca.issue(&["stranger"]).unwrap());
    let host = start(host().certificate_user(&known.certificate_pem, USER)).await;
    let identity = |issued: &certlib_testkit::pki::Issued| json!({ "certificate_pem": issued.full_chain(), "private_key_pem": *issued.key_pem });
    let login = |issued| json!({ "method": "certificate", "identity": identity(issued) });
    let (schemes, _) = deliver(&host, &over_tls(&host, login(&known))).await;
    assert_eq!(schemes, [Some("Certificate")]);
    let (_, bundle) = certificate(&["localhost"]);
    let error = over_tls(&host, login(&stranger)).plan(&bundle).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("login_refused", ErrorClass::Auth));
}

#[tokio::test]
async fn wrong_passwords_are_tried_once() {
    for method in ["ntlm", "negotiate", "basic"] {
        let host = start(host().lockout(3)).await;
        let before = state(&host);
        let (_, bundle) = certificate(&["localhost"]);
        let wrong = json!({ "method": method, "user": USER, "password": WRONG });
        let error = over_tls(&host, wrong).plan(&bundle).await.unwrap_err();
        assert_eq!((error.code(), error.class()), ("login_refused", ErrorClass::Auth), "{method}");
        assert_eq!(error.effect(), Effect::None);
        assert!(!format!("{error:?}").contains(WRONG));
        assert_eq!(host.failed_logins(USER), 1, "{method}: each failure brings the account closer to its lock");
        assert_eq!(state(&host), before);
    }
}

#[tokio::test]
async fn a_login_without_rights_is_told_from_a_wrong_one() {
    let host = start(host().unprivileged_user("guest", PASSWORD)).await;
    let (_, bundle) = certificate(&["localhost"]);
    let error = over_tls(&host, login("ntlm", "guest")).plan(&bundle).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("access_denied", ErrorClass::Auth));
}

#[tokio::test]
async fn what_is_not_offered_is_named() {
    let host = start(host().negotiate(false)).await;
    let (_, bundle) = certificate(&["localhost"]);
    let error = over_tls(&host, login("ntlm", USER)).plan(&bundle).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("scheme_not_offered", ErrorClass::Auth));
    assert!(error.to_string().contains("Basic"), "{error}");
}

#[tokio::test]
async fn an_unknown_certificate_is_not_logged_in_to() {
    let host = start(host()).await;
    let other = TestCa::new("other").unwrap();
    let config = json!({
        "connection": { "addresses": { "allow_loopback": true }, "tls": { "ca_pem": other.certificate_pem() } },
    });
    let credentials = json!({ "login": ntlm(PASSWORD) });
    let subject = Subject::new("winrm", config, location(&host.https_url()), Some(credentials));
    let (_, bundle) = certificate(&["localhost"]);
    let error = subject.plan(&bundle).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("tls_untrusted", ErrorClass::Auth));
    assert!(host.history().is_empty(), "nothing was sent");
}

#[tokio::test]
async fn another_name_than_the_certificates_is_refused() {
    let host = start(host()).await;
    // 127.0.0.2 is the same machine, but not in its certificate.
    let url = host.https_url().replace("127.0.0.1", "127.0.0.2");
    let credentials = json!({ "login": ntlm(PASSWORD) });
    let subject = Subject::new("winrm", json!({ "connection": connection(&host) }), location(&url), Some(credentials));
    let (_, bundle) = certificate(&["localhost"]);
    let error = subject.plan(&bundle).await.unwrap_err();
    assert!(matches!(error.code(), "tls_untrusted" | "connect_failed"), "{error:?}");
    assert!(host.history().is_empty());
}

#[tokio::test]
async fn an_answer_with_a_wrong_seal_is_not_believed() {
    let host = start(host()).await;
    host.inject(Injection::new(Fault::BadSeal).times(1));
    let (_, bundle) = certificate(&["localhost"]);
    let error = in_the_clear(&host, login("ntlm", USER)).plan(&bundle).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("answer_not_sealed", ErrorClass::IoPermanent));
}

/// Somebody in between answers in the machine's place.
#[tokio::test]
async fn an_answer_in_the_clear_is_not_believed() {
    let host = start(host()).await;
    let between = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = between.local_addr().unwrap();
    let machine = host.http_addr();
    tokio::spawn(async move {
        let (mut client, _) = between.accept().await.unwrap();
        let mut server = TcpStream::connect(machine).await.unwrap();
        let (mut question, mut answer) = ([0; 65_536], [0; 65_536]);
        loop {
            tokio::select! {
                read = client.read(&mut question) => {
                    let length = read.unwrap();
                    if String::from_utf8_lossy(&question[..length]).contains("multipart/encrypted") {
                        let body = "<s:Envelope xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\"/>";
                        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/soap+xml;charset=UTF-8\r\nContent-Length";
                        client.write_all(format!("{head}: {}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
                    } else if length > 0 {
                        server.write_all(&question[..length]).await.unwrap();
                    } else {
                        return;
                    }
                }
                read = server.read(&mut answer) => client.write_all(&answer[..read.unwrap()]).await.unwrap(),
            }
        }
    });
    let mut subject = in_the_clear(&host, login("ntlm", USER));
    subject.target.location["url"] = json!(format!("http://{address}/wsman"));
    let (_, bundle) = certificate(&["localhost"]);
    let error = subject.plan(&bundle).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("answer_not_sealed", ErrorClass::IoPermanent));
}
