//! Looking at the appliance: what is there, and what would have to change.

use std::collections::{BTreeMap, BTreeSet};

use certlib_core::bundle::LeafInfo;
use certlib_core::error::{Error, Result};
use certlib_core::{CertificateBundle, Fingerprint};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::names::{self, Folder, Names};
use super::objects::{Bound, Pair, serial};
use super::session::Session;
use super::undo::{After, Delivery, Garbage, HolderChange, Issuer};
use super::{Chain, HolderKind, NetScalerConfig, NetScalerCredentials, NetScalerLocation, OPERATION, Switch};

/// A certificate that is wanted on the appliance.
struct Wanted<'a> {
    der: &'a [u8],
    info: LeafInfo,
}

impl<'a> Wanted<'a> {
    fn new(der: &'a [u8]) -> Result<Self> {
        let info = CertificateBundle::new(vec![der.to_vec()], None)?.leaf().clone();
        Ok(Self { der, info })
    }

    fn fingerprint(&self) -> Fingerprint {
        self.info.fingerprint
    }
}

/// A look at the appliance on behalf of one target.
pub(super) struct Survey<'s, 'a> {
    pub(super) session: &'s mut Session<'a>,
    pub(super) location: &'a NetScalerLocation,
    pub(super) config: &'a NetScalerConfig,
    pub(super) credentials: &'a NetScalerCredentials,
    names: Names,
    folder: Folder,
    pairs: BTreeMap<String, Pair>,
    files: BTreeSet<String>,
}

impl<'s, 'a> Survey<'s, 'a> {
    /// Reads every pair, and the names of the files.
    pub(super) async fn begin(
        session: &'s mut Session<'a>,
        location: &'a NetScalerLocation,
        config: &'a NetScalerConfig,
        credentials: &'a NetScalerCredentials,
    ) -> Result<Self> {
        let folder = config.folder(location);
        let pairs = session.pairs().await?;
        let files = session.files(&folder.path).await?;
        let names = Names::new(&location.certkey);
        Ok(Self { session, location, config, credentials, names, folder, pairs, files })
    }

    /// What has to be done so that the target holds `bundle`.
    ///
    /// # Errors
    /// `Validation`: `chain_conflict`, `name_taken`, `certificate_taken`, `holder_missing`, `former_key_encrypted`.
    pub(super) async fn delivery(mut self, bundle: &CertificateBundle) -> Result<Delivery> {
        let certificates = bundle.certificates().iter();
        let mut wanted = certificates.map(|der| Wanted::new(der)).collect::<Result<Vec<_>>>()?.into_iter();
        let Some(leaf) = wanted.next() else { return Err(broken()) };
        let issuers = match self.config.chain {
            Chain::Keep => Vec::new(),
            _ => self.issuers(wanted.collect()).await?,
        };
        let family = self.family();
        let (pair, holds) = self.pair(&leaf, &family).await?;
        let before = self.pairs.get(&pair).cloned();
        let (cert, key) = match (&before, holds) {
            (Some(before), true) => (before.cert.clone(), before.key.clone()),
            _ => {
                let (cert, key) = self.names.files(&leaf.info);
                (self.folder.reference(&cert), Some(self.folder.reference(&key)))
            }
        };
        let link = match self.config.chain {
            Chain::Keep => before.as_ref().and_then(|before| before.link.clone()),
            _ => issuers.first().map(|issuer| issuer.name.clone()),
        };
        let serial = serial(&leaf.info.serial);
        let after = After { cert, key, link, serial, fingerprint: leaf.fingerprint() };
        let restorable = match &before {
            Some(before) if !holds => self.check_former(before).await?,
            _ => true,
        };
        let holders = self.holders(&pair, &family).await?;
        let own = [Some(&after.cert), after.key.as_ref()].into_iter().flatten().filter(|_| !holds);
        let own = own.filter_map(|file| self.folder.file(file)).map(str::to_owned);
        let needed = own.chain(issuers.iter().filter_map(|issuer| issuer.added.clone()));
        let files = needed.filter(|file| !self.files.contains(file)).collect();
        let mut delivery = Delivery {
            appliance: self.location.appliance(),
            folder: self.folder.clone(),
            pair,
            before,
            restorable,
            after,
            files,
            issuers,
            holders,
            garbage: Garbage::default(),
        };
        if delivery.changes_anything() {
            delivery.garbage = self.garbage(&delivery, &family).await?;
        }
        Ok(delivery)
    }

    /// The pairs that this target's certificate may be in.
    fn family(&self) -> Vec<String> {
        let own = self.pairs.keys().filter(|name| **name == self.location.certkey || self.names.is_pair(name));
        own.cloned().collect()
    }

    /// Whether a pair holds this certificate: by its serial number, and by its file if that may be read.
    async fn holds(&mut self, name: &str, wanted: &Wanted<'_>) -> Result<bool> {
        let Some(pair) = self.pairs.get(name).filter(|pair| pair.serial == serial(&wanted.info.serial)) else {
            return Ok(false);
        };
        let expires = pair.expires();
        let cert = pair.cert.clone();
        let (folder, file) = self.folder.split(&cert);
        let Some(content) = self.session.file(folder, file).await? else {
            return Ok(expires.is_none_or(|at| at == wanted.info.not_after.replace_nanosecond(0).unwrap_or(at)));
        };
        Ok(match CertificateDer::pem_slice_iter(&content).next() {
            Some(Ok(der)) => &*der == wanted.der,
            _ => content.as_slice() == wanted.der,
        })
    }

    /// The pair, whichever it is, that holds this certificate. The appliance keeps none twice.
    async fn holder_of(&mut self, wanted: &Wanted<'_>) -> Result<Option<String>> {
        let number = serial(&wanted.info.serial);
        let candidates: Vec<_> =
            self.pairs.iter().filter(|(_, pair)| pair.serial == number).map(|(name, _)| name.clone()).collect();
        for name in candidates {
            if self.holds(&name, wanted).await? {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// The pair that is to hold the leaf, and whether it does already.
    async fn pair(&mut self, leaf: &Wanted<'_>, family: &[String]) -> Result<(String, bool)> {
        let holder = self.holder_of(leaf).await?;
        let certkey = &self.location.certkey;
        let in_update = self.config.switch == Switch::Update;
        match holder {
            Some(name) if name == *certkey || (!in_update && family.contains(&name)) => Ok((name, true)),
            Some(name) => Err(Error::validation(
                OPERATION,
                "certificate_taken",
                "the appliance has this certificate under another name, and keeps none twice; remove or rename that pair",
            )
            .with("certkey", name)),
            None if in_update => Ok((certkey.clone(), false)),
            // The very first pair may have the name that was asked for.
            None if family.is_empty() => Ok((certkey.clone(), false)),
            None => {
                let name = self.names.pair(leaf.fingerprint());
                if self.pairs.contains_key(&name) { Err(name_taken(&name)) } else { Ok((name, false)) }
            }
        }
    }

    /// The issuers: those that are there, and those to be added.
    async fn issuers(&mut self, chain: Vec<Wanted<'_>>) -> Result<Vec<Issuer>> {
        let mut issuers = Vec::with_capacity(chain.len());
        for wanted in &chain {
            let found = self.holder_of(wanted).await?;
            let added = match &found {
                Some(_) => None,
                None => Some(names::issuer_file(wanted.fingerprint())),
            };
            let name = found.unwrap_or_else(|| names::issuer(wanted.fingerprint()));
            if added.is_some() && self.pairs.contains_key(&name) {
                return Err(name_taken(&name));
            }
            let link = self.pairs.get(&name).and_then(|pair| pair.link.clone());
            let fingerprint = wanted.fingerprint();
            issuers.push(Issuer { name, fingerprint, added, link_before: link.clone(), link_after: link });
        }
        for index in 1..issuers.len() {
            let above = issuers[index].name.clone();
            let issuer = &mut issuers[index - 1];
            match &issuer.link_before {
                None => issuer.link_after = Some(above),
                Some(link) if *link == above => {}
                Some(_) if self.config.chain == Chain::Lenient => {
                    // What is above it is not reached any more.
                    issuers.truncate(index);
                    break;
                }
                Some(link) => {
                    let why = "an issuer's certificate is on the appliance already, and linked to another one than \
                               this chain wants; others may rely on that: change it there, or set `chain` to `lenient`";
                    let (link, name) = (link.clone(), issuer.name.clone());
                    return Err(Error::validation(OPERATION, "chain_conflict", why)
                        .with("certkey", name)
                        .with("linked_to", link)
                        .with("wanted", above));
                }
            }
        }
        Ok(issuers)
    }

    /// Whether the pair can be made again as it was: with its files, and its key's pass phrase.
    async fn check_former(&mut self, before: &Pair) -> Result<bool> {
        let named = [Some(&before.cert), before.key.as_ref()].into_iter().flatten();
        let there = named.filter_map(|file| self.folder.file(file)).all(|file| self.files.contains(file));
        let Some(key) = before.key.as_ref().filter(|_| self.credentials.former_passphrase.is_none()) else {
            return Ok(there);
        };
        let is_ours = self.folder.file(key).is_some_and(|file| self.names.generation(file).is_some());
        if is_ours || !there {
            return Ok(there);
        }
        let (folder, file) = self.folder.split(key);
        let content = self.session.file(folder, file).await?;
        let encrypted = content.is_some_and(|content| content.windows(9).any(|part| part == b"ENCRYPTED"));
        if encrypted {
            let why = "the pair's present key is encrypted, so there would be no way back; \
                       give its pass phrase as `former_passphrase`";
            return Err(Error::validation(OPERATION, "former_key_encrypted", why).with("key", key));
        }
        Ok(true)
    }

    /// What changes for virtual servers, services and service groups.
    async fn holders(&mut self, pair: &str, family: &[String]) -> Result<Vec<HolderChange>> {
        let mut concerned = BTreeSet::new();
        if self.config.switch == Switch::Rebind {
            let others: Vec<_> = family.iter().filter(|member| *member != pair).collect();
            for member in others {
                concerned.extend(self.session.holders(member).await?);
            }
        }
        let configured = self.config.bind.iter().map(|bind| (bind.kind, bind.name.clone()));
        concerned.extend(configured);
        let mut changes = Vec::new();
        for (kind, name) in concerned {
            let Some(before) = self.session.bindings(kind, &name).await? else {
                let why = "what the certificate is to be bound to does not exist";
                return Err(Error::validation(OPERATION, "holder_missing", why)
                    .with("kind", kind.word())
                    .with("name", name));
            };
            let moves = |bound: &Bound| {
                let former = self.config.switch == Switch::Rebind && family.contains(&bound.certkey);
                Bound { certkey: if former { pair.to_owned() } else { bound.certkey.clone() }, sni: bound.sni }
            };
            let mut after: BTreeSet<_> = before.iter().map(moves).collect();
            let asked = self.config.bind.iter().find(|bind| bind.kind == kind && bind.name == name);
            after.extend(asked.map(|bind| Bound { certkey: pair.to_owned(), sni: bind.sni }));
            if after != before {
                changes.push(HolderChange { kind, name, before, after });
            }
        }
        Ok(changes)
    }

    /// What earlier deliveries left: all but the newest besides what comes and what is there.
    async fn garbage(&mut self, delivery: &Delivery, family: &[String]) -> Result<Garbage> {
        let mut pairs = Vec::new();
        let mut former_is_ours = false;
        let mut idle = Vec::new();
        let ours = family.iter().filter(|member| self.names.is_pair(member) && **member != delivery.pair);
        for member in ours.collect::<Vec<_>>() {
            if self.session.holders(member).await?.is_empty() {
                let cert = self.pairs.get(member).and_then(|pair| self.folder.file(&pair.cert));
                let generation = cert.and_then(|cert| self.names.generation(cert)).map(str::to_owned);
                idle.push((generation, member.clone()));
            } else {
                former_is_ours = true;
            }
        }
        idle.sort();
        let kept = usize::from(!former_is_ours);
        pairs.extend(idle.into_iter().rev().skip(kept).map(|(_, member)| member));
        let stays = |name: &String| !pairs.contains(name);
        let linked: BTreeSet<_> =
            self.pairs.iter().filter(|(name, _)| stays(name)).filter_map(|(_, pair)| pair.link.clone()).collect();
        let wanted: BTreeSet<_> = delivery.issuers.iter().map(|issuer| &issuer.name).collect();
        let needless = |name: &&String| names::is_issuer(name) && !linked.contains(*name) && !wanted.contains(name);
        let issuers: Vec<_> = self.pairs.keys().filter(needless).cloned().collect();
        pairs.extend(issuers);
        let files = self.needless_files(delivery, &pairs);
        Ok(Garbage { pairs, files })
    }

    fn needless_files(&self, delivery: &Delivery, pairs: &[String]) -> Vec<String> {
        let staying = self.pairs.iter().filter(|(name, _)| !pairs.contains(name));
        let used = staying.flat_map(|(_, pair)| [Some(&pair.cert), pair.key.as_ref()]).flatten();
        let after = [Some(&delivery.after.cert), delivery.after.key.as_ref()].into_iter().flatten();
        let used: BTreeSet<_> = used.chain(after).filter_map(|path| self.folder.file(path)).collect();
        let generation = |file: &&str| self.names.generation(file).map(str::to_owned);
        let in_use: BTreeSet<_> = used.iter().filter_map(generation).collect();
        let free = self.files.iter().filter(|file| !used.contains(file.as_str()));
        let mut old: Vec<_> = free.filter_map(|file| Some((generation(&file.as_str())?, file.clone()))).collect();
        old.retain(|(generation, _)| !in_use.contains(generation));
        old.sort();
        // Two generations: what comes, and what is there, or the newest one before if that is not ours.
        let former = delivery.before.as_ref().and_then(|before| self.folder.file(&before.cert));
        let former_is_ours = former.is_some_and(|file| self.names.generation(file).is_some()) || in_use.len() > 1;
        let kept = old.last().map(|(newest, _)| newest.clone()).filter(|_| !former_is_ours);
        let mut files: Vec<_> =
            old.into_iter().filter(|(generation, _)| Some(generation) != kept.as_ref()).map(|(_, file)| file).collect();
        let orphan = |file: &&String| {
            let name = file.strip_suffix(".cer").filter(|name| names::is_issuer(name));
            let comes = delivery.issuers.iter().any(|issuer| issuer.added.as_ref() == Some(*file));
            name.is_some() && !used.contains(file.as_str()) && !comes
        };
        files.extend(self.files.iter().filter(orphan).cloned());
        files
    }
}

fn name_taken(name: &str) -> Error {
    let why = "a pair of the name that this certificate would get holds another one; remove or rename that pair";
    Error::validation(OPERATION, "name_taken", why).with("certkey", name)
}

fn broken() -> Error {
    Error::validation(OPERATION, "chain_empty", "the bundle has no certificate")
}

impl HolderKind {
    /// For plans.
    pub(super) fn label(self, name: &str) -> String {
        format!("{} {name}", self.word())
    }
}
