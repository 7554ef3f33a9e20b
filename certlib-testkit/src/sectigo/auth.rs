//! Who asks: a login with a password, with a client certificate, or an API client with a token.

use bytes::Bytes;
use http::Request;
use serde_json::json;
use time::Duration;

use super::{
    SectigoSim,
    answer::{Answer, Body, Refusal},
    call,
    state::State,
};
use crate::http_server::Peer;

/// Where API clients get tokens.
pub(super) const TOKEN_PATH: &str = "/auth/realms/apiclients/protocol/openid-connect/token";
/// How long a token is good.
const TOKEN_SECONDS: i64 = 300;

impl State {
    /// The login behind a request, and the path after `api`.
    pub(super) fn authenticate<'a>(
        &self,
        peer: &Peer,
        request: &'a Request<Bytes>,
    ) -> Result<(String, &'a str), Refusal> {
        let path = request.uri().path();
        let text = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if let Some(path) = path.strip_prefix("/private/api/") {
            let shown = peer.certificate.as_deref() == Some(self.client_certificate.as_slice());
            let known = login_is_known(text("login"), text("customerUri")) && shown;
            return if known { Ok((text("login").to_owned(), path)) } else { Err(Refusal::unknown_user()) };
        }
        let path = path.strip_prefix("/api/").ok_or_else(Refusal::no_such_api)?;
        if let Some(token) = text("authorization").strip_prefix("Bearer ") {
            let good = self.tokens.iter().any(|(known, until)| known == token && *until > self.now());
            return if good { Ok((SectigoSim::CLIENT_ID.to_owned(), path)) } else { Err(Refusal::unknown_user()) };
        }
        let known = login_is_known(text("login"), text("customerUri")) && text("password") == SectigoSim::PASSWORD;
        if known { Ok((text("login").to_owned(), path)) } else { Err(Refusal::unknown_user()) }
    }

    /// Gives a token for an id and a secret (RFC 6749, section 4.4).
    pub(super) fn token(&mut self, request: &Request<Bytes>) -> Answer {
        let form = call::form(&String::from_utf8_lossy(request.body()));
        let value = |name: &str| call::value(&form, name).unwrap_or_default();
        if value("grant_type") != "client_credentials" {
            return denied(400, "unsupported_grant_type");
        }
        let known = value("client_id") == SectigoSim::CLIENT_ID && value("client_secret") == SectigoSim::CLIENT_SECRET;
        if !known {
            return denied(401, "invalid_client");
        }
        let token = super::random_hex(32);
        self.tokens.push((token.clone(), self.now() + Duration::seconds(TOKEN_SECONDS)));
        Answer::ok(json!({ "access_token": token, "expires_in": TOKEN_SECONDS, "token_type": "Bearer" }))
            .header("cache-control", "no-store".to_owned())
    }
}

fn login_is_known(login: &str, customer: &str) -> bool {
    login == SectigoSim::LOGIN && customer == SectigoSim::CUSTOMER_URI
}

fn denied(status: u16, error: &str) -> Answer {
    Answer::with(status, Body::Json(json!({ "error": error })))
}
