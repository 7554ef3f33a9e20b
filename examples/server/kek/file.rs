//! The key file: one line for each version, `v<n> <64 hex digits>`. A line of 64 hex digits alone is version 1.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use certlib_core::secret::SecretString;
use certlib_core::{Error, Result, Secret};

use super::{Key, OPERATION, line, parse};
use crate::secrets;

/// The largest key file, in bytes.
const FILE_MAX: usize = 64 * 1024;

/// The keys in the file at `path`, in its order; none if there is no file.
///
/// # Errors
/// `kek_file_unusable` when it cannot be read or others can; `kek_invalid` with the number of the line.
pub(crate) fn read(path: &Path) -> Result<Vec<(u32, Key)>> {
    let Some(text) = secret_text(path)? else { return Ok(Vec::new()) };
    let mut keys = Vec::new();
    for (number, text) in text.expose().lines().enumerate() {
        let text = text.trim();
        if !text.is_empty() && !text.starts_with('#') {
            let key = key(text).map_err(|error| error.with("line", number + 1).with("file", path.display()))?;
            keys.push(key);
        }
    }
    if keys.is_empty() {
        return Err(unusable(path, "the key file is empty; put a key into it, or take it away"));
    }
    Ok(keys)
}

/// Makes a file with one key, for its owner alone.
///
/// # Errors
/// `kek_file_unusable`, also when there is a file already.
pub(crate) fn create(path: &Path, version: u32, key: &Key) -> Result<()> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(line(version, key).expose().as_bytes())?;
        file.sync_all()
    };
    write().map_err(|error| unusable(path, "the key file cannot be made").with_source(error))
}

/// What is in the file at `path`, which only its owner may be able to read; `None` if there is no file.
///
/// # Errors
/// `kek_file_unusable` when it cannot be read or others can.
pub(super) fn secret_text(path: &Path) -> Result<Option<SecretString>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unusable(path, "the file cannot be read").with_source(error)),
    };
    let metadata = file.metadata().map_err(|error| unusable(path, "the file cannot be read").with_source(error))?;
    let mode = metadata.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(unusable(path, "others can read the file; `chmod 600` it, and think about who has read it")
            .with("mode", format_args!("{:o}", mode & 0o777)));
    }
    // Sized at once: a buffer that grows leaves copies behind.
    let mut text = String::with_capacity(FILE_MAX + 1);
    let read = (&mut file).take(FILE_MAX as u64 + 1).read_to_string(&mut text);
    let text = Secret::new(text);
    match read {
        Ok(length) if length <= FILE_MAX => Ok(Some(text)),
        Ok(_) => Err(unusable(path, "the file is larger than a file of keys can be")),
        Err(error) => Err(unusable(path, "the file cannot be read as text").with_source(error)),
    }
}

fn key(text: &str) -> Result<(u32, Key)> {
    let Some((version, digits)) = text.split_once(char::is_whitespace) else { return Ok((1, parse(text)?)) };
    match version.strip_prefix('v').and_then(secrets::version) {
        Some(version) => Ok((version, parse(digits)?)),
        None => Err(Error::validation(OPERATION, "kek_invalid", "a line of a key file is `v<n> <64 hex digits>`")),
    }
}

fn unusable(path: &Path, why: &'static str) -> Error {
    Error::validation(OPERATION, "kek_file_unusable", why).with("file", path.display())
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use super::*;
    use crate::kek::generate;

    fn written(text: &str) -> Result<Vec<u32>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kek");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        read(&path).map(|keys| keys.into_iter().map(|(version, _)| version).collect())
    }

    #[test]
    fn what_is_made_is_private_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kek");
        assert!(read(&path).unwrap().is_empty());
        let key = generate().unwrap();
        create(&path, 7, &key).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let keys = read(&path).unwrap();
        assert_eq!(keys.len(), 1);
        assert_eq!((keys[0].0, keys[0].1.expose()), (7, key.expose()));
        assert_eq!(create(&path, 8, &key).unwrap_err().code(), "kek_file_unusable", "never over another");
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kek");
        create(&path, 1, &generate().unwrap()).unwrap();
        for mode in [0o604, 0o640, 0o602] {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert_eq!(read(&path).unwrap_err().code(), "kek_file_unusable", "{mode:o}");
        }
    }

    #[test]
    fn lines_are_versions_and_anything_else_is_refused() {
        let digits = "ab12".repeat(16);
        assert_eq!(written(&digits).unwrap(), [1]);
        assert_eq!(written(&format!("{digits}\nv2 {digits}")).unwrap(), [1, 2]);
        assert_eq!(written(&format!("# ours\r\n\r\n  v12\t{digits}  \r\n")).unwrap(), [12]);
        for text in [
            format!("{digits}v2 {digits}\n"),
            format!("2 {digits}"),
            format!("v0 {digits}"),
            format!("v02 {digits}"),
            format!("v2 {digits} {digits}"),
            format!("v2 {}", &digits[1..]),
            "v2".to_owned(),
        ] {
            let error = written(&text).unwrap_err();
            assert_eq!(error.code(), "kek_invalid", "{text}");
            assert!(error.to_string().contains("line") && !format!("{error:?}").contains("ab12ab12"), "{error:?}");
        }
        assert_eq!(written("").unwrap_err().code(), "kek_file_unusable");
        assert_eq!(written(&"#".repeat(FILE_MAX + 1)).unwrap_err().code(), "kek_file_unusable");
    }
}
