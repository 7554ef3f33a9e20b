//! The PKI secrets engine of HashiCorp Vault, or OpenBao.
//!
//! [`VaultPkiFactory`] makes the issuers, from [`VaultPkiConfig`] and a credential, either
//!
//! ```json
//! { "method": "token", "token": "hvs.…" }
//! ```
//!
//! or
//!
//! ```json
//! { "method": "approle", "mount": "approle", "role_id": "…", "secret_id": "…" }
//! ```
//!
//! A token that can be renewed is renewed when two thirds of its time are over. With an AppRole certlib logs in when it has to,
//! and again when a token has ended: the secret id must be good for many uses.
//!
//! # Orders
//! An order is one `sign` with a role, which Vault answers with the certificate. That answer **is** the order's handle: it is
//! kept before anything is done with it, polling asks nothing of Vault, and roles that keep nothing (`no_store`) work as
//! well. It would not do to keep the serial number alone: what is not stored could not be read again, and nothing that
//! Vault keeps says which of its issuers has signed.
//!
//! So only the answer itself can be lost. Then it is **signed again** ([`Recovery::Repeat`]). Searching would mean to list every
//! serial number of the mount, in no order, and to read the certificates one by one, and would still not find what is not
//! stored. A second certificate costs nothing, and its key, the same one, stays here. What the first one leaves behind is an
//! entry in Vault's storage until it is tidied, and one thing to know: **if the key is ever compromised, the lost certificate
//! has to be revoked in Vault as well**; certlib does not know its serial number. Short validities make that a small matter.
//!
//! # Names
//! The names are given both ways, in the certificate request and as fields, whichever the role takes. The common name is
//! the first DNS name of at most 64 characters; requests with none need a role with `require_cn=false`. Addresses need
//! `allow_ip_sans`.
//!
//! # Revocation
//! By the serial number; what is not stored is shown to Vault (1.12). Vault keeps no reasons.
//!
//! # What the login needs
//! ```text
//! path "pki/sign/web" { capabilities = ["update"] }          # with issuer_ref: pki/issuer/NAME/sign/web
//! path "pki/revoke"   { capabilities = ["update"] }          # to revoke
//! ```
//! and, as the policy `default` has it, `auth/token/lookup-self` and `auth/token/renew-self`.
//!
//! # Not supported
//! Other ways to log in than tokens and AppRoles; wrapped secret ids. Vault's own ACME server is an issuer of the kind `acme`.
//!
//! # Uncertain
//! Which fields servers before Vault 1.11 take: those that they do not know, they do not look at. Then chains may end with
//! the root.
//!
//! Sources: the API pages of the PKI secrets engine, <https://developer.hashicorp.com/vault/api-docs/secret/pki>.
//!
//! ```
//! use certlib_core::issuer::IssuerFactory;
//! use certlib_issuers::vault_pki::VaultPkiFactory;
//! use serde_json::json;
//!
//! VaultPkiFactory.check(&json!({
//!     "url": "https://vault.example.com:8200",
//!     "mount": "teams/web/pki",
//!     "role": "web",
//!     "namespace": "team/a",
//!     "validity_seconds": 604_800,
//! }))?;
//! # Ok::<(), certlib_core::Error>(())
//! ```

mod client;
mod config;
mod order;
mod revoke;
mod session;

use std::sync::Arc;

use async_trait::async_trait;
use certlib_core::issuer::{
    AsyncIssuer, IssueRequest, IssuerFactory, IssuerSpec, OrderHandle, OrderState, Recovery, Revoker, decode_config,
};
use certlib_core::{Context, Result};
use serde_json::Value;

use self::client::Client;
pub use self::config::VaultPkiConfig;
use self::config::VaultPkiCredentials;
use self::session::Session;

/// Makes Vault PKI issuers; kind `vault-pki`. Making one asks nothing of Vault.
#[derive(Debug, Clone, Copy, Default)]
pub struct VaultPkiFactory;

#[async_trait]
impl IssuerFactory for VaultPkiFactory {
    fn kind(&self) -> &'static str {
        "vault-pki"
    }

    fn check(&self, config: &Value) -> Result<()> {
        decode_config::<VaultPkiConfig>(config)?.check()
    }

    async fn build(&self, _cx: &Context, spec: IssuerSpec) -> Result<Arc<dyn AsyncIssuer>> {
        let config: VaultPkiConfig = spec.decode_config()?;
        config.check()?;
        let credentials = VaultPkiCredentials::decode(spec.credentials.as_ref())?;
        let session = Session::new(Client::new(&config)?, credentials);
        Ok(Arc::new(VaultPki { config, session }))
    }
}

/// One mount, and the right to have certificates signed there.
#[derive(Debug)]
struct VaultPki {
    config: VaultPkiConfig,
    session: Session,
}

#[async_trait]
impl AsyncIssuer for VaultPki {
    async fn submit(&self, cx: &Context, request: &IssueRequest) -> Result<OrderHandle> {
        self.place(cx, request).await
    }

    async fn poll(&self, _cx: &Context, handle: &OrderHandle) -> Result<OrderState> {
        order::look(handle)
    }

    fn recovery(&self) -> Recovery<'_> {
        // The second certificate has the same key, and costs nothing.
        Recovery::Repeat
    }

    fn revoker(&self) -> Option<&dyn Revoker> {
        Some(self)
    }
}
