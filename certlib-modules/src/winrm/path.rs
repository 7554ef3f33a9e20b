//! Which Windows paths are accepted, and the names derived from them.

use certlib_core::{Error, Result};

/// The longest path, in UTF-16 units: what every program of Windows can open, less what a temporary name adds.
const MAX_PATH: usize = 259 - 1 - MARK.len() - 20;

/// What marks a temporary file as ours.
const MARK: &str = ".certlib-";

/// Names that are devices, whatever follows them after a dot.
const DEVICES: [&str; 6] = ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"];

/// Accepts a path from the root of a drive (`C:\dir\file`) or of a share (`\\server\share\dir\file`) that every part
/// of Windows reads the same way: no `.` or `..`, no device, no stream of a file (`file:name`), no dot or space at the
/// end of a name, no short name (`PROGRA~1`), no forward slash.
///
/// # Errors
/// `Validation` `path_invalid`.
pub(crate) fn check(path: &str) -> Result<()> {
    match problem(path) {
        None => Ok(()),
        Some(problem) => Err(Error::validation("winrm.check", "path_invalid", format!("the path {problem}"))
            .with("path", path.chars().take(256).collect::<String>().escape_debug())),
    }
}

fn problem(path: &str) -> Option<&'static str> {
    if path.encode_utf16().count() > MAX_PATH {
        return Some("is longer than Windows takes");
    }
    if path.contains('/') {
        return Some("has a forward slash");
    }
    let Some((rest, share)) = without_root(path) else {
        return Some(r"is not absolute: it starts like `C:\` or `\\server\share\`");
    };
    if share.iter().any(|name| component(name).is_some()) {
        return Some("names a server or share that cannot be");
    }
    if rest.is_empty() {
        return Some("is a root, not a file or directory");
    }
    rest.split('\\').find_map(component)
}

/// What follows the root, and the names of server and share, if there are any.
fn without_root(path: &str) -> Option<(&str, Vec<&str>)> {
    if let Some(rest) = path.strip_prefix(r"\\") {
        let mut parts = rest.splitn(3, '\\');
        let (server, share) = (parts.next()?, parts.next()?);
        let rest = parts.next()?;
        // `\\?\` and `\\.\` switch checks off, or lead to devices.
        return (!matches!(server, "?" | ".")).then_some((rest, vec![server, share]));
    }
    let bytes = path.as_bytes();
    let drive = bytes.len() >= 3 && bytes[0].is_ascii_alphabetic() && &bytes[1..3] == br":\";
    drive.then(|| (&path[3..], Vec::new()))
}

fn component(name: &str) -> Option<&'static str> {
    let stem = name.split('.').next().unwrap_or(name).trim_end();
    if matches!(name, "" | "." | "..") {
        Some("contains an empty, `.` or `..` component")
    } else if name.chars().any(|c| c.is_control() || reorders_text(c)) {
        Some("contains a control character")
    } else if name.contains(':') {
        Some("names a stream of a file")
    } else if name.contains(['<', '>', '"', '|', '?', '*']) {
        Some("contains a character that no file name has")
    } else if name.ends_with(['.', ' ']) || name.starts_with(' ') {
        Some("has a name with a dot or space at its end, or a space at its start")
    } else if is_device(stem) {
        Some("names a device")
    } else if is_short(name) {
        Some("has a short name, such as `PROGRA~1`")
    } else {
        None
    }
}

fn is_device(stem: &str) -> bool {
    let upper = stem.to_ascii_uppercase();
    let numbered = upper.strip_prefix("COM").or_else(|| upper.strip_prefix("LPT")).is_some_and(|rest| {
        let mut rest = rest.chars();
        let digit = rest.next().is_some_and(|c| c.is_ascii_digit() || matches!(c, '¹' | '²' | '³'));
        digit && rest.next().is_none()
    });
    numbered || DEVICES.contains(&upper.as_str())
}

fn is_short(name: &str) -> bool {
    let (stem, extension) = name.split_once('.').unwrap_or((name, ""));
    let numbered = stem.split_once('~').is_some_and(|(start, number)| {
        (1..=6).contains(&start.len()) && !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit())
    });
    numbered && stem.len() <= 8 && extension.len() <= 3 && !extension.contains('.')
}

/// Accepts a path below the directory `root`, both [checked](check). Windows does not care about case.
///
/// # Errors
/// `Validation` `path_escapes_root`.
pub(crate) fn check_inside(path: &str, root: &str) -> Result<()> {
    let (inner, outer) = (folded(path), folded(root));
    let inside = inner.strip_prefix(&outer).is_some_and(|rest| rest.starts_with('\\'));
    if inside {
        return Ok(());
    }
    Err(Error::validation("winrm.check", "path_escapes_root", "the path lies outside the root of this target")
        .with("path", path.escape_debug())
        .with("root", root.escape_debug()))
}

/// The path in the form in which two names of one file are equal.
pub(crate) fn folded(path: &str) -> String {
    path.to_lowercase()
}

/// The directory of a checked path.
pub(crate) fn parent(path: &str) -> &str {
    let end = path.rfind('\\').unwrap_or(0);
    // The root of a drive keeps its backslash: `C:` alone is wherever that drive's current directory is.
    if end == 2 && path.as_bytes()[1] == b':' { &path[..3] } else { &path[..end] }
}

/// The temporary file of one swap, beside its target.
pub(crate) fn temporary(path: &str, nonce: &str) -> String {
    let at = path.rfind('\\').map_or(0, |end| end + 1);
    format!("{}.{}{MARK}{nonce}", &path[..at], &path[at..])
}

/// Characters that make a path look like another one.
fn reorders_text(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_paths() {
        let long = format!(r"C:\{}", "a".repeat(MAX_PATH));
        for path in [
            "",
            "a",
            r"a\b",
            r".\a",
            r"..\a",
            r"\a",
            r"\\server",
            r"\\server\share",
            r"\\server\share\",
            r"\\?\C:\a",
            r"\\.\pipe\a",
            r"\\server\..\a\b",
            "C:",
            r"C:\",
            r"C:a",
            r"C:\a\",
            r"C:\\a",
            r"C:\a\.\b",
            r"C:\a\..\b",
            r"C:\a...",
            r"C:\a ",
            r"C:\a.\b",
            r"C:\ a",
            r"C:\a /b",
            "C:/a",
            r"C:\a:stream",
            r"C:\a::$DATA",
            r"C:\CON",
            r"C:\con.pem",
            r"C:\nul .txt",
            r"C:\a\COM1",
            r"C:\lpt9.key",
            "C:\\com\u{b9}.x",
            r"C:\aux\a.pem",
            r"C:\PROGRA~1\a",
            r"C:\a\CERTI~12.PEM",
            r"C:\a*",
            r"C:\a?b",
            "C:\\a\nb",
            "C:\\a\0",
            "C:\\a\u{202e}b",
            &long,
        ] {
            let error = check(path).unwrap_err();
            assert_eq!(error.code(), "path_invalid", "{path:?}");
            assert!(!error.to_string().contains('\n'));
        }
    }

    #[test]
    fn odd_but_good_paths() {
        for path in [
            r"C:\a",
            r"d:\Certs & Keys\it's $(x) `y`.pem",
            r"\\server\share$\a\b.pfx",
            r"\\10.0.0.1\share\_.example.com.pfx",
            r"C:\ü\名前",
            r"C:\[a]\{b};%c%.pem",
            r"C:\a~b\x~1y",
            r"C:\console\comet\com10.pem",
            r"C:\.hidden",
        ] {
            check(path).unwrap();
        }
    }

    #[test]
    fn roots_and_case() {
        check_inside(r"C:\Certs\a.pem", r"c:\certs").unwrap();
        for path in [r"C:\Certs", r"C:\Certs2\a", r"D:\Certs\a", r"C:\a"] {
            assert_eq!(check_inside(path, r"C:\Certs").unwrap_err().code(), "path_escapes_root");
        }
    }

    #[test]
    fn derived_names() {
        assert_eq!(temporary(r"C:\tls\a.pem", "n1"), r"C:\tls\.a.pem.certlib-n1");
        assert_eq!(temporary(r"C:\a", "n1"), r"C:\.a.certlib-n1");
        assert_eq!((parent(r"C:\a"), parent(r"C:\a\b"), parent(r"\\s\h\a")), (r"C:\", r"C:\a", r"\\s\h"));
    }
}
