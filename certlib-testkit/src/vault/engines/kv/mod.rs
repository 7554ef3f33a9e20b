//! Key-value engines: the first version, which keeps one state of a secret, and the second, which keeps several.

mod second;
mod secret;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use time::OffsetDateTime;

pub(super) use self::second::KvV2;
use super::{
    super::{
        answer::{Answer, Outcome, Refusal},
        call::{Call, Operation},
    },
    Engine, Settings,
};

/// How long clients are told that they may keep a secret of the first version, in seconds.
const REFRESH: u64 = 32 * 24 * 3_600;

/// The first version. Check-and-set is not known there: a field `options` is a field like any other.
#[derive(Default)]
pub(super) struct KvV1 {
    secrets: BTreeMap<String, Map<String, Value>>,
}

impl Engine for KvV1 {
    fn kind(&self) -> &'static str {
        "kv"
    }

    fn options(&self) -> Value {
        json!({ "version": "1" })
    }

    fn exists(&self, path: &str) -> Option<bool> {
        Some(self.secrets.contains_key(path))
    }

    fn handle(&mut self, call: &Call, _settings: &Settings, _now: OffsetDateTime) -> Outcome {
        match call.operation {
            Operation::Read => {
                let secret = self.secrets.get(&call.path).ok_or_else(Refusal::absent)?;
                let mut answer = Answer::data(Value::Object(secret.clone()));
                if let Some(body) = &mut answer.body {
                    body["lease_duration"] = json!(REFRESH);
                }
                Ok(answer)
            }
            Operation::Update if call.body.fields().is_empty() => Err(Refusal::invalid("missing data fields")),
            Operation::Update => {
                self.secrets.insert(call.path.clone(), call.body.fields().clone());
                Ok(Answer::nothing())
            }
            Operation::Delete => {
                self.secrets.remove(&call.path);
                Ok(Answer::nothing())
            }
            Operation::List => list(self.secrets.keys(), &call.path),
            Operation::Patch => Err(Refusal::unsupported_operation()),
        }
    }
}

/// What is directly below `folder`; deeper folders end in a slash.
fn list<'a>(paths: impl Iterator<Item = &'a String>, folder: &str) -> Outcome {
    let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    let below = paths.filter_map(|path| path.strip_prefix(&prefix));
    let names: BTreeSet<&str> =
        below.map(|below| below.split_once('/').map_or(below, |(folder, _)| &below[..=folder.len()])).collect();
    if names.is_empty() { Err(Refusal::absent()) } else { Ok(Answer::data(json!({ "keys": names }))) }
}
