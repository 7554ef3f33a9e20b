//! Logins beyond what the Python clients try in passing: strict bindings, locked accounts, forgotten logins.

use std::path::Path;

use certlib_testkit::{
    locate::locate,
    process, require,
    winrm::{Fault, Hardening, Injection, Operation, WinRmSim},
};

use crate::{PASSWORD, USER, builder, client::Client};

/// A few lines of Python with pypsrp, which gets the host's ports and prints what it finds.
async fn pypsrp(python: &Path, host: &WinRmSim, lines: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, host.ca_pem()).unwrap();
    let script = format!(
        "import sys, warnings\nwarnings.simplefilter('ignore')\nfrom pypsrp.wsman import WSMan\n\
         from pypsrp.shell import Process, WinRS\n\
         def connect(ssl, password={PASSWORD:?}, **more):\n    \
         return WSMan('127.0.0.1', port={} if ssl else {}, ssl=ssl, cert_validation=sys.argv[1], username={USER:?}, \
         password=password, no_proxy=True, **({{'auth': 'ntlm'}} | more))\n\
         def attempt(connection):\n    try:\n        connection.get_server_config()\n        return 'in'\n    \
         except Exception as error:\n        return type(error).__name__\n{lines}",
        host.https_addr().port(),
        host.http_addr().port()
    );
    let path = folder.path().join("client.py");
    std::fs::write(&path, script).unwrap();
    let mut command = std::process::Command::new(python);
    command.arg(path).arg(ca).env("PYTHONIOENCODING", "utf-8");
    String::from_utf8(process::run(command, b"").await.unwrap().stdout).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strict_bindings_must_be_sent_and_be_right() {
    let python = require!(locate("pypsrp").await);
    let host = builder().hardening(Hardening::Strict).start().await.unwrap();
    let lines =
        "print(attempt(connect(True)), attempt(connect(True, negotiate_send_cbt=False)), attempt(connect(False)))";
    assert_eq!(pypsrp(&python, &host, lines).await, "in AuthenticationError in");
    // What is sent is looked at unless it is told not to; a client behind a proxy sees another certificate.
    let wrong = "from pypsrp.negotiate import HTTPNegotiateAuth\n\
                 HTTPNegotiateAuth._get_cbt_data = staticmethod(lambda response: b'tls-server-end-point:' + b'0' * 32)\n\
                 print(attempt(connect(True)))";
    let relaxed = builder().hardening(Hardening::Relaxed).start().await.unwrap();
    assert_eq!(pypsrp(&python, &relaxed, wrong).await, "AuthenticationError");
    let none = builder().hardening(Hardening::None).start().await.unwrap();
    assert_eq!(pypsrp(&python, &none, wrong).await, "in");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_are_locked_after_too_many_failures() {
    let python = require!(locate("pypsrp").await);
    let host = builder().lockout(2).start().await.unwrap();
    let lines =
        "print(attempt(connect(False, 'no')), attempt(connect(True, 'no', auth='basic')), attempt(connect(False)))";
    let all = "AuthenticationError AuthenticationError AuthenticationError";
    assert_eq!(pypsrp(&python, &host, lines).await, all);
    assert_eq!(host.failed_logins(USER), 3);
    let host = builder().lockout(2).start().await.unwrap();
    let lines = "print(attempt(connect(False, 'no')), attempt(connect(False)), attempt(connect(False, 'no')), attempt(connect(False)))";
    assert_eq!(pypsrp(&python, &host, lines).await, "AuthenticationError in AuthenticationError in");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_answer_is_noticed_and_a_forgotten_login_is_a_401() {
    let python = require!(locate("pypsrp").await);
    let host = builder().start().await.unwrap();
    host.inject(Injection::new(Fault::BadSeal).on(Operation::Get).times(1));
    let lines = "connection = connect(False)\nprint(attempt(connection), attempt(connect(False)))";
    assert_eq!(pypsrp(&python, &host, lines).await, "BadMICError in");
    host.inject(Injection::new(Fault::LoginExpired).on(Operation::Get).after(1).times(1));
    let lines = "connection = connect(True)\nprint(attempt(connection), attempt(connection), attempt(connection))";
    assert_eq!(pypsrp(&python, &host, lines).await, "in in in", "over TLS the client logs in again by itself");
    let statuses: Vec<_> =
        host.history().iter().filter(|record| record.operation == Operation::Get).map(|r| r.status).collect();
    assert!(statuses.contains(&Some(401)), "{statuses:?}");
}

#[tokio::test]
async fn who_may_not_use_it_is_told_so() {
    let host = WinRmSim::builder().unprivileged_user(USER, PASSWORD).start().await.unwrap();
    let answer = Client::new(&host).open().await.unwrap_err();
    assert_eq!((answer.status, answer.fault()), (500, Some(5)));
    let host = builder().start().await.unwrap();
    host.set_password(USER, "another");
    assert_eq!(Client::new(&host).open().await.unwrap_err().status, 401);
    assert_eq!(host.failed_logins(USER), 1);
    let host = builder().basic(false).start().await.unwrap();
    assert_eq!(Client::new(&host).open().await.unwrap_err().status, 401);
    assert_eq!(host.failed_logins(USER), 0, "what is not offered is not tried");
}

#[tokio::test]
async fn unencrypted_messages_pass_if_they_may() {
    let host = builder().allow_unencrypted().start().await.unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let ask = |password| client.post(host.http_url()).basic_auth(USER, Some(password)).body("no envelope").send();
    assert_eq!(ask(PASSWORD).await.unwrap().status(), 500);
    assert_eq!(ask("wrong").await.unwrap().status(), 401);
    let schemes = client.post(host.http_url()).send().await.unwrap();
    let schemes: Vec<_> =
        schemes.headers().get_all("www-authenticate").iter().map(|s| s.to_str().unwrap().to_owned()).collect();
    assert_eq!(schemes, ["Negotiate", "NTLM", "Basic realm=\"WSMAN\""]);
    assert_eq!(client.get(host.http_url()).send().await.unwrap().status(), 405);
    assert_eq!(client.post(host.http_url().replace("wsman", "x")).send().await.unwrap().status(), 404);
}
