//! Key-value engines of both versions: reading, and writing only over what was read.

use std::collections::BTreeMap;

use aws_lc_rs::pbkdf2;
use certlib_core::Context;
use certlib_core::error::{Effect, Error, ErrorClass, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::OPERATION;
use super::config::{MountKind, VaultLocation};
use super::data::{SecretData, hex};
use super::session::{Ask, Reply, Session, nonsense, refused};
use crate::net::Answer;

/// Rounds between a secret of the first version and the digest of it that a plan shows: it might be a short one.
const ROUNDS: std::num::NonZeroU32 = std::num::NonZeroU32::new(50_000).unwrap();

/// Custom metadata: what is said about a secret.
pub(super) type Custom = BTreeMap<String, String>;

/// One secret of one key-value engine.
#[derive(Debug)]
pub(super) struct Kv<'a> {
    pub(super) session: &'a Session<'a>,
    mount: &'a str,
    path: &'a str,
    pub(super) versioned: bool,
}

/// A secret as it was found.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Found {
    /// Its fields; `None` when nothing is there, or nothing that can be read.
    pub(super) data: Option<SecretData>,
    /// The current version; 0 when there never was one, and in engines of the first version.
    pub(super) version: u64,
    /// When the version came into being and was deleted, as Vault says it.
    times: [String; 2],
    destroyed: bool,
}

/// What Vault says about a mount.
#[derive(Debug, Deserialize)]
struct Mount {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    options: Option<BTreeMap<String, Option<String>>>,
    #[serde(default)]
    path: Option<String>,
}

#[derive(Deserialize)]
struct Read {
    data: Option<SecretData>,
    metadata: About,
}

#[derive(Deserialize)]
struct About {
    version: u64,
    #[serde(default)]
    created_time: String,
    #[serde(default)]
    deletion_time: String,
    #[serde(default)]
    destroyed: bool,
}

/// The answer when nothing can be read: with metadata if there was something once.
#[derive(Deserialize)]
struct Absent {
    #[serde(default)]
    data: Option<Read>,
    #[serde(default)]
    errors: Vec<String>,
}

#[derive(Deserialize)]
struct Described {
    #[serde(default)]
    custom_metadata: Option<Custom>,
}

/// A write that only goes over version `cas`.
#[derive(Serialize)]
struct Versioned<'a> {
    options: Options,
    data: &'a SecretData,
}

#[derive(Serialize)]
struct Options {
    cas: u64,
}

#[derive(Deserialize)]
struct Written {
    version: u64,
}

/// Finds out what is mounted where a location points to; the configured kind where Vault does not say.
///
/// # Errors
/// `Auth` `mount_unknown`, `Validation` `mount_kind`; as [`Session::call`].
pub(super) async fn mount_kind(cx: &Context, session: &Session<'_>, location: &VaultLocation) -> Result<MountKind> {
    let wanted = location.kind;
    let answer = session.call(cx, &Ask::get(&["sys/internal/ui/mounts", &location.mount])).await?;
    let unknown = |class, why: &str| Error::new(class, OPERATION, "mount_unknown", why).with("mount", &location.mount);
    match answer.status() {
        403 | 404 if wanted == MountKind::Kv => {
            // So that a token that is none is not taken for a mount that is none.
            session.ask(cx, &Ask::get(&["auth/token/lookup-self"])).await?;
            let why = "nothing is mounted there, or this login may not know; if there is, set `kind` to `kv1` or `kv2`";
            return Err(unknown(ErrorClass::Auth, why));
        }
        403 | 404 => return Ok(wanted),
        _ if !answer.is_success() => return Err(refused(&answer)),
        _ => {}
    }
    let mount = answer.json::<Reply<Mount>>()?.data;
    if mount.path.is_some_and(|path| path.trim_matches('/') != location.mount.trim_matches('/')) {
        return Err(unknown(ErrorClass::Validation, "this is not the path of a mount, but one above or below it"));
    }
    let version = mount.options.and_then(|mut options| options.remove("version")).flatten();
    let found = match (mount.kind.as_str(), version.as_deref()) {
        ("kv", Some("2")) => Some(MountKind::Kv2),
        ("kv" | "generic", _) => Some(MountKind::Kv1),
        ("pki", _) => Some(MountKind::Pki),
        _ => None,
    };
    match found {
        Some(found) if found == wanted || (wanted == MountKind::Kv && found != MountKind::Pki) => Ok(found),
        found => {
            let why = "something else is mounted there than the target's `kind` says";
            let name = found.map_or("something else", MountKind::name);
            Err(Error::validation(OPERATION, "mount_kind", why)
                .with("mount", &location.mount)
                .with("found", name)
                .with("wanted", wanted.name()))
        }
    }
}

impl MountKind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Kv => "kv",
            Self::Kv1 => "kv1",
            Self::Kv2 => "kv2",
            Self::Pki => "pki",
        }
    }
}

impl Found {
    fn nothing() -> Self {
        Self { data: None, version: 0, times: Default::default(), destroyed: false }
    }

    /// Whether Vault has something at the path, if only a deleted version: writing to it is an update then.
    pub(super) fn is_known(&self) -> bool {
        self.version > 0 || self.data.is_some()
    }

    /// Changes whenever the secret does, and gives nothing away. `salt` says whose it is.
    pub(super) fn stamp(&self, versioned: bool, salt: &str) -> String {
        if versioned {
            return format!("{} {} {} {}", self.version, self.times[0], self.times[1], self.destroyed);
        }
        let Some(data) = &self.data else { return "none".to_owned() };
        let mut stamp = [0; 32];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ROUNDS, salt.as_bytes(), data.digest().as_bytes(), &mut stamp);
        hex(&stamp)
    }
}

impl<'a> Kv<'a> {
    pub(super) fn new(session: &'a Session<'a>, location: &'a VaultLocation, versioned: bool) -> Self {
        Self { session, mount: location.mount.trim_matches('/'), path: location.path.trim_matches('/'), versioned }
    }

    /// The path in the API, as policies and plans name it.
    pub(super) fn subject(&self) -> String {
        if self.versioned {
            format!("{}/data/{}", self.mount, self.path)
        } else {
            format!("{}/{}", self.mount, self.path)
        }
    }

    /// The path of its metadata in the API.
    pub(super) fn metadata_subject(&self) -> String {
        format!("{}/metadata/{}", self.mount, self.path)
    }

    /// What is written to, to take the first version away.
    pub(super) fn removal_subject(&self) -> String {
        if self.versioned { format!("{}/delete/{}", self.mount, self.path) } else { self.subject() }
    }

    fn api_path(&self) -> [&'a str; 3] {
        [self.mount, if self.versioned { "data" } else { "" }, self.path]
    }

    /// What is there now.
    ///
    /// # Errors
    /// As [`Session::ask`]; `IoTransient` `answer_invalid`.
    pub(super) async fn read(&self, cx: &Context) -> Result<Found> {
        let answer = self.session.call(cx, &Ask::get(&self.api_path())).await?;
        if answer.status() == 404 {
            return self.absent(&answer);
        }
        if !answer.is_success() {
            return Err(refused(&answer));
        }
        if !self.versioned {
            let data = Some(answer.json::<Reply<SecretData>>()?.data);
            return Ok(Found { data, ..Found::nothing() });
        }
        Ok(found(answer.json::<Reply<Read>>()?.data))
    }

    fn absent(&self, answer: &Answer) -> Result<Found> {
        let absent: Absent = answer.json()?;
        match absent.data {
            _ if !absent.errors.is_empty() => {
                let why = "Vault has no such path; is something else mounted there now?";
                Err(answer.error(ErrorClass::Validation, "mount_unknown", why))
            }
            Some(read) if self.versioned => Ok(found(Read { data: None, ..read })),
            _ => Ok(Found::nothing()),
        }
    }

    /// Whether a version, which may not be the current one, holds exactly this; `None` when it cannot be read.
    pub(super) async fn version_digest(&self, cx: &Context, version: u64) -> Result<Option<String>> {
        let answer = self.session.call(cx, &Ask::get_version(&self.api_path(), version)).await?;
        match answer.status() {
            404 => Ok(None),
            _ if !answer.is_success() => Err(refused(&answer)),
            _ => Ok(answer.json::<Reply<Read>>()?.data.data.map(|data| data.digest())),
        }
    }

    /// Writes over what `before` is, and over nothing else. Engines of the first version cannot promise that, so there
    /// the secret is read once more just before.
    ///
    /// # Errors
    /// `Validation` `changed_meanwhile` with [`Effect::None`] when something else is there; `write_refused` when Vault
    /// does not take it; as [`Session::ask`].
    pub(super) async fn write(&self, cx: &Context, before: &Found, data: &SecretData) -> Result<()> {
        if !self.versioned {
            if self.read(cx).await? != *before {
                return Err(changed());
            }
            let answer = self.session.call(cx, &Ask::post(&self.api_path(), data)?).await?;
            return if answer.is_success() { Ok(()) } else { Err(not_taken(&answer)) };
        }
        let body = Versioned { options: Options { cas: before.version }, data };
        let answer = self.session.call(cx, &Ask::post(&self.api_path(), &body)?).await?;
        if answer.is_success() {
            let written: Reply<Written> = answer.json().map_err(|error| error.with_effect(Effect::Possible))?;
            let expected = written.data.version == before.version + 1;
            return if expected { Ok(()) } else { Err(nonsense().with_effect(Effect::Possible)) };
        }
        // A conflict is a 400 like others, and texts are not to be relied on.
        if answer.status() == 400 && self.read(cx).await.is_ok_and(|now| now.version != before.version) {
            return Err(changed());
        }
        Err(not_taken(&answer))
    }

    /// Takes away what was written over nothing: the version after `before`, and no other.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub(super) async fn remove(&self, cx: &Context, now: &Found) -> Result<()> {
        if self.versioned {
            let body = json!({ "versions": [now.version] });
            return self.session.ask(cx, &Ask::post(&[self.mount, "delete", self.path], &body)?).await.map(drop);
        }
        if self.read(cx).await? != *now {
            return Err(changed());
        }
        self.session.ask(cx, &Ask::delete(&self.api_path())).await.map(drop)
    }

    /// What is said about the secret; only versioned engines have it.
    ///
    /// # Errors
    /// As [`Session::ask`].
    pub(super) async fn custom(&self, cx: &Context) -> Result<Custom> {
        let answer = self.session.call(cx, &Ask::get(&[self.mount, "metadata", self.path])).await?;
        if answer.status() == 404 {
            return self.absent(&answer).map(|_| Custom::new());
        }
        if !answer.is_success() {
            let error = refused(&answer);
            return Err(if error.code() == "vault_forbidden" {
                let why = "this login may not read the secret's metadata: allow it, or set `custom_metadata` to false";
                answer.error(ErrorClass::Auth, "vault_forbidden", why)
            } else {
                error
            });
        }
        Ok(answer.json::<Reply<Described>>()?.data.custom_metadata.unwrap_or_default())
    }

    /// Replaces what is said about the secret.
    ///
    /// # Errors
    /// As [`Session::ask`].
    pub(super) async fn describe(&self, cx: &Context, custom: &Custom) -> Result<()> {
        let ask = Ask::post(&[self.mount, "metadata", self.path], &json!({ "custom_metadata": custom }))?;
        let answer = self.session.call(cx, &ask).await?;
        if answer.is_success() { Ok(()) } else { Err(not_taken(&answer)) }
    }
}

fn found(read: Read) -> Found {
    let About { version, created_time, deletion_time, destroyed } = read.metadata;
    Found { data: read.data, version, times: [created_time, deletion_time], destroyed }
}

fn changed() -> Error {
    Error::validation(OPERATION, CHANGED, "the secret was changed by somebody else meanwhile").with_effect(Effect::None)
}

/// The code of what is not written because something else is there.
pub(super) const CHANGED: &str = "changed_meanwhile";

fn not_taken(answer: &Answer) -> Error {
    if answer.status() == 400 {
        let why = "Vault refuses what is written; is the engine's limit for secrets or custom metadata reached?";
        return answer.error(ErrorClass::Validation, "write_refused", why);
    }
    refused(answer)
}
