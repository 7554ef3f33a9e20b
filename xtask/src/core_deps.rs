use std::{collections::BTreeSet, process::ExitCode};

use crate::test::cargo;

/// TLS, HTTP and database crates: certlib-core leaves these choices to the crates around it.
const UNWANTED_IN_CORE: [&str; 15] = [
    "rustls",
    "tokio-rustls",
    "native-tls",
    "openssl",
    "openssl-sys",
    "ring",
    "hyper",
    "hyper-util",
    "h2",
    "reqwest",
    "sqlx",
    "sqlx-core",
    "libsqlite3-sys",
    "tokio-postgres",
    "mongodb",
];

/// Looks at the resolved dependencies, not at the manifests.
pub(crate) fn check() -> Result<ExitCode, String> {
    let core = packages(&["-p", "certlib-core", "-e", "normal", "--all-features"])?;
    let mut complaints: Vec<String> = UNWANTED_IN_CORE
        .iter()
        .filter(|name| core.contains(**name))
        .map(|name| format!("certlib-core depends on {name} (see `cargo tree -p certlib-core -e normal -i {name}`)"))
        .collect();
    let workspace = packages(&["--workspace", "--all-features"])?;
    if workspace.contains("ring") {
        complaints.push("ring is in the workspace (see `cargo tree --workspace --all-features -i ring`)".to_owned());
    }
    if !complaints.is_empty() {
        return Err(complaints.join("\nerror: "));
    }
    println!("certlib-core: {} packages, no TLS, HTTP or database crate; no ring in the workspace", core.len());
    Ok(ExitCode::SUCCESS)
}

/// The names of the packages that `cargo tree` shows with these arguments.
fn packages(arguments: &[&str]) -> Result<BTreeSet<String>, String> {
    let mut command = cargo();
    command.arg("tree").args(["--prefix", "none", "--format", "{p}"]).args(arguments);
    let output = command.output().map_err(|error| format!("cargo tree: {error}"))?;
    if !output.status.success() {
        return Err(format!("cargo tree: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    let names = names(&String::from_utf8_lossy(&output.stdout));
    if names.is_empty() { Err("cargo tree showed nothing".to_owned()) } else { Ok(names) }
}

fn names(tree: &str) -> BTreeSet<String> {
    tree.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_the_first_word() {
        let tree = "certlib-core v0.1.0 (/somewhere)\nring v0.17.14\nring v0.17.14 (*)\n\nserde v1.0.0\n";
        assert_eq!(names(tree), BTreeSet::from(["certlib-core", "ring", "serde"].map(str::to_owned)));
    }
}
