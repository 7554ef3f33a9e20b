//! Signed statements about who somebody is: the JSON web tokens of an identity provider, with ES256.

use aws_lc_rs::{
    encoding::AsDer as _,
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
    },
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use crate::{Error, Result};

/// How many bytes of an encoded P-256 key the point is, at its end.
const POINT: usize = 65;

/// What signs: at once an OpenID provider, and the API server of a Kubernetes cluster.
pub(in super::super) struct Identity {
    key: EcdsaKeyPair,
    public_pem: String,
}

/// What tells whether a statement is from somewhere.
#[derive(Clone)]
pub(in super::super) struct Verifier(Vec<u8>);

impl Identity {
    pub(in super::super) fn new() -> Result<Self> {
        let failed = |_| Error::Crypto("no key can be made for the identity provider".to_owned());
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(failed)?;
        let der = key.public_key().as_der().map_err(failed)?;
        let public_pem = pem::encode(&pem::Pem::new("PUBLIC KEY", der.as_ref().to_vec()));
        Ok(Self { key, public_pem })
    }

    /// Its public key, PEM.
    pub(in super::super) fn public_pem(&self) -> &str {
        &self.public_pem
    }

    pub(in super::super) fn verifier(&self) -> Verifier {
        Verifier(self.key.public_key().as_ref().to_vec())
    }

    /// A signed statement.
    pub(in super::super) fn sign(&self, claims: &Value) -> Result<String> {
        let head = URL_SAFE_NO_PAD.encode(json!({ "alg": "ES256", "typ": "JWT" }).to_string());
        let text = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = self.key.sign(&SystemRandom::new(), text.as_bytes());
        let signature = signature.map_err(|_| Error::Crypto("a token cannot be signed".to_owned()))?;
        Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref())))
    }
}

impl Verifier {
    /// From a public key, PEM.
    pub(super) fn parse(public_pem: &str) -> Option<Self> {
        let der = pem::parse(public_pem).ok().filter(|block| block.tag() == "PUBLIC KEY")?.into_contents();
        let point = der.len().checked_sub(POINT).map(|at| der[at..].to_vec())?;
        (der.len() < 2 * POINT && point.first() == Some(&4)).then_some(Self(point))
    }

    /// What a statement says, if it is from there and in force.
    pub(super) fn claims(&self, token: &str, now: OffsetDateTime) -> Option<Map<String, Value>> {
        let (text, signature) = token.rsplit_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.0).verify(text.as_bytes(), &signature).ok()?;
        let (head, claims) = text.split_once('.')?;
        let head: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(head).ok()?).ok()?;
        let claims: Map<String, Value> = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
        let expires = claims.get("exp")?.as_i64()?;
        (head["alg"] == "ES256" && now.unix_timestamp() < expires).then_some(claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_words_in_time_are_believed() {
        let (one, other) = (Identity::new().unwrap(), Identity::new().unwrap());
        let token = one.sign(&json!({ "sub": "a", "exp": 100 })).unwrap();
        let at = |seconds| OffsetDateTime::from_unix_timestamp(seconds).unwrap();
        let verifier = Verifier::parse(one.public_pem()).unwrap();
        assert_eq!(verifier.claims(&token, at(99)).unwrap()["sub"], "a");
        assert!(verifier.claims(&token, at(100)).is_none());
        assert!(other.verifier().claims(&token, at(99)).is_none());
        let mut parts: Vec<_> = token.split('.').map(str::to_owned).collect();
        parts[1] = URL_SAFE_NO_PAD.encode(json!({ "sub": "b", "exp": 100 }).to_string());
        assert!(verifier.claims(&parts.join("."), at(99)).is_none());
        assert!(Verifier::parse("nonsense").is_none());
    }
}
