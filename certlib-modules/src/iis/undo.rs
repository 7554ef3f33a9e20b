//! What the journal keeps: enough to go on, and enough to go back. The only secrets are in `Files`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::winrm;

/// An entry of the journal.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Undo {
    /// The certificate is about to be imported.
    Import {
        /// Which machine.
        machine: String,
        /// Which store.
        store: String,
        /// SHA-1 of the certificate, upper-case hex.
        thumbprint: String,
        /// Its friendly name.
        friendly_name: String,
        /// The certificate was there before, so it is not ours to remove.
        was_there: bool,
    },
    /// Bindings and endpoints are about to show the new certificate.
    Bind {
        /// Which machine.
        machine: String,
        /// SHA-1 of the new certificate, upper-case hex.
        thumbprint: String,
        /// What changes, in order.
        units: Vec<UnitChange>,
    },
    /// Files of the central certificate store.
    Files {
        /// What undoes them.
        undo: winrm::Undo,
    },
    /// Application pools are about to be recycled.
    Recycling,
}

/// One binding or endpoint that changes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct UnitChange {
    /// Which.
    pub unit: Unit,
    /// What it showed; `None` when it was not there.
    pub before: Option<Shown>,
    /// What it will show.
    pub after: Shown,
}

/// Something that shows a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Unit {
    /// A binding of a site.
    Binding {
        /// The site.
        site: String,
        /// `ip:port:host`.
        info: String,
    },
    /// An entry of http.sys.
    Endpoint {
        /// `address:port` or `host:port`.
        key: String,
        /// `ipport` or `hostnameport`.
        by: String,
    },
}

/// Which certificate is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Shown {
    /// SHA-1 of the certificate, upper-case hex; empty without one.
    pub hash: String,
    /// The store it is in.
    pub store: String,
    /// `sslFlags` of a binding.
    pub flags: u32,
    /// The application of an entry of http.sys.
    pub appid: String,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Binding { site, info } => write!(f, "{site} {info}"),
            Self::Endpoint { key, by } => write!(f, "http.sys {by}={key}"),
        }
    }
}

/// Whose certificate a unit shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Is {
    /// What was recorded, or as absent as was recorded.
    Former,
    /// The new one.
    New,
    /// A binding that was made and shows nothing yet, or one that is between two certificates.
    Between,
    /// Neither.
    Foreign,
}

impl UnitChange {
    /// Whose certificate `found` is.
    pub(super) fn classify(&self, found: Option<&Shown>) -> Is {
        let hash = |shown: Option<&Shown>| shown.map(|shown| shown.hash.clone());
        let (found, before) = (hash(found), hash(self.before.as_ref()));
        if found == before {
            return Is::Former;
        }
        match found {
            Some(found) if found == self.after.hash => Is::New,
            Some(found) if found.is_empty() => Is::Between,
            // Where an entry cannot be changed in one step it is taken away first. A binding never is.
            None if matches!(self.unit, Unit::Endpoint { .. }) => Is::Between,
            None => Is::Foreign,
            Some(_) => Is::Foreign,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_certificate_it_is() {
        let shown = |hash: &str| Shown { hash: hash.to_owned(), ..Shown::default() };
        let unit = Unit::Binding { site: "s".into(), info: "*:443:".into() };
        let change =
            |before: Option<&str>| UnitChange { unit: unit.clone(), before: before.map(shown), after: shown("NEW") };
        let replace = change(Some("OLD"));
        assert_eq!(replace.classify(Some(&shown("OLD"))), Is::Former);
        assert_eq!(replace.classify(Some(&shown("NEW"))), Is::New);
        assert_eq!(replace.classify(Some(&shown("OTHER"))), Is::Foreign);
        assert_eq!(replace.classify(Some(&shown(""))), Is::Between);
        assert_eq!(replace.classify(None), Is::Foreign, "somebody removed the binding");
        let entry = Unit::Endpoint { key: "0.0.0.0:443".into(), by: "ipport".into() };
        assert_eq!(UnitChange { unit: entry, ..change(Some("OLD")) }.classify(None), Is::Between);
        let create = change(None);
        assert_eq!(create.classify(None), Is::Former);
        assert_eq!(create.classify(Some(&shown(""))), Is::Between);
        assert_eq!(create.classify(Some(&shown("NEW"))), Is::New);
        let empty = change(Some(""));
        assert_eq!(empty.classify(Some(&shown(""))), Is::Former);
        assert_eq!(empty.classify(Some(&shown("OLD"))), Is::Foreign);
    }
}
