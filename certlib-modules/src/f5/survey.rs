//! What is there, and what is to be done about it.

use std::collections::{BTreeMap, BTreeSet};

use certlib_core::CertificateBundle;
use certlib_core::bundle::KeyType;
use certlib_core::error::{Error, Result};

use super::config::{F5Location, ProfileKind, ProfileRef};
use super::names::{Marker, Names, hex_digest};
use super::profile::{Pair, Selection, title};
use super::session::Session;
use super::undo::{Change, Object, Part};
use super::unit::{CertInfo, Files, Usage};
use super::{Delivery, OPERATION};

/// How many generations of objects stay: the one in use and the one before.
const GENERATIONS: usize = 2;

/// A look at the target, with what a delivery of one bundle would do to it.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) profiles: Vec<Found>,
    /// The parts of the bundle, and whether each is there already.
    pub(super) objects: Vec<(Object, bool)>,
    /// What the changed profiles get.
    pub(super) pair: Pair,
    /// Objects of former deliveries that nothing needs any more.
    pub(super) stale: Vec<Object>,
}

/// A profile of the target.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) kind: ProfileKind,
    pub(super) name: String,
    pub(super) entry: Option<String>,
    pub(super) selection: Selection,
    current: Option<CertInfo>,
    /// Whether it has the bundle already.
    pub(super) keep: bool,
    pub(super) heirs: Vec<String>,
    pub(super) virtual_servers: Vec<String>,
}

impl Found {
    pub(super) fn title(&self) -> String {
        title(self.kind, &self.name, self.entry.as_deref())
    }

    fn pair(&self) -> Option<&Pair> {
        self.selection.pair(self.entry.as_deref())
    }

    /// What it has now, as a line of a plan shows it.
    pub(super) fn before(&self) -> String {
        match (self.pair(), &self.current) {
            (Some(pair), Some(cert)) => format!("{} ({})", pair.show(), cert.show()),
            (Some(pair), None) => pair.show(),
            (None, _) => "no certificate".to_owned(),
        }
    }

    pub(super) fn change(&self, after: &Pair) -> Change {
        Change {
            kind: self.kind,
            name: self.name.clone(),
            entry: self.entry.clone(),
            before: self.pair().map(Pair::duplicate),
            after: after.duplicate(),
        }
    }

    /// What changes whenever the profile does, or what depends on it.
    fn digest(&self) -> String {
        let content = self.current.as_ref().map_or("none", CertInfo::digest);
        format!("{} {} {content} {:?} {:?}", self.title(), self.selection.show(), self.heirs, self.virtual_servers)
    }
}

impl Survey {
    pub(super) fn changes_anything(&self) -> bool {
        self.profiles.iter().any(|found| !found.keep)
    }

    /// A digest of what the target looks like.
    pub(super) fn base(&self) -> String {
        let profiles = self.profiles.iter().map(Found::digest);
        let objects = self.objects.iter().map(|(object, there)| format!("{} {there}", object.name));
        let stale = self.stale.iter().map(|object| object.name.clone());
        hex_digest(profiles.chain(objects).chain(stale).collect::<Vec<_>>().join("\n").as_bytes())
    }
}

impl Delivery<'_> {
    /// Looks at everything.
    ///
    /// # Errors
    /// `IoTransient` `unit_not_active`; `Validation` `profile_missing`, `profile_inherits`, `entry_missing`,
    /// `entry_ambiguous`, `name_taken`; as the requests.
    pub(super) async fn survey(&self, session: &Session<'_>, bundle: &CertificateBundle) -> Result<Survey> {
        session.check_active().await?;
        let (files, usage) = (session.files().await?, session.usage().await?);
        let marker = self.marker();
        let names = marker.names(bundle);
        let mut profiles = Vec::new();
        for profile in &self.location.profiles {
            profiles.push(find(session, profile, bundle, &files, &usage).await?);
        }
        let objects = objects(&names, &files, bundle)?;
        let pair = Pair::new(&names.cert, &names.key, names.chain.as_deref());
        let stale = stale(&marker, &names, &files, &usage, &profiles);
        Ok(Survey { profiles, objects, pair, stale })
    }

    /// How the module knows its own objects.
    pub(super) fn marker(&self) -> Marker {
        Marker::new(&self.config.name_prefix, self.target_id, self.location.folder())
    }
}

impl F5Location {
    /// The pair under whose names a bundle is delivered.
    pub(super) fn pair(&self, marker: &Marker, bundle: &CertificateBundle) -> Pair {
        let names = marker.names(bundle);
        Pair::new(&names.cert, &names.key, names.chain.as_deref())
    }
}

async fn find(
    session: &Session<'_>,
    profile: &ProfileRef,
    bundle: &CertificateBundle,
    files: &Files,
    usage: &Usage,
) -> Result<Found> {
    let ProfileRef { name, kind, .. } = profile;
    let invalid = |code: &'static str, why: &str| {
        Error::validation(OPERATION, code, why).with("profile", title(*kind, name, None))
    };
    let selection = session.selection(*kind, name).await?;
    let selection = selection.ok_or_else(|| invalid("profile_missing", "the profile does not exist"))?;
    if let Selection::Inherited { parent } = &selection {
        let why = "the profile has the certificate of its parent; deliver to the parent, or give the profile its own";
        return Err(invalid("profile_inherits", why).with("parent", parent.escape_debug()));
    }
    let entry = entry(&selection, profile, bundle, files, &invalid)?;
    let pair = selection.pair(entry.as_deref());
    let current = match pair {
        Some(pair) => match files.certs.get(&pair.cert) {
            Some(cert) => Some(cert.clone()),
            None => session.cert(&pair.cert).await?,
        },
        None => None,
    };
    let keep = match (&current, pair) {
        (Some(cert), Some(pair)) => cert.holds(bundle, 0) && has_issuers(cert, pair, bundle, files),
        _ => false,
    };
    let heirs = usage.heirs(*kind, name);
    let virtual_servers = usage.users(heirs.iter().map(String::as_str).chain([name.as_str()]));
    let (kind, name) = (*kind, name.clone());
    Ok(Found { kind, name, entry, selection, current, keep, heirs, virtual_servers })
}

/// Whether a profile also shows the issuers that come with the bundle.
fn has_issuers(cert: &CertInfo, pair: &Pair, bundle: &CertificateBundle, files: &Files) -> bool {
    if bundle.certificates().len() < 2 || cert.has_issuers() {
        return true;
    }
    let chain = pair.chain.as_ref().and_then(|chain| files.certs.get(chain));
    chain.is_some_and(|chain| chain.holds(bundle, 1))
}

/// Which entry of `certKeyChain` is meant; `None` where there is no such thing.
fn entry(
    selection: &Selection,
    profile: &ProfileRef,
    bundle: &CertificateBundle,
    files: &Files,
    invalid: &dyn Fn(&'static str, &str) -> Error,
) -> Result<Option<String>> {
    let Selection::Entries(entries) = selection else {
        return match &profile.entry {
            Some(_) => Err(invalid("entry_missing", "the profile has no entries to choose from")),
            None => Ok(None),
        };
    };
    if let Some(wanted) = &profile.entry {
        return match entries.iter().any(|own| own.name == *wanted) {
            true => Ok(Some(wanted.clone())),
            false => Err(invalid("entry_missing", "the profile has no such entry").with("entry", wanted)),
        };
    }
    if let [only] = entries.as_slice() {
        return Ok(Some(only.name.clone()));
    }
    let prefix = match bundle.key().map(certlib_core::bundle::PrivateKey::kind) {
        Some(KeyType::EcdsaP256 | KeyType::EcdsaP384 | KeyType::EcdsaP521) => "ec",
        Some(KeyType::Ed25519) => "ed",
        _ => "rsa",
    };
    let mut fitting =
        entries.iter().filter(|own| files.certs.get(&own.pair.cert).is_some_and(|cert| cert.has_key_type(prefix)));
    match (fitting.next(), fitting.next()) {
        (Some(own), None) => Ok(Some(own.name.clone())),
        _ => {
            let why =
                "the profile has several entries, and the kind of key does not tell which one is meant; set `entry`";
            Err(invalid("entry_ambiguous", why))
        }
    }
}

/// What has to be there, and whether it is.
fn objects(names: &Names, files: &Files, bundle: &CertificateBundle) -> Result<Vec<(Object, bool)>> {
    let taken = |name: &str| {
        let why = "an object with the name that the new one would get has other content; remove it";
        Error::validation(OPERATION, "name_taken", why).with("name", name)
    };
    let there = |name: &str, index: usize| match files.certs.get(name) {
        Some(cert) if cert.holds(bundle, index) => Ok(true),
        Some(_) => Err(taken(name)),
        None => Ok(false),
    };
    let object = |part, name: &String| Object { part, name: name.clone() };
    let mut objects = vec![
        // Whether it is the right key is checked by the unit when the profile is switched.
        (object(Part::Key, &names.key), files.keys.contains(&names.key)),
        (object(Part::Cert, &names.cert), there(&names.cert, 0)?),
    ];
    if let Some(chain) = &names.chain {
        objects.push((object(Part::Chain, chain), there(chain, 1)?));
    }
    Ok(objects)
}

/// Objects of older generations that no profile names, and that are not needed for the way back.
fn stale(marker: &Marker, names: &Names, files: &Files, usage: &Usage, profiles: &[Found]) -> Vec<Object> {
    let needed: BTreeSet<&str> = profiles.iter().flat_map(|found| found.selection.files()).collect();
    let certs = files.certs.keys().map(|name| (Part::Cert, name));
    let keys = files.keys.iter().map(|name| (Part::Key, name));
    let mut generations: BTreeMap<&str, Vec<Object>> = BTreeMap::new();
    for (part, name) in certs.chain(keys) {
        if let Some(generation) = marker.generation(name) {
            generations.entry(generation).or_default().push(Object { part, name: name.clone() });
        }
    }
    let current = marker.generation(&names.cert);
    let older = generations.into_iter().rev().filter(|(generation, _)| Some(*generation) != current);
    let old = older.skip(GENERATIONS - 1).flat_map(|(_, objects)| objects);
    let mut stale: Vec<Object> =
        old.filter(|object| !usage.files.contains(&object.name) && !needed.contains(object.name.as_str())).collect();
    stale.sort_by(|a, b| a.name.cmp(&b.name));
    stale
}
