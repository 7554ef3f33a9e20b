//! `winrm` against a simulated Windows host.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../common/mod.rs"]
mod common;
mod conformance;
mod delivery;
mod kerberos;
mod login;
mod scripts;
mod settings;
mod transport;
#[path = "../windows/mod.rs"]
mod windows;

use certlib_testkit::pki::{Issued, TestCa};
use certlib_testkit::winrm::WinRmSim;
use serde_json::{Value, json};

use crate::common::Subject;

pub(crate) const CERT: &str = r"C:\tls\site.pem";
pub(crate) const KEY: &str = r"C:\tls\site.key";

/// The default access list of files on the simulated host.
pub(crate) const INHERITED: &str = "O:BAG:SYD:AI(A;ID;FA;;;SY)(A;ID;FA;;;BA)";

/// A host that holds a certificate and its key.
pub(crate) async fn host_with(former: &Issued) -> WinRmSim {
    let (chain, key) = (former.full_chain(), former.key_pem.clone());
    windows::host()
        .windows(move |windows| {
            windows.files.put(CERT, chain).unwrap();
            windows.files.put(KEY, key.as_bytes().to_vec()).unwrap();
        })
        .start()
        .await
        .unwrap()
}

pub(crate) fn location(url: &str) -> Value {
    json!({ "url": url, "root": r"C:\tls", "paths": { "fullchain": CERT, "key": KEY } })
}

/// The module with a target on this host, over TLS, with NTLM.
pub(crate) fn subject(host: &WinRmSim, mut config: Value) -> Subject {
    config["connection"] = windows::connection(host);
    let credentials = json!({ "login": windows::ntlm(windows::PASSWORD), "pfx_password": "pfx secret" });
    Subject::new("winrm", config, location(&host.https_url()), Some(credentials))
}

pub(crate) fn former() -> Issued {
    TestCa::new("former root").unwrap().issue(&["localhost"]).unwrap()
}

/// Path, content by its digest, and access list of every file.
pub(crate) fn state(host: &WinRmSim) -> String {
    host.with(|windows| {
        let files = windows.files.all().into_iter().filter(|info| !info.directory);
        let lines = files.map(|info| {
            let digest = windows.files.sha256(&info.path).unwrap();
            format!("{} {digest} {}", info.path, info.sddl)
        });
        lines.collect::<Vec<_>>().join("\n")
    })
}
