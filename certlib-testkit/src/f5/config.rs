//! The configuration: what a transaction copies, changes, and puts in place as a whole.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::{
    answer::{Outcome, Refusal, link},
    call::{Call, field},
    files::{self, CertFile, KeyFile},
    name, page,
    profile::{self, Profile, Profiles, Side},
    virtuals::{self, Virtual},
};

/// Where uploads lie.
pub(super) const DOWNLOADS: &str = "/var/config/rest/downloads/";

/// All that is configured.
#[derive(Clone, Debug, Default)]
pub(super) struct Config {
    /// Partitions and the folders in them.
    pub(super) folders: BTreeSet<String>,
    pub(super) certs: BTreeMap<String, CertFile>,
    pub(super) keys: BTreeMap<String, KeyFile>,
    pub(super) client_ssl: Profiles,
    pub(super) server_ssl: Profiles,
    pub(super) virtuals: BTreeMap<String, Virtual>,
}

/// What a change may look at besides the configuration.
#[derive(Debug)]
pub(super) struct Surroundings<'a> {
    pub(super) uploads: &'a BTreeMap<String, Vec<u8>>,
    pub(super) now: OffsetDateTime,
}

impl Config {
    pub(super) fn profiles(&self, side: Side) -> &Profiles {
        match side {
            Side::Client => &self.client_ssl,
            Side::Server => &self.server_ssl,
        }
    }

    pub(super) fn profiles_mut(&mut self, side: Side) -> &mut Profiles {
        match side {
            Side::Client => &mut self.client_ssl,
            Side::Server => &mut self.server_ssl,
        }
    }

    /// Whether a call is about the configuration at all.
    pub(super) fn knows(call: &Call) -> bool {
        matches!(
            call.route().as_slice(),
            ["tm", "sys", "file", "ssl-cert" | "ssl-key", ..]
                | ["tm", "sys", "crypto", "cert" | "key", ..]
                | ["tm", "ltm", "profile", "client-ssl" | "server-ssl", ..]
                | ["tm", "ltm", "virtual", ..]
                | ["tm", "auth", "partition", ..]
                | ["tm", "sys", "folder", ..]
        )
    }

    /// Answers a `GET`.
    pub(super) fn look(&self, call: &Call) -> Outcome {
        let list = |kind: &str, items: Vec<Value>| page::collection(kind, &call.path, &call.query, items.into_iter());
        let one = |shown: Option<Value>, kind: &str, name: &str| {
            shown.map(|shown| page::select(&call.query, shown)).ok_or_else(|| Refusal::absent(kind, name))
        };
        match call.route().as_slice() {
            ["tm", "sys", "file" | "crypto", "ssl-cert" | "cert"] => list(
                "tm:sys:file:ssl-cert:ssl-certcollectionstate",
                self.certs.iter().map(|(name, file)| file.show(name)).collect(),
            ),
            ["tm", "sys", "file" | "crypto", "ssl-key" | "key"] => list(
                "tm:sys:file:ssl-key:ssl-keycollectionstate",
                self.keys.iter().map(|(name, file)| file.show(name)).collect(),
            ),
            ["tm", "sys", area @ ("file" | "crypto"), kind, segment] => {
                let name = name::from_url(segment);
                let (mut shown, title) = match *kind {
                    "ssl-cert" | "cert" => (self.certs.get(&name).map(|file| file.show(&name)), CERT),
                    _ => (self.keys.get(&name).map(|file| file.show(&name)), KEY),
                };
                if let (Some(shown), "crypto") = (&mut shown, *area) {
                    shown["kind"] = json!(format!("tm:sys:crypto:{kind}:{kind}state"));
                }
                one(shown, title, &name)
            }
            ["tm", "ltm", "profile", side] => {
                let Some(side) = Side::of(side) else { return Err(Refusal::no_route(&call.path)) };
                let profiles = self.profiles(side);
                let kind = format!("tm:ltm:profile:{0}:{0}collectionstate", side.segment());
                let shown = profiles.keys().filter_map(|name| profile::show(profiles, name));
                list(&kind, shown.collect())
            }
            ["tm", "ltm", "profile", side, segment] => {
                let Some(side) = Side::of(side) else { return Err(Refusal::no_route(&call.path)) };
                let name = name::from_url(segment);
                one(profile::show(self.profiles(side), &name), side.title(), &name)
            }
            ["tm", "ltm", "virtual"] => {
                let expand = call.query.get("expandSubcollections").is_some_and(|expand| expand == "true");
                let shown = self.virtuals.iter().map(|(name, own)| own.show(name, expand));
                list("tm:ltm:virtual:virtualcollectionstate", shown.collect())
            }
            ["tm", "ltm", "virtual", segment] => {
                let expand = call.query.get("expandSubcollections").is_some_and(|expand| expand == "true");
                let name = name::from_url(segment);
                one(self.virtuals.get(&name).map(|own| own.show(&name, expand)), virtuals::TITLE, &name)
            }
            ["tm", "ltm", "virtual", segment, "profiles"] => {
                let name = name::from_url(segment);
                let own = self.virtuals.get(&name).ok_or_else(|| Refusal::absent(virtuals::TITLE, &name))?;
                list("tm:ltm:virtual:profiles:profilescollectionstate", own.show_profiles(&name))
            }
            _ => Err(Refusal::no_route(&call.path)),
        }
    }

    /// Carries out a change. What it leaves may be inconsistent: see [`Config::check`].
    pub(super) fn change(&mut self, around: &Surroundings<'_>, call: &Call) -> Outcome {
        let body = call.object()?;
        match (call.method.as_str(), call.route().as_slice()) {
            ("POST", ["tm", "sys", "file", kind @ ("ssl-cert" | "ssl-key")]) => self.create_file(around, kind, &body),
            ("PATCH" | "PUT", ["tm", "sys", "file", kind @ ("ssl-cert" | "ssl-key"), segment]) => {
                self.update_file(around, kind, &name::from_url(segment), &body)
            }
            ("DELETE", ["tm", "sys", "file", "ssl-cert", segment] | ["tm", "sys", "crypto", "cert", segment]) => {
                let name = name::from_url(segment);
                self.certs.remove(&name).map(|_| Value::Null).ok_or_else(|| Refusal::absent(CERT, &name))
            }
            ("DELETE", ["tm", "sys", "file", "ssl-key", segment] | ["tm", "sys", "crypto", "key", segment]) => {
                let name = name::from_url(segment);
                self.keys.remove(&name).map(|_| Value::Null).ok_or_else(|| Refusal::absent(KEY, &name))
            }
            ("POST", ["tm", "sys", "crypto", kind @ ("cert" | "key")]) => self.install(around, kind, &body),
            ("POST", ["tm", "ltm", "profile", side]) => {
                let Some(side) = Side::of(side) else { return Err(Refusal::no_route(&call.path)) };
                let name =
                    self.free_name(&body, side.title(), |config, name| config.profiles(side).contains_key(name))?;
                let mut profile = Profile::child(side);
                profile.change(&body)?;
                self.profiles_mut(side).insert(name.clone(), profile);
                self.show_profile(side, &name)
            }
            ("PATCH" | "PUT", ["tm", "ltm", "profile", side, segment]) => {
                let Some(side) = Side::of(side) else { return Err(Refusal::no_route(&call.path)) };
                let name = name::from_url(segment);
                let profile = self.profiles_mut(side).get_mut(&name);
                profile.ok_or_else(|| Refusal::absent(side.title(), &name))?.change(&body)?;
                self.show_profile(side, &name)
            }
            ("DELETE", ["tm", "ltm", "profile", side, segment]) => {
                let Some(side) = Side::of(side) else { return Err(Refusal::no_route(&call.path)) };
                let name = name::from_url(segment);
                let removed = self.profiles_mut(side).remove(&name);
                removed.map(|_| Value::Null).ok_or_else(|| Refusal::absent(side.title(), &name))
            }
            ("POST", ["tm", "ltm", "virtual"]) => {
                let name = self.free_name(&body, virtuals::TITLE, |config, name| config.virtuals.contains_key(name))?;
                let own = Virtual::read(&body, self)?;
                let shown = own.show(&name, false);
                self.virtuals.insert(name, own);
                Ok(shown)
            }
            ("PATCH" | "PUT", ["tm", "ltm", "virtual", segment]) => {
                let name = name::from_url(segment);
                let former = self.virtuals.get(&name).ok_or_else(|| Refusal::absent(virtuals::TITLE, &name))?;
                let own = former.changed(&body, self)?;
                let shown = own.show(&name, false);
                self.virtuals.insert(name, own);
                Ok(shown)
            }
            ("DELETE", ["tm", "ltm", "virtual", segment]) => {
                let name = name::from_url(segment);
                let removed = self.virtuals.remove(&name);
                removed.map(|_| Value::Null).ok_or_else(|| Refusal::absent(virtuals::TITLE, &name))
            }
            ("POST", ["tm", "auth", "partition"]) => {
                let name = field(&body, "name")?.ok_or_else(|| Refusal::property("a name is required"))?;
                self.create_folder(format!("/{}", name.trim_matches('/')), "partition", "Partition")
            }
            ("POST", ["tm", "sys", "folder"]) => {
                let name = name::from_body(&body)?;
                self.create_folder(name, "folder", "Folder")
            }
            _ => Err(Refusal::no_route(&call.path)),
        }
    }

    fn create_folder(&mut self, name: String, kind: &str, title: &str) -> Outcome {
        if !self.folders.insert(name.clone()) {
            return Err(Refusal::exists(title, &name, name::partition(&name)));
        }
        Ok(json!({ "kind": format!("tm:auth:{kind}:{kind}state"), "name": name, "fullPath": name }))
    }

    fn show_profile(&self, side: Side, name: &str) -> Outcome {
        profile::show(self.profiles(side), name).ok_or_else(|| Refusal::absent(side.title(), name))
    }

    /// The name of an object that is to be made, whose folder exists.
    fn free_name(
        &self,
        body: &Map<String, Value>,
        title: &str,
        taken: impl Fn(&Config, &str) -> bool,
    ) -> Result<String, Refusal> {
        let name = name::from_body(body)?;
        let folder = name::folder(&name);
        if !self.folders.contains(folder) {
            return Err(Refusal::new(
                400,
                format!("01070734:3: Configuration error: the folder {folder} does not exist"),
            ));
        }
        if taken(self, &name) {
            return Err(Refusal::exists(title, &name, name::partition(&name)));
        }
        Ok(name)
    }

    fn create_file(&mut self, around: &Surroundings<'_>, kind: &str, body: &Map<String, Value>) -> Outcome {
        let source = source(around, body)?;
        if kind == "ssl-cert" {
            let name = self.free_name(body, CERT, |config, name| config.certs.contains_key(name))?;
            let file = CertFile::read(source.1, source.0, around.now, None)?;
            let shown = file.show(&name);
            self.certs.insert(name, file);
            Ok(shown)
        } else {
            let name = self.free_name(body, KEY, |config, name| config.keys.contains_key(name))?;
            let file = KeyFile::read(source.1, source.0, around.now, None)?;
            let shown = file.show(&name);
            self.keys.insert(name, file);
            Ok(shown)
        }
    }

    fn update_file(&mut self, around: &Surroundings<'_>, kind: &str, name: &str, body: &Map<String, Value>) -> Outcome {
        let source = source(around, body)?;
        if kind == "ssl-cert" {
            let former = self.certs.get(name).ok_or_else(|| Refusal::absent(CERT, name))?;
            let file = CertFile::read(source.1, source.0, around.now, Some(former))?;
            let shown = file.show(name);
            self.certs.insert(name.to_owned(), file);
            Ok(shown)
        } else {
            let former = self.keys.get(name).ok_or_else(|| Refusal::absent(KEY, name))?;
            let file = KeyFile::read(source.1, source.0, around.now, Some(former))?;
            let shown = file.show(name);
            self.keys.insert(name.to_owned(), file);
            Ok(shown)
        }
    }

    /// `install sys crypto`: makes or replaces a file, whose name gets its usual ending.
    fn install(&mut self, around: &Surroundings<'_>, kind: &str, body: &Map<String, Value>) -> Outcome {
        if field(body, "command")? != Some("install") {
            return Err(Refusal::invalid("the only command is install"));
        }
        let path = field(body, "from-local-file")?.ok_or_else(|| Refusal::property("from-local-file is required"))?;
        let content = upload(around, path)?;
        let mut name = name::from_body(body)?;
        let ending = if kind == "cert" { ".crt" } else { ".key" };
        if !name.ends_with(ending) {
            name.push_str(ending);
        }
        if kind == "cert" {
            let file = CertFile::read(content, path, around.now, self.certs.get(&name))?;
            self.certs.insert(name.clone(), file);
        } else {
            let file = KeyFile::read(content, path, around.now, self.keys.get(&name))?;
            self.keys.insert(name.clone(), file);
        }
        Ok(json!({
            "kind": format!("tm:sys:crypto:{kind}:installstate"),
            "command": "install",
            "name": name,
            "from-local-file": path,
            "selfLink": link(&format!("tm/sys/crypto/{kind}")),
        }))
    }

    /// Whether everything that is referenced is there, is reachable, and fits together.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        for side in Side::BOTH {
            for (name, own) in self.profiles(side) {
                self.check_profile(side, name, own)?;
            }
        }
        self.virtuals.iter().try_for_each(|(name, own)| own.check(name, self))
    }

    fn check_profile(&self, side: Side, name: &str, own: &Profile) -> Result<(), Refusal> {
        if let Some(parent) = &own.parent
            && !self.profiles(side).contains_key(parent)
        {
            return Err(Refusal::absent(side.title(), parent));
        }
        for entry in &own.entries {
            let chain = entry.chain.as_ref();
            for reference in [&entry.cert, &entry.key].into_iter().chain(chain) {
                let (here, there) = (name::partition(name), name::partition(reference));
                if there != "Common" && here != there {
                    return Err(Refusal::new(
                        400,
                        format!(
                            "01070726:3: {} {name} in partition {here} cannot reference Certificate File {reference} \
                             in partition {there}",
                            side.title()
                        ),
                    ));
                }
            }
            let cert = self.certs.get(&entry.cert).ok_or_else(|| Refusal::absent(CERT, &entry.cert))?;
            let key = self.keys.get(&entry.key).ok_or_else(|| Refusal::absent(KEY, &entry.key))?;
            let chain = chain.map(|chain| self.certs.get(chain).ok_or_else(|| Refusal::absent(CERT, chain)));
            if files::pair(cert, key, chain.transpose()?).is_none() {
                return Err(Refusal::new(
                    400,
                    format!("01070317:3: profile {name}'s key and certificate do not match"),
                ));
            }
        }
        Ok(())
    }

    /// Who needs what a `DELETE` would take away.
    pub(super) fn check_unused(&self, call: &Call) -> Result<(), Refusal> {
        let (kind, segment) = match call.route().as_slice() {
            ["tm", "sys", "file", "ssl-cert", segment] | ["tm", "sys", "crypto", "cert", segment] => (CERT, *segment),
            ["tm", "sys", "file", "ssl-key", segment] | ["tm", "sys", "crypto", "key", segment] => (KEY, *segment),
            ["tm", "ltm", "profile", side, segment] => {
                let name = name::from_url(segment);
                let Some(side) = Side::of(side) else { return Ok(()) };
                if let Some((user, _)) = self.virtuals.iter().find(|(_, own)| own.uses(&name)) {
                    return Err(Refusal::in_use(side.title(), &name, virtuals::TITLE, user));
                }
                let child = self.profiles(side).iter().find(|(_, own)| own.parent.as_ref() == Some(&name));
                return match child {
                    Some((child, _)) => Err(Refusal::in_use(side.title(), &name, side.title(), child)),
                    None => Ok(()),
                };
            }
            _ => return Ok(()),
        };
        let name = name::from_url(segment);
        for side in Side::BOTH {
            let user = self.profiles(side).iter().find(|(_, own)| {
                own.entries.iter().any(|entry| {
                    let certs = entry.cert == name || entry.chain.as_ref() == Some(&name);
                    if kind == CERT { certs } else { entry.key == name }
                })
            });
            if let Some((user, _)) = user {
                return Err(Refusal::in_use(kind, &name, side.title(), user));
            }
        }
        Ok(())
    }
}

const CERT: &str = "Certificate File";
const KEY: &str = "Certificate Key File";

/// `sourcePath` and what lies there.
fn source<'a>(around: &'a Surroundings<'_>, body: &'a Map<String, Value>) -> Result<(&'a str, &'a [u8]), Refusal> {
    let path = field(body, "sourcePath")?.ok_or_else(|| Refusal::property("a sourcePath is required"))?;
    let file = path.strip_prefix("file:").ok_or_else(|| Refusal::property("a sourcePath is a URL"))?;
    Ok((path, upload(around, file.trim_start_matches("//"))?))
}

fn upload<'a>(around: &'a Surroundings<'_>, path: &str) -> Result<&'a [u8], Refusal> {
    let found = path.strip_prefix(DOWNLOADS).and_then(|name| around.uploads.get(name));
    found.map(Vec::as_slice).ok_or_else(|| Refusal::property(&format!("the file {path} cannot be read")))
}
