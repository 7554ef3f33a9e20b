//! SELinux labels: a file that takes the place of another takes its label, too.

use std::io;
use std::process::{Command, Stdio};

use rustix::fs::{XattrFlags, lgetxattr, lsetxattr};
use rustix::io::Errno;

/// The extended attribute that holds it.
const NAME: &str = "security.selinux";

/// The longest label, in bytes: what the kernel passes in one page.
const MAX_LABEL: usize = 4096;

/// What keeps labels.
pub(super) trait Labels: Send {
    /// The label of the file `path`; `None` when it has none, or when its file system keeps none.
    fn label(&self, path: &str) -> io::Result<Option<Vec<u8>>>;

    /// Labels the file `path`.
    fn set(&self, path: &str, label: &[u8]) -> io::Result<()>;

    /// Labels the file `path` as the policy wants a file of this name to be.
    fn restore(&self, path: &str) -> io::Result<()>;
}

/// The labels of this machine; `None` where SELinux is not enabled.
pub(super) fn labels() -> Option<Selinux> {
    std::path::Path::new("/sys/fs/selinux/enforce").exists().then_some(Selinux)
}

/// Has `rename` put the file `from` in the place of `to`, and sees to its label: that of the file in whose place it comes,
/// or what the policy wants where there was none. Answers whether the label is right; only a failed `rename` is an error.
pub(super) fn with_label(
    labels: Option<&dyn Labels>,
    from: &str,
    to: &str,
    rename: impl FnOnce() -> io::Result<()>,
) -> io::Result<bool> {
    let Some(labels) = labels else { return rename().map(|()| true) };
    let is_new = matches!(std::fs::symlink_metadata(to), Err(error) if error.kind() == io::ErrorKind::NotFound);
    let mut done = if is_new { Ok(()) } else { copy(labels, to, from) };
    rename()?;
    if is_new {
        done = labels.restore(to);
    }
    if let Err(error) = &done {
        tracing::warn!(%error, path = to, "the SELinux label of a file could not be kept");
    }
    Ok(done.is_ok())
}

fn copy(labels: &dyn Labels, from: &str, to: &str) -> io::Result<()> {
    match labels.label(from)? {
        Some(label) if labels.label(to)?.as_deref() != Some(&label) => labels.set(to, &label),
        _ => Ok(()),
    }
}

/// Those of the kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Selinux;

impl Labels for Selinux {
    fn label(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        let mut label = vec![0; MAX_LABEL];
        match lgetxattr(path, NAME, label.as_mut_slice()) {
            Ok(length) => {
                label.truncate(length);
                Ok(Some(label))
            }
            Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn set(&self, path: &str, label: &[u8]) -> io::Result<()> {
        Ok(lsetxattr(path, NAME, label, XattrFlags::empty())?)
    }

    fn restore(&self, path: &str) -> io::Result<()> {
        let mut command = Command::new("restorecon");
        command.args(["--", path]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let status = command.status()?;
        if status.success() { Ok(()) } else { Err(io::Error::other(format!("restorecon: {status}"))) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::fs;
    use std::sync::Mutex;

    use super::*;

    /// Labels by path, and what was done to them.
    #[derive(Default)]
    struct Fake {
        labels: Mutex<HashMap<String, Vec<u8>>>,
        log: Mutex<Vec<String>>,
        refuses: bool,
    }

    impl Labels for Fake {
        fn label(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
            Ok(self.labels.lock().unwrap().get(path).cloned())
        }

        fn set(&self, path: &str, label: &[u8]) -> io::Result<()> {
            self.log.lock().unwrap().push(format!("set {path} {}", String::from_utf8_lossy(label)));
            if self.refuses { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(()) }
        }

        fn restore(&self, path: &str) -> io::Result<()> {
            self.log.lock().unwrap().push(format!("restore {path}"));
            if self.refuses { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(()) }
        }
    }

    /// Renames `new` to `old`; gives whether the label is right, and what was done.
    fn swap(folder: &std::path::Path, fake: Fake) -> (bool, Vec<String>) {
        let at = |name: &str| folder.join(name).to_str().unwrap().to_owned();
        fs::write(at("new"), "new").unwrap();
        let kept = with_label(Some(&fake), &at("new"), &at("old"), || fs::rename(at("new"), at("old"))).unwrap();
        assert_eq!(fs::read(at("old")).unwrap(), b"new");
        (kept, fake.log.into_inner().unwrap())
    }

    #[test]
    fn the_label_goes_over_before_the_file_does() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let labelled = |labels: &[(&str, &str)], refuses| Fake {
            labels: Mutex::new(labels.iter().map(|(name, label)| (at(name), label.as_bytes().to_vec())).collect()),
            refuses,
            ..Fake::default()
        };
        let (old, new) = (at("old"), at("new"));
        assert_eq!(swap(folder.path(), labelled(&[], false)), (true, vec![format!("restore {old}")]), "none was there");
        let set = vec![format!("set {new} cert_t")];
        assert_eq!(swap(folder.path(), labelled(&[("old", "cert_t")], false)), (true, set.clone()));
        assert_eq!(swap(folder.path(), labelled(&[("old", "cert_t"), ("new", "tmp_t")], false)), (true, set.clone()));
        let same = labelled(&[("old", "cert_t"), ("new", "cert_t")], true);
        assert_eq!(swap(folder.path(), same), (true, vec![]), "what is right needs no permission");
        assert_eq!(swap(folder.path(), labelled(&[], true)), (true, vec![]), "a file system without labels");
        assert_eq!(swap(folder.path(), labelled(&[("old", "cert_t")], true)), (false, set), "delivered all the same");
        fs::remove_file(&old).unwrap();
        assert_eq!(swap(folder.path(), labelled(&[], true)), (false, vec![format!("restore {old}")]));
    }

    #[test]
    fn without_selinux_nothing_is_asked() {
        assert!(with_label(None, "/none", "/none", || Ok(())).unwrap());
        assert!(with_label(None, "/none", "/none", || Err(io::ErrorKind::NotFound.into())).is_err());
    }

    /// The kernel keeps the attribute for root even where no SELinux looks at it.
    #[test]
    fn the_attribute_is_read_and_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "").unwrap();
        let path = path.to_str().unwrap();
        match Selinux.set(path, b"system_u:object_r:cert_t:s0") {
            Ok(()) => assert_eq!(Selinux.label(path).unwrap().unwrap(), b"system_u:object_r:cert_t:s0"),
            // Not root, or a file system that keeps none.
            Err(error) => {
                assert!(matches!(error.raw_os_error(), Some(1 | 95)), "{error}");
                assert!(!matches!(Selinux.label(path), Ok(Some(_))) || labels().is_some());
            }
        }
        assert_eq!(Selinux.label(&format!("{path}-none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
