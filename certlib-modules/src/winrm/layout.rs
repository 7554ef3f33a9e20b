//! Which files a target wants, where, and who may read them.

use std::fmt;

use certlib_core::{Error, Result};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{path, sddl};
use crate::files::Format;

/// How many accounts may be named as readers of one file.
const MAX_READERS: usize = 32;

/// The wanted files. Each is a path, or `{"path", "acl"}`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct WindowsPaths {
    /// The leaf, PEM.
    pub cert: Option<WindowsOutput>,
    /// The issuers without the leaf, PEM; an empty file when the leaf stands alone.
    pub chain: Option<WindowsOutput>,
    /// Leaf, then issuers, PEM.
    pub fullchain: Option<WindowsOutput>,
    /// The private key, PKCS#8 PEM.
    pub key: Option<WindowsOutput>,
    /// Leaf, issuers and private key in one PEM file.
    pub combined: Option<WindowsOutput>,
    /// A PKCS#12 container with key, leaf and issuers.
    pub pfx: Option<WindowsOutput>,
    /// The leaf, DER.
    pub der: Option<WindowsOutput>,
}

/// One wanted file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WindowsOutput {
    /// Its absolute path: `C:\dir\file` or `\\server\share\dir\file`.
    pub path: String,
    /// Who may do what with it; by default that of the file in its place, or else, with a private key inside, the
    /// system and administrators only, and without one what its directory hands down.
    pub acl: Option<Acl>,
}

/// Who may do what with a file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Acl {
    /// The system and administrators may do everything, these accounts may read: names or SIDs.
    Readers(Vec<String>),
    /// An access list in SDDL, from `D:` on.
    Sddl(String),
}

impl WindowsOutput {
    /// A file at `path` with the default access list.
    pub fn new(path: impl Into<String>) -> Self {
        Self { path: path.into(), acl: None }
    }

    /// Checks what can be checked without the machine.
    ///
    /// # Errors
    /// `Validation`: `path_invalid`, `path_escapes_root`, `acl_invalid`.
    pub(super) fn check(&self, root: Option<&str>) -> Result<()> {
        path::check(&self.path)?;
        if let Some(root) = root {
            path::check_inside(&self.path, root)?;
        }
        self.acl.as_ref().map_or(Ok(()), Acl::check)
    }
}

impl Acl {
    fn check(&self) -> Result<()> {
        match self {
            Self::Sddl(text) => sddl::check(text),
            Self::Readers(names) => {
                let plain = |name: &String| {
                    (1..=256).contains(&name.len())
                        && !name.chars().any(|c| c.is_control() || "\"/[]:;|=,+*?<>".contains(c))
                };
                if names.len() > MAX_READERS || !names.iter().all(plain) {
                    return Err(Error::validation(
                        "winrm.check",
                        "acl_invalid",
                        "readers are at most 32 accounts, as `name`, `DOMAIN\\name` or SID",
                    ));
                }
                Ok(())
            }
        }
    }

    /// The names that the machine has to look up.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let readers = match self {
            Self::Readers(readers) => readers.as_slice(),
            Self::Sddl(_) => &[],
        };
        readers.iter().map(String::as_str).filter(|name| !sddl::is_sid(name))
    }
}

impl WindowsPaths {
    /// The wanted files, in the order in which they are swapped.
    pub fn outputs(&self) -> Vec<(Format, &WindowsOutput)> {
        [
            (Format::Chain, &self.chain),
            (Format::Cert, &self.cert),
            (Format::Fullchain, &self.fullchain),
            (Format::Key, &self.key),
            (Format::Combined, &self.combined),
            (Format::Pfx, &self.pfx),
            (Format::Der, &self.der),
        ]
        .into_iter()
        .filter_map(|(format, output)| output.as_ref().map(|output| (format, output)))
        .collect()
    }
}

/// Checks files and the directory that none of them may leave.
///
/// # Errors
/// `Validation`: `paths_empty`, `path_invalid`, `path_escapes_root`, `path_duplicate`, `acl_invalid`.
pub(crate) fn check(outputs: &[(Format, &WindowsOutput)], root: Option<&str>) -> Result<()> {
    if outputs.is_empty() {
        let why = "no path is given, so nothing would be written";
        return Err(Error::validation("winrm.check", "paths_empty", why));
    }
    if let Some(root) = root {
        path::check(root).map_err(|error| error.with("field", "root"))?;
    }
    for (index, (format, output)) in outputs.iter().enumerate() {
        output.check(root).map_err(|error| error.with("field", format.as_str()))?;
        let same = |other: &WindowsOutput| path::folded(&other.path) == path::folded(&output.path);
        if let Some((other, _)) = outputs[..index].iter().find(|(_, other)| same(other)) {
            return Err(Error::validation("winrm.check", "path_duplicate", "two files have the same path")
                .with("field", format.as_str())
                .with("other", other.as_str()));
        }
    }
    Ok(())
}

impl<'de> Deserialize<'de> for WindowsOutput {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Long {
            path: String,
            acl: Option<Acl>,
        }
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = WindowsOutput;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path, or an object with path and acl")
            }

            fn visit_str<E: de::Error>(self, path: &str) -> Result<WindowsOutput, E> {
                Ok(WindowsOutput::new(path))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<WindowsOutput, A::Error> {
                let Long { path, acl } = Long::deserialize(MapAccessDeserializer::new(map))?;
                Ok(WindowsOutput { path, acl })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(json: &str) -> String {
        let paths: WindowsPaths = serde_json::from_str(json).unwrap();
        check(&paths.outputs(), Some(r"C:\tls")).unwrap_err().code().to_owned()
    }

    #[test]
    fn short_and_long_forms() {
        let paths: WindowsPaths = serde_json::from_str(
            r#"{"key": {"path": "C:\\tls\\k.pem", "acl": {"readers": ["NETWORK SERVICE", "S-1-5-20"]}},
                "cert": "C:\\tls\\c.pem"}"#,
        )
        .unwrap();
        let outputs = paths.outputs();
        check(&outputs, Some(r"C:\TLS")).unwrap();
        assert_eq!(outputs[0], (Format::Cert, &WindowsOutput::new(r"C:\tls\c.pem")));
        assert_eq!(outputs[1].1.acl.as_ref().unwrap().names().collect::<Vec<_>>(), ["NETWORK SERVICE"]);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        assert_eq!(code("{}"), "paths_empty");
        assert_eq!(code(r#"{"cert": "C:\\tls\\a", "key": "c:\\TLS\\A"}"#), "path_duplicate");
        assert_eq!(code(r#"{"cert": "C:\\other\\a"}"#), "path_escapes_root");
        assert_eq!(code(r#"{"cert": "C:\\tls\\..\\a"}"#), "path_invalid");
        assert_eq!(code(r#"{"cert": {"path": "C:\\tls\\a", "acl": {"sddl": "D:P"}}}"#), "acl_invalid");
        assert_eq!(code(r#"{"cert": {"path": "C:\\tls\\a", "acl": {"readers": ["a;b"]}}}"#), "acl_invalid");
        for json in [
            r#"{"certificate": "C:\\c"}"#,
            r#"{"cert": {"path": "C:\\c", "mode": "0600"}}"#,
            r#"{"cert": {"path": "C:\\c", "acl": {"readers": [], "sddl": ""}}}"#,
            r#"{"cert": 7}"#,
        ] {
            assert!(serde_json::from_str::<WindowsPaths>(json).is_err(), "{json}");
        }
    }
}
