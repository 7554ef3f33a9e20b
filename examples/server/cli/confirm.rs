//! Asking before something that cannot be undone.

use std::io::{self, IsTerminal as _, Write as _};

use certlib_core::{Error, Result};

use super::CONFIRMATION_NEEDED;

const OPERATION: &str = "server.confirm";

/// Asks `question` on the terminal, unless `yes` was said already.
///
/// # Errors
/// `not_confirmed`; `confirmation_needed` when there is nobody to ask.
pub(super) fn confirm(question: &str, yes: bool) -> Result<()> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        let why = format!("{question} There is nobody to ask here: say --yes");
        return Err(Error::validation(OPERATION, CONFIRMATION_NEEDED, why));
    }
    let mut answer = String::new();
    let asked = write!(io::stderr(), "{question} [y/N] ").and_then(|()| io::stdin().read_line(&mut answer));
    match asked {
        Ok(_) if ["y", "yes"].contains(&&*answer.trim().to_ascii_lowercase()) => Ok(()),
        _ => Err(Error::validation(OPERATION, "not_confirmed", "nothing was done")),
    }
}
