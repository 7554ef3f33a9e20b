//! `sys/`: the state of the node, mounts, policies and namespaces.

use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::{
    acl::Policy,
    answer::{Answer, Outcome, Refusal},
    auth,
    call::{Call, Operation},
    engines,
    state::{Caller, Mount, Namespace, State, longest, namespace_key},
};

/// The version that the simulator says it is: the API of this one is what it follows.
const VERSION: &str = "1.17.0";

/// What is answered without a token, and by a sealed node; `None` for everything else.
pub(super) fn open_to_all(state: &mut State, call: &Call) -> Option<Outcome> {
    Some(match (call.operation, call.path.as_str()) {
        (Operation::Read, "sys/health") => Ok(health(state.sealed, false)),
        (Operation::Read, "sys/seal-status") => Ok(seal_status(state.sealed)),
        (Operation::Read, "sys/init") => Ok(Answer::bare(200, json!({ "initialized": true }))),
        (Operation::Read, "sys/leader") => Ok(Answer::bare(
            200,
            json!({ "ha_enabled": true, "is_self": true, "leader_address": "", "performance_standby": false }),
        )),
        (Operation::Update, "sys/unseal") => {
            let reset = call.body.flag("reset").ok().flatten() == Some(true);
            match call.body.text("key") {
                Ok(key) if key == state.unseal_key => state.sealed = false,
                Ok(_) if reset => {}
                _ => return Some(Err(Refusal::invalid("'key' must be a valid hex or base64 string"))),
            }
            Ok(seal_status(state.sealed))
        }
        _ => return None,
    })
}

/// How the node is.
pub(super) fn health(sealed: bool, standby: bool) -> Answer {
    let body = json!({
        "initialized": true,
        "sealed": sealed,
        "standby": standby,
        "performance_standby": false,
        "replication_performance_mode": "disabled",
        "replication_dr_mode": "disabled",
        "server_time_utc": OffsetDateTime::now_utc().unix_timestamp(),
        "version": VERSION,
        "cluster_name": "simulated",
    });
    Answer::bare(if sealed { 503 } else { 200 }, body)
}

fn seal_status(sealed: bool) -> Answer {
    let body = json!({
        "type": "shamir",
        "initialized": true,
        "sealed": sealed,
        "t": 1,
        "n": 1,
        "progress": 0,
        "nonce": "",
        "version": VERSION,
        "migration": false,
        "recovery_seal": false,
        "storage_type": "inmem",
    });
    Answer::bare(200, body)
}

/// What needs a token; the path is what follows `sys/`.
pub(super) fn handle(state: &mut State, caller: &Caller, call: &Call) -> Outcome {
    match (call.operation, call.segments().as_slice()) {
        (Operation::Update, ["seal"]) => {
            state.sealed = true;
            Ok(Answer::nothing())
        }
        (Operation::Update, ["capabilities-self"]) => Ok(capabilities(state, caller, call)?),
        (_, ["mounts", ..] | ["internal", "ui", "mounts", ..]) => mounts(state, caller, call),
        (_, ["auth", ..]) => logins(state, caller, call),
        (_, ["policies", "acl", ..] | ["policy", ..]) => policies(state, caller, call),
        (_, ["namespaces", ..]) => namespaces(state, caller, call),
        _ => Err(Refusal::unsupported_path()),
    }
}

fn here<'a>(state: &'a mut State, caller: &Caller) -> Result<&'a mut Namespace, Refusal> {
    state.namespaces.get_mut(&caller.namespace).ok_or_else(Refusal::absent)
}

fn capabilities(state: &State, caller: &Caller, call: &Call) -> Outcome {
    let paths = call.body.texts("paths")?.or(call.body.texts("path")?).unwrap_or_default();
    let mut all = Map::new();
    for path in &paths {
        let mut names = state.capabilities(&caller.token, &caller.namespace, path.trim_matches('/'));
        if names.is_empty() {
            names.insert("deny".to_owned());
        }
        all.insert(path.clone(), json!(names));
    }
    if let [path] = paths.as_slice() {
        let only = all[path].clone();
        all.insert("capabilities".to_owned(), only);
    }
    Ok(Answer::spread(all))
}

fn mounts(state: &mut State, caller: &Caller, call: &Call) -> Outcome {
    let namespace = here(state, caller)?;
    if let Some(path) = call.path.strip_prefix("internal/ui/mounts/") {
        // Any path below a mount will do.
        let (path, _) = longest(&namespace.mounts, path).ok_or_else(Refusal::denied)?;
        let mut found = namespace.mounts.get(&path).map(describe).ok_or_else(Refusal::denied)?;
        found["path"] = json!(path);
        return Ok(Answer::data(found));
    }
    let path = call.path.strip_prefix("mounts").unwrap_or_default().trim_matches('/');
    match (call.operation, path) {
        (Operation::Read, "") => {
            Ok(Answer::spread(namespace.mounts.iter().map(|(path, mount)| (path.clone(), describe(mount))).collect()))
        }
        (Operation::Read, path) => match namespace.mounts.get(&with_slash(path)) {
            Some(mount) => Ok(Answer::data(describe(mount))),
            None => Err(Refusal::invalid("No secret engine mount at ".to_owned() + &with_slash(path))),
        },
        (Operation::Update, path) if !path.is_empty() => {
            let key = with_slash(path);
            if let Some(taken) =
                namespace.mounts.keys().find(|taken| taken.starts_with(&key) || key.starts_with(*taken))
            {
                return Err(Refusal::invalid(format!("path is already in use at {taken}")));
            }
            let kind = call.body.text("type")?;
            let options = call.body.object("options")?;
            let engine = engines::make(kind, options).ok_or_else(|| {
                Refusal::invalid(format!("plugin not found in the catalog: {kind} (the simulator does not have it)"))
            })?;
            namespace.mounts.insert(key, Mount::new(engine, call.body.text("description")?));
            Ok(Answer::nothing())
        }
        (Operation::Delete, path) if !path.is_empty() => {
            namespace.mounts.remove(&with_slash(path));
            Ok(Answer::nothing())
        }
        _ => Err(Refusal::unsupported_operation()),
    }
}

fn describe(mount: &Mount) -> Value {
    json!({
        "type": mount.engine.kind(),
        "description": mount.description,
        "accessor": mount.accessor,
        "uuid": mount.uuid,
        "config": { "default_lease_ttl": 0, "max_lease_ttl": 0, "force_no_cache": false },
        "options": mount.engine.options(),
        "local": false,
        "seal_wrap": false,
        "external_entropy_access": false,
    })
}

fn logins(state: &mut State, caller: &Caller, call: &Call) -> Outcome {
    let namespace = state.namespaces.get_mut(&caller.namespace).ok_or_else(Refusal::absent)?;
    let path = call.path.strip_prefix("auth").unwrap_or_default().trim_matches('/');
    match (call.operation, path) {
        (Operation::Read, "") => {
            let one = |kind: &str| json!({ "type": kind, "description": "", "local": false, "seal_wrap": false });
            let mut all = Map::from_iter([("token/".to_owned(), one("token"))]);
            all.extend(namespace.logins.iter().map(|(path, login)| (path.clone(), one(login.kind()))));
            Ok(Answer::spread(all))
        }
        (Operation::Update, path) if !path.is_empty() => {
            let key = with_slash(path);
            if namespace.logins.contains_key(&key) || key == "token/" {
                return Err(Refusal::invalid(format!("path is already in use at {key}")));
            }
            let kind = call.body.text("type")?;
            let login = auth::make(kind, &state.identity).ok_or_else(|| {
                Refusal::invalid(format!("plugin not found in the catalog: {kind} (the simulator does not have it)"))
            })?;
            namespace.logins.insert(key, login);
            Ok(Answer::nothing())
        }
        (Operation::Delete, path) if !path.is_empty() => {
            namespace.logins.remove(&with_slash(path));
            Ok(Answer::nothing())
        }
        _ => Err(Refusal::unsupported_operation()),
    }
}

fn policies(state: &mut State, caller: &Caller, call: &Call) -> Outcome {
    let policies = &mut here(state, caller)?.policies;
    let name = call.path.strip_prefix("policies/acl").or_else(|| call.path.strip_prefix("policy"));
    match (call.operation, name.unwrap_or_default().trim_matches('/')) {
        (Operation::Read | Operation::List, "") => {
            let mut names: Vec<_> = policies.keys().cloned().collect();
            names.push(super::acl::ROOT.to_owned());
            Ok(Answer::spread(Map::from_iter([
                ("keys".to_owned(), json!(names)),
                ("policies".to_owned(), json!(names)),
            ])))
        }
        (Operation::Read, name) => {
            let policy = policies.get(name).ok_or_else(Refusal::absent)?;
            let text = policy.to_json();
            Ok(Answer::data(json!({ "name": name, "policy": text, "rules": text })))
        }
        (Operation::Update, name) if !name.is_empty() && name != super::acl::ROOT => {
            let text = call.body.text("policy")?;
            policies.insert(name.to_owned(), Policy::parse(text)?);
            Ok(Answer::nothing())
        }
        (Operation::Delete, name) if !name.is_empty() => {
            policies.remove(name);
            Ok(Answer::nothing())
        }
        _ => Err(Refusal::unsupported_operation()),
    }
}

fn namespaces(state: &mut State, caller: &Caller, call: &Call) -> Outcome {
    let name = call.path.strip_prefix("namespaces").unwrap_or_default().trim_matches('/');
    let key = format!("{}{}", caller.namespace, namespace_key(name));
    match (call.operation, name) {
        (Operation::List, "") => {
            let below = state.namespaces.keys().filter_map(|key| key.strip_prefix(&caller.namespace));
            let direct: Vec<_> = below.filter(|key| key.matches('/').count() == 1).collect();
            if direct.is_empty() { Err(Refusal::absent()) } else { Ok(Answer::data(json!({ "keys": direct }))) }
        }
        (Operation::Update, name) if !name.is_empty() && !name.contains('/') => {
            state.namespaces.entry(key.clone()).or_insert_with(Namespace::new);
            Ok(Answer::data(json!({ "id": name, "path": key })))
        }
        (Operation::Delete, name) if !name.is_empty() => {
            state.namespaces.remove(&key);
            Ok(Answer::nothing())
        }
        _ => Err(Refusal::unsupported_operation()),
    }
}

fn with_slash(path: &str) -> String {
    format!("{}/", path.trim_matches('/'))
}
