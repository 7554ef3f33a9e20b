//! What a profile selects, and how a change of it is asked for.

use certlib_core::error::{Error, Result};
use certlib_core::secret::SecretString;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::OPERATION;
use super::config::ProfileKind;

/// A certificate, its key and its issuers, by the full paths of their files.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Pair {
    /// The certificate.
    pub cert: String,
    /// The private key.
    pub key: String,
    /// The certificates of issuers.
    pub chain: Option<String>,
    /// The key's passphrase, in the form in which the unit gives it out.
    #[serde(serialize_with = "serialize", deserialize_with = "deserialize")]
    pub passphrase: Option<SecretString>,
}

impl Pair {
    pub(super) fn new(cert: &str, key: &str, chain: Option<&str>) -> Self {
        Self { cert: cert.to_owned(), key: key.to_owned(), chain: chain.map(str::to_owned), passphrase: None }
    }

    /// Whether both name the same files. The passphrase does not count: the unit may give it out in another form each time.
    pub(super) fn same(&self, other: &Pair) -> bool {
        (&self.cert, &self.key, &self.chain) == (&other.cert, &other.key, &other.chain)
    }

    /// The same again.
    pub(super) fn duplicate(&self) -> Self {
        let passphrase = self.passphrase.as_ref().map(SecretString::duplicate);
        Self { passphrase, ..Self::new(&self.cert, &self.key, self.chain.as_deref()) }
    }

    /// All files that it names.
    pub(super) fn files(&self) -> impl Iterator<Item = &str> {
        [&self.cert, &self.key].into_iter().chain(&self.chain).map(String::as_str)
    }

    /// As a line of a plan shows it.
    pub(super) fn show(&self) -> String {
        let chain = self.chain.as_deref().unwrap_or("none");
        format!("cert {}, key {}, chain {chain}", self.cert, self.key)
    }

    fn fields(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        fields.insert("cert".to_owned(), json!(self.cert));
        fields.insert("key".to_owned(), json!(self.key));
        if let Some(chain) = &self.chain {
            fields.insert("chain".to_owned(), json!(chain));
        }
        if let Some(passphrase) = &self.passphrase {
            fields.insert("passphrase".to_owned(), json!(passphrase.expose()));
        }
        fields
    }
}

/// How a profile says which certificate it has.
#[derive(Debug)]
pub(super) enum Selection {
    /// By `certKeyChain`.
    Entries(Vec<Entry>),
    /// By `cert`, `key` and `chain`; `None` without any.
    Single(Option<Pair>),
    /// By what its parent has.
    Inherited {
        /// The parent.
        parent: String,
    },
}

/// One entry of `certKeyChain`.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) pair: Pair,
    /// Whatever else it says, which is sent back as it came.
    rest: Map<String, Value>,
}

/// A profile as the unit describes it, as far as it matters here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Described {
    pub(super) full_path: String,
    #[serde(default)]
    defaults_from: Option<String>,
    #[serde(default)]
    inherit_certkeychain: Option<String>,
    #[serde(default)]
    cert: Option<String>,
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    chain: Option<String>,
    #[serde(default)]
    cert_key_chain: Option<Vec<DescribedEntry>>,
}

#[derive(Debug, Deserialize)]
struct DescribedEntry {
    name: String,
    #[serde(default)]
    cert: Option<String>,
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    chain: Option<String>,
    #[serde(default)]
    passphrase: Option<SecretString>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl Described {
    /// The properties that [`Described`] needs, for `$select`.
    pub(super) const FIELDS: &'static str = "fullPath,defaultsFrom,inheritCertkeychain,cert,key,chain,certKeyChain";

    /// The parent, if it takes its certificate from there.
    pub(super) fn inherits_from(&self) -> Option<&str> {
        let parent = self.defaults_from.as_deref().filter(|parent| *parent != "none")?;
        (self.inherit_certkeychain.as_deref() == Some("true")).then_some(parent)
    }

    pub(super) fn selection(self) -> Selection {
        if let Some(parent) = self.inherits_from() {
            return Selection::Inherited { parent: parent.to_owned() };
        }
        let pair = |cert: Option<String>, key: Option<String>, chain: Option<String>, passphrase| {
            let (cert, key) = (path(cert)?, path(key)?);
            Some(Pair { cert, key, chain: path(chain), passphrase })
        };
        match self.cert_key_chain {
            // Where both are shown, `certKeyChain` is the whole truth.
            Some(entries) if !entries.is_empty() => {
                let entries = entries.into_iter().filter_map(|entry| {
                    let DescribedEntry { name, cert, key, chain, passphrase, mut rest } = entry;
                    rest.retain(|field, _| !field.ends_with("Reference"));
                    Some(Entry { name, pair: pair(cert, key, chain, passphrase)?, rest })
                });
                Selection::Entries(entries.collect())
            }
            _ => Selection::Single(pair(self.cert, self.key, self.chain, None)),
        }
    }
}

#[cfg(test)]
impl Selection {
    /// For tests: entries that say nothing but their pairs.
    pub(super) fn entries(pairs: Vec<(&str, Pair)>) -> Self {
        let entry = |(name, pair): (&str, Pair)| Entry { name: name.to_owned(), pair, rest: Map::new() };
        Self::Entries(pairs.into_iter().map(entry).collect())
    }
}

/// A full path; `none` is none.
fn path(text: Option<String>) -> Option<String> {
    let text = text.filter(|text| !text.is_empty() && text != "none")?;
    Some(if text.starts_with('/') { text } else { format!("/Common/{text}") })
}

impl Selection {
    /// The pair that is, or is to be, replaced: that of the entry, or the only one.
    pub(super) fn pair(&self, entry: Option<&str>) -> Option<&Pair> {
        match (self, entry) {
            (Self::Entries(entries), Some(entry)) => entries.iter().find(|own| own.name == entry).map(|own| &own.pair),
            (Self::Single(pair), None) => pair.as_ref(),
            _ => None,
        }
    }

    /// All files that it names.
    pub(super) fn files(&self) -> impl Iterator<Item = &str> {
        let (entries, single) = match self {
            Self::Entries(entries) => (entries.as_slice(), None),
            Self::Single(pair) => (&[][..], pair.as_ref()),
            Self::Inherited { .. } => (&[][..], None),
        };
        entries.iter().map(|own| &own.pair).chain(single).flat_map(Pair::files)
    }

    /// The body that puts `new` in the place of the pair of `entry`, with everything else as it is.
    ///
    /// # Errors
    /// `Validation` `profile_changed` when the profile is not of that form any more.
    pub(super) fn replaced(&self, entry: Option<&str>, new: Option<&Pair>) -> Result<Value> {
        match (self, entry, new) {
            // Always sent as a whole: that is how the unit replaces it.
            (Self::Entries(entries), Some(entry), Some(new)) if entries.iter().any(|own| own.name == entry) => {
                let entries = entries.iter().map(|own| {
                    let mut fields = own.rest.clone();
                    fields.extend(if own.name == entry { new.fields() } else { own.pair.fields() });
                    fields.insert("name".to_owned(), json!(own.name));
                    Value::Object(fields)
                });
                Ok(json!({ "certKeyChain": entries.collect::<Vec<_>>() }))
            }
            (Self::Single(_), None, Some(new)) => {
                let mut fields = new.fields();
                fields.entry("chain").or_insert_with(|| json!("none"));
                Ok(Value::Object(fields))
            }
            (Self::Single(_), None, None) => Ok(json!({ "cert": "none", "key": "none", "chain": "none" })),
            _ => {
                let why = "the profile does not select its certificate in the way it did";
                Err(Error::validation(OPERATION, "profile_changed", why))
            }
        }
    }

    /// As text, for a digest.
    pub(super) fn show(&self) -> String {
        match self {
            Self::Entries(entries) => {
                entries.iter().map(|own| format!("[{}] {}", own.name, own.pair.show())).collect::<Vec<_>>().join("; ")
            }
            Self::Single(pair) => pair.as_ref().map_or_else(|| "none".to_owned(), Pair::show),
            Self::Inherited { parent } => format!("inherited from {parent}"),
        }
    }
}

/// A profile as plans and proofs name it.
pub(super) fn title(kind: ProfileKind, name: &str, entry: Option<&str>) -> String {
    match entry {
        Some(entry) => format!("{} {name} [{entry}]", kind.as_str()),
        None => format!("{} {name}", kind.as_str()),
    }
}

fn serialize<S: Serializer>(secret: &Option<SecretString>, serializer: S) -> Result<S::Ok, S::Error> {
    match secret {
        Some(secret) => serializer.serialize_str(secret.expose()),
        None => serializer.serialize_none(),
    }
}

fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretString>, D::Error> {
    Option::<SecretString>::deserialize(deserializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(value: Value) -> Selection {
        serde_json::from_value::<Described>(value).unwrap().selection()
    }

    #[test]
    fn entries_are_replaced_as_a_whole() {
        let both = selection(json!({
            "fullPath": "/Common/p", "cert": "/Common/a.crt", "key": "/Common/a.key", "chain": "none",
            "inheritCertkeychain": "false", "defaultsFrom": "/Common/clientssl",
            "certKeyChain": [
                { "name": "rsa", "cert": "/Common/a.crt", "key": "a.key", "passphrase": "$M$x", "usage": "SERVER",
                  "keyReference": { "link": "https://localhost/" } },
                { "name": "ec", "cert": "/Common/b.crt", "key": "/Common/b.key", "chain": "/Common/c.crt" },
            ],
        }));
        assert_eq!(both.pair(Some("rsa")).unwrap().key, "/Common/a.key");
        assert!(both.pair(None).is_none() && both.pair(Some("x")).is_none());
        let body = both.replaced(Some("ec"), Some(&Pair::new("/Common/n.crt", "/Common/n.key", None))).unwrap();
        let expected = json!({ "certKeyChain": [
            { "name": "rsa", "cert": "/Common/a.crt", "key": "/Common/a.key", "passphrase": "$M$x", "usage": "SERVER" },
            { "name": "ec", "cert": "/Common/n.crt", "key": "/Common/n.key" },
        ]});
        assert_eq!(body, expected);
        assert_eq!(both.replaced(Some("x"), None).unwrap_err().code(), "profile_changed");
        assert_eq!(both.files().count(), 5);
    }

    #[test]
    fn single_pairs_and_none() {
        let none = selection(json!({ "fullPath": "/Common/p", "cert": "none", "key": "none", "chain": "none" }));
        assert!(none.pair(None).is_none());
        let body = none.replaced(None, Some(&Pair::new("/Common/n.crt", "/Common/n.key", None))).unwrap();
        assert_eq!(body, json!({ "cert": "/Common/n.crt", "key": "/Common/n.key", "chain": "none" }));
        assert_eq!(none.replaced(None, None).unwrap()["cert"], "none");
    }

    #[test]
    fn a_profile_that_inherits_says_so() {
        let inherits = json!({
            "fullPath": "/Common/p", "defaultsFrom": "/Common/parent", "inheritCertkeychain": "true",
            "certKeyChain": [{ "name": "x", "cert": "/Common/a.crt", "key": "/Common/a.key" }],
        });
        assert!(matches!(selection(inherits), Selection::Inherited { parent } if parent == "/Common/parent"));
    }

    #[test]
    fn passphrases_survive_the_journal_and_hide_in_debug() {
        let pair = Pair { passphrase: Some("canary".to_owned().into()), ..Pair::new("/a", "/b", None) };
        assert!(!format!("{pair:?}").contains("canary"));
        let back: Pair = serde_json::from_str(&serde_json::to_string(&pair).unwrap()).unwrap();
        assert_eq!(back.passphrase.as_ref().unwrap().expose(), "canary");
        assert!(back.same(&pair));
    }
}
