//! The support matrix: what the module conformance suite has shown, as a table in the README.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

/// The variable that tells the suite where to leave its results.
pub(crate) const RESULTS: &str = "CERTLIB_CONFORMANCE";

const README: &str = "README.md";
const BEGIN: &str = "<!-- support matrix: written by `cargo xtask matrix` -->";
const END: &str = "<!-- end of the support matrix -->";

/// Each column with the cases that must have passed for a `yes`, and the capability that must be there.
const COLUMNS: [(&str, &[&str], &str); 5] = [
    ("execute", &["what_is_delivered_validates"], ""),
    ("dry run", &["dry_run_changes_nothing"], ""),
    ("validate", &["what_is_delivered_validates"], "verifiable"),
    (
        "rollback",
        &[
            "rollback_after_nothing",
            "rollback_after_half",
            "rollback_after_everything",
            "rollback_twice",
            "foreign_change_is_refused",
        ],
        "reversible",
    ),
    ("crash resume", &["a_crash_at_any_record_is_resumed"], ""),
];

/// The folder for results, below the workspace's target folder.
pub(crate) fn folder() -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    target.join("conformance")
}

/// Throws the results of earlier runs away.
pub(crate) fn forget() -> Result<(), String> {
    match fs::remove_dir_all(folder()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(format!("{}: {error}", folder().display())),
        _ => Ok(()),
    }
}

/// Fails unless the README says what was shown.
pub(crate) fn check() -> Result<(), String> {
    let (_, readme, wanted) = wanted()?;
    if readme == wanted {
        return Ok(());
    }
    Err("the README's support matrix is not what the tests have shown: run `cargo xtask matrix`".to_owned())
}

/// Writes into the README what was shown.
pub(crate) fn write() -> Result<ExitCode, String> {
    let (path, readme, wanted) = wanted()?;
    if readme == wanted {
        println!("{README} is up to date");
    } else {
        fs::write(&path, wanted).map_err(|error| format!("{}: {error}", path.display()))?;
        println!("{README} was written");
    }
    Ok(ExitCode::SUCCESS)
}

/// The README's path, as it is, and as it should be.
fn wanted() -> Result<(PathBuf, String, String), String> {
    let path = root().join(README);
    let readme = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let table = table(&read(&folder())?)?;
    let (before, rest) = readme.split_once(BEGIN).ok_or("the README has no place for the support matrix")?;
    let (_, after) = rest.split_once(END).ok_or("the support matrix in the README has no end")?;
    let wanted = format!("{before}{BEGIN}\n{table}{END}{after}");
    Ok((path, readme, wanted))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_path_buf)
}

/// By module and by what it was tested against: the result of each case.
type Shown = BTreeMap<(String, String), BTreeMap<String, String>>;

fn read(folder: &Path) -> Result<Shown, String> {
    let list = |folder: &Path| -> Result<Vec<(String, PathBuf)>, String> {
        let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}; run all tests", folder.display()))?;
        Ok(entries.flatten().map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path())).collect())
    };
    let mut shown = Shown::new();
    for (module, folder) in list(folder)? {
        for (against, folder) in list(&folder)? {
            let cases = shown.entry((module.clone(), against)).or_default();
            for (case, path) in list(&folder)? {
                let result = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
                cases.insert(case, result);
            }
        }
    }
    Ok(shown)
}

fn table(shown: &Shown) -> Result<String, String> {
    let names: Vec<_> = COLUMNS.iter().map(|(name, ..)| *name).collect();
    let mut text = format!("| module | tested against | {} |\n|{}\n", names.join(" | "), " --- |".repeat(7));
    let mut notes: Vec<String> = Vec::new();
    for ((module, against), cases) in shown {
        let able = |capability: &str| {
            capability.is_empty()
                || cases.get("capabilities").is_some_and(|json| json.contains(&format!("\"{capability}\":true")))
        };
        let mut cells = Vec::new();
        for (_, wanted, capability) in COLUMNS {
            let mut cell = if able(capability) { "yes".to_owned() } else { "no".to_owned() };
            for case in wanted {
                match cases.get(*case).map(String::as_str) {
                    Some("passed") => {}
                    Some(other) => {
                        let reason = other.strip_prefix("unsupported: ").unwrap_or(other);
                        let note = format!("`{module}`: {reason}");
                        let number = notes.iter().position(|known| *known == note).unwrap_or_else(|| {
                            notes.push(note);
                            notes.len() - 1
                        });
                        cell = format!("no ({})", number + 1);
                    }
                    None => return Err(format!("{module} against {against}: {case} was not run")),
                }
            }
            cells.push(cell);
        }
        let _ = writeln!(text, "| `{module}` | {against} | {} |", cells.join(" | "));
    }
    if !notes.is_empty() {
        text.push('\n');
    }
    for (index, note) in notes.iter().enumerate() {
        let _ = writeln!(text, "({}) {note}.{}", index + 1, if index + 1 < notes.len() { "  " } else { "" });
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(change: impl Fn(&mut BTreeMap<String, String>)) -> Shown {
        let mut cases: BTreeMap<_, _> = COLUMNS
            .iter()
            .flat_map(|(_, cases, _)| *cases)
            .map(|case| ((*case).to_owned(), "passed".to_owned()))
            .collect();
        cases.insert("capabilities".to_owned(), r#"{"reversible":true,"verifiable":true}"#.to_owned());
        change(&mut cases);
        [(("m".to_owned(), "x 1".to_owned()), cases)].into()
    }

    #[test]
    fn what_passed_is_a_yes_and_what_cannot_has_its_reason() {
        assert!(table(&shown(|_| {})).unwrap().contains("| `m` | x 1 | yes | yes | yes | yes | yes |"));
        let some = shown(|cases| {
            cases.insert("rollback_twice".to_owned(), "unsupported: it is gone".to_owned());
            cases.insert("capabilities".to_owned(), r#"{"reversible":true,"verifiable":false}"#.to_owned());
        });
        let text = table(&some).unwrap();
        assert!(text.contains("| yes | yes | no | no (1) | yes |\n\n(1) `m`: it is gone.\n"), "{text}");
    }

    #[test]
    fn what_was_not_run_is_no_result() {
        let missing = shown(|cases| drop(cases.remove("dry_run_changes_nothing")));
        assert!(table(&missing).unwrap_err().contains("dry_run_changes_nothing"));
    }
}
