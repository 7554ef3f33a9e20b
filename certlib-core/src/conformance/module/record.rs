//! Results, as files: what the support matrix is made from.

use std::path::PathBuf;
use std::{env, fs};

use crate::module::ErasedModule;

/// The environment variable that names the folder for results.
pub const RESULTS: &str = "CERTLIB_CONFORMANCE";

/// Keeps that `case` passed, or why it is not supported: `<folder>/<kind>/<against>/<case>`; and beside the cases, in
/// `capabilities`, what the module says of itself.
pub(super) fn keep(module: &dyn ErasedModule, against: &str, case: &str, unsupported: Option<&str>) {
    let Some(folder) = env::var_os(RESULTS).map(PathBuf::from) else { return };
    let folder = folder.join(module.kind()).join(against.replace('/', "_"));
    fs::create_dir_all(&folder).unwrap();
    let capabilities = serde_json::to_vec(&module.capabilities()).unwrap();
    fs::write(folder.join("capabilities"), capabilities).unwrap();
    let result = unsupported.map_or_else(|| "passed".to_owned(), |reason| format!("unsupported: {reason}"));
    fs::write(folder.join(case), result).unwrap();
}
