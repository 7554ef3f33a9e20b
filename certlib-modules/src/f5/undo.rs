//! What the journal keeps: enough to go on, and enough to go back.

use certlib_core::CertificateBundle;
use serde::{Deserialize, Serialize};

use super::config::ProfileKind;
use super::profile::{Pair, Selection, title};
use super::unit::CertInfo;

/// An entry of the journal.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Undo {
    /// Files are about to be uploaded, objects to be made and profiles to be switched.
    Switch(Switch),
    /// Objects of former deliveries are about to be removed. They do not come back.
    Clean {
        /// Their full paths.
        objects: Vec<String>,
    },
}

/// One switch, of all profiles together.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Switch {
    /// What the names of uploads end in.
    pub nonce: String,
    /// The objects that did not exist before.
    pub objects: Vec<Object>,
    /// The checksum of the new certificate file.
    pub checksum: String,
    /// The profiles that change.
    pub profiles: Vec<Change>,
}

/// An object that is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Object {
    /// What it is.
    pub part: Part,
    /// Its full path.
    pub name: String,
}

impl Object {
    /// As plans name it.
    pub(super) fn title(&self) -> String {
        format!("sys file {} {}", self.part.collection(), self.name)
    }
}

/// A part of a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Part {
    /// The private key.
    Key,
    /// The leaf.
    Cert,
    /// The issuers.
    Chain,
}

impl Part {
    /// The collection that it goes into.
    pub(super) fn collection(self) -> &'static str {
        match self {
            Self::Key => "ssl-key",
            Self::Cert | Self::Chain => "ssl-cert",
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Key => "private key",
            Self::Cert => "certificate",
            Self::Chain => "issuers",
        }
    }
}

/// A profile that is switched.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Change {
    /// What it is for.
    pub kind: ProfileKind,
    /// Its full path.
    pub name: String,
    /// The entry of `certKeyChain`, where it has such.
    pub entry: Option<String>,
    /// What it had; `None` when it had nothing.
    pub before: Option<Pair>,
    /// What it gets.
    pub after: Pair,
}

/// Whose a profile's certificate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Is {
    /// As it was.
    Former,
    /// As it was to be.
    New,
    /// Somebody else's, or the profile is gone.
    Foreign,
}

impl Change {
    /// As messages name it.
    pub(super) fn title(&self) -> String {
        title(self.kind, &self.name, self.entry.as_deref())
    }

    pub(super) fn classify(&self, found: Option<&Selection>) -> Is {
        let Some(found) = found else { return Is::Foreign };
        match (found.pair(self.entry.as_deref()), &self.before) {
            (Some(pair), _) if pair.same(&self.after) => Is::New,
            (Some(pair), Some(before)) if pair.same(before) => Is::Former,
            (None, None) if matches!(found, Selection::Single(None)) => Is::Former,
            _ => Is::Foreign,
        }
    }
}

impl Switch {
    /// The name under which a part is uploaded. It lies in a place that all uploads share.
    pub(super) fn upload(&self, part: Part) -> String {
        let ending = match part {
            Part::Key => "key",
            Part::Cert => "crt",
            Part::Chain => "chain",
        };
        format!("certlib-{}.{ending}", self.nonce)
    }

    /// All names under which something may have been uploaded.
    pub(super) fn uploads(&self) -> impl Iterator<Item = String> {
        self.objects.iter().map(|object| self.upload(object.part))
    }

    /// Whether it is the delivery of this bundle, under these names.
    pub(super) fn is_of(&self, bundle: &CertificateBundle, after: &Pair) -> bool {
        self.checksum == super::unit::checksum(bundle.leaf_pem().as_bytes())
            && self.profiles.iter().all(|change| change.after.same(after))
    }

    /// Whether the new certificate file still is what was put there.
    pub(super) fn made(&self, found: Option<&CertInfo>) -> bool {
        found.is_some_and(|cert| cert.same(&self.checksum))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_certificate_it_is() {
        let pair = |name: &str| Pair::new(&format!("/Common/{name}.crt"), &format!("/Common/{name}.key"), None);
        let change = |entry: Option<&str>, before: Option<Pair>| Change {
            kind: ProfileKind::ClientSsl,
            name: "/Common/p".to_owned(),
            entry: entry.map(str::to_owned),
            before,
            after: pair("new"),
        };
        let entries = |name: &str, other: &str| Selection::entries(vec![("rsa", pair(name)), ("ec", pair(other))]);
        let one = change(Some("rsa"), Some(pair("old")));
        assert_eq!(one.classify(Some(&entries("new", "x"))), Is::New);
        assert_eq!(one.classify(Some(&entries("old", "x"))), Is::Former);
        assert_eq!(one.classify(Some(&entries("old", "changed"))), Is::Former, "the other entry is not ours");
        assert_eq!(one.classify(Some(&entries("else", "x"))), Is::Foreign);
        assert_eq!(one.classify(Some(&Selection::Single(Some(pair("old"))))), Is::Foreign, "of another form");
        assert_eq!(one.classify(None), Is::Foreign);
        let inherited = Selection::Inherited { parent: "/Common/clientssl".to_owned() };
        assert_eq!(one.classify(Some(&inherited)), Is::Foreign);
        let empty = change(None, None);
        assert_eq!(empty.classify(Some(&Selection::Single(None))), Is::Former);
        assert_eq!(empty.classify(Some(&Selection::Single(Some(pair("new"))))), Is::New);
        assert_eq!(empty.classify(Some(&Selection::Single(Some(pair("x"))))), Is::Foreign);
    }
}
