//! `iis` against a simulated Windows host, whose sites really serve what http.sys has for them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod cleanup;
#[path = "../common/mod.rs"]
mod common;
mod conformance;
mod delivery;
mod refusals;
mod rollback;
#[path = "../windows/mod.rs"]
mod windows;

use certlib_core::CertificateBundle;
use certlib_testkit::pki::{Issued, TestCa};
use certlib_testkit::winrm::{IIS_APP_ID, SNI, SslEntry, SslKey, WinRmSim, Windows, pfx_of};
use serde_json::{Value, json};

use crate::common::Subject;

/// A site that is told by its name.
pub(crate) const SHOP: (&str, &str) = ("Shop", "*:443:localhost");

/// A site that has a port for itself.
pub(crate) const ADMIN: (&str, &str) = ("Admin", "*:8443:");

/// Something without IIS.
pub(crate) const SERVICE: &str = "0.0.0.0:9443";

/// Whose it is.
pub(crate) const SERVICE_ID: &str = "{11111111-2222-3333-4444-555555555555}";

/// Puts a certificate into the store, as an administrator does.
pub(crate) fn install(windows: &mut Windows, issued: &Issued) -> String {
    let pfx = pfx_of(issued, "x").unwrap();
    windows.certificates.import_pfx("My", &pfx, "x", &Default::default()).unwrap()
}

/// Makes everything show `issued`.
pub(crate) fn show(windows: &mut Windows, issued: &Issued) {
    let thumbprint = install(windows, issued);
    for (site, info) in [SHOP, ADMIN] {
        windows.add_ssl_certificate(site, info, &thumbprint, "My").unwrap();
    }
    let (key, entry) = (SslKey::IpPort("0.0.0.0".into(), 9443), SslEntry::new(&thumbprint, "My", SERVICE_ID));
    if windows.http_sys.get(&key).is_some() {
        windows.http_sys.update(&key, entry).unwrap();
    } else {
        windows.http_sys.add(key, entry).unwrap();
    }
}

/// Two sites and a service, all of which show `former`.
pub(crate) async fn host_with(former: &Issued) -> WinRmSim {
    host_of_build(former, 20_348).await
}

pub(crate) async fn host_of_build(former: &Issued, build: u32) -> WinRmSim {
    let former = former.clone();
    // Older builds cannot read the test's own container, so the certificate is there before.
    let host = windows::host().windows(move |windows| {
        windows.iis.add_pool("Shop");
        for ((site, info), flags) in [(SHOP, SNI | 4), (ADMIN, 0)] {
            windows.iis.add_site(site);
            windows.add_binding(site, "https", info, flags).unwrap();
        }
        show(windows, &former);
        windows.set_build(build);
    });
    host.start().await.unwrap()
}

pub(crate) fn location(host: &WinRmSim) -> Value {
    json!({
        "url": host.https_url(),
        "bindings": [{ "site": SHOP.0, "host": "localhost" }, { "site": ADMIN.0, "port": 8443 }],
        "http_sys": [{ "endpoint": SERVICE }],
    })
}

/// Where all of it is served.
pub(crate) async fn endpoints(host: &WinRmSim) -> Value {
    let mut endpoints = Vec::new();
    for port in [443, 8443, 9443] {
        let address = host.tls_addr(port).await.unwrap();
        endpoints.push(json!({
            "host": address.ip().to_string(), "port": address.port(), "server_name": "localhost", "tries": 1,
        }));
    }
    json!(endpoints)
}

/// The module with a target on this host.
pub(crate) fn subject(host: &WinRmSim, mut config: Value) -> Subject {
    config["connection"] = windows::connection(host);
    let credentials = json!({ "login": windows::ntlm(windows::PASSWORD), "pfx_password": "central secret" });
    Subject::new("iis", config, location(host), Some(credentials))
}

pub(crate) fn issue() -> Issued {
    TestCa::new("root").unwrap().issue(&["localhost", "127.0.0.1"]).unwrap()
}

pub(crate) fn bundle(issued: &Issued) -> CertificateBundle {
    CertificateBundle::from_pem(issued.combined().as_bytes()).unwrap()
}

/// What every binding and entry shows, and which certificates there are.
pub(crate) fn state(host: &WinRmSim) -> String {
    host.with(|windows| {
        let mut lines = Vec::new();
        for site in windows.iis.sites() {
            lines.extend(site.bindings.iter().map(|binding| format!("{} {binding:?}", site.name)));
        }
        lines.extend(windows.http_sys.entries().map(|(key, entry)| format!("{key} {entry:?}")));
        for found in windows.certificates.list("My") {
            let key = found.has_private_key();
            lines.push(format!("{} {} {key} {}", found.thumbprint, found.friendly_name, found.exportable));
        }
        let files = windows.files.all().into_iter().filter(|info| !info.directory);
        lines.extend(files.map(|info| format!("{} {}", info.path, windows.files.sha256(&info.path).unwrap())));
        lines.join("\n")
    })
}

/// What a binding shows.
pub(crate) fn bound(host: &WinRmSim, (site, info): (&str, &str)) -> Option<String> {
    host.with(|windows| {
        windows.iis.binding(site, "https", info).ok().and_then(|binding| binding.certificate_hash.clone())
    })
}

/// The application of the shop's own entry, which IIS made.
pub(crate) fn owner(host: &WinRmSim) -> String {
    let key = SslKey::HostPort("localhost".into(), 443);
    let owner = host.with(|windows| windows.http_sys.get(&key).map(|entry| entry.app_id.clone()));
    owner.unwrap_or_else(|| IIS_APP_ID.to_owned())
}
