//! Paths of Windows: drives, shares, either slash, any case.

use super::error::{WindowsError, WindowsResult};

/// Characters that no name may hold.
const FORBIDDEN: [char; 7] = ['<', '>', '"', '|', '?', '*', ':'];

/// An absolute path, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WinPath {
    /// `C:` or `\\server\share`.
    pub(super) volume: String,
    /// Names below the volume.
    pub(super) names: Vec<String>,
}

impl WinPath {
    /// Reads `C:\a\b`, `C:/a/b` or `\\server\share\a`; `.` and `..` are resolved, names keep their case.
    pub(super) fn parse(text: &str) -> WindowsResult<Self> {
        let invalid = || WindowsError::invalid_name(text);
        let plain = text.replace('/', "\\");
        let plain = plain.strip_prefix("\\\\?\\").unwrap_or(&plain);
        let (volume, rest) = if let Some(share) = plain.strip_prefix("\\\\") {
            let mut parts = share.splitn(3, '\\');
            let (server, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            if server.is_empty() || name.is_empty() {
                return Err(invalid());
            }
            (format!("\\\\{server}\\{name}"), parts.next().unwrap_or_default())
        } else {
            let (drive, rest) = plain.split_at_checked(2).ok_or_else(invalid)?;
            let letter = drive.starts_with(|c: char| c.is_ascii_alphabetic()) && drive.ends_with(':');
            if !letter || !(rest.is_empty() || rest.starts_with('\\')) {
                return Err(invalid());
            }
            (drive.to_uppercase(), rest)
        };
        let mut names = Vec::new();
        for name in rest.split('\\').filter(|name| !name.is_empty() && *name != ".") {
            if name == ".." {
                names.pop();
            } else if name.contains(FORBIDDEN) || name.contains(|c: char| c.is_control()) {
                return Err(invalid());
            } else {
                // Windows drops dots and spaces at the end of a name.
                names.push(name.trim_end_matches(['.', ' ']).to_owned());
            }
        }
        Ok(Self { volume, names })
    }

    /// What two spellings of one path have in common.
    pub(super) fn key(&self) -> String {
        self.display().to_lowercase()
    }

    /// The path as Windows shows it.
    pub(super) fn display(&self) -> String {
        if self.names.is_empty() && !self.volume.starts_with('\\') {
            return format!("{}\\", self.volume);
        }
        let mut text = self.volume.clone();
        for name in &self.names {
            text.push('\\');
            text.push_str(name);
        }
        text
    }

    /// The directory it lies in; `None` for the root of a volume.
    pub(super) fn parent(&self) -> Option<Self> {
        let mut parent = self.clone();
        parent.names.pop().map(|_| parent)
    }

    pub(super) fn same_volume(&self, other: &Self) -> bool {
        self.volume.eq_ignore_ascii_case(&other.volume)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_a_path_are_one() {
        let path = WinPath::parse("c:/Web\\.\\x\\..\\Cert.PFX").unwrap();
        assert_eq!(path.display(), "C:\\Web\\Cert.PFX");
        assert_eq!(path.key(), WinPath::parse("C:\\WEB\\cert.pfx").unwrap().key());
        let share = WinPath::parse("\\\\srv\\certs$\\a.pfx").unwrap();
        assert_eq!((share.volume.as_str(), share.names.len()), ("\\\\srv\\certs$", 1));
        assert_eq!(WinPath::parse("D:").unwrap().display(), "D:\\");
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for text in ["", "x", "relative\\a", "\\\\server", "C:\\a<b", "C:a", "C:\\a:stream", "1:\\a"] {
            assert_eq!(WinPath::parse(text).unwrap_err().code, 0x8007_007B, "{text}");
        }
    }
}
