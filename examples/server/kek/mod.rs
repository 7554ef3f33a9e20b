//! The key-encryption keys: from the environment, from a file that only its owner can read, from an HSM or a service,
//! or from all of them.

pub(crate) mod file;
pub(crate) mod providers;
pub(crate) mod reload;

use std::collections::BTreeMap;
use std::path::PathBuf;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::rand;
use certlib_core::secret::{KEK_LEN, Keyring, SecretString};
use certlib_core::{Error, Result, Secret};
use zeroize::Zeroizing;

use self::providers::Providers;
use crate::auth::hex;
use crate::config::Config;

const OPERATION: &str = "server.kek";

/// A key-encryption key.
pub(crate) type Key = Secret<[u8; KEK_LEN]>;

/// The secrets of the environment that are keys, or open the way to them.
#[derive(Debug, Default)]
pub(crate) struct KekSecrets {
    /// `CERTLIB_KEK`, which is version 1, and every `CERTLIB_KEK_V<n>`: 64 hex digits each, as yet unchecked.
    pub(crate) variables: Vec<(u32, SecretString)>,
    /// Those of the providers.
    pub(crate) providers: providers::Secrets,
}

/// Where the keys come from.
#[derive(Debug)]
pub(crate) struct Sources {
    variables: Vec<(u32, SecretString)>,
    file: PathBuf,
    providers: Providers,
}

impl Sources {
    /// The keys in `secrets`, in the key file of `config`, and where it says that there are others.
    pub(crate) fn new(config: &Config, secrets: KekSecrets) -> Self {
        let KekSecrets { variables, providers } = secrets;
        Self { variables, file: config.kek_file(), providers: Providers::new(config.kek.clone(), providers) }
    }

    /// Where keys are that do not leave it.
    pub(crate) fn providers(&self) -> &Providers {
        &self.providers
    }

    /// Checks what can be checked without an HSM and a network.
    ///
    /// # Errors
    /// As [`Sources::keyring`].
    pub(crate) fn check(&self) -> Result<()> {
        self.providers.check()?;
        self.local().map(drop)
    }

    /// All keys that are there now; none if there are none.
    ///
    /// # Errors
    /// `kek_invalid`, `kek_weak`, `kek_duplicate`, `kek_conflict` when two sources have different keys of one version,
    /// `kek_file_unusable`; as the providers.
    pub(crate) async fn keyring(&self) -> Result<Keyring> {
        let mut ring = self.local()?;
        for provider in self.providers.all().await? {
            ring.add_provider(provider).await?;
        }
        Ok(ring)
    }

    /// The keys in environment and file.
    fn local(&self) -> Result<Keyring> {
        let mut keys = BTreeMap::new();
        for (version, text) in &self.variables {
            let key = parse(text.expose())
                .map_err(|error| error.with("variable", format_args!("CERTLIB_KEK (v{version})")))?;
            merge(&mut keys, *version, key)?;
        }
        for (version, key) in file::read(&self.file)? {
            merge(&mut keys, version, key).map_err(|error| error.with("file", self.file.display()))?;
        }
        let mut ring = Keyring::default();
        for (version, key) in keys {
            ring.add(version, key)?;
        }
        Ok(ring)
    }

    /// The keys of a server that starts. If there are none and the database is `fresh`, a key file is made.
    ///
    /// # Errors
    /// As [`Sources::keyring`]; `kek_missing` when there is no key for a database that may need one.
    pub(crate) async fn keyring_to_start(&self, fresh: bool) -> Result<Keyring> {
        let ring = self.keyring().await?;
        if !ring.keks().is_empty() {
            return Ok(ring);
        }
        if !fresh {
            // A new key would make everything in the database unreadable.
            let why = "there is a database but not the key it was sealed with; restore the key file or set CERTLIB_KEK. \
                       For a new database that nodes share, make a key with `kek generate` and give it to all of them";
            return Err(Error::validation(OPERATION, "kek_missing", why).with("file", self.file.display()));
        }
        file::create(&self.file, 1, &generate()?)?;
        tracing::warn!(
            file = %self.file.display(),
            "made a key file; without it the database cannot be read: back it up apart"
        );
        self.keyring().await
    }
}

/// A new random key.
pub(crate) fn generate() -> Result<Key> {
    let mut key = Zeroizing::new([0; KEK_LEN]);
    rand::fill(&mut *key)
        .map_err(|_| Error::permanent(OPERATION, "random_failed", "the system gives no randomness"))?;
    Ok(Secret::new(*key))
}

/// `key` as a line of a key file.
pub(crate) fn line(version: u32, key: &Key) -> SecretString {
    let digits = Zeroizing::new(hex(key.expose()));
    // Sized at once: a text that grows leaves its beginning behind.
    let mut line = String::with_capacity(16 + digits.len());
    line.push_str(&format!("v{version} "));
    line.push_str(&digits);
    line.push('\n');
    Secret::new(line)
}

/// Reads 64 hex digits.
fn parse(text: &str) -> Result<Key> {
    let invalid = || Error::validation(OPERATION, "kek_invalid", "a key-encryption key is 64 hex digits");
    let digits = text.trim();
    if digits.len() != KEK_LEN * 2 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(invalid().with("characters", digits.chars().count()));
    }
    let mut key = Zeroizing::new([0; KEK_LEN]);
    for (byte, pair) in key.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| invalid())?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| invalid())?;
    }
    Ok(Secret::new(*key))
}

/// Adds a key that may be there already, but not another one of the same version.
fn merge(keys: &mut BTreeMap<u32, Key>, version: u32, key: Key) -> Result<()> {
    if let Some(present) = keys.get(&version) {
        return verify_slices_are_equal(present.expose(), key.expose()).map_err(|_| {
            let why = "there are two different keys of this version; a version belongs to one key for good";
            Error::validation(OPERATION, "kek_conflict", why).with("version", version)
        });
    }
    keys.insert(version, key);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn sources(folder: &Path, variables: &[(u32, &str)]) -> Sources {
        let config = Config { data_dir: folder.to_owned(), ..Config::default() };
        let variables = variables.iter().map(|(n, text)| (*n, Secret::new((*text).to_owned()))).collect();
        Sources::new(&config, KekSecrets { variables, ..KekSecrets::default() })
    }

    fn write(folder: &Path, text: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::write(folder.join("kek"), text).unwrap();
        std::fs::set_permissions(folder.join("kek"), std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn versions(sources: &Sources) -> Vec<u32> {
        sources.local().unwrap().keks().iter().map(|kek| kek.version).collect()
    }

    #[tokio::test]
    async fn the_first_start_makes_a_key_file_and_the_next_one_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let sources = sources(folder.path(), &[]);
        assert!(sources.keyring().await.unwrap().keks().is_empty());
        let made = sources.keyring_to_start(true).await.unwrap().keks();
        assert_eq!(made.len(), 1);
        assert_eq!(sources.keyring_to_start(true).await.unwrap().keks(), made);
    }

    #[tokio::test]
    async fn a_lost_key_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let sources = sources(folder.path(), &[]);
        assert_eq!(sources.keyring_to_start(false).await.unwrap_err().code(), "kek_missing");
        assert!(!folder.path().join("kek").exists());
    }

    #[test]
    fn environment_and_file_are_merged_and_must_agree() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = ("ab12".repeat(16), "cd34".repeat(16));
        write(folder.path(), &format!("{one}\nv3 {}\n", "ef56".repeat(16)));
        assert_eq!(versions(&sources(folder.path(), &[])), [1, 3]);
        assert_eq!(versions(&sources(folder.path(), &[(1, &one.to_uppercase()), (2, &two)])), [1, 2, 3]);
        let code = |variables: &[(u32, &str)]| sources(folder.path(), variables).check().unwrap_err().code().to_owned();
        assert_eq!(code(&[(1, &two)]), "kek_conflict");
        assert_eq!(code(&[(2, &two), (2, &one)]), "kek_conflict", "CERTLIB_KEK and CERTLIB_KEK_V1 may differ, too");
        assert_eq!(code(&[(2, &one)]), "kek_duplicate", "one key under two versions");
    }

    #[test]
    fn keys_of_the_wrong_form_are_refused_without_being_quoted() {
        let folder = tempfile::tempdir().unwrap();
        for (digits, code) in [
            ("ab".repeat(31), "kek_invalid"),
            ("ab".repeat(33), "kek_invalid"),
            ("zz".repeat(32), "kek_invalid"),
            ("+a".repeat(32), "kek_invalid"),
            ("é".repeat(32), "kek_invalid"),
            ("00".repeat(32), "kek_weak"),
        ] {
            let error = sources(folder.path(), &[(1, &digits)]).check().unwrap_err();
            assert_eq!(error.code(), code, "{digits}");
            assert!(!format!("{error:?}").contains(&digits));
        }
    }
}
