//! Orders: signing is all there is to them.

use std::net::IpAddr;
use std::time::Duration;

use certlib_core::bundle::Limits;
use certlib_core::issuer::{IssueRequest, OrderHandle, OrderState};
use certlib_core::{CertificateBundle, Context, Effect, Error, Result};
use certlib_net::Answer;
use serde::{Deserialize, Serialize};

use super::VaultPki;
use super::client::{OPERATION, refused};
use super::config::is_name;
use crate::{keys, triage};

/// The longest common name (ub-common-name, RFC 5280 appendix A).
const COMMON_NAME_MAX: usize = 64;

/// What is kept of an order: all that Vault has answered.
#[derive(Debug, Serialize, Deserialize)]
struct Handle {
    /// As Vault writes it, to look the certificate up by hand.
    serial_number: String,
    /// Leaf first.
    chain_pem: String,
}

/// What Vault is asked. What a role takes from the request itself, by `use_csr_common_name` and `use_csr_sans`, is the
/// same there.
#[derive(Debug, Serialize)]
struct Wish {
    csr: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    common_name: Option<String>,
    alt_names: String,
    ip_sans: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<String>,
    format: &'static str,
    /// The common name is among the alternative names already.
    exclude_cn_from_sans: bool,
    remove_roots_from_chain: bool,
}

#[derive(Deserialize)]
struct Reply {
    data: Signed,
}

#[derive(Deserialize)]
struct Signed {
    certificate: String,
    serial_number: String,
    #[serde(default)]
    issuing_ca: Option<String>,
    #[serde(default)]
    ca_chain: Option<Vec<String>>,
}

impl VaultPki {
    /// Has a certificate signed, which is then part of the handle.
    pub(super) async fn place(&self, cx: &Context, request: &IssueRequest) -> Result<OrderHandle> {
        let role = request.profile.as_deref().unwrap_or(&self.config.role);
        if !is_name(role) {
            let why = "the profile is the name of a role of the mount";
            return Err(Error::validation(OPERATION, "profile_unknown", why));
        }
        let wish = self.wish(request)?;
        let mount = self.config.mount.as_str();
        let path = match &self.config.issuer_ref {
            Some(issuer) => vec![mount, "issuer", issuer, "sign", role],
            None => vec![mount, "sign", role],
        };
        let answer = self.session.post(cx, &path, &wish).await?;
        if !answer.is_success() {
            return Err(refused(&answer));
        }
        OrderHandle::encode(&read(&answer)?)
    }

    fn wish(&self, request: &IssueRequest) -> Result<Wish> {
        let validity = request.validity.or(self.config.validity_seconds.map(Duration::from_secs));
        if validity.is_some_and(|validity| validity.as_secs() == 0) {
            return Err(Error::validation(OPERATION, "validity_invalid", "a validity of at least one second"));
        }
        let (addresses, names): (Vec<_>, Vec<_>) =
            request.names.iter().map(String::as_str).partition(|name| name.parse::<IpAddr>().is_ok());
        Ok(Wish {
            csr: keys::request_pem(&request.csr),
            common_name: names.iter().find(|name| name.len() <= COMMON_NAME_MAX).map(|name| (*name).to_owned()),
            alt_names: names.join(","),
            ip_sans: addresses.join(","),
            ttl: validity.map(|validity| format!("{}s", validity.as_secs())),
            format: "pem",
            exclude_cn_from_sans: true,
            remove_roots_from_chain: true,
        })
    }
}

/// Where an order stands that was placed: its certificate came with the answer.
pub(super) fn look(handle: &OrderHandle) -> Result<OrderState> {
    let handle: Handle = handle.decode()?;
    tracing::debug!(serial_number = handle.serial_number, "issued");
    Ok(OrderState::Issued { chain_pem: handle.chain_pem })
}

/// # Errors
/// `IoPermanent` `answer_invalid` when there is no certificate in it.
fn read(answer: &Answer) -> Result<Handle> {
    let Signed { certificate, serial_number, issuing_ca, ca_chain } = triage::read::<Reply>(answer)?.data;
    let unreadable = |_| {
        let why = "what Vault has signed is no chain of certificates";
        triage::unreadable(Error::transient(OPERATION, "answer_invalid", why).with_effect(Effect::Possible))
    };
    let mut chain = vec![certificate];
    match ca_chain.filter(|chain| !chain.is_empty()) {
        Some(issuers) => chain.extend(issuers),
        // Servers that know only one authority name no chain. The root itself is of no use to anybody.
        None => chain.extend(issuing_ca.filter(|issuer| !is_root(issuer))),
    }
    let (bundle, _) = CertificateBundle::import(chain.join("\n").as_bytes(), &Limits::default()).map_err(unreadable)?;
    Ok(Handle { serial_number, chain_pem: bundle.fullchain_pem() })
}

fn is_root(pem: &str) -> bool {
    CertificateBundle::from_pem(pem.as_bytes()).is_ok_and(|read| read.leaf().subject == read.leaf().issuer)
}
