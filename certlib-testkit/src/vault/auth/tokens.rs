//! Tokens, with their time to live.

use std::{collections::HashMap, time::Duration};

use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    super::{
        acl,
        answer::{Answer, Outcome, Refusal},
        call::{Call, Operation},
        random,
        state::{Caller, State},
    },
    Grant,
};

/// How long a token lasts that was asked for without a period.
const DEFAULT_TTL: Duration = Duration::from_secs(32 * 24 * 3_600);

/// All tokens, by their text.
pub(crate) struct Tokens(HashMap<String, Token>);

/// What is known of a token.
#[derive(Clone)]
pub(crate) struct Token {
    pub(in super::super) policies: Vec<String>,
    /// Where it was issued; it is good there and below.
    pub(in super::super) namespace: String,
    text: String,
    accessor: String,
    display_name: String,
    path: String,
    created: OffsetDateTime,
    ttl: Option<Duration>,
    expires: Option<OffsetDateTime>,
    expires_at_last: Option<OffsetDateTime>,
    uses: u32,
    renewable: bool,
}

impl Tokens {
    pub(in super::super) fn new(root: &str, now: OffsetDateTime) -> Self {
        let mut tokens = Self(HashMap::new());
        let grant = Grant {
            policies: vec![acl::ROOT.to_owned()],
            ttl: None,
            max_ttl: None,
            uses: 0,
            renewable: false,
            display_name: "root".to_owned(),
        };
        tokens.keep(root.to_owned(), grant, "", "auth/token/root", now);
        tokens
    }

    /// Makes a token out of a grant.
    pub(in super::super) fn issue(
        &mut self,
        grant: Grant,
        namespace: &str,
        path: &str,
        now: OffsetDateTime,
    ) -> (String, Token) {
        let text = format!("hvs.{}", random::hex::<14>());
        let token = self.keep(text.clone(), grant, namespace, path, now);
        (text, token)
    }

    fn keep(&mut self, text: String, grant: Grant, namespace: &str, path: &str, now: OffsetDateTime) -> Token {
        let token = Token {
            policies: grant.policies,
            namespace: namespace.to_owned(),
            text: text.clone(),
            accessor: random::hex::<12>(),
            display_name: grant.display_name,
            path: path.to_owned(),
            created: now,
            ttl: grant.ttl,
            expires: grant.ttl.map(|ttl| now + ttl),
            expires_at_last: grant.max_ttl.map(|ttl| now + ttl),
            uses: grant.uses,
            renewable: grant.renewable,
        };
        self.0.insert(text, token.clone());
        token
    }

    /// The token, if it is good now. One that may be used a certain number of times is used.
    pub(in super::super) fn use_once(&mut self, text: &str, now: OffsetDateTime) -> Result<Token, Refusal> {
        let invalid = || Refusal::new(403, "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n");
        let token = self.0.get_mut(text).ok_or_else(invalid)?;
        if token.expires.is_some_and(|expires| expires <= now) {
            self.0.remove(text);
            return Err(invalid());
        }
        let seen = token.clone();
        match token.uses {
            0 => {}
            1 => drop(self.0.remove(text)),
            _ => token.uses -= 1,
        }
        Ok(seen)
    }

    /// Ends every token but those that last for ever.
    pub(in super::super) fn expire(&mut self) {
        self.0.retain(|_, token| token.expires.is_none());
    }

    fn find(&self, text: &str, now: OffsetDateTime) -> Option<&Token> {
        self.0.get(text).filter(|token| token.expires.is_none_or(|expires| expires > now))
    }

    fn renew(&mut self, text: &str, increment: Option<Duration>, now: OffsetDateTime) -> Result<Value, Refusal> {
        let token = self.0.get_mut(text).ok_or_else(|| Refusal::new(403, "bad token"))?;
        if !token.renewable {
            return Err(Refusal::invalid("lease is not renewable"));
        }
        let wanted = now + increment.or(token.ttl).unwrap_or(DEFAULT_TTL);
        token.expires = Some(token.expires_at_last.map_or(wanted, |last| wanted.min(last)));
        Ok(token.auth(text, now))
    }
}

impl Token {
    fn left(&self, now: OffsetDateTime) -> i64 {
        self.expires.map_or(0, |expires| (expires - now).whole_seconds().max(0))
    }

    /// The `auth` of an answer that hands it out.
    pub(in super::super) fn auth(&self, text: &str, now: OffsetDateTime) -> Value {
        json!({
            "client_token": text,
            "accessor": self.accessor,
            "policies": self.policies,
            "token_policies": self.policies,
            "metadata": {},
            "lease_duration": self.left(now),
            "renewable": self.renewable,
            "entity_id": "",
            "token_type": "service",
            "orphan": true,
            "mfa_requirement": null,
            "num_uses": self.uses,
        })
    }

    fn describe(&self, now: OffsetDateTime) -> Value {
        let moment = |at: OffsetDateTime| at.format(&Rfc3339).map_or(Value::Null, Value::String);
        json!({
            "id": self.text,
            "accessor": self.accessor,
            "policies": self.policies,
            "display_name": self.display_name,
            "path": self.path,
            "creation_time": self.created.unix_timestamp(),
            "creation_ttl": self.ttl.map_or(0, |ttl| ttl.as_secs()),
            "issue_time": moment(self.created),
            "expire_time": self.expires.map_or(Value::Null, moment),
            "explicit_max_ttl": 0,
            "ttl": self.left(now),
            "renewable": self.renewable,
            "num_uses": self.uses,
            "orphan": true,
            "meta": null,
            "type": "service",
            "namespace_path": self.namespace,
        })
    }
}

/// What follows `auth/token/`.
pub(in super::super) fn handle(state: &mut State, caller: &Caller, call: &Call) -> Outcome {
    let now = caller.now;
    let own = caller.token.text.clone();
    match (call.operation, call.path.as_str()) {
        (Operation::Update, "create" | "create-orphan") => create(state, caller, call),
        (Operation::Read | Operation::Update, "lookup-self") => Ok(Answer::data(caller.token.describe(now))),
        (Operation::Update, "lookup") => {
            let token = state.tokens.find(call.body.text("token")?, now);
            token.map(|token| Answer::data(token.describe(now))).ok_or_else(|| Refusal::new(403, "bad token"))
        }
        (Operation::Update, "renew-self") => {
            state.tokens.renew(&own, call.body.period("increment")?, now).map(Answer::auth)
        }
        (Operation::Update, "renew") => {
            state.tokens.renew(call.body.text("token")?, call.body.period("increment")?, now).map(Answer::auth)
        }
        (Operation::Update, "revoke-self") => {
            state.tokens.0.remove(&own);
            Ok(Answer::nothing())
        }
        (Operation::Update, "revoke") => {
            state.tokens.0.remove(call.body.text("token")?);
            Ok(Answer::nothing())
        }
        (Operation::Update, "revoke-accessor") => {
            let accessor = call.body.text("accessor")?.to_owned();
            state.tokens.0.retain(|_, token| token.accessor != accessor);
            Ok(Answer::nothing())
        }
        _ => Err(Refusal::unsupported_path()),
    }
}

fn create(state: &mut State, caller: &Caller, call: &Call) -> Outcome {
    let root = caller.token.policies.iter().any(|policy| policy == acl::ROOT);
    let mut policies = call.body.texts("policies")?.unwrap_or_else(|| caller.token.policies.clone());
    if !root && policies.iter().any(|policy| !caller.token.policies.contains(policy)) {
        return Err(Refusal::invalid("child policies must be subset of parent"));
    }
    let all_powerful = policies.iter().any(|policy| policy == acl::ROOT);
    let without_default = call.body.flag("no_default_policy")? == Some(true);
    if !all_powerful && !without_default && !policies.iter().any(|policy| policy == acl::DEFAULT) {
        policies.push(acl::DEFAULT.to_owned());
    }
    let period = call.body.period("period")?;
    let asked = period.or(call.body.period("ttl")?);
    let grant = Grant {
        policies,
        ttl: if all_powerful { asked } else { asked.or(Some(DEFAULT_TTL)) },
        max_ttl: call.body.period("explicit_max_ttl")?.filter(|ttl| !ttl.is_zero()),
        uses: u32::try_from(call.body.number("num_uses")?.unwrap_or(0)).unwrap_or(0),
        renewable: call.body.flag("renewable")?.unwrap_or(true) && !(all_powerful && asked.is_none()),
        display_name: format!("token-{}", call.body.text("display_name")?).trim_end_matches('-').to_owned(),
    };
    let (text, token) = state.tokens.issue(grant, &caller.namespace, "auth/token/create", caller.now);
    Ok(Answer::auth(token.auth(&text, caller.now)))
}
