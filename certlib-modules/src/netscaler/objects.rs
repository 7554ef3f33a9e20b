//! Files, pairs, links and bindings: one function for each thing that NITRO is asked for.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certlib_core::error::Result;
use certlib_core::secret::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use time::macros::format_description;
use zeroize::Zeroizing;

use super::HolderKind;
use super::nitro::{Failed, Why, flag, items, text};
use super::session::{Call, Empty, NOTHING, Session};

/// A certificate-key pair, as the appliance shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Pair {
    /// The file of the certificate: a bare name or a path.
    pub cert: String,
    /// The file of the key; none for an issuer.
    pub key: Option<String>,
    /// The pair it is linked to.
    pub link: Option<String>,
    /// The serial number of the certificate that is loaded: lower-case hex without leading zeros.
    pub serial: String,
    /// The end of its validity, as the appliance prints it.
    pub not_after: String,
}

impl Pair {
    fn read(object: &Value) -> Option<(String, Self)> {
        let pair = Self {
            cert: text(object, "cert").unwrap_or_default(),
            key: text(object, "key"),
            link: text(object, "linkcertkeyname"),
            serial: serial(&text(object, "serial").unwrap_or_default()),
            not_after: text(object, "clientcertnotafter").unwrap_or_default(),
        };
        Some((text(object, "certkey")?, pair))
    }

    /// The end of its validity, if it can be read.
    pub(super) fn expires(&self) -> Option<OffsetDateTime> {
        moment(&self.not_after)
    }
}

/// A serial number in the one form that can be compared.
pub(super) fn serial(text: &str) -> String {
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    digits.trim_start_matches('0').to_ascii_lowercase()
}

/// Reads `Jan  1 00:00:00 2026 GMT`.
fn moment(text: &str) -> Option<OffsetDateTime> {
    let format = format_description!("[month repr:short] [day padding:none] [hour]:[minute]:[second] [year]");
    let plain = text.split_whitespace().filter(|word| *word != "GMT").collect::<Vec<_>>().join(" ");
    time::PrimitiveDateTime::parse(&plain, format).ok().map(time::PrimitiveDateTime::assume_utc)
}

/// One certificate that something has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Bound {
    /// The pair.
    pub certkey: String,
    /// Bound for SNI.
    pub sni: bool,
}

impl HolderKind {
    fn resource(self) -> &'static str {
        match self {
            Self::Vserver => "sslvserver_sslcertkey_binding",
            Self::Service => "sslservice_sslcertkey_binding",
            Self::ServiceGroup => "sslservicegroup_sslcertkey_binding",
        }
    }

    fn field(self) -> &'static str {
        match self {
            Self::Vserver => "vservername",
            Self::Service => "servicename",
            Self::ServiceGroup => "servicegroupname",
        }
    }

    /// As people call it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Vserver => "vserver",
            Self::Service => "service",
            Self::ServiceGroup => "service group",
        }
    }
}

/// Files that make a pair.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct PairFiles<'a> {
    pub(super) certkey: &'a str,
    pub(super) cert: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) passplain: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) nodomaincheck: bool,
}

impl<'a> PairFiles<'a> {
    pub(super) fn new(certkey: &'a str, cert: &'a str, key: Option<&'a str>) -> Self {
        Self { certkey, cert, key, passplain: None, nodomaincheck: false }
    }

    pub(super) fn with_passphrase(self, passphrase: Option<&'a SecretString>) -> Self {
        Self { passplain: passphrase.map(|secret| secret.expose().as_str()), ..self }
    }
}

#[derive(Serialize)]
struct Upload<'a> {
    filename: &'a str,
    filelocation: &'a str,
    filecontent: &'a str,
    fileencoding: &'a str,
}

#[derive(Serialize)]
struct Link<'a> {
    certkey: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    linkcertkeyname: Option<&'a str>,
}

/// What may be there already, or not any more, without harm.
fn tolerate(why: Why, outcome: Result<Value, Failed>) -> Result<(), Failed> {
    match outcome {
        Err(failed) if failed.why == why => Ok(()),
        other => other.map(drop),
    }
}

/// `args=` with values encoded: NITRO takes the pairs apart first.
fn args(pairs: &[(&str, &str)]) -> String {
    let encode = |value: &str| -> String {
        let byte = |byte: u8| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        };
        value.bytes().map(byte).collect()
    };
    let pairs: Vec<_> = pairs.iter().map(|(name, value)| format!("{name}:{}", encode(value))).collect();
    format!("args={}", pairs.join(","))
}

/// Files.
impl Session<'_> {
    /// The names of the files in a folder.
    pub(super) async fn files(&mut self, folder: &str) -> Result<BTreeSet<String>> {
        let query = args(&[("filelocation", folder)]);
        let body = self.send(&Call::get("systemfile").query(&query), NOTHING).await?;
        Ok(items(&body, "systemfile").iter().filter_map(|file| text(file, "filename")).collect())
    }

    /// The content of a file; `None` when it is not there, or not for this login to read.
    pub(super) async fn file(&mut self, folder: &str, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>> {
        let query = args(&[("filelocation", folder)]);
        match self.send(&Call::get("systemfile").name(name).query(&query), NOTHING).await {
            Ok(body) => {
                let content = items(&body, "systemfile").first().and_then(|file| text(file, "filecontent"));
                let content = Zeroizing::new(content.unwrap_or_default());
                let compact: Zeroizing<Vec<u8>> =
                    Zeroizing::new(content.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect());
                Ok(STANDARD.decode(&*compact).ok().map(Zeroizing::new))
            }
            Err(Failed { why: Why::Absent | Why::NotAllowed | Why::Declined, .. }) => Ok(None),
            Err(failed) => Err(failed.error),
        }
    }

    /// Writes a file, unless one of that name is there: names are made of contents.
    pub(super) async fn upload(&mut self, folder: &str, name: &str, content: &[u8]) -> Result<()> {
        let encoded = Zeroizing::new(STANDARD.encode(content));
        let upload = Upload { filename: name, filelocation: folder, filecontent: &encoded, fileencoding: "BASE64" };
        let outcome = self.send(&Call::post("systemfile"), Some(&upload)).await;
        tolerate(Why::Exists, outcome).map_err(|failed| failed.error.with("file", name))
    }

    /// Removes a file.
    pub(super) async fn remove_file(&mut self, folder: &str, name: &str) -> Result<()> {
        let query = args(&[("filelocation", folder)]);
        let outcome = self.send(&Call::delete("systemfile").name(name).query(&query), NOTHING).await;
        tolerate(Why::Absent, outcome).map_err(|failed| failed.error.with("file", name))
    }
}

/// Pairs and links.
impl Session<'_> {
    /// Every pair.
    pub(super) async fn pairs(&mut self) -> Result<BTreeMap<String, Pair>> {
        let body = self.send(&Call::get("sslcertkey"), NOTHING).await?;
        Ok(items(&body, "sslcertkey").iter().filter_map(Pair::read).collect())
    }

    /// One pair.
    pub(super) async fn pair(&mut self, name: &str) -> Result<Option<Pair>> {
        match self.send(&Call::get("sslcertkey").name(name), NOTHING).await {
            Ok(body) => Ok(items(&body, "sslcertkey").first().and_then(Pair::read).map(|(_, pair)| pair)),
            Err(Failed { why: Why::Absent, .. }) => Ok(None),
            Err(failed) => Err(failed.error),
        }
    }

    /// Adds a pair; that it is there already is for the caller to judge.
    pub(super) async fn add_pair(&mut self, files: &PairFiles<'_>) -> Result<(), Failed> {
        let outcome = self.send(&Call::post("sslcertkey"), Some(files)).await;
        outcome.map(drop).map_err(|failed| about(failed, files.certkey))
    }

    /// Loads other files into a pair.
    pub(super) async fn update_pair(&mut self, files: &PairFiles<'_>) -> Result<()> {
        let call = Call::post("sslcertkey").query("action=update");
        let outcome = self.send(&call, Some(files)).await;
        outcome.map(drop).map_err(|failed| about(failed, files.certkey).error)
    }

    /// Removes a pair that nothing refers to. `false` when something does.
    pub(super) async fn remove_pair(&mut self, name: &str) -> Result<bool> {
        match self.send(&Call::delete("sslcertkey").name(name), NOTHING).await {
            Ok(_) | Err(Failed { why: Why::Absent, .. }) => Ok(true),
            Err(Failed { why: Why::Declined | Why::Exists, .. }) => Ok(false),
            Err(failed) => Err(about(failed, name).error),
        }
    }

    /// Removes a pair with the link to its issuer, which would keep it. `false` when something refers to it: then it is
    /// linked as it was, since whoever shows it needs its chain.
    pub(super) async fn retire_pair(&mut self, name: &str) -> Result<bool> {
        let Some(pair) = self.pair(name).await? else { return Ok(true) };
        let gone = match self.ensure_link(name, None).await {
            Ok(_) => self.remove_pair(name).await,
            Err(error) => Err(error),
        };
        if !matches!(gone, Ok(true)) {
            self.ensure_link(name, pair.link.as_deref()).await?;
        }
        gone
    }

    /// Makes a pair linked as wanted. Looks first, and again after a lost answer. Whether it changed anything.
    pub(super) async fn ensure_link(&mut self, name: &str, wanted: Option<&str>) -> Result<bool> {
        let mut lost = None;
        for _ in 0..4 {
            let now = self.pair(name).await?.and_then(|pair| pair.link);
            if now.as_deref() == wanted {
                return Ok(lost.is_some());
            }
            // A pair that is linked has to be unlinked first.
            let (action, link) = match &now {
                Some(_) => ("action=unlink", None),
                None => ("action=link", wanted),
            };
            let fields = Link { certkey: name, linkcertkeyname: link };
            let outcome = self.send(&Call::post("sslcertkey").query(action).once(), Some(&fields)).await;
            match outcome {
                Ok(_) => lost = Some(None),
                Err(failed) if matches!(failed.error.code(), "connection_lost" | "no_answer") => {
                    lost = Some(Some(failed.error));
                }
                Err(failed) => return Err(about(failed, name).error),
            }
        }
        let why = "the pair is not linked as it was asked to be; is somebody else changing it?";
        let error = certlib_core::Error::permanent(super::OPERATION, "link_failed", why).with("certkey", name);
        Err(lost.flatten().unwrap_or(error).with_effect(certlib_core::Effect::Possible))
    }
}

fn about(failed: Failed, certkey: &str) -> Failed {
    Failed { error: failed.error.with("certkey", certkey), ..failed }
}

/// Bindings and the configuration as a whole.
impl Session<'_> {
    /// What a pair is bound to, other than as a client authority.
    pub(super) async fn holders(&mut self, certkey: &str) -> Result<BTreeSet<(HolderKind, String)>> {
        let body = match self.send(&Call::get("sslcertkey_binding").name(certkey), NOTHING).await {
            Ok(body) => body,
            Err(Failed { why: Why::Absent, .. }) => return Ok(BTreeSet::new()),
            Err(failed) => return Err(failed.error),
        };
        let mut found = BTreeSet::new();
        for entry in items(&body, "sslcertkey_binding") {
            for vserver in items(entry, "sslcertkey_sslvserver_binding") {
                let name = text(vserver, "servername").or_else(|| text(vserver, "vservername"));
                found.extend(name.map(|name| (HolderKind::Vserver, name)));
            }
            for service in items(entry, "sslcertkey_service_binding") {
                let group = text(service, "servicegroupname").map(|name| (HolderKind::ServiceGroup, name));
                found.extend(group.or_else(|| Some((HolderKind::Service, text(service, "servicename")?))));
            }
        }
        Ok(found)
    }

    /// The server certificates of one virtual server, service or service group, sorted; `None` when there is no such.
    pub(super) async fn bindings(&mut self, kind: HolderKind, name: &str) -> Result<Option<BTreeSet<Bound>>> {
        let body = match self.send(&Call::get(kind.resource()).name(name), NOTHING).await {
            Ok(body) => body,
            Err(Failed { why: Why::Absent, .. }) => return Ok(None),
            Err(failed) => return Err(failed.error),
        };
        let servers = items(&body, kind.resource()).iter().filter(|binding| !flag(binding, "ca"));
        let bound = servers.filter_map(|binding| {
            Some(Bound { certkey: text(binding, "certkeyname")?, sni: flag(binding, "snicert") })
        });
        Ok(Some(bound.collect()))
    }

    /// Binds a pair.
    pub(super) async fn bind(&mut self, kind: HolderKind, name: &str, bound: &Bound) -> Result<(), Failed> {
        let mut fields = serde_json::Map::new();
        fields.insert(kind.field().to_owned(), name.into());
        fields.insert("certkeyname".to_owned(), bound.certkey.clone().into());
        if bound.sni {
            fields.insert("snicert".to_owned(), true.into());
        }
        let outcome = self.send(&Call::put(kind.resource()), Some(&fields)).await;
        tolerate(Why::Exists, outcome).map_err(|failed| Failed {
            error: failed.error.with("certkey", &bound.certkey).with("holder", name),
            ..failed
        })
    }

    /// Unbinds a pair.
    pub(super) async fn unbind(&mut self, kind: HolderKind, name: &str, bound: &Bound) -> Result<()> {
        let mut pairs = vec![("certkeyname", bound.certkey.as_str())];
        pairs.extend(bound.sni.then_some(("snicert", "true")));
        let query = args(&pairs);
        let outcome = self.send(&Call::delete(kind.resource()).name(name).query(&query), NOTHING).await;
        let failed = |failed: Failed| failed.error.with("certkey", &bound.certkey).with("holder", name);
        tolerate(Why::Absent, outcome).map_err(failed)
    }

    /// Whether there is something unsaved; `None` when the build does not say.
    pub(super) async fn unsaved(&mut self) -> Result<Option<bool>> {
        match self.send(&Call::get("nsconfig"), NOTHING).await {
            Ok(body) => {
                let config = items(&body, "nsconfig").first();
                Ok(config.filter(|config| config.get("configchanged").is_some()).map(|one| flag(one, "configchanged")))
            }
            Err(Failed { why: Why::NotAllowed, error }) if error.code() == "not_authorised" => Ok(None),
            Err(failed) => Err(failed.error),
        }
    }

    /// Saves the configuration.
    pub(super) async fn save(&mut self) -> Result<()> {
        let outcome = self.send(&Call::post("nsconfig").query("action=save"), Some(&Empty {})).await;
        outcome.map(drop).map_err(|failed| failed.error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_encoded_and_separators_are_not() {
        let query = args(&[("certkeyname", "a b:c,d"), ("snicert", "true")]);
        assert_eq!(query, "args=certkeyname:a%20b%3Ac%2Cd,snicert:true");
        assert_eq!(args(&[("filelocation", "/nsconfig/ssl")]), "args=filelocation:%2Fnsconfig%2Fssl");
    }

    #[test]
    fn serials_and_times_are_read() {
        assert_eq!(serial("00:0A:ff"), "aff");
        assert_eq!(serial("0AFF"), serial("aff"));
        assert_eq!(moment("Jan  1 00:00:00 2026 GMT").unwrap().unix_timestamp(), 1_767_225_600);
        assert_eq!(moment("Dec 31 23:59:59 2025 GMT").unwrap().unix_timestamp(), 1_767_225_599);
        assert_eq!(moment("never"), None);
    }
}
