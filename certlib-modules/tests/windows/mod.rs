//! What the scripts of `winrm` and `iis` do, on the simulated Windows host.

#![allow(dead_code, reason = "each test program uses a part")]

mod files;
mod iis;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certlib_testkit::winrm::{
    Bootstrap, ScriptCall, ScriptMatcher, ScriptOutput, WinRmSim, WinRmSimBuilder, WindowsError,
};
use serde_json::{Value, json};

pub(crate) const USER: &str = "Administrator";
pub(crate) const PASSWORD: &str = "correct horse battery";
pub(crate) const WRONG: &str = "incorrect donkey fuse";

/// A host on which all scripts run, and one may log in.
pub(crate) fn host() -> WinRmSimBuilder {
    let bootstrap = Bootstrap::new(open, close);
    let host = WinRmSim::builder().user(USER, PASSWORD).bootstrap(ScriptMatcher::marker("bootstrap"), bootstrap);
    iis::twins(files::twins(host))
}

/// How to reach it over TLS.
pub(crate) fn connection(host: &WinRmSim) -> Value {
    json!({ "addresses": { "allow_loopback": true }, "tls": { "ca_pem": host.ca_pem() } })
}

pub(crate) fn ntlm(password: &str) -> Value {
    json!({ "method": "ntlm", "user": USER, "password": password })
}

/// Two lines of base64: the script, and its data.
fn open(call: &ScriptCall) -> Result<(String, Value), WindowsError> {
    let text = call.text();
    let mut lines = text.lines().map(|line| STANDARD.decode(line).map_err(WindowsError::invalid_parameter));
    let mut next = || lines.next().unwrap_or_else(|| Err(WindowsError::invalid_parameter("a line")));
    let script = String::from_utf8(next()?).map_err(WindowsError::invalid_parameter)?;
    let data = serde_json::from_slice(&next()?).map_err(WindowsError::invalid_parameter)?;
    Ok((script, data))
}

/// One line: the outcome in base64.
fn close(outcome: Result<Value, WindowsError>) -> ScriptOutput {
    let (answer, exit) = match outcome {
        Ok(value) => (json!({ "ok": value }), 0),
        Err(error) => {
            let own = error.message.strip_prefix("certlib:").unwrap_or_default();
            (json!({ "error": { "code": own, "type": error.exception, "hresult": error.code.cast_signed() } }), 1)
        }
    };
    ScriptOutput::text(format!("certlib:{}\r\n", STANDARD.encode(answer.to_string()))).exit(exit)
}

/// What our own scripts throw.
pub(crate) fn thrown(code: &str) -> WindowsError {
    WindowsError::new(0x8013_1501, "System.Management.Automation.RuntimeException", format!("certlib:{code}"))
}

pub(crate) fn text<'v>(value: &'v Value, field: &str) -> Result<&'v str, WindowsError> {
    value[field].as_str().ok_or_else(|| WindowsError::invalid_parameter(field))
}

pub(crate) fn bytes(value: &Value, field: &str) -> Result<Vec<u8>, WindowsError> {
    STANDARD.decode(text(value, field)?).map_err(WindowsError::invalid_parameter)
}

pub(crate) fn list<'v>(value: &'v Value, field: &str) -> Result<Vec<&'v str>, WindowsError> {
    let items = value[field].as_array().ok_or_else(|| WindowsError::invalid_parameter(field))?;
    items.iter().map(|item| item.as_str().ok_or_else(|| WindowsError::invalid_parameter(field))).collect()
}
