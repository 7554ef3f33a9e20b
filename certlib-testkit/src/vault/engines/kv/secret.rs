//! A secret with its versions.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Map, Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::super::super::{answer::Refusal, call::Body};

/// How many versions are kept where nobody says how many.
const DEFAULT_MAX_VERSIONS: u64 = 10;

/// Limits of Vault for custom metadata: pairs, bytes of a name, bytes of a value.
const CUSTOM_LIMITS: (usize, usize, usize) = (64, 128, 512);

/// What an engine, and each secret for itself, can be told.
#[derive(Clone, Default)]
pub(super) struct Limits {
    pub(super) max_versions: u64,
    pub(super) cas_required: bool,
    pub(super) delete_after: Duration,
}

impl Limits {
    pub(super) fn update(&mut self, body: &Body) -> Result<(), Refusal> {
        let versions = body.number("max_versions")?;
        self.max_versions = versions.and_then(|number| u64::try_from(number).ok()).unwrap_or(self.max_versions);
        self.cas_required = body.flag("cas_required")?.unwrap_or(self.cas_required);
        self.delete_after = body.period("delete_version_after")?.unwrap_or(self.delete_after);
        Ok(())
    }

    pub(super) fn describe(&self) -> Map<String, Value> {
        Map::from_iter([
            ("max_versions".to_owned(), json!(self.max_versions)),
            ("cas_required".to_owned(), json!(self.cas_required)),
            ("delete_version_after".to_owned(), json!(format!("{}s", self.delete_after.as_secs()))),
        ])
    }
}

/// A secret: its versions, and what is said about it.
pub(super) struct Secret {
    pub(super) current: u64,
    oldest: u64,
    pub(super) versions: BTreeMap<u64, Version>,
    pub(super) limits: Limits,
    pub(super) custom: Map<String, Value>,
    created: OffsetDateTime,
    updated: OffsetDateTime,
}

/// One version of a secret.
#[derive(Clone)]
pub(super) struct Version {
    pub(super) data: Map<String, Value>,
    created: OffsetDateTime,
    pub(super) deletion: Option<OffsetDateTime>,
    pub(super) destroyed: bool,
}

impl Secret {
    pub(super) fn new(now: OffsetDateTime) -> Self {
        Self {
            current: 0,
            oldest: 0,
            versions: BTreeMap::new(),
            limits: Limits::default(),
            custom: Map::new(),
            created: now,
            updated: now,
        }
    }

    /// Whether the caller may write, by the version that it says is the current one.
    pub(super) fn check(&self, body: &Body, engine: &Limits) -> Result<(), Refusal> {
        let wanted = match body.object("options")?.and_then(|options| options.get("cas")) {
            None if engine.cas_required || self.limits.cas_required => {
                return Err(Refusal::invalid("check-and-set parameter required for this call"));
            }
            None => return Ok(()),
            Some(Value::Number(number)) => number.as_u64(),
            Some(Value::String(text)) => text.parse().ok(),
            Some(_) => None,
        };
        match wanted {
            None => Err(Refusal::invalid("error parsing check-and-set parameter")),
            Some(wanted) if wanted == self.current => Ok(()),
            Some(_) => Err(Refusal::invalid("check-and-set parameter did not match the current version")),
        }
    }

    /// Adds a version, and drops those that are too many.
    pub(super) fn add(&mut self, data: Map<String, Value>, engine: &Limits, now: OffsetDateTime) {
        let after = self.limits.delete_after.max(engine.delete_after);
        let deletion = (!after.is_zero()).then(|| now + after);
        self.current += 1;
        self.updated = now;
        self.versions.insert(self.current, Version { data, created: now, deletion, destroyed: false });
        let most = match self.limits.max_versions.max(engine.max_versions) {
            0 => DEFAULT_MAX_VERSIONS,
            most => most,
        };
        if self.current - self.oldest >= most {
            let last = self.current - most;
            self.versions.retain(|number, _| *number > last);
            self.oldest = last + 1;
        }
    }

    /// Replaces what is said about the secret.
    pub(super) fn describe_as(&mut self, custom: Map<String, Value>, now: OffsetDateTime) -> Result<(), Refusal> {
        let (pairs, name, value) = CUSTOM_LIMITS;
        let fits = |(key, said): (&String, &Value)| {
            (1..=name).contains(&key.len()) && said.as_str().is_some_and(|said| (1..=value).contains(&said.len()))
        };
        if custom.len() > pairs || !custom.iter().all(fits) {
            return Err(Refusal::invalid("1 error occurred:\n\t* custom_metadata validation failed\n\n"));
        }
        self.custom = custom;
        self.updated = now;
        Ok(())
    }

    pub(super) fn custom(&self) -> Value {
        if self.custom.is_empty() { Value::Null } else { Value::Object(self.custom.clone()) }
    }

    pub(super) fn metadata(&self) -> Map<String, Value> {
        let versions = self.versions.iter().map(|(number, version)| (number.to_string(), version.times()));
        let mut data = self.limits.describe();
        data.extend([
            ("current_version".to_owned(), json!(self.current)),
            ("oldest_version".to_owned(), json!(self.oldest)),
            ("created_time".to_owned(), moment(self.created)),
            ("updated_time".to_owned(), moment(self.updated)),
            ("custom_metadata".to_owned(), self.custom()),
            ("versions".to_owned(), Value::Object(versions.collect())),
        ]);
        data
    }

    /// The metadata of one version, as reading and writing data answer it.
    pub(super) fn about(&self, number: u64) -> Option<Value> {
        let mut about = self.versions.get(&number)?.times();
        about["version"] = json!(number);
        about["custom_metadata"] = self.custom();
        Some(about)
    }
}

impl Version {
    /// Whether it can be read.
    pub(super) fn is_there(&self, now: OffsetDateTime) -> bool {
        !self.destroyed && self.deletion.is_none_or(|at| now < at)
    }

    fn times(&self) -> Value {
        json!({
            "created_time": moment(self.created),
            "deletion_time": self.deletion.map_or_else(|| json!(""), moment),
            "destroyed": self.destroyed,
        })
    }
}

fn moment(at: OffsetDateTime) -> Value {
    at.format(&Rfc3339).map_or(Value::Null, Value::String)
}
