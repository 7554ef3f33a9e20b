//! Claims of domains, and the proof of them.

use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use super::{
    answer::{Answer, Outcome, Refusal},
    inventory,
    login::object,
    state::State,
};
use crate::api::{Call, random_hex};

/// How long a token can be used.
const TOKEN_LASTS: Duration = Duration::days(30);
/// How long a claim stays verified.
const CLAIM_LASTS: Duration = Duration::days(200);

/// What is to be seen somewhere, to prove that a domain is controlled.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Proof {
    /// `dns`, `http` or `email`.
    pub method: String,
    /// The domain to look at: the claimed one, or one above it. For `email`, the address.
    pub place: String,
    /// The token: in a TXT record at the domain itself, or in the file `/.well-known/pki-validation/gsdv.txt`.
    pub token: String,
}

/// A claim of a domain.
#[derive(Debug)]
pub(super) struct Claim {
    domain: String,
    token: String,
    created: OffsetDateTime,
    assert_by: OffsetDateTime,
    verified_until: Option<OffsetDateTime>,
    log: Vec<(&'static str, String, OffsetDateTime)>,
}

impl Claim {
    fn is_verified(&self, now: OffsetDateTime) -> bool {
        self.verified_until.is_some_and(|until| until > now)
    }

    fn status(&self, now: OffsetDateTime) -> &'static str {
        if self.is_verified(now) { "VERIFIED" } else { "PENDING" }
    }

    fn shown(&self, id: &str, now: OffsetDateTime) -> Value {
        let entry = |(status, description, at): &(&str, String, OffsetDateTime)| json!({ "status": status, "description": description, "timestamp": at.unix_timestamp() });
        json!({
            "id": id,
            "status": self.status(now),
            "domain": self.domain,
            "created_at": self.created.unix_timestamp(),
            "expires_at": self.verified_until.unwrap_or(self.assert_by).unix_timestamp(),
            "assert_by": self.assert_by.unix_timestamp(),
            "log": self.log.iter().map(entry).collect::<Vec<_>>(),
        })
    }

    fn assertion(&self, id: &str) -> Value {
        json!({ "token": self.token, "assert_by": self.assert_by.unix_timestamp(), "id": id })
    }
}

impl State {
    /// Whether a verified claim covers a name.
    pub(super) fn claims(&self, name: &str) -> bool {
        let now = self.clock.now();
        let name = name.strip_prefix("*.").unwrap_or(name);
        self.claims.values().any(|claim| claim.is_verified(now) && is_below(name, &claim.domain))
    }

    /// Everything below `/claims/domains`.
    pub(super) fn claim_action(&mut self, method: &str, rest: &[&str], call: &Call) -> Outcome {
        let now = self.clock.now();
        match (method, rest) {
            ("GET", []) => {
                let wanted = call.param("status");
                let fits = |claim: &&Claim| wanted.is_none_or(|status| status == claim.status(now));
                let all = self.claims.iter().filter(|(_, claim)| fits(claim));
                inventory::page(call, all.map(|(id, claim)| claim.shown(id, now)).collect(), self.settings.page)
            }
            ("POST", [domain]) => self.claim(domain, call),
            ("GET", [id]) => Ok(Answer::ok(self.known(id)?.shown(id, now))),
            ("DELETE", [id]) => {
                self.known(id)?;
                self.claims.remove(*id);
                Ok(Answer::empty(204))
            }
            ("POST", [id, "reassert"]) => {
                let (token, assert_by) = (random_hex(16), now + TOKEN_LASTS);
                let claim = self.known(id)?;
                (claim.token, claim.assert_by) = (token, assert_by);
                Ok(Answer::ok(claim.assertion(id)))
            }
            ("GET", [id, "email"]) => {
                let domain = self.known(id)?.domain.clone();
                let addresses = ["admin", "administrator", "hostmaster", "postmaster", "webmaster"];
                let addresses = addresses.map(|name| format!("{name}@{domain}"));
                Ok(Answer::ok(json!({ "constructed": addresses, "DNS": { "SOA": { "emails": [] } } })))
            }
            ("POST", [id, how @ ("dns" | "http" | "email")]) => self.assert(id, how, call),
            _ => Err(Refusal::absent("resource")),
        }
    }

    fn known(&mut self, id: &str) -> Result<&mut Claim, Refusal> {
        self.claims.get_mut(id).ok_or_else(|| Refusal::absent("claim"))
    }

    fn claim(&mut self, domain: &str, call: &Call) -> Outcome {
        let domain = domain.trim_end_matches('.').to_ascii_lowercase();
        let label = |label: &str| !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        if !domain.contains('.') || !domain.split('.').all(label) {
            return Err(Refusal::unfit("not a domain"));
        }
        if self.claims.values().any(|claim| claim.domain == domain) {
            return Err(Refusal::new(409, "the domain is claimed already"));
        }
        let (now, id) = (self.clock.now(), random_hex(8).to_ascii_uppercase());
        let claim = Claim {
            domain,
            token: random_hex(16),
            created: now,
            assert_by: now + TOKEN_LASTS,
            verified_until: None,
            log: Vec::new(),
        };
        let body = claim.assertion(&id);
        self.claims.insert(id.clone(), claim);
        Ok(Answer::created(self.place(call, &format!("claims/domains/{id}")), Some(body)))
    }

    fn assert(&mut self, id: &str, how: &str, call: &Call) -> Outcome {
        let body = object(call)?;
        let now = self.clock.now();
        let claim = self.claims.get(id).ok_or_else(|| Refusal::absent("claim"))?;
        let field = if how == "email" { "email_address" } else { "authorization_domain" };
        let place = body[field].as_str().ok_or_else(|| Refusal::new(400, format!("{field}: required")))?;
        let place = place.trim_end_matches('.').to_ascii_lowercase();
        let domain = place.rsplit('@').next().unwrap_or(&place);
        if !is_below(&claim.domain, domain) || !domain.contains('.') {
            return Err(Refusal::unfit(format!("{field}: not at the claimed domain, nor at one above it")));
        }
        if how == "http" && !matches!(body["scheme"].as_str(), Some("http" | "https")) {
            return Err(Refusal::unfit("scheme: http or https"));
        }
        if claim.assert_by <= now {
            return Err(Refusal::unfit("the token has expired: assert the claim again"));
        }
        let proof = Proof { method: how.to_owned(), place, token: claim.token.clone() };
        let seen = match &self.witness {
            Some(witness) => (witness.0)(&proof),
            None => self.published.contains(&proof.token),
        };
        let claim = self.known(id)?;
        if seen {
            claim.verified_until = Some(now + CLAIM_LASTS);
            claim.log.push(("SUCCESS", "domain claim verified".to_owned(), now));
            return Ok(Answer::empty(204));
        }
        claim.log.push(("ERROR", format!("the token was not found ({how}: {})", proof.place), now));
        Ok(Answer::empty(201))
    }

    /// Takes a domain as claimed and verified.
    pub(super) fn verify(&mut self, domain: &str) {
        let now = self.clock.now();
        let claim = Claim {
            domain: domain.to_ascii_lowercase(),
            token: random_hex(16),
            created: now,
            assert_by: now + TOKEN_LASTS,
            verified_until: Some(now + CLAIM_LASTS),
            log: vec![("SUCCESS", "domain claim verified".to_owned(), now)],
        };
        self.claims.retain(|_, known| known.domain != claim.domain);
        self.claims.insert(random_hex(8).to_ascii_uppercase(), claim);
    }
}

fn is_below(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}
