//! Settings that cannot work are refused before anything is sent.

use serde_json::{Value, json};

use crate::common::Subject;

fn code(config: Value, location: Value, credentials: Value) -> String {
    let subject = Subject::new("winrm", config, location, Some(credentials));
    subject.module.check(&subject.target).map_or_else(|error| error.code().to_owned(), |()| "fine".to_owned())
}

fn location(rest: Value) -> Value {
    let mut location = json!({ "url": "https://app.example.com:5986/wsman", "paths": { "cert": r"C:\a.pem" } });
    location.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    location
}

fn credentials() -> Value {
    json!({ "login": { "method": "ntlm", "user": r"EX\deploy", "password": "p" } })
}

#[test]
fn locations() {
    let table = [
        (json!({}), "fine"),
        (json!({ "paths": { "cert": r"\\files.example.com\tls$\a.pem" } }), "fine"),
        (json!({ "paths": {} }), "paths_empty"),
        (json!({ "paths": { "cert": "C:/a.pem" } }), "path_invalid"),
        (json!({ "paths": { "cert": r"C:\a\..\b" } }), "path_invalid"),
        (json!({ "paths": { "cert": r"C:\a.pem:s" } }), "path_invalid"),
        (json!({ "paths": { "cert": r"C:\COM1.pem" } }), "path_invalid"),
        (json!({ "paths": { "cert": r"C:\a", "key": r"c:\A" } }), "path_duplicate"),
        (json!({ "root": r"D:\tls" }), "path_escapes_root"),
        (json!({ "root": "tls" }), "path_invalid"),
        (json!({ "paths": { "pfx": r"C:\a.pfx" } }), "pfx_password_missing"),
        (json!({ "paths": { "key": { "path": r"C:\a", "acl": { "sddl": "D:P(A;;FA;;;WD)" } } } }), "acl_invalid"),
        (json!({ "paths": { "cert": r"C:\a", "unknown": r"C:\b" } }), "location_invalid"),
        (json!({ "url": "http://app.example.com:5985/wsman" }), "url_invalid"),
        (json!({ "url": "https://user@app.example.com/wsman" }), "url_invalid"),
        (json!({ "url": "https://10.0.0.1:5986/wsman" }), "address_forbidden"),
        (json!({ "url": "https://127.0.0.1:5986/wsman" }), "address_forbidden"),
    ];
    for (rest, expected) in table {
        assert_eq!(code(json!({}), location(rest.clone()), credentials()), expected, "{rest}");
    }
}

#[test]
fn configurations() {
    let insecure = json!({ "insecure_skip_verify": true, "acknowledge_insecure": true });
    let table = [
        (json!({ "reload_command": "net stop x && net start x" }), "fine"),
        (json!({ "reload_command": "a\nb" }), "command_invalid"),
        (json!({ "test_command": " " }), "command_invalid"),
        (json!({ "test_command": "x".repeat(8_001) }), "command_invalid"),
        (json!({ "command_timeout_ms": 0 }), "timeout_invalid"),
        (json!({ "wsman": { "operation_timeout_ms": 1 } }), "timeout_invalid"),
        (json!({ "wsman": { "max_envelope_kb": 4 } }), "envelope_invalid"),
        (json!({ "connection": { "timeouts": { "connect_ms": 0 } } }), "timeout_invalid"),
        (json!({ "connection": { "tls": insecure } }), "insecure_unsupported"),
        (json!({ "connection": { "tls": { "insecure_skip_verify": true } } }), "insecure_not_acknowledged"),
        (json!({ "connection": { "tls": { "ca_pem": "x" } } }), "ca_invalid"),
        (json!({ "endpoints": [{ "host": "" }] }), "endpoint_invalid"),
        (json!({ "reload": "x" }), "config_invalid"),
    ];
    for (config, expected) in table {
        assert_eq!(code(config.clone(), location(json!({})), credentials()), expected, "{config}");
    }
}

#[test]
fn logins() {
    let login = |login: Value| json!({ "login": login });
    let table = [
        (login(json!({ "method": "basic", "user": "u", "password": "p" })), "fine"),
        (login(json!({ "method": "ntlm", "user": "", "password": "p" })), "user_invalid"),
        (login(json!({ "method": "kerberos", "user": "u@R", "password": "p", "kdc": "a b" })), "kdc_invalid"),
        (login(json!({ "method": "credssp", "user": "u", "password": "p" })), "credentials_invalid"),
        (json!({ "login": { "method": "ntlm", "user": "u" } }), "credentials_invalid"),
        (json!({ "user": "u", "password": "p" }), "credentials_invalid"),
    ];
    for (credentials, expected) in table {
        assert_eq!(code(json!({}), location(json!({})), credentials.clone()), expected, "{credentials}");
    }
    let clear = location(json!({ "url": "http://app.example.com:5985/wsman" }));
    let config = json!({ "connection": { "allow_http": true } });
    assert_eq!(code(config.clone(), clear.clone(), credentials()), "fine");
    let basic = login(json!({ "method": "basic", "user": "u", "password": "p" }));
    assert_eq!(code(config, clear, basic), "tls_required");
}
