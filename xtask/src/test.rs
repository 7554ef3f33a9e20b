use std::{
    env,
    process::{Command, ExitCode},
};

use certlib_testkit::locate;

use crate::counterparts::Selection;
use crate::matrix;

/// Runs `cargo test --workspace` with the terminal's own output, and gives its exit code.
pub(crate) fn run(selection: &Selection, arguments: &[String]) -> Result<ExitCode, String> {
    let mut command = cargo();
    // All failures at once: the next run is far away.
    command.args(["test", "--workspace", "--no-fail-fast"]).args(arguments);
    command.env(locate::WITHOUT, selection.variable());
    command.env(matrix::RESULTS, matrix::folder());
    let status = command.status().map_err(|error| format!("cargo test: {error}"))?;
    // A run that was ended by a signal has no code of its own.
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Ok(ExitCode::from(code))
}

/// The cargo that runs this program.
pub(crate) fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}
