//! Which files a target wants, where, and with which mode and owner.

use std::fmt;

use certlib_core::{Error, Result};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::path;

/// Where the files go: the part of a location that `ssh` and `file` have in common.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Layout {
    /// One path for each wanted form of the certificate; at least one.
    pub paths: Paths,
    /// A directory that no path may leave, symbolic links followed.
    #[serde(default)]
    pub root: Option<String>,
}

/// The wanted files. Each is a path, or `{"path", "mode", "owner", "group"}`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Paths {
    /// The leaf, PEM.
    pub cert: Option<Output>,
    /// The issuers without the leaf, PEM; an empty file when the leaf stands alone.
    pub chain: Option<Output>,
    /// Leaf, then issuers, PEM.
    pub fullchain: Option<Output>,
    /// The private key, PKCS#8 PEM.
    pub key: Option<Output>,
    /// Leaf, issuers and private key in one PEM file, as HAProxy reads it.
    pub combined: Option<Output>,
    /// A PKCS#12 container with key, leaf and issuers.
    pub pfx: Option<Output>,
    /// The leaf, DER.
    pub der: Option<Output>,
}

/// One wanted file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Output {
    /// Its absolute path.
    pub path: String,
    /// Its mode; by default that of the file in its place, or else 0600 with a private key inside and 0644 without.
    pub mode: Option<Mode>,
    /// Its owner, by name or number; by default that of the file in its place, or else who writes it.
    pub owner: Option<String>,
    /// Its group, by name or number; by default as for the owner.
    pub group: Option<String>,
}

impl Output {
    /// A file at `path` with default mode and owner.
    pub fn new(path: impl Into<String>) -> Self {
        Self { path: path.into(), mode: None, owner: None, group: None }
    }
}

/// Permission bits, written as octal text such as `"0640"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode(pub u32);

/// The forms a certificate is delivered in, in the order in which their files are swapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Format {
    /// [`Paths::chain`]
    Chain,
    /// [`Paths::cert`]
    Cert,
    /// [`Paths::fullchain`]
    Fullchain,
    /// [`Paths::key`]
    Key,
    /// [`Paths::combined`]
    Combined,
    /// [`Paths::pfx`]
    Pfx,
    /// [`Paths::der`]
    Der,
}

impl Format {
    /// Whether the private key is inside.
    pub fn is_secret(self) -> bool {
        matches!(self, Self::Key | Self::Combined | Self::Pfx)
    }

    /// The mode of a file that was not there before.
    pub fn default_mode(self) -> u32 {
        if self.is_secret() { 0o600 } else { 0o644 }
    }

    /// The name of its field in [`Paths`].
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chain => "chain",
            Self::Cert => "cert",
            Self::Fullchain => "fullchain",
            Self::Key => "key",
            Self::Combined => "combined",
            Self::Pfx => "pfx",
            Self::Der => "der",
        }
    }
}

impl Layout {
    /// The wanted files, in the order in which they are swapped.
    pub fn outputs(&self) -> Vec<(Format, &Output)> {
        let paths = &self.paths;
        [
            (Format::Chain, &paths.chain),
            (Format::Cert, &paths.cert),
            (Format::Fullchain, &paths.fullchain),
            (Format::Key, &paths.key),
            (Format::Combined, &paths.combined),
            (Format::Pfx, &paths.pfx),
            (Format::Der, &paths.der),
        ]
        .into_iter()
        .filter_map(|(format, output)| output.as_ref().map(|output| (format, output)))
        .collect()
    }

    /// Checks everything that can be checked without looking at the target.
    ///
    /// # Errors
    /// `Validation`: `paths_empty`, `path_invalid`, `path_escapes_root`, `path_duplicate`, `owner_invalid`.
    pub fn check(&self) -> Result<()> {
        let outputs = self.outputs();
        if outputs.is_empty() {
            return Err(Error::validation(
                "files.check",
                "paths_empty",
                "no path is given, so nothing would be written",
            ));
        }
        if let Some(root) = &self.root {
            path::check(root).map_err(|error| error.with("field", "root"))?;
        }
        for (index, (format, output)) in outputs.iter().enumerate() {
            output.check(self.root.as_deref()).map_err(|error| error.with("field", format.as_str()))?;
            if let Some((other, _)) = outputs[..index].iter().find(|(_, other)| other.path == output.path) {
                return Err(Error::validation("files.check", "path_duplicate", "two files have the same path")
                    .with("field", format.as_str())
                    .with("other", other.as_str()));
            }
        }
        Ok(())
    }
}

impl Output {
    fn check(&self, root: Option<&str>) -> Result<()> {
        path::check(&self.path)?;
        if let Some(root) = root {
            path::check_inside(&self.path, root)?;
        }
        for name in self.owner.iter().chain(&self.group) {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '$');
            if name.is_empty() || name.len() > 64 || name.starts_with('-') || !name.chars().all(plain) {
                return Err(Error::validation(
                    "files.check",
                    "owner_invalid",
                    "not a name or number of a user or group",
                ));
            }
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Output {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Long {
            path: String,
            mode: Option<Mode>,
            owner: Option<String>,
            group: Option<String>,
        }
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Output;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path, or an object with path, mode, owner and group")
            }

            fn visit_str<E: de::Error>(self, path: &str) -> Result<Output, E> {
                Ok(Output::new(path))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Output, A::Error> {
                let Long { path, mode, owner, group } = Long::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Output { path, mode, owner, group })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let octal = (3..=4).contains(&text.len()) && text.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
        match u32::from_str_radix(&text, 8) {
            Ok(mode) if octal && mode <= 0o777 => Ok(Self(mode)),
            _ => Err(de::Error::custom("a mode is octal text from \"0000\" to \"0777\", such as \"0640\"")),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(json: &str) -> Layout {
        serde_json::from_str(json).unwrap()
    }

    fn code(json: &str) -> String {
        layout(json).check().unwrap_err().code().to_owned()
    }

    #[test]
    fn short_and_long_forms() {
        let layout = layout(
            r#"{"root": "/etc", "paths": {"key": {"path": "/etc/k.pem", "mode": "0640", "group": "ssl-cert"},
                "cert": "/etc/c.pem"}}"#,
        );
        layout.check().unwrap();
        let outputs = layout.outputs();
        assert_eq!(outputs[0], (Format::Cert, &Output::new("/etc/c.pem")));
        assert_eq!(outputs[1].1.mode, Some(Mode(0o640)));
        assert_eq!(outputs[1].1.group.as_deref(), Some("ssl-cert"));
    }

    #[test]
    fn unknown_fields_and_odd_modes_are_refused() {
        for json in [
            r#"{"paths": {"certificate": "/c"}}"#,
            r#"{"paths": {"cert": {"path": "/c", "perm": "0644"}}}"#,
            r#"{"paths": {"cert": {"path": "/c", "mode": 640}}}"#,
            r#"{"paths": {"cert": {"path": "/c", "mode": "4755"}}}"#,
            r#"{"paths": {"cert": {"path": "/c", "mode": "u=rw"}}}"#,
            r#"{"paths": {"cert": 7}}"#,
        ] {
            assert!(serde_json::from_str::<Layout>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        assert_eq!(code(r#"{"paths": {}}"#), "paths_empty");
        assert_eq!(code(r#"{"paths": {"cert": "/a", "key": "/a"}}"#), "path_duplicate");
        assert_eq!(code(r#"{"paths": {"cert": {"path": "/a", "owner": "a b"}}}"#), "owner_invalid");
        assert_eq!(code(r#"{"paths": {"cert": "/etc/a/../b"}}"#), "path_invalid");
        assert_eq!(code(r#"{"root": "/etc/ssl", "paths": {"cert": "/etc/ssl2/a"}}"#), "path_escapes_root");
    }
}
