//! Which paths are accepted, and the names derived from them.

use certlib_core::{Error, Result};

/// The longest path, in bytes.
const MAX_PATH: usize = 4096;

/// The longest name of a file, in bytes: what file systems allow, less what a temporary name adds.
const MAX_NAME: usize = 255 - ".".len() - MARK.len() - 32;

/// What marks a temporary file as ours.
const MARK: &str = ".certlib-";

/// Accepts an absolute, canonical path without control characters. Quotes, spaces and every other character are fine:
/// paths reach a shell only through [`quote`](super::command::quote).
///
/// # Errors
/// `Validation` `path_invalid`.
pub(crate) fn check(path: &str) -> Result<()> {
    let problem = if !path.starts_with('/') {
        "is not absolute"
    } else if path.len() > MAX_PATH {
        "is longer than 4096 bytes"
    } else if path.chars().any(|c| c.is_control() || reorders_text(c)) {
        "contains a control character"
    } else if path.ends_with('/') {
        "ends with a slash"
    } else if path[1..].split('/').any(|part| matches!(part, "" | "." | "..")) {
        "contains an empty, `.` or `..` component"
    } else if name(path).len() > MAX_NAME {
        "has an overlong name at its end"
    } else {
        return Ok(());
    };
    Err(Error::validation("files.check", "path_invalid", format!("the path {problem}"))
        .with("path", path.chars().take(256).collect::<String>().escape_debug()))
}

/// Accepts a path below the directory `root`, both [checked](check).
///
/// # Errors
/// `Validation` `path_escapes_root`.
pub(crate) fn check_inside(path: &str, root: &str) -> Result<()> {
    let inside = path.strip_prefix(root.trim_end_matches('/')).is_some_and(|rest| rest.starts_with('/'));
    if inside {
        return Ok(());
    }
    Err(Error::validation("files.check", "path_escapes_root", "the path lies outside the root of this target")
        .with("path", path.escape_debug())
        .with("root", root.escape_debug()))
}

/// The directory of an absolute path.
pub(crate) fn parent(path: &str) -> &str {
    match path.rfind('/') {
        Some(0) | None => "/",
        Some(end) => &path[..end],
    }
}

/// The name at the end of a path.
pub(crate) fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The temporary file of one swap, beside its target so that a rename cannot cross file systems.
pub(crate) fn temporary(path: &str, nonce: &str) -> String {
    let directory = parent(path).trim_end_matches('/');
    format!("{directory}/.{}{MARK}{nonce}", name(path))
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
        let long = format!("/{}", "a/".repeat(2048));
        let long_name = format!("/{}", "n".repeat(MAX_NAME + 1));
        for path in [
            "",
            "a",
            "./a",
            "~/a",
            "-rf",
            "/",
            "/a/",
            "//a",
            "/a//b",
            "/a/./b",
            "/a/../b",
            "/..",
            "/a\nb",
            "/a\0b",
            "/a\rb",
            "/a\u{7f}",
            "/a\u{85}b",
            "/a\u{202e}b",
            &long,
            &long_name,
        ] {
            let error = check(path).unwrap_err();
            assert_eq!(error.code(), "path_invalid", "{path:?}");
            assert!(!error.to_string().contains('\n'));
        }
    }

    #[test]
    fn odd_but_good_paths() {
        for path in ["/a", "/-rf", "/a b/c'd", "/\"q\"", "/$(id)", "/`id`;ls", "/~", "/ü/名前", "/a/..b", "/a/b..."]
        {
            check(path).unwrap();
        }
    }

    #[test]
    fn roots() {
        check_inside("/etc/ssl/a", "/etc/ssl").unwrap();
        for path in ["/etc/ssl", "/etc/ssl2/a", "/etc", "/a"] {
            assert_eq!(check_inside(path, "/etc/ssl").unwrap_err().code(), "path_escapes_root");
        }
    }

    #[test]
    fn derived_names() {
        assert_eq!(temporary("/etc/ssl/a.pem", "n1"), "/etc/ssl/.a.pem.certlib-n1");
        assert_eq!(temporary("/a", "n1"), "/.a.certlib-n1");
        assert_eq!((parent("/a"), parent("/a/b")), ("/", "/a"));
    }
}
