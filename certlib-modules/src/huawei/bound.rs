//! Which certificate a resource uses, and the change from one to another.

use certlib_core::Fingerprint;
use certlib_core::bundle::LeafInfo;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::config::Place;
use super::elb::Refs;
use super::leaf;

/// A certificate that a resource uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Held {
    /// Its id; empty for one that was given to the delivery network itself, which has none.
    pub(super) id: String,
    pub(super) name: String,
    /// Its leaf, where the service shows the certificate.
    pub(super) leaf: Option<Fingerprint>,
    /// The names that it is for.
    pub(super) names: Vec<String>,
    /// When it expires, in seconds since 1970.
    pub(super) expires: Option<i64>,
}

impl Held {
    pub(super) fn new(id: &str, name: &str, leaf: Option<&LeafInfo>) -> Self {
        Self {
            id: id.to_owned(),
            name: name.to_owned(),
            leaf: leaf.map(|leaf| leaf.fingerprint),
            names: leaf.map(|leaf| leaf.names.clone()).unwrap_or_default(),
            expires: leaf.map(|leaf| leaf.not_after.unix_timestamp()),
        }
    }

    /// The same certificate with the same content, as far as the service shows it.
    pub(super) fn is(&self, other: &Self) -> bool {
        let same_leaf = self.leaf.zip(other.leaf).is_none_or(|(one, two)| one == two);
        self.id == other.id && same_leaf
    }

    /// Whether it is the certificate with this leaf, or, where the service does not show it, one of `ids`.
    pub(super) fn holds(&self, leaf: Fingerprint, ids: &[String]) -> bool {
        self.leaf.map_or_else(|| ids.contains(&self.id), |own| own == leaf)
    }

    /// How plans show it.
    pub(super) fn label(&self) -> String {
        let leaf = self.leaf.map_or_else(|| "unknown content".to_owned(), |leaf| format!("sha256 {leaf}"));
        match (self.id.as_str(), self.name.as_str()) {
            ("", "") => leaf,
            (id, "") | ("", id) => format!("{id} ({leaf})"),
            (id, name) => format!("{id} `{name}` ({leaf})"),
        }
    }
}

/// Which certificates a resource uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Bound {
    /// A listener of a load balancer.
    Listener { default: Option<Held>, sni: Vec<Held> },
    /// A host behind the firewall.
    Host { hostname: String, held: Option<Held> },
    /// A domain of the delivery network.
    Domain { https: bool, source: Source, held: Option<Held> },
}

/// Where the delivery network has a certificate from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Source {
    /// From the certificate manager, by id.
    Scm,
    /// From somebody who gave it certificate and key, or from its own management. It never gives the key back.
    Own,
}

/// Whose certificate a resource uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// That from before the change.
    Former,
    /// The new one.
    New,
    /// Somebody else's.
    Foreign,
}

/// A change of what a resource uses.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Change {
    pub(super) former: Bound,
    pub(super) new: Held,
    pub(super) place: Place,
    /// Certificates chosen by name whose place the new one takes.
    pub(super) replaced: Vec<Held>,
}

impl Bound {
    /// Whether the certificate with this leaf is used in every place it is meant for; `ids` are those under which the
    /// stores have it.
    pub(super) fn holds(&self, place: Place, leaf: Fingerprint, ids: &[String]) -> bool {
        let is = |held: &Held| held.holds(leaf, ids);
        match self {
            Self::Listener { default, sni } => {
                (!place.is_default() || default.as_ref().is_some_and(is)) && (!place.is_sni() || sni.iter().any(is))
            }
            Self::Host { held, .. } => held.as_ref().is_some_and(is),
            Self::Domain { https, held, .. } => *https && held.as_ref().is_some_and(is),
        }
    }

    /// Whether what is used now can be used again later: the delivery network cannot go back to material that only it
    /// knows.
    pub(super) fn is_restorable(&self) -> bool {
        !matches!(self, Self::Domain { https: true, source: Source::Own, .. })
    }

    /// The certificates chosen by name that share a name with `names`.
    pub(super) fn overlapping(&self, place: Place, names: &[String]) -> Vec<Held> {
        let Self::Listener { sni, .. } = self else { return Vec::new() };
        let overlaps = |held: &&Held| place.is_sni() && held.names.iter().any(|name| names.contains(name));
        sni.iter().filter(overlaps).cloned().collect()
    }

    /// The names of all certificates that are used.
    pub(super) fn names(&self) -> Vec<&str> {
        let held: Vec<&Held> = match self {
            Self::Listener { default, sni } => default.iter().chain(sni).collect(),
            Self::Host { held, .. } | Self::Domain { held, .. } => held.iter().collect(),
        };
        held.into_iter().map(|held| held.name.as_str()).collect()
    }

    /// What plans show of it, for one place.
    pub(super) fn label(&self, place: Place) -> String {
        let or_none = |held: &Option<Held>| held.as_ref().map_or_else(|| "none".to_owned(), Held::label);
        match self {
            Self::Listener { default, .. } if place == Place::Default => or_none(default),
            Self::Listener { sni, .. } if sni.is_empty() => "none".to_owned(),
            Self::Listener { sni, .. } => sni.iter().map(Held::label).collect::<Vec<_>>().join(", "),
            Self::Domain { https: false, .. } => "HTTPS is off".to_owned(),
            Self::Host { held, .. } | Self::Domain { held, .. } => or_none(held),
        }
    }
}

impl Change {
    /// The change from what is used now to `new` in `place`.
    pub(super) fn new(former: Bound, new: Held, place: Place) -> Self {
        let replaced = former.overlapping(place, &new.names);
        Self { former, new, place, replaced }
    }

    /// Whose certificate is used now. Only the places of the change count: others belong to others.
    pub(super) fn whose(&self, now: &Bound) -> Whose {
        match (&self.former, now) {
            (Bound::Listener { default: former, .. }, Bound::Listener { default, sni }) => {
                let default = self.place.is_default().then(|| self.whose_single(former.as_ref(), default.as_ref()));
                let sni = self.place.is_sni().then(|| self.whose_sni(sni));
                match (default, sni) {
                    (Some(one), None) | (None, Some(one)) => one,
                    (Some(one), Some(two)) if one == two => one,
                    _ => Whose::Foreign,
                }
            }
            (Bound::Host { held: former, .. }, Bound::Host { held, .. }) => {
                self.whose_single(former.as_ref(), held.as_ref())
            }
            (Bound::Domain { https: false, .. }, Bound::Domain { https: false, .. }) => Whose::Former,
            (Bound::Domain { .. }, Bound::Domain { https: true, source: Source::Scm, held: Some(held) })
                if held.is(&self.new) =>
            {
                Whose::New
            }
            (
                Bound::Domain { https: true, source: was, held: former },
                Bound::Domain { https: true, source: is, held },
            ) if was == is => self.whose_single(former.as_ref(), held.as_ref()),
            _ => Whose::Foreign,
        }
    }

    fn whose_single(&self, former: Option<&Held>, now: Option<&Held>) -> Whose {
        match (former, now) {
            (_, Some(now)) if now.is(&self.new) => Whose::New,
            (Some(former), Some(now)) if now.is(former) => Whose::Former,
            (None, None) => Whose::Former,
            _ => Whose::Foreign,
        }
    }

    fn whose_sni(&self, now: &[Held]) -> Whose {
        let there = |held: &Held| now.iter().any(|now| now.is(held));
        let formers = self.replaced.iter().filter(|held| there(held)).count();
        match (there(&self.new), formers) {
            (true, 0) => Whose::New,
            (false, all) if all == self.replaced.len() => Whose::Former,
            _ => Whose::Foreign,
        }
    }

    /// What a listener that uses `now` must refer to for the change to be made.
    pub(super) fn forward<'a>(&'a self, now: &'a Bound) -> Refs<'a> {
        let replaced: Vec<&str> = self.replaced.iter().map(|held| held.id.as_str()).collect();
        self.refs(Some(&self.new.id), now, &replaced, &[&self.new.id])
    }

    /// What a listener that uses `now` must refer to for the change to be taken back.
    pub(super) fn back<'a>(&'a self, now: &'a Bound) -> Refs<'a> {
        let former = match &self.former {
            Bound::Listener { default, .. } => default.as_ref().map(|held| held.id.as_str()),
            Bound::Host { .. } | Bound::Domain { .. } => None,
        };
        let replaced: Vec<&str> = self.replaced.iter().map(|held| held.id.as_str()).collect();
        self.refs(former, now, &[&self.new.id], &replaced)
    }

    /// `default`, and the names' certificates with `put` where the first of `take` was.
    fn refs<'a>(&self, default: Option<&'a str>, now: &'a Bound, take: &[&str], put: &[&'a str]) -> Refs<'a> {
        let Bound::Listener { sni, .. } = now else { return Refs::default() };
        let ids: Vec<&str> = sni.iter().map(|held| held.id.as_str()).collect();
        let at = ids.iter().position(|id| take.contains(id)).unwrap_or(ids.len());
        let stays = |id: &&str| !take.contains(id) && !put.contains(id);
        let (before, after) = ids.split_at(at);
        let list = before.iter().copied().filter(stays).chain(put.iter().copied());
        let list = list.chain(after.iter().copied().filter(stays)).collect();
        Refs { default: default.filter(|_| self.place.is_default()), sni: self.place.is_sni().then_some(list) }
    }

    /// The former certificates that would come back.
    pub(super) fn formers(&self) -> Vec<&Held> {
        let single = match &self.former {
            Bound::Listener { default, .. } => default.as_ref().filter(|_| self.place.is_default()),
            Bound::Host { held, .. } | Bound::Domain { https: true, held, .. } => held.as_ref(),
            Bound::Domain { https: false, .. } => None,
        };
        single.into_iter().chain(&self.replaced).collect()
    }

    /// A former certificate that is not valid any more.
    pub(super) fn expired(&self, now: OffsetDateTime) -> Option<&Held> {
        self.formers().into_iter().find(|held| held.expires.is_some_and(|expires| expires <= now.unix_timestamp()))
    }
}

/// A name of `replaced` that `names` cannot serve.
pub(super) fn lost_name<'a>(replaced: &'a [Held], names: &[String]) -> Option<&'a str> {
    replaced.iter().flat_map(|held| &held.names).map(String::as_str).find(|name| !leaf::covers(names, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(id: &str, names: &[&str]) -> Held {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Held { id: id.into(), name: id.into(), leaf: None, names, expires: Some(1_000) }
    }

    fn listener(default: &str, sni: &[&Held]) -> Bound {
        Bound::Listener { default: Some(held(default, &[])), sni: sni.iter().map(|held| (*held).clone()).collect() }
    }

    fn refs(refs: Refs<'_>) -> (Option<&str>, Option<Vec<&str>>) {
        (refs.default, refs.sni)
    }

    #[test]
    fn a_default_leaves_the_others_alone() {
        let other = held("o", &["o.example"]);
        let former = listener("old", &[&other]);
        let change = Change::new(former.clone(), held("new", &["a.example"]), Place::Default);
        assert_eq!(change.whose(&former), Whose::Former);
        assert_eq!(change.whose(&listener("old", &[])), Whose::Former, "who else is chosen by name is none of ours");
        assert_eq!(change.whose(&listener("new", &[])), Whose::New);
        assert_eq!(change.whose(&listener("else", &[&other])), Whose::Foreign);
        assert_eq!(refs(change.forward(&former)), (Some("new"), None));
        assert_eq!(refs(change.back(&listener("new", &[]))), (Some("old"), None));
    }

    #[test]
    fn a_name_takes_the_place_of_those_that_share_it() {
        let (one, two, three) = (held("1", &["x.example"]), held("2", &["a.example"]), held("3", &["b.example"]));
        let former = listener("d", &[&one, &two, &three]);
        let new = held("new", &["a.example", "b.example"]);
        let change = Change::new(former.clone(), new.clone(), Place::Sni);
        assert_eq!(change.replaced, [two.clone(), three.clone()]);
        assert_eq!(refs(change.forward(&former)), (None, Some(vec!["1", "new"])));
        let done = listener("d", &[&one, &new]);
        assert_eq!((change.whose(&former), change.whose(&done)), (Whose::Former, Whose::New));
        assert_eq!(refs(change.back(&done)), (None, Some(vec!["1", "2", "3"])));
        assert_eq!(change.whose(&listener("d", &[&one, &two])), Whose::Foreign);
        assert_eq!(change.whose(&listener("d", &[&new, &two])), Whose::Foreign);
        let more = listener("d", &[&one, &new, &held("9", &["y.example"])]);
        assert_eq!(refs(change.back(&more)).1.unwrap(), ["1", "2", "3", "9"], "what others added stays");
    }

    #[test]
    fn a_new_name_joins_and_leaves() {
        let one = held("1", &["x.example"]);
        let new = held("new", &["a.example"]);
        let change = Change::new(listener("d", &[&one]), new.clone(), Place::Both);
        assert_eq!(refs(change.forward(&listener("d", &[&one]))), (Some("new"), Some(vec!["1", "new"])));
        let done = listener("new", &[&one, &new]);
        assert_eq!(change.whose(&done), Whose::New);
        assert_eq!(refs(change.back(&done)), (Some("d"), Some(vec!["1"])));
        assert_eq!(change.whose(&listener("d", &[&one, &new])), Whose::Foreign, "half of it is nobody's");
    }

    #[test]
    fn the_same_id_with_other_content_is_foreign() {
        let with = |id: &str, byte: u8| Held { leaf: Some(Fingerprint::from_bytes([byte; 32])), ..held(id, &[]) };
        let host = |held: Held| Bound::Host { hostname: "a.example".into(), held: Some(held) };
        let change = Change::new(host(with("old", 1)), with("new", 2), Place::Default);
        assert_eq!(change.whose(&host(with("old", 1))), Whose::Former);
        assert_eq!(change.whose(&host(with("new", 2))), Whose::New);
        assert_eq!(change.whose(&host(with("old", 3))), Whose::Foreign);
        assert_eq!(change.whose(&host(with("new", 3))), Whose::Foreign);
    }

    #[test]
    fn domains() {
        let domain = |https, source, id: &str| Bound::Domain { https, source, held: Some(held(id, &[])) };
        let off = domain(false, Source::Own, "");
        let change = |former: &Bound| Change::new(former.clone(), held("new", &[]), Place::Default);
        assert_eq!(change(&off).whose(&off), Whose::Former);
        assert_eq!(change(&off).whose(&domain(true, Source::Scm, "new")), Whose::New);
        assert_eq!(change(&off).whose(&domain(true, Source::Scm, "else")), Whose::Foreign);
        let own = domain(true, Source::Own, "");
        assert!(!own.is_restorable() && off.is_restorable());
        assert_eq!(change(&own).whose(&own), Whose::Former);
        assert_eq!(change(&own).whose(&off), Whose::Foreign);
        assert_eq!(change(&own).whose(&domain(true, Source::Scm, "old")), Whose::Foreign);
    }

    #[test]
    fn lost_names_and_expired_formers() {
        let names = ["*.a.example".to_owned()];
        assert_eq!(lost_name(&[held("1", &["x.a.example"])], &names), None);
        assert_eq!(lost_name(&[held("1", &["x.a.example", "b.example"])], &names), Some("b.example"));
        let change = Change::new(listener("d", &[]), held("new", &[]), Place::Default);
        let at = |seconds| OffsetDateTime::from_unix_timestamp(seconds).unwrap();
        assert!(change.expired(at(999)).is_none());
        assert_eq!(change.expired(at(1_000)).unwrap().id, "d");
    }
}
