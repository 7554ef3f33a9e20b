//! Who may ask: tokens, and the ways to get one.

mod approle;
mod cert;
pub(super) mod identity;
mod jwt;
mod kubernetes;
mod role;
pub(super) mod tokens;

use std::time::Duration;

use time::OffsetDateTime;

use self::{approle::AppRole, cert::Cert, jwt::Jwt, kubernetes::Kubernetes};
pub(super) use self::{
    identity::Identity,
    tokens::{Token, Tokens},
};
use super::{
    answer::{Outcome, Refusal},
    call::Call,
};

/// A way to log in, mounted at its path.
pub(super) trait Login: Send {
    /// As in `sys/auth`.
    fn kind(&self) -> &'static str;

    /// `login`.
    fn login(&mut self, call: &Call, now: OffsetDateTime) -> Result<Grant, Refusal>;

    /// Everything else; the path is what follows the mount.
    fn handle(&mut self, call: &Call, now: OffsetDateTime) -> Outcome;
}

/// A new way to log in of a kind, if there is such a kind.
pub(super) fn make(kind: &str, identity: &Identity) -> Option<Box<dyn Login>> {
    match kind {
        "approle" => Some(Box::new(AppRole::default())),
        "cert" => Some(Box::new(Cert::default())),
        "jwt" | "oidc" => Some(Box::new(Jwt::default())),
        "kubernetes" => Some(Box::new(Kubernetes::new(identity.verifier()))),
        _ => None,
    }
}

/// What somebody who logged in gets.
#[derive(Clone, Debug)]
pub(super) struct Grant {
    pub(super) policies: Vec<String>,
    /// `None`: for ever.
    pub(super) ttl: Option<Duration>,
    /// The longest it can be made to last by renewing it; `None`: no limit.
    pub(super) max_ttl: Option<Duration>,
    /// How often it can be used; 0: no limit.
    pub(super) uses: u32,
    pub(super) renewable: bool,
    pub(super) display_name: String,
}
