//! Tokens, and what a request needs besides one.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::{
    answer::{Answer, Outcome, Refusal},
    state::State,
};
use crate::api::{Call, random_hex};

/// What `Content-Type` must say of a body, to the letter.
const CONTENT_TYPE: &str = "application/json;charset=utf-8";

impl State {
    /// `POST /login`.
    pub(super) fn login(&mut self, call: &Call) -> Outcome {
        let body = object(call)?;
        let fits = |name: &str, wanted: &str| body[name].as_str() == Some(wanted);
        if !fits("api_key", &self.api_key) || !fits("api_secret", &self.api_secret) {
            return Err(Refusal::of_status(401));
        }
        let expires = self.clock.now() + self.settings.token_life;
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let claims = json!({ "exp": expires.unix_timestamp(), "sub": self.api_key });
        let signature = random_hex(32);
        let token = format!("{}.{}.{signature}", part(json!({ "alg": "HS256", "typ": "JWT" })), part(claims));
        self.tokens.insert(token.clone(), expires);
        Ok(Answer::ok(json!({ "access_token": token })))
    }

    /// Whether the request has a token that has not expired.
    pub(super) fn authorize(&self, call: &Call) -> Result<(), Refusal> {
        let token = call.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        let expires = token.and_then(|token| self.tokens.get(token)).ok_or_else(|| Refusal::of_status(401))?;
        if *expires > self.clock.now() { Ok(()) } else { Err(Refusal::of_status(401)) }
    }
}

/// The body of a request, which must be a JSON object of the right type.
pub(super) fn object(call: &Call) -> Result<Value, Refusal> {
    if !call.body.is_empty() && call.header("content-type") != Some(CONTENT_TYPE) {
        return Err(Refusal::new(415, format!("content type must be {CONTENT_TYPE}")));
    }
    call.object().ok_or_else(|| Refusal::new(400, "the body is not a JSON object"))
}
