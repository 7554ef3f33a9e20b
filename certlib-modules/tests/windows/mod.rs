//! Hosts to which `winrm` and `iis` deliver.

#![allow(dead_code, reason = "each test program uses a part")]

use certlib_testkit::winrm::{WinRmSim, WinRmSimBuilder};
use serde_json::{Value, json};

pub(crate) const USER: &str = "Administrator";
pub(crate) const PASSWORD: &str = "correct horse battery";
pub(crate) const WRONG: &str = "incorrect donkey fuse";

/// A host on which all scripts run, and one may log in.
pub(crate) fn host() -> WinRmSimBuilder {
    WinRmSim::builder().user(USER, PASSWORD).certlib_scripts()
}

/// How to reach it over TLS.
pub(crate) fn connection(host: &WinRmSim) -> Value {
    json!({ "addresses": { "allow_loopback": true }, "tls": { "ca_pem": host.ca_pem() } })
}

pub(crate) fn ntlm(password: &str) -> Value {
    json!({ "method": "ntlm", "user": USER, "password": password })
}
