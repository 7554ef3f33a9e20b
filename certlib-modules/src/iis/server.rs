//! What delivery does on a machine with IIS: one script a step.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certlib_core::secret::SecretString;
use certlib_core::{CertificateBundle, Error, ErrorClass, Result, Secret};
use rand::RngExt as _;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::config::CertificateStore;
use super::undo::{Shown, Unit};
use crate::files::formats::{self, PfxInput};
use crate::files::{Format, PfxOptions};
use crate::winrm::host::Host;

const LOOK: &str = include_str!("scripts/iis.look.ps1");
const IMPORT: &str = include_str!("scripts/iis.import.ps1");
const BIND: &str = include_str!("scripts/iis.bind.ps1");
const ENDPOINT: &str = include_str!("scripts/iis.endpoint.ps1");
const REMOVE: &str = include_str!("scripts/iis.remove.ps1");
const RECYCLE: &str = include_str!("scripts/iis.recycle.ps1");

/// The application id that IIS makes its own entries for.
const IIS: &str = "{4dc3e181-e14b-4a21-b022-59fc669b0914}";

/// A machine as it was found.
#[derive(Debug, Deserialize)]
pub(super) struct Seen {
    pub(super) build: u32,
    pub(super) elevated: bool,
    pub(super) web_administration: bool,
    pub(super) bindings: Vec<SeenBinding>,
    pub(super) endpoints: Vec<SeenEndpoint>,
    pub(super) certificates: Vec<SeenCertificate>,
    pub(super) sites: Vec<String>,
    pub(super) pools: Vec<String>,
}

/// An https binding.
#[derive(Debug, Deserialize)]
pub(super) struct SeenBinding {
    pub(super) site: String,
    pub(super) info: String,
    /// The thumbprint; empty without one.
    pub(super) hash: String,
    pub(super) store: String,
    pub(super) flags: u32,
}

/// An entry of http.sys.
#[derive(Debug, Deserialize)]
pub(super) struct SeenEndpoint {
    pub(super) key: String,
    pub(super) hash: String,
    pub(super) appid: String,
    pub(super) store: String,
}

/// A certificate in the store.
#[derive(Debug, Deserialize)]
pub(super) struct SeenCertificate {
    pub(super) thumbprint: String,
    /// SHA-256, lower-case hex.
    pub(super) sha256: String,
    pub(super) friendly_name: String,
    pub(super) has_key: bool,
    /// Seconds since 1970.
    pub(super) not_after: i64,
}

impl Seen {
    /// What a unit shows now; `None` when there is no such binding or entry.
    pub(super) fn shown(&self, unit: &Unit) -> Option<Shown> {
        match unit {
            Unit::Binding { site, info } => {
                let same = |found: &&SeenBinding| {
                    found.site.eq_ignore_ascii_case(site) && found.info.eq_ignore_ascii_case(info)
                };
                self.bindings.iter().find(same).map(|found| Shown {
                    hash: found.hash.to_ascii_uppercase(),
                    store: found.store.clone(),
                    flags: found.flags,
                    appid: String::new(),
                })
            }
            Unit::Endpoint { key, .. } => {
                let found = self.endpoints.iter().find(|found| found.key.eq_ignore_ascii_case(key));
                found.map(|found| Shown {
                    hash: found.hash.to_ascii_uppercase(),
                    store: found.store.clone(),
                    flags: 0,
                    appid: found.appid.clone(),
                })
            }
        }
    }

    /// The certificate with this thumbprint.
    pub(super) fn certificate(&self, thumbprint: &str) -> Option<&SeenCertificate> {
        self.certificates.iter().find(|found| found.thumbprint.eq_ignore_ascii_case(thumbprint))
    }
}

/// Looks at everything, in one step.
///
/// # Errors
/// As [`Client::script`](crate::winrm::wsman::Client::script).
pub(super) async fn look(host: &mut Host<'_>, store: CertificateStore) -> Result<Seen> {
    #[derive(Serialize)]
    struct Input {
        store: &'static str,
    }
    host.client.script(LOOK, &Input { store: store.as_str() }).await
}

/// How a certificate is imported.
#[derive(Debug, Clone, Copy)]
pub(super) struct Import<'i> {
    pub(super) store: CertificateStore,
    pub(super) thumbprint: &'i str,
    pub(super) friendly_name: &'i str,
    pub(super) exportable: bool,
    pub(super) pfx: PfxOptions,
}

/// Imports certificate and key, in a container under a password that is used once, and the issuers between.
///
/// # Errors
/// `IoPermanent` `pfx_refused`, `permission_denied`, `key_missing_on_target`.
pub(super) async fn import(host: &mut Host<'_>, bundle: &CertificateBundle, import: Import<'_>) -> Result<()> {
    #[derive(Serialize)]
    struct Input<'i> {
        store: &'static str,
        pfx: &'i str,
        password: &'i str,
        friendly_name: &'i str,
        exportable: bool,
        thumbprint: &'i str,
        chain: Vec<String>,
    }
    #[derive(Deserialize)]
    struct Output {
        thumbprint: String,
        has_key: bool,
    }
    let password = one_time_password();
    let input = PfxInput { options: import.pfx, password: Some(&password) };
    let container = formats::render(Format::Pfx, bundle, input)?;
    let pfx = Zeroizing::new(STANDARD.encode(container.expose()));
    let input = Input {
        store: import.store.as_str(),
        pfx: &pfx,
        password: password.expose(),
        friendly_name: import.friendly_name,
        exportable: import.exportable,
        thumbprint: import.thumbprint,
        chain: bundle.certificates().iter().skip(1).map(|der| STANDARD.encode(der)).collect(),
    };
    let output: Output = host.client.script(IMPORT, &input).await?;
    if output.has_key && output.thumbprint.eq_ignore_ascii_case(import.thumbprint) {
        return Ok(());
    }
    let why = "the store holds another certificate than the one imported, or has lost its key";
    Err(Error::permanent("iis.import", "import_failed", why))
}

/// Makes a unit show the certificate of `shown`, or none if its hash is empty; makes the unit if it is not there and
/// `there` says so.
///
/// # Errors
/// `Validation` `binding_missing`; `IoPermanent` `endpoint_refused`, `permission_denied`, `bind_failed`; `IoTransient`
/// `key_not_ready`, `file_in_use`.
pub(super) async fn set(host: &mut Host<'_>, unit: &Unit, shown: &Shown, there: bool) -> Result<()> {
    #[derive(Serialize)]
    struct Binding<'i> {
        site: &'i str,
        info: &'i str,
        thumbprint: Option<&'i str>,
        store: &'i str,
        flags: u32,
        create: bool,
        remove: bool,
    }
    #[derive(Serialize)]
    struct Endpoint<'i> {
        key: &'i str,
        by: &'i str,
        thumbprint: Option<&'i str>,
        store: &'i str,
        appid: &'i str,
        there: bool,
    }
    #[derive(Deserialize)]
    struct Bound {
        hash: String,
    }
    let thumbprint = Some(shown.hash.as_str()).filter(|hash| !hash.is_empty());
    let store = shown.store.as_str();
    let named = |error: Error| error.with("subject", unit.to_string().escape_debug());
    match unit {
        Unit::Binding { site, info } => {
            let input = Binding { site, info, thumbprint, store, flags: shown.flags, create: !there, remove: false };
            let bound: Bound = host.client.script(BIND, &input).await.map_err(named)?;
            if !bound.hash.eq_ignore_ascii_case(&shown.hash) {
                let why = "the binding does not show the certificate that it was given";
                return Err(named(Error::permanent("iis.bind", "bind_failed", why)));
            }
            Ok(())
        }
        Unit::Endpoint { key, by } => {
            let appid = if shown.appid.is_empty() { IIS } else { &shown.appid };
            let input = Endpoint { key, by, thumbprint, store, appid, there };
            host.client.script::<Nothing>(ENDPOINT, &input).await.map(drop).map_err(named)
        }
    }
}

/// Takes a unit away that was made by us.
///
/// # Errors
/// As [`set`].
pub(super) async fn remove_unit(host: &mut Host<'_>, unit: &Unit) -> Result<()> {
    #[derive(Serialize)]
    struct Binding<'i> {
        site: &'i str,
        info: &'i str,
        remove: bool,
    }
    match unit {
        Unit::Binding { site, info } => {
            let input = Binding { site, info, remove: true };
            host.client.script::<serde::de::IgnoredAny>(BIND, &input).await.map(drop)
        }
        Unit::Endpoint { .. } => set(host, unit, &Shown::default(), true).await,
    }
}

#[derive(Deserialize)]
struct Nothing {}

/// Removes a certificate and its key, if its friendly name starts with `marker` and nothing shows it.
///
/// # Errors
/// As [`set`].
pub(super) async fn remove_certificate(
    host: &mut Host<'_>,
    store: &str,
    thumbprint: &str,
    marker: &str,
) -> Result<bool> {
    #[derive(Serialize)]
    struct Input<'i> {
        store: &'i str,
        thumbprint: &'i str,
        marker: &'i str,
    }
    #[derive(Deserialize)]
    struct Output {
        removed: bool,
    }
    let output: Output = host.client.script(REMOVE, &Input { store, thumbprint, marker }).await?;
    Ok(output.removed)
}

/// Recycles application pools that run.
///
/// # Errors
/// As [`set`].
pub(super) async fn recycle(host: &mut Host<'_>, pools: &[String]) -> Result<()> {
    #[derive(Serialize)]
    struct Input<'i> {
        pools: &'i [String],
    }
    if pools.is_empty() {
        return Ok(());
    }
    host.client.script::<Nothing>(RECYCLE, &Input { pools }).await.map(drop)
}

/// Whether trying once more may help: keys are not always there at once, and others change the configuration too.
pub(super) fn passes(error: &Error) -> bool {
    error.class() == ErrorClass::IoTransient && matches!(error.code(), "key_not_ready" | "file_in_use")
}

fn one_time_password() -> SecretString {
    let bytes: Zeroizing<[u8; 24]> = Zeroizing::new(rand::rng().random());
    Secret::new(STANDARD.encode(*bytes))
}
