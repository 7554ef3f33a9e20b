//! Who is asking: `shared/authn/login`, tokens, and HTTP Basic.

use std::{collections::BTreeMap, time::Duration};

use aws_lc_rs::rand;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{
    answer::{Outcome, Refusal},
    call::{Call, field},
};

/// How long a token lives, in seconds, unless it is extended.
const TIMEOUT: u64 = 1_200;
/// The longest that it can be extended to.
const LONGEST: u64 = 36_000;
/// How many a user may have at the same time; `admin` may have any number.
const MOST: usize = 100;

/// What a user of a simulated BIG-IP may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    /// Everything.
    Administrator,
    /// Everything but the commands of `tm/util`.
    ResourceAdministrator,
    /// Look.
    Guest,
}

impl Role {
    fn may(self, method: &str, path: &str) -> bool {
        match self {
            Self::Administrator => true,
            Self::ResourceAdministrator => !path.starts_with("tm/util/"),
            Self::Guest => method == "GET" || path.starts_with("shared/authz/tokens/"),
        }
    }
}

/// Somebody who can log in.
#[derive(Clone, Debug)]
pub(super) struct User {
    pub(super) password: String,
    pub(super) provider: String,
    pub(super) role: Role,
}

#[derive(Clone, Debug)]
struct Token {
    user: String,
    role: Role,
    /// By the simulator's own clock.
    ends: Duration,
    timeout: u64,
}

/// Users and their tokens.
#[derive(Debug, Default)]
pub(super) struct Logins {
    pub(super) users: BTreeMap<String, User>,
    pub(super) without_basic: bool,
    tokens: BTreeMap<String, Token>,
}

/// Who has been let in.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) user: String,
    role: Role,
}

impl Session {
    /// The simulator's operator.
    pub(super) fn operator() -> Self {
        Self { user: "operator".to_owned(), role: Role::Administrator }
    }

    pub(super) fn check(&self, call: &Call) -> Result<(), Refusal> {
        if self.role.may(&call.method, &call.path) {
            return Ok(());
        }
        Err(Refusal::denied(&self.user, &call.method, &call.path))
    }
}

impl Logins {
    /// Lets a call in by its token or, where that is allowed, by user name and password.
    pub(super) fn admit(&mut self, call: &Call, now: Duration) -> Result<Session, Refusal> {
        self.tokens.retain(|_, token| token.ends > now);
        if let Some(text) = &call.token {
            let token = self.tokens.get(text).ok_or_else(|| {
                // The real message repeats the token.
                Refusal::new(401, "X-F5-Auth-Token does not exist.")
            })?;
            return Ok(Session { user: token.user.clone(), role: token.role });
        }
        let (name, password) = call.basic.as_ref().filter(|_| !self.without_basic).ok_or_else(Refusal::unauthorized)?;
        match self.users.get(name) {
            Some(user) if user.password == *password && user.provider == "tmos" => {
                Ok(Session { user: name.clone(), role: user.role })
            }
            _ => Err(Refusal::unauthorized()),
        }
    }

    /// `POST shared/authn/login`.
    pub(super) fn login(&mut self, call: &Call, now: Duration, at: OffsetDateTime) -> Outcome {
        self.tokens.retain(|_, token| token.ends > now);
        let body = call.object()?;
        let name = field(&body, "username")?.unwrap_or_default();
        let password = field(&body, "password")?.unwrap_or_default();
        let provider = field(&body, "loginProviderName")?.unwrap_or("tmos");
        let user = self.users.get(name).filter(|user| user.password == password && user.provider == provider);
        let user = user.ok_or_else(|| Refusal::new(401, "Authentication failed."))?;
        let live = self.tokens.values().filter(|token| token.user == name).count();
        if name != "admin" && live >= MOST {
            return Err(Refusal::new(400, format!("user {name} has reached maximum active login tokens")));
        }
        let text = random()?;
        let token = Token {
            user: name.to_owned(),
            role: user.role,
            ends: now + Duration::from_secs(TIMEOUT),
            timeout: TIMEOUT,
        };
        let shown = show(&text, &token, now, at);
        self.tokens.insert(text, token);
        Ok(json!({
            "username": name,
            "loginReference": { "link": "https://localhost/mgmt/cm/system/authn/providers/tmos/1f44a60e/login" },
            "loginProviderName": provider,
            "token": shown,
            "generation": 0,
            "lastUpdateMicros": 0,
        }))
    }

    /// `shared/authz/tokens/{token}`: a user's own only.
    pub(super) fn token(
        &mut self,
        call: &Call,
        text: &str,
        session: &Session,
        now: Duration,
        at: OffsetDateTime,
    ) -> Outcome {
        let own = session.role == Role::Administrator;
        let token = self.tokens.get_mut(text).filter(|token| own || token.user == session.user);
        let token = token.ok_or_else(|| Refusal::new(404, "The requested token was not found."))?;
        match call.method.as_str() {
            "GET" => Ok(show(text, token, now, at)),
            "PATCH" => {
                let timeout = call.object()?.get("timeout").and_then(Value::as_u64);
                let timeout = timeout.ok_or_else(|| Refusal::invalid("a timeout is required"))?;
                if timeout > LONGEST {
                    let message = format!("Auth-token absolute timeout ({LONGEST} seconds) exceeded");
                    return Err(Refusal::new(406, message));
                }
                (token.timeout, token.ends) = (timeout, now + Duration::from_secs(timeout));
                Ok(show(text, token, now, at))
            }
            "DELETE" => {
                let shown = show(text, token, now, at);
                self.tokens.remove(text);
                Ok(shown)
            }
            _ => Err(Refusal::new(405, "method not allowed")),
        }
    }

    /// How many tokens can be used.
    pub(super) fn live(&self, now: Duration) -> usize {
        self.tokens.values().filter(|token| token.ends > now).count()
    }

    /// How long a token was made to live, for each that can be used, in seconds.
    pub(super) fn timeouts(&self, now: Duration) -> Vec<u64> {
        self.tokens.values().filter(|token| token.ends > now).map(|token| token.timeout).collect()
    }

    pub(super) fn end(&mut self, text: &str) {
        self.tokens.remove(text);
    }

    pub(super) fn end_all(&mut self) {
        self.tokens.clear();
    }
}

fn show(text: &str, token: &Token, now: Duration, at: OffsetDateTime) -> Value {
    let micros = |at: OffsetDateTime| at.unix_timestamp_nanos() / 1_000;
    let expires = at + token.ends.saturating_sub(now);
    json!({
        "token": text,
        "name": text,
        "userName": token.user,
        "authProviderName": "tmos",
        "user": { "link": format!("https://localhost/mgmt/shared/authz/users/{}", token.user) },
        "timeout": token.timeout,
        "startTime": at.to_string(),
        "address": "127.0.0.1",
        "partition": "[All]",
        "generation": 1,
        "lastUpdateMicros": i64::try_from(micros(at)).unwrap_or_default(),
        "expirationMicros": i64::try_from(micros(expires)).unwrap_or_default(),
        "kind": "shared:authz:tokens:authtokenitemstate",
        "selfLink": format!("https://localhost/mgmt/shared/authz/tokens/{text}"),
    })
}

/// 26 characters, as tokens have.
fn random() -> Result<String, Refusal> {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut bytes = [0; 26];
    rand::fill(&mut bytes).map_err(|_| Refusal::new(500, "no randomness"))?;
    Ok(bytes.iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect())
}
