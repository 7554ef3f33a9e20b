//! `ltm/profile/client-ssl` and `ltm/profile/server-ssl`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{
    answer::{Refusal, link},
    call::{field, flag},
    name,
    settings::{self, Settings},
};

/// Which side of a connection a profile is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    Client,
    Server,
}

impl Side {
    pub(super) const BOTH: [Side; 2] = [Side::Client, Side::Server];

    /// The side whose profiles are below this segment.
    pub(super) fn of(segment: &str) -> Option<Self> {
        Self::BOTH.into_iter().find(|side| side.segment() == segment)
    }

    pub(super) fn segment(self) -> &'static str {
        match self {
            Self::Client => "client-ssl",
            Self::Server => "server-ssl",
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Client => "ClientSSL Profile",
            Self::Server => "ServerSSL Profile",
        }
    }

    /// The profile that all others come from.
    pub(super) fn root(self) -> &'static str {
        match self {
            Self::Client => "/Common/clientssl",
            Self::Server => "/Common/serverssl",
        }
    }

    /// Where a virtual server uses it.
    pub(super) fn context(self) -> &'static str {
        match self {
            Self::Client => "clientside",
            Self::Server => "serverside",
        }
    }
}

/// A certificate with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) cert: String,
    pub(super) key: String,
    pub(super) chain: Option<String>,
    passphrase: Option<String>,
}

/// A profile.
#[derive(Clone, Debug)]
pub(super) struct Profile {
    side: Side,
    /// `None` only for the root.
    pub(super) parent: Option<String>,
    /// Takes its entries from the parent; its own are empty then.
    pub(super) inherits: bool,
    pub(super) entries: Vec<Entry>,
    pub(super) server_name: Option<String>,
    pub(super) sni_default: bool,
    /// Everything else that it does not inherit.
    settings: Settings,
    generation: u64,
}

/// Profiles by name.
pub(super) type Profiles = BTreeMap<String, Profile>;

/// The entries that a profile has, be they its own or inherited.
pub(super) fn effective<'a>(profiles: &'a Profiles, name: &str) -> &'a [Entry] {
    let mut next = profiles.get(name);
    // Longer than any chain of parents: a ring ends here, too.
    for _ in 0..=profiles.len() {
        match next {
            Some(profile) if profile.inherits => {
                next = profile.parent.as_ref().and_then(|parent| profiles.get(parent));
            }
            Some(profile) => return &profile.entries,
            None => break,
        }
    }
    &[]
}

/// A profile as it is answered, with what it has or inherits.
pub(super) fn show(profiles: &Profiles, name: &str) -> Option<Value> {
    let own = profiles.get(name)?;
    let mut settings = own.settings.clone();
    let mut next = Some(own);
    for _ in 0..=profiles.len() {
        next = next.and_then(|profile| profile.parent.as_ref()).and_then(|parent| profiles.get(parent));
        let Some(profile) = next else { break };
        for (setting, value) in &profile.settings {
            settings.entry(setting).or_insert_with(|| value.clone());
        }
    }
    Some(own.show(name, effective(profiles, name), settings))
}

impl Profile {
    /// The root of all profiles of `side`.
    pub(super) fn root(side: Side, entry: Option<(&str, &str)>) -> Self {
        let entry = entry.map(|(cert, key)| Entry {
            name: "default".to_owned(),
            cert: cert.to_owned(),
            key: key.to_owned(),
            chain: None,
            passphrase: None,
        });
        let entries = entry.into_iter().collect();
        let (server_name, sni_default, settings) = (None, false, settings::of_profile(side));
        Self { side, parent: None, inherits: false, entries, server_name, sni_default, settings, generation: 1 }
    }

    /// A new profile, before its body is applied.
    pub(super) fn child(side: Side) -> Self {
        let (parent, settings) = (Some(side.root().to_owned()), Settings::new());
        Self { parent, inherits: true, settings, ..Self::root(side, None) }
    }

    /// Changes what the body names.
    pub(super) fn change(&mut self, body: &Map<String, Value>) -> Result<(), Refusal> {
        let single = ["cert", "key", "chain"].iter().any(|field| body.contains_key(*field));
        if let Some(parent) = field(body, "defaultsFrom")? {
            self.parent = Some(name::full(parent));
        }
        match (self.side, body.get("certKeyChain")) {
            (Side::Server, Some(_)) => {
                return Err(Refusal::invalid("one or more properties must be specified: certKeyChain is not one"));
            }
            (_, Some(_)) if single => return Err(conflict()),
            (_, Some(entries)) => {
                self.entries = read_entries(entries)?;
                self.inherits = false;
            }
            (_, None) if single => self.change_single(body)?,
            (_, None) => {}
        }
        if let Some(inherits) = flag(body, "inheritCertkeychain")? {
            self.inherits = inherits;
            if self.inherits {
                self.entries.clear();
            }
        }
        if let Some(server_name) = field(body, "serverName")? {
            self.server_name = Some(server_name.to_owned()).filter(|name| !["none", ""].contains(&name.as_str()));
        }
        if let Some(sni_default) = flag(body, "sniDefault")? {
            self.sni_default = sni_default;
        }
        settings::change(&mut self.settings, &settings::of_profile(self.side), body)?;
        self.generation += 1;
        Ok(())
    }

    /// `cert`, `key` and `chain` are those of the only entry there can be then.
    fn change_single(&mut self, body: &Map<String, Value>) -> Result<(), Refusal> {
        if self.entries.len() > 1 {
            return Err(conflict());
        }
        let mut entry = self.entries.pop().unwrap_or_else(|| Entry {
            name: "default".to_owned(),
            cert: "none".to_owned(),
            key: "none".to_owned(),
            chain: None,
            passphrase: None,
        });
        if let Some(cert) = field(body, "cert")? {
            entry.cert = full_or_none(cert);
        }
        if let Some(key) = field(body, "key")? {
            entry.key = full_or_none(key);
        }
        if let Some(chain) = field(body, "chain")? {
            entry.chain = Some(full_or_none(chain)).filter(|chain| chain != "none");
        }
        self.inherits = false;
        if entry.cert != "none" || entry.key != "none" {
            self.entries.push(entry);
        }
        Ok(())
    }

    fn show(&self, name: &str, entries: &[Entry], settings: Settings) -> Value {
        let side = self.side.segment();
        let mut fields = name::fields(name);
        let first = entries.first();
        let none = || "none".to_owned();
        let more = json!({
            "kind": format!("tm:ltm:profile:{side}:{side}state"),
            "generation": self.generation,
            "selfLink": link(&format!("tm/ltm/profile/{side}/{}", name::to_url(name))),
            "defaultsFrom": self.parent.clone().unwrap_or_else(none),
            "cert": first.map_or_else(none, |entry| entry.cert.clone()),
            "key": first.map_or_else(none, |entry| entry.key.clone()),
            "chain": first.and_then(|entry| entry.chain.clone()).unwrap_or_else(none),
            "serverName": self.server_name.clone().unwrap_or_else(none),
            "sniDefault": self.sni_default.to_string(),
        });
        fields.extend(settings);
        if let Value::Object(more) = more {
            fields.extend(more);
        }
        if self.side == Side::Client {
            fields.insert("inheritCertkeychain".to_owned(), json!(self.inherits.to_string()));
            let chains: Vec<Value> = entries.iter().map(Entry::show).collect();
            if !chains.is_empty() {
                fields.insert("certKeyChain".to_owned(), json!(chains));
            }
        }
        Value::Object(fields)
    }
}

impl Entry {
    fn show(&self) -> Value {
        let reference =
            |kind: &str, name: &str| json!({ "link": link(&format!("tm/sys/file/{kind}/{}", name::to_url(name))) });
        let mut shown = json!({
            "name": self.name,
            "cert": self.cert,
            "certReference": reference("ssl-cert", &self.cert),
            "key": self.key,
            "keyReference": reference("ssl-key", &self.key),
            "usage": "SERVER",
        });
        if let Some(chain) = &self.chain {
            shown["chain"] = json!(chain);
            shown["chainReference"] = reference("ssl-cert", chain);
        }
        if self.passphrase.is_some() {
            // What is shown is sealed with the unit's master key.
            shown["passphrase"] = json!("$M$simulated");
        }
        shown
    }
}

fn read_entries(value: &Value) -> Result<Vec<Entry>, Refusal> {
    let wrong = || Refusal::invalid("invalid property value \"certKeyChain\"");
    let entries = value.as_array().ok_or_else(wrong)?.iter().map(|value| {
        let body = value.as_object().ok_or_else(wrong)?;
        let required = |name: &'static str| {
            let missing = || Refusal::property(&format!("a cert-key-chain needs its {name}"));
            field(body, name)?.ok_or_else(missing)
        };
        Ok(Entry {
            name: required("name")?.to_owned(),
            cert: name::full(required("cert")?),
            key: name::full(required("key")?),
            chain: field(body, "chain")?.filter(|chain| *chain != "none").map(name::full),
            passphrase: field(body, "passphrase")?.map(str::to_owned),
        })
    });
    let entries: Vec<Entry> = entries.collect::<Result<_, Refusal>>()?;
    let mut names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    if names.len() == entries.len() {
        Ok(entries)
    } else {
        Err(Refusal::property("two cert-key-chains have the same name"))
    }
}

fn full_or_none(name: &str) -> String {
    if name == "none" || name.is_empty() { "none".to_owned() } else { name::full(name) }
}

fn conflict() -> Refusal {
    Refusal::new(400, "01b4002a:3: SSL profile: cert-key-chain conflicts with cert, key and chain")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(profile: &mut Profile, body: Value) -> Result<(), Refusal> {
        profile.change(body.as_object().unwrap())
    }

    #[test]
    fn both_ways_to_name_a_certificate() {
        let mut profile = Profile::child(Side::Client);
        change(&mut profile, json!({ "cert": "a.crt", "key": "a.key" })).unwrap();
        assert_eq!((profile.entries[0].cert.as_str(), profile.inherits), ("/Common/a.crt", false));
        let both = json!({ "cert": "a.crt", "certKeyChain": [] });
        assert!(change(&mut profile, both).unwrap_err().message.starts_with("01b4002a:3:"));
        let two = json!({ "certKeyChain": [
            { "name": "rsa", "cert": "/Common/a.crt", "key": "/Common/a.key" },
            { "name": "ec", "cert": "/Common/b.crt", "key": "/Common/b.key", "chain": "/Common/c.crt" },
        ]});
        change(&mut profile, two).unwrap();
        assert!(change(&mut profile, json!({ "cert": "a.crt" })).is_err(), "two entries");
        let shown = profile.show("/Common/p", &profile.entries, Settings::new());
        assert_eq!(
            (&shown["cert"], &shown["certKeyChain"][1]["chain"]),
            (&json!("/Common/a.crt"), &json!("/Common/c.crt"))
        );
        let twice = json!([{ "name": "x", "cert": "a", "key": "a" }, { "name": "x", "cert": "b", "key": "b" }]);
        assert!(change(&mut profile, json!({ "certKeyChain": twice })).is_err());
    }

    #[test]
    fn entries_are_inherited() {
        let mut profiles = Profiles::new();
        profiles.insert(
            "/Common/clientssl".to_owned(),
            Profile::root(Side::Client, Some(("/Common/d.crt", "/Common/d.key"))),
        );
        profiles.insert("/Common/child".to_owned(), Profile::child(Side::Client));
        assert_eq!(effective(&profiles, "/Common/child")[0].cert, "/Common/d.crt");
        let ciphers = |profiles: &Profiles| show(profiles, "/Common/child").unwrap()["ciphers"].clone();
        assert_eq!(ciphers(&profiles), "DEFAULT");
        change(profiles.get_mut("/Common/clientssl").unwrap(), json!({ "ciphers": "ECDHE" })).unwrap();
        assert_eq!(ciphers(&profiles), "ECDHE");
        change(profiles.get_mut("/Common/child").unwrap(), json!({ "ciphers": "HIGH" })).unwrap();
        assert_eq!(ciphers(&profiles), "HIGH");
        profiles.get_mut("/Common/clientssl").unwrap().parent = Some("/Common/child".to_owned());
        profiles.get_mut("/Common/clientssl").unwrap().inherits = true;
        assert!(effective(&profiles, "/Common/child").is_empty(), "a ring");
        assert!(show(&profiles, "/Common/child").is_some(), "all the same");
    }
}
