//! TLS certificates: roles for who shows one in the handshake.

use std::collections::BTreeMap;

use serde_json::json;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{
    super::{
        answer::{Answer, Outcome, Refusal},
        call::{Body, Call, Operation},
    },
    Grant, Login,
    role::{self, RoleTokens},
};

/// The roles at one mount.
#[derive(Default)]
pub(super) struct Cert {
    roles: BTreeMap<String, Role>,
}

#[derive(Clone, Default)]
struct Role {
    tokens: RoleTokens,
    /// PEM: a client's certificate, or that of the authority that issued it.
    certificate: String,
    common_names: Vec<String>,
}

impl Role {
    fn update(&mut self, body: &Body) -> Result<(), Refusal> {
        self.tokens.update(body)?;
        if body.get("certificate").is_some() {
            body.text("certificate")?.clone_into(&mut self.certificate);
        }
        self.common_names = body.texts("allowed_common_names")?.unwrap_or_else(|| self.common_names.clone());
        if pem::parse(&self.certificate).is_err() {
            return Err(Refusal::invalid("failed to parse certificate"));
        }
        Ok(())
    }

    /// Whether this role is for who showed `shown`; chains of more than one step are not followed.
    fn admits(&self, shown: &[u8], now: OffsetDateTime) -> bool {
        let Ok(known) = pem::parse(&self.certificate) else { return false };
        let parsed = (X509Certificate::from_der(shown), X509Certificate::from_der(known.contents()));
        let (Ok((_, client)), Ok((_, trusted))) = parsed else { return false };
        let issued = || client.verify_signature(Some(trusted.public_key())).is_ok();
        let validity = client.validity();
        let valid = validity.not_before.timestamp() <= now.unix_timestamp()
            && now.unix_timestamp() <= validity.not_after.timestamp();
        let mut names = client.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        let named = self.common_names.is_empty() || names.any(|name| self.common_names.iter().any(|one| one == name));
        valid && named && (shown == known.contents() || issued())
    }
}

impl Login for Cert {
    fn kind(&self) -> &'static str {
        "cert"
    }

    fn login(&mut self, call: &Call, now: OffsetDateTime) -> Result<Grant, Refusal> {
        let shown = call.certificate.as_deref();
        let shown = shown.ok_or_else(|| Refusal::invalid("client certificate must be supplied"))?;
        let wanted = call.body.text("name")?;
        let mut fitting = self.roles.iter().filter(|(name, _)| wanted.is_empty() || wanted == *name);
        let found = fitting.find(|(_, role)| role.admits(shown, now));
        let (name, role) =
            found.ok_or_else(|| Refusal::invalid("invalid certificate or no client certificate supplied"))?;
        Ok(role.tokens.grant(&format!("cert-{name}")))
    }

    fn handle(&mut self, call: &Call, _now: OffsetDateTime) -> Outcome {
        match (call.operation, call.segments().as_slice()) {
            (Operation::List, ["certs"]) => role::list(&self.roles),
            (Operation::Update, ["certs", name]) => {
                let mut role = self.roles.get(*name).cloned().unwrap_or_default();
                role.update(&call.body)?;
                self.roles.insert((*name).to_owned(), role);
                Ok(Answer::nothing())
            }
            (Operation::Read, ["certs", name]) => {
                let role = self.roles.get(*name).ok_or_else(Refusal::absent)?;
                let mut data = role.tokens.describe();
                data.extend([
                    ("certificate".to_owned(), json!(role.certificate)),
                    ("allowed_common_names".to_owned(), json!(role.common_names)),
                ]);
                Ok(Answer::data(data.into()))
            }
            (Operation::Delete, ["certs", name]) => {
                self.roles.remove(*name);
                Ok(Answer::nothing())
            }
            _ => Err(Refusal::unsupported_path()),
        }
    }
}
