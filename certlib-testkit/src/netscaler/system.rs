//! Logging in and out, partitions, high availability, and saving.

use std::time::Duration;

use http::{HeaderMap, Method};
use serde_json::json;

use super::{
    nitro::{Answer, Call, Outcome, Refusal, code, decode},
    state::{Caller, Session, State},
};

/// How long a session may be idle, if nothing else was asked for.
const TIMEOUT: Duration = Duration::from_secs(1800);

/// `login`: a session.
pub(super) fn log_in(state: &mut State, node: usize, call: &Call) -> Outcome {
    let (user, password) = (call.required("username")?, call.required("password")?);
    if state.users.get(user).is_none_or(|known| known != password) {
        return Err(bad_login());
    }
    let timeout = call.fields.get("timeout").and_then(serde_json::Value::as_u64);
    state.logins += 1;
    let random = (0..4).map(|_| format!("{:016X}", rand::random::<u64>())).collect::<String>();
    let id = format!("##{random}");
    let timeout = timeout.map_or(TIMEOUT, Duration::from_secs);
    let session = Session { node, partition: String::new(), timeout, used: state.now };
    state.sessions.insert(id.clone(), session);
    let mut answer = Answer::created().with("sessionid", json!(id));
    answer.headers.push(("set-cookie", format!("NITRO_AUTH_TOKEN={};path=/nitro/v1", id.replace('#', "%23"))));
    Ok(answer)
}

fn bad_login() -> Refusal {
    Refusal::new(401, code::BAD_LOGIN, "Invalid username or password")
}

/// Who sent a request: a session by its cookie, or a user by two headers.
pub(super) fn authenticate(state: &mut State, node: usize, headers: &HeaderMap) -> Result<Caller, Refusal> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let (Some(user), Some(password)) = (text("x-nitro-user"), text("x-nitro-pass")) {
        if state.users.get(user).is_none_or(|known| known != password) {
            return Err(bad_login());
        }
        return Ok(Caller { node, partition: String::new(), session: None });
    }
    let cookies = text("cookie").unwrap_or_default().split(';');
    let token =
        cookies.filter_map(|cookie| cookie.trim().split_once('=')).find(|(name, _)| *name == "NITRO_AUTH_TOKEN");
    let Some((_, token)) = token else {
        return Err(Refusal::new(401, code::NOT_LOGGED_IN, "Not logged in or connection timed out"));
    };
    let (id, now) = (decode(token), state.now);
    let Some(session) = state.sessions.get_mut(&id).filter(|session| session.node == node) else {
        return Err(expired());
    };
    if now.saturating_sub(session.used) > session.timeout {
        state.sessions.remove(&id);
        return Err(expired());
    }
    session.used = now;
    Ok(Caller { node, partition: session.partition.clone(), session: Some(id) })
}

fn expired() -> Refusal {
    Refusal::new(401, code::SESSION_EXPIRED, "Session expired or killed. Please login again")
}

pub(super) fn log_out(state: &mut State, caller: &Caller) -> Outcome {
    if let Some(session) = &caller.session {
        state.sessions.remove(session);
    }
    Ok(Answer::created())
}

/// `nsconfig`: whether there is something to save, and saving it.
pub(super) fn config(state: &mut State, caller: &Caller, call: &Call) -> Outcome {
    match (call.method.clone(), call.action().as_deref()) {
        (Method::GET, None) => {
            let changed = state.partition(&caller.partition).changed;
            let address = format!("127.0.0.{}", caller.node + 1);
            Ok(Answer::ok().with("nsconfig", json!({ "ipaddress": address, "configchanged": changed })))
        }
        (Method::POST, Some("save")) => {
            let partition = state.partition_mut(&caller.partition);
            partition.changed = false;
            partition.saves += 1;
            let saved = partition.clone();
            state.saved.insert(caller.partition.clone(), saved);
            Ok(Answer::ok())
        }
        _ => Err(Refusal::invalid("action")),
    }
}

/// `nspartition`: which there are, and going to one.
pub(super) fn partition(state: &mut State, caller: &Caller, call: &Call) -> Outcome {
    match (call.method.clone(), call.action().as_deref()) {
        (Method::GET, None) => {
            let names = state.partitions.keys().filter(|name| !name.is_empty());
            let items = names.map(|name| json!({ "partitionname": name })).collect();
            Ok(Answer::list(call, "nspartition", items))
        }
        (Method::POST, Some("switch")) => {
            let name = call.required("partitionname")?;
            if !state.partitions.contains_key(name) {
                return Err(Refusal::absent("partitionname", name));
            }
            // Without a session there is nothing that could stay there.
            if let Some(session) = caller.session.as_ref().and_then(|id| state.sessions.get_mut(id)) {
                name.clone_into(&mut session.partition);
            }
            Ok(Answer::ok())
        }
        _ => Err(Refusal::invalid("action")),
    }
}

/// `hanode`: this node first, then its peer.
pub(super) fn nodes(state: &State, caller: &Caller, call: &Call) -> Answer {
    let order = std::iter::once(caller.node).chain((0..state.nodes).filter(|node| *node != caller.node));
    let items = order.enumerate().map(|(id, node)| {
        json!({
            "id": id.to_string(),
            "name": format!("ns{node}"),
            "ipaddress": format!("127.0.0.{}", node + 1),
            "hastatus": "UP",
            "hasync": "ENABLED",
            "state": if node == state.primary { "Primary" } else { "Secondary" },
        })
    });
    Answer::list(call, "hanode", items.collect())
}

pub(super) fn version(state: &State) -> Answer {
    let version =
        if state.older_build { "NetScaler NS12.0: Build 63.21.nc" } else { "NetScaler NS14.1: Build 29.63.nc" };
    Answer::ok().with("nsversion", json!({ "version": version, "mode": "1" }))
}
