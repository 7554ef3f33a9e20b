//! The second version: several versions of each secret, check-and-set, and metadata.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::{
    super::{
        super::{
            answer::{Answer, Outcome, Refusal},
            call::{Body, Call, Operation},
        },
        Engine, Settings,
    },
    list,
    secret::{Limits, Secret},
};

/// What Vault says to who uses the paths of the first version.
const INVALID_PATH: &str = "Invalid path for a versioned K/V secrets engine. See the API docs for the appropriate API \
                            endpoints to use. If using the Vault CLI, use 'vault kv put' for this operation.";

/// The second version.
#[derive(Default)]
pub(in super::super) struct KvV2 {
    secrets: BTreeMap<String, Secret>,
    limits: Limits,
}

impl Engine for KvV2 {
    fn kind(&self) -> &'static str {
        "kv"
    }

    fn options(&self) -> Value {
        json!({ "version": "2" })
    }

    fn exists(&self, path: &str) -> Option<bool> {
        let (kind, path) = path.split_once('/')?;
        matches!(kind, "data" | "metadata").then(|| self.secrets.contains_key(path))
    }

    fn handle(&mut self, call: &Call, _settings: &Settings, now: OffsetDateTime) -> Outcome {
        use Operation::{Delete, List, Patch, Read, Update};
        let (kind, path) = call.path.split_once('/').unwrap_or((&call.path, ""));
        match (call.operation, kind, path) {
            (Read, "config", "") => Ok(Answer::data(self.limits.describe().into())),
            (Update, "config", "") => self.limits.update(&call.body).map(|()| Answer::nothing()),
            (List, "metadata", path) => list(self.secrets.keys(), path),
            (_, _, "") => Ok(invalid_path()),
            (Read, "data", path) => self.read(path, &call.body, now, Clone::clone),
            (Read, "subkeys", path) => {
                self.read(path, &call.body, now, |data| data.keys().map(|name| (name.clone(), Value::Null)).collect())
            }
            (Update, "data", path) => self.write(path, &call.body, now),
            (Patch, "data", path) => self.patch(path, &call.body, now),
            (Delete, "data", path) => {
                let latest = self.secrets.get(path).map(|secret| secret.current);
                self.each(path, latest.into_iter().collect(), |secret, number| delete(secret, number, now))
            }
            (Update, "delete", path) => {
                self.each(path, versions(&call.body)?, |secret, number| delete(secret, number, now))
            }
            (Update, "undelete", path) => self.each(path, versions(&call.body)?, |secret, number| {
                if let Some(version) = secret.versions.get_mut(&number).filter(|version| !version.destroyed) {
                    version.deletion = None;
                }
            }),
            (Update, "destroy", path) => self.each(path, versions(&call.body)?, |secret, number| {
                if let Some(version) = secret.versions.get_mut(&number) {
                    (version.data, version.destroyed) = (Map::new(), true);
                }
            }),
            (Read, "metadata", path) => {
                let secret = self.secrets.get(path).ok_or_else(Refusal::absent)?;
                Ok(Answer::data(secret.metadata().into()))
            }
            (Update, "metadata", path) => {
                let custom = call.body.object("custom_metadata")?.cloned();
                let secret = self.secrets.entry(path.to_owned()).or_insert_with(|| Secret::new(now));
                secret.limits.update(&call.body)?;
                custom.map_or(Ok(()), |custom| secret.describe_as(custom, now)).map(|()| Answer::nothing())
            }
            (Patch, "metadata", path) => {
                let secret = self.secrets.get_mut(path).ok_or_else(Refusal::absent)?;
                secret.limits.update(&call.body)?;
                let mut custom = secret.custom.clone();
                merge(&mut custom, call.body.object("custom_metadata")?.cloned().unwrap_or_default());
                secret.describe_as(custom, now).map(|()| Answer::nothing())
            }
            (Delete, "metadata", path) => {
                self.secrets.remove(path);
                Ok(Answer::nothing())
            }
            (_, "data" | "delete" | "undelete" | "destroy" | "subkeys" | "config", _) => {
                Err(Refusal::unsupported_operation())
            }
            _ => Ok(invalid_path()),
        }
    }
}

impl KvV2 {
    /// A version, the latest by default. One that is deleted is `404` with its metadata.
    fn read(
        &self,
        path: &str,
        body: &Body,
        now: OffsetDateTime,
        shown: impl Fn(&Map<String, Value>) -> Map<String, Value>,
    ) -> Outcome {
        let secret = self.secrets.get(path).ok_or_else(Refusal::absent)?;
        let number = match body.number("version")? {
            Some(number) if number > 0 => number.unsigned_abs(),
            _ => secret.current,
        };
        let (Some(version), Some(about)) = (secret.versions.get(&number), secret.about(number)) else {
            return Err(Refusal::absent());
        };
        Ok(if version.is_there(now) {
            Answer::data(json!({ "data": shown(&version.data), "metadata": about }))
        } else {
            Answer::data(json!({ "data": null, "metadata": about })).status(404)
        })
    }

    fn write(&mut self, path: &str, body: &Body, now: OffsetDateTime) -> Outcome {
        let data = body.object("data")?.ok_or_else(|| Refusal::invalid("no data provided"))?.clone();
        match self.secrets.get(path) {
            Some(secret) => secret.check(body, &self.limits)?,
            None => Secret::new(now).check(body, &self.limits)?,
        }
        let secret = self.secrets.entry(path.to_owned()).or_insert_with(|| Secret::new(now));
        secret.add(data, &self.limits, now);
        Ok(Answer::data(secret.about(secret.current).unwrap_or_default()))
    }

    fn patch(&mut self, path: &str, body: &Body, now: OffsetDateTime) -> Outcome {
        let changes = body.object("data")?.ok_or_else(|| Refusal::invalid("no data provided"))?.clone();
        let secret = self.secrets.get_mut(path).ok_or_else(Refusal::absent)?;
        let latest = secret.versions.get(&secret.current).filter(|version| version.is_there(now)).cloned();
        let Some(latest) = latest else {
            let about = secret.about(secret.current).ok_or_else(Refusal::absent)?;
            return Ok(Answer::data(json!({ "data": null, "metadata": about })).status(404));
        };
        secret.check(body, &self.limits)?;
        let mut data = latest.data;
        merge(&mut data, changes);
        secret.add(data, &self.limits, now);
        Ok(Answer::data(secret.about(secret.current).unwrap_or_default()))
    }

    fn each(&mut self, path: &str, numbers: Vec<u64>, change: impl Fn(&mut Secret, u64)) -> Outcome {
        if let Some(secret) = self.secrets.get_mut(path) {
            numbers.into_iter().for_each(|number| change(secret, number));
        }
        Ok(Answer::nothing())
    }
}

fn delete(secret: &mut Secret, number: u64, now: OffsetDateTime) {
    if let Some(version) = secret.versions.get_mut(&number).filter(|version| version.is_there(now)) {
        version.deletion = Some(now);
    }
}

/// A merge patch: `null` removes, everything else replaces. Deeper objects are replaced as a whole.
fn merge(into: &mut Map<String, Value>, changes: Map<String, Value>) {
    for (name, value) in changes {
        match value {
            Value::Null => drop(into.remove(&name)),
            value => drop(into.insert(name, value)),
        }
    }
}

fn versions(body: &Body) -> Result<Vec<u64>, Refusal> {
    let numbers = match body.get("versions") {
        Some(Value::Array(numbers)) => numbers.clone(),
        Some(value) => vec![value.clone()],
        None => Vec::new(),
    };
    let number = |value: &Value| value.as_u64().or_else(|| value.as_str()?.parse().ok());
    let numbers: Option<Vec<u64>> = numbers.iter().map(number).collect();
    let none = || Refusal::invalid("No version number provided");
    numbers.filter(|numbers| !numbers.is_empty()).ok_or_else(none)
}

fn invalid_path() -> Answer {
    Answer::data(Value::Null).warn(&[INVALID_PATH.to_owned()]).status(404)
}
