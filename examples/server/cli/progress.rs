//! How far a command has come: a bar on a terminal, nothing anywhere else.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar for `length` steps of something, or a spinner if that is not known; gone when it is dropped.
pub(super) struct Bar(ProgressBar);

impl Bar {
    pub(super) fn new(length: Option<u64>) -> Self {
        let visible = io::stderr().is_terminal();
        let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(length, target);
        let template = if length.is_some() { "{spinner} {bar:30} {msg}" } else { "{spinner} {msg}" };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        if visible {
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        Self(bar)
    }

    /// Shows that `position` steps of `length` are done, and `what` is going on.
    pub(super) fn show(&self, position: u64, length: Option<u64>, what: String) {
        if let Some(length) = length {
            self.0.set_length(length);
        }
        self.0.set_position(position);
        self.0.set_message(what);
    }

    /// Shows what is going on, and leaves the position as it is.
    pub(super) fn say(&self, what: String) {
        self.0.set_message(what);
    }
}

impl Drop for Bar {
    /// What comes next should not share its line with a bar.
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
