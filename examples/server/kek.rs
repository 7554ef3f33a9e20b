//! The key-encryption key: from the environment, or from a file that only its owner can read.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use aws_lc_rs::rand;
use certlib_core::secret::{Aad, KEK_LEN, Keyring, Sealed, SecretEnvelope, SecretString};
use certlib_core::store::{Index, Record, Store, StoreExt as _, WriteBatch};
use certlib_core::{Error, Result, Secret};
use serde::{Deserialize, Serialize};

use crate::auth::hex;
use crate::config::Config;

const OPERATION: &str = "server.kek";

/// The keyring: `variable` (the value of `CERTLIB_KEK`) if it is set, or else the key file, which is made at the first
/// start.
pub(crate) fn keyring(config: &Config, variable: Option<SecretString>) -> Result<Keyring> {
    let text = match variable {
        Some(text) => text,
        None => {
            let file = config.kek_file();
            match read(&file)? {
                Some(text) => text,
                // A new key would make everything in the database unreadable.
                None if config.database().exists() => {
                    return Err(Error::validation(
                        OPERATION,
                        "kek_missing",
                        "there is a database but not the key it was sealed with; restore the file or set CERTLIB_KEK",
                    )
                    .with("file", file.display()));
                }
                None => create(&file)?,
            }
        }
    };
    Keyring::new(parse(&text)?)
}

/// Checks the key that [`keyring`] would take, without making one.
pub(crate) fn check(config: &Config, variable: Option<SecretString>) -> Result<()> {
    let text = match variable {
        Some(text) => Some(text),
        None => read(&config.kek_file())?,
    };
    match text {
        Some(text) => Keyring::new(parse(&text)?).map(drop),
        None => Ok(()),
    }
}

fn read(path: &Path) -> Result<Option<SecretString>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unusable(path, "the key file cannot be read").with_source(error)),
    };
    let metadata = file.metadata().map_err(|error| unusable(path, "the key file cannot be read").with_source(error))?;
    let mode = metadata.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(unusable(path, "others can read the key file; `chmod 600` it, and think about who has read it")
            .with("mode", format_args!("{:o}", mode & 0o777)));
    }
    let mut text = String::with_capacity(1024);
    let read = (&mut file).take(1024).read_to_string(&mut text);
    let text = Secret::new(text);
    read.map_err(|error| unusable(path, "not a key").with_source(error))?;
    Ok(Some(text))
}

fn create(path: &Path) -> Result<SecretString> {
    let mut key = [0; KEK_LEN];
    rand::fill(&mut key).map_err(|_| Error::permanent(OPERATION, "random_failed", "the system gives no randomness"))?;
    let text = Secret::new(hex(&key));
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.expose().as_bytes())?;
        file.sync_all()
    };
    write().map_err(|error| unusable(path, "the key file cannot be made").with_source(error))?;
    tracing::warn!(file = %path.display(), "made a key file; without it the database cannot be read: back it up apart");
    Ok(text)
}

fn parse(text: &SecretString) -> Result<Secret<[u8; KEK_LEN]>> {
    let invalid = || Error::validation(OPERATION, "kek_invalid", "a key-encryption key is 64 hex digits");
    let digits = text.expose().trim();
    if digits.len() != KEK_LEN * 2 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(invalid().with("characters", digits.chars().count()));
    }
    let mut key = [0; KEK_LEN];
    for (byte, pair) in key.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| invalid())?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| invalid())?;
    }
    Ok(Secret::new(key))
}

fn unusable(path: &Path, why: &'static str) -> Error {
    Error::validation(OPERATION, "kek_file_unusable", why).with("file", path.display())
}

/// A value sealed at the first start, to notice a wrong key at every later one.
#[derive(Debug, Serialize, Deserialize)]
struct KekCheck {
    id: String,
    sealed: Sealed,
}

impl KekCheck {
    const ID: &'static str = "server";

    fn aad() -> Aad<'static> {
        Aad::new("", Self::KIND, Self::ID, "sealed")
    }
}

impl Record for KekCheck {
    const KIND: &'static str = "kek_check";
    const FIELDS: &'static [&'static str] = &[];

    fn id(&self) -> &str {
        &self.id
    }

    fn index(&self) -> Index {
        Index::new()
    }
}

/// Fails when the database was sealed with another key than the envelope has.
pub(crate) async fn check_database(store: &dyn Store, envelope: &dyn SecretEnvelope) -> Result<()> {
    if let Some(check) = store.find::<KekCheck>(KekCheck::ID).await? {
        return match envelope.open(&check.sealed, &KekCheck::aad()).await {
            Ok(_) => Ok(()),
            Err(error) => Err(Error::validation(
                OPERATION,
                "kek_wrong",
                "the database was sealed with another key-encryption key than this one",
            )
            .with_source(error)),
        };
    }
    let sealed = envelope.seal(b"certlib", &KekCheck::aad()).await?;
    store.commit(WriteBatch::new().put(&KekCheck { id: KekCheck::ID.to_owned(), sealed })?).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use super::*;

    fn config(folder: &Path) -> Config {
        Config { data_dir: folder.to_owned(), ..Config::default() }
    }

    #[test]
    fn the_first_start_makes_a_private_file_and_the_next_one_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        keyring(&config, None).unwrap();
        let made = std::fs::read(config.kek_file()).unwrap();
        assert_eq!(std::fs::metadata(config.kek_file()).unwrap().permissions().mode() & 0o777, 0o600);
        keyring(&config, None).unwrap();
        assert_eq!(std::fs::read(config.kek_file()).unwrap(), made);
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        keyring(&config, None).unwrap();
        for mode in [0o604, 0o640, 0o602] {
            std::fs::set_permissions(config.kek_file(), Permissions::from_mode(mode)).unwrap();
            assert_eq!(keyring(&config, None).unwrap_err().code(), "kek_file_unusable", "{mode:o}");
            assert_eq!(check(&config, None).unwrap_err().code(), "kek_file_unusable", "{mode:o}");
        }
    }

    #[test]
    fn a_lost_key_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        std::fs::write(config.database(), "").unwrap();
        assert_eq!(keyring(&config, None).unwrap_err().code(), "kek_missing");
        assert!(!config.kek_file().exists());
    }

    #[test]
    fn keys_of_the_wrong_form_are_refused_without_being_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let text = |digits: &str| Some(Secret::new(digits.to_owned()));
        for (digits, code) in [
            ("ab".repeat(31), "kek_invalid"),
            ("ab".repeat(33), "kek_invalid"),
            ("zz".repeat(32), "kek_invalid"),
            ("+a".repeat(32), "kek_invalid"),
            ("é".repeat(32), "kek_invalid"),
            ("00".repeat(32), "kek_weak"),
            (String::new(), "kek_invalid"),
        ] {
            let error = keyring(&config(folder.path()), text(&digits)).unwrap_err();
            assert_eq!(error.code(), code, "{digits}");
            assert!(digits.is_empty() || !format!("{error:?}").contains(&digits));
        }
        assert!(keyring(&config(folder.path()), text(&"aB".repeat(32))).is_ok());
    }
}
