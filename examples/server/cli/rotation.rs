//! Watching a rotation of the key-encryption key.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use certlib_core::model::{KeyringState, Rotation, RotationPhase};
use certlib_core::store::{SharedStore, StoreExt as _};
use certlib_core::{Error, Result};

use super::progress::Bar;

const OPERATION: &str = "kek.rotate";

/// How often to look.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// How the watching of a rotation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Watched {
    /// The new key seals, and everything is wrapped with it.
    Done,
    /// Whoever watched pressed Ctrl-C. The rotation goes on.
    Interrupted,
}

/// Watches `rotation` until it ends, however long that takes; a store that is away for a while is waited for.
///
/// # Errors
/// `rotation_cancelled` when somebody cancelled it; as [`Store`](certlib_core::store::Store).
pub(super) async fn watch(store: &SharedStore, rotation: &Rotation) -> Result<Watched> {
    let mut display = Display::new();
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    loop {
        match store.load::<KeyringState>(KeyringState::ID).await {
            Ok(state) => match &state.rotation {
                Some(current) if current.id == rotation.id => display.show(current),
                _ if was_done(&state, rotation) => return Ok(Watched::Done),
                _ => return Err(Error::validation(OPERATION, "rotation_cancelled", "somebody cancelled the rotation")),
            },
            Err(error) if error.class().is_retryable() => display.say(&format!("the store is away: {error}")),
            Err(error) => return Err(error),
        }
        tokio::select! {
            _ = &mut interrupted => return Ok(Watched::Interrupted),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// Whether `rotation`, which is not under way any more, was finished and not cancelled.
fn was_done(state: &KeyringState, rotation: &Rotation) -> bool {
    state.retired.iter().chain([&state.primary]).any(|kek| kek.id == rotation.to.id)
}

/// One line for people: the phase, and what has been done of how much.
pub(super) fn describe(rotation: &Rotation) -> String {
    let Rotation { phase, total, rewrapped, verified, note, .. } = rotation;
    let mut line = match phase {
        RotationPhase::Prepare => "prepare: waiting until every node has the new key".to_owned(),
        RotationPhase::Rewrap => format!("rewrap: {rewrapped} of {total} secrets have moved to the new key"),
        RotationPhase::Settle => "settle: waiting until every node knows that the new key seals".to_owned(),
        RotationPhase::Verify => format!("verify: {verified} secrets are verified"),
        phase => phase.as_str().to_owned(),
    };
    if let Some(note) = note {
        line.push_str("; ");
        line.push_str(note);
    }
    line
}

/// A progress bar on a terminal; anywhere else a line whenever there is something new.
enum Display {
    Bar(Bar),
    Lines { said: String },
}

impl Display {
    fn new() -> Self {
        if !io::stderr().is_terminal() {
            return Self::Lines { said: String::new() };
        }
        Self::Bar(Bar::new(Some(0)))
    }

    fn show(&mut self, rotation: &Rotation) {
        match self {
            Self::Bar(bar) => {
                // As much for rewrapping as for verifying: both look at everything once.
                let total = rotation.total.max(rotation.rewrapped).max(rotation.verified);
                bar.show(rotation.rewrapped + rotation.verified, Some(2 * total), describe(rotation));
            }
            Self::Lines { said } => {
                // Not every step of the numbers.
                let news = format!("{}{:?}", rotation.phase.as_str(), rotation.note);
                if *said != news {
                    let _ = writeln!(io::stderr(), "{}", describe(rotation));
                    *said = news;
                }
            }
        }
    }

    fn say(&mut self, what: &str) {
        match self {
            Self::Bar(bar) => bar.say(what.to_owned()),
            Self::Lines { said } if said != what => {
                let _ = writeln!(io::stderr(), "{what}");
                what.clone_into(said);
            }
            Self::Lines { .. } => {}
        }
    }
}
