//! The transit engine: keys that encrypt for others and never leave.

mod items;
mod key;

use std::collections::BTreeMap;

use serde_json::json;
use time::OffsetDateTime;

use self::key::{Key, KeyType};
use super::{
    super::{
        answer::{Answer, Outcome, Refusal},
        call::{Body, Call, Operation},
    },
    Engine, Settings,
};

/// Fields that `encrypt` and `decrypt` know, for the warning about others.
const KNOWN: [&str; 11] = [
    "plaintext",
    "ciphertext",
    "context",
    "nonce",
    "type",
    "convergent_encryption",
    "key_version",
    "partial_failure_response_code",
    "associated_data",
    "batch_input",
    "reference",
];

/// A transit engine.
#[derive(Default)]
pub(super) struct Transit {
    keys: BTreeMap<String, Key>,
    disable_upsert: bool,
}

impl Engine for Transit {
    fn kind(&self) -> &'static str {
        "transit"
    }

    /// Encrypting under a key that is not there creates it, if the policy lets the token create.
    fn exists(&self, path: &str) -> Option<bool> {
        Some(self.keys.contains_key(path.strip_prefix("encrypt/")?))
    }

    fn handle(&mut self, call: &Call, settings: &Settings, now: OffsetDateTime) -> Outcome {
        use Operation::{Delete, List, Read, Update};
        match (call.operation, call.segments().as_slice()) {
            (List, ["keys"]) if self.keys.is_empty() => Err(Refusal::absent()),
            (List, ["keys"]) => Ok(Answer::data(json!({ "keys": self.keys.keys().collect::<Vec<_>>() }))),
            (Read, ["keys", name]) => {
                self.keys.get(*name).map(|key| Answer::data(key.describe(name))).ok_or_else(Refusal::absent)
            }
            (Update, ["keys", name]) => self.create(name, &call.body, now),
            (Delete, ["keys", name]) => self.delete(name),
            (Update, ["keys", name, "config"]) => self.configure(name, &call.body),
            (Update, ["keys", name, "rotate"]) => {
                let key = self.keys.get_mut(*name).ok_or_else(|| Refusal::invalid("key not found"))?;
                key.rotate(now)?;
                Ok(Answer::data(key.describe(name)))
            }
            (Update, ["keys", name, "trim"]) => self.trim(name, &call.body),
            (Read, ["config", "keys"]) => Ok(Answer::data(json!({ "disable_upsert": self.disable_upsert }))),
            (Update, ["config", "keys"]) => {
                self.disable_upsert = call.body.flag("disable_upsert")?.unwrap_or(self.disable_upsert);
                Ok(Answer::data(json!({ "disable_upsert": self.disable_upsert })))
            }
            (Update, ["encrypt", name]) => {
                let answer = self.encrypt(name, call, settings, now)?;
                Ok(answer.warn(&warnings(&call.body, settings)))
            }
            (Update, ["decrypt", name]) => {
                let key = self.key(name)?;
                let answer = items::each(call, true, &|item| items::decrypt(key, item, settings))?;
                Ok(answer.warn(&warnings(&call.body, settings)))
            }
            (Update, ["rewrap", name]) => {
                let key = self.key(name)?;
                items::each(call, false, &|item| items::rewrap(key, item))
            }
            (Update, ["hmac", name, rest @ ..]) => self.hmac(name, rest, call),
            (Update, ["verify", name, rest @ ..]) => {
                let key = self.key(name)?;
                let algorithm = items::algorithm(chosen(rest, &call.body)?)?;
                items::each(call, false, &|item| items::verify(key, algorithm, item))
            }
            (_, ["keys", ..] | ["encrypt" | "decrypt" | "rewrap" | "hmac" | "verify", _, ..]) => {
                Err(Refusal::unsupported_operation())
            }
            _ => Err(Refusal::unsupported_path()),
        }
    }
}

impl Transit {
    fn key(&self, name: &str) -> Result<&Key, Refusal> {
        self.keys.get(name).ok_or_else(|| Refusal::invalid("encryption key not found"))
    }

    fn create(&mut self, name: &str, body: &Body, now: OffsetDateTime) -> Outcome {
        let derived = body.flag("derived")? == Some(true);
        if body.flag("convergent_encryption")? == Some(true) {
            return Err(Refusal::invalid("convergent encryption is not simulated"));
        }
        let kind = KeyType::parse(body.text("type")?)?;
        if let Some(key) = self.keys.get(name) {
            return Ok(Answer::data(key.describe(name)).warn(&[format!("key {name} already existed")]));
        }
        let mut key = Key::new(kind, derived, now)?;
        key.exportable = body.flag("exportable")? == Some(true);
        key.allow_plaintext_backup = body.flag("allow_plaintext_backup")? == Some(true);
        key.auto_rotate_seconds = body.period("auto_rotate_period")?.map_or(0, |period| period.as_secs());
        let shown = key.describe(name);
        self.keys.insert(name.to_owned(), key);
        Ok(Answer::data(shown))
    }

    fn delete(&mut self, name: &str) -> Outcome {
        let key = self.keys.get(name).ok_or_else(|| Refusal::invalid("could not delete key; not found"))?;
        if !key.deletion_allowed {
            return Err(Refusal::invalid("error deleting key: deletion is not allowed for this key"));
        }
        self.keys.remove(name);
        Ok(Answer::nothing())
    }

    fn configure(&mut self, name: &str, body: &Body) -> Outcome {
        let missing = || Refusal::invalid(format!("no existing key named {name} could be found"));
        let key = self.keys.get_mut(name).ok_or_else(missing)?;
        let latest = key.latest();
        let version = |field: &str, what: &str| -> Result<Option<u32>, Refusal> {
            let Some(number) = body.number(field)? else { return Ok(None) };
            let number = u32::try_from(number);
            let number = number.map_err(|_| Refusal::invalid(format!("min {what} version cannot be negative")))?;
            if number > latest {
                let why = format!("cannot set min {what} version of {number}, latest key version is {latest}");
                return Err(Refusal::invalid(why));
            }
            Ok(Some(number))
        };
        // Numbering starts at 1, so 0 is taken as 1.
        let decryption = version("min_decryption_version", "decryption")?.map_or(key.min_decryption, |v| v.max(1));
        let encryption = version("min_encryption_version", "encryption")?.unwrap_or(key.min_encryption);
        if encryption > 0 && encryption < decryption {
            return Err(Refusal::invalid(format!(
                "cannot set min encryption/decryption values; min encryption version of {encryption} must be greater \
                 than or equal to min decryption version of {decryption}"
            )));
        }
        if key.min_available > decryption || (key.min_available > encryption && encryption > 0) {
            return Err(Refusal::invalid("min decryption version should not be less then min available version"));
        }
        (key.min_decryption, key.min_encryption) = (decryption, encryption);
        key.deletion_allowed = body.flag("deletion_allowed")?.unwrap_or(key.deletion_allowed);
        // Once set, these two stay.
        key.exportable |= body.flag("exportable")? == Some(true);
        key.allow_plaintext_backup |= body.flag("allow_plaintext_backup")? == Some(true);
        Ok(Answer::data(key.describe(name)))
    }

    fn trim(&mut self, name: &str, body: &Body) -> Outcome {
        let key = self.keys.get_mut(name).ok_or_else(|| Refusal::invalid("invalid key name"))?;
        let first = body.number("min_available_version")?.and_then(|first| u32::try_from(first).ok());
        let first = first.filter(|first| *first > 0);
        let first = first.ok_or_else(|| Refusal::invalid("missing min_available_version"))?;
        if key.min_encryption == 0 || first > key.min_encryption || first > key.min_decryption {
            let why = "min available version cannot be greater than min encryption or min decryption version";
            return Err(Refusal::invalid(why));
        }
        if first < key.min_available {
            return Err(Refusal::invalid("min available version cannot be decremented"));
        }
        key.trim(first);
        Ok(Answer::data(key.describe(name)))
    }

    fn encrypt(&mut self, name: &str, call: &Call, settings: &Settings, now: OffsetDateTime) -> Outcome {
        if !self.keys.contains_key(name) {
            if self.disable_upsert {
                return Err(Refusal::invalid("encryption key not found"));
            }
            let derived = !call.body.text("context")?.is_empty();
            let key = Key::new(KeyType::parse(call.body.text("type")?)?, derived, now)?;
            self.keys.insert(name.to_owned(), key);
        }
        let key = self.key(name)?;
        items::each(call, true, &|item| items::encrypt(key, item, settings))
    }

    fn hmac(&self, name: &str, rest: &[&str], call: &Call) -> Outcome {
        let key = self.key(name)?;
        let asked = call.body.number("key_version")?.unwrap_or(0);
        let version = match u32::try_from(asked) {
            Ok(0) => key.latest(),
            Ok(version) if version > key.latest() => {
                let latest = key.latest();
                let why = format!("key version does not exist; latest key version is {latest}");
                return Err(Refusal::invalid(why));
            }
            Ok(version) if version != key.latest() && version < key.min_encryption => {
                return Err(Refusal::invalid("cannot generate HMAC: version is too old (disallowed by policy)"));
            }
            Ok(version) => version,
            Err(_) => return Err(Refusal::invalid("key version does not exist (cannot be negative)")),
        };
        let algorithm = items::algorithm(chosen(rest, &call.body)?)?;
        items::each(call, false, &|item| items::hmac(key, version, algorithm, item))
    }
}

/// The algorithm: in the path or in the body.
fn chosen<'a>(rest: &[&'a str], body: &'a Body) -> Result<&'a str, Refusal> {
    match rest {
        [] => body.text("algorithm"),
        [name] => Ok(name),
        _ => Err(Refusal::unsupported_path()),
    }
}

fn warnings(body: &Body, settings: &Settings) -> Vec<String> {
    let known = |name: &&str| KNOWN.contains(name) && !(settings.ignores_associated_data && *name == "associated_data");
    let unknown: Vec<&str> = body.names().filter(|name| !known(name)).collect();
    if unknown.is_empty() {
        return Vec::new();
    }
    vec![format!("Endpoint ignored these unrecognized parameters: [{}]", unknown.join(" "))]
}
