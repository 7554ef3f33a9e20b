//! What the journal keeps: how everything was, and how it is to be.
//!
//! No secret is among it: the former key never leaves the appliance, and the new one is not needed to go back.

use std::collections::BTreeSet;

use certlib_core::Fingerprint;
use serde::{Deserialize, Serialize};

use super::HolderKind;
use super::names::Folder;
use super::objects::{Bound, Pair};

/// One entry of the journal.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Undo {
    /// The delivery is about to begin. Comes first, and once.
    Delivery(Box<Delivery>),
    /// The configuration is about to be saved: what is undone after this has to be saved, too.
    Saving,
}

/// A delivery: what it found, and what it makes of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Delivery {
    /// Which appliance, partition and target.
    pub appliance: String,
    /// Where the files are.
    pub folder: Folder,
    /// The pair that holds the certificate afterwards.
    pub pair: String,
    /// How that pair was; `None` when it is added.
    pub before: Option<Pair>,
    /// Whether the files that the pair was made of are still there.
    pub restorable: bool,
    /// How the pair is afterwards.
    pub after: After,
    /// The files that are uploaded.
    pub files: Vec<String>,
    /// The issuers, the one of the leaf first.
    pub issuers: Vec<Issuer>,
    /// The virtual servers, services and service groups whose certificates change.
    pub holders: Vec<HolderChange>,
    /// What earlier deliveries left and nobody needs any more. Going back does not bring it back.
    pub garbage: Garbage,
}

/// How a pair is afterwards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct After {
    /// The file of the certificate.
    pub cert: String,
    /// The file of the key.
    pub key: Option<String>,
    /// The pair it is linked to.
    pub link: Option<String>,
    /// The serial number, as in [`Pair::serial`].
    pub serial: String,
    /// The leaf.
    pub fingerprint: Fingerprint,
}

/// The certificate of an issuer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Issuer {
    /// Its pair.
    pub name: String,
    /// The certificate.
    pub fingerprint: Fingerprint,
    /// Its file, when the pair is added; `None` when the appliance has the certificate already.
    pub added: Option<String>,
    /// What it was linked to.
    pub link_before: Option<String>,
    /// What it is linked to afterwards.
    pub link_after: Option<String>,
}

/// The certificates of a virtual server, service or service group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct HolderChange {
    /// What it is.
    pub kind: HolderKind,
    /// Its name.
    pub name: String,
    /// What was bound to it.
    pub before: BTreeSet<Bound>,
    /// What is bound to it afterwards.
    pub after: BTreeSet<Bound>,
}

/// What earlier deliveries left and nobody needs any more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Garbage {
    /// Pairs.
    pub pairs: Vec<String>,
    /// Files.
    pub files: Vec<String>,
}

/// Whose a pair is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Is {
    /// As it was found, or as absent as it was.
    Before,
    /// As it is to be, at least its files.
    After,
    /// Neither.
    Foreign,
}

impl Delivery {
    /// Whether there is anything to do.
    pub(super) fn changes_anything(&self) -> bool {
        self.changes_pair() || self.issuers.iter().any(Issuer::changes) || !self.holders.is_empty()
    }

    /// Whether the pair itself changes.
    pub(super) fn changes_pair(&self) -> bool {
        self.changes_files() || self.before.as_ref().is_some_and(|before| before.link != self.after.link)
    }

    /// Whether the pair gets other files.
    pub(super) fn changes_files(&self) -> bool {
        self.before.as_ref().is_none_or(|before| !self.is_after(before))
    }

    /// Whose the pair is now.
    pub(super) fn classify(&self, now: Option<&Pair>) -> Is {
        let (now, before) = match (now, &self.before) {
            (None, None) => return Is::Before,
            (None, Some(_)) => return Is::Foreign,
            (Some(now), before) => (now, before.as_ref()),
        };
        let links = [&None, &self.after.link, before.map_or(&None, |before| &before.link)];
        let is_before = before.is_some_and(|before| self.is_before(now, before));
        if !links.contains(&&now.link) {
            Is::Foreign
        } else if self.is_after(now) && (!is_before || now.link == self.after.link) {
            Is::After
        } else if is_before {
            Is::Before
        } else {
            Is::Foreign
        }
    }

    fn is_after(&self, pair: &Pair) -> bool {
        let After { cert, key, serial, .. } = &self.after;
        self.same_file(Some(&pair.cert), Some(cert))
            && self.same_file(pair.key.as_ref(), key.as_ref())
            && pair.serial == *serial
    }

    fn is_before(&self, pair: &Pair, before: &Pair) -> bool {
        self.same_file(Some(&pair.cert), Some(&before.cert))
            && self.same_file(pair.key.as_ref(), before.key.as_ref())
            && pair.serial == before.serial
    }

    /// Whether both name the same file: builds show a bare name or a path.
    fn same_file(&self, one: Option<&String>, other: Option<&String>) -> bool {
        let plain = |name: &'_ String| self.folder.file(name).unwrap_or(name).to_owned();
        one.map(plain) == other.map(plain)
    }
}

impl Issuer {
    /// Whether something has to be done about it.
    pub(super) fn changes(&self) -> bool {
        self.added.is_some() || self.link_before != self.link_after
    }
}

impl HolderChange {
    /// What is bound in addition.
    pub(super) fn added(&self) -> impl Iterator<Item = &Bound> {
        self.after.difference(&self.before)
    }

    /// What is unbound.
    pub(super) fn removed(&self) -> impl Iterator<Item = &Bound> {
        self.before.difference(&self.after)
    }

    /// Whether somebody else's server certificate is there now. One more SNI certificate is no matter of ours.
    pub(super) fn is_foreign(&self, now: &BTreeSet<Bound>) -> bool {
        now.iter().any(|bound| !bound.sni && !self.before.contains(bound) && !self.after.contains(bound))
    }

    /// Whether the change has been made.
    pub(super) fn is_made(&self, now: &BTreeSet<Bound>) -> bool {
        self.added().all(|bound| now.contains(bound)) && self.removed().all(|bound| !now.contains(bound))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(cert: &str, serial: &str, link: Option<&str>) -> Pair {
        let key = Some(cert.replace(".cer", ".key"));
        let (serial, link) = (serial.to_owned(), link.map(str::to_owned));
        Pair { cert: cert.to_owned(), key, link, serial, not_after: String::new() }
    }

    fn delivery(before: Option<Pair>) -> Delivery {
        Delivery {
            appliance: "a".into(),
            folder: Folder { path: "/nsconfig/ssl".into(), default: "/nsconfig/ssl".into() },
            pair: "shop".into(),
            before,
            restorable: true,
            after: After {
                cert: "new.cer".into(),
                key: Some("new.key".into()),
                link: Some("ca2".into()),
                serial: "2".into(),
                fingerprint: Fingerprint::from_bytes([2; 32]),
            },
            files: Vec::new(),
            issuers: Vec::new(),
            holders: Vec::new(),
            garbage: Garbage::default(),
        }
    }

    #[test]
    fn whose_a_pair_is() {
        let update = delivery(Some(pair("old.cer", "1", Some("ca1"))));
        for (now, is) in [
            (pair("old.cer", "1", Some("ca1")), Is::Before),
            (pair("/nsconfig/ssl/old.cer", "1", Some("ca1")), Is::Before),
            (pair("old.cer", "1", None), Is::Before),
            (pair("new.cer", "2", Some("ca1")), Is::After),
            (pair("new.cer", "2", Some("ca2")), Is::After),
            (pair("old.cer", "3", Some("ca1")), Is::Foreign),
            (pair("else.cer", "1", Some("ca1")), Is::Foreign),
            (pair("new.cer", "2", Some("ca3")), Is::Foreign),
        ] {
            assert_eq!(update.classify(Some(&now)), is, "{now:?}");
        }
        assert_eq!(update.classify(None), Is::Foreign);
        let add = delivery(None);
        assert_eq!(add.classify(None), Is::Before);
        assert_eq!(add.classify(Some(&pair("old.cer", "1", None))), Is::Foreign);
        assert_eq!(add.classify(Some(&pair("new.cer", "2", None))), Is::After);
    }

    #[test]
    fn with_the_same_files_the_link_tells() {
        let relink = delivery(Some(pair("new.cer", "2", Some("ca1"))));
        assert!(relink.changes_pair() && !relink.changes_files());
        assert_eq!(relink.classify(Some(&pair("new.cer", "2", Some("ca1")))), Is::Before);
        assert_eq!(relink.classify(Some(&pair("new.cer", "2", None))), Is::Before);
        assert_eq!(relink.classify(Some(&pair("new.cer", "2", Some("ca2")))), Is::After);
        assert!(!delivery(Some(pair("new.cer", "2", Some("ca2")))).changes_anything());
    }

    #[test]
    fn entries_survive_the_journal() {
        let undo = Undo::Delivery(Box::new(delivery(Some(pair("old.cer", "1", None)))));
        let json = serde_json::to_string(&undo).unwrap();
        let Undo::Delivery(read) = serde_json::from_str(&json).unwrap() else { panic!("another step") };
        assert_eq!(*read, delivery(Some(pair("old.cer", "1", None))));
        assert!(matches!(serde_json::from_str(r#"{"step":"saving"}"#).unwrap(), Undo::Saving));
    }
}
